"""The moments at which time alone lets a node begin are named by its deadline, and no others are."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.policy import Policy
from p2p.swarm.site_view import CROWD, GREET_S
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import Release, make_release

BASE = Digest(b"b" * 32)
POLICY = Policy()
START = 100.1


@pytest.fixture(scope="module")
def release() -> Release:
    return make_release(2 << 20, {BASE: 200_000})


@pytest.fixture
def node() -> SwarmNode:
    """One that has run for long."""
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
    node.handle(e.Tick(), 0.0)
    node.handle(e.Tick(), 90.0)
    return node


def connect(node: SwarmNode, device: str, now: float) -> None:
    node.handle(e.PeerConnected(device, "10.0.0.1"), now)
    node.handle(e.Received(device, m.Hello(PROTOCOL, "depot", 1, True)), now)


def join(node: SwarmNode, device: str, release: Release, now: float) -> None:
    node.handle(e.Received(device, m.Join(release.task_image, None, True, 100, False)), now)


def begins(node: SwarmNode, since: float) -> float:
    """When it asks for what it needs: an index, of a peer or of the origin."""
    now = since
    while (due := node.deadline()) is not None and now < since + 60:
        now = max(now, due)
        for action in node.handle(e.Tick(), now):
            asks = isinstance(action, e.Send) and isinstance(action.message, m.ObjectWant)
            if asks or isinstance(action, e.FetchObject):
                return now
    raise AssertionError("it never begins")


def test_a_node_begins_when_those_who_are_at_the_image_have_told_what_they_fetch(
    node: SwarmNode, release: Release
) -> None:
    connect(node, "a", 91.0)
    join(node, "a", release, 99.0)
    node.handle(e.Pursue(release.task(None), ()), START)
    assert begins(node, START) == START + GREET_S


def test_a_node_begins_when_a_peer_has_had_the_time_to_join(node: SwarmNode, release: Release) -> None:
    """It might make a smaller pack possible; it comes between two looks at other deadlines."""
    connect(node, "a", 91.0)
    join(node, "a", release, 99.0)
    node.handle(e.Pursue(release.task(None), ()), START)
    connect(node, "b", START + 0.13)
    assert begins(node, START + 0.13) == START + 0.13 + POLICY.join_s


def test_in_a_crowd_a_node_begins_when_no_news_has_come_from_far_away_for_long_enough(
    node: SwarmNode, release: Release
) -> None:
    for n in range(CROWD + 1):
        connect(node, f"near-{n}", 91.0)
        join(node, f"near-{n}", release, 99.0)
    node.handle(e.Pursue(release.task(None), ()), START)
    claim = m.Claim("far", 0, None, True, 100, False, None, ())
    node.handle(e.Received("near-0", m.Hearsay(release.task_image, (claim,))), START + 0.57)
    assert begins(node, START + 0.57) == START + 0.57 + POLICY.gather_s


def test_a_node_that_waits_for_nothing_is_not_woken(node: SwarmNode, release: Release) -> None:
    connect(node, "a", 91.0)
    node.handle(e.Offer(release.task(None)), START)
    while (due := node.deadline()) is not None and due < START + 3:
        node.handle(e.Tick(), due)
    assert node.deadline() is None
