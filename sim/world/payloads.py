"""Bytes that stand for a payload: slices of one block of zeros; one whose first byte is 1 is wrong.

So nothing is copied or hashed, and what a payload weighs is its length.
"""

from __future__ import annotations

from p2p.content.digests import Buffer
from p2p.content.limits import MIB
from p2p.swarm.messages import Part
from p2p.swarm.parts import Begun

GOOD = memoryview(bytes(8 * MIB))
BAD = memoryview(b"\1" + bytes(8 * MIB))


def other(size: int) -> Buffer:
    """A delta that was made from other base bytes than those of its receiver: rare, so there is no block of
    it."""
    return b"\2" + bytes(size - 1)


def is_right(payload: Buffer, size: int) -> bool:
    """Whether a payload is the right one of `size` bytes."""
    if len(payload) != size or payload[0] != 0:
        return False
    return isinstance(payload, memoryview) or 1 not in payload  # it was put together of two


def begun_with(begun: Begun | None, part: Part) -> Begun:
    """What has come of a piece in parts with one more of them."""
    if begun is None or begun.request != part.request:
        return Begun(part.request, part.payload)
    block = BAD if begun.data[0] else GOOD
    return Begun(part.request, block[: len(begun.data) + len(part.payload)])
