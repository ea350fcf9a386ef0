"""The bsdiff codec in Slipstream's own container: columns of numbers, then bytes, uncompressed.

    "SBSD" · count · diff size · extra size · count × add · count × copy · count × seek · diff · extra

Numbers are LEB128; `seek` is zigzag-coded. Meaning as in bsdiff (Percival 2003): for each triple, `add`
target bytes are diff bytes plus base bytes (modulo 256), `copy` bytes come from extra, and the base
position moves by `seek`. Unlike the original, every read must lie inside the base view and every
stream must be used up exactly; this is checked before any byte is moved, because reads and writes out
of bounds are what bsdiff's published vulnerabilities are made of.

The search for matches is `bsdiff4`'s. `diff` may overflow the C stack or take minutes on some inputs:
it belongs in a bounded child process (`coordinator.publishing.packing_child`).
"""

from __future__ import annotations

from itertools import accumulate

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.content.index import Codec
from p2p.delta.numbers import read_numbers, unzigzag, write_number, zigzag
from p2p.errors import ContentError, LimitExceeded

MAGIC = b"SBSD"
TRIPLES_MAX = 1 << 18
"""Triples in one delta; real patch frames stay below a tenth of it."""
_SIGN = 1 << 63


class Bsdiff:
    """`DeltaCodec` for `Codec.BSDIFF`."""

    codec = Codec.BSDIFF

    def diff(self, view: Buffer, target: Buffer) -> bytes | None:
        """The delta, or None when the result would not be a delta that `apply` takes."""
        from bsdiff4 import core

        control, difference, extra = core.diff(bytes(view), bytes(target))
        triples = [_read_triple(control, at) for at in range(0, len(control), 24)]
        if len(triples) > TRIPLES_MAX:
            return None
        delta = bytearray(MAGIC)
        for number in (len(triples), len(difference), len(extra)):
            write_number(delta, number)
        for add, _, _ in triples:
            write_number(delta, add)
        for _, copy, _ in triples:
            write_number(delta, copy)
        for _, _, seek in triples:
            write_number(delta, zigzag(seek))
        delta += difference
        delta += extra
        return bytes(delta) if len(delta) <= limits.PATCH_DELTA_MAX else None

    def apply(self, view: Buffer, delta: Buffer, target_length: int) -> bytes:
        """The target bytes. Raises `ContentError` before it reads or writes out of bounds."""
        from bsdiff4 import core  # here, so that an agent at rest goes without it

        data = memoryview(delta)
        if bytes(data[:4]) != MAGIC:
            raise ContentError("bsdiff delta: wrong magic")
        (count, diff_size, extra_size), at = read_numbers(data, 4, 3)
        if count > TRIPLES_MAX:
            raise LimitExceeded(f"bsdiff delta: {count} triples are over {TRIPLES_MAX}")
        adds, at = read_numbers(data, at, count)
        copies, at = read_numbers(data, at, count)
        seeks, at = read_numbers(data, at, count)
        moves = [unzigzag(s) for s in seeks]
        _check(adds, copies, moves, diff_size, extra_size, len(view), target_length)
        if at + diff_size + extra_size != len(data):
            raise ContentError("bsdiff delta: streams do not end where the delta ends")
        control = b"".join(
            _triple(add, copy, move) for add, copy, move in zip(adds, copies, moves, strict=True)
        )
        difference = bytes(data[at : at + diff_size])
        extra = bytes(data[at + diff_size :])
        try:
            output: bytes = core.patch(bytes(view), target_length, control, difference, extra)
        except (ValueError, MemoryError) as error:
            raise ContentError(f"bsdiff delta: {error}") from error
        return output


def _check(
    adds: list[int],
    copies: list[int],
    moves: list[int],
    diff_size: int,
    extra_size: int,
    view_size: int,
    target_length: int,
) -> None:
    if sum(adds) != diff_size or sum(copies) != extra_size:
        raise ContentError("bsdiff delta: triples do not use up the streams")
    if diff_size + extra_size != target_length:
        raise ContentError(f"bsdiff delta: makes {diff_size + extra_size} bytes instead of {target_length}")
    steps = (add + move for add, move in zip(adds, moves, strict=True))
    for add, position in zip(adds, accumulate(steps, initial=0), strict=False):
        if add and not 0 <= position <= view_size - add:
            raise ContentError("bsdiff delta: reads outside the base view")
        if not -_SIGN < position < _SIGN:
            raise ContentError("bsdiff delta: position overflows")


def _read_triple(control: bytes, at: int) -> tuple[int, int, int]:
    add, copy, seek = (_signed(control[i : i + 8]) for i in (at, at + 8, at + 16))
    return add, copy, seek


def _signed(raw: bytes) -> int:
    value = int.from_bytes(raw, "little")
    return -(value & (_SIGN - 1)) if value & _SIGN else value


def _triple(add: int, copy: int, seek: int) -> bytes:
    sign_and_size = seek if seek >= 0 else _SIGN | -seek
    return add.to_bytes(8, "little") + copy.to_bytes(8, "little") + sign_and_size.to_bytes(8, "little")
