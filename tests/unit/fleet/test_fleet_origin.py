"""The origin's capacity: never exceeded, all of it used while anybody wants it, bytes conserved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p.swarm.allowance import DailyWindow
from sim.fleet.curve import Curve, of_wan
from sim.fleet.origin import Jobs, egress, shared, water_level
from sim.scenario.model import Wan

HORIZON = 10 * 86_400.0


def link(rate: float, *windows: DailyWindow) -> Curve:
    return of_wan(Wan(rate, windows=windows), starts_of_day=0.0, horizon_s=HORIZON)


def jobs(curve: Curve, count: int, work: float, start: float = 0.0) -> Jobs:
    return Jobs(curve, np.full(count, start), np.full(count, work))


def done(groups: list[Jobs], capacity: float) -> list[np.ndarray]:
    curves = shared(groups, capacity, HORIZON)
    return [c.finish(g.start_s, g.work) for c, g in zip(curves, groups, strict=True)]


def test_without_a_limit_nothing_changes() -> None:
    group = jobs(link(100.0), 10, 1000.0)
    assert shared([group], 0.0, HORIZON) == [group.curve]
    assert shared([group], 1000.0, HORIZON) == [group.curve]  # ten links of 100 can just be filled


def test_a_thin_origin_takes_all_bytes_over_its_capacity() -> None:
    (ends,) = done([jobs(link(100.0), 10, 1000.0)], 200.0)
    assert ends == pytest.approx([50.0] * 10)


def test_slow_links_leave_what_they_cannot_use_to_the_others() -> None:
    slow, fast = done([jobs(link(10.0), 5, 100.0), jobs(link(1000.0), 5, 1000.0)], 250.0)
    assert slow == pytest.approx([10.0] * 5)
    # 200 a second are left for the five: 2000 in the first ten seconds, then 250 a second.
    assert fast == pytest.approx([10 + (5000 - 2000) / 250] * 5, rel=1e-3)


def test_a_late_group_meets_an_origin_that_is_free_again() -> None:
    _, late = done([jobs(link(100.0), 4, 1000.0), jobs(link(100.0), 1, 1000.0, start=5000.0)], 100.0)
    assert late == pytest.approx([5010.0])


def test_windows_and_a_limit_together() -> None:
    night = DailyWindow(0.0, 3600.0)
    (ends,) = done([jobs(link(10.0, night), 10, 9000.0)], 50.0)
    assert ends == pytest.approx([1800.0] * 10)
    (ends,) = done([jobs(link(10.0, night), 10, 27_000.0)], 50.0)
    assert ends == pytest.approx([86_400.0 + 1800.0] * 10)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), min_size=1, max_size=6), st.floats(1, 1000))
def test_the_water_level_is_max_min_fair(links: list[tuple[float, int]], capacity: float) -> None:
    rates, counts = [r for r, _ in links], [n for _, n in links]
    level = water_level(rates, counts, capacity)
    used = sum(min(r, level) * n for r, n in links)
    assert used <= capacity * (1 + 1e-9)
    wanted = sum(r * n for r, n in links)
    assert used == pytest.approx(min(capacity, wanted), rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@example([(1.0, 1, 10.0, 0.0), (1.0, 1, 10.0, 2.0), (5.0, 1, 11.0, 1.0)], 5.0)  # starts one after the other
@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.integers(1, 20), st.floats(10, 5000), st.floats(0, 500)),
        min_size=1,
        max_size=4,
    ),
    st.floats(5, 500),
)
def test_bytes_are_conserved_and_the_capacity_holds(
    groups: list[tuple[float, int, float, float]], capacity: float
) -> None:
    made = [jobs(link(rate), count, work, start) for rate, count, work, start in groups]
    curves = shared(made, capacity, HORIZON)
    after = [Jobs(c, g.start_s, g.work) for c, g in zip(curves, made, strict=True)]
    times = np.linspace(0.0, HORIZON, 2000)
    out = egress(after, times)
    assert out[-1] == pytest.approx(sum(float(g.work.sum()) for g in made), rel=1e-6)
    fine = np.linspace(0.0, 2000.0, 4000)
    rates = np.diff(egress(after, fine)) / np.diff(fine)
    # Within a step of the fluid, sites that end leave their part unused: never the other way round.
    assert rates.max(initial=0.0) <= capacity * 1.02 + 1e-6
    for c, g in zip(curves, made, strict=True):
        assert np.all(c.finish(g.start_s, g.work) >= g.curve.finish(g.start_s, g.work) - 1e-6)
