"""Among how many devices a node divides the site's WAN, and how far a peer may make it believe in more."""

from __future__ import annotations

import random

import pytest

from p2p.content.limits import CLAIMS_MAX, MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
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
