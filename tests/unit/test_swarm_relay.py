"""A report goes to the coordinator through a peer: whom it is given to, and what a liar achieves."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.relay import DOUBT_S, NOBODY, PROBE, TRIES_MAX
from p2p.swarm.wire import PROTOCOL

PAUSE_S = 1800.0


class Rider:
    """One node with peers of whom each has said hello; `sent` is what it sends."""

    def __init__(self, *peers: str, wan: bool = True) -> None:
        self.node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), wan=wan)
        self.now = 0.0
        self.sent: list[e.Send] = []
        self.returned: list[e.ReportReturned] = []
        self.arrived: list[e.ReportArrived] = []
        for peer in peers:
            self.meet(peer)
        self.sent.clear()

    def meet(self, peer: str) -> None:
        self.feed(e.PeerConnected(peer))
        self.hear(peer, m.Hello(PROTOCOL, "depot", 1, True))

    def feed(self, event: e.Event) -> None:
        self.take(self.node.handle(event, self.now))

    def hear(self, peer: str, message: m.Message) -> None:
        self.feed(e.Received(peer, message))

    def take(self, actions: Iterable[e.Action]) -> None:
        for action in actions:
            match action:
                case e.Send():
                    self.sent.append(action)
                case e.ReportReturned():
                    self.returned.append(action)
                case e.ReportArrived():
                    self.arrived.append(action)

    def report(self, sequence: int = 1, *, urgent: bool = True) -> None:
        self.feed(e.ReportMade(sequence, urgent, b"signed", PAUSE_S))

    def asked(self) -> tuple[str, int]:
        """Who was asked last whether it takes reports, and by which request."""
        last = self.sent[-1]
        assert isinstance(last.message, m.MetadataWant) and last.message.name == PROBE
        return last.device, last.message.request

    def taken(self) -> str:
        """Let the peer that was asked say that it takes reports; it is given ours."""
        device, request = self.asked()
        self.hear(device, m.Blob(request, b""))
        assert self.sent[-1] == e.Send(device, m.Report(1, True, b"signed"))
        return device


def before(*peers: str) -> list[str]:
    """Peers that come before the rider, in order."""
    rider = Rider(*peers)
    rider.report()
    order = []
    while not rider.returned:
        device, request = rider.asked()
        order.append(device)
        rider.hear(device, m.Refuse(request, m.Refusal.DONT_HAVE))
    return order


PEERS = tuple(f"d{n}" for n in range(12))
FIRST = before(*PEERS)
"""There are enough of them for what follows."""


def test_there_are_peers_before_the_rider() -> None:
    assert len(FIRST) > TRIES_MAX


def test_who_comes_first_gets_the_report_once_it_said_that_it_takes_some() -> None:
    rider = Rider(*PEERS)
    rider.report()
    assert rider.taken() == FIRST[0]
    assert not any(isinstance(s.message, m.Report) for s in rider.sent[:-1])
    rider.hear(FIRST[0], m.Reported(1, "ok"))
    assert rider.returned == [e.ReportReturned(1, FIRST[0], "ok")]
    rider.report(2)
    assert rider.sent[-1] == e.Send(FIRST[0], m.Report(2, True, b"signed")), "it is not asked again"


def test_a_node_that_knows_no_reports_is_sent_none() -> None:
    """It would close the connection: it is asked for what looks like metadata, which it does not have."""
    rider = Rider(*PEERS)
    rider.report()
    device, request = rider.asked()
    rider.hear(device, m.Refuse(request, m.Refusal.DONT_HAVE))
    assert rider.taken() == FIRST[1]
    assert [s.device for s in rider.sent if isinstance(s.message, m.Report)] == [FIRST[1]]


def test_who_is_first_or_alone_hands_in_itself() -> None:
    assert [alone.returned for alone in [Rider()] if alone.report() is None] == [
        [e.ReportReturned(1, None, NOBODY)]
    ]
    behind = [peer for peer in PEERS if peer not in FIRST]
    assert behind
    rider = Rider(*behind)
    assert rider.node.hands_in_for(PAUSE_S, 0.0)
    rider.report()
    assert rider.returned == [e.ReportReturned(1, None, NOBODY)]
    assert not Rider(*behind, wan=False).node.hands_in_for(PAUSE_S, 0.0), "without a WAN it is never first"
    assert not Rider(*PEERS).node.hands_in_for(PAUSE_S, 0.0)


def test_a_report_whose_holder_is_lost_goes_to_the_next() -> None:
    rider = Rider(*PEERS)
    rider.report()
    first = rider.taken()
    rider.feed(e.PeerLost(first))
    assert rider.taken() == FIRST[1]
    rider.hear(FIRST[1], m.Reported(1, "ok"))
    assert rider.returned == [e.ReportReturned(1, FIRST[1], "ok")]


def test_who_is_lost_before_it_answers_is_passed_over() -> None:
    rider = Rider(*PEERS)
    rider.report()
    rider.feed(e.PeerLost(rider.asked()[0]))
    assert rider.asked()[0] == FIRST[1]


def test_after_some_refusals_the_report_comes_back() -> None:
    rider = Rider(*PEERS)
    rider.report()
    for _ in range(TRIES_MAX):
        rider.hear(rider.taken(), m.Reported(1, NOBODY))
    assert rider.returned == [e.ReportReturned(1, None, NOBODY)]


def test_only_the_holder_has_a_word_in_it() -> None:
    rider = Rider(*PEERS)
    rider.report()
    rider.hear(FIRST[1], m.Reported(1, "ok"))
    device, request = rider.asked()
    rider.hear(device, m.Reported(1, "ok"))
    assert rider.returned == [], "not before it has it"
    rider.hear(device, m.Blob(request, b""))
    for peer, sequence in [(FIRST[1], 1), (device, 2)]:
        rider.hear(peer, m.Reported(sequence, "ok"))
    assert rider.returned == []
    rider.hear(device, m.Reported(1, "ok"))
    assert rider.returned == [e.ReportReturned(1, device, "ok")]


def test_what_the_agent_waits_for_no_more_is_not_returned() -> None:
    rider = Rider(*PEERS)
    rider.report()
    device = rider.taken()
    rider.feed(e.ReportWithdrawn(1))
    rider.hear(device, m.Reported(1, "ok"))
    assert rider.returned == []


def test_who_claimed_to_have_handed_in_gets_no_more_for_a_while_longer_each_time() -> None:
    rider = Rider(*PEERS)
    for times in (1, 2):
        rider.report()
        assert rider.asked()[0] == FIRST[0] if times == 1 else rider.sent[-1].device == FIRST[0]
        if times == 1:
            rider.taken()
        rider.hear(FIRST[0], m.Reported(1, "ok"))
        rider.feed(e.ReportWithdrawn(1, doubted=FIRST[0]))
        for waited in (0.0, times * DOUBT_S - 1):
            rider.now += waited
            for peer in PEERS:  # all have asked the origin lately
                rider.hear(peer, m.OriginAsked(0, 0))
            rider.report()
            assert rider.sent[-1].device != FIRST[0]
        rider.now += 2


def test_a_desk_says_that_it_takes_reports_and_passes_the_answer_back() -> None:
    lookout = Rider("d1")
    lookout.hear("d1", m.MetadataWant(4, PROBE))
    assert lookout.sent[-1] == e.Send("d1", m.Refuse(4, m.Refusal.DONT_HAVE))
    report = m.Report(9, False, b"signed")
    lookout.hear("d1", report)
    assert (lookout.arrived, lookout.sent[-1]) == ([], e.Send("d1", m.Reported(9, NOBODY)))
    lookout.feed(e.HandsIn(True))
    lookout.hear("d1", m.MetadataWant(5, PROBE))
    assert lookout.sent[-1] == e.Send("d1", m.Blob(5, b""))
    lookout.hear("d1", report)
    assert lookout.arrived == [e.ReportArrived("d1", report)]
    lookout.feed(e.ReportHandedIn("d1", 9, "stale"))
    assert lookout.sent[-1] == e.Send("d1", m.Reported(9, "stale"))
    count = len(lookout.sent)
    lookout.feed(e.PeerLost("d1"))
    lookout.feed(e.ReportHandedIn("d1", 9, "ok"))
    assert len(lookout.sent) == count


@pytest.mark.parametrize("reported", [m.Reported(1, "ok"), m.Reported(1, NOBODY)])
def test_word_of_a_report_that_nobody_made_is_ignored(reported: m.Reported) -> None:
    rider = Rider(*PEERS)
    rider.hear(FIRST[0], reported)
    assert (rider.returned, rider.sent) == ([], [])
