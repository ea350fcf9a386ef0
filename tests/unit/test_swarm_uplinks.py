"""What nodes tell each other of their uplinks, whom, and what they make of it."""

from __future__ import annotations

import random
from collections import deque

from p2p.content import limits
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.site_quota import SiteQuota
from p2p.swarm.uplinks import PROBE
from p2p.swarm.wire import PROTOCOL

MOST = 256_000
MONTH = 202611


class Net:
    """Nodes whose messages arrive at once, in order; `told` are the `Uplink`s, by sender and receiver."""

    def __init__(self) -> None:
        self.nodes: dict[str, SwarmNode] = {}
        self.quotas: dict[str, SiteQuota] = {}
        self.told: list[tuple[str, str, m.Uplink]] = []
        self.now = 0.0

    def add(self, name: str, *, price: int | None = None, quota: bool = True) -> None:
        if quota:
            self.quotas[name] = SiteQuota(MOST, name)
            self.quotas[name].used(MONTH, 0)
        self.nodes[name] = SwarmNode(
            device=name,
            site="depot",
            port=1,
            rng=random.Random(name),
            price=price,
            quota=self.quotas.get(name),
        )

    def feed(self, name: str, event: e.Event) -> None:
        self.deliver([(name, event)])

    def deliver(self, events: list[tuple[str, e.Event]]) -> None:
        waiting = deque(events)
        while waiting:
            device, what = waiting.popleft()
            for action in self.nodes[device].handle(what, self.now):
                if isinstance(action, e.Send) and action.device in self.nodes:
                    if isinstance(action.message, m.Uplink):
                        self.told.append((device, action.device, action.message))
                    waiting.append((action.device, e.Received(device, action.message)))

    def join(self, one: str, other: str) -> None:
        """Both sides have connected before either says anything."""
        greetings: list[tuple[str, e.Event]] = []
        for mine, peer in ((one, other), (other, one)):
            for action in self.nodes[mine].handle(e.PeerConnected(peer), self.now):
                if isinstance(action, e.Send):
                    greetings.append((action.device, e.Received(mine, action.message)))
        self.deliver(greetings)

    def uses(self, name: str, size: int, month: int = MONTH) -> None:
        self.feed(name, e.WanUsed(month, size))

    def prices(self, name: str) -> dict[str, int]:
        return self.nodes[name]._context.prices


def test_without_prices_and_quotas_nobody_is_asked_or_told_anything() -> None:
    net = Net()
    net.add("d1", quota=False)
    net.nodes["d1"].handle(e.PeerConnected("d2"), 0.0)
    actions = net.nodes["d1"].handle(e.Received("d2", m.Hello(PROTOCOL, "depot", 1, True)), 0.0)
    assert not any(isinstance(a, e.Send) and isinstance(a.message, m.MetadataWant) for a in actions)


def test_an_older_node_that_refuses_the_question_is_told_nothing() -> None:
    net = Net()
    net.add("d1", price=5)
    net.nodes["d1"].handle(e.PeerConnected("old"), 0.0)
    actions = net.nodes["d1"].handle(e.Received("old", m.Hello(PROTOCOL, "depot", 1, True)), 0.0)
    (asked,) = [a.message for a in actions if isinstance(a, e.Send) and isinstance(a.message, m.MetadataWant)]
    assert asked.name == PROBE
    later = [
        *net.nodes["d1"].handle(e.Received("old", m.Refuse(asked.request, m.Refusal.DONT_HAVE)), 0.0),
        *net.nodes["d1"].handle(e.WanUsed(MONTH, MOST), 0.0),
    ]
    assert not any(isinstance(a, e.Send) and isinstance(a.message, m.Uplink) for a in later)
    assert "old" in net.nodes["d1"].peers


def test_sums_and_prices_are_told_at_once_and_then_in_steps() -> None:
    net = Net()
    net.add("d1", price=7)
    net.add("d2")
    net.uses("d1", 5000)
    net.join("d1", "d2")
    assert net.quotas["d2"].site == 5000
    assert net.prices("d2") == {"d1": 7}
    net.told.clear()
    net.uses("d1", 5999)
    assert net.told == []
    net.uses("d1", 6000)
    assert [message.used for _, _, message in net.told] == [(("d1", 6000),)]
    assert net.quotas["d2"].site == 6000


