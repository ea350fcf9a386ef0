"""Hundreds of short random runs, held to every rule: the same seeds each time, and fresh ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2p.swarm.visitors import Visitors
from sim.checks.bounds import time_needed_s
from sim.checks.checked import run_checked
from sim.checks.random_scenario import random_scenario
from sim.outcome import RunOutcome
from sim.runs.soak import run_soak
from sim.scenario.reading import parse_scenario
from sim.scenario.writing import scenario_text
from sim.world import run

BATCHES = 10
BATCH = 10
VAN = 9
"""The seed of a scenario with a van."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_pinned_seeds_with_faults(batch: int) -> None:
    _hold(range(batch * BATCH, (batch + 1) * BATCH), faults=True)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_pinned_seeds_without_faults(batch: int) -> None:
    _hold(range(batch * BATCH, (batch + 1) * BATCH), faults=False)


@pytest.mark.parametrize("faults", [True, False])
@pytest.mark.parametrize("batch", range(BATCHES))
def test_pinned_seeds_of_awkward_sites(batch: int, faults: bool) -> None:
    _hold(range(batch * BATCH, (batch + 1) * BATCH), faults=faults, awkward=True)


@pytest.mark.parametrize("faults", [True, False])
@pytest.mark.parametrize("batch", range(BATCHES // 2))
def test_pinned_seeds_of_vans(batch: int, faults: bool) -> None:
    """A third of these have a van, half of those one that runs nothing of what it brings."""
    _hold(range(batch * BATCH, (batch + 1) * BATCH), faults=faults, awkward=True, carriers=True)


def test_a_place_that_a_van_visits_in_vain_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its devices ask the van for nothing."""
    scenario = random_scenario(VAN, faults=False, small=True, awkward=True, carriers=True)
    assert run_soak(scenario, VAN).violations == ()
    monkeypatch.setattr(Visitors, "next", lambda *_: None)
    assert {v.check for v in run_soak(scenario, VAN).violations} == {"unfinished"}


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        # A far device that had just become complete was doubted for the time that it had taken.
        (8, False),
        # Alone, beside a greedy peer: nothing was left of its own pack that its base could make.
        (1071, True),
        # After a restart two segments did not find each other, as the roster was forgotten.
        (50000001, False),
        # Word of leases and of their ends waited behind pieces on a slow network: two fetched the same.
        (70000318, False),
        # And the site's budget was divided among too few for seconds.
        (70000462, False),
        (70000554, False),
        # Who had copied of a damaged base refused what it had offered, and was passed over in all.
        (70000005, True),
        (70000135, True),
        # Those of a phase were not connected with each other, and nobody between them was at the image.
        (70000028, False),
        (70000466, False),
        # A device that had gone on to the next image was not told what others still fetched of the last.
        (70000344, False),
        # Large patches took seconds to come to those between: who was further away fetched them again.
        (70000523, False),
        # A network slower than the WAN: a piece of megabytes was silence, and held up word of leases.
        (30000333, False),
        (50000061, False),
        (50000061, True),
        # What was asked of one that had fetched another pack counted as fetched, and its own frames no more.
        (80000074, False),
        (80000160, False),
        # A budget was divided anew, and nothing happened that had the rule look at it again.
        (81000623, True),
        # A full disk before the install: the others could use no patch of what the device had fetched.
        (81000050, True),
        # A network slower than the WAN: word of a lease waited behind a chunk; of two fetches none yielded.
        (81001287, True),
        # A vehicle left its stop while a small request waited behind another: the run broke down.
        (81100326, True),
        # All are metered: only those that nobody but the roster knew were to be told of, so none was.
        (81100424, True),
        # A chunk of each frame was missing, and what frames would still cost was told by chunks.
        (81200057, True),
        (81200158, True),
        # On its own with a damaged base: the fetch that mended it counted for the way along the full pack.
        (81200058, True),
    ],
)
def test_awkward_sites_that_went_wrong(seed: int, faults: bool) -> None:
    assert run_soak(random_scenario(seed, faults=faults, awkward=True), seed).violations == ()


@pytest.mark.parametrize("awkward", [True, False])
@pytest.mark.parametrize("faults", [True, False])
def test_fresh_seeds(faults: bool, awkward: bool) -> None:
    first = random.SystemRandom().randrange(10**9)
    _hold(range(first, first + BATCH), faults=faults, awkward=awkward, carriers=awkward)


@pytest.mark.parametrize("seed", range(0, 400, 20))
def test_random_scenarios_can_be_written_and_read(seed: int) -> None:
    for faults, awkward, carriers in ((True, False, False), (False, False, False), (True, True, True)):
        scenario = random_scenario(seed, faults=faults, awkward=awkward, carriers=carriers)
        text = scenario_text(scenario)
        assert parse_scenario(text.encode(), source="random", directory=Path("/")) == scenario
        assert scenario == random_scenario(seed, faults=faults, awkward=awkward, carriers=carriers)
        assert scenario.duration_s >= time_needed_s(scenario)
        assert bool(scenario.faults) == faults


def test_watching_changes_nothing() -> None:
    for seed in range(6):
        scenario = random_scenario(seed, small=True)
        watched, alone = run_checked(scenario, seed), run(scenario, seed)
        assert _what_happened(watched) == _what_happened(alone)


def _what_happened(outcome: RunOutcome) -> tuple[object, ...]:
    return outcome.trace_digest, outcome.events, outcome.devices, outcome.sites


def _hold(seeds: range, *, faults: bool, awkward: bool = False, carriers: bool = False) -> None:
    """Run all; of those that break a rule, tell what repeats them."""
    broken = []
    for seed in seeds:
        scenario = random_scenario(seed, faults=faults, small=True, awkward=awkward, carriers=carriers)
        for violation in run_soak(scenario, seed).violations[:1]:
            broken.append(
                f"random_scenario({seed}, faults={faults}, small=True, awkward={awkward}, "
                f"carriers={carriers}): "
                f"{violation.check} at {violation.at_s:.1f} s, {violation.device or violation.site}: "
                f"{violation.message}"
            )
    assert not broken, "\n".join(broken)
