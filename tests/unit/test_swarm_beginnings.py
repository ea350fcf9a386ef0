"""What came of a piece before its giver went away is kept, and only the rest is asked for when it is back."""

from __future__ import annotations

import random

import pytest

from p2p.content.limits import KIB
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.beginnings import BYTES_MAX, Beginnings
from p2p.swarm.ledger import Ledger
from p2p.swarm.node import SwarmNode
from p2p.swarm.parts import PARTS, RESTS, SMALL_PARTS, Assembly, Begun, in_parts
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from tests.support.virtual_site import make_release

RELEASE = make_release(128 * KIB, {})
IMAGE, PACK = RELEASE.task_image, RELEASE.pack(None).index.sha256
SIZE = 128 * KIB
DATA = random.Random(1).randbytes(SIZE)
FIRST = 48 * KIB


class Site:
    """A node that lacks an image of one piece, and `van`, which has it and comes and goes."""

    def __init__(self) -> None:
        self.node = SwarmNode(device="me", site="station", port=1, rng=random.Random(1), wan=False)
        self.now = 0.0
        self.sent: list[m.Message] = []
        self.stores: list[e.Store] = []
        self.parted: list[str] = []
        self.feed(e.HoldObject(PACK, RELEASE.objects[PACK]))
        self.feed(e.Pursue(RELEASE.task(None)))
        self.wait(3600.0)
        self.meet()

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.Send):
                self.sent.append(action.message)
            elif isinstance(action, e.Store):
                self.stores.append(action)
            elif isinstance(action, e.Disconnect):
                self.parted.append(action.reason)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.node.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.feed(e.Tick())
        self.now = until

    def meet(self) -> None:
        self.sent.clear()
        self.feed(e.PeerConnected("van", "", True))
        self.hear(m.Hello(PROTOCOL, "station", 1, False))
        self.hear(m.Have(IMAGE, PACK, 1, pack_bitmap({0}, 1)))
        self.hear(m.Join(IMAGE, None, False, 100, True))
        self.wait(3.0)

    def hear(self, message: m.Message) -> None:
        self.feed(e.Received("van", message))

    def break_off(self, first: int = FIRST) -> None:
        """The van goes when so much of the piece has come."""
        (want,) = self.wants
        self.feed(e.PeerLost("van", begun=Begun(want.request, DATA[:first])))
        self.wait(100.0)

    def say(self, *, gives_rests: bool) -> None:
        (probe,) = [s for s in self.sent if isinstance(s, m.MetadataWant) and s.name == RESTS]
        no = m.Refuse(probe.request, m.Refusal.DONT_HAVE)
        self.hear(m.Blob(probe.request, b"") if gives_rests else no)

    @property
    def wants(self) -> list[m.Want]:
        return [message for message in self.sent if isinstance(message, m.Want)]

    @property
    def rests(self) -> list[m.WantRest]:
        return [message for message in self.sent if isinstance(message, m.WantRest)]

    def come_again(self) -> m.WantRest:
        self.meet()
        assert (self.wants, self.rests) == ([], [])
        self.say(gives_rests=True)
        assert self.wants == []
        (rest,) = self.rests
        return rest


def test_when_it_is_back_only_the_rest_is_asked_for() -> None:
    site = Site()
    site.break_off()
    rest = site.come_again()
    assert rest == m.WantRest(rest.request, IMAGE, PACK, 0, FIRST)
    site.hear(m.Piece(rest.request, DATA[FIRST:]))
    (store,) = site.stores
    assert bytes(store.payload) == DATA


def test_what_breaks_off_twice_goes_on_from_where_it_was() -> None:
    site = Site()
    site.break_off()
    rest = site.come_again()
    site.feed(e.PeerLost("van", begun=Begun(rest.request, DATA[FIRST : 2 * FIRST])))
    site.wait(100.0)
    rest = site.come_again()
    assert rest.start == 2 * FIRST
    site.hear(m.Piece(rest.request, DATA[2 * FIRST :]))
    assert bytes(site.stores[0].payload) == DATA


def test_a_rest_that_brings_nothing_new_before_it_breaks_off_loses_nothing() -> None:
    site = Site()
    site.break_off()
    site.come_again()
    site.feed(e.PeerLost("van"))
    site.wait(100.0)
    assert site.come_again().start == FIRST


def test_who_gives_no_rests_is_asked_for_the_whole() -> None:
    site = Site()
    site.break_off()
    site.meet()
    site.say(gives_rests=False)
    assert len(site.wants) == 1
    assert site.node.ledger.wasted == FIRST


def test_who_does_not_say_is_asked_for_the_whole_after_a_while() -> None:
    site = Site()
    site.break_off()
    site.meet()
    site.wait(10.0)
    assert len(site.wants) == 1


