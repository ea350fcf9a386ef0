"""Bytes that stand for a payload: slices of one block of zeros; one whose first byte is 1 is wrong.

So nothing is copied or hashed, and what a payload weighs is its length.
"""

from __future__ import annotations

from p2p.content.digests import Buffer
from p2p.content.limits import MIB

GOOD = memoryview(bytes(8 * MIB))
BAD = memoryview(b"\1" + bytes(8 * MIB))


def other(size: int) -> Buffer:
    """A delta that was made from other base bytes than those of its receiver: rare, so there is no block of
    it."""
    return b"\2" + bytes(size - 1)


def is_right(payload: Buffer, size: int) -> bool:
    """Whether a payload is the right one of `size` bytes."""
    return len(payload) == size and payload[0] == 0
