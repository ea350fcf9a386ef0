"""When a node that is done may go away."""

import math
import random

from p2p.content.digests import sha256
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm import ImageTask
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.departure import DEVICES_MAX, IMAGES_MAX, LONGEST_S, QUIET_S, Departed, may_leave
from p2p.swarm.node import SwarmNode
from p2p.swarm.wire import PROTOCOL

ONE = sha256(b"one")


def test_nobody_is_left_who_could_ask() -> None:
    assert may_leave(100.0, 100.0, -math.inf, all_complete=True)


def test_peers_that_have_not_begun_are_given_a_moment_whatever_they_ask_for() -> None:
    assert not may_leave(101.0, 100.0, 100.5, all_complete=True, all_begun=False)
    assert may_leave(100.0 + QUIET_S, 100.0, 100.0 + QUIET_S, all_complete=True, all_begun=False)


def test_peers_that_ask_hold_it_back_until_they_are_quiet() -> None:
    assert not may_leave(101.0, 100.0, -math.inf, all_complete=False)
    assert not may_leave(110.0, 100.0, 109.0, all_complete=False)
    assert may_leave(109.0 + QUIET_S, 100.0, 109.0, all_complete=False)


def test_quiet_peers_that_lack_what_only_it_has_hold_it_back() -> None:
    assert not may_leave(109.0 + QUIET_S, 100.0, 109.0, all_complete=False, needed=True)
    assert may_leave(109.0 + QUIET_S, 100.0, 109.0, all_complete=False, needed=False)
    assert may_leave(100.0 + LONGEST_S, 100.0, 109.0, all_complete=False, needed=True)


def test_peers_that_never_stop_asking_do_not_hold_it_for_ever() -> None:
    done = 100.0
    assert not may_leave(done + LONGEST_S - 1, done, done + LONGEST_S - 1, all_complete=False)
    assert may_leave(done + LONGEST_S, done, done + LONGEST_S, all_complete=False)


def test_who_left_with_an_image_is_remembered_until_it_is_asked_for() -> None:
    departed = Departed()
    departed.note(ONE, "a", 1.0)
    departed.note(ONE, "b", 2.0)
    departed.note(ONE, "a", 3.0)
    assert departed.take(ONE) == {"b": 2.0, "a": 3.0}
    assert departed.take(ONE) == {}


def test_what_is_remembered_is_bounded() -> None:
    departed = Departed()
    for n in range(DEVICES_MAX + 1):
        departed.note(ONE, f"d{n}", float(n))
    assert len(departed.take(ONE)) == DEVICES_MAX
    for n in range(IMAGES_MAX + 1):
        departed.note(sha256(bytes([n])), "a", 0.0)
    assert [bool(departed.take(sha256(bytes([n])))) for n in (0, 1, IMAGES_MAX)] == [False, True, True]


def test_a_peer_that_has_not_begun_with_an_image_is_told_from_one_that_is_done() -> None:
    node = SwarmNode(device="me", site="depot", port=7000, rng=random.Random(1))
    pack = PackRef(ObjectRef(ONE, 10), ObjectRef(sha256(b"frames"), 100), None)
    node.handle(e.Offer(ImageTask(ONE, 1000, None, (pack,))), 0.0)
    assert node.all_begun(ONE)
    node.handle(e.PeerConnected("peer", "10.0.0.1"), 0.0)
    node.handle(e.Received("peer", m.Hello(PROTOCOL, "depot", 7000, True)), 0.0)
    assert node.all_complete(ONE)
    assert not node.all_begun(ONE)
    node.handle(e.Received("peer", m.Join(ONE, None, True, 100, False)), 0.0)
    assert node.all_begun(ONE)
    assert not node.all_complete(ONE)
