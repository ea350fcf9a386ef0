"""A small image with a full and a delta pack, made in memory by the real codec, and slots in memory."""

from __future__ import annotations

import random

from p2p.content import index as pack_index
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.index import Chunk, Codec, Copy, Data, PackIndex, Patch, ViewRange, Zero
from p2p.content.intervals import IntervalSet
from p2p.content.limits import KIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress
from p2p.errors import SlotError
from p2p.swarm.events import ImageTask

CHUNK = 64 * KIB
_rng = random.Random(7)
BASE = _rng.randbytes(4 * CHUNK)
TARGET = bytearray(BASE + bytes(CHUNK))
for _at in (*range(1000, CHUNK, 9000), *range(2 * CHUNK, 3 * CHUNK, 11000)):
    TARGET[_at : _at + 16] = _rng.randbytes(16)
IMAGE = bytes(TARGET)
"""Chunks 0 and 2 differ from the base, 1 and 3 are its own, 4 is zeros."""


def _patch(start: int) -> tuple[Patch, bytes]:
    target = IMAGE[start : start + CHUNK]
    delta = CODECS[Codec.HDIFFPATCH].diff(BASE, target)
    compression, stored = compress(delta)
    view = (ViewRange(0, len(BASE)),)
    entry = Patch(
        Codec.HDIFFPATCH, CHUNK, view, len(stored), compression, len(delta), sha256(delta), sha256(target)
    )
    return entry, stored


def _data(start: int, count: int) -> tuple[Data, bytes]:
    raw = [IMAGE[at : at + CHUNK] for at in range(start, start + count * CHUNK, CHUNK)]
    compression, stored = compress(b"".join(raw))
    return Data(len(stored), compression, tuple(Chunk(len(r), sha256(r)) for r in raw)), stored


_first, _first_stored = _patch(0)
_second, _second_stored = _patch(2 * CHUNK)
DELTA = PackIndex(
    sha256(IMAGE), len(IMAGE), sha256(BASE), len(BASE),
    (_first, Copy(CHUNK, CHUNK), _second, Copy(3 * CHUNK, CHUNK), Zero(CHUNK)),
)  # fmt: skip
DELTA_FRAMES = [_first_stored, _second_stored]
_one, _one_stored = _data(0, 3)
_two, _two_stored = _data(3 * CHUNK, 1)
FULL = PackIndex(sha256(IMAGE), len(IMAGE), None, 0, (_one, _two, Zero(CHUNK)))
FULL_FRAMES = [_one_stored, _two_stored]


def _ref(index: PackIndex, frames: list[bytes]) -> PackRef:
    data, joined = pack_index.encode(index), b"".join(frames)
    return PackRef(index.base, ObjectRef(sha256(data), len(data)), ObjectRef(sha256(joined), len(joined)))


FULL_PACK, DELTA_PACK = _ref(FULL, FULL_FRAMES), _ref(DELTA, DELTA_FRAMES)
TASK = ImageTask(sha256(IMAGE), len(IMAGE), sha256(BASE), (FULL_PACK, DELTA_PACK))


class MemoryImage:
    """`ports.ImageReader` over bytes that may be changed."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > len(self.data):
            raise SlotError("outside")
        return bytes(self.data[offset : offset + length])


class MemoryWriter(MemoryImage):
    """`ports.SlotWriter`; `error` is raised by the next write."""

    def __init__(self, size: int = len(IMAGE)) -> None:
        super().__init__(bytes(size))
        self.done = IntervalSet()
        self.checkpoints = 0
        self.closed = False
        self.error: SlotError | None = None

    def write(self, offset: int, data: Buffer) -> None:
        if self.error is not None:
            raise self.error
        if self.closed:
            raise SlotError("closed")
        self.data[offset : offset + len(data)] = data
        self.done.add(offset, offset + len(data))

    def checkpoint(self) -> None:
        self.checkpoints += 1

    def forget(self, start: int, stop: int) -> None:
        self.done.remove(start, stop)

    def digest(self) -> Digest:
        return sha256(self.data)

    def seal(self) -> None: ...

    def close(self) -> None:
        self.closed = True
