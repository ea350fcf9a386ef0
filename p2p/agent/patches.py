"""The stored bytes of an image's patches, kept for peers: in its spool, or where they were imported to.

A patch is in no slot, so a node that applied one has it to give only if it kept it. What of it stands in
the image is not kept a second time (`p2p.delta.residue`), but read from the slot when it is asked for; while
there is plenty of memory it is, as that costs no processor time. What is read to be sent is held against what
was kept. Not for how patches are applied (`p2p.agent.images`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from p2p.agent.spool import Spool
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.index import Frame
from p2p.delta.residue import residue_of, restore
from p2p.errors import ContentError, LocalError


class _Kept(NamedTuple):
    """A patch's digest, and where it is: `spooled` bytes of it, or of its residue, or (None) imported."""

    digest: Digest
    spooled: int | None


class KeptPatches:
    """Of one image, by pack and number of the piece. Calls block."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._kept: dict[tuple[Digest, int], _Kept] = {}
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
        return (pack, number) in self._kept

    def keep(self, pack: Digest, number: int, frame: Frame, stored: Buffer, target: Buffer) -> bool:
        """Spool a patch that makes `target`; where that cannot be, this node does not serve it."""
        residue = None if self._spool.memory.has_plenty(len(stored)) else residue_of(stored, target)
        spooled = stored if residue is None else residue
        if not self._spool.keep(pack, frame.stored_offset, spooled):
            return False
        self._kept[pack, number] = _Kept(sha256(stored), len(spooled))
        return True

    def keep_at_hand(self, pack: Digest, number: int, stored: Buffer) -> bool:
        """As `keep`, for a patch that stays where it was imported to."""
        self._kept[pack, number] = _Kept(sha256(stored), None)
        return True

    def read(
        self, pack: Digest, number: int, frame: Frame, read_target: Callable[[int, int], bytes]
    ) -> bytes | None:
        """A patch as it was kept; None when it was not, or is not there (as it was) any more.

        `read_target(offset, length)` reads the image.
        """
        kept = self._kept.get((pack, number))
        if kept is None:
            return None
        try:
            if kept.spooled is None:
                stored: bytes | None = self.read_at_hand(pack, frame)
            else:
                stored = self._spool.read(pack, frame.stored_offset, kept.spooled)
                if stored is not None and kept.spooled < frame.stored_size:
                    target = read_target(frame.target_offset, frame.target_length)
                    stored = restore(stored, target, frame.stored_size)
        except (ContentError, LocalError):
            return None
        return stored if stored is not None and sha256(stored) == kept.digest else None

    def close(self) -> None:
        """Drop what is spooled; nothing is served any more."""
        self._spool.close()
        self._kept.clear()
