"""Pieces: the units that peers pass on, as one numbering of a pack.

A frame is the unit of the WAN (stored, compressed, fetched by range); a piece is the unit of the
LAN. A `Patch` frame is one piece (its stored bytes travel); each chunk of a `Data` frame is one
piece (its raw bytes travel, from whichever slot holds them). Pieces are numbered in index order;
bitmaps and want lists of the swarm use these numbers. `Zero` and `Copy` have no pieces.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.index import Data, Frame, PackIndex, Patch, decode


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece. `wire_size`: bytes that travel; `digest`: of the target bytes it makes."""

    number: int
    frame: int
    target_offset: int
    target_length: int
    wire_size: int
    digest: Digest
    is_patch: bool

    @property
    def target_stop(self) -> int:
        return self.target_offset + self.target_length


class PieceMap:
    """The pieces of one pack and their relation to frames and target ranges. Immutable."""

    def __init__(self, index: PackIndex) -> None:
        self.index = index
        self.pieces: tuple[Piece, ...] = tuple(_pieces(index.frames))
        self._starts = [p.target_offset for p in self.pieces]
        self._stops = [p.target_stop for p in self.pieces]
        self._first_of_frame = [0] * (len(index.frames) + 1)
        for piece in self.pieces:
            self._first_of_frame[piece.frame + 1] = piece.number + 1

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> Piece:
        return self.pieces[number]

    @cached_property
    def groups(self) -> tuple[range, ...]:
        """Runs of pieces, in order, that span at most `PATCH_TARGET_MAX` target bytes each: of a full pack,
        what one peer delta makes (`docs/spec/wire.md`)."""
        found: list[range] = []
        first = 0
        for n in range(1, len(self.pieces) + 1):
            begins_at = self.pieces[first].target_offset
            if n == len(self.pieces) or self._stops[n] - begins_at > limits.PATCH_TARGET_MAX:
                found.append(range(first, n))
                first = n
        return tuple(found)

    def of_frame(self, frame: int) -> range:
        """The numbers of the pieces of stored frame `frame`."""
        return range(self._first_of_frame[frame], self._first_of_frame[frame + 1])

    def stored_in(self, marks: bytearray) -> int:
        """Stored bytes of the frames of which all pieces are marked with a 1."""
        first = self._first_of_frame
        frames = self.index.frames
        return sum(f.stored_size for n, f in enumerate(frames) if marks.find(0, first[n], first[n + 1]) < 0)

    def inside(self, start: int, stop: int) -> range:
        """The numbers of the pieces that lie wholly in target bytes `[start, stop)`."""
        return range(bisect_left(self._starts, start), bisect_right(self._stops, stop))

    def overlapping(self, start: int, stop: int) -> range:
        """The numbers of the pieces that share a byte with target bytes `[start, stop)`."""
        return range(bisect_right(self._stops, start), bisect_left(self._starts, stop))


def _pieces(frames: tuple[Frame, ...]) -> Iterator[Piece]:
    number = 0
    for frame in frames:
        match frame.entry:
            case Patch() as patch:
                yield Piece(
                    number, frame.number, frame.target_offset, patch.length,
                    patch.stored_size, patch.output_digest, True,
                )  # fmt: skip
                number += 1
            case Data() as data:
                offset = frame.target_offset
                for chunk in data.chunks:
                    yield Piece(number, frame.number, offset, chunk.length, chunk.length, chunk.digest, False)
                    number += 1
                    offset += chunk.length


def open_index(data: bytes) -> PieceMap:
    """The pieces of an encoded index; raises `ContentError` as `index.decode` does."""
    return PieceMap(decode(data))
