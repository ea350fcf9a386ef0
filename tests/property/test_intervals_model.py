"""`IntervalSet` against a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2p.content.intervals import IntervalSet

RANGES = st.tuples(st.integers(0, 40), st.integers(0, 40))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), RANGES), max_size=30)


@given(STEPS, RANGES)
def test_like_a_set_of_integers(steps: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]) -> None:
    intervals, model = IntervalSet(), set[int]()
    for what, (start, stop) in steps:
        if what == "add":
            assert intervals.add(start, stop) == len(set(range(start, stop)) - model)
            model |= set(range(start, stop))
        else:
            intervals.remove(start, stop)
            model -= set(range(start, stop))
    members = list(intervals)
    assert {i for a, b in members for i in range(a, b)} == model
    assert intervals.total() == len(model)
    assert all(a < b for a, b in members)
    assert all(left[1] < right[0] for left, right in pairwise(members))
    start, stop = asked
    assert intervals.covers(start, stop) == (set(range(start, stop)) <= model)
    gaps = {i for a, b in intervals.gaps(start, stop) for i in range(a, b)}
    assert gaps == set(range(start, stop)) - model
    assert IntervalSet(members) == intervals
