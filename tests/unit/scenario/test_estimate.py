"""What a run will need, and the refusal to start one that cannot have it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sim_memory import scenario_of
from p2p.errors import OperatorError
from sim.runs.one import check_memory, memory_there
from sim.runs.scenarios import named
from sim.scenario.estimate import devices_of, estimate
from sim.scenario.model import SiteSize, SizeKind
from tests.support.scenario_documents import SMALL, read

BENCH_1000_BYTES = 735e6
"""What the process of `slipstream sim run bench-1000` had at its most (4 minutes of one core)."""


def test_the_mean_size_of_a_site() -> None:
    assert devices_of(SiteSize(SizeKind.FIXED, 7, 7)) == 7
    assert devices_of(SiteSize(SizeKind.UNIFORM, 2, 5)) == 3.5
    assert devices_of(SiteSize(SizeKind.LOGNORMAL, 1, 100, 10, 0.5)) == pytest.approx(11.33, abs=0.01)
    assert devices_of(SiteSize(SizeKind.LOGNORMAL, 1, 8, 10, 0.5)) == 8


def test_the_estimate_counts_devices_connections_and_pieces() -> None:
    found = estimate(read(SMALL))
    assert found.devices == 17
    assert found.connections == 2 * 8 * 7
    assert found.pieces == 512
    more = estimate(read(SMALL.replace("count = 2", "count = 20")))
    assert more.memory_bytes > found.memory_bytes
    larger = estimate(read(SMALL.replace('"64 MiB"', '"640 MiB"')))
    assert larger.memory_bytes > found.memory_bytes


def test_a_run_that_needs_too_much_says_so_before_it_starts() -> None:
    scenario = read(SMALL)
    needed = estimate(scenario).memory_bytes
    check_memory(scenario, needed)
    with pytest.raises(OperatorError, match=r"test: 17 devices of real code need about .* GB") as caught:
        check_memory(scenario, needed - 1)
    assert "sim plan" in caught.value.next_step
    check_memory(scenario, 2 * needed, runs=2)
    with pytest.raises(OperatorError, match="2 at once"):
        check_memory(scenario, 2 * needed - 1, runs=2)


def test_a_million_devices_are_not_run_here() -> None:
    scenario = read(SMALL)
    many = dataclasses.replace(scenario.sites[0], count=100_000, size=SiteSize(SizeKind.FIXED, 10, 10))
    with pytest.raises(OperatorError, match="1,000,001 devices"):
        check_memory(dataclasses.replace(scenario, sites=(many, scenario.sites[1])), 64 << 30)


def test_the_estimate_is_no_less_than_what_a_run_takes_and_not_far_more() -> None:
    command = [sys.executable, "-m", "benchmarks.sim_memory", "--here", "2x8x32"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    needed = estimate(scenario_of("2x8x32")).memory_bytes
    assert 0.75 * needed < int(done.stdout) <= needed
    largest = estimate(named("bench-1000")).memory_bytes
    assert 0.75 * largest < BENCH_1000_BYTES <= largest


def test_this_machine_has_memory() -> None:
    there = memory_there()
    assert there is None or there > 1 << 20
