"""A site of real drivers in virtual time: streams, origin and slots in memory, trio's MockClock.

The trio counterpart of `sim.world`: the same node, but driven by `SwarmDriver`, `PeerLinks` and `FrameFetch`
as on a device. There are no threads (`inline_threads`), as virtual time does not wait for them.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from p2p.adapters.durable import DirectoryBlobStore
from p2p.agent.budget import RateBudget
from p2p.agent.driver import SwarmDriver
from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.agent.links import PeerLinks
from p2p.content import index as pack_index
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.index import Chunk, Codec, Copy, Data, PackIndex, Patch, ViewRange
from p2p.content.limits import KIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress
from p2p.errors import LocalError, OriginError, PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream
from p2p.swarm import SwarmNode
from p2p.swarm import messages as m
from p2p.swarm.events import ImageTask, Serve
from p2p.swarm.policy import Policy
from tests.support.small_image import MemoryImage, MemoryWriter

CHUNK = 16 * KIB
FRAME = 4 * CHUNK
FRAMES = 12
BLOCK = 4 * KIB

_rng = random.Random(11)
IMAGE = _rng.randbytes(FRAMES * FRAME)
BASE = bytearray(IMAGE)
for _frame in (2, 5, 9):
    BASE[_frame * FRAME + 500 : _frame * FRAME + 2500] = _rng.randbytes(2000)
OLD = bytes(BASE)
"""The image with other bytes in three of its frames."""


def _full() -> tuple[PackIndex, bytes]:
    entries, stored = [], []
    for at in range(0, len(IMAGE), FRAME):
        raw = [IMAGE[n : n + CHUNK] for n in range(at, at + FRAME, CHUNK)]
        compression, data = compress(b"".join(raw))
        entries.append(Data(len(data), compression, tuple(Chunk(CHUNK, sha256(r)) for r in raw)))
        stored.append(data)
    return PackIndex(sha256(IMAGE), len(IMAGE), None, 0, tuple(entries)), b"".join(stored)


def _delta() -> tuple[PackIndex, bytes]:
    entries: list[Copy | Patch] = []
    stored = []
    for at in range(0, len(IMAGE), FRAME):
        target, old = IMAGE[at : at + FRAME], OLD[at : at + FRAME]
        if target == old:
            entries.append(Copy(at, FRAME))
            continue
        delta = CODECS[Codec.HDIFFPATCH].diff(old, target)
        compression, data = compress(delta)
        view = (ViewRange(at, FRAME),)
        sizes = len(data), compression, len(delta)
        entries.append(Patch(Codec.HDIFFPATCH, FRAME, view, *sizes, sha256(delta), sha256(target)))
        stored.append(data)
    return PackIndex(sha256(IMAGE), len(IMAGE), sha256(OLD), len(OLD), tuple(entries)), b"".join(stored)


def _pack(index: PackIndex, frames: bytes) -> PackRef:
    data = pack_index.encode(index)
    return PackRef(index.base, ObjectRef(sha256(data), len(data)), ObjectRef(sha256(frames), len(frames)))


FULL, FULL_FRAMES = _full()
DELTA, DELTA_FRAMES = _delta()
FULL_PACK, DELTA_PACK = _pack(FULL, FULL_FRAMES), _pack(DELTA, DELTA_FRAMES)


def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work for threads is done at once, in its task: virtual time would run on without it."""

    async def run_sync(
        work: Callable[..., Any], *arguments: Any, limiter: trio.CapacityLimiter | None = None, **_: Any
    ) -> Any:
        await trio.lowlevel.checkpoint()
        if limiter is None:
            return work(*arguments)
        async with limiter:
            return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


