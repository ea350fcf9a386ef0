"""Large pieces in parts, so that other messages get between them, and that who asked sees them coming.

A patch of megabytes takes a slow network many seconds. As one message it would hold up what its sender has to
say meanwhile, and look like silence. Nodes that do not know of this would close the connection, so a sender
does it only for those that said that they take parts: by asking for the metadata `PARTS`, which no node has.
Pure: for both drivers.
"""

from __future__ import annotations

from p2p.content import limits
from p2p.errors import ContentError
from p2p.swarm.messages import Part, Piece

PARTS = "parts"
"""Who asks for metadata of this name takes parts from then on."""

__all__ = ["PARTS", "Assembly", "in_parts"]


def in_parts(piece: Piece) -> list[Part | Piece]:
    """The messages that bring a piece: itself, or parts and a `Piece` with the rest of the payload."""
    view = memoryview(piece.payload)
    total = len(view)
    if total <= limits.PARTS_FROM:
        return [piece]
    *starts, last = range(0, total, limits.PART_SIZE)
    parts = [Part(piece.request, total, view[at : at + limits.PART_SIZE]) for at in starts]
    return [*parts, Piece(piece.request, view[last:])]


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

    def whole(self, piece: Piece) -> Piece:
        """The piece with all of its payload, of which this is the rest. Raises `ContentError`."""
        if self._request is None:
            return piece
        if piece.request != self._request or len(self._data) + len(piece.payload) != self._total:
            raise ContentError(f"piece {piece.request}: is not the rest of piece {self._request}")
        data, self._data, self._request = self._data, bytearray(), None
        data += piece.payload
        return Piece(piece.request, memoryview(data))
