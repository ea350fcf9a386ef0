"""Peer deltas at one device: what is made for a peer, and that of a stranger's only what is right is kept."""

from __future__ import annotations

import os
import random
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import hdiffpatch
import pytest
import trio
import trio.testing

from p2p.adapters import peer_delta as child
from p2p.adapters.disk_quota import DiskQuota
from p2p.agent import peer_deltas
from p2p.agent.budget import ProcessorBudget
from p2p.agent.images import LocalImage
from p2p.agent.peer_deltas import PeerDeltas
from p2p.agent.recomputing import Recomputing
from p2p.agent.spool import SpoolMemory
from p2p.content.digests import Digest, sha256
from p2p.content.index import Codec, Compression, ViewRange
from p2p.delta.peer_delta import PeerDelta, decode, digest_of, encode
from p2p.errors import LocalError, SlotError
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.delta_making import delta_name
from tests.support.small_image import BASE, CHUNK, FULL, FULL_PACK, IMAGE, TASK, MemoryImage, MemoryWriter

NAME = FULL_PACK.index.sha256
OFFERED = delta_name(NAME, sha256(BASE))
LENGTH = 4 * CHUNK
"""Of the only group: the zeros at the end are no chunk."""
MAKE = e.MakeDelta("d1", 7, TASK.image, NAME, OFFERED, 0, 0, 4)
MEMORY = 512 << 20


class Device:
    """`PeerDeltas` of one device, and what it said."""

    def __init__(
        self, directory: Path, *, memory: int | None = MEMORY, spooled: SpoolMemory | None = None
    ) -> None:
        self.told: list[e.Event] = []
        self.queued: list[tuple[str, e.Serve]] = []
        self.failures: list[LocalError] = []
        self.current = True
        self.writer = MemoryWriter()
        self.made = LocalImage(
            TASK, directory / "a", reader=MemoryImage(IMAGE), base=MemoryImage(BASE), memory=spooled
        )
        self.making = LocalImage(TASK, directory / "b", writer=self.writer, base=MemoryImage(BASE))
        for image in (self.made, self.making):
            image.use(NAME, FULL)
        self.processor = ProcessorBudget()
        self.making_one = one = trio.CapacityLimiter(1)
        self.deltas = PeerDeltas(
            feed=self.told.append, failed=lambda image, error: self.failures.append(error),
            is_current=lambda image: self.current, send=lambda *answer: self.queued.append(answer),
            memory=memory, making=one, processor=self.processor, patching=one,
        )  # fmt: skip

    async def make(self, image: LocalImage, action: e.MakeDelta = MAKE) -> m.Message:
        """Make one and answer."""
        await self.deltas.make(image, action)
        device, serve = self.queued.pop()
        assert (device, serve) == ("d1", e.Serve("d1", 7, TASK.image, OFFERED, 0))
        answer = self.deltas.answer(serve)
        assert answer is not None
        return answer

    async def use(self, payload: bytes) -> e.Verdict:
        """Use one; what was stored comes before."""
        await self.deltas.use(self.making, e.UseDelta(TASK.image, NAME, 0, 0, 4, payload, "d9"))
        used = self.told.pop()
        assert isinstance(used, e.DeltaUsed)
        assert used == e.DeltaUsed(TASK.image, 0, "d9", len(payload), used.verdict)
        return used.verdict

    @property
    def stored(self) -> list[int]:
        """Chunks that it was told of, each in the slot as the image has it."""
        numbers = []
        for event in self.told:
            assert isinstance(event, e.Stored)
            assert (event.how, event.device, event.pack) == (e.How.DELTA, "d9", NAME)
            assert self.writer.data[event.start : event.stop] == IMAGE[event.start : event.stop]
            numbers += event.pieces
        return numbers


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def delta_to(target: bytes, *, base: bytes = BASE, **changed: Any) -> bytes:
    """A payload that makes `target`, of the whole base."""
    made = hdiffpatch.diff(base, target, None)
    found = PeerDelta(
        0,
        0,
        (ViewRange(0, len(base)),),
        digest_of([base]),
        Codec.HDIFFPATCH,
        Compression.NONE,
        len(made),
        made,
    )
    return encode(replace(found, **changed))


