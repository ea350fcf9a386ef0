"""A device that finds damage in what it serves says so before it refuses, and is not taken for a liar."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.policy import Policy
from p2p.swarm.wire import PROTOCOL, pack_bitmap, unpack_bitmap
from tests.support.virtual_site import make_release

OLD = Digest(b"o" * 32)
RELEASE = make_release(8 * MIB, {OLD: 2 * MIB})
IMAGE, FULL, DELTA = RELEASE.task_image, RELEASE.pack(None).index.sha256, RELEASE.pack(OLD).index.sha256
PIECES = RELEASE.maps[FULL].pieces


class Alone:
    """A node that makes the image, and one peer that does, too."""

    def __init__(self, base: Digest | None, *indexes: Digest, wan: bool = True) -> None:
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), wan=wan)
        self.now = 0.0
        self.actions: list[e.Action] = []
        for name in indexes:
            self.feed(e.HoldObject(name, RELEASE.objects[name]))
        self.feed(e.PeerConnected("peer", "10.0.0.2"))
        self.hear(m.Hello(PROTOCOL, "depot", 1, True))
        self.feed(e.Pursue(RELEASE.task(base), ()))
        self.hear(m.Join(IMAGE, None, True, 100, False))
        self.wait(3.0)

    def feed(self, event: e.Event) -> list[e.Action]:
        self.actions = self.node.handle(event, self.now)
        return self.actions

    def hear(self, message: m.Message) -> list[e.Action]:
        return self.feed(e.Received("peer", message))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.25)
            self.feed(e.Tick())

    def store(self, *numbers: int) -> None:
        for n in numbers:
            self.feed(e.Stored(IMAGE, PIECES[n].target_offset, PIECES[n].target_stop, e.How.BASE))

    def said(self, pack: Digest) -> set[int] | None:
        """What the last event made it say that it serves."""
        haves = [a.message for a in self.actions if isinstance(a, e.Send) and isinstance(a.message, m.Have)]
        told = [unpack_bitmap(have.bitmap, have.total) for have in haves if have.pack == pack]
        return told[-1] if told else None

    def rechecks(self) -> bool:
        return e.Recheck(IMAGE, FULL) in self.actions


def test_a_chunk_that_is_not_right_takes_back_all_that_nobody_has_looked_at() -> None:
    site = Alone(None, FULL)
    site.store(0, 1, 2)
    site.feed(e.Unreadable(IMAGE, FULL, 1))
    assert site.said(FULL) == set()
    assert site.rechecks()
    refused = site.hear(m.Want(7, IMAGE, FULL, 0))
    assert e.Send("peer", m.Refuse(7, m.Refusal.DONT_HAVE)) in refused
    site.feed(e.Unreadable(IMAGE, FULL, 2))  # of a request that waited
    assert not site.actions
    site.store(5)
    spoilt = PIECES[1]
    site.feed(e.Damaged(IMAGE, ((spoilt.target_offset, spoilt.target_stop),)))
    assert site.said(FULL) == {0, 2, 5}
    status = site.node.status(IMAGE)
    assert status is not None
    assert status.left == RELEASE.size - sum(PIECES[n].target_length for n in (0, 2, 5))


def test_a_complete_image_was_looked_at_and_only_loses_the_piece() -> None:
    site = Alone(None, FULL)
    site.feed(e.Drop(IMAGE))
    site.feed(e.Offer(RELEASE.task(None)))
    site.wait(1.0)
    site.feed(e.Unreadable(IMAGE, FULL, 1))
    assert site.said(FULL) == set(range(len(PIECES))) - {1}
    assert not site.rechecks()


def test_a_patch_that_is_lost_casts_no_doubt_on_the_slot() -> None:
    site = Alone(OLD, FULL, DELTA)
    patch = next(p for p in RELEASE.maps[DELTA].pieces if p.is_patch)
    stop = patch.target_stop
    site.feed(e.Stored(IMAGE, patch.target_offset, stop, e.How.PEER, DELTA, (patch.number,), True, "peer"))
    site.feed(e.Unreadable(IMAGE, DELTA, patch.number))
    assert site.said(DELTA) == set()
    assert site.said(FULL) is None
    assert not site.rechecks()


def wants(actions: list[e.Action]) -> list[m.Want]:
    return [a.message for a in actions if isinstance(a, e.Send) and isinstance(a.message, m.Want)]


def give(pieces: set[int]) -> m.Have:
    return m.Have(IMAGE, FULL, len(PIECES), pack_bitmap(pieces, len(PIECES)))


def is_believed(site: Alone) -> bool:
    """Whether anything is asked of the peer that it offers now."""
    return bool(wants(site.hear(give({len(PIECES) - 1}))))


@pytest.mark.parametrize("taken_back", [True, False])
def test_who_takes_back_before_it_refuses_is_believed_further(taken_back: bool) -> None:
    site = Alone(None, FULL, wan=False)
    asked = wants(site.hear(give(set(range(8)))))
    assert len(asked) >= 2
    if taken_back:
        site.hear(give(set()))
    while asked:
        asked += wants(site.hear(m.Refuse(asked.pop(0).request, m.Refusal.FAILED)))
    assert is_believed(site) is taken_back


def test_who_takes_back_again_and_again_is_believed_no_more() -> None:
    site = Alone(None, FULL, wan=False)
    for n in range(Policy().strikes_max):
        asked = wants(site.hear(give({n})))
        assert asked
        site.hear(give(set()))
        site.hear(m.Refuse(asked[0].request, m.Refusal.FAILED))
    assert not is_believed(site)


def test_what_is_taken_back_of_several_packs_at_once_is_one_damage() -> None:
    """A node says so for each of its packs when it finds damage, and again when it knows what it is."""
    site = Alone(OLD, FULL, DELTA, wan=False)
    total = len(RELEASE.maps[DELTA])
    patches = [m.Have(IMAGE, DELTA, total, pack_bitmap(has, total)) for has in ({0}, set[int]())]
    for _ in range(Policy().strikes_max - 1):
        site.hear(give({0, 1}))
        site.hear(patches[0])
        site.hear(give(set()))
        site.hear(patches[1])
        site.wait(5.0)
    conduct = site.node._context.peers["peer"].images[IMAGE].conduct
    assert (conduct.strikes, conduct.distrusted) == (Policy().strikes_max - 1, False)
