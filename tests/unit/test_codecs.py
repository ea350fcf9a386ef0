"""Codecs: round trips, determinism, and deltas that describe something else than they should."""

from __future__ import annotations

import random

import hdiffpatch
import pytest

from p2p.content.index import Codec
from p2p.delta import CODECS
from p2p.delta.bsdiff import MAGIC, TRIPLES_MAX, Bsdiff
from p2p.delta.hdiff import Hdiff, read_header
from p2p.delta.numbers import read_big_endian, read_numbers, unzigzag, write_number, zigzag
from p2p.errors import ContentError, LimitExceeded

RNG = random.Random(7)
OLD = RNG.randbytes(20_000)
NEW = OLD[:5_000] + b"inserted" + OLD[5_000:15_000] + RNG.randbytes(500) + OLD[12_000:]
PAIRS = {
    "edited": (OLD, NEW),
    "equal": (OLD, OLD),
    "unrelated": (OLD, random.Random(8).randbytes(3_000)),
    "shrunk": (OLD, OLD[100:200]),
    "zeros": (bytes(5_000), bytes(9_000)),
    "one byte": (b"a", b"b"),
}


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("pair", list(PAIRS))
def test_round_trip(codec: Codec, pair: str) -> None:
    view, target = PAIRS[pair]
    delta = CODECS[codec].diff(view, target)
    assert delta is not None
    assert CODECS[codec].apply(view, delta, len(target)) == target


@pytest.mark.parametrize("codec", list(Codec))
def test_memoryviews_give_the_same_delta_as_bytes(codec: Codec) -> None:
    first = CODECS[codec].diff(OLD, NEW)
    assert first == CODECS[codec].diff(memoryview(bytearray(OLD)), memoryview(bytearray(NEW)))
    assert first is not None
    assert CODECS[codec].apply(memoryview(OLD), memoryview(first), len(NEW)) == NEW


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("length", [0, len(NEW) - 1, len(NEW) + 1, 1 << 40])
def test_another_target_length_is_refused(codec: Codec, length: int) -> None:
    delta = CODECS[codec].diff(OLD, NEW)
    assert delta is not None
    with pytest.raises(ContentError, match="instead of"):
        CODECS[codec].apply(OLD, delta, length)


@pytest.mark.parametrize("codec", list(Codec))
def test_every_truncation_is_refused(codec: Codec) -> None:
    delta = CODECS[codec].diff(OLD, NEW)
    assert delta is not None
    for length in range(len(delta)):
        with pytest.raises(ContentError):
            CODECS[codec].apply(OLD, delta[:length], len(NEW))


def test_hdiffpatch_refuses_a_base_view_of_another_size() -> None:
    delta = Hdiff().diff(OLD, NEW)
    assert delta is not None
    with pytest.raises(ContentError, match="for a base view of 20000 bytes, not 20001"):
        Hdiff().apply(OLD + b"x", delta, len(NEW))


def test_hdiffpatch_refuses_compression_inside() -> None:
    target = OLD + b"the same words again and again " * 200
    plain = hdiffpatch.diff(OLD, target, None)
    packed = hdiffpatch.diff(OLD, target, "zlib")
    assert Hdiff().apply(OLD, plain, len(target)) == target
    with pytest.raises(ContentError, match="not HDIFF13 without compression"):
        Hdiff().apply(OLD, packed, len(target))
    # The same with the compressor's name taken out: the sizes still say that streams are compressed.
    with pytest.raises(ContentError, match="a stream inside is compressed"):
        Hdiff().apply(OLD, packed.replace(b"&zlib\0", b"&\0", 1), len(target))


def test_hdiffpatch_header_adds_up() -> None:
    delta = Hdiff().diff(OLD, NEW)
    assert delta is not None
    header = read_header(delta)
    assert (header.target_size, header.base_size) == (len(NEW), len(OLD))
    assert header.delta_size == len(delta)


def triples(*moves: tuple[int, int, int], difference: bytes = b"", extra: bytes = b"") -> bytes:
    """A bsdiff delta with these (add, copy, seek) triples."""
    out = bytearray(MAGIC)
    for number in (len(moves), len(difference), len(extra)):
        write_number(out, number)
    for column in range(2):
        for move in moves:
            write_number(out, move[column])
    for move in moves:
        write_number(out, zigzag(move[2]))
    return bytes(out) + difference + extra


