"""What is drawn of a site: who fetched, who rode, what was made locally, and when."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.outcome import Span

if TYPE_CHECKING:
    from sim.world.device import Device


class Spans:
    """Spans of the sites asked for; nothing for all others."""

    def __init__(self, sites: Collection[str]) -> None:
        self.of: dict[str, list[Span]] = {site: [] for site in sites}
        self.active = bool(self.of)
        self._wanted: dict[tuple[str, Digest, int], float] = {}
        self._wan_since: dict[str, float] = {}

    def wants(self, device: Device, message: m.Want) -> None:
        """A piece is asked of a peer."""
        if device.site.name in self.of:
            self._wanted.setdefault((device.name, message.pack, message.piece), device.kernel.now)

    def fetching(self, device: Device) -> None:
        """A fetch begins."""
        if device.site.name in self.of:
            self._wan_since[device.name] = device.kernel.now

    def stored(self, device: Device, event: e.Stored) -> None:
        """A range is in the slot."""
        spans = self.of.get(device.site.name)
        if spans is None:
            return
        now = device.kernel.now
        since, what = now, "made"
        if event.how is e.How.WAN:
            what, since = "fetched", self._wan_since.get(device.name, now)
            self._wan_since[device.name] = now
        elif event.how in (e.How.PEER, e.How.DELTA) and event.pack is not None:
            what = "rode"
            since = self._wanted.pop((device.name, event.pack, event.pieces[0]), now)
        spans.append(Span(device.name, what, since, now, event.start, event.stop, event.device))

    def wasted(self, device: Device, since: float, start: int, stop: int) -> None:
        """A fetch of target bytes `[start, stop)` brought bytes that were of no use."""
        spans = self.of.get(device.site.name)
        if spans is not None:
            spans.append(Span(device.name, "wasted", since, device.kernel.now, start, stop))
