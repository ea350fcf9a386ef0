"""Outer compression of stored frames: none, Zstandard, or raw LZMA2.

The signed digests are of the uncompressed bytes, so a compressor's version is nobody's contract: only
what a decoder must accept is specified (`docs/spec/pack.md`). Decompression always knows the exact
size that it has to produce and never makes more. This module does not choose what to compress.
"""

from __future__ import annotations

import lzma
import sys
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.content.index import Compression
from p2p.errors import ContentError, LimitExceeded

DICTIONARY_MIN = 4096
DICTIONARY_MAX = 8 * limits.MIB
ZSTD_WINDOW_LOG_MAX = 23
ZSTD_LEVEL = 19
_PROPERTIES_TRIED_MAX = limits.MIB  # larger deltas are mostly new content, where the settings matter little
_ZSTD_TRIED_MAX = 64 * limits.KIB  # over this, LZMA2 won on every delta measured
_PROPERTIES: tuple[tuple[int, int, int], ...] = ((3, 0, 0), (4, 0, 0), (2, 0, 0), (0, 0, 0), (3, 0, 2))
"""(lc, lp, pb) that the compressor tries; a decoder reads them from the stream. Measured on deltas of
kernels, wheels and file systems: one of these is always within 0.2 % of the best of all 75."""


def dictionary_size(size: int) -> int:
    """LZMA2 dictionary in bytes for `size` uncompressed bytes: the power of two that holds them, capped."""
    return min(DICTIONARY_MAX, max(DICTIONARY_MIN, 1 << max(0, size - 1).bit_length()))


def decompress(compression: Compression, stored: Buffer, size: int) -> bytes:
    """The `size` uncompressed bytes of a stored frame.

    Raises `ContentError` when the stream is damaged, when it makes more or fewer bytes than `size`, or
    when it asks for a larger window than the format allows. Allocates at most `size` + 8 MiB.
    """
    if size > limits.STORED_FRAME_MAX:
        raise LimitExceeded(f"frame: {size} uncompressed bytes are over {limits.STORED_FRAME_MAX}")
    match compression:
        case Compression.NONE:
            data = bytes(stored)
        case Compression.ZSTD:
            data = _unzstd(stored, size)
        case Compression.LZMA2:
            data = _unlzma(stored, size)
    if len(data) != size:
        raise ContentError(f"frame: {len(data)} uncompressed bytes instead of {size}")
    return data


def compress(data: Buffer) -> tuple[Compression, bytes]:
    """The smallest stored form of `data` (for deltas; DATA frames take `compress_fast`)."""
    best: tuple[Compression, bytes] = (Compression.NONE, bytes(data))
    candidates = [(Compression.LZMA2, compress_lzma2(data))]
    if len(data) <= _ZSTD_TRIED_MAX:
        candidates.append((Compression.ZSTD, compress_zstd(data)))
    for candidate in candidates:
        if len(candidate[1]) < len(best[1]):
            best = candidate
    return best


def compress_fast(data: Buffer) -> tuple[Compression, bytes]:
    """Zstandard, or the bytes as they are where that does not help: quick to unpack on small devices."""
    packed = compress_zstd(data)
    return (Compression.ZSTD, packed) if len(packed) < len(data) else (Compression.NONE, bytes(data))


def zstd_library() -> Any:
    """Loaded when it is first needed: an agent at rest goes without."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def compress_zstd(data: Buffer, level: int = ZSTD_LEVEL) -> bytes:
    """One Zstandard frame with its content size, without a checksum (the digest is in the index)."""
    zstd = zstd_library()
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.content_size_flag: 1,
        zstd.CompressionParameter.checksum_flag: 0,
        zstd.CompressionParameter.window_log: min(
            ZSTD_WINDOW_LOG_MAX, max(10, max(0, len(data) - 1).bit_length())
        ),
    }
    packed: bytes = zstd.compress(data, options=options)
    return packed


def compress_lzma2(data: Buffer) -> bytes:
    """One raw LZMA2 stream, the smallest of several settings where trying them is cheap."""
    tried = _PROPERTIES if len(data) <= _PROPERTIES_TRIED_MAX else _PROPERTIES[:1]
    return min((_lzma2(data, p) for p in tried), key=len)


def _lzma2(data: Buffer, properties: tuple[int, int, int]) -> bytes:
    lc, lp, pb = properties
    encoder = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": dictionary_size(len(data)),
        "lc": lc,
        "lp": lp,
        "pb": pb,
    }
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=[encoder])


def _unzstd(stored: Buffer, size: int) -> bytes:
    zstd = zstd_library()
    try:
        declared = zstd.get_frame_info(stored).decompressed_size
        if declared != size:
            raise ContentError(f"frame: zstd declares {declared} bytes instead of {size}")
        decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
        )
        data: bytes = decoder.decompress(stored, max_length=size)
        if not decoder.eof:
            # The last block may still be inside the decoder when the output filled exactly.
            data += decoder.decompress(b"", max_length=1)
        done = decoder.eof and not decoder.unused_data
    except (zstd.ZstdError, EOFError, ValueError) as error:
        raise ContentError(f"frame: damaged zstd ({error})") from error
    if not done:
        raise ContentError("frame: zstd stream does not end with its bytes")
    return data


def _unlzma(stored: Buffer, size: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary_size(size)}]
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, memlimit=None, filters=filters)
        data = decoder.decompress(stored, max_length=size)
        if not decoder.eof:
            data += decoder.decompress(b"", max_length=1)
        done = decoder.eof and not decoder.unused_data
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise ContentError(f"frame: damaged LZMA2 ({error})") from error
    if not done:
        raise ContentError("frame: LZMA2 stream does not end with its bytes")
    return data
