"""Among how many devices the site's WAN is divided, where they have a budget for it together.

Each counts those that say that they fetch, whatever image that is for; who does not know of another takes
more than its part until word has come through. Not for the budget itself, which is the driver's.
"""

from __future__ import annotations

from p2p.swarm.actions import WanShared
from p2p.swarm.context import Context
from p2p.swarm.leases import Leases
from p2p.swarm.pursuits import Pursuits


class Division:
    """As one node knows it; it speaks of it when it changes."""

    def __init__(self, context: Context, pursuits: Pursuits) -> None:
        self._context = context
        self._pursuits = pursuits
        self._among = 1

    def step(self) -> None:
        """Count anew. This node is counted also while it fetches nothing, so that it begins with its part."""
        others = {device for pursuit in self._pursuits.all for device in pursuit.gateway.fetchers()}
        others.update(self._abroad())
        among = 1 + len(others)
        if among != self._among:
            self._among = among
            self._context.actions.append(WanShared(among))

    def _abroad(self) -> set[str]:
        """Peers that fetch images that this node is not at; what is not renewed counts no more."""
        since = self._context.now - Leases.silence_s(self._context.policy)
        return {
            device for device, peer in self._context.peers.items()
            if peer.abroad and any(heard_at >= since for heard_at in peer.abroad.values())
        }  # fmt: skip
