"""Devices that share a link without sharing content."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.fleet.queue import COLUMNS, in_turn, processor_sharing


def offsets(*sizes: int) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(sizes)))


def test_equal_jobs_end_together_after_all_their_work() -> None:
    done = processor_sharing(offsets(4), np.zeros(4), np.full(4, 10.0))
    assert done == pytest.approx([40.0] * 4)


def test_smaller_jobs_end_first() -> None:
    done = processor_sharing(offsets(2), np.zeros(2), np.array([30.0, 10.0]))
    assert done == pytest.approx([40.0, 20.0])


def test_a_late_job_takes_its_part_from_then_on() -> None:
    # Alone for 10, then both at half rate: the first has 10 left, done at 30; the second 10 of 20 by then.
    done = processor_sharing(offsets(2), np.array([0.0, 10.0]), np.array([20.0, 20.0]))
    assert done == pytest.approx([30.0, 40.0])


def test_a_gap_between_two_jobs_is_idle() -> None:
    assert processor_sharing(offsets(2), np.array([0.0, 100.0]), np.array([5.0, 5.0])) == pytest.approx(
        [5.0, 105.0]
    )


def test_jobs_that_never_arrive_take_nothing() -> None:
    done = processor_sharing(offsets(2, 1), np.array([0.0, np.inf, np.inf]), np.array([5.0, 5.0, 1.0]))
    assert done[0] == pytest.approx(5.0)
    assert np.isinf(done[1:]).all()


def test_a_site_over_the_columns_does_all_its_work_in_the_same_time() -> None:
    count = 3 * COLUMNS + 7
    arrival = np.linspace(0.0, 50.0, count)
    done = processor_sharing(offsets(count), arrival, np.ones(count))
    assert done.max() == pytest.approx(count, rel=0.02)


SITES = st.lists(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.5, 50)), min_size=1, max_size=9), min_size=1, max_size=5
)


@given(SITES)
def test_the_server_is_busy_as_long_as_there_is_work(sites: list[list[tuple[float, float]]]) -> None:
    sizes = offsets(*map(len, sites))
    arrival = np.asarray([a for site in sites for a, _ in site])
    work = np.asarray([w for site in sites for _, w in site])
    done = processor_sharing(sizes, arrival, work)
    begins = in_turn(sizes, arrival, work)
    for n in range(len(sites)):
        mine = slice(int(sizes[n]), int(sizes[n + 1]))
        assert done[mine].max() == pytest.approx((begins + work)[mine].max(), rel=1e-6)
    assert np.all(done >= arrival + work - 1e-6)
    spans = sorted(zip(begins.tolist(), work.tolist(), strict=True))
    if len(sites) == 1:
        assert all(a + w <= b + 1e-6 for (a, w), (b, _) in itertools.pairwise(spans))


def test_a_site_where_nobody_comes_is_of_no_concern_to_others() -> None:
    offsets = np.array([0, 2, 4])
    arrival, work = np.array([np.inf, np.inf, 0.0, 1.0]), np.ones(4)
    done = processor_sharing(offsets, arrival, work)
    assert np.isinf(done[:2]).all()
    assert done[2:] == pytest.approx([1.0, 2.0])
