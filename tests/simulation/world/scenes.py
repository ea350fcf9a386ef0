"""Small scenarios for tests of the world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2p.content.limits import MIB
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Fault,
    Lan,
    Order,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    SyntheticRelease,
    Wan,
)

SIZE = 8 * MIB
RATE = 1e6


def release(name: str = "v2", *, size: int = SIZE, deltas: dict[str, int] | None = None) -> SyntheticRelease:
    specs = tuple(DeltaSpec(base, stored) for base, stored in (deltas or {}).items())
    return SyntheticRelease(name, size, size, specs)


def depot(*faults: Fault, devices: int = 8, **changes: Any) -> Scenario:
    """Devices at rest on one switched site, an image of 8 MiB over 8 Mbit/s."""
    bases = changes.pop("bases", {NO_BASE: 1.0})
    klass = changes.pop("klass", DeviceClass("box", bases, reboot_s=5.0))
    group = SiteGroup(
        "depot", changes.pop("count", 1), SiteSize(low=devices, high=devices), {"box": 1.0},
        changes.pop("lan", Lan()), changes.pop("wan", Wan(RATE)),
    )  # fmt: skip
    scenario = Scenario(
        name="depot",
        description="",
        duration_s=7200.0,
        releases=(changes.pop("release", release()),),
        classes=(klass,),
        sites=(group,),
        orders=(Order("v2", changes.pop("phases", (Phase(1.0, 0.0),))),),
        faults=faults,
        polling=Polling(every_s=600.0, at_rest=True),
    )
    return replace(scenario, **changes)
