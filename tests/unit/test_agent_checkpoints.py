"""How soon what was verified is durable: soon at first, seldom later, never all the time (virtual time)."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.adapters.durable import DirectoryBlobStore
from p2p.agent.budget import RateBudget
from p2p.agent.driver import SwarmDriver
from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.content.digests import Buffer, Digest
from p2p.errors import LocalError, SlotError
from p2p.swarm import SwarmNode
from tests.support.small_image import BASE, CHUNK, FULL, FULL_PACK, IMAGE, TASK, MemoryImage, MemoryWriter

SLACK_S = 0.6
"""A thread may be slow, and virtual time goes on meanwhile."""


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0.005)


class Medium(MemoryWriter):
    """Notes when each checkpoint began; each takes `sync_s` and ends with `failure`, if there is one."""

    def __init__(self, clock: MockClock) -> None:
        super().__init__()
        self.clock = clock
        self.began: list[float] = []
        self.sync_s = 0.0
        self.failure: SlotError | None = None

    def checkpoint(self) -> None:
        self.began.append(self.clock.current_time())
        if self.sync_s:
            trio.from_thread.run(trio.sleep, self.sync_s)
        if self.failure is not None:
            raise self.failure

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.began, self.began[1:], strict=False)]


class Nowhere:
    """An origin that nobody asks."""

    wire_bytes = 0

    async def metadata(self, name: str, size_max: int) -> bytes:
        raise AssertionError(name)

    async def object(self, digest: Digest, size: int) -> bytes:
        raise AssertionError(digest)

    def stream(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Buffer]]:
        raise AssertionError(digest)


@asynccontextmanager
async def driving(tmp_path: Path, failed: Callable[[Digest, LocalError], None]) -> AsyncIterator[SwarmDriver]:
    driver = SwarmDriver(
        SwarmNode(device="d1", site="depot", port=1, rng=random.Random(1), wan=False),
        Nowhere(),
        spool=tmp_path / "spool",
        wan=RateBudget(None),
        failed=failed,
        found=lambda address: None,
        indexes=DirectoryBlobStore(tmp_path / "indexes"),
        held=lambda digest: None,
        imported=ImportedBundle(tmp_path / "imported"),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


def image_on(medium: Medium, tmp_path: Path) -> LocalImage:
    image = LocalImage(TASK, tmp_path / "spool", writer=medium)
    image.use(FULL_PACK.index.sha256, FULL)
    return image


async def write_for(image: LocalImage, seconds: float) -> None:
    """Something new every quarter of a second."""
    stop = trio.current_time() + seconds
    while trio.current_time() < stop:
        image.store_piece(FULL_PACK.index.sha256, 0, IMAGE[:CHUNK], "d2")
        await trio.sleep(0.25)


def never(image: Digest, error: LocalError) -> None:
    raise AssertionError(error)


async def test_the_first_bytes_are_durable_soon_and_later_ones_at_the_usual_pace(
    tmp_path: Path, clock: MockClock
) -> None:
    medium = Medium(clock)
    async with driving(tmp_path, never) as driver:
        image = image_on(medium, tmp_path)
        await driver.pursue(image)
        await trio.sleep(5)  # nobody has anything yet
        assert medium.began == []
        came = trio.current_time()
        await write_for(image, 13)
        assert medium.began[0] - came <= 0.5 + SLACK_S
        assert medium.gaps[:4] == [pytest.approx(s, abs=SLACK_S) for s in (1, 2, 3, 3)]
        await trio.sleep(4)
        count = len(medium.began)
        await trio.sleep(6)
        assert len(medium.began) == count  # nothing new, nothing synced


async def test_a_slow_medium_has_at_least_as_much_time_without_a_sync(
    tmp_path: Path, clock: MockClock
) -> None:
    medium = Medium(clock)
    medium.sync_s = 5.0
    async with driving(tmp_path, never) as driver:
        image = image_on(medium, tmp_path)
        await driver.pursue(image)
        await write_for(image, 25)
        assert len(medium.began) >= 3
        assert all(gap >= 2 * medium.sync_s for gap in medium.gaps)
        medium.sync_s = 0.0
        await write_for(image, 24)
        assert medium.gaps[-2:] == [pytest.approx(3, abs=SLACK_S)] * 2


async def test_a_medium_that_fails_fails_the_image_once(tmp_path: Path, clock: MockClock) -> None:
    medium = Medium(clock)
    medium.failure = SlotError("I/O error")
    failures: list[LocalError] = []
    async with driving(tmp_path, lambda image, error: failures.append(error)) as driver:
        image = image_on(medium, tmp_path)
        await driver.pursue(image)
        await write_for(image, 4)
    assert failures == [medium.failure]


async def test_what_is_complete_or_dropped_is_synced_no_more(tmp_path: Path, clock: MockClock) -> None:
    medium, other = Medium(clock), Medium(clock)
    async with driving(tmp_path, never) as driver:
        image = image_on(medium, tmp_path)
        await driver.pursue(image)
        await write_for(image, 2)
        image.sealed(MemoryImage(IMAGE))
        count = len(medium.began)
        await trio.sleep(6)
        assert len(medium.began) == count
        again = image_on(other, tmp_path)
        await driver.give_up(TASK.image)
        await driver.pursue(again)
        await write_for(again, 2)
        assert other.began
        await driver.give_up(TASK.image)
        count = len(other.began)
        await trio.sleep(6)
        assert len(other.began) == count


async def test_what_is_given_up_is_durable_then_and_the_event_loop_does_not_wait_for_it(
    tmp_path: Path, clock: MockClock
) -> None:
    """A medium that has the event loop sleep while it syncs can only do so from a thread."""
    given_up, left = Medium(clock), Medium(clock)
    given_up.sync_s = left.sync_s = 5.0
    async with driving(tmp_path, never) as driver:
        for medium in (given_up, left):
            image = image_on(medium, tmp_path)
            await driver.pursue(image)
            image.store_piece(FULL_PACK.index.sha256, 0, IMAGE[:CHUNK], "d2")
            began = trio.current_time()
            if medium is given_up:
                await driver.give_up(TASK.image)
                assert trio.current_time() - began >= 5.0
                assert len(medium.began) == 1
    assert len(left.began) == 1, "and so is what is left when the agent ends"


@pytest.mark.parametrize("how", ["lose", "drop"])
async def test_the_event_loop_does_not_wait_for_who_reads_a_base(tmp_path: Path, how: str) -> None:
    reading, let = threading.Event(), threading.Event()

    class Slow(MemoryImage):
        def read(self, offset: int, length: int) -> bytes:
            reading.set()
            assert let.wait(10)
            return super().read(offset, length)

    async with driving(tmp_path, never) as driver:
        image = LocalImage(TASK, tmp_path / "spool", reader=MemoryImage(IMAGE), base=Slow(BASE))
        base = image.base
        assert base is not None
        driver.offer(image)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, base.read, 0, 10)
            await trio.to_thread.run_sync(reading.wait)
            if how == "lose":
                nursery.start_soon(driver.lose_bases)
            else:
                driver.drop(TASK.image)
            await wait_all_tasks_blocked()  # and so this task goes on
            let.set()
        assert driver.holds(TASK.image) is (how == "lose")
        assert (image.base is None) is (how == "lose")
