"""How often a node looks at its deadlines, as far as nothing says exactly when they are due.

Each look costs a device a wake-up, so one that only waits for others looks rarely. Not for what has a due
time of its own (`SwarmNode.deadline`), nor for what is then done (`housekeeping` of each part).
"""

from __future__ import annotations

from p2p.swarm.context import Context
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.pursuits import Pursuits

FETCHING_S, WAITING_S, RESTING_S = 0.25, 1.0, 2.0
"""While this node fetches or is about to, while it waits for pieces that it asked for, and else."""


class Pace:
    """Of one node. `due_at`: its next look; None while there is nothing to look at."""

    def __init__(self, context: Context, objects: ObjectExchange, pursuits: Pursuits) -> None:
        self._context = context
        self._objects = objects
        self._pursuits = pursuits
        self.due_at: float | None = None

    @property
    def is_due(self) -> bool:
        return self.due_at is not None and self._context.now >= self.due_at

    def go_on(self) -> None:
        """Say when the next look is, from how things stand now."""
        busy = self._objects.busy or self._pursuits.unsettled
        self.due_at = self._context.now + self._interval() if busy else None

    def _interval(self) -> float:
        if self._objects.busy or not self._context.settled:
            return FETCHING_S
        for pursuit in self._pursuits:
            image = pursuit.image
            if image.complete:
                continue
            fetches = pursuit.gateway.active or self._context.device in image.site.gateways
            if fetches or pursuit.rider.paused or not image.site.ready:
                return FETCHING_S
            if image.route is None and self._context.wan:
                return FETCHING_S
        return WAITING_S if any(p.image.wanted.in_flight for p in self._pursuits) else RESTING_S
