"""The A/B slots of one payload, as files or block devices (`ports.Slots`).

A small record per slot says which image it validly holds. Opening a writer marks the slot invalid,
durably, before its first byte changes; only an image that was read back from the medium with the
right digest makes it valid again. What arrived in between is in a journal (`slot_journal`), so that a
killed agent goes on where it was. Not for choosing what runs: that is the boot environment's.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from p2p.adapters.files import (
    SYSTEM_FILES,
    File,
    Files,
    Space,
    parent_of,
    read_whole,
    replace_durably,
)
from p2p.adapters.slot_journal import SlotJournal, Writing
from p2p.adapters.slot_writer import FileSlotWriter, HashImage, SlotImage, hash_file, slot_error
from p2p.content import limits
from p2p.content.digests import Digest
from p2p.errors import SlotError, SlotFull
from p2p.ports import Boot

_RECORD_SIZE_MAX = 4096


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What is durably known of a slot. `valid`: the image is whole; else it is being written."""

    image: Digest
    size: int
    generation: int
    valid: bool


class FileSlots:
    """The slots of `payload`: `places` maps slot names to paths, records live below `directory`.

    `hash_image` reads an image back from the medium: `hash_file`, but where the medium is a model of one.
    What a slot holds may be asked from any thread, also while another opens, seals or adopts one (those
    one at a time); nobody who asks waits for an fsync.
    """

    def __init__(
        self,
        payload: str,
        places: Mapping[str, str],
        directory: str,
        boot: Boot,
        *,
        files: Files = SYSTEM_FILES,
        hash_image: HashImage = hash_file,
    ) -> None:
        self.payload = payload
        self._places = dict(places)
        self._directory = directory
        self._boot = boot
        self._files = files
        self._hash_image = hash_image
        self._records: dict[str, SlotRecord | None] = {}
        self._changes = 0
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._places))

    def describe(self, slot: str) -> str:
        """Payload, slot and path, for messages."""
        return f"{self.payload} slot {slot} ({self.path(slot)})"

    def path(self, slot: str) -> str:
        if slot not in self._places:
            raise SlotError(f"{self.payload}: there is no slot {slot!r} (there are {', '.join(self.names)})")
        return self._places[slot]

    def active(self) -> str:
        """The slot that the device runs from, as the boot environment says."""
        return self._boot.read().running

    def target(self) -> str:
        """The slot that an update goes to: the one that is neither run nor fallen back to."""
        boot = self._boot.read()
        free = [name for name in self.names if name not in (boot.active, boot.running)]
        if not free:
            raise SlotError(f"{self.payload}: every slot is in use ({boot})")
        return free[0]

    def record_of(self, slot: str) -> SlotRecord | None:
        """What is durably known of a slot; None when nothing is, or the record is damaged."""
        with self._lock:
            if slot in self._records:
                return self._records[slot]
            before = self._changes
        try:
            data = read_whole(self._files, self._record_path(slot), _RECORD_SIZE_MAX)
        except OSError as error:
            raise slot_error(self.describe(slot), "read the record of", error) from error
        found = None if data is None else _decode_record(data)
        with self._lock:
            if self._changes == before:  # else it may be of before the change
                self._records[slot] = found
        return found

    def image_in(self, slot: str) -> tuple[Digest, int] | None:
        """Digest and size of the image that a valid slot holds; None if empty, invalid or unknown."""
        record = self.record_of(slot)
        if record is None or not record.valid or not self._files.exists(self.path(slot)):
            return None
        file = self._open(slot)
        try:
            size = file.size()
        finally:
            file.close()
        fits = size >= record.size if file.is_device else size == record.size
        return (record.image, record.size) if fits else None

    def space(self, slot: str) -> Space:
        """Where the slot lies and what it can grow to."""
        try:
            return self._files.space(self.path(slot))
        except OSError as error:
            raise slot_error(self.describe(slot), "examine", error) from error

    def open_reader(self, slot: str) -> SlotImage:
        """Reads of the image in a valid slot; `SlotError` when it holds none."""
        held = self.image_in(slot)
        if held is None:
            raise SlotError(f"{self.describe(slot)} holds no valid image")
        return SlotImage(self.describe(slot), self._open(slot), held[1])

    def open_writer(self, slot: str, image: Digest, size: int) -> FileSlotWriter:
        """Mark the slot invalid, durably, before its first byte changes; resume if it was this image.

        Raises `SlotFull` when it cannot hold `size` bytes (found before anything changes where
        possible) and `SlotError` for a slot that is run, fallen back to or mounted.
        """
        name = self.describe(slot)
        boot = self._boot.read()
        if slot in (boot.active, boot.trial):
            raise SlotError(f"{name} is in use by the boot environment ({boot})")
        resumed = self._resume(slot, image, size)
        if resumed is not None:
            return resumed
        self._check_space(slot, size)
        before = self.record_of(slot)
        generation = before.generation + 1 if before else 1
        # Claimed before it is marked: a mounted device must stay valid.
        file = self._open(slot, write=True)
        try:
            if before is None:  # its journal, if there is one, must not pass for one of this generation
                self._files.remove(self._journal_path(slot))
            self._record(slot, SlotRecord(image, size, generation, False))
            if not file.is_device:
                file.resize(min(size, file.size()))
                file.reserve(size)
                file.sync()
                self._files.sync_directory(parent_of(self.path(slot)))
            writing = Writing(generation, image, size)
            journal = SlotJournal.create(self._files, self._journal_path(slot), writing)
        except OSError as error:
            file.close()
            raise slot_error(name, "prepare", error) from error
        except BaseException:
            file.close()
            raise
        return self._writer(slot, writing, file, journal)

    def adopt(self, slot: str, size: int | None = None) -> tuple[Digest, int]:
        """Hash the image that somebody else put into a slot, and record it as valid.

        `size`: bytes of the image; None for the whole file or device. Blocks while it reads.
        """
        name = self.describe(slot)
        file = self._open(slot)
        try:
            there = file.size()
            size = there if size is None else size
            if not 0 < size <= min(there, limits.IMAGE_SIZE_MAX):
                raise SlotError(f"{name} holds {there} bytes, so no image of {size} bytes can be adopted")
            if size < there and not file.is_device:
                raise SlotError(f"{name} is a file of {there} bytes; an image of {size} must be all of it")
            file.drop_cache()
            digest = self._hash_image(file, size)
        except OSError as error:
            raise slot_error(name, "read", error) from error
        finally:
            file.close()
        before = self.record_of(slot)
        generation = before.generation + 1 if before else 1
        self._record(slot, SlotRecord(digest, size, generation, True))
        self._drop_journal(slot)
        return digest, size

    def adopt_active(self) -> tuple[Digest, int] | None:
        """On the first run of a flashed device: adopt the active slot, if nothing is recorded of it."""
        slot = self.active()
        if self._files.exists(self._record_path(slot)) or not self._files.exists(self.path(slot)):
            return None
        file = self._open(slot)
        try:
            empty = file.size() == 0
        finally:
            file.close()
        return None if empty else self.adopt(slot)

    def _resume(self, slot: str, image: Digest, size: int) -> FileSlotWriter | None:
        record = self.record_of(slot)
        if record is None or record.valid or (record.image, record.size) != (image, size):
            return None
        if not self._files.exists(self.path(slot)):
            return None
        writing = Writing(record.generation, image, size)
        file = self._open(slot, write=True)
        try:
            journal = None
            if file.size() >= size:
                journal = SlotJournal.resume(self._files, self._journal_path(slot), writing)
        except OSError as error:
            file.close()
            raise slot_error(self.describe(slot), "resume", error) from error
        if journal is None:
            file.close()
            return None
        return self._writer(slot, writing, file, journal)

    def _writer(self, slot: str, writing: Writing, file: File, journal: SlotJournal) -> FileSlotWriter:
        def sealed() -> None:
            self._record(slot, SlotRecord(writing.image, writing.size, writing.generation, True))
            self._drop_journal(slot)

        return FileSlotWriter(self.describe(slot), writing, file, journal, sealed, self._hash_image)

    def _check_space(self, slot: str, size: int) -> None:
        space = self.space(slot)
        limit = space.held if space.is_device else space.held + space.free
        if size > limit:
            raise SlotFull(
                f"{self.describe(slot)}: an image of {size} bytes does not fit into {limit} bytes",
                kept="nothing was changed",
                next_step="use a larger partition" if space.is_device else f"free {size - limit} bytes there",
            )

    def _open(self, slot: str, *, write: bool = False) -> File:
        path = self.path(slot)
        try:
            return self._files.open(path, write=write, create=write)
        except OSError as error:
            raise slot_error(self.describe(slot), "open", error) from error

    def _record(self, slot: str, record: SlotRecord) -> None:
        self._remember(slot, None)
        try:
            self._files.make_directories(self._directory)
            replace_durably(self._files, self._record_path(slot), _encode_record(record))
        except OSError as error:
            self._remember(slot, None)
            raise slot_error(self.describe(slot), "record the state of", error) from error
        self._remember(slot, record)

    def _remember(self, slot: str, record: SlotRecord | None) -> None:
        """`None`: whoever asks next has to look."""
        with self._lock:
            self._changes += 1
            self._records.pop(slot, None)
            if record is not None:
                self._records[slot] = record

    def _drop_journal(self, slot: str) -> None:
        # Not made durable: the journal of a valid slot is never read, and the next writing replaces it.
        try:
            self._files.remove(self._journal_path(slot))
        except OSError as error:
            raise slot_error(self.describe(slot), "drop the journal of", error) from error

    def _record_path(self, slot: str) -> str:
        return f"{self._directory}/{slot}.json"

    def _journal_path(self, slot: str) -> str:
        return f"{self._directory}/{slot}.journal"


def _encode_record(record: SlotRecord) -> bytes:
    body = {
        "image": record.image.hex(),
        "size": record.size,
        "generation": record.generation,
        "valid": record.valid,
    }
    text = json.dumps(body, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _decode_record(data: bytes) -> SlotRecord | None:
    check, _, text = data.rstrip(b"\n").partition(b" ")
    if check != f"{zlib.crc32(text):08x}".encode():
        return None
    body = json.loads(text)
    return SlotRecord(
        Digest(bytes.fromhex(body["image"])), body["size"], body["generation"], body["valid"] is True
    )
