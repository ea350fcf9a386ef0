"""What a way to make (a part of) an image costs: WAN and LAN bytes, processor time and energy, on one scale.

Wherever a node can come by the same bytes in more than one way, it takes the one that costs least: which
pack crosses the WAN (`plan`), which one a node fetches that counts on nobody (`choice`), patches or chunks
of peers (`image`), deltas that peers compute (`delta_asking`), patches made anew (`recomputing`), content
that still stands in the base (`agent.filling`). What a way takes is measured (`python -m benchmarks.cost`);
what that is worth is policy, in bytes over the WAN. All devices of a site should weigh alike: those that do
not agree on its plan fetch more than one copy, until they see each other's leases.

Not for who fetches (`plan`), nor for how many bytes there may be (`allowance`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

GB, HOUR_S, KWH_J = 1e9, 3600.0, 3.6e6

CARRY_S = 4.2e-9
"""Processor seconds of both ends for a byte that a peer sends: TLS, digest, writing."""

UNPACK_S = 2e-9
"""And of the device that makes a byte of image from a frame of the full pack."""

PATCH_S = 2e-9
"""By a published patch, for a byte of image."""

RECOMPUTE_S = 3.5e-7
"""For a byte of image whose patch is made anew."""

DELTA_S = 1.6
"""For a delta that a peer computes, made and applied, however little of its 4 MiB changed: what is sorted
for it is the base around them."""

LOOK_S = 2.5e-9
"""For a byte of the base in which chunks of the image are looked for."""

FOUND = 0.1
"""So much of an image stood, at the least, in a base from which nothing was published
(`benchmarks.peer_deltas`)."""

CORE_W = 1.0
"""Watts of a busy core of a small board beyond those at rest. Not measured here: no counter of energy is at
hand where the other figures come from."""

RADIO_LAN_J, RADIO_WAN_J = 3.4e-6, 0.42e-6
"""Joules of a byte on Wi-Fi, sender and receiver, and of one that comes over LTE beyond what its radio takes
in any case (Huang et al., "A Close Examination of Performance and Power Characteristics of 4G LTE Networks",
MobiSys 2012, table 4)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a GB over the LAN, an hour of a core and a kWh are worth, in bytes over the WAN.

    `lan_gb`: so little that a site of 500 does not take a pack that is 5 % larger than one of 100 KiB, though
    that spares each device 100 MB over the LAN. `cpu_hour`: a peer's delta pays from 16 KiB of chunks on.
    `energy_kwh`: nothing, as devices on battery spare it in other ways (`conditions`).
    """

    lan_gb: float = 100.0
    cpu_hour: float = 3.7
    energy_kwh: float = 0.0


USUAL = Weights()


class Effort(NamedTuple):
    """What a way takes: bytes over the WAN and over the LAN, seconds of a core (of all devices together)."""

    wan: float = 0.0
    lan: float = 0.0
    cpu_s: float = 0.0

    @property
    def joules(self) -> float:
        return self.wan * RADIO_WAN_J + self.lan * RADIO_LAN_J + self.cpu_s * CORE_W


def cost(effort: Effort, weights: Weights) -> float:
    """On the scale of bytes over the WAN."""
    return (
        effort.wan
        + effort.lan * weights.lan_gb / GB
        + effort.cpu_s * weights.cpu_hour / HOUR_S
        + effort.joules * weights.energy_kwh / KWH_J
    )


def fetched(stored: float, made: float, *, patches: bool) -> Effort:
    """`stored` bytes of frames over the WAN, and `made` bytes of the image from them."""
    return Effort(wan=stored, cpu_s=made * (PATCH_S if patches else UNPACK_S))


def patches_of_peers(stored: float, made: float) -> Effort:
    """Stored patches from peers."""
    return Effort(lan=stored, cpu_s=stored * CARRY_S + made * PATCH_S)


def chunks_of_peers(size: float) -> Effort:
    """Chunks of the image from peers."""
    return Effort(lan=size, cpu_s=size * CARRY_S)


def made_anew(stored: float, made: float) -> Effort:
    """A published patch that a peer makes anew before it gives it."""
    patches = patches_of_peers(stored, made)
    return patches._replace(cpu_s=patches.cpu_s + made * RECOMPUTE_S)


def patches_pay(stored: float, made: float, weights: Weights, *, anew: bool = False) -> bool:
    """Whether patches of peers (made anew first?) cost less than what they make, as chunks."""
    way = made_anew(stored, made) if anew else patches_of_peers(stored, made)
    return cost(way, weights) < cost(chunks_of_peers(made), weights)


def delta_of_peer(lacking: float) -> Effort:
    """What a peer computes where so much of the image is lacking, its few bytes left out."""
    return Effort(cpu_s=DELTA_S + lacking * PATCH_S)


def delta_pays_from(weights: Weights) -> float:
    """So many bytes of chunks cost as much as the delta in their place; inf: none ever does."""
    start = cost(delta_of_peer(0), weights)
    spared = cost(chunks_of_peers(1), weights) - (cost(delta_of_peer(1), weights) - start)
    return start / spared if spared > 0 else math.inf


def looking_pays(base: float, lacking: float, weights: Weights) -> bool:
    """Whether a base is looked through for chunks of an image that lacks so much."""
    look = cost(Effort(cpu_s=base * LOOK_S), weights)
    return look <= FOUND * cost(chunks_of_peers(lacking), weights)
