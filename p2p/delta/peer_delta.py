"""Peer deltas: what a peer computes for a device whose base no published pack fits, and how it travels.

Nobody signs a peer delta. It says itself what it was made from: its head and tail are bytes that stand in
the base at the same offsets as in the target, what is between is patched from a base view. The digest of
all those base bytes goes with it, so that a receiver can tell a base that differs (nobody's lie) from a
delta that is wrong (its sender's). What it makes counts only as far as chunks of the full pack's signed
index match.

The form is specified in `docs/spec/wire.md`. Reading and writing images is passed in; applying belongs into
a bounded child process (`p2p.adapters.peer_delta`), as the delta comes from a stranger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgpack

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, parse_digest, sha256
from p2p.content.index import Codec, Compression, ViewRange
from p2p.errors import ContentError, LimitExceeded

VERSION = 1
SIZE_OF_HEAD = 4
"""The length of the head, before it; big-endian."""

HEAD_MAX = 4096
EDGE_STEP = 4 * limits.KIB
"""Head and tail are looked for in steps of so many bytes."""

MARGIN = 4 * limits.MIB
"""The base view reaches so far to both sides of what is patched."""

Read = Callable[[int, int], bytes]
"""`read(offset, length)` of an image: exactly that many bytes."""


@dataclass(frozen=True, slots=True)
class PeerDelta:
    """A delta for target bytes of a length that both sides know.

    `head`, `tail`: so many bytes at its ends are the base's at the same offsets. `view`, `codec`,
    `compression`, `delta_size` and `stored` are as in a PATCH entry and make what is between; `stored` is
    empty where nothing is. `base_digest`: of the base bytes of head, view and tail, in this order.
    """

    head: int
    tail: int
    view: tuple[ViewRange, ...]
    base_digest: Digest
    codec: Codec
    compression: Compression
    delta_size: int
    stored: bytes

    @property
    def view_size(self) -> int:
        return sum(r.length for r in self.view)


def encode(delta: PeerDelta) -> bytes:
    """The payload of the piece that carries it."""
    head: bytes = msgpack.packb(
        [
            VERSION, delta.head, delta.tail, [[r.offset, r.length] for r in delta.view], delta.base_digest,
            int(delta.codec), int(delta.compression), delta.delta_size,
        ]
    )  # fmt: skip
    return len(head).to_bytes(SIZE_OF_HEAD, "big") + head + delta.stored


def decode(payload: Buffer, start: int, length: int, base_size: int) -> PeerDelta:
    """A delta for `length` target bytes from `start`; raises `ContentError` and nothing else."""
    data = memoryview(payload)
    size = int.from_bytes(data[:SIZE_OF_HEAD], "big")
    if not 0 < size <= HEAD_MAX or len(data) < SIZE_OF_HEAD + size:
        raise ContentError(f"peer delta: a head of {size} bytes in {len(data)}")
    stored = bytes(data[SIZE_OF_HEAD + size :])
    try:
        raw = msgpack.unpackb(
            data[SIZE_OF_HEAD : SIZE_OF_HEAD + size], use_list=True, max_map_len=0, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ContentError(f"peer delta: not valid msgpack ({error})") from error
    match raw:
        case [1, head, tail, list(view), digest, codec, compression, delta_size]:
            found = PeerDelta(
                _number(head, limits.PATCH_TARGET_MAX),
                _number(tail, limits.PATCH_TARGET_MAX),
                tuple(_range(r) for r in view[: limits.BASE_VIEW_RANGES_MAX + 1]),
                parse_digest(digest if isinstance(digest, bytes) else b"", "peer delta"),
                _codec(codec),
                _compression(compression),
                _number(delta_size, limits.PATCH_DELTA_MAX),
                stored,
            )
        case _:
            raise ContentError("peer delta: another version or shape")
    _check(found, start, length, base_size)
    return found


def base_parts(delta: PeerDelta, start: int, length: int) -> tuple[ViewRange, ...]:
    """The base bytes that a delta for target bytes from `start` uses, in the order of their digest."""
    head, tail = ViewRange(start, delta.head), ViewRange(start + length - delta.tail, delta.tail)
    return tuple(r for r in (head, *delta.view, tail) if r.length)


def equal_edges(target: Buffer, read_base: Read, start: int, base_size: int) -> tuple[int, int]:
    """How many bytes at both ends of the target, which begins at `start`, the base has at the same offsets.

    In whole steps, but for a target that is there altogether: then `(its length, 0)`.
    """
    new, length = memoryview(target), len(target)
    there = max(0, min(length, base_size - start))
    old = memoryview(read_base(start, there)) if there else memoryview(b"")
    if there == length and old == new:
        return length, 0
    head = 0
    while head + EDGE_STEP <= there and old[head : head + EDGE_STEP] == new[head : head + EDGE_STEP]:
        head += EDGE_STEP
    tail = 0
    if there == length:
        while length - tail - EDGE_STEP >= head and (
            old[length - tail - EDGE_STEP : length - tail] == new[length - tail - EDGE_STEP : length - tail]
        ):
            tail += EDGE_STEP
    return head, tail


def view_around(start: int, stop: int, base_size: int) -> tuple[ViewRange, ...]:
    """The base view for target bytes `[start, stop)`: what is around the same offset, `MARGIN` to each
    side."""
    size = min(base_size, stop - start + 2 * MARGIN, limits.BASE_VIEW_MAX)
    if not size:
        return ()
    low = max(0, min(start - (size - (stop - start)) // 2, base_size - size))
    return (ViewRange(low, size),)


def digest_of(parts: list[bytes]) -> Digest:
    """Of the base bytes that a delta is made from."""
    return sha256(b"".join(parts))


# Inside


def _check(delta: PeerDelta, start: int, length: int, base_size: int) -> None:
    middle = length - delta.head - delta.tail
    if middle < 0:
        raise ContentError("peer delta: head and tail are longer than what it makes")
    if len(delta.view) > limits.BASE_VIEW_RANGES_MAX or delta.view_size > limits.BASE_VIEW_MAX:
        raise LimitExceeded(f"peer delta: base view of {delta.view_size} bytes in {len(delta.view)} ranges")
    if any(r.offset + r.length > base_size for r in base_parts(delta, start, length)):
        raise ContentError("peer delta: uses what is outside the base")
    if bool(middle) != bool(delta.delta_size) or bool(middle) != bool(delta.stored):
        raise ContentError("peer delta: a delta where nothing is patched, or none where something is")
    if not middle and delta.view:
        raise ContentError("peer delta: a base view where nothing is patched")


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise LimitExceeded(f"peer delta: {value!r} is not a number within 0..{most}")
    return value


def _range(raw: object) -> ViewRange:
    match raw:
        case [offset, length] if length:
            return ViewRange(_number(offset, limits.IMAGE_SIZE_MAX), _number(length, limits.BASE_VIEW_MAX))
        case _:
            raise ContentError("peer delta: not a range of the base")


def _codec(value: object) -> Codec:
    if type(value) is not int or value not in set(Codec):
        raise ContentError("peer delta: unknown codec")
    return Codec(value)


def _compression(value: object) -> Compression:
    if type(value) is not int or value not in set(Compression):
        raise ContentError("peer delta: unknown compression")
    return Compression(value)
