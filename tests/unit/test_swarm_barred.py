"""Devices that are out of the fleet: nobody waits for them, and what others tell of them does not count."""

from __future__ import annotations

import random

from p2p.content.digests import sha256
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm import Policy, SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.wire import PROTOCOL

IMAGE = sha256(b"image")
FULL = PackRef(None, ObjectRef(sha256(b"index"), 100), ObjectRef(sha256(b"frames"), 1000))
TASK = e.ImageTask(IMAGE, 1000, None, (FULL,))
SETTLED = Policy().settle_s + Policy().settle_silent_s + 1.0


def make(*, wan: bool = True) -> SwarmNode:
    return SwarmNode(device="me", site="site", port=1, rng=random.Random(1), wan=wan)


def join(node: SwarmNode, device: str, now: float, *, complete: bool = False) -> None:
    node.handle(e.PeerConnected(device), now)
    node.handle(e.Received(device, m.Hello(PROTOCOL, "site", 2, True)), now)
    node.handle(e.Received(device, m.Join(IMAGE, None, True, 100, complete)), now)


def far(node: SwarmNode, teller: str, device: str, now: float) -> None:
    claim = m.Claim(device, 1, None, True, 1000, False, FULL.index.sha256, ((0, 1),))
    node.handle(e.Received(teller, m.Hearsay(IMAGE, (claim,))), now)


def gateways(node: SwarmNode, now: float) -> tuple[str, ...]:
    for step in range(40):
        node.handle(e.Tick(), now + step / 4)
    status = node.status(IMAGE)
    assert status is not None
    return status.gateways


def test_a_far_device_that_is_barred_is_no_gateway_and_one_that_is_not_is() -> None:
    for barred, counts in ((frozenset[str](), True), (frozenset({"gone"}), False)):
        node = make()
        node.handle(e.Pursue(TASK), 0.0)
        node.handle(e.Barred(barred), 0.0)
        join(node, "near", 0.1)
        far(node, "near", "gone", SETTLED)
        assert ("gone" in gateways(node, SETTLED)) is counts


def test_a_far_device_that_is_barred_later_counts_no_more_at_once() -> None:
    node = make()
    node.handle(e.Pursue(TASK), 0.0)
    join(node, "near", 0.1)
    far(node, "near", "gone", SETTLED)
    assert "gone" in gateways(node, SETTLED)
    far(node, "near", "gone", SETTLED + 11)
    node.handle(e.Barred(frozenset({"gone"})), SETTLED + 11.1)
    assert "gone" not in gateways(node, SETTLED + 11.2)


def test_nobody_waits_for_a_device_of_the_roster_that_is_barred() -> None:
    for barred, settled in ((frozenset[str](), False), (frozenset({"gone"}), True)):
        node = make()
        node.handle(e.Expect({"near": None, "gone": None}), 0.0)
        node.handle(e.Barred(barred), 0.0)
        join(node, "near", 0.1)
        node.handle(e.Tick(), Policy().settle_s + 0.1)
        assert node.settled is settled
    node = make()
    node.handle(e.Barred(frozenset({"gone"})), 0.0)
    node.handle(e.Expect({"near": None, "gone": None}), 0.0)
    join(node, "near", 0.1)
    node.handle(e.Tick(), Policy().settle_s + 0.1)
    assert node.settled


def test_a_device_that_left_with_the_image_and_is_barred_is_not_waited_for() -> None:
    for barred, fetches in ((False, False), (True, True)):
        node = make()
        join(node, "gone", 0.1, complete=True)
        node.handle(e.PeerLost("gone"), SETTLED)
        if barred:
            node.handle(e.Barred(frozenset({"gone"})), SETTLED)
        actions = node.handle(e.Pursue(TASK), SETTLED)
        for step in range(40):
            actions += node.handle(e.Tick(), SETTLED + step / 4)
        assert any(isinstance(action, e.FetchObject) for action in actions) is fetches


def test_a_device_that_is_barred_while_it_is_waited_for_is_waited_for_no_more() -> None:
    node = make()
    node.handle(e.Pursue(TASK), 0.0)
    join(node, "gone", 0.1, complete=True)
    node.handle(e.PeerLost("gone"), 0.2)
    actions = []
    for step in range(60):
        actions += node.handle(e.Tick(), 0.3 + step / 4)
    assert not any(isinstance(action, e.FetchObject) for action in actions)
    actions += node.handle(e.Barred(frozenset({"gone"})), 16.0)
    for step in range(40):
        actions += node.handle(e.Tick(), 16.1 + step / 4)
    assert any(isinstance(action, e.FetchObject) for action in actions)


def test_the_leases_of_a_peer_that_is_cut_off_end_at_once() -> None:
    node = make(wan=False)
    node.handle(e.Pursue(TASK), 0.0)
    join(node, "gone", 0.1)
    node.handle(e.Received("gone", m.Lease(IMAGE, FULL.index.sha256, 0, 0, 1)), 0.2)
    assert "gone" in gateways(node, SETTLED)
    node.handle(e.Barred(frozenset({"gone"})), SETTLED + 11)
    node.handle(e.PeerLost("gone", banned=True), SETTLED + 11)
    assert node.peers == ()
    assert gateways(node, SETTLED + 11) == ()
