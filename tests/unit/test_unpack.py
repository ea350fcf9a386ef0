"""Unpacking frames: what is checked, in which order, and with which reason it is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from p2p.content.digests import sha256
from p2p.content.index import Chunk, Codec, Compression, Copy, Data, PackIndex, Patch, ViewRange, Zero
from p2p.delta import CODECS, apply_delta, decompress, read_view, recompute_delta, unpack_data, unpack_patch
from p2p.delta.packing import make_data, make_patch
from p2p.delta.rebuild import check_frames, image_parts
from p2p.errors import ContentError

BASE = random.Random(5).randbytes(40_000)
TARGET = BASE[1_000:20_000] + b"something new" + BASE[20_000:30_000]
RANGES = (ViewRange(1_000, 19_000), ViewRange(20_000, 12_000))
VIEW = BASE[1_000:20_000] + BASE[20_000:32_000]


def patch(codec: Codec = Codec.HDIFFPATCH) -> tuple[Patch, bytes]:
    made = make_patch(codec, VIEW, TARGET, RANGES)
    assert made is not None
    return made


def read_base(offset: int, length: int) -> bytes:
    return BASE[offset : offset + length]


@pytest.mark.parametrize("codec", list(Codec))
def test_a_patch_frame_unpacks_over_its_view(codec: Codec) -> None:
    entry, stored = patch(codec)
    view = read_view(read_base, entry)
    assert view == VIEW
    assert unpack_patch(entry, stored, view) == TARGET


def test_a_view_of_one_range_is_read_in_one_piece() -> None:
    calls: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        calls.append((offset, length))
        return read_base(offset, length)

    entry = replace(patch()[0], view=(ViewRange(5, 10),))
    assert read_view(read, entry) == BASE[5:15]
    assert calls == [(5, 10)]


def test_a_base_that_ends_early_is_named() -> None:
    entry, _ = patch()
    with pytest.raises(ContentError, match="base view: read 11000 bytes instead of 12000"):
        read_view(lambda o, n: BASE[:31_000][o : o + n], entry)


def test_every_flipped_bit_of_a_stored_frame_is_refused() -> None:
    entry, stored = patch()
    damaged = bytearray(stored)
    for at in range(len(damaged)):
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ContentError, match=r"^(frame|PATCH frame)"):
            unpack_patch(entry, bytes(damaged), VIEW)
        damaged[at] ^= 1 << at % 8
    assert unpack_patch(entry, bytes(damaged), VIEW) == TARGET


def test_the_codec_never_sees_a_delta_with_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, stored = patch()
    seen: list[int] = []
    real = type(CODECS[Codec.HDIFFPATCH]).apply

    def spy(self: object, view: bytes, delta: bytes, target_length: int) -> bytes:
        seen.append(len(delta))
        return real(CODECS[Codec.HDIFFPATCH], view, delta, target_length)

    monkeypatch.setattr(type(CODECS[Codec.HDIFFPATCH]), "apply", spy)
    with pytest.raises(ContentError, match="PATCH frame: delta: wrong digest"):
        unpack_patch(replace(entry, delta_digest=sha256(b"other")), stored, VIEW)
    assert seen == []
    assert unpack_patch(entry, stored, VIEW) == TARGET
    assert seen == [entry.delta_size]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stored_size": 1}, "stored bytes instead of 1"),
        ({"delta_size": 10}, "instead of 10"),
        ({"output_digest": sha256(b"other")}, "output .is the base damaged"),
        ({"length": len(TARGET) - 1}, f"makes {len(TARGET)} bytes instead of {len(TARGET) - 1}"),
        ({"codec": Codec.BSDIFF}, "bsdiff delta: wrong magic"),
        ({"view": RANGES[:1]}, "base view of 31000 bytes instead of 19000"),
    ],
)
def test_an_index_that_describes_another_frame(change: dict[str, object], reason: str) -> None:
    entry, stored = patch()
    with pytest.raises(ContentError, match=reason):
        unpack_patch(replace(entry, **change), stored, VIEW)


def test_a_damaged_base_is_told_from_a_damaged_frame() -> None:
    entry, stored = patch()
    damaged = bytearray(VIEW)
    damaged[500] ^= 1
    with pytest.raises(ContentError, match="is the base damaged"):
        unpack_patch(entry, stored, bytes(damaged))


@pytest.mark.parametrize("codec", list(Codec))
def test_a_device_recomputes_the_signed_delta(codec: Codec) -> None:
    entry, stored = patch(codec)
    delta = recompute_delta(entry, VIEW, TARGET)
    assert delta == decompress(entry.compression, stored, entry.delta_size)
    assert apply_delta(entry, delta, VIEW) == TARGET
    with pytest.raises(ContentError, match="recomputed delta: wrong digest"):
        recompute_delta(entry, VIEW, TARGET + b"x")


def test_a_data_frame_gives_its_chunks() -> None:
    entry, stored = make_data(TARGET, [10_000, 10_000, len(TARGET) - 20_000])
    assert unpack_data(entry, stored) == [TARGET[:10_000], TARGET[10_000:20_000], TARGET[20_000:]]


def test_a_wrong_chunk_is_named() -> None:
    entry, stored = make_data(TARGET, [10_000, len(TARGET) - 10_000])
    chunks = (entry.chunks[0], Chunk(entry.chunks[1].length, sha256(b"other")))
    with pytest.raises(ContentError, match="DATA frame: chunk 1: wrong digest"):
        unpack_data(replace(entry, chunks=chunks), stored)
    with pytest.raises(ContentError, match="stored bytes instead of"):
        unpack_data(entry, stored[:-1])


def pack() -> tuple[PackIndex, bytes, bytes]:
    """A small pack with all four kinds of entries, its frames object and its image."""
    one, stored_one = patch()
    raw = b"data " * 1000
    two, stored_two = make_data(raw, [2_000, 3_000])
    image = bytes(5_000) + TARGET + BASE[7:1007] + raw
    entries = (Zero(5_000), one, Copy(7, 1000), two)
    index = PackIndex(sha256(image), len(image), sha256(BASE), len(BASE), entries)
    return index, stored_one + stored_two, image


def test_a_whole_image_is_rebuilt_in_order() -> None:
    index, frames, image = pack()
    parts = list(image_parts(index, lambda o, n: frames[o : o + n], read_base))
    assert b"".join(bytes(p) for p in parts) == image
    check_frames(index, lambda o, n: frames[o : o + n])


def test_faults_name_the_frame() -> None:
    index, frames, _ = pack()
    second = index.frames[1].stored_offset
    damaged = frames[:second] + bytes([frames[second] ^ 1]) + frames[second + 1 :]
    for bad, reason in ((damaged, "frame 1 .image bytes from 35013."), (frames[:-1], "truncated in frame 1")):
        with pytest.raises(ContentError, match=reason):
            list(image_parts(index, lambda o, n, b=bad: b[o : o + n], read_base))
        with pytest.raises(ContentError, match=reason):
            check_frames(index, lambda o, n, b=bad: b[o : o + n])


def test_a_base_damaged_where_it_is_copied_is_found_by_the_image_digest() -> None:
    index, frames, _ = pack()
    damaged = bytearray(BASE)
    damaged[7] ^= 1
    with pytest.raises(ContentError, match="image: wrong digest"):
        list(image_parts(index, lambda o, n: frames[o : o + n], lambda o, n: bytes(damaged[o : o + n])))
    with pytest.raises(ContentError, match="base: ends at 500 bytes"):
        list(image_parts(index, lambda o, n: frames[o : o + n], _short_base))


def _short_base(offset: int, length: int) -> bytes:
    return BASE[:500][offset : offset + length] if offset == 7 else BASE[offset : offset + length]


def test_a_stored_frame_of_no_compression() -> None:
    entry, stored = make_data(random.Random(6).randbytes(5_000), [5_000])
    assert entry.compression is Compression.NONE
    assert entry.stored_size == entry.length
    assert isinstance(entry, Data)
    assert unpack_data(entry, stored) == [stored]
