"""One device asks the origin for its site, and how that goes on when it leaves, lies or goes quiet."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from p2p.content import limits
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.lookout import NEWER_S, OTHERS, OWN, QUIET, RELAY
from p2p.swarm.node import SwarmNode
from p2p.swarm.wire import PROTOCOL

PAUSE_S = 1800.0
DAY_S = 86_400.0


class Site:
    """Devices that ask an origin at their turns; messages arrive at once. `asked`: who asked, and when."""

    def __init__(self, count: int, *, degree: int | None = None, wan: Callable[[int], bool] = lambda n: True):
        self.rng = random.Random(7)
        self.now = 0.0
        self.asked: list[tuple[str, float]] = []
        self.own_at: dict[str, float] = {}
        self.jitter: dict[str, float] = {}
        self.nodes: dict[str, SwarmNode] = {}
        self.wan: dict[str, bool] = {}
        self.deaf: set[str] = set()
        """They ask no more, and stay connected."""
        self.links: set[tuple[str, str]] = set()
        self.words = 0
        for n in range(count):
            self.add(f"d{n}", wan=wan(n))
        names = sorted(self.nodes)
        for n, name in enumerate(names):
            others = names[n + 1 :] if degree is None else self.rng.sample(names, degree // 2)
            for other in others:
                self.connect(name, other)

    def add(self, name: str, *, wan: bool = True) -> None:
        node = SwarmNode(device=name, site="depot", port=1, rng=random.Random(name), wan=wan)
        self.nodes[name], self.wan[name] = node, wan
        self.own_at[name], self.jitter[name] = self.now, self.rng.random()
        node.handle(e.HoldMetadata("timestamp.json", 5, b"five"), self.now)

    def connect(self, one: str, other: str) -> None:
        if one == other or (one, other) in self.links:
            return
        self.links |= {(one, other), (other, one)}
        pairs = ((one, other), (other, one))
        greetings = [self.nodes[name].handle(e.PeerConnected(far, ""), self.now) for name, far in pairs]
        for (name, _), actions in zip(pairs, greetings, strict=True):
            self.carry(name, actions)

    def leave(self, name: str) -> None:
        del self.nodes[name]
        for node in self.nodes.values():
            node.handle(e.PeerLost(name), self.now)

    def carry(self, sender: str, actions: Iterable[e.Action]) -> None:
        for action in actions:
            if isinstance(action, e.Send) and (node := self.nodes.get(action.device)) is not None:
                self.words += isinstance(action.message, m.OriginAsked)
                self.carry(action.device, node.handle(e.Received(sender, action.message), self.now))

    def due(self, name: str) -> float:
        return self.nodes[name].asks_at(self.own_at[name], PAUSE_S, self.jitter[name], self.now)

    def run(self, seconds: float) -> Counter[str]:
        """How often each asks in this time."""
        until, before = self.now + seconds, len(self.asked)
        while True:
            able = [name for name in self.nodes if self.wan[name] and name not in self.deaf]
            at, name = min((max(self.now, self.due(name)), name) for name in able)
            if at > until:
                break
            self.now = at
            self.asked.append((name, at))
            self.own_at[name], self.jitter[name] = at, self.rng.random()
            self.carry(name, self.nodes[name].handle(e.OriginAnswered(), at))
        self.now = until
        return Counter(name for name, _ in self.asked[before:])


def test_one_device_asks_for_all() -> None:
    site = Site(24)
    site.run(DAY_S)
    found = site.run(6 * DAY_S)
    (_, most), *_ = found.most_common()
    polls = 6 * DAY_S / PAUSE_S
    assert most == pytest.approx(polls, rel=0.15)
    assert found.total() <= 1.3 * polls, "the others now and then"
    assert found.total() - most >= 0.5 * polls / OWN


def test_who_is_alone_asks_at_its_pace() -> None:
    site = Site(1)
    assert site.run(10 * DAY_S).total() == pytest.approx(10 * DAY_S / PAUSE_S, rel=0.1)


@pytest.mark.parametrize("count", [2, 12])
def test_who_weighs_nothing_leaves_it_to_the_others_while_there_are_any(count: int) -> None:
    site = Site(count)
    first = site.run(DAY_S).most_common(1)[0][0]
    site.nodes[first].handle(e.WeightChanged(0), site.now)
    site.run(DAY_S)
    found = site.run(4 * DAY_S)
    assert found[first] <= 2 * 4 * DAY_S / PAUSE_S / OWN, "but for its own look now and then"
    assert found.total() >= 0.7 * 4 * DAY_S / PAUSE_S
    for name in set(site.nodes) - {first}:
        site.leave(name)
    site.run(DAY_S)
    assert site.run(4 * DAY_S)[first] >= 0.8 * 4 * DAY_S / PAUSE_S


def test_who_has_no_wan_is_no_lookout() -> None:
    site = Site(10, wan=lambda n: n == 3)
    assert site.run(10 * DAY_S)["d3"] == pytest.approx(10 * DAY_S / PAUSE_S, rel=0.1)


def test_links_that_come_up_later_than_the_connections_are_known_by_who_asks() -> None:
    site = Site(6, wan=lambda n: False)
    site.wan = dict.fromkeys(site.nodes, True)
    for node in site.nodes.values():
        node.handle(e.WanChanged(True), 0.0)
    site.run(DAY_S)
    assert site.run(4 * DAY_S).total() <= 1.3 * 4 * DAY_S / PAUSE_S


def test_the_role_moves_when_the_lookout_leaves_or_goes_quiet() -> None:
    site = Site(20)
    first = site.run(2 * DAY_S).most_common(1)[0][0]
    site.leave(first)
    second, asked = site.run(2 * DAY_S).most_common(1)[0]
    assert second != first
    assert asked == pytest.approx(2 * DAY_S / PAUSE_S, rel=0.3)
    site.deaf.add(second)
    since = site.now
    found = site.run(2 * DAY_S)
    assert found.total() >= 0.7 * 2 * DAY_S / PAUSE_S
    (_, at), *_ = [(name, at) for name, at in site.asked if at > since]
    assert at - since <= (QUIET + 1) * PAUSE_S


@pytest.mark.parametrize(("count", "most"), [(60, 1.8), (150, 2.2)])
def test_a_site_that_is_no_mesh_asks_no_more_than_a_few_devices_would(count: int, most: float) -> None:
    site = Site(count, degree=20)
    site.run(DAY_S)
    site.words = 0
    polls = 2 * DAY_S / PAUSE_S
    found = site.run(2 * DAY_S).total()
    assert found <= most * polls
    assert site.words <= 6 * count * found, "bounded, however many connections there are"


def test_a_lookout_that_hides_news_does_not_keep_the_site_from_asking() -> None:
    site = Site(20)
    liar = site.run(DAY_S).most_common(1)[0][0]
    site.deaf.add(liar)
    for _ in range(10 * 48 * 4):  # it says all the time that it has just asked
        word = m.OriginAsked(5, 0)
        for name, node in site.nodes.items():
            if name != liar:
                site.carry(name, node.handle(e.Received(liar, word), site.now))
        site.run(PAUSE_S / 4)
    honest = [at for name, at in site.asked if name != liar and at > DAY_S]
    assert len(honest) >= 0.6 * 10 * 48 / OWN
    assert max(b - a for a, b in pairwise(honest)) < 5 * OWN * PAUSE_S


def lone(peers: int = 6) -> tuple[SwarmNode, Callable[[m.Message, float], list[e.Action]]]:
    """A node with peers, and how one of them tells it something."""
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
    node.handle(e.HoldMetadata("timestamp.json", 5, b"five"), 0.0)
    for n in range(peers):
        node.handle(e.PeerConnected(f"d{n}", ""), 0.0)
        node.handle(e.Received(f"d{n}", m.Hello(PROTOCOL, "depot", 1, True)), 0.0)
    return node, lambda message, now: node.handle(e.Received("d0", message), now)


def due(node: SwarmNode, now: float) -> float:
    return node.asks_at(0.0, PAUSE_S, 0.5, now)


@pytest.mark.parametrize(
    ("version", "age", "counts"), [(5, 0, True), (5, 600, True), (4, 0, False), (6, 0, False)]
)
def test_only_word_of_what_is_trusted_puts_the_own_question_off(version: int, age: int, counts: bool) -> None:
    node, tell = lone()
    before = due(node, 1000.0)
    tell(m.OriginAsked(version, age), 1000.0)
    assert due(node, 1000.0) == pytest.approx(before + (1000.0 - age if counts else 0.0))


@pytest.mark.parametrize(("peers", "reckoned"), [(1, 1), (6, 6), (80, OTHERS)])
def test_no_word_keeps_a_device_from_asking_for_longer_than_its_bound(peers: int, reckoned: int) -> None:
    node, _ = lone(peers)
    bound = OWN * reckoned * PAUSE_S
    node.handle(e.Received("d0", m.OriginAsked(5, 0)), 2 * bound)
    assert due(node, 2 * bound) == pytest.approx(bound)
    assert node.asks_at(0.0, PAUSE_S, 1.0, 2 * bound) == pytest.approx(1.5 * bound)


def test_word_of_news_counts_once_they_are_trusted() -> None:
    node, tell = lone()
    before = due(node, 1000.0)
    tell(m.OriginAsked(6, 0), 1000.0)
    node.handle(e.HoldMetadata("timestamp.json", 6, b"six"), 1003.0)
    assert due(node, 1003.0) == pytest.approx(before + 1000.0)


def test_word_of_news_that_do_not_exist_neither_spreads_nor_hides_other_word() -> None:
    node, tell = lone()
    before = due(node, 1000.0)
    assert tell(m.OriginAsked(1 << 53, 0), 1000.0) == []
    passed = node.handle(e.Received("d1", m.OriginAsked(5, 0)), 1001.0)
    assert {a.message for a in passed if isinstance(a, e.Send)} == {m.OriginAsked(5, 1)}
    assert due(node, 1001.0) == pytest.approx(before + 1001.0)
    node.handle(e.Received("d1", m.OriginAsked(6, 0)), 1100.0)
    learnt = node.handle(e.HoldMetadata("timestamp.json", 6, b"six"), 1103.0)
    words = {a.message for a in learnt if isinstance(a, e.Send) and isinstance(a.message, m.OriginAsked)}
    assert words == {m.OriginAsked(6, 3)}, "passed on once it is borne out"
    assert due(node, 1103.0) == pytest.approx(before + 1100.0)


def test_a_peer_that_tells_of_what_does_not_exist_does_not_make_the_site_ask() -> None:
    site = Site(20)
    liar = site.run(DAY_S).most_common(1)[0][0]
    site.deaf.add(liar)
    site.run(DAY_S)
    asked = len(site.asked)
    while site.now < 3 * DAY_S:
        for name, node in site.nodes.items():
            if name != liar:
                site.carry(name, node.handle(e.Received(liar, m.OriginAsked(1 << 53, 0)), site.now))
        site.run(NEWER_S)
    assert len(site.asked) - asked <= 1.3 * DAY_S / PAUSE_S


def test_word_is_passed_on_to_a_few_and_not_again_soon() -> None:
    _, tell = lone()
    passed = [a for a in tell(m.OriginAsked(5, 0), 1000.0) if isinstance(a, e.Send)]
    assert len({a.device for a in passed}) == RELAY
    assert {a.message for a in passed} == {m.OriginAsked(5, 1)}
    assert tell(m.OriginAsked(5, 0), 1000.0 + NEWER_S / 2) == []
    assert tell(m.OriginAsked(999, 0), 1000.0 + NEWER_S / 2) == []
    assert tell(m.OriginAsked(5, 0), 1000.0 + 2 * NEWER_S) != []


def test_a_newcomer_is_told_how_long_ago_the_origin_was_asked() -> None:
    node, _ = lone()
    node.handle(e.OriginAnswered(), 100.0)
    told = node.handle(e.PeerConnected("new", ""), 160.0)
    assert e.Send("new", m.OriginAsked(5, 60)) in told
    late = node.handle(e.PeerConnected("late", ""), 101.0 + limits.ASKED_AGE_MAX)
    assert not [a for a in late if isinstance(a, e.Send) and isinstance(a.message, m.OriginAsked)]