VIEW = b"0123456789"


def test_bsdiff_by_hand() -> None:
    delta = triples((4, 2, 4), (2, 0, -100), difference=bytes(6), extra=b"XY")
    assert Bsdiff().apply(VIEW, delta, 8) == b"0123XY89"


FAR = 1 << 61
HOSTILE = {
    "reads behind the view": (
        triples((8, 0, 3), (2, 0, 0), difference=bytes(10)),
        10,
        "outside the base view",
    ),
    "reads before the view": (
        triples((8, 0, -9), (2, 0, 0), difference=bytes(10)),
        10,
        "outside the base view",
    ),
    "adds more than the view": (triples((11, 0, 0), difference=bytes(11)), 11, "outside the base view"),
    "position overflows": (
        triples((1, 0, FAR), (0, 0, FAR), (0, 0, FAR), (0, 0, FAR), (0, 0, 0), difference=b"1"),
        1,
        "position overflows",
    ),
    "diff stream is too short": (triples((5, 0, 0), difference=bytes(4)), 4, "do not use up the streams"),
    "extra stream is too long": (triples((4, 1, 0), difference=bytes(4), extra=b"12"), 6, "do not use up"),
    "another magic": (b"BSDIFF40" + bytes(20), 10, "wrong magic"),
    "no triples but bytes": (triples(difference=b"1"), 1, "do not use up the streams"),
    "bytes behind the streams": (triples((4, 0, 0), difference=bytes(4)) + b"1", 4, "where the delta ends"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_bsdiff_triples_are_refused(name: str) -> None:
    delta, length, reason = HOSTILE[name]
    with pytest.raises(ContentError, match=reason):
        Bsdiff().apply(VIEW, delta, length)


@pytest.mark.parametrize(
    ("delta", "length", "expected"),
    [
        (triples((8, 0, 0), (2, 0, 0), difference=bytes(10)), 10, b"0123456789"),
        (triples((8, 0, -8), (2, 0, 0), difference=bytes(10)), 10, b"0123456701"),
        (triples((10, 0, 0), difference=bytes(10)), 10, b"0123456789"),
        (triples((1, 0, FAR), (0, 0, FAR), (0, 0, FAR), difference=b"\1"), 1, b"1"),
        (triples((4, 0, 0), difference=bytes(4)), 4, b"0123"),
        (triples((4, 1, 0), difference=bytes(4), extra=b"1"), 5, b"01231"),
    ],
)
def test_their_positive_twins_are_applied(delta: bytes, length: int, expected: bytes) -> None:
    assert Bsdiff().apply(VIEW, delta, length) == expected


def test_absurd_counts_are_refused_before_anything_is_read() -> None:
    out = bytearray(MAGIC)
    for number in (TRIPLES_MAX + 1, 0, 0):
        write_number(out, number)
    with pytest.raises(LimitExceeded, match="triples are over"):
        Bsdiff().apply(VIEW, bytes(out) + bytes(100), 10)
    out = bytearray(MAGIC)
    for number in (TRIPLES_MAX, 0, 0):
        write_number(out, number)
    with pytest.raises(ContentError, match="truncated numbers"):
        Bsdiff().apply(VIEW, bytes(out) + bytes(100), 10)


def test_numbers() -> None:
    for value in (0, 1, 127, 128, 1 << 20, (1 << 63) - 1):
        out = bytearray()
        write_number(out, value)
        assert read_numbers(memoryview(out), 0, 1) == ([value], len(out))
        for signed in (value, -value):
            assert unzigzag(zigzag(signed)) == signed
    with pytest.raises(ContentError, match="too long"):
        read_numbers(memoryview(b"\xff" * 9 + b"\x01"), 0, 1)
    assert read_big_endian(memoryview(b"\x82\x80\x05"), 0) == ((2 << 14) + 5, 3)
    with pytest.raises(ContentError, match="too long"):
        read_big_endian(memoryview(b"\xff" * 10), 0)
    with pytest.raises(ContentError, match="truncated"):
        read_big_endian(memoryview(b"\xff"), 0)
