"""Peer deltas on this device: making them for peers, and using those that peers have made.

What the node decides (`p2p.swarm.delta_making`, `delta_asking`) is carried out here. Made: target and base
are read from the two slots, a child runs the codec, and the delta is kept with the image's patches for as
long as the image is served, so that the next who asks costs no processor time. Used: what a delta says is
checked, the base bytes that it needs are compared with its digest of them, a child applies it, and each
chunk that has its signed digest is written. Whatever fails here fails only this: the peer, or this device,
takes chunks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from p2p.adapters import peer_delta as child
from p2p.agent.budget import ProcessorBudget
from p2p.agent.images import LocalImage
from p2p.content.digests import Digest, sha256
from p2p.content.index import Codec, Compression
from p2p.content.limits import PEER_DELTA_PART_MAX
from p2p.delta import peer_delta
from p2p.delta.peer_delta import PeerDelta
from p2p.errors import ContentError, LocalError, StoreError
from p2p.ports import ImageReader
from p2p.swarm import events as e
from p2p.swarm import messages as m

log = logging.getLogger(__name__)

TURN_S = 20.0
"""So long a peer waits for the processor's budget, or for mains; then it takes chunks."""


class PeerDeltas:
    """`feed` is told what came of each action, `failed` of an image that cannot go on, `send` queues an
    answer.

    `memory`: bytes for a child that makes one; None: none is made. `making` and `patching` bound how many are
    made and applied at once, with other work of their kind; `processor`: what each that is made waits for.
    """

    def __init__(
        self,
        *,
        feed: Callable[[e.Event], None],
        failed: Callable[[LocalImage, LocalError], None],
        is_current: Callable[[LocalImage], bool],
        send: Callable[[str, e.Serve], None],
        memory: int | None,
        making: trio.CapacityLimiter,
        processor: ProcessorBudget | None = None,
        patching: trio.CapacityLimiter,
    ) -> None:
        self._feed = feed
        self._failed = failed
        self._is_current = is_current
        self._send = send
        self._processor = processor or ProcessorBudget()
        self._memory = memory
        self._making = making
        self._patching = patching
        self._made: dict[Digest, _Made] = {}
        self._uses: dict[Digest, set[trio.CancelScope]] = {}
        self._askers: dict[tuple[Digest, int], list[str]] = {}
        """By image and group that is being made: who waits for it."""
        self._makes: dict[tuple[Digest, int], set[trio.CancelScope]] = {}

    # For peers

    async def make(self, image: LocalImage | None, action: e.MakeDelta) -> None:
        """Make one, if it is not there, and have the peer answered."""
        if image is not None and self._memory is not None:
            made = self._made.get(action.image)
            if made is None or made.name != action.offered or made.image is not image:
                made = self._made[action.image] = _Made(action.offered, image)
            if not made.knows(action.group):
                with self._while_asked_for(action):
                    await self._in_turn(made, action, self._memory)
        serve = e.Serve(action.device, action.request, action.image, action.offered, action.group)
        self._send(action.device, serve)
        self._feed(e.DeltaMade(action.image, action.device, action.group))

    def parted(self, device: str) -> None:
        """A peer is gone: what is being made for it alone ends."""
        for key, askers in list(self._askers.items()):
            while device in askers:
                askers.remove(device)
            if not askers:
                for scope in self._makes.get(key, ()):
                    scope.cancel()

    @contextmanager
    def _while_asked_for(self, action: e.MakeDelta) -> Iterator[None]:
        """For as long as somebody waits for it; whoever asked first, all have it."""
        key = action.image, action.group
        askers, scopes = self._askers.setdefault(key, []), self._makes.setdefault(key, set())
        askers.append(action.device)
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                yield
            finally:
                scopes.discard(scope)
                if action.device in askers:
                    askers.remove(action.device)
                if not scopes and self._makes.get(key) is scopes:
                    del self._makes[key], self._askers[key]

    async def _in_turn(self, made: _Made, action: e.MakeDelta, memory: int) -> None:
        with trio.move_on_after(TURN_S) as waiting:
            await self._processor.ready()  # all wait for mains together, not one behind the other
        if not waiting.cancelled_caught:
            async with self._making:
                await self._make(made, action, memory)

    async def _make(self, made: _Made, action: e.MakeDelta, memory: int) -> None:
        """Make one when the processor's budget lets it, unless somebody else has had it made meanwhile."""
        if made.knows(action.group):
            return
        with trio.move_on_after(TURN_S) as waiting:
            async with self._processor.turn():
                waiting.deadline = math.inf
                payload = await self._payload(made.image, action, memory)
                await trio.to_thread.run_sync(made.keep, action.group, payload)

    def answer(self, action: e.Serve) -> m.Message | None:
        """The answer to a peer's request; None: it is not about a delta."""
        made = self._made.get(action.image)
        if made is None or made.name != action.pack:
            return None
        payload = made.read(action.piece)
        if payload is not None:
            return m.Piece(action.request, payload)
        worthless = made.knows(action.piece)
        return m.Refuse(action.request, m.Refusal.DONT_HAVE if worthless else m.Refusal.FAILED)

    def drop(self, image: Digest) -> None:
        """What was made for an image is needed no more, and goes with it; what is applied for it ends."""
        self._made.pop(image, None)
        for scope in self._uses.pop(image, ()):
            scope.cancel()

    async def _payload(self, image: LocalImage, action: e.MakeDelta, memory: int) -> bytes | None:
        """A delta as it is sent; empty: it would not be worth it; None: it could not be made."""
        try:
            job = await trio.to_thread.run_sync(_Job.read, image, action)
            codec, compression, size, stored = Codec.HDIFFPATCH, Compression.NONE, 0, b""
            if job.middle:
                codec, compression, size, stored = await child.make(job.view_bytes, job.middle, memory)
        except (ContentError, LocalError) as error:
            log.info("no peer delta of group %d: %s", action.group, error)
            return None
        payload = peer_delta.encode(
            PeerDelta(job.head, job.tail, job.view, job.base_digest, codec, compression, size, stored)
        )
        return payload if len(payload) <= PEER_DELTA_PART_MAX * job.length else b""

    # From peers

    async def use(self, image: LocalImage | None, action: e.UseDelta) -> None:
        """Apply one, and keep what of it is right."""
        if image is None:
            return
        verdict = None
        with trio.CancelScope() as scope:  # the next image's patches would wait for a child, for minutes
            scopes = self._uses.setdefault(action.image, set())
            scopes.add(scope)
            try:
                async with self._patching:
                    verdict = await self._use(image, action)
            finally:
                scopes.discard(scope)
        if verdict is not None and self._is_current(image):
            size = len(action.payload)
            self._feed(e.DeltaUsed(action.image, action.group, action.source, size, verdict))

    async def _use(self, image: LocalImage, action: e.UseDelta) -> e.Verdict:
        pieces = image.maps[action.pack]
        start = pieces[action.start].target_offset
        length = pieces[action.stop - 1].target_stop - start
        try:
            found = await trio.to_thread.run_sync(_open, image, action, start, length)
            if found is None:
                log.info("the peer delta of %s is for another base", action.source)
                return e.Verdict.OTHER_BASE
            delta, head, view, tail = found
            middle = b""
            if delta.stored:
                middle = await child.apply(
                    delta.codec, delta.compression, delta.delta_size, delta.stored, view,
                    length - delta.head - delta.tail,
                )  # fmt: skip
        except ContentError as error:
            log.warning("bad peer delta from %s: %s", action.source, error)
            return e.Verdict.WRONG
        except LocalError as error:
            log.warning("a peer delta cannot be applied here: %s", error.message)
            return e.Verdict.FAILED
        numbers = range(action.start, action.stop)
        try:
            stored, right = await trio.to_thread.run_sync(
                image.store_made, action.pack, numbers, b"".join((head, middle, tail)), action.source
            )
        except LocalError as error:
            self._failed(image, error)
            return e.Verdict.FAILED
        if self._is_current(image):
            for event in stored:
                self._feed(event)
        if not right:
            log.warning("bad peer delta from %s: chunks have other digests", action.source)
        return e.Verdict.RIGHT if right else e.Verdict.WRONG


