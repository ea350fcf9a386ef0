"""`FrameFetch`: cutting a stream into frames at any buffer border, and ending for the right reason."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p.agent.budget import RateBudget
from p2p.agent.fetch import FrameFetch
from p2p.agent.images import LocalImage
from p2p.content.digests import Buffer, Digest
from p2p.errors import LocalError, OriginError, SlotError
from p2p.swarm.events import BaseDamaged, Event, Fetch, FetchEnded, Stored
from tests.support.small_image import (
    BASE,
    DELTA,
    DELTA_FRAMES,
    DELTA_PACK,
    FULL,
    FULL_FRAMES,
    FULL_PACK,
    IMAGE,
    TASK,
    MemoryImage,
    MemoryWriter,
)


class StreamOrigin:
    """Gives a frames object in blocks of `block` bytes, then `error` if there is one."""

    wire_bytes = 0

    def __init__(self, data: bytes, block: int, error: OriginError | None = None, stop_at: int = -1) -> None:
        self.data = data
        self.block = block
        self.error = error
        self.stop_at = stop_at
        self.asked: list[tuple[Digest, int, int]] = []

    async def metadata(self, name: str, size_max: int) -> bytes:
        raise OriginError("not-found")

    async def object(self, digest: Digest, size: int) -> bytes:
        raise OriginError("not-found")

    @asynccontextmanager
    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        self.asked.append((digest, start, stop))
        yield self._parts(start, stop)

    async def _parts(self, start: int, stop: int) -> AsyncIterator[Buffer]:
        for at in range(start, stop, self.block):
            await trio.lowlevel.checkpoint()
            if self.error is not None and at - start >= self.stop_at >= 0:
                raise self.error
            yield self.data[at : min(at + self.block, stop)]


class Run:
    """One fetch of a pack's frames `[start, stop)` and what came of it."""

    def __init__(
        self, tmp_path: Path, origin: StreamOrigin, *, delta: bool = False, base: bytes = BASE,
        start: int = 0, stop: int = 2, writer: MemoryWriter | None = None, before: Run | None = None,
    ) -> None:  # fmt: skip
        pack, index = (DELTA_PACK, DELTA) if delta else (FULL_PACK, FULL)
        self.writer: MemoryWriter = before.writer if before is not None else writer or MemoryWriter()
        fresh = LocalImage(TASK, tmp_path, writer=self.writer, base=MemoryImage(base))
        self.image: LocalImage = before.image if before is not None else fresh
        self.image.use(pack.index.sha256, index)
        self.events: list[Event] = []
        self.failures: list[LocalError] = []
        self.fetch = FrameFetch(
            Fetch(1, TASK.image, pack.index.sha256, start, stop), self.image, pack.frames.sha256, origin,
            RateBudget(None), feed=self.events.append,
            failed=lambda _, error: self.failures.append(error), patching=trio.CapacityLimiter(1),
        )  # fmt: skip

    @property
    def stored(self) -> list[Stored]:
        return [e for e in self.events if isinstance(e, Stored)]


FULL_BYTES, DELTA_BYTES = b"".join(FULL_FRAMES), b"".join(DELTA_FRAMES)
BORDER = len(FULL_FRAMES[0])


@pytest.mark.parametrize("block", [1, 7, BORDER - 1, BORDER, BORDER + 1, len(FULL_BYTES), 1 << 20])
async def test_frames_are_cut_at_any_buffer_border(tmp_path: Path, block: int) -> None:
    block = max(block, 1) if block != 1 else 997  # single bytes of 200 kB only cost time
    origin = StreamOrigin(FULL_BYTES, block)
    run = Run(tmp_path, origin)
    assert await run.fetch.run() == FetchEnded(1, None, 0)
    assert sorted(s.start for s in run.stored) == [0, 3 * 65536]
    assert run.writer.data[: 4 * 65536] == IMAGE[: 4 * 65536]
    assert origin.asked == [(FULL_PACK.frames.sha256, 0, len(FULL_BYTES))]


@pytest.mark.parametrize("block", [1, 5, len(DELTA_FRAMES[0]) - 1, len(DELTA_FRAMES[0]) + 1])
async def test_patches_are_cut_byte_by_byte(tmp_path: Path, block: int) -> None:
    run = Run(tmp_path, StreamOrigin(DELTA_BYTES, block), delta=True)
    assert await run.fetch.run() == FetchEnded(1, None, 0)
    assert len(run.stored) == 2


