"""Two devices that begin the same frame: which of them yields, and until when."""

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


def yields(peer: str, after_s: float, rate: float) -> bool:
    """Whether a node gives up its fetch, as a peer says so long after it began that it fetches the same.

    `rate`: bytes per second at which the peer is known to answer; it has answered just now.
    """
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
    node.handle(e.Tick(), 0.0)
    node.handle(e.HoldObject(FULL, RELEASE.objects[FULL]), 0.0)
    node.handle(e.PeerConnected(peer, "10.0.0.2"), 90.0)
    node.handle(e.Received(peer, m.Hello(PROTOCOL, "depot", 1, True)), 90.0)
    actions = node.handle(e.Pursue(RELEASE.task(None), ()), 100.0)
    actions += node.handle(e.Received(peer, m.Join(RELEASE.task_image, None, False, 100, False)), 100.0)
    now = 100.0
    while not (fetches := [a for a in actions if isinstance(a, e.Fetch)]):
        now += 0.25
        assert now < 120.0
        actions = node.handle(e.Tick(), now)
    now += after_s
    other = node._context.peers[peer]
    other.rate, other.answered_at = rate, now
    lease = m.Lease(RELEASE.task_image, fetches[0].pack, 0, fetches[0].start, fetches[0].stop)
    actions = node.handle(e.Received(peer, lease), now)
    return any(isinstance(action, e.CancelFetch) for action in actions)


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
