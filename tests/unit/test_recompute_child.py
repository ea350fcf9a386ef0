"""Making a patch anew in a child process: the same bytes, or an error within its limits."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.adapters.recompute import recompute
from p2p.agent.budget import ProcessorBudget
from p2p.agent.images import LocalImage
from p2p.agent.recomputing import Recomputing
from p2p.content.digests import sha256
from p2p.content.index import Codec, Compression, Patch
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress
from p2p.errors import ContentError, LocalError, StoreError
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
)

NAME = DELTA_PACK.index.sha256
MEMORY = 512 << 20
FIRST = DELTA.frames[0].entry
assert isinstance(FIRST, Patch)


def held(tmp_path: Path, base: bytes = BASE) -> LocalImage:
    """An image that a device runs, and what it was made from."""
    image = LocalImage(TASK, tmp_path / "spool", reader=MemoryImage(IMAGE), base=MemoryImage(base))
    image.use(NAME, DELTA)
    image.use(FULL_PACK.index.sha256, FULL)
    return image


async def test_it_makes_the_same_bytes() -> None:
    assert await recompute(FIRST, BASE, IMAGE[:CHUNK], MEMORY) == DELTA_FRAMES[0]


async def test_so_does_the_other_codec() -> None:
    target = IMAGE[:CHUNK]
    delta = CODECS[Codec.BSDIFF].diff(BASE, target)
    assert delta is not None
    compression, stored = compress(delta)
    entry = dataclasses.replace(
        FIRST, codec=Codec.BSDIFF, compression=compression, stored_size=len(stored),
        delta_size=len(delta), delta_digest=sha256(delta),
    )  # fmt: skip
    assert await recompute(entry, BASE, target, MEMORY) == stored


@pytest.mark.parametrize(
    "change",
    [
        {"delta_digest": sha256(b"other")},
        {"delta_size": FIRST.delta_size + 1},
        {"stored_size": FIRST.stored_size + 1},
        {"compression": next(c for c in Compression if c is not FIRST.compression)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_other_bytes_than_the_index_says_are_not_given(change: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match="ended with 3"):
        await recompute(dataclasses.replace(FIRST, **change), BASE, IMAGE[:CHUNK], MEMORY)


async def test_memory_is_bounded() -> None:
    with pytest.raises(LocalError, match="ended with"):
        await recompute(FIRST, BASE, IMAGE[:CHUNK], 16 << 20)


async def test_an_image_serves_what_was_made(tmp_path: Path) -> None:
    image, told = held(tmp_path), list[e.Event]()
    assert image.piece_bytes(NAME, 0) is None
    await Recomputing(told.append, MEMORY).make(image, e.Recompute(TASK.image, NAME, 0))
    assert told == [e.Recomputed(TASK.image, NAME, 0, right=True)]
    assert image.piece_bytes(NAME, 0) == DELTA_FRAMES[0]


async def test_on_the_battery_a_patch_waits(tmp_path: Path) -> None:
    image, told, processor = held(tmp_path), list[e.Event](), ProcessorBudget(battery=True)
    with trio.move_on_after(0.3):
        await Recomputing(told.append, MEMORY, processor).make(image, e.Recompute(TASK.image, NAME, 0))
    assert told == []
    processor.on_battery(False)
    await Recomputing(told.append, MEMORY, processor).make(image, e.Recompute(TASK.image, NAME, 0))
    assert told == [e.Recomputed(TASK.image, NAME, 0, right=True)]


async def test_a_base_that_is_not_the_base_makes_nothing(tmp_path: Path) -> None:
    image, told = held(tmp_path, bytes(len(BASE))), list[e.Event]()
    await Recomputing(told.append, MEMORY).make(image, e.Recompute(TASK.image, NAME, 0))
    assert told == [e.Recomputed(TASK.image, NAME, 0, right=False)]
    assert image.piece_bytes(NAME, 0) is None


async def test_without_memory_or_an_image_nothing_is_made(tmp_path: Path) -> None:
    told = list[e.Event]()
    await Recomputing(told.append, None).make(held(tmp_path), e.Recompute(TASK.image, NAME, 0))
    await Recomputing(told.append, MEMORY).make(None, e.Recompute(TASK.image, NAME, 0))
    assert told == 2 * [e.Recomputed(TASK.image, NAME, 0, right=False)]


def test_a_base_that_is_written_over_is_let_go(tmp_path: Path) -> None:
    image = held(tmp_path)
    image.recompute_job(NAME, 0)
    image.lose_base()
    with pytest.raises(StoreError, match="not here any more"):
        image.recompute_job(NAME, 0)


@pytest.mark.parametrize("way", ["lose_base", "close"])
def test_a_base_is_not_closed_under_a_thread_that_reads_it(tmp_path: Path, way: str) -> None:
    image = held(tmp_path)
    real, reading, done = image._base, threading.Event(), threading.Event()
    assert real is not None
    order: list[str] = []

    class Slow:
        def read(self, offset: int, length: int) -> bytes:
            reading.set()
            done.wait(0.5)  # as long as the other thread does not get on, it is not because of us
            order.append("read")
            return real.read(offset, length)

        def close(self) -> None:
            order.append("closed")
            done.set()

    image._base = Slow()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(image.recompute_job, NAME, 0)
        assert reading.wait(10)
        getattr(image, way)()
        assert image._base is None or way == "close"
        try:
            assert job.result(10)
        except StoreError as error:
            assert "not here any more" in error.message
    assert order[:2] == ["read", "closed"]
    with pytest.raises(StoreError, match="not here any more"):
        image.recompute_job(NAME, 0)


def test_chunks_are_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises((ContentError, StoreError)):
        held(tmp_path).recompute_job(FULL_PACK.index.sha256, 0)
