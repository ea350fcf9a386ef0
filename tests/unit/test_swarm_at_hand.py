"""Frames that are on the device already: nothing is asked of others until they are used up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from p2p.content import index as pack_index
from p2p.content.digests import sha256
from p2p.swarm import Policy, SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.events import How, ImageTask
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from tests.support.small_image import BASE, CHUNK, DELTA, DELTA_PACK, FULL, FULL_PACK, IMAGE

DELTA_NAME, FULL_NAME = DELTA_PACK.index.sha256, FULL_PACK.index.sha256
TASK = ImageTask(sha256(IMAGE), len(IMAGE), sha256(BASE), (FULL_PACK, DELTA_PACK))
INDEXES = ((DELTA_NAME, pack_index.encode(DELTA)),)


class Node:
    """A node in a time of its own; `done` are all actions so far."""

    def __init__(self, *, wan: bool = True) -> None:
        policy = Policy(settle_s=1.0, gather_s=0.5, settle_silent_s=0.0, join_s=0.0)
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), policy=policy, wan=wan)
        self.now = 0.0
        self.done: list[e.Action] = []

    def __call__(self, *events: e.Event) -> list[e.Action]:
        made: list[e.Action] = []
        for event in events:
            made += self.node.handle(event, self.now)
        self.done += made
        return made

    def wait(self, seconds: float) -> list[e.Action]:
        """Let time pass, waking the node whenever it asked for it."""
        until, made = self.now + seconds, []
        while (due := self.node.deadline()) is not None and due <= until:
            self.now = max(self.now + 0.001, due)
            made += self(e.Tick())
        self.now = until
        return made

    def meet(self, device: str, *, complete: bool = True) -> None:
        """A peer that has the whole image, or needs it."""
        everything = len(FULL_PIECES)
        bitmap = pack_bitmap(set(range(everything)) if complete else set(), everything)
        self(
            e.PeerConnected(device),
            e.Received(device, m.Hello(PROTOCOL, "depot", 1, False)),
            e.Received(device, m.Have(TASK.image, FULL_NAME, everything, bitmap)),
            e.Received(device, m.Join(TASK.image, TASK.base, False, 100, complete)),
            e.HoldObject(FULL_NAME, pack_index.encode(FULL)),
        )


FULL_PIECES = [chunk for entry in FULL.entries if hasattr(entry, "chunks") for chunk in entry.chunks]


def asks(actions: list[e.Action]) -> list[e.Action]:
    """What reaches for bytes that are not here."""
    return [
        a
        for a in actions
        if isinstance(a, e.Fetch | e.FetchObject)
        or (isinstance(a, e.Send) and isinstance(a.message, m.Want | m.ObjectWant))
    ]


def with_wan(node: Node) -> None: ...


def with_a_peer(node: Node) -> None:
    node.meet("peer")


@pytest.mark.parametrize("others", [with_wan, with_a_peer])
def test_nothing_is_asked_for_while_frames_are_at_hand_and_the_rest_afterwards(
    others: Callable[[Node], None],
) -> None:
    node = Node(wan=others is with_wan)
    others(node)
    (route,) = [a for a in node(e.Pursue(TASK), e.AtHand(TASK.image, INDEXES)) if isinstance(a, e.Route)]
    assert route.pack == DELTA_NAME
    assert asks(node.wait(60.0)) == []
    assert asks(node(e.Filled(TASK.image)) + node.wait(8.0))


def test_what_is_made_from_it_is_announced_and_the_image_read_back() -> None:
    node = Node(wan=False)
    node.meet("peer", complete=False)
    node(e.Pursue(TASK), e.AtHand(TASK.image, INDEXES))
    made = []
    for n, start in enumerate((0, 2 * CHUNK)):
        made += node(
            e.Stored(TASK.image, start, start + CHUNK, How.IMPORTED, DELTA_NAME, (n,), kept=True)
        )  # fmt: skip
    made += node.wait(1.0)
    told = [a.message for a in made if isinstance(a, e.Send) and isinstance(a.message, m.HaveMore)]
    assert {piece for message in told if message.pack == DELTA_NAME for piece in message.pieces} == {0, 1}
    ledger = node.node.ledger
    assert ledger.imported == sum(f.stored_size for f in DELTA.frames)
    assert (ledger.patched, ledger.wan, ledger.from_peers) == (2 * CHUNK, 0, 0)
    assert ledger.to_json()["imported"] == ledger.imported
    rest = [
        e.Stored(TASK.image, CHUNK, 2 * CHUNK, How.BASE),
        e.Stored(TASK.image, 3 * CHUNK, 4 * CHUNK, How.BASE),
        e.Stored(TASK.image, 4 * CHUNK, 5 * CHUNK, How.ZERO),
    ]
    assert [a for a in node(*rest) if isinstance(a, e.ReadBack)]
    node(e.Filled(TASK.image), e.ImageVerified(TASK.image))
    assert asks(node.done) == []
    assert ledger.of_images == len(IMAGE)


def test_a_fetch_that_runs_is_cancelled_when_frames_come_to_hand() -> None:
    node = Node()
    node(e.HoldObject(*INDEXES[0]), e.Pursue(TASK))
    (fetch,) = [a for a in node.wait(2.0) if isinstance(a, e.Fetch)]
    assert e.CancelFetch(fetch.fetch) in node(e.AtHand(TASK.image, INDEXES))
    assert asks(node(e.FetchEnded(fetch.fetch, "cancelled")) + node.wait(60.0)) == []
    assert asks(node(e.Filled(TASK.image)) + node.wait(8.0))


def test_what_was_asked_of_a_peer_is_not_asked_again_when_frames_come_to_hand() -> None:
    node = Node(wan=False)
    node.meet("peer")
    node(e.Pursue(TASK))
    wants = [a.message for a in asks(node.wait(8.0)) if isinstance(a, e.Send)]
    assert wants
    made = node(e.AtHand(TASK.image, INDEXES))
    made += node(*[e.Received("peer", m.Refuse(want.request, m.Refusal.BUSY)) for want in wants])
    assert asks(made + node.wait(60.0)) == []
    assert asks(node(e.Filled(TASK.image)) + node.wait(8.0))


def test_an_image_that_is_whole_or_unknown_is_not_filled() -> None:
    node = Node()
    assert node(e.AtHand(TASK.image, INDEXES), e.Filled(TASK.image)) == []
    node(e.Offer(TASK), e.AtHand(TASK.image, INDEXES))
    status = node.node.status(TASK.image)
    assert status is not None
    assert status.role == "complete"
