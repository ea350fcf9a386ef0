"""The site plan: a pure function of what all nodes of a site have told.

Which pack crosses the WAN (the cheapest for all, by `cost`, by which any present node with WAN can make the
image), who could fetch it (the candidates), and in which order they do (weighted rendezvous hashing, so that
nodes that know the same members agree without an election, and the loss of one moves only its own
share; Thaler & Ravishankar 1998, weights after Schindelhauer & Schomaker 2005).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.swarm.cost import USUAL, Effort, Weights, chunks_of_peers, cost, fetched, patches_of_peers

SCORES_MAX = 8192
"""So many places in rendezvous orders are remembered, the same for all nodes of a process."""


@dataclass(frozen=True, slots=True)
class Participant:
    """What one node told of itself for one image. `weight` 0: a gateway only if nobody else can be. `price`:
    of its WAN, in millionths per MB, if it said so."""

    device: str
    base: Digest | None
    wan: bool
    weight: int = 100
    complete: bool = False
    price: int | None = None


@dataclass(frozen=True, slots=True)
class SitePlan:
    """`pack` crosses the WAN, fetched by some of `candidates` (devices, sorted).

    `pack` is None when nothing has to: a node of the site is complete, or none has WAN.
    """

    pack: PackRef | None
    candidates: tuple[str, ...] = ()


def make_plan(
    packs: Sequence[PackRef],
    participants: Iterable[Participant],
    held: Mapping[Digest, int],
    size: int = 0,
    weights: Weights = USUAL,
) -> SitePlan:
    """The cheapest way for the site. `held`: stored bytes of a pack (by index digest) it already has; `size`:
    of the image."""
    members = sorted(participants, key=lambda p: p.device)
    if any(p.complete for p in members):
        return SitePlan(None)
    online = [p for p in members if p.wan]
    fetchers = [p for p in online if p.weight > 0] or online
    best: tuple[float, bytes] | None = None
    bases = Counter(p.base for p in members)
    prices = uplink_prices(fetchers)
    plan = SitePlan(None)
    for pack in packs:
        able = tuple(p.device for p in fetchers if pack.base is None or p.base == pack.base)
        if not able:
            continue
        name = pack.index.sha256
        left = max(0, pack.wan_bytes - held.get(name, 0))
        alike = bases[pack.base] if pack.base is not None else 0
        effort = _site_effort(pack, left, size, alike, len(members))
        if prices:
            effort = effort._replace(wan=effort.wan * min(prices[device] for device in able))
        dear = cost(effort, weights), name
        if best is None or dear < best:
            best, plan = dear, SitePlan(pack, able)
    return plan


def uplink_prices(participants: Iterable[Participant]) -> dict[str, float]:
    """What a byte over each one's WAN costs, beside one over the cheapest; empty if nobody says a price.

    Who says none is taken to be as dear as the dearest; what is free costs a millionth a MB.
    """
    told = {p.device: p.price for p in participants}
    said = [price for price in told.values() if price is not None]
    if not said:
        return {}
    least, most = max(1, min(said)), max(1, *said)
    return {device: max(1, most if price is None else price) / least for device, price in told.items()}


def _site_effort(pack: PackRef, left: int, size: int, alike: int, among: int) -> Effort:
    """What it takes to have `left` bytes of a pack cross the WAN and the image reach all of a site.

    `alike` of `among` devices have the base of the pack: they take its patches from each other, the others
    take the image as chunks, as if nothing of it stood in their bases.
    """
    patches = pack.base is not None
    wan = fetched(left, size, patches=patches)
    riders = max(0, alike - 1) if patches else 0
    patched, whole = patches_of_peers(pack.frames.size, size), chunks_of_peers(size)
    chunked = among - 1 - riders
    return Effort(
        wan.wan,
        riders * patched.lan + chunked * whole.lan,
        wan.cpu_s + riders * patched.cpu_s + chunked * whole.cpu_s,
    )


def rank(key: bytes, weights: Mapping[str, int]) -> list[str]:
    """Devices in rendezvous order for `key`, the responsible one first. Weights are positive."""
    order = [(-_score(key, *pair), pair[0]) for pair in weights.items()]
    order.sort()
    return [device for _, device in order]


def gateway_count(participants: int, gateways_max: int) -> int:
    """How many gateways a site of this many participants has."""
    wanted = 1 if participants <= 3 else 2 if participants <= 12 else 3
    return max(1, min(wanted, gateways_max))


def stripe_key(image: Digest, stripe: int) -> bytes:
    """The rendezvous key of one stripe of a pack's stored bytes."""
    return image + stripe.to_bytes(8, "big")


@lru_cache(SCORES_MAX)
def _score(key: bytes, device: str, weight: int) -> float:
    digest = hashlib.sha256(key + device.encode()).digest()
    uniform = (int.from_bytes(digest[:7], "big") + 0.5) / (1 << 56)
    return -weight / math.log(uniform)
