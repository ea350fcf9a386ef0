"""What does not change in the life of a virtual device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p2p.content.digests import Digest
from p2p.content.order import Member
from sim.world.trust import EPOCH


@dataclass(frozen=True, slots=True)
class Character:
    """`root`: the pinned one. `healthy`: whether a release passes the health check on this device;
    `boots`: whether its slot comes up at all. `revocations`: whether there is a list of them to read."""

    member: Member
    product: str
    root: bytes
    poll_s: float = 3600.0
    poll_jitter: float = 0.5
    health_s: float = 5.0
    has_wan: bool = True
    lookout: bool = True
    revocations: bool = False
    build_time: float = EPOCH - 30 * 86_400.0
    healthy: Callable[[Digest], bool] = field(default=lambda manifest: True)
    boots: Callable[[str], bool] = field(default=lambda slot: True)
