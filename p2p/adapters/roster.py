"""Peers that something else already knows: the coordinator's roster and the configured peers.

Both are `ports.Discovery`. They work across VLANs and without multicast; neither announces anything,
since the roster learns of this node from its check-ins. Not for multicast (`p2p.adapters.mdns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from p2p.adapters.device_api import RosterEntry
from p2p.content import limits
from p2p.ports import PeerAddress


class RosterDiscovery:
    """Reports the devices of each new roster; `device` is this one, which is left out."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._entries: tuple[RosterEntry, ...] = ()
        self._changed = trio.Event()

    def update(self, roster: Iterable[RosterEntry]) -> None:
        """Take the roster of the latest check-in; `run` reports all of it, old acquaintances included."""
        self._entries = tuple(roster)[: limits.DISCOVERED_MAX]
        self._changed.set()

    async def run(self, found: Callable[[PeerAddress], None]) -> None:
        """Report until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            for entry in self._entries:
                if entry.device != self._device and entry.port:
                    found(PeerAddress(entry.host, entry.port, "roster", entry.device))


class StaticDiscovery:
    """Reports the configured peers, again every `repeat_s` seconds: they may come up later than this node."""

    def __init__(self, peers: Iterable[tuple[str, int]], *, repeat_s: float = 60.0) -> None:
        self._peers = [PeerAddress(host, port, "static") for host, port in peers]
        self._repeat_s = repeat_s

    async def run(self, found: Callable[[PeerAddress], None]) -> None:
        """Report until cancelled."""
        while True:
            for address in self._peers:
                found(address)
            await trio.sleep(self._repeat_s)