# For peers


async def test_what_one_makes_the_other_uses(device: Device) -> None:
    answer = await device.make(device.made)
    assert isinstance(answer, m.Piece)
    assert len(answer.payload) < 2000
    assert device.told.pop() == e.DeltaMade(TASK.image, "d1", 0)
    assert await device.use(bytes(answer.payload)) is e.Verdict.RIGHT
    assert device.stored == [0, 1, 2, 3]


async def test_what_the_base_has_is_not_diffed(device: Device) -> None:
    """Chunk 3 is the base's own, so the delta ends before it."""
    answer = await device.make(device.made)
    assert isinstance(answer, m.Piece)
    assert decode(answer.payload, 0, LENGTH, len(BASE)).tail >= CHUNK - 4096


async def test_it_is_made_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await device.make(device.made)
    monkeypatch.setattr(child, "_COMMAND", ("/nowhere",))
    assert await device.make(device.made) == first


async def test_without_a_base_it_fails(device: Device) -> None:
    device.made.lose_base()
    assert await device.make(device.made) == m.Refuse(7, m.Refusal.FAILED)


class Slow(MemoryImage):
    """A base whose every read waits; `order` is what happened to it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.order: list[str] = []
        self.reading, self.closed = threading.Event(), threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self.reading.set()
        self.closed.wait(0.3)  # as long as nobody closes it, it is not because of us
        self.order.append("read")
        return super().read(offset, length)

    def close(self) -> None:
        self.order.append("closed")
        self.closed.set()


@pytest.mark.parametrize("way", ["made", "used"])
async def test_a_base_is_not_closed_under_a_thread_that_reads_it(tmp_path: Path, way: str) -> None:
    """What is read of a closed one may be of another file that has got its descriptor."""
    device, base = Device(tmp_path), Slow(BASE)
    image = device.made if way == "made" else device.making
    image._base = base
    used = e.UseDelta(TASK.image, NAME, 0, 0, 4, delta_to(IMAGE[:LENGTH]), "d9")
    async with trio.open_nursery() as nursery:
        if way == "made":
            nursery.start_soon(device.deltas.make, image, MAKE)
        else:
            nursery.start_soon(device.deltas.use, image, used)
        assert await trio.to_thread.run_sync(base.reading.wait, 10)
        image.lose_base()
    reads = len(base.order) - 1
    assert reads > 0
    assert base.order == ["read"] * reads + ["closed"]


async def test_digests_are_not_made_on_the_event_loops_thread(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of up to 12 MiB are: a small device would hear no peer meanwhile."""
    threads: list[bool] = []

    def digest(parts: list[bytes]) -> Digest:
        threads.append(threading.current_thread() is threading.main_thread())
        return digest_of(parts)

    monkeypatch.setattr(peer_deltas.peer_delta, "digest_of", digest)
    assert isinstance(await device.make(device.made), m.Piece)
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.RIGHT
    assert threads == [False, False]


@pytest.mark.parametrize("memory", [None, 16 << 20])
async def test_without_memory_it_fails(tmp_path: Path, memory: int | None) -> None:
    device = Device(tmp_path, memory=memory)
    if memory is not None:
        assert await device.make(device.made) == m.Refuse(7, m.Refusal.FAILED)
    else:
        await device.deltas.make(device.made, MAKE)
        assert device.deltas.answer(device.queued.pop()[1]) is None, "the driver refuses"
    assert device.told == [e.DeltaMade(TASK.image, "d1", 0)], "it is over all the same"


async def test_a_slot_that_rots_makes_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    rotten = bytearray(IMAGE)
    rotten[CHUNK + 5] ^= 1
    image = LocalImage(TASK, tmp_path / "c", reader=MemoryImage(bytes(rotten)), base=MemoryImage(BASE))
    image.use(NAME, FULL)
    assert await device.make(image) == m.Refuse(7, m.Refusal.FAILED)


