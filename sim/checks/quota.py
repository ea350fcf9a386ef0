"""Devices of a site keep to the bytes that it may use of its WAN in a month.

- `site-quota`: a device that knows of the others begins to fetch frames although the site's quota is used up.
  Sums are told in steps, and what is under way when one is told comes all the same. Devices that the LAN does
  not connect do not hear of each other, and are not held to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from sim.outcome import Violation
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World

__all__ = ["QuotaRule"]

STEPS = 8
"""So many devices may each have used nearly a step that they have not told yet: gateways, and those
before."""

UNDER_WAY = 4
"""Fetches that may be under way when the last step is told, by two devices."""


class QuotaRule(Observer):
    """Sees what devices have used when they begin a fetch; `violations` as they are found."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._told: dict[str, None] = {}

    def begun(self, world: World) -> None:
        self._world = world
        self._run_bytes = world.scenario.policy.run_bytes

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        site, quota = device.site, device.meter.quota
        if quota is None or site.name in self._told:
            return
        known = [d for d in site.honest if d is device or d.name in device.connections]
        used = sum(d.wan_down + d.wan_up for d in known)
        slack = STEPS * quota.step + UNDER_WAY * self._run_bytes
        if used > quota.most + slack:
            self._told[site.name] = None
            now = self._world.kernel.now
            detail = f"{device.name} fetches although {used} of {quota.most} bytes a month are used"
            self.violations.append(Violation("site-quota", now, site.name, device.name, detail))
