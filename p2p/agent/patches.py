"""The stored bytes of an image's patches, kept for peers: in its spool, or where they were imported to.

A patch is in no slot, so a node that applied one has it to give only if it kept it. What is read to be sent
is held against what was kept. Not for how patches are applied (`p2p.agent.images`).
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.agent.spool import Spool
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.index import Frame
from p2p.errors import ContentError, StoreError


class KeptPatches:
    """Of one image, by pack and number of the piece. Calls block."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._digests: dict[tuple[Digest, int], Digest] = {}
        self._imported: set[tuple[Digest, int]] = set()
        self._at_hand: dict[Digest, Callable[[int, int], bytes]] = {}

    def attach(self, pack: Digest, read: Callable[[int, int], bytes]) -> None:
        """The frames of a pack are on this device: `read(offset, length)` gives stored bytes, unverified."""
        self._at_hand[pack] = read

    def is_at_hand(self, pack: Digest) -> bool:
        """Whether the frames of a pack were attached."""
        return pack in self._at_hand

    def read_at_hand(self, pack: Digest, frame: Frame) -> bytes:
        """Stored bytes of an attached frame, unverified. Raises `ContentError`, `StoreError`."""
        return self._at_hand[pack](frame.stored_offset, frame.stored_size)

    def has(self, pack: Digest, number: int) -> bool:
        """Whether a patch is kept."""
        return (pack, number) in self._digests

    def keep(self, pack: Digest, number: int, frame: Frame, stored: Buffer) -> bool:
        """Spool a patch; where that cannot be, this node does not serve it."""
        if not self._spool.keep(pack, frame.stored_offset, stored):
            return False
        self._digests[pack, number] = sha256(stored)
        self._imported.discard((pack, number))
        return True

    def keep_at_hand(self, pack: Digest, number: int, stored: Buffer) -> bool:
        """As `keep`, for a patch that stays where it was imported to."""
        self._digests[pack, number] = sha256(stored)
        self._imported.add((pack, number))
        return True

    def read(self, pack: Digest, number: int, frame: Frame) -> bytes | None:
        """A patch as it was kept; None when it was not, or is not there (as it was) any more."""
        expected = self._digests.get((pack, number))
        if expected is None:
            return None
        stored: bytes | None
        if (pack, number) not in self._imported:
            stored = self._spool.read(pack, frame.stored_offset, frame.stored_size)
        else:
            try:
                stored = self.read_at_hand(pack, frame)
            except (ContentError, StoreError):
                return None
        return stored if stored is not None and sha256(stored) == expected else None

    def close(self) -> None:
        """Drop what is spooled; nothing is served any more."""
        self._spool.close()
        self._digests.clear()
