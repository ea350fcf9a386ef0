"""What a base still offers for which nothing was published: chunks of the image that stand in it, wherever.

A device that was flashed by hand, or whose system was changed, runs content that no pack starts from. Before
it asks anybody it looks for the chunks that the full pack's index lists: at the same place first, which costs
one read of the base and finds most of what an image with a file system left where it was; then, for what
is still missing, by cutting the base as the image was cut, which finds content that has moved. A chunk
counts by its signed digest alone, so nothing that the base holds can do harm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from p2p.agent.images import LocalImage
from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.pieces import Piece
from p2p.delta.chunking import cut
from p2p.errors import ConfigError
from p2p.swarm.events import Stored

log = logging.getLogger(__name__)

WINDOW = 8 * limits.MIB
"""So much of the base is in memory at a time."""


def salvage(image: LocalImage, pack: Digest) -> Iterator[Stored]:
    """Make all pieces of the full pack that the base offers, step by step, until it cannot be read.

    Raises `LocalError` where the slot cannot be written.
    """
    chunks = size = 0
    for steps in (_in_place, _moved):
        for stored in steps(image, pack):
            chunks, size = chunks + 1, size + stored.stop - stored.start
            yield stored
    log.info("image %s: %d chunks (%d bytes) stood in the base", image.task.image.hex()[:12], chunks, size)


def _missing(image: LocalImage, pack: Digest) -> Iterator[Piece]:
    for piece in image.maps[pack].pieces:
        if not piece.is_patch and not image.is_done(piece.target_offset, piece.target_stop):
            yield piece


def _in_place(image: LocalImage, pack: Digest) -> Iterator[Stored]:
    """Chunks that stand in the base where they stand in the image."""
    for piece in _missing(image, pack):
        if piece.target_stop > image.base_size:
            return
        data = image.read_base(piece.target_offset, piece.target_length)
        if data is None:
            return
        if sha256(data) == piece.digest:
            yield image.store_own(pack, piece.number, data)


def _moved(image: LocalImage, pack: Digest) -> Iterator[Stored]:
    """Chunks that stand elsewhere in the base, of those that its own cutting comes upon."""
    wanted: dict[Digest, list[int]] = {}
    for piece in _missing(image, pack):
        wanted.setdefault(piece.digest, []).append(piece.number)
    if not wanted:
        return
    lengths = {image.maps[pack][numbers[0]].target_length for numbers in wanted.values()}
    try:
        for data in _chunks(image):
            if len(data) not in lengths:
                continue
            for number in wanted.pop(sha256(data), ()):
                yield image.store_own(pack, number, data)
            if not wanted:
                return
    except (ConfigError, ImportError) as error:
        log.info("content that moved in the base is not looked for: %s", error)


def _chunks(image: LocalImage) -> Iterator[memoryview]:
    """The base, cut as images are; the last chunk of a window is cut again with what follows."""
    at = 0
    left = b""
    while at < image.base_size:
        data = image.read_base(at, min(WINDOW, image.base_size - at))
        if data is None:
            return
        at += len(data)
        window = memoryview(left + data)
        spans = list(cut(window, limits.CHUNK_SIZE_AVG))
        whole = spans if at == image.base_size else spans[:-1]
        for offset, length in whole:
            yield window[offset : offset + length]
        left = bytes(window[spans[-1][0] :])
