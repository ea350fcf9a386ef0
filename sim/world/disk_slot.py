"""A slot on a virtual disk, as `device` sees it: real journal, real checkpoints, real damage.

The same face as `slot.VirtualSlot`. Where there is a writer, it is the installer's own, and what it
says is done is what counts; without one the slot is whole and only read.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.adapters.slot_writer import FileSlotWriter
from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.errors import LocalError, SlotFull
from sim.scenario.model import Storage
from sim.world.disk import VirtualDisk
from sim.world.medium import content
from sim.world.slot import VirtualSlot

STEP = 16 << 20


class DiskSlot(VirtualSlot):
    """The slot at `path`, for `image`. `trouble` is told when a checkpoint fails; `crashed` of a crash."""

    def __init__(
        self,
        spec: Storage,
        disk: VirtualDisk,
        *,
        path: str = "",
        image: Digest | None = None,
        size: int = 0,
        writer: FileSlotWriter | None = None,
        trouble: Callable[[LocalError], None] | None = None,
        crashed: Callable[[], None] | None = None,
    ) -> None:
        self._disk = disk
        self._path = path
        self._image = image
        self._writer = writer
        self._trouble = trouble
        self._crashed = crashed
        self.spec = spec
        self.unsynced = []
        self._free_at = 0.0
        self.written = IntervalSet([(0, size)]) if writer is None else writer.done

    # What faults do

    @property
    def factor(self) -> float:
        return self._disk.factor

    @factor.setter
    def factor(self, factor: float) -> None:
        self._disk.factor = factor

    @property
    def full(self) -> bool:
        return self._disk.room is not None

    @full.setter
    def full(self, full: bool) -> None:
        self._disk.room = 0 if full else None

    def rot(self, start: int, stop: int) -> None:
        """A range reads wrong from now on."""
        if self._path:
            self._disk.rot(self._path, start, stop)

    def crash(self) -> None:
        """The power is lost."""
        if self._crashed is not None:
            self._crashed()

    # What the device does

    @property
    def bad(self) -> IntervalSet:
        """Written ranges that are not the image's bytes."""
        found = IntervalSet()
        if self._image is not None:
            right = self._disk.right(self._path, self._image)
            for start, stop in self.written:
                for gap in right.gaps(start, stop):
                    found.add(*gap)
        return found

    @bad.setter
    def bad(self, bad: IntervalSet) -> None:
        """Nothing: the disk knows."""

    def check_room(self, size: int) -> None:
        """Nothing to do: the installer's plan has."""

    def put(self, start: int, stop: int, *, good: bool = True) -> None:
        """Write a range. Raises `SlotFull`, or whatever else the disk has against it."""
        if self._writer is None:
            return
        try:
            for at in range(start, stop, STEP):
                self._writer.write(at, content(min(STEP, stop - at), right=good))
        except LocalError as error:
            raise SlotFull(error.message) from error
        finally:
            self._disk.take_s()  # its time is in `write_at`

    def forget(self, start: int, stop: int) -> None:
        """No longer count a range as written."""
        if self._writer is not None:
            self._watch(lambda writer: writer.forget(start, stop))

    def is_bad(self, start: int, stop: int) -> bool:
        """Whether a byte of a written range is wrong."""
        return self._image is None or not self._disk.right(self._path, self._image).covers(start, stop)

    def checkpoint(self) -> None:
        """fsync the data, then the journal of what is there."""
        if self._writer is not None:
            self._watch(FileSlotWriter.checkpoint)

    def sealed(self) -> None:
        """The slot is valid; its writer is not needed any more."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.written = IntervalSet(self.written)

    def close(self) -> None:
        """The agent is gone: nothing is written any more."""
        self._writer = None

    def _watch(self, act: Callable[[FileSlotWriter], None]) -> None:
        assert self._writer is not None
        try:
            act(self._writer)
        except LocalError as error:
            self._writer = None
            if self._trouble is not None:
                self._trouble(error)
        finally:
            self._disk.take_s()
