"""What is left of a patch's stored bytes when those that stand in its target are taken out.

A large patch is mostly new content, and new content is mostly compressed already (modules, media, file
systems): its compressor passes that on as it is, so that the stored patch repeats long runs of the target.
A device that has the target keeps the residue, which is small, and has the patch again at the price of
reading the target: Zstandard with the target as its prefix, as `zstd --patch-from` does it.

Never sent and never stored durably: whoever makes a residue restores it, with the same library. Not for what
is compressed in the patch and lies plain in the target: nothing of that stands there (`recompute_delta`).
"""

from __future__ import annotations

from typing import Any

from p2p.content.digests import Buffer
from p2p.content.limits import KIB
from p2p.delta.compression import zstd_library
from p2p.errors import ContentError

SIZE_MIN = 16 * KIB
"""Of less there is nothing to gain."""

WORTH = 2
"""A residue that is not so many times smaller than the patch is none."""

LEVEL = 1
"""Long runs are found by their hashes, whatever the level; 400 MB a second of processor time."""

_WINDOW_LOG_MIN, _WINDOW_LOG_MAX = 10, 24
"""2^24 is more than the largest target and the largest stored patch together."""


def residue_of(stored: Buffer, target: Buffer) -> bytes | None:
    """What is left of `stored`, or None where that is not much less."""
    if len(stored) < SIZE_MIN:
        return None
    zstd = zstd_library()
    option = zstd.CompressionParameter
    window = (len(stored) + len(target)).bit_length()
    options: dict[int, int] = {
        option.compression_level: LEVEL,
        option.enable_long_distance_matching: 1,
        option.window_log: min(_WINDOW_LOG_MAX, max(_WINDOW_LOG_MIN, window)),
        option.checksum_flag: 0,  # whoever restores it has a digest
    }
    residue: bytes = zstd.compress(stored, options=options, zstd_dict=_prefix(zstd, target))
    return residue if WORTH * len(residue) <= len(stored) else None


def restore(residue: Buffer, target: Buffer, size: int) -> bytes:
    """The `size` stored bytes, right only if the target is: to be held against their digest.

    Raises `ContentError` where nothing of that size comes out.
    """
    zstd = zstd_library()
    try:
        decoder = zstd.ZstdDecompressor(
            zstd_dict=_prefix(zstd, target),
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX},
        )
        stored: bytes = decoder.decompress(residue, max_length=size)
    except (zstd.ZstdError, EOFError, ValueError) as error:
        raise ContentError(f"residue of a patch: {error}") from error
    if len(stored) != size:
        raise ContentError(f"residue of a patch: makes {len(stored)} bytes instead of {size}")
    return stored


def _prefix(zstd: Any, target: Buffer) -> object:
    return zstd.ZstdDict(target, is_raw=True).as_prefix
