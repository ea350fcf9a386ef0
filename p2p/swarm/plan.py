"""The site plan: a pure function of what all nodes of a site have told.

Which pack crosses the WAN (the cheapest by which any present node with WAN can make the image), who
could fetch it (the candidates), and in which order they do (weighted rendezvous hashing, so that
nodes that know the same members agree without an election, and the loss of one moves only its own
share; Thaler & Ravishankar 1998, weights after Schindelhauer & Schomaker 2005).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.content.manifest import PackRef


@dataclass(frozen=True, slots=True)
class Participant:
    """What one node told of itself for one image. `weight` 0: a gateway only if nobody else can be."""

    device: str
    base: Digest | None
    wan: bool
    weight: int = 100
    complete: bool = False


@dataclass(frozen=True, slots=True)
class SitePlan:
    """`pack` crosses the WAN, fetched by some of `candidates` (devices, sorted).

    `pack` is None when nothing has to: a node of the site is complete, or none has WAN.
    """

    pack: PackRef | None
    candidates: tuple[str, ...] = ()


def make_plan(
    packs: Sequence[PackRef], participants: Iterable[Participant], held: Mapping[Digest, int]
) -> SitePlan:
    """The cheapest way for the site. `held`: stored bytes of a pack (by index digest) it already has."""
    members = sorted(participants, key=lambda p: p.device)
    if any(p.complete for p in members):
        return SitePlan(None)
    online = [p for p in members if p.wan]
    fetchers = [p for p in online if p.weight > 0] or online
    best: tuple[int, bytes] | None = None
    plan = SitePlan(None)
    for pack in packs:
        able = tuple(p.device for p in fetchers if pack.base is None or p.base == pack.base)
        if not able:
            continue
        cost = (max(0, pack.wan_bytes - held.get(pack.index.sha256, 0)), pack.index.sha256)
        if best is None or cost < best:
            best, plan = cost, SitePlan(pack, able)
    return plan


def rank(
    key: bytes, weights: Mapping[str, int], scores: dict[tuple[str, int], float] | None = None
) -> list[str]:
    """Devices in rendezvous order for `key`, the responsible one first. Weights are positive.

    `scores` remembers what was computed for this key.
    """
    if scores is None:
        scores = {}
    order = []
    for pair in weights.items():
        score = scores.get(pair)
        if score is None:
            score = scores[pair] = _score(key, *pair)
        order.append((-score, pair[0]))
    order.sort()
    return [device for _, device in order]


def gateway_count(participants: int, gateways_max: int) -> int:
    """How many gateways a site of this many participants has."""
    wanted = 1 if participants <= 3 else 2 if participants <= 12 else 3
    return max(1, min(wanted, gateways_max))


def stripe_key(image: Digest, stripe: int) -> bytes:
    """The rendezvous key of one stripe of a pack's stored bytes."""
    return image + stripe.to_bytes(8, "big")


def _score(key: bytes, device: str, weight: int) -> float:
    digest = hashlib.sha256(key + device.encode()).digest()
    uniform = (int.from_bytes(digest[:7], "big") + 0.5) / (1 << 56)
    return -weight / math.log(uniform)
