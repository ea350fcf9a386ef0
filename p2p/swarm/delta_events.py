"""The events and actions of peer deltas, which `events` has among its own.

What a delta is: `p2p.delta.peer_delta`; who makes and who asks for one: `delta_making`, `delta_asking`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from p2p.content.digests import Buffer, Digest


class Verdict(Enum):
    """What a peer's delta was good for.

    RIGHT: all that it makes has its signed digests. WRONG: it has not, or breaks a rule, although the base
    is the one that it names: its sender's fault. OTHER_BASE: the base bytes are not those that it was made
    from. FAILED: this device could not apply it.
    """

    RIGHT = "right"
    WRONG = "wrong"
    OTHER_BASE = "other-base"
    FAILED = "failed"


class DeltaMade(NamedTuple):
    """A `MakeDelta` for a peer is over, whatever came of it; the driver answers the peer."""

    image: Digest
    device: str
    group: int


class DeltaUsed(NamedTuple):
    """A `UseDelta` is over; `Stored` came before for each range that it made rightly. `size`: of its
    payload."""

    image: Digest
    group: int
    source: str
    size: int
    verdict: Verdict


class MakeDelta(NamedTuple):
    """Make a peer delta of pieces `[start, stop)` of the full pack, out of the image and its base.

    `group` is their number. The driver answers `request` of the peer with `Piece` or `Refuse` (`dont-have`:
    it would not be worth it), as it does a `Serve` of `offered` and `group`; `DeltaMade` follows.
    """

    device: str
    request: int
    image: Digest
    pack: Digest
    offered: Digest
    group: int
    start: int
    stop: int


class UseDelta(NamedTuple):
    """Apply a peer's delta in a bounded child, verify and write what of pieces `[start, stop)` it makes.

    `Stored` for each range that has its signed digest, then `DeltaUsed`.
    """

    image: Digest
    pack: Digest
    group: int
    start: int
    stop: int
    payload: Buffer
    source: str
