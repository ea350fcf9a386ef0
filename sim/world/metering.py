"""What a device knows of its site's quota: the counterpart of `p2p.agent.metering`, for that alone.

A run is one month. What peers told outlives the agent, as it is kept by the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm.site_quota import SiteQuota

if TYPE_CHECKING:
    from sim.world.device import Device

MONTH = 202611


class Meter:
    """Of one device, if its site has a quota. `closed`: what the quota leaves it is used up."""

    def __init__(self, device: Device) -> None:
        self._device = device
        wan = device.site.group.wan
        most = 0 if wan is None else wan.month_max
        self.quota = SiteQuota(most, device.name) if most else None
        self.closed = False
        self._told: int | None = None

    def started(self) -> None:
        """The agent starts, and tells anew."""
        self._told = None
        if self.quota is not None:
            self.quota.used(MONTH, self._used)
            self.look()

    def look(self) -> None:
        """Bytes have crossed the WAN, or peers have told of theirs."""
        quota, device = self.quota, self._device
        if quota is None or not device.up:
            return
        now = device.kernel.now
        if self._told is None or self._used >= self._told + quota.step:
            self._told = self._used
            device.feed_later(now, e.WanUsed(MONTH, self._used))
        closed = self._used >= quota.share
        if closed is not self.closed:
            self.closed = closed
            device.kernel.trace(f"{device.name} quota {'used up' if closed else 'left'}")
            device.later(now, device.wan_changed)

    @property
    def _used(self) -> int:
        return self._device.wan_down + self._device.wan_up + self._device.fetcher.crossing
