"""Large pieces in parts: put together exactly, a sign of life, and no cover for those that withhold."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.limits import KIB, MIB
from p2p.errors import ContentError
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.parts import PARTS, SMALL_PARTS, Assembly, in_parts, parts_for
from p2p.swarm.peer import Asked, Peer
from p2p.swarm.policy import Policy
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from tests.support.virtual_site import make_release

SIZE = 1_000_000
LARGE = 256 * KIB
PIECE = m.Piece(7, random.Random(1).randbytes(SIZE))


@pytest.mark.parametrize(("part_size", "most"), [(128 * KIB, LARGE), (32 * KIB, 64 * KIB)])
@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, LARGE, LARGE + 1, SIZE, 8 * MIB])
def test_what_is_divided_is_put_together_again(size: int, part_size: int, most: int) -> None:
    piece = m.Piece(7, random.Random(size).randbytes(size))
    *parts, rest = in_parts(piece, part_size)
    assert bool(parts) is (size > most)
    assembly = Assembly()
    for part in parts:
        assert isinstance(part, m.Part)
        assert limits.PART_SIZE_MIN <= len(part.payload) == part_size
        assembly.part(part)
    assert isinstance(rest, m.Piece)
    whole = assembly.whole(rest)
    assert (whole.request, bytes(whole.payload)) == (7, piece.payload)
    assert assembly.whole(m.Piece(8, b"next")) == m.Piece(8, b"next")


def test_who_takes_no_parts_gets_the_piece() -> None:
    assert in_parts(PIECE, 0) == [PIECE]


@pytest.mark.parametrize(
    ("size", "rate", "before", "parts"),
    [
        (128 * KIB, 0.0, None, None),
        (128 * KIB, 256 * KIB, None, None),
        (128 * KIB, 256 * KIB - 1, None, SMALL_PARTS),
        (64 * KIB, 1000.0, None, None),
        (SIZE, 0.0, None, SMALL_PARTS),
        (SIZE, 2.0 * SIZE, None, PARTS),
        (SIZE, 2.0 * SIZE, PARTS, PARTS),
        (SIZE, 1.9 * SIZE, PARTS, SMALL_PARTS),
        (SIZE, 3.9 * SIZE, SMALL_PARTS, SMALL_PARTS),
        (SIZE, 4.0 * SIZE, SMALL_PARTS, PARTS),
    ],
)
def test_parts_are_small_where_word_would_wait_for_half_a_second(
    size: int, rate: float, before: str | None, parts: str | None
) -> None:
    assert parts_for(size, rate, before) == parts


@pytest.mark.parametrize(("size", "rate"), [(64 * KIB, 0.0), (128 * KIB, 256 * KIB)])
def test_a_patch_comes_as_one_where_that_holds_nothing_up(size: int, rate: float) -> None:
    assert parts_for(size, rate, None, patch=True) is None


def test_the_first_patches_from_a_peer_come_in_parts() -> None:
    assert parts_for(65 * KIB, 0.0, None, patch=True) == SMALL_PARTS


def begun() -> Assembly:
    assembly = Assembly()
    assembly.part(m.Part(7, SIZE, bytes(128 * KIB)))
    return assembly


@pytest.mark.parametrize(
    "part",
    [
        m.Part(8, SIZE, bytes(128 * KIB)),
        m.Part(7, SIZE + 1, bytes(128 * KIB)),
        m.Part(7, SIZE, bytes(limits.PART_SIZE_MIN - 1)),
        m.Part(7, SIZE, bytes(SIZE - 128 * KIB + 1)),
    ],
    ids=["of another", "of another size", "too small", "too much"],
)
def test_a_part_that_does_not_follow_is_refused(part: m.Part) -> None:
    begun().part(m.Part(7, SIZE, bytes(limits.PART_SIZE_MIN)))
    with pytest.raises(ContentError):
        begun().part(part)


@pytest.mark.parametrize(
    "rest",
    [m.Piece(8, bytes(SIZE - 128 * KIB)), m.Piece(7, bytes(SIZE - 128 * KIB - 1)), m.Piece(7, bytes(SIZE))],
    ids=["of another", "too little", "too much"],
)
def test_a_piece_that_is_not_the_rest_is_refused(rest: m.Piece) -> None:
    begun().whole(m.Piece(7, bytes(SIZE - 128 * KIB)))
    with pytest.raises(ContentError):
        begun().whole(rest)


OLD = Digest(b"o" * 32)
RELEASE = make_release(16 * MIB, {OLD: 8 * MIB})
IMAGE, PACK = RELEASE.task_image, RELEASE.pack(OLD).index.sha256
PATCHES = [p.number for p in RELEASE.maps[PACK].pieces if p.wire_size > LARGE]


class Rider:
    """A node without a WAN and a peer that has all patches."""

    def __init__(self) -> None:
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), wan=False)
        self.now = 0.0
        self.sent: list[m.Message] = []
        self.parted: list[str] = []
        self.feed(e.HoldObject(PACK, RELEASE.objects[PACK]))
        self.feed(e.PeerConnected("peer", "10.0.0.2"))
        self.hear(m.Hello(PROTOCOL, "depot", 1, True))
        self.feed(e.Pursue(RELEASE.task(OLD), ()))
        total = len(RELEASE.maps[PACK])
        self.hear(m.Have(IMAGE, PACK, total, pack_bitmap(set(range(total)), total)))
        self.hear(m.Join(IMAGE, OLD, True, 100, True))
        while not self.wants:
            self.wait(0.25)

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.Send):
                self.sent.append(action.message)
            elif isinstance(action, e.Disconnect):
                self.parted.append(action.reason)

    def hear(self, message: m.Message) -> None:
        self.feed(e.Received("peer", message))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.25)
            self.feed(e.Tick())

    @property
    def wants(self) -> list[m.Want]:
        return [message for message in self.sent if isinstance(message, m.Want)]

    @property
    def is_late(self) -> bool:
        """Whether the first request was given up."""
        return self.node._context.peers["peer"].asked[self.wants[0].request].abandoned


def test_before_the_first_large_piece_a_peer_is_told_that_it_may_come_in_parts() -> None:
    site = Rider()
    assert len(PATCHES) > 1
    probes = [n for n, message in enumerate(site.sent) if isinstance(message, m.MetadataWant)]
    asked = [n for n, message in enumerate(site.sent) if isinstance(message, m.Want)]
    assert len(probes) == 1
    assert probes[0] < asked[0]
    probe = site.sent[probes[0]]
    assert isinstance(probe, m.MetadataWant)
    assert probe.name == SMALL_PARTS
    site.hear(m.Refuse(probe.request, m.Refusal.DONT_HAVE))
    assert not site.parted


def test_a_peer_sends_small_parts_until_it_is_known_to_be_quick_and_when_it_turns_out_to_be_slow() -> None:
    site = Rider()
    peer = site.node._context.peers["peer"]
    for rate in (100e6, 100e6, 200e3, 150e3):
        peer.rate = rate
        asked = site.wants[-1].request
        site.hear(m.Refuse(asked, m.Refusal.BUSY))
        while site.wants[-1].request == asked:
            site.wait(0.25)
    names = [message.name for message in site.sent if isinstance(message, m.MetadataWant)]
    assert names == [SMALL_PARTS, PARTS, SMALL_PARTS]


@pytest.mark.parametrize(("rate", "late"), [(0, True), (3 * KIB, True), (20 * KIB, False)])
def test_a_piece_that_is_coming_is_waited_for_and_one_that_trickles_is_not(rate: int, late: bool) -> None:
    site = Rider()
    size = RELEASE.maps[PACK][site.wants[0].piece].wire_size
    arrived = 0.0
    sent = 0
    while sent + 16 * KIB < size and site.now < 120.0:
        site.wait(1.0)
        arrived += rate
        while arrived - sent >= 16 * KIB:
            sent += 16 * KIB
            site.hear(m.Part(site.wants[0].request, size, bytes(16 * KIB)))
    assert site.is_late is late


def test_who_was_asked_later_waits_for_what_is_coming_and_who_was_asked_before_is_passed_over() -> None:
    peer, policy = Peer("peer", 0.0), Policy()
    before = Asked(1.0, 1000, IMAGE, (PACK, 0))
    coming = Asked(2.0, SIZE, IMAGE, (PACK, 1))
    behind = Asked(3.0, 1000, IMAGE, (PACK, 2))
    _, number, _ = (peer.ask(asked) for asked in (before, coming, behind))
    assert not any(peer.is_coming(asked) for asked in (before, coming, behind))
    assert peer.arriving(number, 128 * KIB, 4.0, policy)
    assert [peer.is_coming(asked) for asked in (before, coming, behind)] == [False, True, True]
    peer.abandon(number)
    assert not peer.arriving(number, 128 * KIB, 5.0, policy)
    assert not peer.is_coming(behind)


def test_a_part_of_what_nobody_asked_for_ends_the_connection() -> None:
    site = Rider()
    site.hear(m.Part(4711, SIZE, bytes(128 * KIB)))
    assert site.parted == ["protocol"]


def test_a_part_of_more_than_the_piece_has_ends_the_connection() -> None:
    site = Rider()
    want = site.wants[0]
    size = RELEASE.maps[PACK][want.piece].wire_size
    site.hear(m.Part(want.request, size, bytes(128 * KIB)))
    assert not site.parted
    site.hear(m.Part(want.request, size + 1, bytes(128 * KIB)))
    assert site.parted == ["protocol"]
