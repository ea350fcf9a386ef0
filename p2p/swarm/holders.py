"""Who has what, counted: how many trusted peers have each piece of one image.

Rarity is asked for at every choice of a piece, and whether a frame is on the site at all at every
choice of a fetch, so both are kept as they change instead of being counted. What a peer said is in its
`RemoteImage`; it counts while the peer takes part in the image and is trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.swarm.peer import PieceKey, RemoteImage


class Holders:
    """The only writer of `RemoteImage.haves` and `.counted`. `maps`: the packs whose index is here."""

    def __init__(self, maps: Mapping[Digest, PieceMap]) -> None:
        self._maps = maps
        self._counts: dict[Digest, list[int]] = {}

    def count(self, key: PieceKey) -> int:
        """How many peers that are trusted have a piece."""
        counts = self._counts.get(key[0])
        return counts[key[1]] if counts is not None else 0

    def gained(self, remote: RemoteImage, pack: Digest, numbers: Collection[int]) -> None:
        """A peer has these pieces as well."""
        if not numbers:
            return
        marks = remote.haves.get(pack)
        if marks is None:
            if pack not in self._maps:
                return
            marks = remote.haves[pack] = bytearray(len(self._maps[pack]))
        counts = self._counts_of(pack, marks) if remote.counted else None
        for n in numbers:
            if not marks[n]:
                marks[n] = 1
                if counts is not None:
                    counts[n] += 1

    def lost(self, remote: RemoteImage, pack: Digest, numbers: Iterable[int]) -> None:
        """A peer does not have these pieces, or no longer."""
        marks = remote.haves.get(pack)
        if marks is None:
            return
        counts = self._counts_of(pack, marks) if remote.counted else None
        for n in numbers:
            if marks[n]:
                marks[n] = 0
                if counts is not None:
                    counts[n] -= 1

    def admit(self, remote: RemoteImage) -> None:
        """A peer takes part and is trusted from now on."""
        if not remote.counted:
            remote.counted = True
            for pack, marks in remote.haves.items():
                counts = self._counts_of(pack, marks)
                counts[:] = [count + mark for count, mark in zip(counts, marks, strict=True)]

    def dismiss(self, remote: RemoteImage) -> None:
        """What a peer said counts no longer."""
        if remote.counted:
            remote.counted = False
            for pack, marks in remote.haves.items():
                counts = self._counts_of(pack, marks)
                counts[:] = [count - mark for count, mark in zip(counts, marks, strict=True)]

    def _counts_of(self, pack: Digest, marks: bytearray) -> list[int]:
        counts = self._counts.get(pack)
        if counts is None:
            counts = self._counts[pack] = [0] * len(marks)
        return counts
