"""The fit finds what is there, never goes below nothing, and the packaged constants are whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ContentError
from sim import world
from sim.fleet.fit import errors, fit, measure, nonnegative, reckoned, sample
from sim.fleet.outcome import ModelError
from sim.fleet.parameters import Parameters, fitted
from sim.fleet.training import training_scenario
from tests.unit.fleet.fleets import plain


@given(st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3), st.integers(0, 1000))
def test_exact_values_give_back_their_coefficients(truth: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(0.1, 10.0, (30, 3))
    values = matrix @ np.asarray(truth) + 1e-9
    assert nonnegative(matrix, values) == pytest.approx(truth, rel=1e-3, abs=1e-3)


@given(st.integers(0, 1000))
def test_no_coefficient_is_below_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = nonnegative(rng.uniform(0, 1, (20, 4)), rng.normal(1.0, 2.0, 20) ** 2 + 0.01)
    assert np.all(found >= 0)


def test_a_site_far_off_does_not_bend_the_rest() -> None:
    matrix = np.stack([np.linspace(1, 10, 40), np.ones(40)], axis=1)
    values = matrix @ np.array([2.0, 5.0])
    values[7] *= 20
    assert nonnegative(matrix, values) == pytest.approx([2.0, 5.0], rel=0.05)


def test_constants_survive_json_and_others_are_refused() -> None:
    assert Parameters.from_json(plain().to_json()) == plain()
    for broken in ({}, plain().to_json() | {"version": 0}, plain().to_json() | {"time": {}}):
        with pytest.raises(ContentError):
            Parameters.from_json(broken)


def test_the_packaged_constants_state_their_error_and_where_they_came_from() -> None:
    error = fitted().error
    assert isinstance(error, ModelError)
    assert error.held_out >= 30
    assert error.command.startswith("python -m benchmarks.fleet_model")
    assert error.seeds >= 5
    for in_bytes, in_time in ((error.bytes_once, error.time_once), (error.bytes_mean, error.time_mean)):
        assert 0 < in_bytes.median <= in_bytes.p90 <= 0.03
        assert 0 < in_time.median <= in_time.p90 <= in_time.worst <= 0.15
    assert error.bytes_once.worst <= 0.03


def test_the_packaged_constants_hold_for_runs_of_the_real_code() -> None:
    """Small sites that nothing was fitted to, run here and now: the code has not run away from the fit."""
    seeds = [s for s in range(200_000, 200_060) if training_scenario(s).sites[0].size.low <= 4][:6]
    samples = [sample(training_scenario(s), world.run(training_scenario(s), s)) for s in seeds]
    found = fitted()
    in_bytes = sorted(abs(errors([s], found)[0]) for s in samples)
    in_time = sorted(abs(errors([s], found)[1]) for s in samples)
    assert in_bytes[len(seeds) // 2] <= 0.03
    assert in_time[len(seeds) // 2] <= 0.15
    again = fit(samples, "here")
    sites = {seed: [one] for seed, one in zip(seeds, samples, strict=True)}
    error = measure(sites, again)
    assert error.bytes_once == error.bytes_mean and error.time_once == error.time_mean and error.seeds == 1
    off = error.bytes_once
    assert off.median <= 0.03 and off.median <= off.p90 <= off.worst
    assert abs(errors(sites[off.worst_seed], again)[0]) == pytest.approx(off.worst, abs=1e-4)


def test_the_mean_of_runs_is_held_against_the_mean_of_the_model() -> None:
    scenario = training_scenario(200_000)
    runs = [sample(scenario, world.run(scenario, seed)) for seed in (1, 2)]
    found = fitted()
    by_hand = [sum(reckoned(r, found)[n] for r in runs) for n in (0, 1)]
    assert errors(runs, found)[0] == pytest.approx(by_hand[0] / sum(r.down + r.up for r in runs) - 1)
    assert errors(runs, found)[1] == pytest.approx(by_hand[1] / sum(r.seconds for r in runs) - 1)
