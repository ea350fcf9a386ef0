"""In-memory slots and boot environment, as honest as the real ones; they pass the same contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.intervals import IntervalSet
from p2p.errors import SlotError, SlotFull
from p2p.ports import BootState


class MemoryBoot:
    """Implements `ports.Boot`."""

    def __init__(self, default: str = "a") -> None:
        self._state = BootState(default)

    def read(self) -> BootState:
        return self._state

    def arm(self, slot: str, attempts: int) -> None:
        if attempts < 1 or slot in (self._state.active, self._state.running):
            raise SlotError(f"boot: slot {slot} cannot be tried {attempts} times")
        self._state = BootState(self._state.active, slot, attempts)

    def started(self) -> None:
        state = self._state
        if state.trial is None:
            return
        if state.attempts_left == 0:
            self._state = BootState(state.active, failed=state.trial)
        else:
            self._state = replace(state, attempts_left=state.attempts_left - 1, tried=state.tried + 1)

    def commit(self) -> None:
        if self._state.trial is None or not self._state.tried:
            raise SlotError("boot: no slot is on trial, so there is none to commit")
        self._state = BootState(self._state.trial)

    def rollback(self) -> None:
        self._state = BootState(self._state.active)


class MemorySlotWriter:
    """Implements `ports.SlotWriter`; `durable` is what a new writer of the same image starts with."""

    def __init__(
        self, slots: MemorySlots, slot: str, image: Digest, data: bytearray, durable: IntervalSet
    ) -> None:
        self._slots = slots
        self._slot = slot
        self._data = data
        self._durable = durable
        self._closed = self._sealed = False
        self._read_back: Digest | None = None
        self.image = image
        self.size = len(data)
        self.done = IntervalSet(durable)

    def read(self, offset: int, length: int) -> bytes:
        self._check()
        if offset < 0 or length < 0 or not self.done.covers(offset, offset + length):
            raise SlotError(f"{self._slot}: bytes {offset}+{length} are not there yet")
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: Buffer) -> None:
        self._check()
        self._check_unsealed()
        if offset < 0 or offset + len(data) > self.size:
            raise SlotError(f"{self._slot}: bytes {offset}+{len(data)} are outside the image of {self.size}")
        self._data[offset : offset + len(data)] = data
        self._read_back = None
        self.done.add(offset, offset + len(data))

    def checkpoint(self) -> None:
        self._check()
        for start, stop in self.done:
            self._durable.add(start, stop)

    def forget(self, start: int, stop: int) -> None:
        self.checkpoint()
        self._check_unsealed()
        self._read_back = None
        self.done.remove(start, stop)
        self._durable.remove(start, stop)

    def digest(self) -> Digest:
        self._check()
        if not self.done.covers(0, self.size):
            raise SlotError(f"{self._slot}: bytes of the image are missing")
        self.checkpoint()
        self._read_back = sha256(self._data)
        return self._read_back

    def seal(self) -> None:
        self._check()
        if self._read_back != self.image:
            raise SlotError(f"{self._slot}: not sealed, because it was not read back right")
        self._slots.images[self._slot] = bytes(self._data)
        self._slots.unfinished.pop(self._slot, None)
        self._sealed = True

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise SlotError(f"{self._slot}: not usable after closed")

    def _check_unsealed(self) -> None:
        if self._sealed:
            raise SlotError(f"{self._slot}: not written to, because it is sealed")


class MemoryImage:
    """Implements `ports.ImageReader`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise SlotError(f"bytes {offset}+{length} are outside the image of {self.size} bytes")
        return self._data[offset : offset + length]


class MemorySlots:
    """Implements `ports.Slots`: `images` of valid slots; `unfinished`: image, bytes, durable ranges."""

    def __init__(self, images: Mapping[str, bytes], boot: MemoryBoot, capacity: int = 1 << 30) -> None:
        self.images = dict(images)
        self.unfinished: dict[str, tuple[Digest, bytearray, IntervalSet]] = {}
        self.boot = boot
        self.capacity = capacity

    def active(self) -> str:
        return self.boot.read().running

    def image_in(self, slot: str) -> tuple[Digest, int] | None:
        data = self.images.get(slot)
        return None if data is None else (sha256(data), len(data))

    def open_reader(self, slot: str) -> MemoryImage:
        if slot not in self.images:
            raise SlotError(f"{slot} holds no valid image")
        return MemoryImage(self.images[slot])

    def open_writer(self, slot: str, image: Digest, size: int) -> MemorySlotWriter:
        state = self.boot.read()
        if slot not in ("a", "b") or slot in (state.active, state.trial):
            raise SlotError(f"{slot} is in use by the boot environment")
        if size > self.capacity:
            raise SlotFull(f"{slot}: an image of {size} bytes does not fit into {self.capacity} bytes")
        known = self.unfinished.get(slot)
        if slot in self.images or known is None or (known[0], len(known[1])) != (image, size):
            self.unfinished[slot] = (image, bytearray(size), IntervalSet())
        self.images.pop(slot, None)
        return MemorySlotWriter(self, slot, image, *self.unfinished[slot][1:])
