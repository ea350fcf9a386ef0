"""Storing the pieces that peers send: verified, then written, beside the event loop.

Data pieces go to a thread in batches while more keep coming: hashing and writing leave the interpreter to
the connections, so that a device with two cores decrypts on one and verifies on the other. Where few have
come the connections wait for their peers, as on any network that is slower than this device, and nothing is
won by that: these are stored where they are, at once, unless that would wait for the medium. Patches take
long and much memory, and go one at a time. The node hears of a piece once it is verified and written, of data
pieces in the order in which they came. What waits is bounded: who reads from a peer waits while `backlog`
is full.

Not for frames of the origin (`p2p.agent.fetch`), nor for what a piece must be (`p2p.agent.images`).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from p2p.agent.blocks import Blocks
from p2p.agent.images import BaseDamagedError, LocalImage
from p2p.content.limits import KIB, MIB
from p2p.errors import ContentError, LocalError
from p2p.swarm import events as e

log = logging.getLogger(__name__)

BATCH_BYTES = 2 * MIB
BATCH_PIECES = 64
"""What one call of a thread is given at most, or a single piece."""

GATHER_S = 0.005
"""How long a batch may wait for more: a change of threads costs as much as hashing 150 KiB."""

WAITING_BYTES = 4 * MIB
"""Data pieces that wait or are being stored: from so many bytes on, peers are not read from."""

THREAD_BYTES = 96 * KIB
"""A smaller batch is stored where it is."""

HERE_BYTES = 512 * KIB
"""If at most so much has come when storing, which waited for it, has its turn, connections have nothing
more to read: they let others run only then, or after twice as much (`p2p.adapters.channel.TURN`). To wait for
more, and for a thread, would add a quarter to what receiving costs."""

SLOW_S, SLOW_SHARE = 0.02, 0.002
"""A piece that took longer was written to a medium that is busy. Only threads wait for that until what it
took is no more than this share of the time: so much may the event loop be held up, by one piece at once."""


class Backlog:
    """Bytes that have come and are not stored; `full` from `limit` bytes on. `blocks`: where they lie."""

    def __init__(self, limit: int) -> None:
        self.blocks = Blocks()
        self._limit = limit
        self._size = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        return self._size >= self._limit

    def grow(self, size: int) -> None:
        self._size += size

    def shrink(self, size: int) -> None:
        self._size -= size
        if not self.full:
            self._waiting.unpark_all()

    async def room(self) -> None:
        """Wait while it is full."""
        while self.full:
            await self._waiting.park()


class Item(NamedTuple):
    """A piece and the image that it is for."""

    image: LocalImage
    action: e.Store


Outcome = e.Stored | ContentError | LocalError


class Storing:
    """Takes `Store` actions; `feed` is told what came of each, `failed` of an image that cannot go on.

    Of what an image that is not `is_current` has stored nobody is told: its slot is not the one that is
    written now. `patching` bounds how many patches are applied at once, also with those of others.
    Nothing is stored but while `run` runs.
    """

    def __init__(
        self,
        *,
        feed: Callable[[e.Event], None],
        failed: Callable[[LocalImage, LocalError], None],
        is_current: Callable[[LocalImage], bool],
        patching: trio.CapacityLimiter,
    ) -> None:
        self.backlog = Backlog(WAITING_BYTES)
        self._feed = feed
        self._failed = failed
        self._is_current = is_current
        self._patching = patching
        self._data = _Lane()
        self._here_from = -math.inf
        self._patches, self._next_patch = trio.open_memory_channel[Item](math.inf)

    def add(self, image: LocalImage, action: e.Store) -> None:
        """Have a piece stored."""
        item = Item(image, action)
        if image.is_patch(action.pack, action.piece):
            self._patches.send_nowait(item)
        else:
            self.backlog.grow(len(action.payload))
            self._data.add(item)

    async def run(self) -> None:
        """Until cancelled. What a thread is at then is ended first, and nobody told."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store_data)
            nursery.start_soon(self._store_patches)

    async def _store_data(self) -> None:
        while True:
            few = await self._data.comes_slowly()
            batch = deque(self._data.take() if few else await self._data.next_batch())
            if few or _size(batch) < THREAD_BYTES:
                self._store_here(batch)
            if batch:
                await self._store_there(batch)

    def _store_here(self, batch: deque[Item]) -> None:
        """Store what can be without a wait for the medium or for others at the image; the rest is left."""
        begun = trio.current_time()
        while batch and begun >= self._here_from and not batch[0].image.is_busy:
            outcomes = _store([batch[0]])
            took = trio.current_time() - begun
            if took > SLOW_S:
                self._here_from = begun + took / SLOW_SHARE
            self._stored([batch.popleft()], outcomes)
            begun = trio.current_time()

    async def _store_there(self, batch: Sequence[Item]) -> None:
        outcomes: list[Outcome] = []
        try:
            outcomes = await trio.to_thread.run_sync(_store, batch)
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self.backlog.shrink(_size(batch))
            raise
        self._stored(batch, outcomes)

    def _stored(self, batch: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
        try:
            for item, outcome in zip(batch, outcomes, strict=True):
                self.backlog.blocks.give(item.action.payload)
                self._judge(item, outcome)
        finally:
            self.backlog.shrink(_size(batch))

    async def _store_patches(self) -> None:
        async for item in self._next_patch:
            (outcome,) = await trio.to_thread.run_sync(_store, [item], limiter=self._patching)
            await trio.lowlevel.checkpoint_if_cancelled()
            self._judge(item, outcome)

    def _judge(self, item: Item, outcome: Outcome) -> None:
        """Whose fault it is when a piece cannot be stored."""
        image, action = item
        match outcome:
            case e.Stored():
                if self._is_current(image):
                    self._feed(outcome)
            case ContentError():
                log.warning("bad piece %d from %s: %s", action.piece, action.source, outcome)
                self._feed(e.Rejected(action.image, action.pack, action.piece, action.source, "bad-piece"))
            case BaseDamagedError():
                log.warning("%s", outcome)
                if self._is_current(image):
                    self._feed(image.damaged_base(action.pack, action.piece))
            case LocalError():
                self._failed(image, outcome)


class _Lane:
    """Pieces that wait for their batch, first come, first served."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._size = 0
        self._any = trio.Event()
        self._enough = trio.Event()

    def add(self, item: Item) -> None:
        self._items.append(item)
        self._size += len(item.action.payload)
        self._any.set()
        if self._size >= BATCH_BYTES:
            self._enough.set()

    async def comes_slowly(self) -> bool:
        """Whether what there is, once there is some, is all that connections have for now."""
        waited = not self._items  # if not, it came while others were stored, and more may have
        await self._any.wait()
        return waited and self._size <= HERE_BYTES

    def take(self) -> list[Item]:
        """As many as one batch may have, without a wait for more; there is one."""
        batch = [self._items.popleft()]
        size = len(batch[0].action.payload)
        while self._items and len(batch) < BATCH_PIECES:
            more = len(self._items[0].action.payload)
            if size + more > BATCH_BYTES:
                break
            batch.append(self._items.popleft())
            size += more
        self._size -= size
        if not self._items:
            self._any = trio.Event()
        if self._size < BATCH_BYTES:
            self._enough = trio.Event()
        return batch

    async def next_batch(self) -> list[Item]:
        """Those that come first: one at least, after a moment if they are few."""
        if not self._enough.is_set():
            with trio.move_on_after(GATHER_S):
                await self._enough.wait()
        return self.take()


def _size(batch: Sequence[Item]) -> int:
    return sum(len(item.action.payload) for item in batch)


def _store(batch: Sequence[Item]) -> list[Outcome]:
    """Store one piece after the other; none is kept from it by what is wrong with another."""
    outcomes: list[Outcome] = []
    for image, action in batch:
        try:
            outcomes.append(image.store_piece(action.pack, action.piece, action.payload, action.source))
        except (ContentError, LocalError) as error:
            outcomes.append(error)
    return outcomes
