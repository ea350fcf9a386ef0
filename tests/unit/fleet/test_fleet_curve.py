"""Curves of links: closed forms, inverses, windows and outages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.swarm.allowance import DailyWindow
from p2p.swarm.courtesy import SHARE_MIN
from sim.fleet.curve import Curve, of_wan, reached_rate, visits
from sim.scenario.model import Outage, Stop, Traffic, Wan

HOUR = 3600.0


def test_a_constant_rate_is_size_over_rate() -> None:
    curve = of_wan(Wan(1000.0), starts_of_day=0.0, horizon_s=1e6)
    assert curve.finish(np.array([5.0]), np.array([2000.0])) == pytest.approx([7.0])


def test_a_window_interrupts_and_goes_on_the_next_night() -> None:
    wan = Wan(1.0, windows=(DailyWindow(22 * HOUR, 6 * HOUR),))
    curve = of_wan(wan, starts_of_day=0.0, horizon_s=10 * 24 * HOUR)
    # From midnight six hours are open, then nothing until 22:00.
    assert curve.finish(np.array([0.0]), np.array([6 * HOUR + 10])) == pytest.approx([22 * HOUR + 10])
    assert curve.finish(np.array([12 * HOUR]), np.array([1.0])) == pytest.approx([22 * HOUR + 1])


def test_the_run_starts_at_its_time_of_day() -> None:
    wan = Wan(1.0, windows=(DailyWindow(22 * HOUR, 6 * HOUR),))
    curve = of_wan(wan, starts_of_day=21 * HOUR, horizon_s=24 * HOUR)
    assert curve.finish(np.array([0.0]), np.array([1.0])) == pytest.approx([HOUR + 1])


def test_outages_carry_nothing_again_and_again() -> None:
    wan = Wan(1.0, outages=(Outage(10.0, 5.0, every_s=20.0),))
    curve = of_wan(wan, starts_of_day=0.0, horizon_s=1000.0)
    assert curve.finish(np.array([0.0, 0.0]), np.array([10.0, 26.0])) == pytest.approx([10.0, 36.0])


def test_beside_other_traffic_a_part_of_the_link_is_left() -> None:
    busy = (Traffic(10.0, 10.0, every_s=100.0),)
    left, shared = (
        of_wan(Wan(10.0, traffic=busy, gives_way=gives_way), starts_of_day=0.0, horizon_s=1000.0)
        for gives_way in (True, False)
    )
    assert left.work(np.array([10.0, 20.0, 30.0])) == pytest.approx([100.0, 100 + 100 * SHARE_MIN, 210.0])
    assert shared.work(np.array([10.0, 20.0, 30.0, 120.0])) == pytest.approx([100.0, 150.0, 250.0, 1100.0])


def test_a_site_s_budget_bounds_what_its_link_gives() -> None:
    curve = of_wan(Wan(10.0, budget=4.0), starts_of_day=0.0, horizon_s=1000.0)
    assert curve.finish(np.array([0.0]), np.array([40.0])) == pytest.approx([10.0])


def test_a_vehicle_has_the_links_of_its_stops() -> None:
    stops = (Stop(100.0, 50.0, wan=Wan(2.0)), Stop(300.0, 50.0, site="depot"))
    curve = of_wan(None, starts_of_day=0.0, horizon_s=2000.0, stops=stops, every_s=1000.0)
    assert curve.finish(np.array([0.0, 0.0]), np.array([100.0, 102.0])) == pytest.approx([150.0, 1101.0])
    assert [v[0] for v in visits(stops, 1000.0, 2000.0)] == [100.0, 300.0, 1100.0, 1300.0]


def test_what_does_not_fit_before_the_horizon_is_never_done() -> None:
    curve = of_wan(Wan(1.0), starts_of_day=0.0, horizon_s=100.0)
    assert np.isinf(curve.finish(np.array([50.0]), np.array([51.0]))).all()
    assert np.isfinite(curve.finish(np.array([50.0]), np.array([50.0]))).all()


def test_loss_takes_throughput_from_few_transfers_more_than_from_many() -> None:
    wan = Wan(1e6, delay_s=0.1, loss=0.01)
    one, four = reached_rate(wan, 1), reached_rate(wan, 4)
    assert one < four <= 1e6 * 0.99
    assert reached_rate(Wan(1e6), 1) == 1e6


@given(
    rates=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8).filter(lambda r: r[-1] > 1.0),
    work=st.lists(st.floats(1.0, 1e9), min_size=1, max_size=8),
)
def test_when_is_the_inverse_of_work_and_both_rise(rates: list[float], work: list[float]) -> None:
    curve = Curve.of_steps([100.0 * n for n in range(len(rates))], rates)
    wanted = np.sort(np.asarray(work))
    times = curve.when(wanted)
    assert np.all(np.diff(times) >= 0)
    assert curve.work(times) == pytest.approx(wanted, rel=1e-6)
