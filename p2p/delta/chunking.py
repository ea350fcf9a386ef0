"""Content-defined chunking by FastCDC (Xia et al. 2016): the one cutter that packs are built with.

The same bytes give the same chunks on every machine, so that devices find chunks they already have.
Nothing depends on it for correctness: an index lists the chunks that there are.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2p.content import limits
from p2p.errors import ConfigError


def cut(data: memoryview, average: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of the chunks of `data`, in order; `average` bytes, a power of two.

    For the chunks of an image (`limits.CHUNK_SIZE_AVG`) the least and greatest size are those of
    `limits`; for anchors they are a quarter and four times the average. Raises `ConfigError` where the
    chunker is there without its compiled part.
    """
    import pyfastcdc  # a device needs it now and then, and its memory all the time

    if "cy" not in pyfastcdc.FastCDC.__module__.split("."):
        raise ConfigError(
            "pyfastcdc runs without its compiled part, which is 300 times slower",
            next_step="install pyfastcdc from a wheel for this platform",
        )
    if len(data) == 0:
        return
    if average == limits.CHUNK_SIZE_AVG:
        least, most = limits.CHUNK_SIZE_MIN, limits.CHUNK_SIZE_MAX
    else:
        least, most = max(64, average // 4), average * 4
    for chunk in pyfastcdc.FastCDC(average, min_size=least, max_size=most).cut_buf(data):
        yield chunk.offset, chunk.length
