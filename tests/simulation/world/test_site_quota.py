"""What a site may use of its WAN in a month, whoever fetches, and over restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm.site_quota import STEPS
from sim.checks.checked import Checks, run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import Fault, FaultKind, Scenario, Wan, Who
from sim.world.metering import Meter
from tests.simulation.world.scenes import RATE, SIZE, depot, release

SLOW = RATE / 8
"""What a second brings is noticed a second later, by each device that fetches: little of the quota here."""

LARGE = 4 * SIZE
QUOTA = LARGE // 2


def scene(*faults: Fault, devices: int = 8, month_max: int = QUOTA) -> Scenario:
    wan = Wan(SLOW, month_max=month_max)
    return depot(*faults, devices=devices, wan=wan, release=release(size=LARGE), duration_s=700.0)


def held(subject: Scenario, seed: int = 1) -> RunOutcome:
    outcome = run_checked(subject, seed)
    assert [v for v in outcome.violations if v.check != "unfinished"] == []
    return outcome


def at_most(devices: int) -> float:
    """A step that is not told yet, and what a second brings each device that comes to fetch."""
    return QUOTA * (1 + 1 / STEPS) + devices * SLOW


def used(outcome: RunOutcome) -> int:
    return outcome.sites[0].wan_down + outcome.sites[0].wan_up


@pytest.mark.parametrize("devices", [1, 2, 8, 16])
def test_a_site_uses_its_quota_and_no_more(devices: int) -> None:
    """Gateways hand over when their share is used up; polls go on, and are counted."""
    outcome = held(scene(devices=devices))
    assert {d.state for d in outcome.devices} == {"fetching"}
    assert 0.97 * QUOTA <= used(outcome) <= at_most(devices)


def test_where_the_quota_is_enough_nobody_notices() -> None:
    outcome, free = held(scene(month_max=2 * LARGE)), held(scene(month_max=0))
    assert {d.state for d in outcome.devices} == {"committed"}
    assert used(outcome) <= 1.01 * used(free)


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.RESTART])
def test_restarts_forget_nothing(kind: FaultKind) -> None:
    fault = Fault(kind, 30.0, 5.0, who=Who.GATEWAY, every_s=30.0, until_s=200.0)
    assert used(held(scene(fault))) <= at_most(8)


def test_devices_that_heed_nobody_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule sees the sum."""
    monkeypatch.setattr(Meter, "look", lambda meter: None)
    checks = Checks()
    run_checked(scene(), 1, checks=checks)
    assert [v.check for v in checks.violations if v.check == "site-quota"] == ["site-quota"]


def test_a_quota_is_of_each_site() -> None:
    outcome = held(replace(scene(devices=2), sites=(replace(scene(devices=2).sites[0], count=2),)))
    for site in outcome.sites:
        assert 0.97 * QUOTA <= site.wan_down + site.wan_up <= at_most(2)