@pytest.mark.parametrize("delta", [False, True])
async def test_frames_are_verified_and_written_in_threads_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: bool
) -> None:
    threads, at_once, under_way = set[int](), [], 0
    store = LocalImage.store_frame

    def watched(image: LocalImage, pack: Digest, number: int, stored: Buffer) -> Stored:
        nonlocal under_way
        under_way += 1
        threads.add(threading.get_ident())
        at_once.append(under_way)
        time.sleep(0.02)
        under_way -= 1
        return store(image, pack, number, stored)

    monkeypatch.setattr(LocalImage, "store_frame", watched)
    run = Run(tmp_path, StreamOrigin(DELTA_BYTES if delta else FULL_BYTES, 1 << 20), delta=delta)
    assert await run.fetch.run() == FetchEnded(1, None, 0)
    assert at_once == [1, 1]
    assert threading.get_ident() not in threads


async def test_a_run_of_frames_asks_for_its_bytes_only(tmp_path: Path) -> None:
    origin = StreamOrigin(FULL_BYTES, 10_000)
    run = Run(tmp_path, origin, start=1, stop=2)
    assert (await run.fetch.run()).error is None
    assert origin.asked == [(FULL_PACK.frames.sha256, BORDER, len(FULL_BYTES))]
    assert [s.start for s in run.stored] == [3 * 65536]


async def test_a_bad_frame_ends_the_fetch_and_the_good_one_before_stays(tmp_path: Path) -> None:
    bad = bytearray(FULL_BYTES)
    bad[BORDER + 5] ^= 1
    run = Run(tmp_path, StreamOrigin(bytes(bad), 4096))
    ended = await run.fetch.run()
    assert ended == FetchEnded(1, "bad-bytes", len(FULL_BYTES) - BORDER)
    assert run.fetch.trouble is not None
    assert run.fetch.trouble.reason == "bad-bytes"
    assert [s.start for s in run.stored] == [0]
    assert not run.writer.done.covers(3 * 65536, 3 * 65536 + 1)


@pytest.mark.parametrize("reason", ["truncated", "too-slow", "not-found", "range-ignored"])
async def test_an_origin_that_fails_is_named(tmp_path: Path, reason: str) -> None:
    error = OriginError(reason, "a test")
    run = Run(tmp_path, StreamOrigin(FULL_BYTES, 4096, error, stop_at=BORDER + 4096))
    ended = await run.fetch.run()
    assert ended == FetchEnded(1, reason, 0), "what came of the second frame is kept"
    assert run.fetch.trouble is error
    assert [s.start for s in run.stored] == [0]


BROKEN = OriginError("truncated", "a test")


async def test_a_frame_that_broke_off_is_gone_on_with(tmp_path: Path) -> None:
    """In as many fetches as it takes: each byte comes once, and none counts before the frame is right."""
    first = Run(tmp_path, StreamOrigin(FULL_BYTES, 1000, BROKEN, stop_at=3000))
    assert await first.fetch.run() == FetchEnded(1, "truncated", 0)
    assert (first.stored, list(first.writer.done)) == ([], [])
    second = Run(tmp_path, StreamOrigin(FULL_BYTES, 1000, BROKEN, stop_at=2000), before=first)
    assert await second.fetch.run() == FetchEnded(1, "truncated", 0)
    origin = StreamOrigin(FULL_BYTES, 1000)
    third = Run(tmp_path, origin, before=second)
    assert await third.fetch.run() == FetchEnded(1, None, 0)
    assert origin.asked == [(FULL_PACK.frames.sha256, 5000, len(FULL_BYTES))]
    assert third.writer.data[: 4 * 65536] == IMAGE[: 4 * 65536]
    assert not third.image.remnants


