"""What a base for which nothing was published still offers, found by the full pack's chunks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2p.agent import salvage as module
from p2p.agent.images import LocalImage
from p2p.agent.salvage import salvage
from p2p.content import index as pack_index
from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.index import PackIndex
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.content.pieces import PieceMap
from p2p.delta.chunking import cut
from p2p.delta.packing import DataJob, make_data, plan_full
from p2p.errors import ConfigError, SlotError
from p2p.swarm.events import How, ImageTask
from tests.support.small_image import MemoryImage, MemoryWriter

_rng = random.Random(11)
IMAGE = _rng.randbytes(3 * MIB) + bytes(MIB) + _rng.randbytes(2 * MIB)


def _full() -> PackIndex:
    entries = []
    for step in plan_full(IMAGE, cut):
        if isinstance(step, DataJob):
            stop = step.offset + sum(step.chunks)
            entries.append(make_data(memoryview(IMAGE)[step.offset : stop], step.chunks)[0])
        else:
            entries.append(step)
    return PackIndex(sha256(IMAGE), len(IMAGE), None, 0, tuple(entries))


FULL = _full()
_encoded = pack_index.encode(FULL)
FULL_MAP = PieceMap(FULL)
PACK = PackRef(None, ObjectRef(sha256(_encoded), len(_encoded)), ObjectRef(sha256(b"frames"), 1))
NAME = PACK.index.sha256


def on_device(
    tmp_path: Path, base: bytes | MemoryImage | None, digest: Digest | None = None
) -> tuple[LocalImage, MemoryWriter]:
    writer = MemoryWriter(len(IMAGE))
    reader = MemoryImage(base) if isinstance(base, bytes) else base
    task = ImageTask(sha256(IMAGE), len(IMAGE), digest or sha256(b"strange"), (PACK,))
    image = LocalImage(task, tmp_path, writer=writer, base=reader)
    image.use(NAME, FULL)
    return image, writer


def found(image: LocalImage) -> int:
    """Bytes that were salvaged; each step tells of one piece, once."""
    steps = list(salvage(image, NAME))
    assert all(s.how is How.BASE and s.pack == NAME and len(s.pieces) == 1 for s in steps)
    assert len({s.pieces for s in steps}) == len(steps)
    return sum(s.stop - s.start for s in steps)


def is_right(writer: MemoryWriter) -> bool:
    """Whether whatever counts as done is the image's."""
    return all(writer.data[a:b] == IMAGE[a:b] for a, b in writer.done)


DATA = sum(frame.target_length for frame in FULL.frames)


def test_the_same_content_is_found_where_it_stands(tmp_path: Path) -> None:
    image, writer = on_device(tmp_path, IMAGE)
    assert found(image) == DATA
    assert is_right(writer)
    assert found(image) == 0, "what is done is not looked for again"


def test_content_that_moved_is_found_by_cutting(tmp_path: Path) -> None:
    moved = IMAGE[:MIB] + b"inserted" * 700 + IMAGE[MIB:]
    image, writer = on_device(tmp_path, moved)
    assert found(image) >= DATA - 2 * limits.CHUNK_SIZE_MAX
    assert is_right(writer)


class _Counting(MemoryImage):
    stop = 0

    def read(self, offset: int, length: int) -> bytes:
        self.stop = max(self.stop, offset + length)
        return super().read(offset, length)