class _Job:
    """What a delta is made of: the target's edges that the base has, and what is between, with its base
    view."""

    def __init__(self, start: int, target: bytes, base: ImageReader) -> None:
        self.length = len(target)
        self.head, self.tail = peer_delta.equal_edges(target, base.read, start, base.size)
        self.middle = target[self.head : self.length - self.tail]
        stop = start + self.length
        self.view = (
            peer_delta.view_around(start + self.head, stop - self.tail, base.size) if self.middle else ()
        )
        self.view_bytes = b"".join(base.read(r.offset, r.length) for r in self.view)
        self.base_digest = peer_delta.digest_of(
            [target[: self.head], self.view_bytes, target[self.length - self.tail :]]
        )

    @classmethod
    def read(cls, image: LocalImage, action: e.MakeDelta) -> _Job:
        """Raises `LocalError`: the base is gone, or the slot does not give the image."""
        pieces, base = image.maps.get(action.pack), image.base
        if pieces is None or base is None:
            raise StoreError("the base is not here any more")
        parts: list[bytes] = []
        start = at = pieces[action.start].target_offset
        for number in range(action.start, action.stop):
            data = image.piece_bytes(action.pack, number)
            if data is None or sha256(data) != pieces[number].digest:
                raise StoreError(f"chunk {number} of the image is not here as it was")
            parts += (bytes(pieces[number].target_offset - at), data)  # what no chunk covers is zero
            at = pieces[number].target_stop
        return cls(start, b"".join(parts), base)


def _open(
    image: LocalImage, action: e.UseDelta, start: int, length: int
) -> tuple[PeerDelta, bytes, bytes, bytes] | None:
    """A delta and the base bytes of its head, view and tail; None where those are not what it was made from.

    Raises `ContentError` (its sender's fault), `LocalError`.
    """
    base = image.base
    if base is None:
        raise StoreError("there is no base")
    if len(action.payload) > PEER_DELTA_PART_MAX * length:
        raise ContentError(f"peer delta: {len(action.payload)} bytes for {length}")
    delta = peer_delta.decode(action.payload, start, length, base.size)
    head = base.read(start, delta.head) if delta.head else b""
    view = b"".join(base.read(r.offset, r.length) for r in delta.view)
    tail = base.read(start + length - delta.tail, delta.tail) if delta.tail else b""
    if peer_delta.digest_of([head, view, tail]) != delta.base_digest:
        return None
    return delta, head, view, tail


class _Made:
    """The deltas of one image that were made, kept where its patches are; `name`: as which they are
    offered."""

    def __init__(self, name: Digest, image: LocalImage) -> None:
        self.name = name
        self.image = image
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def knows(self, group: int) -> bool:
        """Whether it was made, or found not to be worth it."""
        return group in self._places

    def keep(self, group: int, payload: bytes | None) -> None:
        """Keep a delta; a full disk or quota only means that it is not given to anybody."""
        if payload is None or (payload and not self.image.spool.keep(self.name, self._end, payload)):
            return
        self._places[group] = self._end, len(payload)
        self._end += len(payload)

    def read(self, group: int) -> bytes | None:
        """A delta that was kept."""
        offset, size = self._places.get(group, (0, 0))
        payload = self.image.spool.read(self.name, offset, size) if size else None
        return payload if payload is not None and len(payload) == size else None
