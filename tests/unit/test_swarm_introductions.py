"""Peer exchange: who comes late is told whom the others know."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.wire import PROTOCOL


def make_node(*, visits: bool = False) -> SwarmNode:
    return SwarmNode(device="me", site="depot", port=7000, rng=random.Random(1), visits=visits)


def meet(
    node: SwarmNode, device: str, host: str, port: int = 7470, *, site: str = "depot", carrier: bool = False
) -> list[e.Action]:
    node.handle(e.PeerConnected(device, host, carrier), 0.0)
    return node.handle(e.Received(device, m.Hello(PROTOCOL, site, port, True)), 0.0)


def introductions(actions: list[e.Action]) -> list[tuple[str, m.Peers]]:
    return [
        (a.device, a.message) for a in actions if isinstance(a, e.Send) and isinstance(a.message, m.Peers)
    ]


def test_a_newcomer_is_told_of_the_others() -> None:
    node = make_node()
    assert introductions(meet(node, "a", "10.0.0.1", 1)) == []
    assert introductions(meet(node, "b", "10.0.0.2", 2)) == [("b", m.Peers((("a", "10.0.0.1", 1),)))]
    known = (("b", "10.0.0.2", 2), ("a", "10.0.0.1", 1))
    assert introductions(meet(node, "c", "10.0.0.3", 3)) == [("c", m.Peers(known))]


@pytest.mark.parametrize(("host", "port"), [("", 1), ("fe80::1%eth0", 1), ("10.0.0.1", 0)])
def test_an_address_that_is_of_no_use_to_others_is_not_passed_on(host: str, port: int) -> None:
    node = make_node()
    meet(node, "a", host, port)
    assert introductions(meet(node, "b", "10.0.0.2")) == []


def test_introductions_are_bounded() -> None:
    node = make_node()
    for n in range(limits.PEER_EXCHANGE_MAX + 5):
        meet(node, f"d{n}", f"10.0.0.{n}")
    ((_, told),) = introductions(meet(node, "late", "10.0.1.1"))
    assert len(told.peers) == limits.PEER_EXCHANGE_MAX


def test_what_a_peer_tells_is_handed_to_the_driver() -> None:
    node = make_node()
    meet(node, "a", "10.0.0.1")
    peers = (("b", "10.0.0.2", 2),)
    assert node.handle(e.Received("a", m.Peers(peers)), 0.0) == [e.PeerAddresses(peers)]


def parted(actions: list[e.Action]) -> list[str]:
    return [a.reason for a in actions if isinstance(a, e.Disconnect)]


@pytest.mark.parametrize(
    ("visits", "carrier", "reasons"),
    [(False, False, ["other-site"]), (False, True, []), (True, False, []), (True, True, [])],
)
def test_devices_of_different_sites_part_unless_one_is_a_carrier(
    visits: bool, carrier: bool, reasons: list[str]
) -> None:
    node = make_node(visits=visits)
    assert parted(meet(node, "a", "10.0.0.1", site="harbour", carrier=carrier)) == reasons
    assert ("a" in node.peers) == (not reasons)


def test_a_carrier_is_told_of_those_that_it_visits_and_they_not_of_it() -> None:
    """They would be parted with by others, or by what the carrier itself has met elsewhere."""
    node = make_node()
    meet(node, "a", "10.0.0.1", 1)
    told = introductions(meet(node, "van", "10.0.0.9", 9, site="road", carrier=True))
    assert told == [("van", m.Peers((("a", "10.0.0.1", 1),)))]
    assert introductions(meet(node, "b", "10.0.0.2", 2)) == [("b", m.Peers((("a", "10.0.0.1", 1),)))]


def test_a_carrier_introduces_only_devices_of_one_site_to_each_other() -> None:
    node = make_node(visits=True)
    meet(node, "a", "10.0.0.1", 1, site="harbour")
    assert introductions(meet(node, "b", "10.0.0.2", 2, site="quarry")) == []
    told = introductions(meet(node, "c", "10.0.0.3", 3, site="harbour"))
    assert told == [("c", m.Peers((("a", "10.0.0.1", 1),)))]
