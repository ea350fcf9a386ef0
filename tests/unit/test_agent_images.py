"""`LocalImage`: only verified bytes are written, and it is clear whose fault anything else is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from p2p.agent.images import BaseDamagedError, LocalImage
from p2p.agent.rechecking import ReadBackError
from p2p.agent.spool import SpoolMemory
from p2p.content.digests import Buffer, Digest, sha256
from p2p.errors import ContentError, SlotError, StoreError
from p2p.swarm.events import BaseDamaged, How
from tests.support.small_image import (
    BASE,
    CHUNK,
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

DELTA_NAME, FULL_NAME = DELTA_PACK.index.sha256, FULL_PACK.index.sha256


@pytest.fixture
def writer() -> MemoryWriter:
    return MemoryWriter()


@pytest.fixture
def image(tmp_path: Path, writer: MemoryWriter) -> LocalImage:
    made = LocalImage(TASK, tmp_path / "spool", writer=writer, base=MemoryImage(BASE))
    made.use(DELTA_NAME, DELTA)
    made.use(FULL_NAME, FULL)
    return made


def flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def test_a_delta_pack_makes_the_image(image: LocalImage, writer: MemoryWriter) -> None:
    steps = list(image.local_steps(DELTA_NAME))
    assert [s.how for s in steps if not isinstance(s, BaseDamaged)] == [How.BASE, How.BASE, How.ZERO]
    for number, frame in enumerate(DELTA_FRAMES):
        stored = image.store_frame(DELTA_NAME, number, frame)
        assert (stored.how, stored.kept) == (How.WAN, True)
    assert bytes(writer.data) == IMAGE
    assert image.read_back()
    assert list(image.local_steps(DELTA_NAME)) == []  # what is done is not done again


def test_a_full_pack_makes_the_image(image: LocalImage, writer: MemoryWriter) -> None:
    for number, frame in enumerate(FULL_FRAMES):
        image.store_frame(FULL_NAME, number, frame)
    list(image.local_steps(FULL_NAME))
    assert bytes(writer.data) == IMAGE


def test_of_a_frame_only_chunks_are_written_that_are_not_there_verified(
    image: LocalImage, writer: MemoryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One came from a peer, one was copied of a base that nobody has verified, one is new."""
    image.store_piece(FULL_NAME, 0, IMAGE[:CHUNK], "d1")
    writer.write(CHUNK, bytes(CHUNK))
    written: list[int] = []
    write = writer.write

    def look(offset: int, data: Buffer) -> None:
        written.append(offset // CHUNK)
        write(offset, data)

    monkeypatch.setattr(writer, "write", look)
    stored = image.store_frame(FULL_NAME, 0, FULL_FRAMES[0])
    assert written == [1, 2]
    assert (stored.start, stored.stop, stored.pieces) == (0, 3 * CHUNK, (0, 1, 2))
    assert bytes(writer.data[: 3 * CHUNK]) == IMAGE[: 3 * CHUNK]
    writer.forget(0, CHUNK)  # it was found wrong
    written.clear()
    image.store_frame(FULL_NAME, 0, FULL_FRAMES[0])
    assert written == [0]


@pytest.mark.parametrize(
    ("pack", "frames"), [(DELTA_NAME, DELTA_FRAMES), (FULL_NAME, FULL_FRAMES)], ids=["delta", "full"]
)
@pytest.mark.parametrize("damage", [flipped, lambda d: d[:-1], lambda d: d + b"x", lambda d: b""])
def test_a_bad_frame_is_the_origins_fault_and_not_written(
    image: LocalImage, writer: MemoryWriter, pack: Digest, frames: list[bytes], damage: object
) -> None:
    with pytest.raises(ContentError):
        image.store_frame(pack, 0, damage(frames[0]))
    assert not writer.done
    assert image.piece_bytes(pack, 0) is None or pack == FULL_NAME
    image.store_frame(pack, 0, frames[0])
    assert writer.done.covers(0, CHUNK)


@pytest.mark.parametrize("damage", [flipped, lambda d: d[:-1], lambda d: d + b"x"])
def test_a_bad_piece_is_the_peers_fault_and_not_written(
    image: LocalImage, writer: MemoryWriter, damage: object
) -> None:
    right = IMAGE[:CHUNK]
    with pytest.raises(ContentError, match="piece 0"):
        image.store_piece(FULL_NAME, 0, damage(right), "d2")
    with pytest.raises(ContentError, match="piece 0"):
        image.store_piece(DELTA_NAME, 0, damage(DELTA_FRAMES[0]), "d2")
    assert not writer.done
    stored = image.store_piece(FULL_NAME, 0, right, "d2")
    assert (stored.how, stored.device, stored.pieces) == (How.PEER, "d2", (0,))
    assert writer.done.covers(0, CHUNK)


def test_a_damaged_base_is_nobody_elses_fault(tmp_path: Path, writer: MemoryWriter) -> None:
    image = LocalImage(TASK, tmp_path, writer=writer, base=MemoryImage(bytes(len(BASE))))
    image.use(DELTA_NAME, DELTA)
    with pytest.raises(BaseDamagedError, match="base range of piece 0"):
        image.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])
    assert not writer.done
    assert image.damaged_base(DELTA_NAME, 0) == BaseDamaged(TASK.image, 0, CHUNK)
    without = LocalImage(TASK, tmp_path, writer=writer)
    without.use(DELTA_NAME, DELTA)
    with pytest.raises(BaseDamagedError, match="no base"):
        without.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])


