"""Two devices that fetch the same frame: which of them yields, and until when."""

from __future__ import annotations

import random

import pytest

from p2p.content.limits import KIB, MIB
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import make_release

RELEASE = make_release(2 * MIB, {})
FULL = RELEASE.pack(None).index.sha256


class Gateway:
    """A node that fetches a frame beside a peer that is at the image, at `now`; `sent` is its last answer."""

    def __init__(self, peer: str = "other") -> None:
        self.peer = peer
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
        self.now = 0.0
        self.feed(e.Tick())
        self.feed(e.HoldObject(FULL, RELEASE.objects[FULL]))
        self.now = 90.0
        self.feed(e.PeerConnected(peer, "10.0.0.2"))
        self.hear(m.Hello(PROTOCOL, "depot", 1, True))
        self.now = 100.0
        actions = self.feed(e.Pursue(RELEASE.task(None), ()))
        actions += self.hear(m.Join(RELEASE.task_image, None, False, 100, False))
        self.fetch = self.next_fetch(actions)

    def feed(self, event: e.Event) -> list[e.Action]:
        return self.node.handle(event, self.now)

    def hear(self, message: m.Message) -> list[e.Action]:
        return self.feed(e.Received(self.peer, message))

    def next_fetch(self, actions: list[e.Action]) -> e.Fetch:
        """The next fetch that it begins."""
        since = self.now
        while not (fetches := [a for a in actions if isinstance(a, e.Fetch)]):
            self.now += 0.25
            assert self.now < since + 20.0
            actions = self.feed(e.Tick())
        return fetches[0]

    def hear_lease(self, came: int = 0) -> list[e.Action]:
        """The peer says that it fetches the same, and how much of it has come."""
        fetch = self.fetch
        return self.hear(m.Lease(RELEASE.task_image, fetch.pack, 0, fetch.start, fetch.stop, came))


def is_given_up(actions: list[e.Action]) -> bool:
    return any(isinstance(action, e.CancelFetch) for action in actions)


def yields(peer: str, after_s: float, rate: float) -> bool:
    """Whether a node gives up its fetch, as a peer says so long after it began that it fetches the same.

    `rate`: bytes per second at which the peer is known to answer; it has answered just now.
    """
    gateway = Gateway(peer)
    gateway.now += after_s
    other = gateway.node._context.peers[peer]
    other.rate, other.answered_at = rate, gateway.now
    return is_given_up(gateway.hear_lease())


WINNER = next(name for n in range(64) if yields(name := f"peer-{n}", 0.1, 0.0))


@pytest.mark.parametrize(
    ("after_s", "rate", "given_up"),
    [
        (0.2, 0.0, True),
        (0.7, 0.0, False),
        (0.7, 10.0 * MIB, False),
        (0.7, 128 * KIB, True),
        (1.3, 128 * KIB, False),
    ],
    ids=["at once", "late", "late, quick", "word waited behind a chunk", "longer than for a chunk"],
)
def test_the_loser_yields_for_as_long_as_word_may_have_waited(
    after_s: float, rate: float, given_up: bool
) -> None:
    assert yields(WINNER, after_s, rate) is given_up


def moved(gateway: Gateway, size: int) -> int:
    """So many bytes come; how many of them the peer has been told of."""
    gateway.now += 5.0
    told = [
        action.message.came
        for action in gateway.feed(e.FetchProgress(gateway.fetch.fetch, size))
        if isinstance(action, e.Send) and isinstance(action.message, m.Lease)
    ]
    assert told
    return told[-1]


@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize(("more", "given_up"), [(-1, False), (0, False), (1, True)])
def test_who_has_less_of_a_frame_yields_whenever_it_began(more: int, given_up: bool, renewed: bool) -> None:
    gateway = Gateway(WINNER)
    came = moved(gateway, 64 * KIB)
    if renewed:
        assert not is_given_up(gateway.hear_lease())
    assert is_given_up(gateway.hear_lease(came + more)) is given_up


def after_an_outage(came: int, peer: str = "other") -> Gateway:
    """A node of whose fetch `came` bytes came before the link broke; the peer has taken its place."""
    gateway = Gateway(peer)
    moved(gateway, came)
    gateway.now += 10.0
    assert is_given_up(gateway.feed(e.Tick()))
    gateway.feed(e.FetchEnded(gateway.fetch.fetch, "cancelled", 0))
    gateway.hear(m.Join(RELEASE.task_image, None, True, 1000, False))
    gateway.hear_lease()
    return gateway


def test_who_has_the_most_of_a_frame_goes_on_with_it_as_the_link_is_back() -> None:
    gateway = after_an_outage(96 * KIB)
    actions = gateway.hear_lease(4 * KIB)
    assert [a.start for a in actions if isinstance(a, e.Fetch)] == [gateway.fetch.start]
    told = [a.message for a in actions if isinstance(a, e.Send) and isinstance(a.message, m.Lease)]
    assert [lease.came for lease in told] == [96 * KIB]


@pytest.mark.parametrize("came", [0, 96 * KIB, 97 * KIB])
def test_what_does_not_move_yet_or_is_further_is_left_to_the_other(came: int) -> None:
    gateway = after_an_outage(96 * KIB)
    assert not [a for a in gateway.hear_lease(came) if isinstance(a, e.Fetch)]


def test_who_has_more_does_not_yield_to_who_would_win() -> None:
    """Else the two would give way to each other, and begin again, for ever."""
    gateway = after_an_outage(96 * KIB, WINNER)
    gateway.fetch = gateway.next_fetch(gateway.hear_lease(4 * KIB))
    gateway.hear(m.Lease(RELEASE.task_image, FULL, 0, 0, 0))
    assert not is_given_up(gateway.hear_lease(4 * KIB))


def told_of_first_bytes(gateway: Gateway) -> list[int]:
    """What the peer hears as the first bytes of a fetch come."""
    actions = gateway.feed(e.FetchProgress(gateway.fetch.fetch, 4 * KIB))
    sent = [action.message for action in actions if isinstance(action, e.Send)]
    return [message.came for message in sent if isinstance(message, m.Lease)]


def test_that_bytes_come_is_told_at_once_if_another_has_kept_the_beginning() -> None:
    """It has more, and goes on; each moment until it hears that is paid for twice."""
    gateway = Gateway()
    assert told_of_first_bytes(gateway) == []
    assert is_given_up(gateway.hear_lease(64 * KIB))
    gateway.feed(e.FetchEnded(gateway.fetch.fetch, "cancelled", 0))
    gateway.now += 2.0
    gateway.hear_lease(96 * KIB)
    gateway.now += 2.0
    ended = gateway.hear(m.Lease(RELEASE.task_image, FULL, 0, 0, 0))
    gateway.fetch = gateway.next_fetch(ended)
    assert told_of_first_bytes(gateway) == [2 * 4 * KIB], "what this node had kept itself included"
