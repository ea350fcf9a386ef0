"""The swarm: messages, wire codec, site plan and the pure `SwarmNode` that decides for one device."""

from p2p.swarm.events import ImageTask
from p2p.swarm.ledger import Ledger
from p2p.swarm.node import ImageStatus, SwarmNode
from p2p.swarm.plan import Participant, SitePlan, make_plan
from p2p.swarm.policy import Policy

__all__ = [
    "ImageStatus",
    "ImageTask",
    "Ledger",
    "Participant",
    "Policy",
    "SitePlan",
    "SwarmNode",
    "make_plan",
]
