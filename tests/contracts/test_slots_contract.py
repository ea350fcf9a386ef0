"""What every `ports.Slots` and `SlotWriter` does, the in-memory one included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.boot import FileBoot
from p2p.adapters.slots import FileSlots
from p2p.content.digests import sha256
from p2p.errors import SlotError
from p2p.ports import Boot, Slots
from tests.contracts.slot_doubles import MemoryBoot, MemorySlots

OLD = b"old image " * 300
NEW = b"new image, longer " * 400
DIGEST = sha256(NEW)

Reopen = Callable[[], Slots]


@pytest.fixture(params=["memory", "files"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    """Opens the slots anew, as a restarted agent does; a holds OLD and runs, b is empty."""
    if request.param == "memory":
        slots = MemorySlots({"a": OLD}, MemoryBoot())
        return lambda: slots
    (tmp_path / "a.img").write_bytes(OLD)

    def files() -> FileSlots:
        places = {"a": str(tmp_path / "a.img"), "b": str(tmp_path / "b.img")}
        return FileSlots("rootfs", places, str(tmp_path / "slots"), FileBoot(str(tmp_path / "boot.env")))

    files().adopt("a")
    return files


def boot_of(slots: Slots) -> Boot:
    assert isinstance(slots, MemorySlots | FileSlots)
    return slots.boot if isinstance(slots, MemorySlots) else slots._boot


def install(slots: Slots, data: bytes = NEW) -> None:
    writer = slots.open_writer("b", sha256(data), len(data))
    writer.write(0, data)
    assert writer.digest() == sha256(data)
    writer.seal()


def test_the_flashed_slot_is_active_and_the_other_empty(reopen: Reopen) -> None:
    slots = reopen()
    assert slots.active() == "a"
    assert slots.image_in("a") == (sha256(OLD), len(OLD))
    assert slots.image_in("b") is None


def test_a_reader_gives_exactly_what_is_asked_for(reopen: Reopen) -> None:
    reader = reopen().open_reader("a")
    assert reader.size == len(OLD)
    assert reader.read(5, 10) == OLD[5:15]
    assert reader.read(len(OLD), 0) == b""
    for offset, length in ((len(OLD) - 5, 6), (-1, 2), (0, -1), (len(OLD) + 1, 0)):
        with pytest.raises(SlotError, match="outside the image"):
            reader.read(offset, length)


def test_an_empty_slot_cannot_be_read(reopen: Reopen) -> None:
    with pytest.raises(SlotError, match="holds no valid image"):
        reopen().open_reader("b")


def test_a_slot_is_valid_only_after_it_was_read_back_and_sealed(reopen: Reopen) -> None:
    slots = reopen()
    writer = slots.open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    with pytest.raises(SlotError, match="not sealed"):
        writer.seal()
    assert reopen().image_in("b") is None
    assert writer.digest() == DIGEST
    writer.seal()
    assert reopen().image_in("b") == (DIGEST, len(NEW))
    assert reopen().open_reader("b").read(0, len(NEW)) == NEW


def test_what_is_sealed_is_read_until_it_is_closed_and_written_no_more(reopen: Reopen) -> None:
    """Peers go on reading while the slot is marked valid and opened anew."""
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.digest()
    writer.seal()
    assert writer.read(10, 20) == NEW[10:30]
    for change in (lambda: writer.write(0, NEW[:10]), lambda: writer.forget(0, 10)):
        with pytest.raises(SlotError, match="because it is sealed"):
            change()
    writer.checkpoint()  # there is nothing to be made durable
    writer.close()
    with pytest.raises(SlotError, match="not usable after closed"):
        writer.read(10, 20)
    assert reopen().open_reader("b").read(0, len(NEW)) == NEW


def test_a_wrong_image_is_read_back_as_such_and_never_sealed(reopen: Reopen) -> None:
    wrong = NEW[:-1] + b"?"
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, wrong)
    assert writer.digest() == sha256(wrong)
    with pytest.raises(SlotError, match="not sealed"):
        writer.seal()
    assert reopen().image_in("b") is None


def test_what_is_written_after_the_read_back_must_be_read_back_again(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.digest()
    writer.write(0, NEW[:10])
    with pytest.raises(SlotError, match="not sealed"):
        writer.seal()
    writer.digest()
    writer.seal()
    assert reopen().image_in("b") == (DIGEST, len(NEW))


def test_opening_a_writer_makes_a_valid_slot_invalid(reopen: Reopen) -> None:
    install(reopen())
    reopen().open_writer("b", sha256(OLD), len(OLD)).close()
    assert reopen().image_in("b") is None


def test_what_was_checkpointed_is_resumed(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(100, NEW[100:200])
    writer.write(200, NEW[200:300])
    writer.checkpoint()
    writer.write(500, NEW[500:600])
    writer.close()
    again = reopen().open_writer("b", DIGEST, len(NEW))
    assert list(again.done) == [(100, 300)]
    assert again.read(150, 100) == NEW[150:250]


def test_another_image_starts_from_nothing(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.checkpoint()
    writer.close()
    assert list(reopen().open_writer("b", sha256(OLD), len(NEW)).done) == []


def test_a_sealed_image_that_is_written_again_starts_from_nothing(reopen: Reopen) -> None:
    install(reopen())
    assert list(reopen().open_writer("b", DIGEST, len(NEW)).done) == []


def test_a_forgotten_range_stays_forgotten(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.forget(100, 200)
    assert list(writer.done) == [(0, 100), (200, len(NEW))]
    with pytest.raises(SlotError, match="missing"):
        writer.digest()
    writer.close()
    again = reopen().open_writer("b", DIGEST, len(NEW))
    assert list(again.done) == [(0, 100), (200, len(NEW))]
    again.write(100, NEW[100:200])
    assert again.digest() == DIGEST


def test_only_what_is_done_can_be_read_from_a_writer(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW[:100])
    assert writer.read(0, 100) == NEW[:100]
    for offset, length in ((0, 101), (-1, 5), (50, -1)):
        with pytest.raises(SlotError, match="not there yet"):
            writer.read(offset, length)


def test_nothing_is_written_outside_the_image(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(len(NEW) - 1, NEW[-1:])
    for offset, data in ((len(NEW), b"x"), (-1, b"x"), (len(NEW) - 1, b"xy")):
        with pytest.raises(SlotError, match="outside the image"):
            writer.write(offset, data)
    assert list(writer.done) == [(len(NEW) - 1, len(NEW))]


def test_slots_in_use_are_never_written(reopen: Reopen) -> None:
    slots = reopen()
    with pytest.raises(SlotError, match="in use"):
        slots.open_writer("a", DIGEST, len(NEW))
    install(slots)
    boot_of(slots).arm("b", 2)
    for slot in ("a", "b"):
        with pytest.raises(SlotError, match="in use"):
            slots.open_writer(slot, sha256(OLD), len(OLD))
    boot_of(slots).started()
    assert slots.active() == "b"
    boot_of(slots).commit()
    slots.open_writer("a", sha256(OLD), len(OLD)).close()
    assert slots.image_in("b") == (DIGEST, len(NEW))


def test_a_closed_writer_refuses(reopen: Reopen) -> None:
    writer = reopen().open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.close()
    writer.close()
    with pytest.raises(SlotError, match="not usable after closed"):
        writer.write(0, NEW)
    with pytest.raises(SlotError, match="not usable after closed"):
        writer.checkpoint()


def test_an_image_of_no_bytes_is_an_image(reopen: Reopen) -> None:
    install(reopen(), b"")
    assert reopen().image_in("b") == (sha256(b""), 0)
