"""What the ledgers of a device come to, over all lives of its agent."""

from __future__ import annotations

from p2p.swarm.node import SwarmNode


class Totals:
    """What the ledgers of a device's earlier lives say, and what nobody lived to count."""

    __slots__ = ("from_peers", "sent", "wan", "wasted")

    def __init__(self) -> None:
        self.wan = self.from_peers = self.sent = self.wasted = 0

    def with_node(self, node: SwarmNode | None) -> Totals:
        """These and the ledger of the life that is under way."""
        total = Totals()
        total.wan, total.from_peers, total.sent, total.wasted = (
            self.wan,
            self.from_peers,
            self.sent,
            self.wasted,
        )
        if node is not None:
            total.add(node)
        return total

    def add(self, node: SwarmNode) -> None:
        ledger = node.ledger
        self.wan += ledger.wan
        self.from_peers += ledger.from_peers
        self.sent += sum(ledger.sent.values())
        self.wasted += ledger.wasted
