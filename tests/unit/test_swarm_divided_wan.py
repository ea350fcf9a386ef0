"""Among how many devices a node divides the site's WAN, and how far a peer may make it believe in more."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import CLAIMS_MAX, MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.peer import LEASES_ABROAD_MAX
from p2p.swarm.policy import Policy
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import make_release

RELEASE = make_release(32 * MIB, {})
IMAGE, PACK = RELEASE.task_image, RELEASE.pack(None).index.sha256
FRAMES = len(RELEASE.maps[PACK].index.frames)


class Divided:
    """A node that divides the site's WAN; `among` is what it said last."""

    def __init__(self) -> None:
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), divides=True)
        self.now = 0.0
        self.among = 1
        self.feed(e.HoldObject(PACK, RELEASE.objects[PACK]))
        self.feed(e.Pursue(RELEASE.task(None), ()))

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.WanShared):
                self.among = action.among

    def meet(self, device: str, *messages: m.Message) -> None:
        self.feed(e.PeerConnected(device, "10.0.0.2"))
        join = m.Join(IMAGE, None, True, 100, False)
        for message in (m.Hello(PROTOCOL, "depot", 1, True), join, *messages):
            self.feed(e.Received(device, message))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.25)
            self.feed(e.Tick())


def lease(n: int) -> m.Lease:
    return m.Lease(IMAGE, PACK, 0, n, n + 1)


def tale(names: list[str]) -> m.Hearsay:
    """A peer tells of these devices that each fetches a frame."""
    claims = [m.Claim(d, 1, None, True, 1000, False, PACK, ((n, n + 1),)) for n, d in enumerate(names)]
    return m.Hearsay(IMAGE, tuple(claims))


def test_connected_devices_that_fetch_are_counted() -> None:
    site = Divided()
    for n in range(3):
        site.meet(f"d{n}", lease(n))
    assert site.among == 4


@pytest.mark.parametrize("told", [1, 2])
def test_a_gateway_that_is_only_told_of_is_counted(told: int) -> None:
    site = Divided()
    site.meet("d0", tale([f"far-{n}" for n in range(told)]))
    site.wait(1.0)
    assert site.among == 1 + told


def test_a_peer_that_invents_devices_makes_no_more_of_them_count_than_there_are_gateways() -> None:
    site = Divided()
    site.meet("liar", tale([f"ghost-{n}" for n in range(CLAIMS_MAX)]))
    site.wait(1.0)
    assert 1 < site.among <= 1 + Policy().gateways_max
    worst = site.among
    for round_ in range(20):
        site.feed(e.Received("liar", tale([f"ghost-{round_}-{n}" for n in range(CLAIMS_MAX)])))
        site.wait(1.0)
        worst = max(worst, site.among)
    assert worst <= 1 + Policy().gateways_max


def test_a_holder_of_leases_of_which_nothing_comes_is_counted_for_a_while_only() -> None:
    site = Divided()
    site.meet("liar", lease(0))
    assert site.among == 2
    for _ in range(60):
        site.wait(1.0)
    assert site.among == 1
    site.feed(e.Received("liar", lease(1)))
    assert site.among == 1, "nor is it believed again at once"


ELSEWHERE = make_release(MIB, {}, seed=7)


def lease_elsewhere(*, ends: bool = False) -> m.Lease:
    return m.Lease(ELSEWHERE.task_image, ELSEWHERE.pack(None).index.sha256, 3, 0, 0 if ends else 1)


def test_who_fetches_another_image_is_counted_while_it_says_so() -> None:
    site = Divided()
    site.meet("d0", lease_elsewhere())
    assert site.among == 2
    for _ in range(4):
        site.wait(5.0)
        site.feed(e.Received("d0", lease_elsewhere()))
    assert site.among == 2
    site.feed(e.Received("d0", lease_elsewhere(ends=True)))
    site.wait(0.5)
    assert site.among == 1


def test_who_falls_silent_or_goes_is_counted_no_more() -> None:
    site = Divided()
    site.meet("d0", lease_elsewhere())
    site.meet("d1", lease_elsewhere())
    assert site.among == 3
    site.feed(e.PeerLost("d0"))
    assert site.among == 2
    site.wait(12.0)
    assert site.among == 1


def test_the_leases_on_an_image_that_is_given_up_still_count() -> None:
    site = Divided()
    site.meet("d0", lease(0))
    site.feed(e.Drop(IMAGE))
    site.wait(0.5)
    assert site.among == 2


def test_a_peer_with_leases_on_many_images_counts_once_and_is_remembered_within_bounds() -> None:
    site = Divided()
    site.meet("d0")
    for n in range(2 * LEASES_ABROAD_MAX):
        image = Digest(n.to_bytes(32, "big"))
        site.feed(e.Received("d0", m.Lease(image, image, n % 16, 0, 1)))
        site.feed(e.Received("d0", m.Leave(image)))
    assert site.among == 2
    assert len(site.node._context.peers["d0"].abroad) <= LEASES_ABROAD_MAX


@pytest.mark.parametrize("divides", [True, False])
def test_what_is_fetched_is_told_to_those_at_other_images_if_the_wan_is_divided(divides: bool) -> None:
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), divides=divides)
    node.handle(e.HoldObject(PACK, RELEASE.objects[PACK]), 0.0)
    node.handle(e.Pursue(RELEASE.task(None), ()), 0.0)
    node.handle(e.PeerConnected("other", ""), 0.0)
    node.handle(e.Received("other", m.Hello(PROTOCOL, "depot", 1, True)), 0.0)
    told = [
        action.message
        for n in range(40)
        for action in node.handle(e.Tick(), n / 4)
        if isinstance(action, e.Send) and isinstance(action.message, m.Lease)
    ]
    assert bool(told) is divides
