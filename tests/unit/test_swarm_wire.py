"""Each length and number of the wire: just inside is accepted, one more is refused for the named reason."""

from __future__ import annotations

import re
import time

import msgpack
import pytest

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.errors import ContentError
from p2p.swarm import messages as m
from p2p.swarm.wire import PREFIX, decode, encode, parse_prefix, unpack_bitmap

A, B = Digest(b"a" * 32), Digest(b"b" * 32)
HEADER_MAX = limits.PIECES_PER_PACK_MAX // 8 + 256


def header(*fields: object) -> bytes:
    data: bytes = msgpack.packb(list(fields), use_bin_type=True)
    return data


def bitmap(count: int) -> bytes:
    return bytes(count // 8)


def addresses(count: int) -> list[list[object]]:
    return [[f"d{n}", "10.0.0.1", 1] for n in range(count)]


PIECES, ENTRIES = limits.PIECES_PER_PACK_MAX, limits.INDEX_ENTRIES_MAX
LEASED, WHOLE = limits.LEASE_BYTES_MAX, limits.MESSAGE_PAYLOAD_MAX

TWINS: list[tuple[str, tuple[object, ...], tuple[object, ...], str]] = [
    ("hello.protocol", (0, 1 << 16, "s", 1, True), (0, (1 << 16) + 1, "s", 1, True), "not a number within"),
    ("hello.site long", (0, 1, "s" * 128, 1, True), (0, 1, "s" * 129, 1, True), "hello.site"),
    ("hello.site form", (0, 1, "a.b", 1, True), (0, 1, "../b", 1, True), "hello.site"),
    ("hello.port", (0, 1, "s", 65535, True), (0, 1, "s", 65536, True), "not a number within"),
    ("hello.wan", (0, 1, "s", 1, True), (0, 1, "s", 1, 1), "unknown code or shape"),
    ("hello extra", (0, 1, "s", 1, True), (0, 1, "s", 1, True, 0), "unknown code or shape"),
    ("news", (1, 1 << 53, 0), (1, (1 << 53) + 1, 0), "not a number within"),
    ("news negative", (1, 0, 0), (1, 0, -1), "not a number within"),
    ("news bool", (1, 0, 1), (1, 0, True), "not a number within"),
    ("metadata name", (2, 0, "1.root.json"), (2, 0, "../1.root.json"), "metadata-want.name"),
    ("request", (2, (1 << 32) - 1, "n"), (2, 1 << 32, "n"), "not a number within"),
    ("object size", (3, 0, A, limits.OBJECT_SIZE_MAX), (3, 0, A, limits.OBJECT_SIZE_MAX + 1), "within"),
    ("digest", (3, 0, A, 0), (3, 0, A + b"!", 0), "not a SHA-256 digest"),
    ("digest text", (3, 0, A, 0), (3, 0, "a" * 64, 0), "a digest is missing"),
    ("refusal", (5, 0, "busy"), (5, 0, "bored"), "refuse.reason"),
    ("join weight", (6, A, None, True, 1000, False), (6, A, None, True, 1001, False), "within"),
    ("join base", (6, A, B, True, 1, False), (6, A, b"", True, 1, False), "not a SHA-256 digest"),
    ("have total", (8, A, B, PIECES, bitmap(PIECES)), (8, A, B, PIECES + 8, bitmap(PIECES)), "within"),
    ("have bitmap short", (8, A, B, 16, bitmap(16)), (8, A, B, 17, bitmap(16)), "bytes of bitmap"),
    ("have bitmap long", (8, A, B, 16, bitmap(16)), (8, A, B, 16, bitmap(24)), "bytes of bitmap"),
    ("have past the end", (8, A, B, 3, b"\x07"), (8, A, B, 3, b"\x0f"), "bits past the last piece"),
    ("have-more count", (9, A, B, [1] * limits.HAVE_MORE_MAX), (9, A, B, [1] * (limits.HAVE_MORE_MAX + 1)),
     "have-more: 4097 pieces"),
    ("have-more piece", (9, A, B, [PIECES - 1]), (9, A, B, [PIECES]), "within"),
    ("rest begun", (40, 0, A, B, 1, 1), (40, 0, A, B, 1, 0), "within"),
    ("rest", (40, 0, A, B, 1, WHOLE), (40, 0, A, B, 1, WHOLE + 1), "within"),
    ("want piece", (10, 0, A, B, PIECES - 1), (10, 0, A, B, PIECES), "within"),
    ("lease slot", (12, A, B, 15, 0, 1, 0), (12, A, B, 16, 0, 1, 0), "within"),
    ("lease stop", (12, A, B, 0, 0, ENTRIES, 0), (12, A, B, 0, 0, ENTRIES + 1, 0), "within"),
    ("lease came", (12, A, B, 0, 0, 1, LEASED), (12, A, B, 0, 0, 1, LEASED + 1), "within"),
    ("peers count", (13, addresses(limits.PEER_EXCHANGE_MAX)), (13, addresses(limits.PEER_EXCHANGE_MAX + 1)),
     "peers: 33 addresses"),
    ("peers host", (13, [["d", "fe80::1", 1]]), (13, [["d", "intranet", 1]]), "peers: not an address"),
    ("peers device", (13, [["d", "::1", 1]]), (13, [["d/", "::1", 1]]), "peers.device"),
    ("bye", (14, "going"), (14, "going home"), "bye.reason"),
    ("code", (14, "x"), (15, "x"), "message 15: unknown code or shape"),
    ("code kind", (1, 0, 0), (1.0, 0, 0), "not a list that begins with a code"),
    ("code bool", (1, 0, 0), (True, 0, 0), "not a list that begins with a code"),
]  # fmt: skip


@pytest.mark.parametrize(("inside", "outside", "reason"), [t[1:] for t in TWINS], ids=[t[0] for t in TWINS])
def test_the_last_value_inside_and_the_first_outside(
    inside: tuple[object, ...], outside: tuple[object, ...], reason: str
) -> None:
    decode(header(*inside), b"")
    with pytest.raises(ContentError, match=re.escape(reason)):
        decode(header(*outside), b"")


@pytest.mark.parametrize("length", [0, HEADER_MAX + 1, (1 << 32) - 1])
def test_a_header_length_is_checked_before_anything_is_read(length: int) -> None:
    assert parse_prefix(PREFIX.pack(HEADER_MAX, 0)) == (HEADER_MAX, 0)
    with pytest.raises(ContentError, match=f"message: header of {length} bytes"):
        parse_prefix(PREFIX.pack(length, 0))


@pytest.mark.parametrize("length", [limits.MESSAGE_PAYLOAD_MAX + 1, (1 << 32) - 1])
def test_a_payload_length_is_checked_before_anything_is_read(length: int) -> None:
    assert parse_prefix(PREFIX.pack(1, limits.MESSAGE_PAYLOAD_MAX)) == (1, limits.MESSAGE_PAYLOAD_MAX)
    with pytest.raises(ContentError, match=f"message: payload of {length} bytes"):
        parse_prefix(PREFIX.pack(1, length))


def test_only_answers_carry_a_payload() -> None:
    for message in (m.Blob(1, b"x"), m.Piece(1, b"x")):
        assert decode(header(int(m.Code[type(message).__name__.upper()]), 1), b"x") == message
    assert decode(header(int(m.Code.PART), 1, 9), b"x") == m.Part(1, 9, b"x")
    for code in set(m.Code) - {m.Code.BLOB, m.Code.PIECE, m.Code.PART}:
        with pytest.raises(ContentError, match=f"message {code.value}: carries a payload"):
            decode(header(int(code), 1), b"x")


def test_only_a_bitmap_makes_a_header_large() -> None:
    large = limits.MESSAGE_HEADER_MAX + 1
    decode(header(8, A, B, PIECES, bitmap(PIECES)), b"")
    with pytest.raises(ContentError, match="message: header of"):
        decode(header(9, A, B, [1] * large), b"")


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x90",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
        header(1, 0, 0) + b"\x00",
        header(1, 0, {}),
        header(1, 0, msgpack.ExtType(4, b"")),
        header(1, 0, msgpack.Timestamp(1)),
        b"\x93\x01\x00\xa2\xff\xfe",
        b"\x80",
        b"\x01",
    ],
)
def test_hostile_headers_are_refused_quickly(hostile: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ContentError):
        decode(hostile, b"")
    assert time.process_time() - started < 0.25


def test_the_largest_bitmap_costs_little() -> None:
    started = time.process_time()
    assert len(unpack_bitmap(b"\xff" * (PIECES // 8), PIECES)) == PIECES
    assert time.process_time() - started < 1.0


def test_a_payload_is_neither_packed_nor_copied() -> None:
    payload = memoryview(bytes(1 << 20))
    head, sent = encode(m.Piece(7, payload))
    assert sent is payload
    assert len(head) < 32
    assert encode(m.Piece(7, b"")) == [PREFIX.pack(3, 0) + header(11, 7)]
