"""The table `[cost]`: what bytes of the LAN, processor time and energy are worth, in bytes over the WAN."""

from __future__ import annotations

from p2p.config.table import Table, size_of_text
from p2p.swarm.cost import USUAL, Weights

WORTH_MAX = 1e15
WORTH_WHAT = (
    f"what it is worth in bytes over the WAN: 0 to {WORTH_MAX:g}, a number or text such as '100B', '5MB'"
)


def read_weights(table: Table) -> Weights:
    """The weights of a document; a key that is absent is as usual."""
    return Weights(
        lan_gb=table.quantity("lan_gb", WORTH_WHAT, _worth, default=USUAL.lan_gb),
        cpu_hour=table.quantity("cpu_hour", WORTH_WHAT, _worth, default=USUAL.cpu_hour),
        energy_kwh=table.quantity("energy_kwh", WORTH_WHAT, _worth, default=USUAL.energy_kwh),
    )


def _worth(value: object) -> float | None:
    found = size_of_text(value) if isinstance(value, str) else None
    if type(value) in (int, float):
        assert isinstance(value, int | float)
        found = float(value)
    return found if found is not None and 0 <= found <= WORTH_MAX else None