def test_who_has_no_quota_heeds_prices_and_passes_nothing_on() -> None:
    net = Net()
    net.add("d1", price=7)
    net.add("d2", quota=False)
    net.join("d1", "d2")
    assert net.prices("d2") == {"d1": 7}
    net.uses("d1", 100_000)
    assert all(sender == "d1" for sender, _, _ in net.told)


def test_sums_reach_those_that_are_not_connected_and_do_not_go_round_for_ever() -> None:
    net = Net()
    for name in ("d1", "d2", "d3", "d4"):
        net.add(name)
    for one, other in (("d1", "d2"), ("d2", "d3"), ("d3", "d4"), ("d2", "d4")):
        net.join(one, other)
    net.told.clear()
    net.uses("d1", 100_000)
    assert {quota.site for quota in net.quotas.values()} == {100_000}
    assert len(net.told) <= 8  # each way of each connection once
    assert net.quotas["d4"].entries() == [("d3", 0, True), ("d2", 0, True), ("d1", 100_000, False)]


def test_a_month_that_began_for_one_of_them_first_is_heard_of_by_both_in_the_end() -> None:
    net = Net()
    net.add("d1")
    net.add("d2")
    net.join("d1", "d2")
    net.uses("d1", 200_000)
    net.uses("d1", 50_000, MONTH + 1)
    assert net.quotas["d2"].site == 200_000  # its own clock decides
    net.uses("d2", 3000, MONTH + 1)
    assert (net.quotas["d2"].site, net.quotas["d1"].site) == (53_000, 53_000)


def test_a_peer_in_another_month_ends_none_here() -> None:
    net = Net()
    net.add("d1")
    net.add("d2")
    net.join("d1", "d2")
    net.uses("d1", 200_000)
    net.feed("d2", e.Received("d1", m.Uplink(None, 209901, (("d1", 1),))))
    assert (net.quotas["d2"].month, net.quotas["d2"].site) == (MONTH, 200_000)


def test_what_a_revoked_device_said_is_forgotten_and_not_heard_again() -> None:
    net = Net()
    for name in ("d1", "d2", "liar"):
        net.add(name)
    net.join("d1", "d2")
    net.join("d1", "liar")
    net.uses("liar", 1 << 50)
    assert net.quotas["d2"].site == 1 << 50
    net.feed("d1", e.Barred(frozenset({"liar"})))
    assert net.quotas["d1"].site == 0
    net.feed("d1", e.Received("d2", m.Uplink(None, MONTH, (("liar", 1 << 50),))))
    assert net.quotas["d1"].site == 0


def test_what_a_peers_uplink_costs_is_forgotten_with_its_connection() -> None:
    net = Net()
    net.add("d1", price=7)
    net.add("d2", price=9)
    net.join("d1", "d2")
    assert net.prices("d1") == {"d1": 7, "d2": 9}
    net.feed("d1", e.PeerLost("d2"))
    assert net.prices("d1") == {"d1": 7}


def test_a_long_list_is_told_to_a_newcomer_at_once() -> None:
    net = Net()
    net.add("d1")
    net.add("d2")
    for n in range(3 * limits.UPLINKS_TOLD_MAX):
        net.quotas["d1"].heard(f"far{n}", 5000, met=False)
    net.join("d1", "d2")
    assert net.quotas["d2"].site == 3 * limits.UPLINKS_TOLD_MAX * 5000
    assert all(len(message.used) <= limits.UPLINKS_TOLD_MAX for _, _, message in net.told)


def test_of_names_beyond_those_that_count_nothing_is_kept() -> None:
    net = Net()
    net.add("d1")
    net.add("liar")
    net.join("d1", "liar")
    for n in range(2 * limits.UPLINKS_MAX):
        net.nodes["d1"].handle(
            e.Received("liar", m.Uplink(None, MONTH, ((f"a{n}", 1), (f"b{n}", 1)))), 1.0
        )  # fmt: skip
    assert len(net.nodes["d1"]._uplinks._takes["liar"]) <= limits.UPLINKS_MAX


def test_more_than_all_of_the_quota_is_news_once() -> None:
    """So a liar has its site pass on no more than so many steps of a device."""
    net = Net()
    for name in ("d1", "d2", "liar"):
        net.add(name)
    net.join("d1", "d2")
    net.join("d1", "liar")
    net.told.clear()
    for n in range(1000):
        net.feed("d1", e.Received("liar", m.Uplink(None, MONTH, (("liar", MOST + n * MOST),))))
    assert [(sender, device) for sender, device, _ in net.told] == [("d1", "d2")]
    assert net.quotas["d2"].share == MOST // (4 * 2)