def test_the_rest_may_come_in_parts_of_its_own_size() -> None:
    site = Site()
    site.break_off()
    rest = site.come_again()
    site.hear(m.Part(rest.request, SIZE - FIRST, DATA[FIRST : 2 * FIRST]))
    assert site.parted == []
    site.hear(m.Part(rest.request, SIZE, DATA[FIRST : 2 * FIRST]))
    assert site.parted == ["protocol"]


def test_a_wrong_piece_that_was_put_together_bans_nobody_and_the_next_comes_whole() -> None:
    site = Site()
    site.break_off()
    rest = site.come_again()
    site.hear(m.Piece(rest.request, DATA[FIRST:]))
    site.sent.clear()
    site.feed(e.Rejected(IMAGE, PACK, 0, "van", "bad-piece"))
    assert site.parted == []
    site.wait(1.0)
    site.break_off()
    site.meet()
    assert len(site.wants) == 1, "nothing is kept of it any more"
    site.hear(m.Piece(site.wants[0].request, DATA))
    site.feed(e.Rejected(IMAGE, PACK, 0, "van", "bad-piece"))
    assert site.parted == ["bad-piece"], "that one is its own"


def test_of_whom_this_node_parted_with_nothing_is_kept() -> None:
    site = Site()
    (want,) = site.wants
    site.feed(e.PeerLost("van", banned=True, begun=Begun(want.request, DATA[:FIRST])))
    site.wait(100.0)
    site.meet()
    assert len(site.wants) == 1


def test_a_beginning_goes_when_the_piece_came_otherwise() -> None:
    site = Site()
    site.break_off()
    site.feed(e.Stored(IMAGE, 0, SIZE, e.How.PEER, pack=PACK, pieces=(0,), device="other", kept=True))
    site.wait(10.0)
    assert site.node.ledger.wasted == FIRST


class Giver:
    """A node that has the piece, and a peer that asks."""

    def __init__(self) -> None:
        self.node = SwarmNode(device="me", site="station", port=1, rng=random.Random(1), wan=False)
        self.node.handle(e.HoldObject(PACK, RELEASE.objects[PACK]), 0.0)
        self.node.handle(e.Offer(RELEASE.task(None)), 0.0)
        self.node.handle(e.PeerConnected("peer"), 0.0)
        self.node.handle(e.Received("peer", m.Hello(PROTOCOL, "station", 1, False)), 0.0)
        self.node.handle(e.Received("peer", m.Join(IMAGE, None, False, 100, False)), 0.0)
        self.node.handle(e.Tick(), 10.0)

    def hear(self, message: m.Message) -> list[e.Action]:
        actions = self.node.handle(e.Received("peer", message), 10.0)
        return [a for a in actions if isinstance(a, e.Serve | e.Disconnect | e.Send)]


def test_who_gives_rests_says_so_and_gives_them() -> None:
    giver = Giver()
    assert giver.hear(m.MetadataWant(1, RESTS)) == [e.Send("peer", m.Blob(1, b""))]
    assert giver.hear(m.WantRest(2, IMAGE, PACK, 0, FIRST)) == [e.Serve("peer", 2, IMAGE, PACK, 0, FIRST)]


@pytest.mark.parametrize(
    "message",
    [
        m.WantRest(2, IMAGE, PACK, 0, SIZE),
        m.WantRest(2, IMAGE, PACK, 1, 1),
        m.WantRest(2, IMAGE, IMAGE, 0, 1),
        m.WantRest(2, PACK, PACK, 0, 1),
    ],
    ids=["nothing-left", "no-such-piece", "no-such-pack", "no-such-image"],
)
def test_a_rest_that_there_is_not_is_refused(message: m.WantRest) -> None:
    assert Giver().hear(message) == [e.Send("peer", m.Refuse(2, m.Refusal.DONT_HAVE))]


def test_what_is_kept_is_bounded_and_what_goes_was_for_nothing() -> None:
    ledger = Ledger()
    kept = Beginnings(ledger)
    for n in range(3):
        kept.keep("van", (PACK, n), bytes(BYTES_MAX // 2))
    assert kept.of("van") == [(PACK, 1), (PACK, 2)]
    assert ledger.wasted == BYTES_MAX // 2
    kept.keep("van", (PACK, 3), bytes(BYTES_MAX + 1))
    assert kept.of("van") == [(PACK, 1), (PACK, 2)]


def test_an_assembly_tells_what_has_come_and_nothing_once_it_is_whole() -> None:
    assembly = Assembly()
    assert assembly.begun is None
    *parts, rest = in_parts(m.Piece(7, DATA), 32 * KIB)
    assert isinstance(rest, m.Piece)
    for part in parts:
        assert isinstance(part, m.Part)
        assembly.part(part)
    assert assembly.begun == Begun(7, DATA[: 96 * KIB])
    assembly.whole(rest)
    assert assembly.begun is None
    assert {PARTS, SMALL_PARTS, RESTS} == {"parts", "small-parts", "rests"}