class MemoryPeerStream:
    """One end of a connection; `identity` is the far end's. A frozen device neither sends nor receives."""

    def __init__(self, stream: trio.abc.Stream, far: PeerIdentity, owner: MemoryTransport) -> None:
        self._stream = stream
        self._owner = owner
        self.identity = far
        self.remote = ""

    async def send(self, *parts: Buffer) -> None:
        await self._owner.site.thawed(self._owner.me.device)
        try:
            for part in parts:
                await self._stream.send_all(bytes(part))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerError("lost") from error

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        try:
            data = await self._stream.receive_some(len(buffer))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerError("lost") from error
        await self._owner.site.thawed(self._owner.me.device)
        buffer[: len(data)] = data
        return len(data)

    async def aclose(self) -> None:
        self._owner.streams.pop(self, None)
        await self._stream.aclose()


class MemoryTransport:
    """`ports.Transport` of one device of a site."""

    def __init__(self, site: DrivenSite, device: str, port: int) -> None:
        self.site = site
        self.me = PeerIdentity(device, "depot", frozenset(), sha256(device.encode()))
        self.port = port
        self.streams: dict[MemoryPeerStream, None] = {}
        self.dialled: list[float] = []
        self._accept: Callable[[PeerStream], None] | None = None

    async def connect(self, address: PeerAddress) -> PeerStream:
        self.dialled.append(trio.current_time())
        await trio.sleep(0.001)
        other = next((d.transport for d in self.site.devices.values() if d.port == address.port), None)
        if other is None or other._accept is None or {other.me.device, self.me.device} & self.site.away:
            raise PeerError("unreachable")
        ours, theirs = memory_stream_pair()
        mine, far = MemoryPeerStream(ours, other.me, self), MemoryPeerStream(theirs, self.me, other)
        self.streams[mine] = other.streams[far] = None
        other._accept(far)
        return mine

    async def serve(self, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            self._accept = lambda stream: nursery.start_soon(handler, stream)
            try:
                await trio.sleep_forever()
            finally:
                self._accept = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A range that a device asked the origin for, and when."""

    device: str
    at_s: float
    start: int
    stop: int


class MemoryOrigin:
    """`ports.Origin` for one device. All devices of a site share `rate`; nothing comes while `down`."""

    wire_bytes = 0

    def __init__(self, site: DrivenSite, device: str) -> None:
        self._site = site
        self._device = device

    async def metadata(self, name: str, size_max: int) -> bytes:
        raise OriginError("not-found", name)

    async def object(self, digest: Digest, size: int) -> bytes:
        data = self._site.objects.get(digest)
        if data is None or self._site.down:
            raise OriginError("unreachable")
        await self._site.wan.spend(len(data))
        self._site.indexes += 1
        return data

    @asynccontextmanager
    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        self._site.asked.append(Asked(self._device, trio.current_time(), start, stop))
        if self._site.down:
            raise OriginError("unreachable", "a test")
        yield _Parts(self._site, self._device, self._site.frames[digest][start:stop])


class _Parts:
    def __init__(self, site: DrivenSite, device: str, data: bytes) -> None:
        self._site = site
        self._device = device
        self._data = data

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> Buffer:
        site = self._site
        part, self._data = self._data[:BLOCK], self._data[BLOCK:]
        if not part:
            raise StopAsyncIteration
        await site.thawed(self._device)
        if site.down:
            raise OriginError("truncated", "a test")
        await site.wan.spend(len(part))
        site.carried += len(part)
        return part


class Device:
    """One driver with its links and its slot."""

    def __init__(self, site: DrivenSite, name: str, *, base: bytes | None, wan: bool, holds: bool) -> None:
        self._site = site
        self.name = name
        self.port = len(site.devices) + 1
        self.base = base
        self.failures: list[LocalError] = []
        self.transport = MemoryTransport(site, name, self.port)
        self.node = SwarmNode(
            device=name, site="depot", port=self.port, rng=random.Random(name), policy=site.policy, wan=wan
        )
        spool = site.directory / name / "spool"
        self.driver = SwarmDriver(
            self.node,
            MemoryOrigin(site, name),
            spool=spool,
            wan=RateBudget(None),
            failed=lambda _, error: self.failures.append(error),
            found=lambda address: None,
            indexes=DirectoryBlobStore(site.directory / name / "indexes"),
            held=site.objects.get if holds else lambda digest: None,
            imported=ImportedBundle(site.directory / name / "imported"),
        )
        self.links = PeerLinks(
            name, self.transport, self.driver.received, self._answer,
            lan=RateBudget(None), backlog=self.driver.storing.backlog,
        )  # fmt: skip
        self.driver.links = self.links
        self.writer = MemoryWriter(len(IMAGE))
        packs = (FULL_PACK, DELTA_PACK)
        task = ImageTask(sha256(IMAGE), len(IMAGE), None if base is None else sha256(base), packs)
        self.image = LocalImage(
            task,
            spool,
            writer=None if holds else self.writer,
            reader=MemoryImage(IMAGE) if holds else None,
            base=None if base is None else MemoryImage(base),
        )
        self.holds = holds
        self.freezes = False
        """As soon as a peer is to be given a piece."""

    @property
    def right(self) -> bool:
        """Whether its slot holds the image."""
        return bytes(self.writer.data) == IMAGE

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.driver.run)
            await nursery.start(self.links.serve)
            task_status.started()
            await trio.sleep_forever()

    async def make(self) -> float:
        """Make (or offer) the image; when it was read back right."""
        if self.holds:
            self.driver.offer(self.image)
            return trio.current_time()
        await self.driver.pursue(self.image)
        await self.driver.wait_verified(sha256(IMAGE))
        return trio.current_time()

    def _answer(self, action: Serve) -> m.Message:
        if self.freezes:
            self._site.freeze(self.name)
        return self.driver.answer(action)

    async def lose_connections(self) -> None:
        """Its streams end, without a word."""
        for stream in list(self.transport.streams):
            await stream.aclose()


@dataclass
class DrivenSite:
    """Devices, their network and their origin. `rate`: bytes per second of the WAN."""

    directory: Path
    rate: int = 64 * KIB
    policy: Policy = field(default_factory=Policy)
    devices: dict[str, Device] = field(default_factory=dict)
    frozen: dict[str, trio.Event] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    """Devices that neither can be connected to nor connect."""
    down: bool = False
    """The origin gives nothing."""
    asked: list[Asked] = field(default_factory=list)
    carried: int = 0
    """Bytes of frames that crossed the WAN."""
    indexes: int = 0
    """How often an index did."""

    def __post_init__(self) -> None:
        self.wan = RateBudget(self.rate)
        self.objects = {
            p.index.sha256: pack_index.encode(i) for p, i in ((FULL_PACK, FULL), (DELTA_PACK, DELTA))
        }
        self.frames = {FULL_PACK.frames.sha256: FULL_FRAMES, DELTA_PACK.frames.sha256: DELTA_FRAMES}

    def add(self, name: str, *, base: bytes | None = None, wan: bool = True, holds: bool = False) -> Device:
        """A device; `holds`: it has the image already and serves it."""
        device = self.devices[name] = Device(self, name, base=base, wan=wan, holds=holds)
        return device

    def freeze(self, device: str) -> None:
        """From now on nothing of it is heard, nor does it hear anything; its connections stay."""
        self.frozen[device] = trio.Event()

    def thaw(self, device: str) -> None:
        self.frozen.pop(device).set()

    async def thawed(self, device: str) -> None:
        """Until the device is not frozen."""
        while device in self.frozen:
            await self.frozen[device].wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All devices run and know each other's addresses."""
        async with trio.open_nursery() as nursery:
            for device in self.devices.values():
                await nursery.start(device.run)
            for device in self.devices.values():
                for other in self.devices.values():
                    if other is not device:
                        device.links.found(PeerAddress("memory", other.port, "roster", other.name))
            yield
            nursery.cancel_scope.cancel()

    async def make_all(self, *names: str) -> dict[str, float]:
        """The image on all devices (or those named) at once; when each had it."""
        times: dict[str, float] = {}

        async def make(device: Device) -> None:
            times[device.name] = await device.make()

        async with trio.open_nursery() as nursery:
            for device in self.devices.values():
                if not names or device.name in names:
                    nursery.start_soon(make, device)
        return times
