"""When the site can do with less, a fetch ends unless less is left of it; everybody knows how much came."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.limits import MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import make_release

SMALL = sha256(b"a base of which little has changed")
LESS = 40_000
RELEASE = make_release(MIB, {SMALL: LESS})
IMAGE = RELEASE.task_image
FULL, DELTA = (RELEASE.pack(base).index.sha256 for base in (None, SMALL))
FRAMES = RELEASE.pack(None).frames.size


class Subject:
    """A node with both indexes that is told what happens, and what it did of late."""

    def __init__(self, base: Digest | None) -> None:
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
        self.now = 0.0
        self.did: list[e.Action] = []
        for data in RELEASE.objects.items():
            self.feed(e.HoldObject(*data))
        self.feed(e.Pursue(RELEASE.task(base), ()))

    def feed(self, event: e.Event) -> None:
        self.did += self.node.handle(event, self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.25)
            self.feed(e.Tick())

    def meet(self, device: str, base: Digest | None, *messages: m.Message) -> None:
        self.feed(e.PeerConnected(device, "10.0.0.2"))
        for message in (
            m.Hello(PROTOCOL, "depot", 1, True),
            *messages,
            m.Join(IMAGE, base, True, 100, False),
        ):
            self.feed(e.Received(device, message))

    def fetches(self) -> list[Digest]:
        return [action.pack for action in self.did if isinstance(action, e.Fetch)]

    def ended(self) -> bool:
        return any(isinstance(action, e.CancelFetch) for action in self.did)

    def told(self) -> list[int]:
        sent = [action.message for action in self.did if isinstance(action, e.Send)]
        return [message.came for message in sent if isinstance(message, m.Lease)]


def fetching(came: int) -> Subject:
    """A node that has `came` bytes of the full pack's only frame, with a peer that rides."""
    found = Subject(None)
    found.meet("rider", None)
    found.wait(6)
    assert found.fetches() == [FULL]
    number = next(action.fetch for action in found.did if isinstance(action, e.Fetch))
    for _ in range(16):
        found.now += 0.01
        found.feed(e.FetchProgress(number, came // 16))
    found.did.clear()
    return found


@pytest.mark.parametrize(
    ("left", "gives_way"), [(LESS // 2, False), (3 * LESS // 2, False), (3 * LESS, True), (FRAMES // 2, True)]
)
def test_a_fetch_ends_for_a_smaller_pack_unless_little_is_left_of_it(left: int, gives_way: bool) -> None:
    subject = fetching(FRAMES - left)
    subject.meet("newcomer", SMALL)
    assert subject.ended() == gives_way
    assert max(subject.told()) == pytest.approx(FRAMES - left, abs=16), "all know what that was decided by"


@pytest.mark.parametrize(("left", "waits"), [(LESS // 2, True), (FRAMES // 2, False)])
def test_a_newcomer_waits_for_what_is_nearly_here(left: int, waits: bool) -> None:
    newcomer = Subject(SMALL)
    newcomer.meet("gateway", None, m.Lease(IMAGE, FULL, 0, 0, 1, FRAMES - left))
    for _ in range(3):
        newcomer.wait(2)
        newcomer.feed(e.Received("gateway", m.Lease(IMAGE, FULL, 0, 0, 1, FRAMES - left)))
    assert newcomer.fetches() == ([] if waits else [DELTA])


def test_a_renewal_is_enough_to_be_waited_for() -> None:
    newcomer = Subject(SMALL)
    newcomer.meet("gateway", None, m.Lease(IMAGE, FULL, 0, 0, 1))
    newcomer.wait(1)
    for _ in range(3):
        newcomer.feed(e.Received("gateway", m.Lease(IMAGE, FULL, 0, 0, 1, FRAMES - LESS // 2)))
        newcomer.wait(2)
    assert newcomer.fetches() == []


def test_who_claims_to_be_nearly_there_and_brings_nothing_is_waited_for_no_longer_than_any_lease() -> None:
    newcomer = Subject(SMALL)
    newcomer.meet("liar", None, m.Lease(IMAGE, FULL, 0, 0, 1, limits.LEASE_BYTES_MAX))
    for _ in range(300):
        newcomer.wait(2)
        newcomer.feed(e.Received("liar", m.Lease(IMAGE, FULL, 0, 0, 1, limits.LEASE_BYTES_MAX)))
        if newcomer.fetches():
            break
    honest = Subject(None)
    honest.meet("liar", None, m.Lease(IMAGE, FULL, 0, 0, 1))
    for _ in range(300):
        honest.wait(2)
        honest.feed(e.Received("liar", m.Lease(IMAGE, FULL, 0, 0, 1)))
        if honest.fetches():
            break
    assert newcomer.now <= honest.now < 600


def test_what_was_kept_of_a_fetch_that_broke_off_counts_for_the_next() -> None:
    subject = fetching(FRAMES - LESS // 2)
    subject.feed(e.FetchEnded(1, "the connection was lost"))
    subject.wait(4)
    assert subject.fetches() == [FULL]
    assert max(subject.told()) >= FRAMES - LESS // 2 - 16
    subject.meet("newcomer", SMALL)
    assert not subject.ended()
