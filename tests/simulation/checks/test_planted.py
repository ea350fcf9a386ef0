"""A bug of each kind is planted: the soak finds it in a bounded number of runs and says which rule broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from p2p.content.limits import KIB
from sim.checks.random_scenario import random_scenario
from sim.runs.shrink import shrink
from sim.runs.soak import breaks, run_soak
from sim.scenario.model import NO_BASE, Fault, FaultKind, Manner, Scenario, SiteSize, SizeKind
from sim.world.run import Seams
from tests.simulation.checks import planted

RUNS_MAX = 25

Occasion = Callable[[Scenario], Scenario]
"""Gives a random scenario what a bug needs to show: without it the soak finds it too, but not as soon."""


def test_a_skipped_digest_check_is_found() -> None:
    seed = _found("unverified-stored", _with(Manner.POISON), planted.TRUSTING)
    assert not _broken("unverified-stored", seed, _with(Manner.POISON))


def test_a_lease_that_never_expires_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.lease_that_never_expires(monkeypatch)
    seed = _found("waiting", _with(Manner.GREEDY))
    monkeypatch.undo()
    assert not _broken("waiting", seed, _with(Manner.GREEDY))


def test_half_finished_nodes_that_wait_for_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.waiting_in_a_circle(monkeypatch)
    seed = _found("waiting", _thin)
    monkeypatch.undo()
    assert not _broken("waiting", seed, _thin)


def test_a_ledger_that_forgets_retries_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.ledger_that_forgets_retries(monkeypatch)
    seed = _found("wan-ledger", _cut)
    monkeypatch.undo()
    assert not _broken("wan-ledger", seed, _cut)


def test_what_was_found_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.ledger_that_forgets_retries(monkeypatch)
    seed = _found("wan-ledger", _cut)
    scenario = _scenario(seed, _cut)
    first = [v for v in run_soak(scenario, seed).violations if v.check == "wan-ledger"]
    small = shrink(scenario, lambda s: breaks(s, seed, first), tries_max=40)
    assert small.tries <= 40
    assert len(small.scenario.faults) <= len(scenario.faults)
    assert small.scenario != scenario
    assert breaks(small.scenario, seed, first)
    monkeypatch.undo()
    assert not breaks(small.scenario, seed, first)


def _found(check: str, occasion: Occasion, seams: Seams | None = None) -> int:
    """The first seed whose run breaks the check."""
    for seed in range(RUNS_MAX):
        if any(v.check == check for v in run_soak(_scenario(seed, occasion), seed, seams).violations):
            return seed
    raise AssertionError(f"{RUNS_MAX} runs and no {check}")


def _broken(check: str, seed: int, occasion: Occasion) -> bool:
    """Whether the check breaks without the bug, too."""
    return any(v.check == check for v in run_soak(_scenario(seed, occasion), seed).violations)


def _scenario(seed: int, occasion: Occasion) -> Scenario:
    return occasion(random_scenario(seed, small=True))


def _with(manner: Manner) -> Occasion:
    """One device of each site is hostile."""

    def occasion(scenario: Scenario) -> Scenario:
        return replace(_thin(scenario), faults=(Fault(FaultKind.HOSTILE, manner=manner),))

    return occasion


def _thin(scenario: Scenario) -> Scenario:
    """Nothing goes wrong; four devices per site need all of the image, which takes long, in many parts."""
    sites = tuple(
        replace(
            site,
            size=SiteSize(SizeKind.FIXED, 4, 4),
            wan=replace(site.wan, rate=30_000.0) if site.wan is not None else None,
        )
        for site in scenario.sites
    )
    classes = tuple(replace(c, bases={NO_BASE: 1.0}) for c in scenario.classes)
    policy = replace(scenario.policy, gateways_max=2, run_bytes=64 * KIB, stripe_bytes=128 * KIB)
    return replace(scenario, sites=sites, classes=classes, policy=policy, faults=())


def _cut(scenario: Scenario) -> Scenario:
    """Transfers are cut again and again."""
    cuts = Fault(FaultKind.CUT, at_s=3.0, every_s=4.0, until_s=120.0)
    return replace(_thin(scenario), faults=(cuts,))
