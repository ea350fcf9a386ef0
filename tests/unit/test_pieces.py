"""Pieces of a pack and sets of intervals."""

from __future__ import annotations

from p2p.content.digests import sha256
from p2p.content.index import Chunk, Codec, Compression, Copy, Data, PackIndex, Patch, ViewRange, Zero
from p2p.content.pieces import PieceMap

D = [sha256(bytes([n])) for n in range(8)]
PATCH = Patch(Codec.BSDIFF, 100, (ViewRange(0, 50),), 30, Compression.NONE, 40, D[0], D[1])
DATA = Data(60, Compression.ZSTD, (Chunk(10, D[2]), Chunk(20, D[3]), Chunk(30, D[4])))
INDEX = PackIndex(D[5], 5 + 100 + 7 + 60 + 10, D[6], 1000, (Zero(5), PATCH, Copy(0, 7), DATA, Zero(10)))


def test_a_patch_is_one_piece_and_a_data_frame_one_per_chunk() -> None:
    pieces = PieceMap(INDEX)
    assert len(pieces) == 4
    assert [
        (p.number, p.frame, p.target_offset, p.target_length, p.wire_size, p.is_patch) for p in pieces.pieces
    ] == [
        (0, 0, 5, 100, 30, True),
        (1, 1, 112, 10, 10, False),
        (2, 1, 122, 20, 20, False),
        (3, 1, 142, 30, 30, False),
    ]
    assert [p.digest for p in pieces.pieces] == [D[1], D[2], D[3], D[4]]
    assert pieces[3].target_stop == 172


def test_pieces_of_frames_and_of_ranges() -> None:
    pieces = PieceMap(INDEX)
    assert list(pieces.of_frame(0)) == [0]
    assert list(pieces.of_frame(1)) == [1, 2, 3]
    assert list(pieces.inside(0, 182)) == [0, 1, 2, 3]
    assert list(pieces.inside(5, 105)) == [0]
    assert list(pieces.inside(6, 105)) == []
    assert list(pieces.inside(112, 141)) == [1]
    assert list(pieces.overlapping(105, 112)) == []
    assert list(pieces.overlapping(104, 113)) == [0, 1]
    assert list(pieces.overlapping(121, 123)) == [1, 2]
    assert list(pieces.overlapping(0, 5)) == []


def test_a_pack_without_frames_has_no_pieces() -> None:
    pieces = PieceMap(PackIndex(D[5], 7, D[6], 10, (Copy(0, 7),)))
    assert len(pieces) == 0
    assert list(pieces.inside(0, 7)) == []
