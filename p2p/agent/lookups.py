"""Objects that peers ask for, looked for in this device's own stores before the node answers.

Reading and hashing one takes as long as the medium does, so a thread does it: one at a time, whoever asks.
What the node has in memory, and what one peer asks for beyond `PER_PEER_MAX` at once, it answers as it can.
A request ends with its connection: none is answered on the next. Not for what the node answers
(`p2p.swarm.objects`), nor for where objects lie (`small_objects`).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m

PER_PEER_MAX = 16
"""Requests of one peer that wait for the medium at once."""


class Lookups:
    """`stored` finds an object in the stores, and blocks; `holds` says whether the node has it already."""

    def __init__(
        self,
        stored: Callable[[Digest], bytes | None],
        holds: Callable[[Digest], bool],
        feed: Callable[[e.Event], None],
        start: Callable[..., None],
    ) -> None:
        self._stored = stored
        self._holds = holds
        self._feed = feed
        self._start = start
        self._waiting: dict[Digest, list[e.Received]] = {}
        self._disk = trio.CapacityLimiter(1)

    def take(self, event: e.Received, wanted: m.ObjectWant) -> bool:
        """A peer asks; False if the node is to answer at once, else it is given the message later."""
        digest = wanted.digest
        if self._holds(digest):
            return False
        waiting = sum(w.device == event.device for events in self._waiting.values() for w in events)
        if waiting >= PER_PEER_MAX:
            return False
        if digest in self._waiting:
            self._waiting[digest].append(event)
        else:
            self._waiting[digest] = [event]
            self._start(self._look, digest)
        return True

    def parted(self, device: str) -> None:
        """A connection has ended, and what was asked over it needs no answer."""
        for digest, events in self._waiting.items():
            self._waiting[digest] = [event for event in events if event.device != device]

    async def _look(self, digest: Digest) -> None:
        held = await trio.to_thread.run_sync(self._stored, digest, limiter=self._disk)
        if held is not None:
            self._feed(e.HoldObject(digest, held))
        for event in self._waiting.pop(digest):
            self._feed(event)
