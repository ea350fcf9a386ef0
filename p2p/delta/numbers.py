"""Unsigned numbers inside deltas: LEB128 of at most 63 bits, and the big-endian form of HDIFF13."""

from __future__ import annotations

from p2p.errors import ContentError

_BITS_MAX = 63


def write_number(out: bytearray, value: int) -> None:
    """Append `value` (not negative) as LEB128."""
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def read_numbers(data: memoryview, at: int, count: int) -> tuple[list[int], int]:
    """Read `count` LEB128 numbers from offset `at`; return them and the offset behind them.

    Raises `ContentError` when the data ends or a number passes 63 bits. `count` is checked against
    the bytes that are left before anything is allocated for it.
    """
    if count > len(data) - at:
        raise ContentError("delta: truncated numbers")
    numbers: list[int] = []
    for _ in range(count):
        value = shift = 0
        while True:
            if at >= len(data):
                raise ContentError("delta: truncated number")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= _BITS_MAX:
                raise ContentError("delta: number is too long")
        numbers.append(value)
    return numbers, at


def read_big_endian(data: memoryview, at: int) -> tuple[int, int]:
    """One number in HDiffPatch's form (7 bits a byte, most significant first) and the offset behind it."""
    value = 0
    for used in range(1, 10):
        if at >= len(data):
            raise ContentError("delta: truncated number")
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
        if used == _BITS_MAX // 7:
            break
    raise ContentError("delta: number is too long")


def zigzag(value: int) -> int:
    """A signed number as an unsigned one, small magnitudes first."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The reverse of `zigzag`."""
    return -((value + 1) >> 1) if value & 1 else value >> 1
