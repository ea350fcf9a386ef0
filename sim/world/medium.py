"""What lies on a virtual medium: files of real bytes, and slots of which only is known what is right.

Each knows what of it was synced, and what a power cut may leave of the rest. Not for names,
directories and time: that is `sim.world.disk`'s.
"""

from __future__ import annotations

import random

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.content.limits import MIB

SECTOR = 512

_RIGHT = memoryview(bytes(16 * MIB))
_WRONG = memoryview(b"\1" + bytes(16 * MIB - 1))


class PowerCut(BaseException):
    """The power went in the middle of an operation; not an `Exception`, so that nothing handles it."""


def content(length: int, *, right: bool = True) -> memoryview:
    """Bytes of an image to write, at most 16 MiB of them: the right ones, or not."""
    if length > len(_RIGHT):
        raise ValueError(f"{length} bytes at a time are over {len(_RIGHT)}")
    return (_RIGHT if right else _WRONG)[:length]


class SmallFile:
    """A file of real bytes."""

    __slots__ = ("data", "durable", "pending")

    def __init__(self, data: bytes = b"") -> None:
        self.data: bytes | bytearray = data
        self.durable = data
        self.pending: list[tuple[int, bytes] | int] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        if offset == 0 and length >= len(self.data) and type(self.data) is bytes:
            return self.data
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        if offset == 0 and len(data) >= len(self.data):
            self.data = data  # shared by all devices that were sent the same document
            return
        if type(self.data) is bytes:
            self.data = bytearray(self.data)
        assert isinstance(self.data, bytearray)
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        if size != len(self.data):
            self.pending.append(size)
            self.data = bytes(self.data[:size]) + bytes(max(0, size - len(self.data)))

    def sync(self) -> bool:
        changed = bool(self.pending)
        self.durable = bytes(self.data)
        self.pending.clear()
        return changed

    def survivor(self, rng: random.Random) -> SmallFile:
        """The file after a power cut: what was not synced is there not at all, whole, or in part.

        In part means sectors that are missing, zero or torn.
        """
        how = rng.choice(("none", "all", "some", "zeros")) if self.pending else "none"
        if how == "all":
            return SmallFile(bytes(self.data))
        after = SmallFile(self.durable)
        for change in self.pending if how != "none" else ():
            if isinstance(change, int):
                if rng.random() < 0.7:
                    after.resize(change)
                continue
            offset, data = change
            for at in range(0, len(data), SECTOR):
                part = data[at : at + SECTOR]
                luck = rng.random()
                if how == "zeros" and luck < 0.4:
                    part = bytes(len(part))
                elif luck < 0.3:
                    continue
                elif luck < 0.4:
                    part = part[: rng.randrange(len(part) + 1)]
                after.write(offset + at, part)
        after.sync()
        return after

    def lose_power(self, rng: random.Random) -> None:
        """Be what survives of it."""
        after = self.survivor(rng)
        self.data, self.durable = after.data, after.durable
        self.pending.clear()


class SlotFile:
    """A file or partition that images are written to: `right[image]` are the ranges that hold its bytes."""

    __slots__ = ("device", "pending", "right", "size", "writing")

    def __init__(self, size: int = 0, *, device: bool = False) -> None:
        self.size = size
        self.device = device
        self.right: dict[Digest, IntervalSet] = {}
        self.pending: list[tuple[int, int]] = []
        self.writing: Digest | None = None

    def put(self, start: int, stop: int, image: Digest | None) -> None:
        """The range now holds bytes of `image` (None: of none)."""
        held = self.right.get(image) if image is not None else None
        if held is not None and held.covers(start, stop):
            return
        for name, ranges in self.right.items():
            if name != image:
                ranges.remove(start, stop)
        if held is not None:
            held.add(start, stop)
        elif image is not None:
            self.right[image] = IntervalSet([(start, stop)])
        self.pending.append((start, stop))

    def sync(self) -> bool:
        changed = bool(self.pending)
        self.pending.clear()
        return changed

    def lose_power(self, rng: random.Random) -> None:
        if not self.pending:
            return
        share = {"none": 1.0, "all": 0.0, "some": 0.5}[rng.choice(("none", "all", "some"))]
        pending, self.pending = self.pending, []
        for start, stop in pending:
            if rng.random() < share:
                self.put(start, stop, None)
        self.pending.clear()
        self.writing = None


Inode = SmallFile | SlotFile
