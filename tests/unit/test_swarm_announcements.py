"""Whom a node of a large site tells of its pieces, and when: little that is no news where it arrives."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.announcements import CROWD, EAGER, GATHERED, KNOWN, TURN_PEERS, TURN_S, Announcements
from p2p.swarm.events import Send
from p2p.swarm.holders import Holders
from p2p.swarm.peer import Peer
from p2p.swarm.plan import Participant
from tests.support.swarm_context import make_context
from tests.support.virtual_site import make_release

RELEASE = make_release(8 << 20, {})
IMAGE = RELEASE.task_image
PACK: Digest = RELEASE.pack(None).index.sha256
OTHERS = 40


class Node:
    """A node with so many peers at the image that it makes."""

    def __init__(self, others: int = OTHERS, seed: int = 0) -> None:
        self.context = make_context(now=100.0)
        self.context.rng = random.Random(seed)
        self.holders = Holders(RELEASE.maps)
        self.news = Announcements(self.context, IMAGE, self.holders)
        for n in range(others):
            peer = self.context.peers[f"d{n}"] = Peer(f"d{n}", 100.0)
            remote = peer.image(IMAGE)
            remote.participant = Participant(peer.device, None, True)
            self.context.enter(IMAGE, peer, remote)
            self.holders.admit(remote)

    def has(self, number: int, *devices: str) -> None:
        """These peers say that they have a piece."""
        for device in devices:
            self.holders.gained(self.context.peers[device].image(IMAGE), PACK, (number,))

    def told(self, *, at_once: bool = False) -> dict[str, tuple[int, ...]]:
        """Let time pass until something is due, unless it is to be told at once; who is told of what."""
        if not at_once:
            assert self.news.due_at is not None
            self.context.now = self.news.due_at
        self.context.actions = []
        self.news.step((), at_once=at_once)
        sent = [a for a in self.context.actions if isinstance(a, Send)]
        return {a.device: a.message.pieces for a in sent if isinstance(a.message, m.HaveMore)}


def test_in_a_small_site_everybody_is_told_soon() -> None:
    node = Node(CROWD)
    node.news.add(PACK, 3)
    assert node.news.due_at == pytest.approx(100.0 + node.context.policy.have_batch_s)
    assert node.told() == {f"d{n}": (3,) for n in range(CROWD)}


def test_in_a_large_one_a_few_are_told_after_a_time_that_differs() -> None:
    batch_s, waits = make_context().policy.have_batch_s, set()
    for seed in range(8):
        node = Node(seed=seed)
        node.news.add(PACK, 3)
        assert node.news.due_at is not None
        wait_s = node.news.due_at - 100.0
        assert GATHERED[0] * batch_s <= wait_s <= GATHERED[1] * batch_s
        waits.add(wait_s)
        assert len(node.told()) == EAGER
    assert len(waits) == 8


def test_what_enough_peers_have_meanwhile_is_told_in_turn_only() -> None:
    node = Node()
    node.news.add(PACK, 3)
    node.has(3, *(f"d{n}" for n in range(KNOWN - 1)))
    assert len(node.told()) >= EAGER - KNOWN
    node = Node()
    node.news.add(PACK, 3)
    node.has(3, *(f"d{n}" for n in range(KNOWN)))
    assert node.told() == {}
    assert len(node.told()) == TURN_PEERS
    assert node.context.now >= 100.0 + TURN_S[0]


def test_one_rare_piece_is_enough_to_tell_of_all() -> None:
    node = Node()
    node.news.add(PACK, 3)
    node.news.add(PACK, 4)
    node.has(3, *(f"d{n}" for n in range(KNOWN)))
    told = node.told()
    assert told
    assert {4} <= set().union(*told.values())


def test_what_must_be_known_at_once_is_told_whoever_has_it() -> None:
    node = Node()
    node.news.add(PACK, 3)
    node.has(3, *(f"d{n}" for n in range(KNOWN)))
    assert node.told(at_once=True)


def turns(node: Node, count: int) -> list[tuple[float, dict[str, tuple[int, ...]]]]:
    """So many turns: how long each was waited for, and who was told."""
    found = []
    for _ in range(count):
        before = node.context.now
        told = node.told()
        found.append((node.context.now - before, told))
    return found


def test_turns_are_rarer_while_nobody_asks_and_not_once_somebody_does() -> None:
    node = Node()
    node.news.add(PACK, 3)
    node.told()
    waited = [wait_s for wait_s, _ in turns(node, 4)]
    first, longest = TURN_S
    assert waited == pytest.approx([first, 2 * first, longest, longest])
    ((_, told),) = turns(node, 1)
    node.news.asked(next(iter(told)))
    assert [wait_s for wait_s, _ in turns(node, 2)] == pytest.approx([first, 2 * first])


def test_who_was_told_at_once_says_nothing_of_the_turns_by_asking() -> None:
    node = Node()
    node.news.add(PACK, 3)
    first = node.told()
    turns(node, 3)
    node.news.asked(next(iter(first)))
    assert [wait_s for wait_s, _ in turns(node, 1)] == pytest.approx([TURN_S[1]])


def test_everybody_is_told_in_the_end() -> None:
    node = Node()
    node.news.add(PACK, 3)
    told = list(node.told())
    while node.news.due_at is not None:
        told += node.told()
    assert sorted(told) == sorted(node.context.peers)
