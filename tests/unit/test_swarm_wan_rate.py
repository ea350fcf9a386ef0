"""How quickly frames come, as a node knows it."""

from __future__ import annotations

from p2p.swarm.wan_rate import SPAN_S, WanRate
from tests.support.swarm_context import make_context


def test_a_fetch_that_was_whole_before_it_could_be_measured_says_how_slow_frames_are_not() -> None:
    rate = WanRate(make_context())
    rate.began()
    assert rate.unknown
    rate.fetched(1_000_000, 0.1)
    rate.fetched(1_000, 0.1)
    assert rate.slowest(other_min=0) == 1_000_000 / SPAN_S
    assert rate.unknown, "others may still show it"


def test_what_was_measured_counts_more_than_what_a_short_fetch_says() -> None:
    context = make_context()
    rate = WanRate(context)
    rate.began()
    context.now = SPAN_S
    rate.moved(int(SPAN_S * 4_000_000))
    rate.fetched(1_000_000, 0.1)
    assert rate.slowest(other_min=0) == 4_000_000


def test_a_short_fetch_of_little_makes_nobody_wait_longer_than_who_knows_nothing() -> None:
    rate = WanRate(make_context())
    rate.fetched(2_000, 0.1)
    assert rate.slowest(other_min=5_000) == 5_000
    rate.fetched(1_000_000, 0.1)
    assert rate.slowest(other_min=5_000) == 1_000_000 / SPAN_S
