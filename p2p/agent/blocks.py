"""Buffers for pieces on their way from a peer to the slot, used again once the piece is stored.

A new buffer costs the kernel a page at a time and is cleared before it is filled, which at the speed of
a LAN is some percent of what receiving costs. Only who is done with a piece for good gives its buffer back;
one that is not given back is garbage like any other.
"""

from __future__ import annotations

from p2p.content.digests import Buffer
from p2p.content.limits import CHUNK_SIZE_MAX, KIB, MIB

STEP = 32 * KIB
"""Capacities are multiples of this, so that a buffer fits pieces of about its size."""

KEPT_BYTES = 4 * MIB
"""What may lie idle."""


class _Block(bytearray):
    """A buffer that came from `Blocks`."""


class Blocks:
    """Idle buffers by their capacity."""

    def __init__(self) -> None:
        self._idle: dict[int, list[_Block]] = {}
        self.kept = 0

    def take(self, size: int) -> memoryview:
        """A buffer of `size` bytes, whatever is in it; larger ones than a chunk are not from here."""
        if not STEP <= size <= CHUNK_SIZE_MAX:
            return memoryview(bytearray(size))
        capacity = -(-size // STEP) * STEP
        idle = self._idle.get(capacity)
        if not idle:
            return memoryview(_Block(capacity))[:size]
        self.kept -= capacity
        return memoryview(idle.pop())[:size]

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back, if it came from here. Nobody may read it or write to it any more."""
        block = buffer.obj if isinstance(buffer, memoryview) else None
        if isinstance(block, _Block) and self.kept + len(block) <= KEPT_BYTES:
            self._idle.setdefault(len(block), []).append(block)
            self.kept += len(block)
