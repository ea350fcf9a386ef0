"""Peers that something else already knows: the coordinator's roster and the configured peers.

Both are `ports.Discovery`. They work across VLANs and without multicast; neither announces anything,
since the roster learns of this node from its check-ins. Not for multicast (`p2p.adapters.mdns`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable

import trio

from p2p.adapters.device_api import RosterEntry
from p2p.content import limits
from p2p.content.fields import check_name
from p2p.errors import ContentError, StoreError
from p2p.ports import BlobStore, PeerAddress

log = logging.getLogger(__name__)

_PORT_MAX = 65_535

KEPT = "addresses"
"""The name of the last roster in its store: a JSON list of `[device, host, port]`."""


class RosterDiscovery:
    """Reports the devices of each new roster; `device` is this one, which is left out.

    The last one is kept in `store`: where peers report for a device, it may be long until it asks for the
    next, and those of other segments it knows from nowhere else. Who is gone is dialled in vain.
    """

    def __init__(self, device: str, store: BlobStore) -> None:
        self._device = device
        self._store = store
        self._changed = trio.Event()
        self._addresses = self._kept = self._read()
        if self._addresses:
            self._changed.set()

    def update(self, roster: Iterable[RosterEntry]) -> None:
        """Take the roster of the latest check-in; `run` reports all of it, old acquaintances included."""
        known = [(e.device, e.host, e.port) for e in roster if e.device != self._device and e.port]
        self._addresses = known[: limits.DISCOVERED_MAX]
        self._changed.set()

    async def keep(self) -> None:
        """Make the roster durable, in a thread, if it is another than what was kept."""
        known = self._addresses
        if sorted(known) == sorted(self._kept):
            return
        try:
            await trio.to_thread.run_sync(self._store.write, KEPT, json.dumps(known).encode())
        except StoreError as error:
            log.warning("roster not kept: %s", error.message)
        else:
            self._kept = known

    def _read(self) -> list[tuple[str, str, int]]:
        try:
            found = json.loads(self._store.read(KEPT) or b"[]")
            if not isinstance(found, list) or len(found) > limits.DISCOVERED_MAX:
                raise ContentError("it is no list of devices")
            return [_address(entry) for entry in found]
        except (StoreError, ContentError, ValueError, RecursionError) as error:
            log.warning("the roster of before is of no use: %s", error)
            return []

    async def run(self, found: Callable[[PeerAddress], None]) -> None:
        """Report until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            for device, host, port in self._addresses:
                found(PeerAddress(host, port, "roster", device))


def _address(entry: object) -> tuple[str, str, int]:
    """One of a kept roster; raises `ContentError`."""
    match entry:
        case [str(device), str(host), int(port)] if type(port) is int and 0 < port <= _PORT_MAX:
            return check_name(device, "device"), host, port
    raise ContentError(f"{entry!r:.80} is no device with its address")


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
