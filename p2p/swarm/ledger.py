"""The byte ledger: where every byte of a node's images came from and where it sent bytes.

All counts are payload bytes (frames, chunks, objects), without framing, TLS or TCP; the WAN's wire
bytes are counted by the origin adapter and shown beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Ledger:
    """Bytes by source. `base` and `zero` are target bytes made locally; `wasted` came and was of no use."""

    wan: int = 0
    peers: dict[str, int] = field(default_factory=dict)
    base: int = 0
    zero: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    wasted: int = 0

    def from_peer(self, device: str, size: int) -> None:
        self.peers[device] = self.peers.get(device, 0) + size

    def to_peer(self, device: str, size: int) -> None:
        self.sent[device] = self.sent.get(device, 0) + size

    @property
    def from_peers(self) -> int:
        return sum(self.peers.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "wan": self.wan,
            "peers": dict(self.peers),
            "base": self.base,
            "zero": self.zero,
            "sent": dict(self.sent),
            "wasted": self.wasted,
        }
