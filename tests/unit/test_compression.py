"""Outer compression: round trips, exact sizes, and streams that want more than they declare."""

from __future__ import annotations

import lzma
import sys

import pytest

from p2p.content import limits
from p2p.content.index import Compression
from p2p.delta.compression import (
    compress,
    compress_fast,
    compress_lzma2,
    compress_zstd,
    decompress,
    dictionary_size,
)
from p2p.errors import ContentError, LimitExceeded

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"the quick brown fox jumps over the lazy dog " * 500
STREAMS = {
    Compression.NONE: bytes,
    Compression.ZSTD: compress_zstd,
    Compression.LZMA2: compress_lzma2,
}


@pytest.mark.parametrize("kind", list(Compression))
@pytest.mark.parametrize("data", [b"x", TEXT, bytes(100_000)], ids=["byte", "text", "zeros"])
def test_round_trip(kind: Compression, data: bytes) -> None:
    assert decompress(kind, STREAMS[kind](data), len(data)) == data


@pytest.mark.parametrize("kind", list(Compression))
@pytest.mark.parametrize("size", [len(TEXT) - 1, len(TEXT) + 1])
def test_another_size_than_declared_is_refused(kind: Compression, size: int) -> None:
    with pytest.raises(ContentError, match="frame: "):
        decompress(kind, STREAMS[kind](TEXT), size)


@pytest.mark.parametrize("kind", [Compression.ZSTD, Compression.LZMA2])
def test_truncated_and_extended_streams_are_refused(kind: Compression) -> None:
    stored = STREAMS[kind](TEXT)
    for length in range(len(stored)):
        with pytest.raises(ContentError):
            decompress(kind, stored[:length], len(TEXT))
    with pytest.raises(ContentError, match="does not end with its bytes"):
        decompress(kind, stored + b"\0", len(TEXT))
    assert decompress(kind, stored, len(TEXT)) == TEXT


@pytest.mark.parametrize("kind", [Compression.ZSTD, Compression.LZMA2])
def test_every_flipped_bit_raises_the_documented_error_or_changes_bytes_only(kind: Compression) -> None:
    stored = bytearray(STREAMS[kind](TEXT[:400]))
    refused = 0
    for at in range(len(stored)):
        for bit in range(8):
            stored[at] ^= 1 << bit
            try:
                assert len(decompress(kind, bytes(stored), 400)) == 400
            except ContentError:
                refused += 1
            stored[at] ^= 1 << bit
    assert refused > len(stored)
    assert decompress(kind, bytes(stored), 400) == TEXT[:400]


@pytest.mark.parametrize("kind", [Compression.ZSTD, Compression.LZMA2])
def test_a_bomb_is_stopped_at_the_declared_size(kind: Compression) -> None:
    """Small stored, huge output: 16 MiB of zeros in a few kB, declared as 1000 bytes."""
    bomb = STREAMS[kind](bytes(16 * limits.MIB))
    assert len(bomb) < 16_384
    with pytest.raises(ContentError):
        decompress(kind, bomb, 1000)
    small = STREAMS[kind](bytes(1000))
    assert decompress(kind, small, 1000) == bytes(1000)


def test_a_declared_size_over_the_limit_is_refused_before_anything_is_decompressed() -> None:
    with pytest.raises(LimitExceeded, match="are over"):
        decompress(Compression.LZMA2, b"", limits.STORED_FRAME_MAX + 1)


def test_a_zstd_frame_without_its_content_size_is_refused() -> None:
    options = {zstd.CompressionParameter.content_size_flag: 0}
    stored = zstd.compress(TEXT, options=options)
    with pytest.raises(ContentError, match="zstd declares None bytes"):
        decompress(Compression.ZSTD, stored, len(TEXT))
    options[zstd.CompressionParameter.content_size_flag] = 1
    assert decompress(Compression.ZSTD, zstd.compress(TEXT, options=options), len(TEXT)) == TEXT


def test_an_lzma2_stream_is_bounded_by_the_dictionary_of_its_size() -> None:
    assert dictionary_size(0) == 4096
    assert dictionary_size(4096) == 4096
    assert dictionary_size(4097) == 8192
    assert dictionary_size(limits.STORED_FRAME_MAX * 4) == 8 * limits.MIB


@pytest.mark.parametrize("properties", [(0, 0, 0), (4, 0, 4), (0, 4, 0), (2, 2, 1)])
def test_any_coding_properties_are_read(properties: tuple[int, int, int]) -> None:
    lc, lp, pb = properties
    encoder = {"id": lzma.FILTER_LZMA2, "dict_size": dictionary_size(len(TEXT)), "lc": lc, "lp": lp, "pb": pb}
    stored = lzma.compress(TEXT, format=lzma.FORMAT_RAW, filters=[encoder])
    assert decompress(Compression.LZMA2, stored, len(TEXT)) == TEXT


def test_incompressible_bytes_are_stored_as_they_are() -> None:
    noise = compress_lzma2(TEXT)[:64]
    for choose in (compress, compress_fast):
        assert choose(noise) == (Compression.NONE, noise)
        kind, stored = choose(TEXT)
        assert kind is not Compression.NONE
        assert len(stored) < len(TEXT) // 10