async def test_a_delta_that_is_not_worth_it_is_refused_and_not_made_again(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MemoryImage(random.Random(2).randbytes(len(BASE)))
    image = LocalImage(TASK, tmp_path / "c", reader=MemoryImage(IMAGE), base=other)
    image.use(NAME, FULL)
    assert await device.make(image) == m.Refuse(7, m.Refusal.DONT_HAVE)
    monkeypatch.setattr(child, "_COMMAND", ("/nowhere",))
    assert await device.make(image) == m.Refuse(7, m.Refusal.DONT_HAVE)


async def test_a_full_disk_only_means_that_it_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path, spooled=SpoolMemory(0))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert await device.make(device.made) == m.Refuse(7, m.Refusal.FAILED)


async def test_it_counts_in_the_quota_for_the_disk(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for most, kind in ((100, m.Refuse), (100_000, m.Piece)):
        quota = DiskQuota(tmp_path / "state", (), most)
        image = LocalImage(
            TASK,
            tmp_path / "c",
            reader=MemoryImage(IMAGE),
            base=MemoryImage(BASE),
            quota=quota,
            memory=SpoolMemory(0),
        )
        image.use(NAME, FULL)
        assert isinstance(await device.make(image), kind)
        image.close()
        assert quota.used() == 0


async def test_on_battery_nothing_is_begun_and_the_peer_is_told(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_deltas, "TURN_S", 0.1)
    device.processor.on_battery(True)
    assert await device.make(device.made) == m.Refuse(7, m.Refusal.FAILED)
    device.processor.on_battery(False)
    assert isinstance(await device.make(device.made), m.Piece)


async def test_on_battery_many_are_told_at_the_same_time(
    device: Device, autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever asks waits for `TURN_S`, not for those as well that asked before it, or for a patch."""
    device.processor.on_battery(True)
    patches = Recomputing(device.told.append, MEMORY, device.processor, device.making_one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patches.make, device.made, e.Recompute(TASK.image, NAME, 0))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1.5 * peer_deltas.TURN_S):
            async with trio.open_nursery() as asking:
                for group in range(10):
                    asking.start_soon(device.deltas.make, device.made, MAKE._replace(group=group))
        assert len(device.queued) == len(device.told) == 10
        nursery.cancel_scope.cancel()


async def test_what_was_made_goes_with_its_image(device: Device) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    await device.make(device.made)
    device.deltas.drop(TASK.image)
    assert device.deltas.answer(e.Serve("d1", 7, TASK.image, OFFERED, 0)) is None
    await device.make(device.made)
    device.made.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_other_pieces_are_not_its_business(device: Device) -> None:
    assert device.deltas.answer(e.Serve("d1", 7, TASK.image, NAME, 0)) is None


# From strangers


async def test_a_sound_payload_is_the_twin_of_those_below(device: Device) -> None:
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.RIGHT
    assert device.stored == [0, 1, 2, 3]


async def test_of_a_lie_only_what_is_right_is_kept(device: Device) -> None:
    lie = bytearray(IMAGE[:LENGTH])
    lie[CHUNK + 9] ^= 1
    assert await device.use(delta_to(bytes(lie))) is e.Verdict.WRONG
    assert device.stored == [0, 2, 3]
    assert not device.writer.done.covers(CHUNK, 2 * CHUNK)
    assert device.writer.data[CHUNK : 2 * CHUNK] == bytes(CHUNK), "nothing wrong was ever written"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        os.urandom(200),
        delta_to(IMAGE[: LENGTH - 1]),
        delta_to(IMAGE),
        delta_to(IMAGE[:LENGTH], view=(ViewRange(1, len(BASE)),)),
        delta_to(IMAGE[:LENGTH], stored=os.urandom(99)),
        delta_to(IMAGE[:LENGTH], codec=Codec.BSDIFF),
        delta_to(IMAGE[:LENGTH], compression=Compression.LZMA2),
        delta_to(IMAGE[:LENGTH], compression=Compression.ZSTD),
        delta_to(IMAGE[:LENGTH], delta_size=8 << 20, compression=Compression.ZSTD),
        delta_to(random.Random(1).randbytes(LENGTH)),
    ],
    ids=[
        "empty",
        "noise",
        "shorter",
        "longer",
        "view",
        "stored",
        "codec",
        "lzma2",
        "zstd",
        "size",
        "too-large",
    ],
)
async def test_what_is_no_delta_is_its_senders_fault(device: Device, payload: bytes) -> None:
    assert await device.use(payload) is e.Verdict.WRONG
    assert device.stored == []
    assert not device.failures


async def test_another_base_is_nobodys_fault(device: Device) -> None:
    other = bytearray(BASE)
    other[0] ^= 1
    assert await device.use(delta_to(IMAGE[:LENGTH], base=bytes(other))) is e.Verdict.OTHER_BASE
    assert device.stored == []


async def test_a_base_digest_that_lies_is_found_out_by_what_is_made(device: Device) -> None:
    """It names this device's base, and is made from another: nothing of it has its signed digest."""
    other = random.Random(9).randbytes(len(BASE))
    target = bytes(a ^ 1 for a in other[:LENGTH])
    payload = delta_to(target, base=other, base_digest=digest_of([BASE]))
    assert await device.use(payload) is e.Verdict.WRONG
    assert device.stored == []


async def test_without_a_base_it_is_this_devices_fault(device: Device) -> None:
    device.making.lose_base()
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.FAILED


async def test_without_a_child_it_is_this_devices_fault(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_COMMAND", ("/nowhere",))
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.FAILED
    assert not device.failures, "chunks can still come"


async def test_a_slot_that_takes_nothing_ends_the_image(device: Device) -> None:
    device.writer.error = SlotError("no room")
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.FAILED
    assert [str(error) for error in device.failures] == ["no room"]


async def test_of_an_image_that_is_no_longer_made_nobody_is_told(device: Device) -> None:
    device.current = False
    payload = delta_to(IMAGE[:LENGTH])
    await device.deltas.use(device.making, e.UseDelta(TASK.image, NAME, 0, 0, 4, payload, "d9"))
    await device.deltas.use(None, e.UseDelta(TASK.image, NAME, 0, 0, 4, payload, "d9"))
    assert device.told == []


async def test_what_is_applied_for_an_image_that_is_dropped_is_ended(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches of the next image need not wait until a stranger's delta has had its time."""
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(100)"))
    used = e.UseDelta(TASK.image, NAME, 0, 0, 4, delta_to(IMAGE[:LENGTH]), "d9")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.deltas.use, device.making, used)
            nursery.start_soon(device.deltas.use, device.making, used)
            await trio.sleep(0.5)
            device.current = False
            device.deltas.drop(TASK.image)
    assert device.told == []
    assert device.making_one.available_tokens == 1


@pytest.mark.parametrize("leaves", [("d1",), ("d1", "d2")], ids=["one-of-two", "both"])
async def test_what_is_made_for_peers_that_are_all_gone_is_ended(
    device: Device, monkeypatch: pytest.MonkeyPatch, leaves: tuple[str, ...]
) -> None:
    """A peer that asks, leaves and comes back cannot have children without end; who still waits is served."""
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(3); exit(1)"))
    began = trio.current_time()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for peer in ("d1", "d2"):
                nursery.start_soon(device.deltas.make, device.made, MAKE._replace(device=peer))
            await trio.sleep(0.5)
            for peer in leaves:
                device.deltas.parted(peer)
    took_s = trio.current_time() - began
    assert (took_s < 2) is (len(leaves) == 2)
    assert sorted(event.device for event in device.told if isinstance(event, e.DeltaMade)) == ["d1", "d2"]
    assert device.making_one.available_tokens == 1


async def test_what_is_done_already_is_left_alone(device: Device) -> None:
    device.making.store_piece(NAME, 1, IMAGE[CHUNK : 2 * CHUNK], "d2")
    assert await device.use(delta_to(IMAGE[:LENGTH])) is e.Verdict.RIGHT
    assert device.stored == [0, 2, 3]
