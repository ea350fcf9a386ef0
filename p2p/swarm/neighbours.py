"""Which peers a node keeps connections to, where a site has more devices than it may have connections.

Every pair of devices has a place in an order that both ends find by themselves. A node dials those that come
first of all that it has heard of, for about two thirds of its connections; the rest is for those that
dial it, and who comes earlier in the order displaces who comes last. So it does not matter by which way a
node hears of whom first: a segment whose devices would be enough for each other does not fill up with them,
and what comes of it is a pseudo-random graph over all, which is connected almost surely (each node with
its k nearest by random distances, k well over the logarithm of their number). Where there are few devices
everybody keeps everybody. Who has just started hears of others in no order, so it listens for a while and
dials few: most of what comes first of those that it happens to have heard of would soon have to make room.
Fellows (`fellows`) come before all others, for a part of the connections. Not for whom to tell what
(`announcements`, `hearsay`).

A device could choose a name that is near to another's, at a fleet that lets it; so what a node believes
never depends on how many of its neighbours say it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections.abc import Collection

KNOWN_MAX = 2048
"""How many devices are remembered; of more, those that come first and can be reached."""

LISTEN_S = 0.75
"""How long a node listens after its start: what it asked by multicast DNS is answered (RFC 6762, 6)."""

LISTENING_PART = 4
"""While a node listens it dials the first that it hears of, for this part of its connections."""


class Neighbours:
    """Of one node, which keeps `most` connections. It listens until it `listened`."""

    def __init__(self, device: str, most: int) -> None:
        self._device = device
        self._most = most
        self._first: set[str] | None = set()
        """While it listens: whom it dials meanwhile."""
        self._order: list[tuple[bytes, str]] = []
        self._known: dict[str, bytes] = {}
        self._places: dict[str, bytes] = {}
        """Of those that are known: their place in the order of pairs, but fellows before all."""
        self._failed: set[str] = set()
        self._preferred: tuple[str, ...] = ()
        self._fellows: set[str] = set()
        self._last: tuple[bytes, str] | None = None
        """Of those that are dialled; None: to be found out."""

    def listened(self) -> None:
        """It has had the time (`LISTEN_S`) to hear of those around it."""
        self._first = None

    def heard(self, device: str) -> None:
        """Somebody names a device."""
        if device in self._known or device == self._device:
            return
        if self._first is not None and len(self._known) < max(1, self._most // LISTENING_PART):
            self._first.add(device)
        self._known[device] = pair_order(self._device, device, b"neighbours\0")
        place = self._places[device] = b"" if device in self._fellows else self._known[device]
        insort(self._order, (place, device))
        if self._last is not None and ((place, device) < self._last or self._last is self._order[-2]):
            self._last = None  # it comes before, or there may be room for one more
        if len(self._order) > KNOWN_MAX:
            self._forget_one()

    def failed(self, device: str) -> bool:
        """It cannot be reached now: it does not take a place, until it is `met`. Whether that is new."""
        new = device in self._known and device not in self._failed
        if new:
            self._failed.add(device)
            self._last = None
            self._choose_fellows()
        return new

    def knows(self, device: str) -> bool:
        """Whether it has heard of a device."""
        return device in self._known

    def prefer(self, devices: tuple[str, ...]) -> None:
        """These come before all others from now on, as far as they have room (a third) and can be reached."""
        self._preferred = devices
        self._choose_fellows()

    def _choose_fellows(self) -> None:
        able = [d for d in self._preferred if d not in self._failed and d != self._device]
        fellows = set(able[: max(1, self._most // 3)])
        if fellows != self._fellows:
            self._fellows = fellows
            self._places = {d: b"" if d in fellows else place for d, place in self._known.items()}
            self._order = sorted((place, d) for d, place in self._places.items())
            self._last = None

    def _forget_one(self) -> None:
        """The last of those that cannot be reached, if any: names that lead nowhere crowd out nobody."""
        places = range(len(self._order) - 1, -1, -1)
        at = next((n for n in places if self._order[n][1] in self._failed), len(self._order) - 1)
        _, device = self._order.pop(at)
        del self._known[device], self._places[device]
        self._failed.discard(device)
        self._last = None

    def met(self, device: str) -> None:
        """There is a connection."""
        self.heard(device)
        if device in self._failed:
            self._failed.discard(device)
            self._last = None
            self._choose_fellows()

    def wants(self, device: str) -> bool:
        """Whether this node dials a device that it has heard of."""
        if self._first is not None:
            return device in self._first
        if len(self._known) <= self._most:
            return True
        place = self._places.get(device)
        return place is not None and (place, device) <= (self._last or self._last_wanted())

    def wanted(self) -> set[str]:
        """All whom it dials, of those that it has heard of."""
        if self._first is not None:
            return set(self._first)
        if len(self._known) <= self._most:
            return set(self._known)
        return {device for _, device in self._order[: bisect_right(self._order, self._last_wanted())]}

    def _last_wanted(self) -> tuple[bytes, str]:
        """The last of those that come first: who cannot be reached takes no place."""
        if self._last is None:
            left = max(1, self._most * 2 // 3)
            for place in self._order:
                self._last = place
                left -= place[1] not in self._failed
                if not left:
                    break
        assert self._last is not None
        return self._last

    def displaced(self, newcomer: str, linked: Collection[str]) -> str | None:
        """Who of those that are connected makes room for a newcomer, if anybody does."""
        last = max(linked, key=self._place, default=None)
        return last if last is not None and self._place(newcomer) < self._place(last) else None

    def _place(self, device: str) -> bytes:
        place = self._places.get(device)
        if place is None:
            place = b"" if device in self._fellows else pair_order(self._device, device, b"neighbours\0")
        return place


def pair_order(one: str, other: str, what: bytes = b"") -> bytes:
    """The place of a pair of devices in the order of all pairs; `what`: another order for each use."""
    return hashlib.sha256(what + "\0".join(sorted((one, other))).encode()).digest()
