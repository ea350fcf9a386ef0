"""How quickly frames come, as a node knows it."""

from __future__ import annotations

import pytest

from p2p.content.limits import MIB
from p2p.swarm import messages as m
from p2p.swarm.image import ImageSwarm
from p2p.swarm.leases import Leases
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.peer import Peer
from p2p.swarm.plan import Participant
from p2p.swarm.wan_rate import SPAN_S, WanRate
from tests.support.swarm_context import make_context
from tests.support.virtual_site import make_release


def test_a_fetch_that_was_whole_before_it_could_be_measured_says_how_slow_frames_are_not() -> None:
    rate = WanRate(make_context())
    rate.began()
    assert rate.unknown
    rate.fetched(1_000_000, 0.1)
    rate.fetched(1_000, 0.1)
    assert rate.slowest(other_min=0) == 1_000_000 / SPAN_S
    assert rate.unknown, "others may still show it"


def test_what_was_measured_counts_more_than_what_a_short_fetch_says() -> None:
    context = make_context()
    rate = WanRate(context)
    rate.began()
    context.now = SPAN_S
    rate.moved(int(SPAN_S * 4_000_000))
    rate.fetched(1_000_000, 0.1)
    assert rate.slowest(other_min=0) == 4_000_000


def test_a_short_fetch_of_little_makes_nobody_wait_longer_than_who_knows_nothing() -> None:
    rate = WanRate(make_context())
    rate.fetched(2_000, 0.1)
    assert rate.slowest(other_min=5_000) == 5_000
    rate.fetched(1_000_000, 0.1)
    assert rate.slowest(other_min=5_000) == 1_000_000 / SPAN_S


@pytest.mark.parametrize("had", [0.0, 0.9])
def test_what_a_newcomer_did_not_see_coming_says_nothing_of_how_quickly_it_came(had: float) -> None:
    """It hears of a lease as most of the frame is there: else it would take the next frames for late."""
    release, context = make_release(8 * MIB, {}), make_context(now=100.0)
    image = ImageSwarm(context, ObjectExchange(context), release.task(None))
    pack = release.pack(None).index.sha256
    image.index_ready(pack, release.objects[pack])
    rate = WanRate(context)
    leases = Leases(image, rate)
    peer = context.peers["gateway"] = Peer("gateway", 100.0)
    remote = peer.image(release.task_image)
    remote.participant = Participant("gateway", None, True)
    context.enter(release.task_image, peer, remote)
    pieces = release.maps[pack]
    size = pieces.index.frames[0].stored_size
    assert leases.begin(peer, remote, m.Lease(release.task_image, pack, 0, 0, 1, int(had * size)))
    context.now += 2 * SPAN_S
    assert leases.renewed_by("gateway", remote, pack, list(pieces.of_frame(0)))
    assert rate.slowest(other_min=0) == pytest.approx((1 - had) * size / (2 * SPAN_S), rel=0.01)
