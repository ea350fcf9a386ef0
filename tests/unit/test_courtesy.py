"""The window of an update that gives way, held against a link with a queue, in virtual time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from p2p.swarm import Policy, leases
from p2p.swarm.courtesy import (
    DRAIN_EVERY_S,
    RATE_MIN,
    REST_S,
    SHARE_MIN,
    TARGET_MAX_S,
    TARGET_S,
    WINDOW_FIRST,
    WINDOW_MIN,
    Courtesy,
)

MBIT = 125_000.0


@dataclass
class Link:
    """A link of `rate` bytes/s with one queue; who fetches has as many bytes in flight as its window says."""

    rate: float
    base_s: float
    queue_max_s: float = 1.0
    other_s: float = 0.0
    """What others keep in the queue, in seconds."""
    handshake: bool = True
    """Whether the connection was made while the queue was empty, so that the base is known from the first."""
    courtesy: Courtesy = field(default_factory=Courtesy)
    now: float = 0.0
    carried: float = 0.0
    queue_s: float = 0.0
    sent: int = WINDOW_FIRST

    def run(self, seconds: float) -> float:
        """The share of the link that the update had meanwhile."""
        until, before = self.now + seconds, self.carried
        while self.now < until:
            window = self.sent
            ours_s = max(0.0, window / self.rate - self.base_s)
            self.queue_s = min(self.queue_max_s, max(ours_s, self.other_s))
            trip = self.base_s + self.queue_s
            got = min(window, self.rate * trip)
            self.now += trip
            self.carried += got
            shortest = self.base_s if self.handshake else trip
            self.sent = self.courtesy.sampled(trip, shortest, int(got), self.now)
        return (self.carried - before) / (self.rate * (self.now - until + seconds))


@dataclass
class Radio(Link):
    """A link whose delay is anything up to `jitter_s` more, for `holds_s` at a time: packets stay in order.

    What is seen of it is what a kernel tells: samples smoothed by an eighth, looked at every 10 ms.
    """

    jitter_s: float = 0.0
    holds_s: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    smoothed_s: float | None = None
    jitter_now_s: float = 0.0
    jitter_until: float = 0.0
    shortest_s: float = math.inf
    ours_s: float = 0.0

    def run(self, seconds: float) -> float:
        """As the link; `ours_s`: what the update added on the average."""
        until, before, began, ours, trips = self.now + seconds, self.carried, self.now, 0.0, 0
        while self.now < until:
            mean_s = self.base_s + self.jitter_s / 2
            ours_s = max(0.0, self.sent / self.rate - mean_s)
            ours, trips = ours + ours_s, trips + 1
            self.queue_s = min(self.queue_max_s, max(ours_s, self.other_s))
            trip = mean_s + self.queue_s
            got = min(self.sent, self.rate * trip)
            self.carried += got
            looks = max(1, round(trip / 0.01))
            for _ in range(looks):
                self._look(trip / looks, int(got / looks))
        self.ours_s = ours / trips
        return (self.carried - before) / (self.rate * (self.now - began))

    def _look(self, seconds: float, got: int) -> None:
        for _ in range(max(1, round(seconds / 0.001))):
            self.now += 0.001
            if self.now >= self.jitter_until:
                self.jitter_now_s = self.rng.uniform(0, self.jitter_s)
                self.jitter_until = self.now + self.holds_s
            seen_s = self.base_s + self.queue_s + self.jitter_now_s
            self.shortest_s = min(self.shortest_s, seen_s)
            smoothed = seen_s if self.smoothed_s is None else self.smoothed_s
            self.smoothed_s = smoothed + (seen_s - smoothed) / 8
        assert self.smoothed_s is not None
        self.sent = self.courtesy.sampled(
            self.smoothed_s, min(self.shortest_s, self.smoothed_s), got, self.now
        )


LINKS = [(0.25, 0.05), (2, 0.02), (16, 0.001), (16, 0.04), (16, 0.6), (100, 0.01), (100, 0.1), (1000, 0.03)]


@pytest.mark.parametrize(("mbit", "base_s"), LINKS)
def test_a_link_that_nobody_else_uses_is_filled_and_its_queue_kept_short(mbit: float, base_s: float) -> None:
    link = Link(mbit * MBIT, base_s)
    link.run(15)
    assert link.run(60) >= 0.9
    least = WINDOW_MIN / link.rate - base_s
    queues = []
    for _ in range(40):
        link.run(0.3)
        queues.append(link.queue_s)
    assert sorted(queues)[len(queues) // 2] <= max(1.5 * TARGET_S, least)


@pytest.mark.parametrize(("mbit", "base_s"), LINKS)
def test_who_fills_the_queue_is_given_way_to_and_the_link_taken_again(mbit: float, base_s: float) -> None:
    link = Link(mbit * MBIT, base_s)
    link.run(15)
    link.other_s = 4 * TARGET_S
    link.run(max(1.0, 30 * (base_s + link.other_s)))
    assert link.courtesy.giving_way
    kept = max(WINDOW_MIN, max(RATE_MIN, SHARE_MIN * link.rate) * (base_s + link.other_s))
    assert link.courtesy.window <= 1.1 * kept
    share = link.run(20)
    assert share <= 1.1 * kept / (link.rate * (base_s + link.other_s))
    assert share >= 0.9 * SHARE_MIN  # no less, or the site would take its leases for dead
    link.other_s = 0.0
    link.run(max(3.0, 25 * base_s))
    assert not link.courtesy.giving_way or link.sent / link.rate >= base_s
    assert link.run(20) >= 0.9


@pytest.mark.parametrize(
    ("jitter_s", "holds"), [(0.03, 1.0), (0.06, 0.25), (0.06, 1.0), (0.1, 0.25), (0.1, 1.0), (0.2, 0.25)]
)
@pytest.mark.parametrize(("mbit", "base_s"), [(2, 0.05), (16, 0.03), (50, 0.04)])
def test_a_link_whose_delay_varies_by_itself_is_filled_and_given_way_on(
    mbit: float, base_s: float, jitter_s: float, holds: float
) -> None:
    link = Radio(mbit * MBIT, base_s, jitter_s=jitter_s, holds_s=holds * jitter_s)
    link.run(30)
    assert link.run(60) >= 0.9
    assert link.ours_s <= TARGET_MAX_S
    link.other_s = 2 * TARGET_MAX_S
    link.run(10)
    assert link.run(60) <= 1.5 * SHARE_MIN
    link.other_s = 0.0
    link.run(10)
    assert link.run(60) >= 0.9


def test_where_delay_is_steady_no_more_is_added_than_ever() -> None:
    link = Radio(16 * MBIT, 0.03)
    link.run(30)
    assert link.run(60) >= 0.95
    assert link.courtesy.allowed_s <= 1.2 * TARGET_S
    assert link.ours_s <= 1.2 * TARGET_S


def test_beside_a_queue_that_stands_for_an_hour_a_tenth_is_kept() -> None:
    """What comes meanwhile is not the most that the link can do."""
    link = Link(16 * MBIT, 0.03)
    link.run(60)
    link.other_s = 0.2
    link.run(5)
    for _ in range(12):
        assert 0.9 * SHARE_MIN <= link.run(300) <= 1.1 * SHARE_MIN


def test_a_queue_that_is_our_own_as_the_link_has_become_slow_does_not_stand() -> None:
    """A tenth of what came before is more than all of the link: whose the queue is shows when we leave it."""
    link = Link(16 * MBIT, 0.03, queue_max_s=2.0)
    link.run(60)
    link.rate /= 40
    link.run(2 * DRAIN_EVERY_S)
    for _ in range(30):
        assert link.run(60) >= 0.9
        assert link.queue_s <= 2.5 * TARGET_S
        assert link.courtesy.base_s == pytest.approx(0.03, abs=0.01)


def test_what_is_kept_is_enough_for_others_to_believe_a_lease() -> None:
    """While rates are unknown, and with two fetches at a time where they are known (`policy.fetches_max`)."""
    assert RATE_MIN >= 2 * leases.RATE_MIN
    assert SHARE_MIN / Policy().fetches_max >= 1 / leases.SLOWER


def test_what_is_kept_stays_a_tenth_while_the_queue_grows() -> None:
    """As many bytes in flight are less and less of the link, the longer they stand in its queue."""
    link = Link(16 * MBIT, 0.01)
    link.run(15)
    for n in range(1, 16):
        link.other_s = 0.025 * n
        link.run(1)
    assert 0.9 * SHARE_MIN <= link.run(5) <= 1.2 * SHARE_MIN


def test_a_queue_that_is_shorter_than_the_target_is_shared() -> None:
    """Nobody is disturbed by it more than the target says."""
    link = Link(16 * MBIT, 0.04, other_s=TARGET_S / 2)
    link.run(15)
    assert link.courtesy.window > 10 * WINDOW_MIN


def test_the_queue_of_an_update_that_goes_on_for_long_is_not_taken_for_the_base() -> None:
    link = Link(2 * MBIT, 0.02, handshake=False)
    link.run(15)
    shares = [link.run(60.0) for _ in range(40)]
    assert link.courtesy.base_s == pytest.approx(0.02, abs=0.005)
    assert link.queue_s <= 2 * TARGET_S
    assert min(shares) >= 0.9  # and to look at the base costs next to nothing


def test_another_route_with_a_longer_base_is_noticed_in_time() -> None:
    link = Link(16 * MBIT, 0.02, handshake=False)
    link.run(15)
    link.base_s = 0.12
    link.run(60)
    assert link.courtesy.giving_way  # it looks like somebody else's queue
    link.run(11 * DRAIN_EVERY_S)
    assert link.run(30) >= 0.9


def test_a_window_that_is_not_used_does_not_grow() -> None:
    courtesy = Courtesy()
    for n in range(200):
        courtesy.sampled(0.05, 0.05, 500, n * 0.05)
    assert courtesy.window <= WINDOW_FIRST + 1000


def test_after_a_rest_the_window_is_looked_for_anew() -> None:
    link = Link(100 * MBIT, 0.02)
    link.run(15)
    large = link.courtesy.window
    assert large > 10 * WINDOW_FIRST
    assert link.courtesy.sampled(0.02, 0.02, 1000, link.now + REST_S + 1) == WINDOW_FIRST
    assert link.courtesy.base_s == pytest.approx(0.02, abs=0.001)  # what was learned of the way is kept


def test_steps_are_a_round_trip_apart_and_count_the_shortest_that_was_seen() -> None:
    courtesy = Courtesy()
    courtesy.sampled(0.04, 0.04, 0, 0.0)
    before = courtesy.window
    assert courtesy.sampled(0.3, 0.04, 10**6, 0.02) == before
    courtesy.sampled(0.05, 0.04, 10**6, 0.03)
    assert courtesy.sampled(0.3, 0.04, 10**6, 0.2) > before  # the queue was 10 ms, not 260
    assert courtesy.queue_s == pytest.approx(0.01)
