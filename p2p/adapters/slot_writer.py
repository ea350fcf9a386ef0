"""Reading from and writing to one slot; which slot, and what it counts as, is `slots`' business.

Verified bytes go straight to their place. What is there is in `done`; what is there durably is in the
journal; what is right as a whole is known only after it was read back from the medium.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator

from p2p.adapters.files import File
from p2p.adapters.slot_journal import SlotJournal, Writing
from p2p.content.digests import Buffer, Digest
from p2p.content.intervals import IntervalSet
from p2p.errors import SlotError, SlotFull

READ_BACK_BLOCK = 1 << 20
HashImage = Callable[[File, int], Digest]
"""Digest of the first bytes of a file, that many; raises `OSError`."""

_KEPT = "the slot that the device runs from is untouched; what was verified so far is resumed"


class SharedIntervals(IntervalSet):
    """An `IntervalSet` that one thread may ask while another changes it; iteration is over a snapshot."""

    __slots__ = ("_mutex",)

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._mutex = threading.RLock()
        super().__init__(intervals)

    def add(self, start: int, stop: int) -> int:
        with self._mutex:
            return IntervalSet.add(self, start, stop)

    def remove(self, start: int, stop: int) -> None:
        with self._mutex:
            super().remove(start, stop)

    def covers(self, start: int, stop: int) -> bool:
        with self._mutex:
            return IntervalSet.covers(self, start, stop)

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        with self._mutex:
            return iter(list(super().gaps(start, stop)))

    def total(self) -> int:
        with self._mutex:
            return super().total()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        with self._mutex:
            return iter(list(super().__iter__()))


class SlotImage:
    """Random reads of the image in a valid slot (`ports.ImageReader`)."""

    def __init__(self, name: str, file: File, size: int) -> None:
        self._name = name
        self._file = file
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes or `SlotError`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise SlotError(
                f"{self._name}: bytes {offset}+{length} are outside the image of {self.size} bytes"
            )
        try:
            data = self._file.read_at(offset, length)
        except OSError as error:
            raise slot_error(self._name, "read", error) from error
        if len(data) != length:
            raise SlotError(f"{self._name}: ends at {offset + len(data)} of {self.size} bytes")
        return data

    def close(self) -> None:
        self._file.close()


class FileSlotWriter:
    """A slot that an image is being written to (`ports.SlotWriter`).

    `sealed` records, durably, that the slot is valid; `hash_image` reads it back.

    Reads and writes may come from several threads while `checkpoint`, `digest` or `seal` runs in another;
    `checkpoint`, `forget`, `digest` and `seal` one at a time, but a `checkpoint` of nothing. After a failed
    fsync or write nothing is known of the medium: the writer refuses all else and is to be closed; opening it
    again resumes from what had been durable.
    """

    def __init__(
        self,
        name: str,
        writing: Writing,
        file: File,
        journal: SlotJournal,
        sealed: Callable[[], None],
        hash_image: HashImage,
    ) -> None:
        self._name = name
        self._sealed = sealed
        self._hash_image = hash_image
        self._writing = writing
        self._file = file
        self._journal = journal
        self._pending = IntervalSet()
        self._read_back: Digest | None = None
        self._changed = False
        self._broken = ""
        self._is_sealed = False
        self._lock = threading.Lock()
        self.size = writing.size
        self.done = SharedIntervals(journal.durable)

    @property
    def image(self) -> Digest:
        """The image that is meant to be here."""
        return self._writing.image

    @property
    def is_read_back(self) -> bool:
        """Whether the image was read back whole and right, and nothing was written since."""
        return self._read_back == self.image

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes that were verified, or `SlotError`."""
        if offset < 0 or length < 0 or not self.done.covers(offset, offset + length):
            raise SlotError(f"{self._name}: bytes {offset}+{length} are not there yet")
        self._check_usable()
        try:
            data = self._file.read_at(offset, length)
        except OSError as error:
            raise slot_error(self._name, "read", error) from error
        if len(data) != length:
            raise SlotError(f"{self._name}: ends at {offset + len(data)} of {self.size} bytes")
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """Write verified bytes; they count as durable from the next `checkpoint`."""
        self._check_usable()
        stop = offset + len(data)
        if offset < 0 or stop > self.size:
            raise SlotError(f"{self._name}: bytes {offset}+{len(data)} are outside the image of {self.size}")
        self._change()
        try:
            self._file.write_at(offset, data)
        except OSError as error:
            raise self._break("write", error) from error
        with self._lock:
            self._changed = True
            self._read_back = None
            self.done.add(offset, stop)
            self._pending.add(offset, stop)

    def found(self, start: int, stop: int) -> None:
        """A range is there already, and was verified; it counts as durable from the next `checkpoint`."""
        self._check_usable()
        if not 0 <= start < stop <= self.size:
            raise SlotError(f"{self._name}: bytes {start} to {stop} are outside the image of {self.size}")
        with self._lock:
            self._changed = True
            self.done.add(start, stop)
            self._pending.add(start, stop)

    def checkpoint(self) -> None:
        """fsync the data, then make `done` durable. Costs one fsync each and 16 bytes per new range."""
        self._check_usable()
        if not self._pending:
            return
        with self._lock:  # before the fsync: what is written from here on waits for the next checkpoint
            pending, self._pending = self._pending, IntervalSet()
        try:
            self._file.sync()
            self._journal.append(pending)
        except OSError as error:
            raise self._break("make durable", error) from error

    def forget(self, start: int, stop: int) -> None:
        """Take a range out of `done`, durably: no record of the journal speaks of it any more."""
        self.checkpoint()
        self._change()
        self.done.remove(start, stop)
        try:
            self._journal.rewrite(IntervalSet(self.done))
        except OSError as error:
            raise self._break("make durable", error) from error

    def digest(self) -> Digest:
        """Make all durable, read the image back from the medium and hash it. Blocks for as long."""
        if not self.done.covers(0, self.size):
            raise SlotError(f"{self._name}: {self.size - self.done.total()} bytes of the image are missing")
        self.checkpoint()
        with self._lock:
            self._read_back = None
            self._changed = False
        try:
            self._file.drop_cache()
            found = self._hash_image(self._file, self.size)
            self._file.drop_cache()
        except OSError as error:
            raise self._break("read back", error) from error
        with self._lock:
            self._read_back = None if self._changed else found
        return found

    def seal(self) -> None:
        """Mark the slot valid, durably, and drop the journal. Only after `digest` was right.

        From then on nothing is written; peers may read what is here until it is closed.
        """
        self._check_usable()
        with self._lock:  # nor is it sealed while a write is under way, which has taken `_read_back` away
            if self._read_back != self.image:
                raise SlotError(
                    f"{self._name}: not sealed, because it was not read back as {self.image.hex()}"
                )
            self._is_sealed = True
        try:
            if not self._file.is_device and self._file.size() != self.size:
                self._file.resize(self.size)
                self._file.sync()
        except OSError as error:
            raise self._break("truncate", error) from error
        self._sealed()

    def close(self) -> None:
        """Never raises; what was not checkpointed is written again later."""
        self._broken = self._broken or "closed"
        self._file.close()
        self._journal.close()

    def _change(self) -> None:
        """Something is about to be written, so that what was read back says nothing any more."""
        with self._lock:
            if self._is_sealed:
                raise SlotError(f"{self._name}: not written to, because it is sealed", kept=_KEPT)
            self._changed = True
            self._read_back = None

    def _break(self, doing: str, error: OSError) -> SlotError:
        self._broken = f"an earlier error ({error.strerror or error})"
        return slot_error(self._name, doing, error)

    def _check_usable(self) -> None:
        if self._broken:
            raise SlotError(f"{self._name}: not usable after {self._broken}", kept=_KEPT)


def hash_file(file: File, size: int) -> Digest:
    """Digest of the first `size` bytes; `OSError` if there are fewer."""
    state = hashlib.sha256()
    for offset in range(0, size, READ_BACK_BLOCK):
        wanted = min(READ_BACK_BLOCK, size - offset)
        data = file.read_at(offset, wanted)
        if len(data) != wanted:
            raise OSError(errno.EIO, f"ends at {offset + len(data)} of {size} bytes")
        state.update(data)
    return Digest(state.digest())


def slot_error(name: str, doing: str, error: OSError) -> SlotError:
    """What an error of the disk means for a slot: full, in use or failing."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SlotFull(
            f"{name}: cannot {doing} it: {reason}", kept=_KEPT, next_step="free space where the slot lies"
        )
    if error.errno == errno.EBUSY:
        return SlotError(
            f"{name}: cannot {doing} it: the device is mounted or in use",
            kept="nothing was changed",
            next_step="unmount it, or correct [slots] and [boot] so that the running slot is the active one",
        )
    return SlotError(f"{name}: cannot {doing} it: {reason}", kept=_KEPT)