def test_a_base_that_cannot_be_read_is_reported_range_by_range(tmp_path: Path, writer: MemoryWriter) -> None:
    image = LocalImage(TASK, tmp_path, writer=writer, base=MemoryImage(BASE[: 2 * CHUNK]))
    image.use(DELTA_NAME, DELTA)
    steps = list(image.local_steps(DELTA_NAME))
    assert [type(s).__name__ for s in steps] == ["Stored", "BaseDamaged", "Stored"]
    assert steps[1] == BaseDamaged(TASK.image, 3 * CHUNK, 4 * CHUNK)


def test_a_slot_that_fails_is_this_devices_fault(image: LocalImage, writer: MemoryWriter) -> None:
    writer.error = SlotError("no space")
    with pytest.raises(SlotError, match="no space"):
        image.store_piece(FULL_NAME, 0, IMAGE[:CHUNK], "d2")
    with pytest.raises(SlotError, match="no space"):
        image.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])


def test_a_recheck_finds_exactly_the_damage(image: LocalImage, writer: MemoryWriter) -> None:
    for number, frame in enumerate(FULL_FRAMES):
        image.store_frame(FULL_NAME, number, frame)
    assert image.recheck(FULL_NAME) == ()
    writer.data[2 * CHUNK + 9] ^= 1
    assert image.recheck(FULL_NAME) == ((2 * CHUNK, 3 * CHUNK),)
    assert not writer.done.covers(2 * CHUNK, 3 * CHUNK)
    assert writer.done.covers(0, 2 * CHUNK)


def test_a_recheck_finds_what_should_be_zeros_too_and_they_are_written_again(
    image: LocalImage, writer: MemoryWriter
) -> None:
    for number, frame in enumerate(FULL_FRAMES):
        image.store_frame(FULL_NAME, number, frame)
    list(image.local_steps(FULL_NAME))
    assert image.recheck(FULL_NAME) == ()
    writer.data[4 * CHUNK + 9] ^= 1
    writer.data[3 * CHUNK + 9] ^= 1
    assert image.recheck(FULL_NAME) == ((3 * CHUNK, 5 * CHUNK),)
    assert [(s.start, s.stop) for s in image.local_steps(FULL_NAME)] == [(4 * CHUNK, 5 * CHUNK)]
    image.store_frame(FULL_NAME, 1, FULL_FRAMES[1])
    assert image.recheck(FULL_NAME) == ()
    assert image.read_back()


