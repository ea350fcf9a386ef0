"""The fit finds what is there, never goes below nothing, and the packaged constants are whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ContentError
from sim import world
from sim.fleet.fit import errors, fit, measure, nonnegative, sample
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
    assert 0 < error.bytes_median <= 0.03
    assert 0 < error.time_median <= 0.15


def test_the_packaged_constants_hold_for_runs_of_the_real_code() -> None:
    """Small sites that nothing was fitted to, run here and now: the code has not run away from the fit."""
    seeds = [s for s in range(200_000, 200_060) if training_scenario(s).sites[0].size.low <= 4][:6]
    samples = [sample(training_scenario(s), world.run(training_scenario(s), s)) for s in seeds]
    found = fitted()
    in_bytes = sorted(abs(errors(s, found)[0]) for s in samples)
    in_time = sorted(abs(errors(s, found)[1]) for s in samples)
    assert in_bytes[len(seeds) // 2] <= 0.03
    assert in_time[len(seeds) // 2] <= 0.15
    again = fit(samples, "here")
    error = measure(dict(zip(seeds, samples, strict=True)), again)
    assert error.bytes_median <= 0.03
    assert error.bytes_median <= error.bytes_p90 <= error.bytes_worst
    assert error.time_median <= error.time_p90 <= error.time_worst
    worst = dict(zip(seeds, samples, strict=True))[error.bytes_worst_seed]
    assert abs(errors(worst, again)[0]) == pytest.approx(error.bytes_worst, abs=1e-4)
