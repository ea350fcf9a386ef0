"""Devices of a site keep to the budget that they have together.

- `site-budget`: for longer than news takes to come through, those that fetch may take more in sum than the
  site's `budget`. Devices that the LAN does not connect do not know of each other, and are not held to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.outcome import Violation
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World
    from sim.world.site import Site

__all__ = ["BudgetRule"]

NEWS_S = 1.0
"""Within this a lease has come to all who fetch: one hop on a LAN, or a few by hearsay."""


class BudgetRule(Observer):
    """Sees the sum of what devices may fetch; `violations` as they are found."""

    heeds = frozenset({m.Lease})

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.worst_s = 0.0
        """The longest time over a budget so far."""
        self._over: dict[str, float] = {}
        """Since when a site is over its budget."""
        self._told: dict[str, None] = {}

    def begun(self, world: World) -> None:
        self._world = world
        self._budgets = any(site.budget for site in world.sites.values())

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        self._look(device.site)

    def divided(self, device: Device) -> None:
        self._look(device.site)

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        self._look(device.site)

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        self._look(device.site)

    def _look(self, site: Site) -> None:
        if not self._budgets or not site.budget:
            return
        now = self._world.kernel.now
        fetching = [d for d in site.honest if d.fetching]
        total = sum(d.fetcher.allowed for d in fetching)
        joined = all(one is other or other.name in one.connections for one in fetching for other in fetching)
        if total <= site.budget * (1 + 1e-9) or not joined:
            self._over.pop(site.name, None)
            return
        since = self._over.setdefault(site.name, now)
        self.worst_s = max(self.worst_s, now - since)
        if now - since > NEWS_S and site.name not in self._told:
            self._told[site.name] = None
            who = ", ".join(f"{d.name} {d.fetcher.allowed:.0f}" for d in fetching)
            self.violations.append(
                Violation(
                    "site-budget", now, site.name, None,
                    f"{total:.0f} of {site.budget:.0f} bytes/s for {now - since:.1f} s ({who})",
                )
            )  # fmt: skip