def test_a_release_that_contradicts_itself_is_told_from_a_damaged_slot(
    tmp_path: Path, writer: MemoryWriter
) -> None:
    other = sha256(b"another image")
    index = dataclasses.replace(FULL, image=other)
    image = LocalImage(TASK._replace(image=other), tmp_path, writer=writer)
    image.use(FULL_NAME, index)
    for number, frame in enumerate(FULL_FRAMES):
        image.store_frame(FULL_NAME, number, frame)
    assert image.recheck(FULL_NAME) == ()  # something is still missing
    list(image.local_steps(FULL_NAME))
    assert not image.read_back()
    with pytest.raises(ReadBackError, match="the release contradicts itself") as caught:
        image.recheck(FULL_NAME)
    assert caught.value.next_step == "publish a corrected release under a new version"
    writer.data[9] ^= 1
    assert image.recheck(FULL_NAME) == ((0, CHUNK),)


def test_peers_get_what_is_right_and_nothing_else(image: LocalImage, writer: MemoryWriter) -> None:
    image.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])
    assert image.piece_bytes(DELTA_NAME, 0) == DELTA_FRAMES[0]
    assert image.piece_bytes(DELTA_NAME, 1) is None  # never had
    assert image.piece_bytes(FULL_NAME, 0) == IMAGE[:CHUNK]  # made from a patch, served as a chunk
    image.sealed(MemoryImage(flipped(IMAGE[:CHUNK]) + IMAGE[CHUNK : 2 * CHUNK] + bytes(3 * CHUNK)))
    assert image.piece_bytes(FULL_NAME, 1) == IMAGE[CHUNK : 2 * CHUNK]
    assert image.piece_bytes(FULL_NAME, 2) is None  # rotted in the slot


def test_what_another_try_was_asked_for_is_refused(tmp_path: Path) -> None:
    image = LocalImage(TASK, tmp_path, reader=MemoryImage(IMAGE))
    assert image.piece_bytes(FULL_NAME, 0) is None
    image.use(FULL_NAME, FULL)
    assert image.piece_bytes(FULL_NAME, 0) == IMAGE[:CHUNK]
    assert image.piece_bytes(FULL_NAME, 99) is None


def made_beside(writer: MemoryWriter, tmp_path: Path) -> LocalImage:
    """An image whose patches have no room in memory."""
    image = LocalImage(TASK, tmp_path / "spool", writer=writer, base=MemoryImage(BASE), memory=SpoolMemory(0))
    image.use(DELTA_NAME, DELTA)
    return image


def test_a_spool_that_fails_costs_only_the_serving(writer: MemoryWriter, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a directory")
    image = made_beside(writer, tmp_path)
    stored = image.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])
    assert not stored.kept
    assert writer.done.covers(0, CHUNK)
    assert image.piece_bytes(DELTA_NAME, 0) is None


def test_the_spool_leaves_no_file_behind(writer: MemoryWriter, tmp_path: Path) -> None:
    made_beside(writer, tmp_path).store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])
    assert list((tmp_path / "spool").iterdir()) == []


def test_closing_keeps_what_was_verified_and_takes_no_more(image: LocalImage, writer: MemoryWriter) -> None:
    image.store_frame(DELTA_NAME, 0, DELTA_FRAMES[0])
    image.close()
    assert (writer.checkpoints, writer.closed) == (1, True)
    with pytest.raises(SlotError, match="closed"):
        image.store_frame(DELTA_NAME, 1, DELTA_FRAMES[1])
    assert image.piece_bytes(DELTA_NAME, 0) is None
    image.close()


def test_a_complete_image_is_not_written_to(tmp_path: Path) -> None:
    image = LocalImage(TASK, tmp_path, reader=MemoryImage(IMAGE))
    image.use(FULL_NAME, FULL)
    assert image.done == ((0, len(IMAGE)),)
    assert sha256(IMAGE) == TASK.image
    with pytest.raises(StoreError, match="complete"):
        image.store_piece(FULL_NAME, 0, IMAGE[:CHUNK], "d2")
