"""The pack index as bytes: round trips, and every way in which a hostile one can be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.index import (
    Chunk,
    Codec,
    Compression,
    Copy,
    Data,
    PackIndex,
    Patch,
    ViewRange,
    Zero,
    decode,
    encode,
)
from p2p.errors import ContentError, LimitExceeded

D = [sha256(bytes([n])) for n in range(8)]
PATCH = Patch(
    Codec.HDIFFPATCH,
    70_000,
    (ViewRange(0, 90_000), ViewRange(95_000, 10)),
    500,
    Compression.LZMA2,
    900,
    D[0],
    D[1],
)
DATA = Data(60_000, Compression.ZSTD, (Chunk(40_000, D[2]), Chunk(50_000, D[3])))
INDEX = PackIndex(
    D[4], 4096 + 30_000 + 70_000 + 90_000, D[5], 100_000, (Zero(4096), Copy(5, 30_000), PATCH, DATA)
)
FULL = PackIndex(D[4], 90_000 + 7, None, 0, (DATA, Zero(7)))


@pytest.mark.parametrize("index", [INDEX, FULL, PackIndex(D[4], 0, None, 0, ())])
def test_round_trip(index: PackIndex) -> None:
    assert decode(encode(index)) == index
    assert encode(decode(encode(index))) == encode(index)


def test_frames_and_local_entries_know_their_places() -> None:
    assert [(f.number, f.target_offset, f.stored_offset) for f in INDEX.frames] == [
        (0, 34_096, 0),
        (1, 104_096, 500),
    ]
    assert [(e.entry, e.target_offset) for e in INDEX.local_entries] == [
        (Zero(4096), 0),
        (Copy(5, 30_000), 4096),
    ]
    assert INDEX.frames_size == 60_500
    assert (INDEX.is_full, FULL.is_full) == (False, True)
    assert PATCH.view_size == 90_010


def test_every_truncation_and_extension_is_refused() -> None:
    data = encode(INDEX)
    for length in range(len(data)):
        with pytest.raises(ContentError):
            decode(data[:length])
    with pytest.raises(ContentError):
        decode(data + b"\0")


def test_every_flipped_bit_raises_content_error_or_stays_sound() -> None:
    data = bytearray(encode(INDEX))
    refused = 0
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            try:
                decode(bytes(data))
            except ContentError:
                refused += 1
            data[at] ^= 1 << bit
    assert refused > 100
    assert decode(bytes(data)) == INDEX


def body(**changes: Any) -> bytes:
    """INDEX encoded with some of its fields replaced by anything."""
    names = ["magic", "version", "image", "image_size", "base", "base_size", "entries"]
    fields = dict(zip(names, msgpack.unpackb(encode(INDEX)), strict=True)) | changes
    return msgpack.packb([fields[n] for n in names])


def entry(position: int, field: int, value: Any) -> bytes:
    """INDEX with one field of one entry replaced."""
    entries = msgpack.unpackb(encode(INDEX))[6]
    entries[position][field] = value
    return body(entries=entries)


ABSURD = [1 << 63, 1 << 62, -1, None, "1", 1.5, [], True]


def test_absurd_sizes_in_every_length_field() -> None:
    assert decode(body()) == INDEX
    fields = [(0, 1), (1, 1), (1, 2), (2, 2), (2, 4), (2, 6), (3, 1)]
    for value in ABSURD:
        for position, field in fields:
            with pytest.raises(ContentError, match=r"entry|entries"):
                decode(entry(position, field, value))
        for name in ("image_size", "base_size"):
            with pytest.raises(ContentError, match="index: "):
                decode(body(**{name: value}))
        with pytest.raises(ContentError, match="entry 2"):
            decode(entry(2, 3, [[0, value]]))
        with pytest.raises(ContentError, match="entry 2"):
            decode(entry(2, 3, [[value, 10]]))
        with pytest.raises(ContentError, match="entry 3"):
            decode(entry(3, 3, [40_000, value]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (body(magic="slipstream-other"), "not a Slipstream pack index"),
        (body(version=2), "version 2 is not supported"),
        (body(image=b"short"), "image: not a SHA-256 digest"),
        (body(base=7), "base: not a SHA-256 digest"),
        (body(base=None), "a full pack has no base size"),
        (body(base=None, base_size=0), "COPY is outside the base"),
        (body(base_size=30_004), "COPY is outside the base"),
        (body(base_size=95_009), "base view is outside the base"),
        (body(image_size=194_095), "entries pass the end of the image"),
        (body(image_size=194_097), "entries make 194096 bytes of an image of 194097"),
        (body(entries=7), "entries are not a list"),
        (entry(0, 0, 9), "unknown kind or shape"),
        (body(entries=[[0]]), "unknown kind or shape"),
        (entry(2, 1, 9), "unknown codec 9"),
        (entry(2, 5, 9), "unknown compression 9"),
        (entry(2, 7, b"x"), "delta: not a SHA-256 digest"),
        (entry(2, 8, b"x"), "output: not a SHA-256 digest"),
        (entry(2, 3, [[0, 1, 2]]), "base view range"),
        (entry(2, 3, [[0, 1]] * (limits.BASE_VIEW_RANGES_MAX + 1)), "base view"),
        (entry(3, 4, b"x" * 63), "2 chunks with 63 digest bytes"),
        (msgpack.packb({}), "not a Slipstream pack index|not valid msgpack"),
        (b"", "not valid msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not valid msgpack"),
        (b"\x91" * 5000, "not valid msgpack"),
    ],
)
def test_refusals_name_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        decode(data)


def test_the_neighbours_of_the_limits() -> None:
    view = limits.BASE_VIEW_MAX

    def with_patch(**changes: Any) -> PackIndex:
        changed = replace(PATCH, **changes)
        return PackIndex(D[4], changed.length, D[5], 1 << 30, (changed,))

    assert decode(encode(with_patch(view=(ViewRange(0, view),))))
    with pytest.raises(LimitExceeded, match="base view of"):
        with_patch(view=(ViewRange(0, view), ViewRange(0, 1)))
    assert decode(encode(with_patch(length=limits.PATCH_TARGET_MAX)))
    with pytest.raises(LimitExceeded, match="PATCH target"):
        with_patch(length=limits.PATCH_TARGET_MAX + 1)
    assert decode(encode(with_patch(delta_size=limits.PATCH_DELTA_MAX)))
    with pytest.raises(LimitExceeded, match="delta of"):
        with_patch(delta_size=limits.PATCH_DELTA_MAX + 1)
    with pytest.raises(ContentError, match="PATCH in a full pack"):
        PackIndex(D[4], PATCH.length, None, 0, (PATCH,))
    chunks = tuple(Chunk(1, D[0]) for _ in range(limits.DATA_FRAME_CHUNKS_MAX))
    data = Data(5, Compression.NONE, chunks)
    assert decode(encode(PackIndex(D[4], len(chunks), None, 0, (data,))))
    with pytest.raises(LimitExceeded, match="1025 chunks in a DATA frame"):
        PackIndex(D[4], len(chunks) + 1, None, 0, (replace(data, chunks=(*chunks, chunks[0])),))


def test_an_index_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(LimitExceeded, match="index of"):
        decode(bytes(limits.INDEX_SIZE_MAX + 1))
