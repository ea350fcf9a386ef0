"""The numbers that a swarm node decides by. Times are seconds, sizes bytes; defaults suit a depot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2p.content.limits import KIB, MIB
from p2p.swarm.cost import USUAL, Weights


class PeerDeltas(StrEnum):
    """For whom peers compute deltas: nobody, devices whose base has no published pack, or also such whose
    published patches nobody has any more."""

    OFF = "off"
    UNPUBLISHED = "unpublished"
    THIN_LAN = "thin-lan"


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient, how greedy and how parallel a node is.

    - `settle_s`: no WAN bytes for this long after the start, so that nodes that wake together count
      each other; `settle_silent_s` longer while the roster names devices that are silent.
    - `gather_s`: nor for this long after an image is taken up, unless all of the roster and all that are
      connected have taken it up too: nodes that have run for days hear of a release at almost the same time.
    - `join_s`: so long after that, or after it connected, a peer that does not take part yet is waited for
      if it may make a smaller pack possible: news reaches it, and it asks what is meant, in about this time.
    - `stall_s`: a lease or a fetch without progress for this long ends.
    - `fallback_s`: without any progress for this long (jittered, up to twice) a node serves itself.
    - `return_s`: a device that had the whole image and went away is counted on for this long, as it may only
      be starting anew; also one of which the roster knows that it has the image.
    - `request_s`: a peer that has answered nothing for this long, and twice what its answers take, is late
      with what it was asked for; `hedge_s`: after this long, a piece is asked of somebody else as well who
      is clearly faster (over the LAN only).
    - `help_s`: a gateway that has had nothing of its own to fetch for this long takes from another's.
    - `object_s`: how long the responsible node may take to begin to bring a small object.
    - `object_pending_max`, `object_per_peer_max`: small objects looked for at once, and at once for one
      peer; `object_peer_bytes`, `object_peer_rate`: what one peer may make this node fetch over the WAN,
      at once and per second after that.
    - `gateways_max`: how many nodes fetch for the site at once.
    - `stripe_bytes`: contiguous stored bytes that one gateway is responsible for.
    - `run_bytes`: at most this much in one fetch; `fetches_max` run at once. No more is believed of others.
    - `pipeline_s`, `pipeline_min`, `pipeline_max`: requests in flight to one peer are its rate
      times `pipeline_s`, within these bounds (in requests); `pipeline_first` while its rate is not known.
    - `window_s`: the requests in flight in all are so many that they are answered in about this time,
      but from `window_min` to `window_max` (in pieces of `piece_estimate`); `window_first` to begin with.
    - `have_batch_s`: news of pieces is gathered for this long.
    - `peer_deltas`: when a node asks peers for deltas that nobody signed (`delta_asking`), and makes them, if
      it may spend the processor time at all (`Context.recomputes`).
    - `cost`: what bytes of the LAN, processor time and energy are worth, where there is more than one way.
    - `penalty_s`: how long a node that stalled is not a gateway, and one that broke `strikes_max` promises
      is not believed; twice as long each time, up to an hour.
    """

    settle_s: float = 2.0
    settle_silent_s: float = 4.0
    gather_s: float = 1.0
    join_s: float = 5.0
    stall_s: float = 8.0
    fallback_s: float = 30.0
    return_s: float = 60.0
    request_s: float = 10.0
    hedge_s: float = 3.0
    help_s: float = 1.0
    object_s: float = 4.0
    gateways_max: int = 3
    stripe_bytes: int = 4 * MIB
    run_bytes: int = 2 * MIB
    fetches_max: int = 2
    pipeline_s: float = 3.0
    pipeline_first: int = 4
    pipeline_min: int = 1
    pipeline_max: int = 32
    window_s: float = 1.5
    window_first: int = 2
    window_min: int = 2
    window_max: int = 512
    have_batch_s: float = 0.05
    penalty_s: float = 60.0
    strikes_max: int = 3
    object_cache_bytes: int = 8 * MIB
    object_pending_max: int = 64
    object_per_peer_max: int = 16
    object_peer_bytes: int = 16 * MIB
    object_peer_rate: int = 1 * KIB
    serve_queue_max: int = 48
    piece_estimate: int = 128 * KIB
    peer_deltas: PeerDeltas = PeerDeltas.UNPUBLISHED
    cost: Weights = USUAL


def penalty_s(policy: Policy, times: int) -> float:
    """How long a device that failed for the `times`-th time is passed over."""
    return float(min(policy.penalty_s * 2 ** min(times - 1, 16), 3600.0))
