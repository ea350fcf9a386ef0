"""Pack indexes that a node lacks: what a carrier takes along, and how often others are asked in vain."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import Release, make_release

BASE = Digest(b"b" * 32)
HOUR = 3600.0


@pytest.fixture(scope="module")
def release() -> Release:
    return make_release(2 << 20, {BASE: 200_000})


def make_node(*, wan: bool, carrier: bool = False) -> SwarmNode:
    return SwarmNode(device="me", site="depot", port=7000, rng=random.Random(1), wan=wan, carrier=carrier)


def fetched(actions: list[e.Action]) -> list[Digest]:
    return [a.digest for a in actions if isinstance(a, e.FetchObject)]


def asked(actions: list[e.Action]) -> list[str]:
    return [a.device for a in actions if isinstance(a, e.Send) and isinstance(a.message, m.ObjectWant)]


def ticks(node: SwarmNode, since: float, until: float) -> Iterator[tuple[float, list[e.Action]]]:
    """Each time that the node wakes by itself, and what it does then."""
    now = since
    while (due := node.deadline()) is not None and due <= until:
        now = max(now, due)
        yield now, node.handle(e.Tick(), now)


def all_actions(node: SwarmNode, since: float, until: float) -> list[e.Action]:
    return [action for _, actions in ticks(node, since, until) for action in actions]


def meet(
    node: SwarmNode, device: str, now: float, release: Release, *, complete: bool, wan: bool = False
) -> None:
    node.handle(e.PeerConnected(device, "10.0.0.1"), now)
    node.handle(e.Received(device, m.Hello(PROTOCOL, "depot", 1, wan)), now)
    join = m.Join(release.task_image, None if complete else BASE, wan, 100, complete)
    node.handle(e.Received(device, join), now)


@pytest.mark.parametrize(
    ("carrier", "wan", "expected"), [(True, True, 1), (False, True, 0), (True, False, 0)]
)
def test_a_carrier_gets_the_full_packs_index_while_it_has_a_wan(
    release: Release, carrier: bool, wan: bool, expected: int
) -> None:
    node = make_node(wan=wan, carrier=carrier)
    actions = node.handle(e.Offer(release.task(None)), 0.0) + all_actions(node, 0.0, 60.0)
    assert fetched(actions) == [release.pack(None).index.sha256] * expected


def test_a_carrier_that_comes_to_a_wan_gets_it_then_and_asks_again_if_it_fails(release: Release) -> None:
    node, name = make_node(wan=False, carrier=True), release.pack(None).index.sha256
    node.handle(e.Offer(release.task(None)), 0.0)
    assert fetched(all_actions(node, 0.0, 100.0)) == []
    assert fetched(node.handle(e.WanChanged(True), 100.0)) == [name]
    node.handle(e.ObjectFetched(name, None), 101.0)
    assert fetched(all_actions(node, 101.0, 120.0)) == [name]
    node.handle(e.ObjectFetched(name, release.objects[name]), 121.0)
    all_actions(node, 121.0, 130.0)
    assert node.deadline() is None  # it has all that it needs, and wakes for nothing


def wait_in_vain(node: SwarmNode, release: Release, until: float) -> tuple[list[float], int]:
    """Peers that have the image and not its index are asked for it; returns when, and how often it woke."""
    node.handle(e.Pursue(release.task(BASE), ()), 1.0)
    times, wakes = [], 0
    for now, actions in ticks(node, 1.0, until):
        wakes += 1
        for action in actions:
            if isinstance(action, e.Send) and isinstance(action.message, m.ObjectWant):
                times.append(now)
                refused = m.Refuse(action.message.request, m.Refusal.DONT_HAVE)
                node.handle(e.Received(action.device, refused), now)
    return times, wakes


def test_where_nobody_has_a_wan_an_index_is_asked_for_ever_more_rarely(release: Release) -> None:
    node = make_node(wan=False)
    meet(node, "van", 0.0, release, complete=True)
    times, wakes = wait_in_vain(node, release, HOUR)
    assert 40 < len(times) < 55  # each 80 s, after the first few
    assert times[1] - times[0] < 8
    assert wakes < HOUR / 2 + 100  # a look at deadlines each 2 s, and a few at the start


def test_where_somebody_has_a_wan_it_is_asked_for_again_soon(release: Release) -> None:
    node = make_node(wan=False)
    meet(node, "van", 0.0, release, complete=True)
    meet(node, "gateway", 0.0, release, complete=False, wan=True)
    times, _ = wait_in_vain(node, release, HOUR)
    assert len(times) > HOUR / 8


def test_who_comes_is_asked_at_once(release: Release) -> None:
    node = make_node(wan=False)
    meet(node, "van", 0.0, release, complete=True)
    wait_in_vain(node, release, HOUR)
    meet(node, "other-van", HOUR, release, complete=True)
    assert "other-van" in asked(all_actions(node, HOUR, HOUR + 8))


def test_who_says_that_it_holds_the_index_is_asked_soon(release: Release) -> None:
    node, full = make_node(wan=False), release.pack(None)
    meet(node, "van", 0.0, release, complete=True)
    wait_in_vain(node, release, HOUR)
    have = m.Have(release.task_image, full.index.sha256, len(release.maps[full.index.sha256]), b"")
    node.handle(e.Received("van", have), HOUR)
    assert asked(all_actions(node, HOUR, HOUR + 8)) == ["van"]
