"""The byte ledger: what moved, and where every byte of a node's images came from.

What moved (`wan`, `peers`, `sent`, `wasted`, `imported`) is payload: stored frames, chunks and objects,
without framing, TLS or TCP; the WAN's wire bytes are counted by the origin adapter and shown beside it. Where
images came from (`base`, `patched`, `chunks`, `zero`, `resumed`) is target bytes. The two differ: a patch
of a few kilobytes makes megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2p.content.pieces import PieceMap
from p2p.swarm.events import How, Stored


@dataclass(slots=True)
class Ledger:
    """Bytes since the start of the node, over all its images.

    - `wan`, `peers` (by device): received; `wasted`: of those and of the WAN's, what was of no use.
    - `sent` (by device): pieces given to peers; `imported`: stored frames that a bundle brought.
    - `base`: target bytes copied from the base; `patched`: rebuilt from it by patches and deltas; `chunks`:
      that came
      as they are; `zero`: of which nothing had to come; `resumed`: verified by an earlier run. These five
      add up to the sizes of the images, and to more only by what was made twice (damage that was mended,
      an image that the same process begins again).
    """

    wan: int = 0
    peers: dict[str, int] = field(default_factory=dict)
    base: int = 0
    patched: int = 0
    chunks: int = 0
    zero: int = 0
    resumed: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    wasted: int = 0
    imported: int = 0

    def from_peer(self, device: str, size: int) -> None:
        self.peers[device] = self.peers.get(device, 0) + size

    def to_peer(self, device: str, size: int) -> None:
        self.sent[device] = self.sent.get(device, 0) + size

    def in_vain(self, size: int) -> None:
        """Bytes of frames came over the WAN for nothing."""
        self.wan += size
        self.wasted += size

    def made(self, event: Stored, new: int, pieces: PieceMap | None, received: int) -> None:
        """`new` target bytes are in the slot; `received`: payload bytes of a peer's pieces that made them.

        `pieces`: of the event's pack; None where it is of an earlier try, whose cost was told then.
        """
        if event.how is How.BASE:
            self.base += new
        elif event.how is How.ZERO:
            self.zero += new
        elif event.how is How.DELTA:  # what came for it is told with `DeltaUsed`
            self.patched += new
        elif pieces is None:
            self.chunks += new
        else:
            if pieces.pieces[event.pieces[0]].is_patch:
                self.patched += new
            else:
                self.chunks += new
            if event.how in (How.WAN, How.IMPORTED):
                frames = {pieces[n].frame for n in event.pieces}
                size = sum(pieces.index.frames[f].stored_size for f in frames)
                if event.how is How.WAN:
                    self.wan += size
                elif new:
                    self.imported += size
            elif event.device is not None and new:
                self.from_peer(event.device, received)
            elif event.device is not None:
                self.wasted += received

    @property
    def from_peers(self) -> int:
        return sum(self.peers.values())

    @property
    def of_images(self) -> int:
        """Target bytes whose origin is told."""
        return self.base + self.patched + self.chunks + self.zero + self.resumed

    def to_json(self) -> dict[str, Any]:
        return {
            "wan": self.wan,
            "peers": dict(self.peers),
            "base": self.base,
            "patched": self.patched,
            "chunks": self.chunks,
            "zero": self.zero,
            "resumed": self.resumed,
            "sent": dict(self.sent),
            "wasted": self.wasted,
            **({"imported": self.imported} if self.imported else {}),
        }
