"""Large pieces in parts, so that other messages get between them, and that who asked sees them coming.

A patch of megabytes takes a slow network many seconds. As one message it would hold up what its sender has to
say meanwhile, and look like silence. Nodes that do not know of this would close the connection, so a sender
does it only for those that said that they take parts: by asking for metadata of a name in `PART_SIZES`, which
no node has. Who finds a connection so slow that word waits even behind a chunk asks for small ones.
Pure: for both drivers.
"""

from __future__ import annotations

from typing import NamedTuple

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.errors import ContentError
from p2p.swarm.messages import Part, Piece

PARTS, SMALL_PARTS = "parts", "small-parts"

RESTS = "rests"
"""Who has an empty blob for this name of metadata gives the rest of a piece (`beginnings`)."""

PART_SIZES = {PARTS: limits.PART_SIZE, SMALL_PARTS: limits.PART_SIZE_SMALL}
"""Who asks for metadata of such a name takes parts of this size from then on."""

WORD_S = 0.5
"""Word of who fetches what should wait no longer than this behind a piece."""

__all__ = [
    "PARTS",
    "PART_SIZES",
    "RESTS",
    "SMALL_PARTS",
    "Assembly",
    "Begun",
    "comes_in_parts",
    "in_parts",
    "parts_for",
]


def parts_for(size: int, rate: float, before: str | None, *, patch: bool = False) -> str | None:
    """As what a piece of `size` bytes should come at `rate` (bytes per second; 0: not known).

    A name in `PART_SIZES`; None: it does not matter. `before`: as what the last did. A `patch` may be all
    that the site has to fetch, and who takes a slow one for lost fetches it again: the first come in parts.
    """
    if not comes_in_parts(size, limits.PART_SIZE_SMALL):
        return None
    large = comes_in_parts(size, limits.PART_SIZE)
    if size > WORD_S * rate if rate else large or patch:
        return SMALL_PARTS
    if before == SMALL_PARTS and 2 * size > WORD_S * rate:
        return SMALL_PARTS
    return PARTS if large else None


def comes_in_parts(size: int, part_size: int) -> bool:
    """Whether a piece of `size` bytes is sent in parts to who takes them of `part_size` (0: not at all)."""
    return 0 < limits.PARTS_FROM * part_size < size


def in_parts(piece: Piece, part_size: int) -> list[Part | Piece]:
    """The messages that bring a piece: itself, or parts and a `Piece` with the rest of the payload."""
    view = memoryview(piece.payload)
    total = len(view)
    if not comes_in_parts(total, part_size):
        return [piece]
    *starts, last = range(0, total, part_size)
    parts = [Part(piece.request, total, view[at : at + part_size]) for at in starts]
    return [*parts, Piece(piece.request, view[last:])]


class Begun(NamedTuple):
    """What has come of the answer to a request that a connection's end broke off."""

    request: int
    data: Buffer


class Assembly:
    """What has come of the one piece that is arriving in parts on a connection."""

    def __init__(self) -> None:
        self._request: int | None = None
        self._total = 0
        self._data = bytearray()

    def part(self, part: Part) -> None:
        """Take a part. Raises `ContentError` for one that does not follow what came before."""
        if self._request is None:
            self._request, self._total, self._data = part.request, part.total, bytearray()
        if (part.request, part.total) != (self._request, self._total):
            raise ContentError(f"part of piece {part.request}: piece {self._request} is not whole yet")
        if len(part.payload) < limits.PART_SIZE_MIN or len(self._data) + len(part.payload) > self._total:
            raise ContentError(
                f"part of piece {part.request}: {len(part.payload)} bytes are too few or too many"
            )
        self._data += part.payload

    @property
    def begun(self) -> Begun | None:
        """What has come of the piece that is arriving."""
        return None if self._request is None else Begun(self._request, bytes(self._data))

    def whole(self, piece: Piece) -> Piece:
        """The piece with all of its payload, of which this is the rest. Raises `ContentError`."""
        if self._request is None:
            return piece
        if piece.request != self._request or len(self._data) + len(piece.payload) != self._total:
            raise ContentError(f"piece {piece.request}: is not the rest of piece {self._request}")
        data, self._data, self._request = self._data, bytearray(), None
        data += piece.payload
        return Piece(piece.request, memoryview(data))
