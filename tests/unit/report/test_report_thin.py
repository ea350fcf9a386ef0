"""What is thinned keeps its ends and extremes, and stays within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.outcome import Series, Span
from sim.report.thin import Stretch, binned, merge_in_image, merge_in_time, thin_series

Merge = Callable[[list[Span], int], tuple[list[Stretch], float]]
steps = st.lists(
    st.tuples(st.floats(0.001, 100, allow_nan=False), st.integers(-1000, 1000)), min_size=1, max_size=300
)


def series_of(parts: list[tuple[float, int]]) -> Series:
    times, now = [], 0.0
    for gap, _ in parts:
        now += gap
        times.append(now)
    return Series(tuple(times), tuple(float(v) for _, v in parts))


@given(steps, st.integers(8, 100))
def test_a_thinned_series_keeps_ends_and_extremes_and_invents_nothing(
    parts: list[tuple[float, int]], most: int
) -> None:
    series = series_of(parts)
    thin = thin_series(series, most)
    points = list(zip(thin.times, thin.values, strict=True))
    assert set(points) <= set(zip(series.times, series.values, strict=True))
    assert (points[0], points[-1]) == (
        (series.times[0], series.values[0]),
        (series.times[-1], series.values[-1]),
    )
    assert (max(thin.values), min(thin.values)) == (max(series.values), min(series.values))
    assert len(points) <= max(8, most)
    assert list(thin.times) == sorted(thin.times)


def test_a_short_series_stays_as_it_is() -> None:
    series = Series((0.0, 1.0, 2.0), (1.0, 5.0, 0.0))
    assert thin_series(series, 3) is series


def test_a_long_series_is_thinned_to_a_peak_of_one_point() -> None:
    values = [1.0] * 10_000
    values[7321] = 99.0
    thin = thin_series(Series(tuple(map(float, range(10_000))), tuple(values)), 100)
    assert (7321.0, 99.0) in zip(thin.times, thin.values, strict=True)
    assert len(thin.times) <= 100


@given(steps, st.integers(1, 50))
def test_means_add_up_to_the_whole_and_peaks_stay(parts: list[tuple[float, int]], count: int) -> None:
    series = series_of(parts)
    until = series.times[-1] * 1.25
    found = binned(series, until, count)
    ends = [*series.times, until]
    whole = sum(v * (b - a) for v, (a, b) in zip(series.values, pairwise(ends), strict=True))
    got = sum(mean * (end - begin) for begin, end, mean, _ in found)
    assert got == pytest.approx(whole, abs=1e-6 * sum(abs(v) for v in series.values) * until + 1e-9)
    assert max(most for *_, most in found) == max(0.0, *series.values)
    assert len(found) == count


def test_a_part_that_begins_with_a_step_does_not_show_what_was_before() -> None:
    assert binned(Series((0.0, 5.0), (8.0, 2.0)), 10.0, 2) == [(0.0, 5.0, 8.0, 8.0), (5.0, 10.0, 2.0, 2.0)]


def spans(count: int) -> list[Span]:
    return [
        Span(f"d{n % 3}", ("fetched", "rode")[n % 2], n * 1.0, n + 0.5, n * 100, n * 100 + 50, f"s{n % 2}")
        for n in range(count)
    ]


def test_few_spans_are_not_joined() -> None:
    found, gap = merge_in_time(spans(10), 10)
    assert (len(found), gap) == (10, 0.0)
    assert all(s.spans == 1 for s in found)


@pytest.mark.parametrize("merge", [merge_in_time, merge_in_image])
def test_many_spans_are_joined_within_the_bound_and_lose_neither_ends_nor_bytes(
    merge: Merge,
) -> None:
    before = spans(5000)
    found, gap = merge(before, 60)
    assert 6 <= len(found) <= 60
    assert gap > 0
    for key in {(s.device, s.what) for s in before}:
        was = [s for s in before if (s.device, s.what) == key]
        now = [s for s in found if (s.device, s.what) == key]
        assert min(s.since_s for s in now) == min(s.since_s for s in was)
        assert max(s.until_s for s in now) == max(s.until_s for s in was)
        assert (min(s.start for s in now), max(s.stop for s in now)) == (was[0].start, was[-1].stop)
        assert sum(s.size for s in now) == sum(s.stop - s.start for s in was)
        assert sum(s.spans for s in now) == len(was)


def test_spans_that_touch_are_joined_before_any_gap_is() -> None:
    touching = [Span("a", "rode", n * 1.0, n + 1.0, n, n + 1) for n in range(100)]
    found, gap = merge_in_time(touching, 5)
    assert (len(found), gap) == (1, 0.0)
    assert (found[0].since_s, found[0].until_s) == (0.0, 100.0)


def test_no_bound_joins_devices_or_ways_of_getting_there() -> None:
    found, _ = merge_in_time(spans(600), 1)
    assert {(s.device, s.what) for s in found} == {(s.device, s.what) for s in spans(600)}
    assert len(found) == 6
