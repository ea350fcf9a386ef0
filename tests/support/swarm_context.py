"""What the parts of a swarm node share, for tests of one part alone."""

from __future__ import annotations

import random

from p2p.content.pieces import open_index
from p2p.swarm.context import Context
from p2p.swarm.policy import Policy


def make_context(*, now: float = 0.0) -> Context:
    """Of a node `me` with a WAN, nothing special about it, at time `now`."""
    context = Context("me", "depot", Policy(), random.Random(1), wan=True, weight=100, open_index=open_index)
    context.now = now
    return context
