"""A virtual slot: which target ranges are written, which of them are wrong, and what a crash would cost.

No bytes are kept. Writing takes the medium's time, one after the other; what was written becomes durable
at the next checkpoint. Not for what is fetched or verified (`device`).
"""

from __future__ import annotations

from p2p.content.intervals import IntervalSet
from p2p.errors import SlotFull
from sim.scenario.model import Storage


class VirtualSlot:
    """The spare slot of one device. Times are seconds of virtual time; `factor` slows the medium."""

    def __init__(self, spec: Storage) -> None:
        self.spec = spec
        self.factor = 1.0
        self.full = False
        self.written = IntervalSet()
        self.bad = IntervalSet()
        """Written ranges that are not the image's bytes."""
        self.unsynced: list[tuple[int, int]] = []
        self._free_at = float("-inf")

    def check_room(self, size: int) -> None:
        """Raise `SlotFull` if an image of `size` bytes does not fit, or the medium is full."""
        if self.full or (self.spec.capacity and size > self.spec.capacity):
            raise SlotFull(f"the slot has no room for {size} bytes", next_step="free space on the medium")

    def write_at(self, now: float, size: int) -> float:
        """When a write of `size` bytes that begins now or when the medium is free is done."""
        self._free_at = max(now, self._free_at) + size / (self.spec.write_rate * self.factor)
        return self._free_at

    def read_at(self, now: float, size: int) -> float:
        """When `size` bytes have been read."""
        return now + size / (self.spec.read_rate * self.factor)

    def put(self, start: int, stop: int, *, good: bool = True) -> None:
        """Target bytes `[start, stop)` are written. Raises `SlotFull`."""
        if self.full:
            raise SlotFull("the medium is full", next_step="free space on the medium")
        self.written.add(start, stop)
        if len(self.bad):
            self.bad.remove(start, stop)
        if not good:
            self.bad.add(start, stop)
        self.unsynced.append((start, stop))

    def forget(self, start: int, stop: int) -> None:
        """No longer count a range as written."""
        self.written.remove(start, stop)
        self.bad.remove(start, stop)

    def is_good(self, start: int, stop: int) -> bool:
        """Whether a range is written and all of it right."""
        return self.written.covers(start, stop) and not self.is_bad(start, stop)

    def is_bad(self, start: int, stop: int) -> bool:
        """Whether a byte of a range is wrong."""
        return len(self.bad) > 0 and list(self.bad.gaps(start, stop)) != [(start, stop)]

    def rot(self, start: int, stop: int) -> None:
        """Written bytes of a range read wrong from now on."""
        for low, high in list(self.written):
            self.bad.add(max(low, start), min(high, stop))

    def checkpoint(self) -> None:
        """What was written is durable."""
        self.unsynced.clear()

    def crash(self) -> None:
        """Lose what was not durable."""
        for start, stop in self.unsynced:
            self.forget(start, stop)
        self.unsynced.clear()
        self._free_at = float("-inf")

    def clear(self) -> None:
        """Begin another image."""
        self.written, self.bad = IntervalSet(), IntervalSet()
        self.unsynced.clear()