async def test_a_cancelled_fetch_keeps_the_frame_that_was_arriving(tmp_path: Path) -> None:
    class Stalls(StreamOrigin):
        async def _parts(self, start: int, stop: int) -> AsyncIterator[Buffer]:
            yield self.data[start : start + 1000]
            run.fetch.cancel()
            await trio.sleep_forever()

    run = Run(tmp_path, Stalls(FULL_BYTES, 1000))
    assert await run.fetch.run() == FetchEnded(1, "cancelled", 0)
    origin = StreamOrigin(FULL_BYTES, 1000)
    assert await Run(tmp_path, origin, before=run).fetch.run() == FetchEnded(1, None, 0)
    assert origin.asked == [(FULL_PACK.frames.sha256, 1000, len(FULL_BYTES))]


@pytest.mark.parametrize("lies", ["before", "after"])
async def test_a_frame_of_two_parts_that_is_wrong_is_begun_anew(tmp_path: Path, lies: str) -> None:
    """Whichever fetch brought the wrong bytes: nothing of it is stored, and nothing of it is kept."""
    bad = bytearray(FULL_BYTES)
    bad[100 if lies == "before" else 5000] ^= 1
    first = Run(tmp_path, StreamOrigin(bytes(bad), 1000, BROKEN, stop_at=3000))
    await first.fetch.run()
    second = Run(tmp_path, StreamOrigin(bytes(bad), 1000), before=first, stop=1)
    ended = await second.fetch.run()
    assert ended == FetchEnded(1, "bad-bytes", BORDER), "the bytes of both fetches came for nothing"
    assert (second.stored, list(second.writer.done)) == ([], [])
    origin = StreamOrigin(FULL_BYTES, 1000)
    third = Run(tmp_path, origin, before=second, stop=1)
    assert await third.fetch.run() == FetchEnded(1, None, 0)
    assert origin.asked == [(FULL_PACK.frames.sha256, 0, BORDER)]


async def test_nothing_is_kept_of_an_origin_that_lied(tmp_path: Path) -> None:
    bad = bytearray(FULL_BYTES)
    bad[5] ^= 1
    run = Run(tmp_path, StreamOrigin(bytes(bad), BORDER + 10))
    assert (await run.fetch.run()).error == "bad-bytes"
    assert not run.image.remnants


async def test_what_was_begun_of_a_dropped_image_is_given_up(tmp_path: Path) -> None:
    first = Run(tmp_path, StreamOrigin(FULL_BYTES, 1000, BROKEN, stop_at=3000))
    await first.fetch.run()
    assert first.image.remnants.close() == 3000
    second = Run(tmp_path, StreamOrigin(FULL_BYTES, 1000, BROKEN, stop_at=2000), before=first)
    ended = await second.fetch.run()
    assert ended == FetchEnded(1, "truncated", 2000), "the image was dropped before it ended"


async def test_a_frame_that_came_whole_is_stored_although_the_rest_did_not_come(tmp_path: Path) -> None:
    """Patches wait for the one processor; that the link breaks meanwhile takes nothing from them."""
    error = OriginError("truncated", "a test")
    run = Run(tmp_path, StreamOrigin(DELTA_BYTES, 1, error, stop_at=len(DELTA_FRAMES[0]) + 1), delta=True)
    assert await run.fetch.run() == FetchEnded(1, "truncated", 0)
    assert [s.start for s in run.stored] == [0]


async def test_a_damaged_base_is_no_error_of_the_fetch(tmp_path: Path) -> None:
    run = Run(tmp_path, StreamOrigin(DELTA_BYTES, 100), delta=True, base=bytes(len(BASE)))
    ended = await run.fetch.run()
    assert ended == FetchEnded(1, None, len(DELTA_BYTES))
    damaged = [e for e in run.events if isinstance(e, BaseDamaged)]
    assert sorted(d.start for d in damaged) == [0, 2 * 65536]
    assert not run.failures


async def test_a_slot_that_fails_is_told_and_ends_the_fetch(tmp_path: Path) -> None:
    writer = MemoryWriter()
    writer.error = SlotError("no space")
    run = Run(tmp_path, StreamOrigin(FULL_BYTES, 4096), writer=writer)
    ended = await run.fetch.run()
    assert ended.error == "local"
    assert [e.message for e in run.failures] == ["no space"]


async def test_a_fetch_that_is_cancelled_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, StreamOrigin(FULL_BYTES, 4096))
    run.fetch.cancel()
    assert (await run.fetch.run()).error == "cancelled"