def test_once_all_is_found_the_rest_of_the_base_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gigabytes, and until the end of it the node asks nobody for anything."""
    monkeypatch.setattr(module, "WINDOW", MIB)
    base = _Counting(b"x" * 5000 + IMAGE + bytes(20 * MIB))
    image, writer = on_device(tmp_path, base)
    lacking = FULL_MAP[len(FULL_MAP) // 2]
    for piece in FULL_MAP.pieces:
        if piece is not lacking:
            image.store_own(NAME, piece.number, IMAGE[piece.target_offset : piece.target_stop])
    assert found(image) == lacking.target_length
    assert is_right(writer)
    assert base.stop < lacking.target_stop + 2 * MIB


def test_windows_do_not_cut_what_the_image_is_not_cut_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 700 * KIB)
    image, writer = on_device(tmp_path, b"x" * 5000 + IMAGE)
    assert found(image) >= DATA - 2 * limits.CHUNK_SIZE_MAX
    assert is_right(writer)


def test_a_changed_byte_costs_its_chunk(tmp_path: Path) -> None:
    changed = bytearray(IMAGE)
    for at in (100 * KIB, 5 * MIB):
        changed[at] ^= 1
    image, writer = on_device(tmp_path, bytes(changed))
    assert DATA - 2 * limits.CHUNK_SIZE_MAX <= found(image) < DATA
    assert is_right(writer)


@pytest.mark.parametrize("base", [b"", b"short", random.Random(1).randbytes(MIB), bytes(MIB)])
def test_a_base_of_no_use_offers_nothing(tmp_path: Path, base: bytes) -> None:
    image, writer = on_device(tmp_path, base)
    assert found(image) == 0
    assert not writer.done


def test_a_base_that_is_shorter_offers_what_it_has(tmp_path: Path) -> None:
    image, writer = on_device(tmp_path, IMAGE[: 2 * MIB])
    assert MIB < found(image) <= 2 * MIB
    assert is_right(writer)


class _Failing(MemoryImage):
    def read(self, offset: int, length: int) -> bytes:
        if offset + length > MIB:
            raise SlotError("bad block")
        return super().read(offset, length)


def test_a_base_that_cannot_be_read_any_further_ends_it(tmp_path: Path) -> None:
    image, writer = on_device(tmp_path, _Failing(IMAGE))
    assert 0 < found(image) <= MIB
    assert is_right(writer)


def test_a_base_that_goes_away_ends_it(tmp_path: Path) -> None:
    image, writer = on_device(tmp_path, IMAGE)
    steps = salvage(image, NAME)
    next(steps)
    image.lose_base()
    assert list(steps) == []
    assert is_right(writer)


def test_what_another_thread_takes_away_is_gone_and_no_error(tmp_path: Path) -> None:
    """Between two looks of one thread: the base is lost, or the image is complete."""

    class Vanishing(LocalImage):
        looked = False

        def __getattribute__(self, name: str) -> object:
            if name not in ("_base", "_writer"):
                return super().__getattribute__(name)
            if self.looked:
                return None
            self.looked = True
            return super().__getattribute__(name)

    task = on_device(tmp_path, IMAGE)[0].task
    image = Vanishing(task, tmp_path, writer=MemoryWriter(len(IMAGE)), base=MemoryImage(IMAGE))
    for look, expected in (
        (lambda: image.base_size, len(IMAGE)),
        (lambda: image.base is not None, True),
        (lambda: image.is_done(0, 1), False),
    ):
        image.looked = False
        assert look() == expected


def test_without_its_compiled_part_only_content_in_place_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(data: memoryview, average: int) -> object:
        raise ConfigError("pyfastcdc runs without its compiled part")

    monkeypatch.setattr(module, "cut", slow)
    image, writer = on_device(tmp_path, IMAGE[:MIB] + b"inserted" + IMAGE[MIB:])
    assert 0 < found(image) <= MIB
    assert is_right(writer)


def test_a_base_is_strange_if_nothing_starts_from_it(tmp_path: Path) -> None:
    assert on_device(tmp_path, IMAGE)[0].is_strange
    assert not on_device(tmp_path, None)[0].is_strange
    delta = PackRef(sha256(b"known"), PACK.index, PACK.frames)
    task = ImageTask(sha256(IMAGE), len(IMAGE), sha256(b"known"), (PACK, delta))
    assert not LocalImage(task, tmp_path, writer=MemoryWriter(), base=MemoryImage(IMAGE)).is_strange


def test_a_slot_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    image, writer = on_device(tmp_path, IMAGE)
    writer.error = SlotError("full")
    with pytest.raises(SlotError):
        found(image)
