"""Pieces of peers are stored in batches: in order, beside the event loop, believed only when verified."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.agent import storing as module
from p2p.agent.images import LocalImage
from p2p.agent.storing import BATCH_BYTES, GATHER_S, SLOW_S, SLOW_SHARE, Backlog, Storing
from p2p.content.digests import Buffer
from p2p.errors import LocalError, SlotError
from p2p.swarm import events as e
from tests.support.small_image import (
    BASE,
    CHUNK,
    DELTA,
    DELTA_FRAMES,
    DELTA_PACK,
    FULL,
    FULL_PACK,
    IMAGE,
    TASK,
    MemoryImage,
    MemoryWriter,
)

COUNT = 4
"""Data pieces of the full pack."""


class Writer(MemoryWriter):
    """Notes on which thread each write came; each waits for `gate`, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.gate: threading.Event | None = None
        self.reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def write(self, offset: int, data: Buffer) -> None:
        self.threads.append(threading.get_ident())
        if self.gate is not None:
            self._token.run_sync_soon(self.reached.set)
            assert self.gate.wait(60)
        super().write(offset, data)


class Rig:
    """A `Storing` that runs, one image and what was told of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.writer = Writer()
        self.image = LocalImage(TASK, tmp_path / "spool", writer=self.writer, base=MemoryImage(BASE))
        self.image.use(FULL_PACK.index.sha256, FULL)
        self.image.use(DELTA_PACK.index.sha256, DELTA)
        self.events: list[e.Event] = []
        self.failures: list[LocalError] = []
        self.current = True
        self.storing = Storing(
            feed=self.events.append,
            failed=lambda image, error: self.failures.append(error),
            is_current=lambda image: self.current,
            patching=trio.CapacityLimiter(1),
        )

    def add(self, *numbers: int, payload: bytes | None = None) -> None:
        for number in numbers:
            data = IMAGE[number * CHUNK : (number + 1) * CHUNK] if payload is None else payload
            action = e.Store(TASK.image, FULL_PACK.index.sha256, number, data, f"d{number}")
            self.storing.add(self.image, action)

    def add_patch(self, number: int) -> None:
        pack = DELTA_PACK.index.sha256
        action = e.Store(TASK.image, pack, number, DELTA_FRAMES[number], "d9")
        self.storing.add(self.image, action)

    async def told(self, count: int) -> list[Any]:
        """Until so much was told."""
        with trio.fail_after(60):
            while len(self.events) + len(self.failures) < count:
                await trio.sleep(0.001)
        return self.events

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.storing.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0.005)


@pytest.fixture
async def slow_rig(tmp_path: Path, clock: MockClock) -> Rig:
    """Pieces come as over a network that is slower than this device: few at once."""
    return Rig(tmp_path)


@pytest.fixture
async def rig(slow_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """However little comes, it comes as fast as it is read."""
    monkeypatch.setattr(module, "HERE_BYTES", 0)
    return slow_rig


def stored(*numbers: int) -> list[tuple[type, tuple[int, ...]]]:
    return [(e.Stored, (number,)) for number in numbers]


def told_of(events: list[Any]) -> list[tuple[type, Any]]:
    return [(type(x), x.pieces if isinstance(x, e.Stored) else (x.piece,)) for x in events]


async def test_what_comes_together_is_stored_on_a_thread_and_told_in_order(rig: Rig) -> None:
    async with rig.running():
        rig.add(2, 0, 3, 1)
        assert told_of(await rig.told(COUNT)) == stored(2, 0, 3, 1)
    assert rig.writer.data[: COUNT * CHUNK] == IMAGE[: COUNT * CHUNK]
    assert threading.get_ident() not in rig.writer.threads
    assert len(set(rig.writer.threads)) == 1
    assert [event.device for event in rig.events] == ["d2", "d0", "d3", "d1"]


async def test_a_buffer_is_used_again_once_its_piece_is_stored_or_refused_and_not_before(rig: Rig) -> None:
    blocks = rig.storing.backlog.blocks
    payloads = [blocks.take(CHUNK) for _ in range(2)]
    payloads[0][:] = IMAGE[:CHUNK]
    for payload in payloads:
        rig.storing.add(rig.image, e.Store(TASK.image, FULL_PACK.index.sha256, 0, payload, "d0"))
    assert blocks.kept == 0
    async with rig.running():
        events = await rig.told(2)
    assert [type(event) for event in events] == [e.Stored, e.Rejected]
    assert rig.writer.data[:CHUNK] == IMAGE[:CHUNK]
    assert {id(blocks.take(CHUNK).obj) for _ in range(2)} == {id(payload.obj) for payload in payloads}


async def test_a_small_piece_alone_is_stored_where_it_is(rig: Rig) -> None:
    async with rig.running():
        rig.add(1)
        assert told_of(await rig.told(1)) == stored(1)
    assert rig.writer.threads == [threading.get_ident()]


async def test_a_batch_waits_for_more_no_longer_than_a_moment(
    rig: Rig, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.running():
        began = trio.current_time()
        rig.add(1)
        await wait_all_tasks_blocked()
        assert rig.events == []
        rig.add(0)
        await rig.told(2)
        assert trio.current_time() - began <= 4 * GATHER_S + 1.0  # a thread may be slow
        assert len(rig.writer.threads) == 2
        monkeypatch.setattr(module, "BATCH_BYTES", 2 * CHUNK)
        monkeypatch.setattr(module, "GATHER_S", 1000.0)
        rig.add(2, 3)
        await rig.told(4)
        assert trio.current_time() - began < 1000.0  # there were enough


async def test_what_peers_bring_slowly_is_stored_where_it_is_and_waits_for_nothing(
    slow_rig: Rig, clock: MockClock
) -> None:
    async with slow_rig.running():
        await wait_all_tasks_blocked()
        began = trio.current_time()
        slow_rig.add(2, 0, 3, 1)
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        assert told_of(slow_rig.events) == stored(2, 0, 3, 1)
        assert trio.current_time() == began
    assert set(slow_rig.writer.threads) == {threading.get_ident()}
    assert not slow_rig.storing.backlog.full


async def test_more_than_peers_bring_slowly_is_stored_on_a_thread(
    slow_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HERE_BYTES", 3 * CHUNK)
    async with slow_rig.running():
        await wait_all_tasks_blocked()
        slow_rig.add(0, 1, 2)
        await slow_rig.told(3)
        slow_rig.add(0, 1, 2, 3)
        await slow_rig.told(7)
    here = threading.get_ident()
    assert [thread == here for thread in slow_rig.writer.threads] == 3 * [True] + 4 * [False]


async def test_what_came_while_a_thread_was_busy_is_no_sign_of_slow_peers(
    slow_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HERE_BYTES", 2 * CHUNK)
    slow_rig.writer.gate = threading.Event()
    async with slow_rig.running():
        await wait_all_tasks_blocked()
        slow_rig.add(0, 1, 2)
        await slow_rig.writer.reached.wait()
        slow_rig.add(3, 0)
        slow_rig.writer.gate.set()
        await slow_rig.told(5)
    assert threading.get_ident() not in slow_rig.writer.threads


async def test_the_event_loop_waits_for_a_busy_medium_for_a_small_share_of_the_time_and_a_piece_at_once(
    slow_rig: Rig, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, took = MemoryWriter.write, 2 * SLOW_S

    def write(writer: MemoryWriter, offset: int, data: Buffer) -> None:
        if threading.get_ident() == here:
            clock.jump(took)
        real(writer, offset, data)

    async def where(*numbers: int) -> list[bool]:
        """For each piece, whether it was stored here."""
        await wait_all_tasks_blocked()
        before = len(slow_rig.writer.threads)
        slow_rig.add(*numbers)
        await slow_rig.told(before + len(numbers))
        return [thread == here for thread in slow_rig.writer.threads[before:]]

    here = threading.get_ident()
    async with slow_rig.running():
        assert await where(0, 1) == [True, True]
        monkeypatch.setattr(MemoryWriter, "write", write)
        assert await where(0, 1, 2) == [True, False, False]
        slow_at = trio.current_time()
        assert await where(0) == [False]
        await trio.sleep_until(slow_at + 0.9 * took / SLOW_SHARE)
        assert await where(0) == [False]
        await trio.sleep_until(slow_at + took / SLOW_SHARE)
        took = 10.0
        assert await where(0) == [True]
        await trio.sleep(0.9 * took / SLOW_SHARE)
        assert await where(0) == [False]
        took = SLOW_S / 2
        await trio.sleep(0.2 * 10.0 / SLOW_SHARE)
        assert await where(0, 1) == [True, True]
    assert told_of(slow_rig.events) == stored(0, 1, 0, 1, 2, 0, 0, 0, 0, 0, 1)
    assert not slow_rig.storing.backlog.full


async def test_small_batches_too_are_left_to_threads_while_a_medium_is_slow(
    rig: Rig, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryWriter.write

    def write(writer: MemoryWriter, offset: int, data: Buffer) -> None:
        clock.jump(2 * SLOW_S)
        real(writer, offset, data)

    monkeypatch.setattr(module, "THREAD_BYTES", 2 * CHUNK)
    async with rig.running():
        rig.add(0)
        await rig.told(1)
        monkeypatch.setattr(MemoryWriter, "write", write)
        rig.add(1)
        await rig.told(2)
        rig.add(2)
        await rig.told(3)
    here = threading.get_ident()
    assert [thread == here for thread in rig.writer.threads] == [True, True, False]


async def test_while_the_slot_is_made_durable_only_threads_write_to_it(
    slow_rig: Rig, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, reached = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def checkpoint(writer: MemoryWriter) -> None:
        token.run_sync_soon(reached.set)
        assert going_on.wait(60)

    monkeypatch.setattr(MemoryWriter, "checkpoint", checkpoint)
    async with slow_rig.running(), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        slow_rig.add(0)
        await slow_rig.told(1)
        nursery.start_soon(trio.to_thread.run_sync, slow_rig.image.checkpoint)
        await reached.wait()
        slow_rig.add(1)
        await slow_rig.told(2)
        going_on.set()
        await wait_all_tasks_blocked()
        while slow_rig.image.is_busy:
            await trio.sleep(0.001)
        slow_rig.add(2)
        await slow_rig.told(3)
    here = threading.get_ident()
    assert [thread == here for thread in slow_rig.writer.threads] == [True, False, True]


async def test_many_small_pieces_let_other_tasks_run_between_batches(
    slow_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_PIECES", 1)
    monkeypatch.setattr(module, "THREAD_BYTES", 2 * CHUNK)
    monkeypatch.setattr(module, "BATCH_BYTES", CHUNK)
    monkeypatch.setattr(module, "HERE_BYTES", 0)
    async with slow_rig.running():
        await wait_all_tasks_blocked()
        slow_rig.add(0, 1, 2, 3)
        told = []
        for _ in range(5):
            await trio.lowlevel.checkpoint()
            told.append(len(slow_rig.events))
    assert max(after - before for before, after in zip([0, *told], told, strict=False)) <= 2


async def test_what_is_wrong_with_a_piece_is_told_wherever_it_is_stored(slow_rig: Rig) -> None:
    slow_rig.writer.error = SlotError("I/O error")
    async with slow_rig.running():
        await wait_all_tasks_blocked()
        slow_rig.add(1, payload=bytes(CHUNK))
        slow_rig.add(0)
        await wait_all_tasks_blocked()
        assert told_of(await slow_rig.told(2)) == [(e.Rejected, (1,))]
    assert slow_rig.failures == [slow_rig.writer.error]


async def test_a_batch_is_bounded_in_bytes_and_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = module._store
    monkeypatch.setattr(module, "_store", lambda batch: sizes.append(len(batch)) or real(batch))
    monkeypatch.setattr(module, "BATCH_BYTES", 3 * CHUNK)
    async with rig.running():
        rig.add(0, 1, 2, 3)
        await rig.told(4)
        monkeypatch.setattr(module, "BATCH_BYTES", BATCH_BYTES)
        monkeypatch.setattr(module, "BATCH_PIECES", 2)
        rig.add(0, 1, 2, 3)
        await rig.told(8)
    assert sizes == [3, 1, 2, 2]


async def test_a_wrong_piece_blames_its_sender_and_keeps_no_other_from_being_stored(rig: Rig) -> None:
    async with rig.running():
        rig.add(0)
        rig.add(1, payload=bytes(CHUNK))
        rig.add(2, payload=b"short")
        rig.add(3)
        events = await rig.told(4)
    assert told_of(events) == [
        (e.Stored, (0,)), (e.Rejected, (1,)), (e.Rejected, (2,)), (e.Stored, (3,)),
    ]  # fmt: skip
    assert [x.source for x in events if isinstance(x, e.Rejected)] == ["d1", "d2"]
    assert bytes(rig.writer.data[CHUNK : 3 * CHUNK]) == bytes(2 * CHUNK)
    assert rig.failures == []


async def test_nothing_is_told_of_a_piece_before_it_is_written(rig: Rig, clock: MockClock) -> None:
    rig.writer.gate = threading.Event()
    async with rig.running():
        rig.add(0, 1)
        await rig.writer.reached.wait()
        await trio.sleep(10)
        assert rig.events == []
        rig.writer.gate.set()
        await rig.told(2)


async def test_a_failing_medium_fails_the_image_and_blames_nobody(rig: Rig) -> None:
    rig.writer.error = SlotError("I/O error")
    async with rig.running():
        rig.add(0, 1)
        await rig.told(2)
    assert rig.failures == [rig.writer.error] * 2
    assert rig.events == []


async def test_of_an_image_that_is_of_no_interest_any_more_only_liars_are_told(rig: Rig) -> None:
    rig.current = False
    async with rig.running():
        rig.add(0, 1)
        rig.add(2, payload=bytes(CHUNK))
        assert told_of(await rig.told(1)) == [(e.Rejected, (2,))]


async def test_patches_are_applied_on_a_thread_each_in_its_turn(rig: Rig) -> None:
    async with rig.running():
        rig.add_patch(1)
        rig.add_patch(0)
        assert told_of(await rig.told(2)) == stored(1, 0)
    assert threading.get_ident() not in rig.writer.threads
    assert rig.writer.data[:CHUNK] == IMAGE[:CHUNK]


async def test_a_base_that_gives_other_bytes_is_told_for_the_range_of_its_patch(
    rig: Rig, tmp_path: Path
) -> None:
    rig.image = LocalImage(TASK, tmp_path, writer=rig.writer, base=MemoryImage(bytes(len(BASE))))
    rig.image.use(DELTA_PACK.index.sha256, DELTA)
    async with rig.running():
        rig.add_patch(1)
        assert await rig.told(1) == [e.BaseDamaged(TASK.image, 2 * CHUNK, 3 * CHUNK)]


async def test_the_backlog_is_what_has_come_and_is_not_stored(rig: Rig, clock: MockClock) -> None:
    rig.storing.backlog = Backlog(2 * CHUNK)
    rig.writer.gate = threading.Event()
    roomy: list[float] = []

    async def wait_for_room() -> None:
        await rig.storing.backlog.room()
        roomy.append(trio.current_time())

    async with rig.running(), trio.open_nursery() as nursery:
        rig.add(0)
        assert not rig.storing.backlog.full
        rig.add(1)
        assert rig.storing.backlog.full
        nursery.start_soon(wait_for_room)
        await rig.writer.reached.wait()
        await trio.sleep(10)
        assert roomy == []  # what a thread is at counts too
        rig.writer.gate.set()
        await rig.told(2)
        await wait_all_tasks_blocked()
        assert len(roomy) == 1


async def test_the_end_waits_for_the_thread_and_tells_nobody(rig: Rig, clock: MockClock) -> None:
    rig.writer.gate = threading.Event()
    async with trio.open_nursery() as nursery, rig.running():
        rig.add(0, 1)
        await rig.writer.reached.wait()
        nursery.start_soon(_open_later, rig.writer.gate)
    assert rig.events == []
    assert list(rig.writer.done) == [(0, 2 * CHUNK)]


async def test_an_image_is_not_closed_while_a_thread_writes_to_it(rig: Rig, clock: MockClock) -> None:
    rig.writer.gate = threading.Event()
    async with rig.running(), trio.open_nursery() as nursery:
        rig.add(0, 1)
        await rig.writer.reached.wait()
        nursery.start_soon(trio.to_thread.run_sync, rig.image.close)
        await trio.sleep(10)
        assert not rig.writer.closed
        rig.writer.gate.set()
        await rig.told(2)
    assert rig.writer.closed
    # The one that was under way is whole; the next came before the closing, or was refused.
    assert told_of(rig.events) in (stored(0), stored(0, 1))
    assert rig.writer.done.total() == len(rig.events) * CHUNK


async def _open_later(gate: threading.Event) -> None:
    await trio.sleep(5)
    gate.set()
