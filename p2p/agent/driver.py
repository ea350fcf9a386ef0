"""The trio driver of `SwarmNode`: carries out its actions and feeds it what happens.

A frame's way through it: `Fetch` starts a `FrameFetch`, which streams a byte range from the origin and
has `LocalImage` verify and write each frame; `Storing` does the same for the pieces that peers send;
`Serve` reads a piece from the slot for a peer. All decisions are the node's.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import trio

from p2p.agent.budget import ProcessorBudget, RateBudget
from p2p.agent.checkpoints import Checkpoints
from p2p.agent.fetch import FrameFetch
from p2p.agent.filling import Filling
from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.agent.links import PeerLinks
from p2p.agent.lookups import Lookups
from p2p.agent.peer_deltas import PeerDeltas
from p2p.agent.rechecking import ReadBackError
from p2p.agent.recomputing import Recomputing
from p2p.agent.small_objects import SmallObjects
from p2p.agent.storing import Storing
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.errors import LocalError
from p2p.ports import BlobStore, Origin, PeerAddress
from p2p.swarm import SwarmNode, departure
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.cost import USUAL, Weights
from p2p.trust import Doubts

log = logging.getLogger(__name__)


class Reports(Protocol):
    """What is done with reports (`handing_in`)."""

    def arrived(self, action: e.ReportArrived) -> None: ...
    def returned(self, action: e.ReportReturned) -> None: ...


class SwarmDriver:
    """Runs one `SwarmNode`. `failed` is told when this device itself cannot go on with an image."""

    def __init__(
        self,
        node: SwarmNode,
        origin: Origin,
        *,
        spool: Path,
        wan: RateBudget,
        failed: Callable[[Digest, LocalError], None],
        found: Callable[[PeerAddress], None],
        indexes: BlobStore,
        held: Callable[[Digest], bytes | None],
        imported: ImportedBundle,
        recompute_memory: int | None = None,
        processor: ProcessorBudget | None = None,
        weights: Weights = USUAL,
    ) -> None:
        self.node = node
        self.links: PeerLinks | None = None
        self.reports: Reports | None = None
        self.asked: Callable[[str, Digest], None] | None = None
        """Is told which object a peer asks for."""
        self.joined: Callable[[str, m.Join], None] | None = None
        """Is told which image a peer takes up, or has."""
        self.damaged: Callable[[Digest], None] | None = None
        """Is told of which image a piece could not be read, or was wrong."""
        self._origin = origin
        self._spool = spool
        self._wan = wan
        self._on_failed = failed
        self._found = found
        self.objects = SmallObjects(origin, indexes=indexes, held=held, feed=self.feed)
        self._lookups = Lookups(self.objects.stored, node.holds, self.feed, self._start)
        self._images: dict[Digest, LocalImage] = {}
        self._frames: dict[Digest, PackRef] = {}
        self._fetches: dict[int, FrameFetch] = {}
        self._queue: deque[e.Event] = deque()
        self._feeding = False
        self._timer_changed = trio.Event()
        self._timer_at: float | None = None
        self._verified: dict[Digest, trio.Event] = {}
        self._patching = trio.CapacityLimiter(1)
        self.storing = Storing(
            feed=self.feed, failed=self._failed, is_current=self.is_current, patching=self._patching
        )
        making = trio.CapacityLimiter(1)
        self._recomputing = Recomputing(self.feed, recompute_memory, processor, making)
        self._deltas = PeerDeltas(
            feed=self.feed, failed=self._failed, is_current=self.is_current, send=self._queue_answer,
            memory=recompute_memory, making=making, processor=processor, patching=self._patching,
        )  # fmt: skip
        self.filling = Filling(
            imported, feed=self.feed, failed=self._failed, is_current=self.is_current, start=self._start,
            patching=self._patching, weights=weights,
        )  # fmt: skip
        self._checkpoints = Checkpoints(failed=self._failed, is_current=self.is_current)
        self._nursery: trio.Nursery | None = None
        self._is_over = False
        self.news = trio.Event()
        self.news_from: dict[str, tuple[int, int]] = {}
        self.doubts = Doubts()
        self.moved_at, self._stored_at, self._served_at = 0.0, 0.0, -math.inf

    # What the agent asks for

    async def pursue(self, image: LocalImage) -> None:
        """Make an image."""
        self._add(image)
        self._verified[image.task.image] = trio.Event()
        self.moved_at = self._stored_at = trio.current_time()
        indexes, found = await self.objects.indexes_of(image.task), await self.filling.find(image)
        if not self.is_current(image):
            return
        for held in indexes:
            self.feed(held)
        self.feed(e.Pursue(image.task, image.done))
        self._start(self._checkpoints.make, image)
        self.filling.begin(image, found)

    def holds(self, image: Digest) -> bool:
        """Whether an image is being made or served."""
        return image in self._images

    def gives_all(self, image: Digest) -> bool:
        """Whether any device can be given an image from here, whatever it has itself."""
        return image in self._images and self._images[image].gives_all

    async def look_at_imported(self) -> None:
        """Something was imported: it may be what an image lacks."""
        await self.filling.look(list(self._images.values()))

    def offer(self, image: LocalImage) -> None:
        """Serve an image that is in a valid slot, as soon as its indexes were read."""
        self._add(image)
        self._start(self._offer, image)

    async def _offer(self, image: LocalImage) -> None:
        indexes = await self.objects.indexes_of(image.task)
        if not self.is_current(image):
            return
        for held in indexes:
            self.feed(held)
        self.feed(e.Offer(image.task))
        if image.task.base is not None and image.base is None:  # it was lost meanwhile
            self.feed(e.BaseLost(image.task.image))

    async def lose_bases(self) -> None:
        """What the images that are served were made from is about to be written over."""
        for image in [image for image in self._images.values() if not image.is_written]:
            self._deltas.drop(image.task.image)
            await trio.to_thread.run_sync(image.lose_base)
            self.feed(e.BaseLost(image.task.image))

    def drop(self, image: Digest) -> None:
        """Neither make nor serve it any more."""
        local = self._part_with(image)
        if local is not None and (local.is_written or local.is_busy):
            self._start(self._close, local)
        elif local is not None:
            local.close()

    async def give_up(self, image: Digest) -> None:
        """As `drop`; what was verified of it is durable, and its slot closed, when this returns."""
        local = self._part_with(image)
        if local is not None:
            await self._close(local)

    def _part_with(self, image: Digest) -> LocalImage | None:
        self.feed(e.Drop(image))
        self._deltas.drop(image)
        local = self._images.pop(image, None)
        if local is not None:
            self._remnants_lost(local.remnants.close())
        return local

    async def _close(self, image: LocalImage) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(image.close)

    def forget(self, image: Digest) -> None:
        """Drop an image for good, its indexes too."""
        local = self._images.get(image)
        for pack in local.maps if local is not None else ():
            self.objects.drop_index(pack)
        self.drop(image)

    async def wait_verified(self, image: Digest) -> None:
        """Until the image was read back from the slot and is right."""
        await self._verified[image].wait()

    @property
    def lacks(self) -> bool:
        """Whether bytes of some image have yet to come."""
        statuses = (self.node.status(image) for image in self._verified if image in self._images)
        return any(status is not None and status.left for status in statuses)

    async def wait_unneeded(self, images: Collection[Digest], made: Collection[Digest]) -> None:
        """Wait until peers can do without this node, as far as `images` go (`p2p.swarm.departure`).

        `made`: those of them that peers may be about to begin with.
        """
        done_at = trio.current_time()
        while not departure.may_leave(
            trio.current_time(),
            done_at,
            self._served_at,
            all_complete=all(self.node.all_complete(image) for image in images),
            all_begun=all(self.node.all_begun(image) for image in made),
            needed=any(self.node.needed(image) for image in images),
        ):
            await trio.sleep(departure.STEP_S)

    def answer(self, action: e.Serve) -> m.Message:
        """The message for a piece that a peer asked for (called when its turn to be sent has come)."""
        about_delta = self._deltas.answer(action)
        if about_delta is not None:
            self._served_at = trio.current_time()
            return about_delta
        image = self._images.get(action.image)
        try:
            data = None if image is None else image.piece_bytes(action.pack, action.piece)
        except (LocalError, OSError) as error:
            log.warning("cannot serve piece %d: %s", action.piece, error)
            data = None
        if data is None:
            if image is not None:
                self.feed(e.Unreadable(action.image, action.pack, action.piece))
                if self.damaged is not None:
                    self.damaged(action.image)
            return m.Refuse(action.request, m.Refusal.FAILED)
        self._served_at = trio.current_time()
        return m.Piece(action.request, memoryview(data)[action.start :] if action.start else data)

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.storing.run)
            self._nursery.start_soon(self.objects.run)
            task_status.started()
            try:
                await self._timer()
            finally:
                self._is_over = True
                self._nursery.cancel_scope.cancel()
                for image in list(self._images.values()):
                    await self._close(image)

    def received(self, event: e.PeerConnected | e.PeerLost | e.PieceSent | e.Received) -> None:
        """What the links report. Objects that are in this device's own stores are at hand for peers."""
        if isinstance(event, e.Received) and isinstance(event.message, m.ObjectWant):
            if self.asked is not None:
                self.asked(event.device, event.message.digest)
            if self._lookups.take(event, event.message):
                return
        elif isinstance(event, e.Received) and isinstance(event.message, m.Join) and self.joined is not None:
            self.joined(event.device, event.message)
        self.feed(event)
        if isinstance(event, e.PeerLost):
            self.news_from.pop(event.device, None)

    def feed(self, event: e.Event) -> None:
        """Give the node an event and carry out what it says; events that follow from that queue up."""
        self._queue.append(event)
        self._note(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for action in self.node.handle(self._queue.popleft(), trio.current_time()):
                    self._do(action)
        finally:
            self._feeding = False
        deadline = self.node.deadline()
        if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
            self._timer_changed.set()

    def _note(self, event: e.Event) -> None:
        """`moved_at`: since when nothing came that was of use; what a failed fetch brought was of none."""
        match event:
            case e.PeerLost():
                self._deltas.parted(event.device)
                self._lookups.parted(event.device)
            case e.Stored():
                self.moved_at = self._stored_at = trio.current_time()
                image = self._images.get(event.image)
                if image is not None and image.remnants:
                    self._remnants_lost(image.remnants.settle(image.is_done))
            case e.FetchProgress():
                self.moved_at = trio.current_time()
            case e.FetchEnded() if event.error is not None:
                self.moved_at = self._stored_at

    def _remnants_lost(self, size: int) -> None:
        if size:
            self.feed(e.RemnantsLost(size))

    def _failed(self, image: LocalImage, error: LocalError) -> None:
        """An image that is no longer of interest fails as it likes: its slot may be closed already."""
        if self.is_current(image):
            self._on_failed(image.task.image, error)

    def is_current(self, image: LocalImage) -> bool:
        """Whether it is not dropped, nor followed by another try at the same."""
        return self._images.get(image.task.image) is image

    async def _timer(self) -> None:
        while True:
            self._timer_changed = trio.Event()
            self._timer_at = self.node.deadline()
            if self._timer_at is None:
                await self._timer_changed.wait()
                continue
            with trio.move_on_at(self._timer_at):
                await self._timer_changed.wait()
            if trio.current_time() >= self._timer_at:
                self.feed(e.Tick())
                await trio.lowlevel.checkpoint()

    def _add(self, image: LocalImage) -> None:
        if image.task.image in self._images and not self.is_current(image):
            self.drop(image.task.image)  # what is carried for others may be what this device needs itself
        self._images[image.task.image] = image
        for pack in image.task.packs:
            self._frames[pack.index.sha256] = pack

    def _do(self, action: e.Action) -> None:
        match action:
            case e.Send() if self.links is not None:
                self.links.send(action.device, action.message)
            case e.Serve():
                self._queue_answer(action.device, action)
            case e.Store() if (image := self._images.get(action.image)) is not None:
                self.storing.add(image, action)
            case e.Fetch():
                self._begin_fetch(action)
            case e.CancelFetch():
                if action.fetch in self._fetches:
                    self._fetches[action.fetch].cancel()
            case e.FetchObject():
                self._start(self.objects.fetch, action)
            case e.ObjectReady():
                self.objects.arrived(action.digest, action.data)
            case e.ObjectFailed():
                self.objects.arrived(action.digest, None)
            case e.MetadataArrived():
                self.objects.metadata_arrived(action)
            case e.ReportArrived() if self.reports is not None:
                self.reports.arrived(action)
            case e.ReportReturned() if self.reports is not None:
                self.reports.returned(action)
            case e.NewsHeard():
                self.news_from[action.device] = (action.root_version, action.timestamp_version)
                if self.doubts.heeds(action.device, trio.current_time()):
                    self.news.set()
            case e.Route() if (image := self._images.get(action.image)) is not None:
                image.use(action.pack, action.index)
                self.objects.keep_index(action.pack, action.index)
                self.filling.routed(image, action.pack)
            case e.ReadBack():
                self._start(self._read_back, action)
            case e.Recheck():
                self._start(self._recheck, action)
            case e.Recompute():
                self._start(self._recomputing.make, self._images.get(action.image), action)
            case e.MakeDelta():
                self._start(self._deltas.make, self._images.get(action.image), action)
            case e.UseDelta():
                self._start(self._deltas.use, self._images.get(action.image), action)
            case e.GiveUp() if (image := self._images.get(action.image)) is not None:
                self._failed(image, ReadBackError.persistent(action))
            case e.Disconnect():
                self._disconnect(action)
            case e.WanShared():
                self._wan.divide(action.among)
            case e.Fellows() if self.links is not None:
                self.links.prefer(action.devices)
            case e.PeerAddresses():
                for device, host, port in action.peers:
                    self._found(PeerAddress(host, port, "exchange", device))

    def _begin_fetch(self, action: e.Fetch) -> None:
        image = self._images.get(action.image)
        if image is None:
            self.feed(e.FetchEnded(action.fetch, "dropped"))
            return
        fetch = FrameFetch(
            action, image, self._frames[action.pack].frames.sha256, self._origin, self._wan,
            feed=self.feed, failed=self._failed, patching=self._patching,
        )  # fmt: skip
        self._fetches[action.fetch] = fetch
        self._start(self._fetch, action, fetch)

    def _start(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        assert self._nursery is not None, "the driver is not running"
        if not self._is_over:  # else whoever comes back from a thread just now is to be cancelled, too
            self._nursery.start_soon(task, *arguments)

    def _queue_answer(self, device: str, action: e.Serve) -> None:
        if self.links is not None:
            self.links.send(device, action)

    def _disconnect(self, action: e.Disconnect) -> None:
        log.info("closing the connection to %s: %s", action.device, action.reason)
        if self.links is not None:
            if action.ban_s:
                self.links.ban(action.device, action.ban_s)
            self.links.close(action.device, action.reason)

    # The WAN

    async def _fetch(self, action: e.Fetch, fetch: FrameFetch) -> None:
        ended = await fetch.run()
        self._fetches.pop(action.fetch, None)
        self.objects.trouble = fetch.trouble or self.objects.trouble
        self.feed(ended)

    # The slot

    async def _read_back(self, action: e.ReadBack) -> None:
        image = self._images.get(action.image)
        if image is None:
            return
        try:
            right = await trio.to_thread.run_sync(image.read_back)
        except LocalError as error:
            self._failed(image, error)
            return
        if right:
            self._verified[action.image].set()
            self.feed(e.ImageVerified(action.image))
        else:
            log.warning("image %s: read back wrong, looking for the damage", action.image.hex()[:12])
            self.feed(e.ReadBackFailed(action.image))

    async def _recheck(self, action: e.Recheck) -> None:
        image = self._images.get(action.image)
        if image is None:
            return
        try:
            damaged = await trio.to_thread.run_sync(image.recheck, action.pack)
        except LocalError as error:
            self._failed(image, error)
            return
        await self.filling.mend(image, action.pack, damaged)
