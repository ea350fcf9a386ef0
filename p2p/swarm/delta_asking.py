"""Peer deltas at the node that needs them: whom it asks, what it holds back meanwhile, when it stops.

While a complete peer of the same base offers deltas, chunks are held back: they would bring the same bytes
for many times as many. Each maker is asked for a few groups at a time; who refuses for long, answers late
or turns out to have another base under the same name is asked no more, and what it was asked for comes as
chunks, from whoever has them. So nothing depends on a delta, and nothing of it ever crosses the WAN.

What comes is judged by the driver: chunks that match the signed index are stored, and a delta that is wrong
is its sender's fault alone, as it says itself which base bytes it was made from. Not for making them
(`delta_making`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from p2p.content.digests import Digest
from p2p.content.limits import PEER_DELTAS_PER_PEER_MAX
from p2p.content.pieces import PieceMap
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.cost import delta_pays_from
from p2p.swarm.events import DeltaUsed, UseDelta, Verdict
from p2p.swarm.image import ImageSwarm
from p2p.swarm.parts import PARTS
from p2p.swarm.peer import Asked, Peer

PATIENCE_S, PART = 25.0, 0.8
"""So long after its last answer a maker has for the next, but no longer than this part of the time after
which a node without progress serves itself: nobody goes to the WAN because it waited for a delta."""

REST_S, REST_MAX_S = 60.0, 3600.0
"""After so long without anything, chunks are no longer held back for so long; nor after a delta that this
device could not apply, twice as long each time up to the second."""

FAILURES_MAX = 2
"""After so many answers that did not come, or were of no use, a maker is asked for no more of this image."""

BUSY_S, BUSY_MAX = 2.0, 6
"""A maker that is busy is left alone for so long, twice as long each time; so often in a row, then for
good."""

ASKED_MAX = 4
"""So many groups are asked for or being applied at once, whoever makes them: each may take megabytes."""


@dataclass(slots=True)
class _Maker:
    """One that offers deltas: what it is asked for (group: request), and how it has behaved."""

    asked: dict[int, int] = field(default_factory=dict)
    answered_at: float = -math.inf
    paused_until: float = -math.inf
    busy: int = 0
    failures: int = 0


class DeltaAsking:
    """Of one image at one node. `name`: under which makers offer; `due`: something may have to be asked or
    let go; `route`: what the node worked along when it last looked.

    `_open` groups are not asked for, `_asked` ones are, and of whom; `_using` are being applied. All of them
    are held back (`Wanted.held`). `_open` is None while no deltas are asked for.
    """

    def __init__(self, image: ImageSwarm, name: Digest) -> None:
        self.name = name
        self.due = True
        self.route: Digest | None = None
        self._image = image
        self._context: Context = image.context
        self._least = delta_pays_from(self._context.policy.cost)
        """Where a group lacks less, its chunks cost less than the processor time of two devices."""
        self._makers: dict[str, _Maker] = {}
        self._open: dict[int, None] | None = None
        self._asked: dict[int, str] = {}
        self._using: dict[int, str] = {}
        self._without: set[int] = set()
        self._held_since = -math.inf
        self._rests_until = -math.inf
        self._failed = 0

    def step(self) -> bool:
        """Ask for what is open, or let chunks come again where nobody is left to ask: whether it just has."""
        self.due = False
        image, now = self._image, self._context.now
        self.route = image.route
        full = image.task.full_pack.index.sha256
        pieces = image.maps.get(full)
        if image.wanted.filling and self._open is not None:
            return False  # what was asked for is on its way: given up, it would come a second time
        rests = image.route != full or not image.left or image.wanted.filling or now < self._rests_until
        makers = {} if pieces is None or rests else self._usable()
        if pieces is None or not makers:
            return self._stop()
        if self._open is None:
            self._held_since = now
            self._hold(pieces)
        self._ask(pieces, makers)
        return False

    def peer_lost(self, device: str) -> None:
        """A peer is gone, or takes part no more: it is asked anew should it come back."""
        maker = self._makers.get(device)
        if maker is not None:
            for group in maker.asked:
                self._reopen(group)
            maker.asked.clear()
        self.due = True

    def on_piece(self, peer: Peer, asked: Asked, message: m.Piece) -> None:
        """A delta came: have it applied, unless it is too late for that."""
        context, image, group = self._context, self._image, asked.delta
        assert group is not None
        peer.answered_at = context.now
        if asked.abandoned or self._asked.get(group) != peer.device or self._open is None:
            context.ledger.wasted += len(message.payload)
            return
        maker = self._makers[peer.device]
        maker.answered_at, maker.busy = context.now, 0
        maker.asked.pop(group, None)
        del self._asked[group]
        self._using[group] = peer.device
        self.due = True
        full = image.task.full_pack.index.sha256
        numbers = image.maps[full].groups[group]
        context.actions.append(
            UseDelta(image.task.image, full, group, numbers.start, numbers.stop, message.payload, peer.device)
        )

    def on_refuse(self, peer: Peer, asked: Asked, reason: m.Refusal) -> None:
        """No delta: for now, for this group, or for good."""
        group = asked.delta
        assert group is not None
        maker = self._makers.get(peer.device)
        if asked.abandoned or maker is None or self._asked.get(group) != peer.device:
            return
        maker.answered_at = self._context.now
        maker.asked.pop(group, None)
        self._reopen(group)
        if reason is m.Refusal.BUSY:
            maker.paused_until = self._context.now + BUSY_S * 2**maker.busy
            maker.busy += 1
            if maker.busy >= BUSY_MAX:
                maker.failures = FAILURES_MAX
        elif reason is m.Refusal.DONT_HAVE:  # it is not worth it
            self._give_up(group)
        else:
            maker.failures += 1
        self.due = True

    def used(self, event: DeltaUsed) -> None:
        """What came of a delta: what it did not bring comes from another maker, or as chunks."""
        context = self._context
        right = event.verdict is Verdict.RIGHT
        if right:
            context.ledger.from_peer(event.source, event.size)
        else:
            context.ledger.wasted += event.size
        if event.verdict is Verdict.WRONG:
            context.ban(event.source, "bad-delta")
        self.due = True
        if self._using.pop(event.group, None) is None:
            return
        if event.verdict is Verdict.OTHER_BASE and event.source in self._makers:
            self._makers[event.source].failures = FAILURES_MAX
        if event.verdict is Verdict.FAILED:  # of this device, though it may be that only these make it fail
            self._rests_until = context.now + min(REST_S * 2**self._failed, REST_MAX_S)
            self._failed += 1
            if event.source in self._makers:
                self._makers[event.source].failures += 1
        if event.verdict in (Verdict.WRONG, Verdict.OTHER_BASE) and self._open is not None:
            self._open[event.group] = None
        else:
            self._give_up(event.group)

    def housekeeping(self) -> None:
        """Give up what is late; and all of it for a while, where holding chunks back has led to nothing."""
        context, patience_s = self._context, min(PATIENCE_S, PART * self._context.policy.fallback_s)
        for device, maker in self._makers.items():
            peer = context.peers.get(device)
            for group, request in list(maker.asked.items()):
                if peer is None or context.now - max(peer.asked[request].at, maker.answered_at) <= patience_s:
                    continue
                context.abandon(peer, request)
                maker.failures += 1
                del maker.asked[group]
                self._reopen(group)
        if self._open is not None and not self._using:
            moved_at = max(self._held_since, self._image.last_progress)
            if context.now - moved_at > patience_s:
                self._rests_until = context.now + REST_S
        self.due = True

    # Inside

    def _usable(self) -> dict[str, tuple[Peer, _Maker]]:
        """Those who offer deltas and may be asked, in the same order at every node."""
        image, found = self._image, dict[str, tuple[Peer, _Maker]]()
        for device, (peer, remote) in sorted(self._context.members(image.task.image).items()):
            said, offered = remote.participant, remote.claims.get(self.name)
            if said is None or not said.complete or said.base != image.task.base or remote.distrusted:
                continue
            if offered and offered[0] & 1 and device not in self._context.closing:
                maker = self._makers.setdefault(device, _Maker())
                if maker.failures < FAILURES_MAX:
                    found[device] = peer, maker
        return found

    def _stop(self) -> bool:
        """Nobody is asked any more, for now; an answer that comes all the same is too late."""
        if self._open is None:
            return False
        for device, maker in self._makers.items():
            peer = self._context.peers.get(device)
            if peer is not None:
                for request in maker.asked.values():
                    self._context.abandon(peer, request)
            maker.asked.clear()
        self._let_go((*self._open, *self._asked))
        self._asked.clear()
        self._open = None
        return True

    def _hold(self, pieces: PieceMap) -> None:
        """Keep chunks from being asked for, group by group, where a delta is worth it."""
        self._open = {}
        for group, numbers in enumerate(pieces.groups):
            if group in self._without or group in self._using:
                continue
            if self._lacking(pieces, numbers) >= self._least:
                self._open[group] = None
        self._image.wanted.hold(self._keys(self._open))

    def _ask(self, pieces: PieceMap, makers: dict[str, tuple[Peer, _Maker]]) -> None:
        """Each maker for its part first, in the order of the image, so that all who ask can use what it
        made."""
        context, image = self._context, self._image
        count = len(makers)
        for place, (device, (peer, maker)) in enumerate(makers.items()):
            if context.now < maker.paused_until:
                continue
            while self._open and len(maker.asked) < PEER_DELTAS_PER_PEER_MAX:
                if len(self._asked) + len(self._using) >= ASKED_MAX:
                    return
                own = (group for group in self._open if group % count == place)
                group = next(own, next(reversed(self._open)))
                del self._open[group]
                if self._lacking(pieces, pieces.groups[group]) < self._least:
                    self._give_up(group)
                    continue
                context.take_parts(peer, peer.parts or PARTS)
                request = peer.ask(Asked(context.now, image=image.task.image, delta=group))
                maker.asked[group] = request
                self._asked[group] = device
                context.send(device, m.Want(request, image.task.image, self.name, group))

    def _lacking(self, pieces: PieceMap, numbers: Iterable[int]) -> int:
        """Target bytes of these pieces that are neither here nor on their way."""
        wanted, full = self._image.wanted, self._image.task.full_pack.index.sha256
        busy = wanted.in_flight.keys() | wanted.storing.keys() | wanted.fetching.keys()
        lacking = (pieces[n] for n in numbers if (full, n) not in busy)
        return sum(p.target_length for p in lacking if not wanted.is_done(p))

    def _reopen(self, group: int) -> None:
        """A group that was asked for is not coming: another may be asked."""
        self._asked.pop(group, None)
        if self._open is not None:
            self._open[group] = None

    def _give_up(self, group: int) -> None:
        """Nobody is asked for a group any more; its chunks may come."""
        if self._open is not None:
            self._open.pop(group, None)
        self._without.add(group)
        self._let_go((group,))

    def _let_go(self, groups: Iterable[int]) -> None:
        keys = self._keys(groups)
        if keys:
            self._image.wanted.release(keys)

    def _keys(self, groups: Iterable[int]) -> list[tuple[Digest, int]]:
        full = self._image.task.full_pack.index.sha256
        pieces = self._image.maps.get(full)
        if pieces is None:
            return []
        return [(full, n) for group in groups for n in pieces.groups[group]]
