"""A report goes to the coordinator through a peer: whom it is given to, and what a liar achieves."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from p2p.content import limits
from p2p.content.report import CARRIED
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.relay import DOUBT_S, HELD_MAX, NO_WORD, NOBODY, PASSED_MAX, PROBE, REFUSED_S, TRIES_MAX
from p2p.swarm.wire import PROTOCOL

PAUSE_S = 1800.0


class Rider:
    """One node with peers of whom each has said hello; `sent` is what it sends."""

    def __init__(self, *peers: str, wan: bool = True) -> None:
        self.node = SwarmNode(
            device="rider", site="depot", port=1, rng=random.Random(1), wan=wan, isolated=not wan
        )
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
        self.feed(e.ReportMade(sequence, urgent, b"signed"))

    def asked(self) -> tuple[str, int]:
        """Who was asked last whether it takes reports, and by which request."""
        last = self.sent[-1]
        assert isinstance(last.message, m.MetadataWant) and last.message.name == PROBE
        return last.device, last.message.request

    def taken(self, by: str | None = None) -> int:
        """Let the peer that was asked say that it takes reports; it is given ours, under this number."""
        device, request = self.asked()
        assert by in (None, device)
        self.hear(device, m.Blob(request, b""))
        last = self.sent[-1]
        assert isinstance(last.message, m.Report) and last.device == device
        assert last.message[1:] == (True, 0, b"signed")
        return last.message.number


PEERS = ("d1", "d2", "d3", "d4", "d5")


@pytest.fixture
def rider() -> Rider:
    """It heard first of `d2` that the origin was asked."""
    rider = Rider(*PEERS)
    rider.hear("d2", m.OriginAsked(0, 3))
    rider.sent.clear()
    return rider


def test_a_report_goes_to_whoever_told_of_the_last_question_once_that_said_that_it_takes_some(
    rider: Rider,
) -> None:
    rider.report()
    number = rider.taken("d2")
    assert not any(isinstance(s.message, m.Report) for s in rider.sent[:-1])
    rider.hear("d2", m.Reported(number, "ok"))
    assert rider.returned == [e.ReportReturned(1, "d2", "ok")]
    rider.report(2)
    (given,) = [s for s in rider.sent[-1:] if isinstance(s.message, m.Report)]
    assert given.device == "d2", "it is not asked again"


def test_a_node_that_knows_no_reports_is_sent_none(rider: Rider) -> None:
    """It would close the connection: it is asked for what looks like metadata, which it does not have."""
    rider.report()
    device, request = rider.asked()
    rider.hear(device, m.Refuse(request, m.Refusal.DONT_HAVE))
    rider.taken()
    assert "d2" not in [s.device for s in rider.sent if isinstance(s.message, m.Report)]


def test_who_took_none_is_asked_again_when_its_coordinator_may_have_got_to(rider: Rider) -> None:
    rider.report()
    device, request = rider.asked()
    rider.hear(device, m.Refuse(request, m.Refusal.DONT_HAVE))
    rider.now += REFUSED_S - 1
    rider.report(2)
    assert rider.asked()[0] != "d2"
    rider.now += 1
    rider.report(3)
    rider.taken("d2")


def test_one_peers_word_that_the_coordinator_takes_none_is_not_believed_before_others_were_tried(
    rider: Rider,
) -> None:
    rider.report()
    rider.hear("d2", m.Reported(rider.taken("d2"), "unsupported"))
    assert rider.returned == []
    other, _ = rider.asked()
    rider.hear(other, m.Reported(rider.taken(), "ok"))
    assert rider.returned == [e.ReportReturned(1, other, "ok")]
    rider.report(2)
    assert rider.sent[-1].device == other, "who said so is not asked for a while"


def test_it_is_when_nobody_takes_the_report(rider: Rider) -> None:
    rider.report()
    rider.hear("d2", m.Reported(rider.taken("d2"), "unsupported"))
    for _ in range(TRIES_MAX - 1):
        device, _ = rider.asked()
        rider.hear(device, m.Reported(rider.taken(), NOBODY))
    assert rider.returned == [e.ReportReturned(1, None, "unsupported")]


def test_who_is_alone_or_asked_last_speaks_for_itself(rider: Rider) -> None:
    alone = Rider()
    alone.report()
    assert alone.returned == [e.ReportReturned(1, None, NOBODY)]
    assert alone.node.speaks_for_itself
    assert not rider.node.speaks_for_itself
    rider.now += 100
    rider.feed(e.OriginAnswered())
    assert rider.node.speaks_for_itself
    rider.report()
    assert rider.returned == [e.ReportReturned(1, None, NOBODY)]
    rider.now += 100
    rider.hear("d4", m.OriginAsked(0, 0))
    assert not rider.node.speaks_for_itself


def test_a_report_whose_holder_is_lost_goes_to_another(rider: Rider) -> None:
    rider.report()
    rider.taken("d2")
    rider.feed(e.PeerLost("d2"))
    other, _ = rider.asked()
    number = rider.taken()
    rider.hear(other, m.Reported(number, "ok"))
    assert rider.returned == [e.ReportReturned(1, other, "ok")]


def test_who_is_lost_before_it_answers_is_passed_over(rider: Rider) -> None:
    rider.report()
    rider.feed(e.PeerLost("d2"))
    assert rider.asked()[0] in PEERS
    assert rider.returned == []


def test_after_some_refusals_the_report_comes_back(rider: Rider) -> None:
    rider.report()
    for _ in range(TRIES_MAX):
        device, _ = rider.asked()
        rider.hear(device, m.Reported(rider.taken(), NOBODY))
    assert rider.returned == [e.ReportReturned(1, None, NOBODY)]


def test_only_the_holder_has_a_word_in_it(rider: Rider) -> None:
    rider.report()
    rider.hear("d1", m.Reported(1, "ok"))
    device, request = rider.asked()
    for number in (0, 1, 2):
        rider.hear(device, m.Reported(number, "ok"))
    assert rider.returned == [], "not before it has it"
    rider.hear(device, m.Blob(request, b""))
    message = rider.sent[-1].message
    assert isinstance(message, m.Report)
    for peer, number in [("d1", message.number), (device, message.number + 1)]:
        rider.hear(peer, m.Reported(number, "ok"))
    assert rider.returned == []
    rider.hear(device, m.Reported(message.number, "ok"))
    assert rider.returned == [e.ReportReturned(1, device, "ok")]


def test_what_the_agent_waits_for_no_more_is_not_returned(rider: Rider) -> None:
    rider.report()
    number = rider.taken("d2")
    rider.feed(e.ReportWithdrawn(1))
    rider.hear("d2", m.Reported(number, "ok"))
    assert rider.returned == []


def test_it_is_known_who_has_a_report_that_there_is_no_word_of(rider: Rider) -> None:
    rider.report()
    rider.taken("d2")
    rider.feed(e.ReportWithdrawn(1, overdue=True))
    assert rider.returned == [e.ReportReturned(1, "d2", NO_WORD)]
    rider.report(2)
    rider.feed(e.ReportWithdrawn(1, overdue=True))
    assert len(rider.returned) == 1, "not of another"


def test_who_claimed_to_have_handed_in_gets_no_more_for_a_while_longer_each_time(rider: Rider) -> None:
    for times in (1, 2):
        rider.feed(e.ReportWithdrawn(1, doubted="d2"))
        for waited in (0.0, times * DOUBT_S - 1):
            rider.now += waited
            rider.sent.clear()
            rider.report()
            assert "d2" not in [s.device for s in rider.sent]
            rider.feed(e.ReportWithdrawn(1))
        rider.now += 2
        rider.sent.clear()
        rider.report()
        assert [s.device for s in rider.sent] == ["d2"]
        rider.feed(e.ReportWithdrawn(1))


def test_a_report_is_passed_on_toward_the_one_that_asks_and_its_answer_back(rider: Rider) -> None:
    rider.feed(e.HandsIn(True))
    rider.hear("d1", m.Report(70, True, 0, b"of d1"))
    rider.hear("d3", m.Report(70, True, 4, b"of another"))
    device, request = rider.asked()
    assert (device, len(rider.sent)) == ("d2", 1), "it is asked once"
    rider.hear("d2", m.Blob(request, b""))
    passed = [s.message for s in rider.sent if isinstance(s.message, m.Report)]
    assert [(p.hops, p.report) for p in passed] == [(1, b"of d1"), (5, b"of another")]
    assert rider.arrived == []
    rider.hear("d1", m.Reported(passed[0].number, "ok"))
    rider.hear("d2", m.Reported(passed[1].number, "stale"))
    rider.hear("d2", m.Reported(passed[0].number, "ok"))
    assert rider.sent[-2:] == [
        e.Send("d3", m.Reported(70, "stale")),
        e.Send("d1", m.Reported(70, "ok")),
    ], "and only by the one that has it"


def test_a_report_goes_neither_back_nor_round_for_ever(rider: Rider) -> None:
    rider.feed(e.HandsIn(True))
    rider.hear("d2", m.Report(5, True, 0, b"of d2"))
    rider.hear("d1", m.Report(6, True, limits.REPORT_HOPS_MAX, b"of d9"))
    assert [a.report.number for a in rider.arrived] == [5, 6], "it is handed in where the way ends"
    assert rider.sent == []


def test_where_nobody_knows_who_asks_the_first_that_is_given_a_report_hands_it_in() -> None:
    """A whole site has started anew."""
    rider = Rider(*PEERS)
    rider.feed(e.HandsIn(True))
    rider.hear("d1", m.Report(5, True, 0, b"of d1"))
    assert [a.report.number for a in rider.arrived] == [5]


def test_a_report_on_its_way_whose_next_is_lost_is_refused(rider: Rider) -> None:
    rider.feed(e.HandsIn(True))
    for number in (1, 2):
        rider.hear("d1", m.Report(number, True, 0, b"of d1"))
        if number == 1:
            rider.hear("d2", m.Blob(rider.asked()[1], b""))
    rider.feed(e.PeerLost("d2"))
    assert rider.sent[-2:] == [e.Send("d1", m.Reported(n, NOBODY)) for n in (1, 2)]


def test_who_asked_out_of_turn_keeps_what_is_not_urgent_until_it_hears_of_the_lookout(rider: Rider) -> None:
    rider.feed(e.HandsIn(True))
    rider.now += 100
    rider.feed(e.OriginAnswered())
    rider.hear("d1", m.Report(1, True, 0, b"urgent"))
    assert [a.report.report for a in rider.arrived] == [b"urgent"]
    rider.hear("d1", m.Report(2, False, 0, b"routine"))
    assert len(rider.arrived) == 1
    rider.now += 100
    rider.sent.clear()
    rider.hear("d2", m.OriginAsked(0, 0))
    rider.hear("d2", m.Blob(rider.asked()[1], b""))
    assert [s.message.report for s in rider.sent if isinstance(s.message, m.Report)] == [b"routine"]


def passed_on(rider: Rider, whose: bytes) -> list[int]:
    """By which numbers reports went on."""
    return [
        s.message.number for s in rider.sent if isinstance(s.message, m.Report) and s.message.report == whose
    ]


def test_who_brings_without_end_pushes_out_no_report_of_others_on_its_way(rider: Rider) -> None:
    rider.hear("d3", m.Report(70, True, 0, b"of d3"))
    rider.hear("d2", m.Blob(rider.asked()[1], b""))
    (number,) = passed_on(rider, b"of d3")
    for n in range(2 * PASSED_MAX):
        rider.hear("d1", m.Report(n, True, 0, b"of d1"))
    assert len(passed_on(rider, b"of d1")) == 2 * PASSED_MAX
    rider.hear("d2", m.Reported(passed_on(rider, b"of d1")[0], "ok"))
    rider.hear("d2", m.Reported(passed_on(rider, b"of d1")[-1], "ok"))
    rider.hear("d2", m.Reported(number, "ok"))
    told = [s for s in rider.sent if isinstance(s.message, m.Reported)]
    assert told == [e.Send("d1", m.Reported(2 * PASSED_MAX - 1, "ok")), e.Send("d3", m.Reported(70, "ok"))]


def test_nor_one_that_waits_until_a_peer_says_that_it_takes_any(rider: Rider) -> None:
    rider.hear("d3", m.Report(70, True, 0, b"of d3"))
    _, request = rider.asked()
    for n in range(2 * HELD_MAX):
        rider.hear("d1", m.Report(n, True, 0, b"of d1"))
    refused = [s for s in rider.sent if isinstance(s.message, m.Reported)]
    assert refused == [e.Send("d1", m.Reported(n, NOBODY)) for n in range(HELD_MAX + 1)]
    rider.hear("d2", m.Blob(request, b""))
    assert len(passed_on(rider, b"of d3")) == 1 and len(passed_on(rider, b"of d1")) == HELD_MAX - 1


def test_nor_one_that_waits_for_the_lookout(rider: Rider) -> None:
    rider.feed(e.HandsIn(True))
    rider.now += 100
    rider.feed(e.OriginAnswered())
    rider.hear("d3", m.Report(70, False, 0, b"of d3"))
    for n in range(2 * PASSED_MAX):
        rider.hear("d1", m.Report(n, False, 0, b"of d1"))
    refused = [s for s in rider.sent if isinstance(s.message, m.Reported)]
    assert refused == [e.Send("d1", m.Reported(n, NOBODY)) for n in range(PASSED_MAX + 1)]
    rider.now += 100
    rider.hear("d2", m.OriginAsked(0, 0))
    (request,) = [s.message.request for s in rider.sent if isinstance(s.message, m.MetadataWant)]
    rider.hear("d2", m.Blob(request, b""))
    assert len(passed_on(rider, b"of d3")) == 1


def test_the_lookout_says_that_it_takes_reports_and_passes_the_answer_back() -> None:
    lookout = Rider("d1")
    lookout.now = 10.0
    lookout.node.asks_at(-1e6, PAUSE_S, 0.5, lookout.now)  # its turn has come
    lookout.feed(e.OriginAnswered())
    lookout.sent.clear()
    lookout.hear("d1", m.MetadataWant(4, PROBE))
    assert lookout.sent[-1] == e.Send("d1", m.Refuse(4, m.Refusal.DONT_HAVE))
    report = m.Report(9, False, 0, b"signed")
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
    rider.hear("d1", reported)
    assert (rider.returned, rider.sent) == ([], [])


# Without a WAN


def test_where_there_is_no_wan_a_report_waits_for_a_carrier() -> None:
    rider = Rider("d1", wan=False)
    rider.report()
    device, request = rider.asked()
    assert device == "d1"
    rider.hear("d1", m.Refuse(request, m.Refusal.DONT_HAVE))
    assert rider.returned == [], "it has nowhere else to go"
    rider.now += 86_400.0
    rider.meet("van")
    number = rider.taken("van")
    rider.hear("van", m.Reported(number, CARRIED))
    assert rider.returned == [e.ReportReturned(1, "van", CARRIED)]


def test_a_carrier_that_goes_with_the_report_unanswered_is_replaced_by_the_next() -> None:
    rider = Rider("van", wan=False)
    rider.report()
    rider.taken("van")
    rider.feed(e.PeerLost("van"))
    assert rider.returned == []
    rider.meet("box")
    rider.hear("box", m.Reported(rider.taken("box"), CARRIED))
    assert rider.returned == [e.ReportReturned(1, "box", CARRIED)]


def test_a_carrier_whose_satchel_is_full_is_no_carrier_for_this_report() -> None:
    rider = Rider("van", wan=False)
    rider.report()
    rider.hear("van", m.Reported(rider.taken("van"), NOBODY))
    assert rider.returned == []


@pytest.mark.parametrize(
    ("carrier", "wan", "isolated"),
    [(True, False, False), (True, True, False), (False, False, False), (True, False, True)],
)
def test_a_carrier_keeps_what_devices_without_a_wan_bring(carrier: bool, wan: bool, isolated: bool) -> None:
    """If it gets home itself."""
    node = SwarmNode(
        device="van", site="depot", port=1, rng=random.Random(1), carrier=carrier, isolated=isolated
    )
    node.handle(e.PeerConnected("d1"), 0.0)
    node.handle(e.Received("d1", m.Hello(PROTOCOL, "depot", 1, wan)), 0.0)
    (answer,) = node.handle(e.Received("d1", m.MetadataWant(7, PROBE)), 0.0)
    assert isinstance(answer, e.Send)
    homebound = carrier and not wan and not isolated
    assert isinstance(answer.message, m.Blob if homebound else m.Refuse)
    actions = node.handle(e.Received("d1", m.Report(1, True, 0, b"signed")), 0.0)
    brought = [a for a in actions if isinstance(a, e.ReportArrived)]
    assert brought == [e.ReportArrived("d1", m.Report(1, True, 0, b"signed"), homebound=True)] * homebound
