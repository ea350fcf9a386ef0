"""Who has what, counted: how many trusted peers have each piece of one image.

Rarity is asked for at every choice of a piece, and whether a frame is on the site at all at every
choice of a fetch, so both are kept as they change instead of being counted. What a peer said is in its
`RemoteImage`; it counts while the peer takes part in the image and is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.content.digests import Digest
from p2p.swarm.peer import PieceKey, RemoteImage


class Holders:
    """The only writer of `RemoteImage.haves` and `RemoteImage.counted`."""

    def __init__(self) -> None:
        self._counts: dict[Digest, dict[int, int]] = {}

    def count(self, key: PieceKey) -> int:
        """How many peers that are trusted have a piece."""
        counts = self._counts.get(key[0])
        return counts.get(key[1], 0) if counts is not None else 0

    def gained(self, remote: RemoteImage, pack: Digest, numbers: Iterable[int]) -> None:
        """A peer has these pieces as well."""
        known = remote.haves.get(pack)
        if known is None:
            known = remote.haves[pack] = set()
        if not remote.counted:
            known.update(numbers)
            return
        counts = self._counts.setdefault(pack, {})
        for n in numbers:
            if n not in known:
                known.add(n)
                counts[n] = counts.get(n, 0) + 1

    def lost(self, remote: RemoteImage, pack: Digest, numbers: Iterable[int]) -> None:
        """A peer does not have these pieces, or no longer."""
        known = remote.haves.get(pack)
        if not known:
            return
        counts = self._counts.setdefault(pack, {})
        for n in numbers:
            if n in known:
                known.remove(n)
                if remote.counted:
                    counts[n] -= 1

    def admit(self, remote: RemoteImage) -> None:
        """A peer takes part and is trusted from now on."""
        if not remote.counted:
            remote.counted = True
            self._shift(remote, 1)

    def dismiss(self, remote: RemoteImage) -> None:
        """What a peer said counts no longer."""
        if remote.counted:
            remote.counted = False
            self._shift(remote, -1)

    def _shift(self, remote: RemoteImage, by: int) -> None:
        for pack, numbers in remote.haves.items():
            counts = self._counts.setdefault(pack, {})
            for n in numbers:
                counts[n] = counts.get(n, 0) + by
