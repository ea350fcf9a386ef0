"""What the devices of a site may fetch together, however many of them fetch."""

from __future__ import annotations

import pytest

from p2p.content.limits import MIB
from p2p.swarm import events as e
from sim.checks.checked import Checks, run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import Fault, FaultKind, Lan, Wan, Who
from sim.world import Seams
from sim.world.device import Device
from tests.simulation.world.scenes import RATE, SIZE, depot, release

BUDGET = RATE / 4
IDEAL_S = SIZE / BUDGET


def latest(outcome: RunOutcome) -> float:
    return max(d.finished_s or 0.0 for d in outcome.devices)


@pytest.mark.parametrize("devices", [1, 4, 8, 24])
def test_a_site_keeps_to_its_budget_and_uses_it(devices: int) -> None:
    checks = Checks()
    outcome = run_checked(depot(devices=devices, wan=Wan(RATE, budget=BUDGET)), 1, checks=checks)
    assert outcome.violations == ()
    assert {d.state for d in outcome.devices} == {"committed"}
    assert checks.budget.worst_s <= 0.3
    assert IDEAL_S <= latest(outcome) <= 1.25 * IDEAL_S + 15
    assert outcome.amplification is not None
    assert outcome.amplification <= 1.05


def test_without_a_budget_the_link_is_the_limit() -> None:
    assert latest(run_checked(depot(devices=8), 1)) < 0.6 * IDEAL_S


def test_news_that_goes_from_node_to_node_is_soon_enough() -> None:
    """Forty devices with eight connections each: who fetches is heard of from others."""
    checks = Checks()
    scene = depot(
        devices=40, wan=Wan(RATE, budget=BUDGET), lan=Lan(degree_max=8), release=release(size=16 * MIB)
    )
    outcome = run_checked(scene, 3, checks=checks)
    assert outcome.violations == ()


def test_a_gateway_that_dies_leaves_its_part_to_the_others() -> None:
    fault = Fault(FaultKind.CRASH, IDEAL_S / 2, 600.0, who=Who.GATEWAY)
    outcome = run_checked(depot(fault, devices=8, wan=Wan(RATE, budget=BUDGET)), 1)
    assert outcome.violations == ()
    done = sorted(d.finished_s or 0.0 for d in outcome.devices)
    assert done[-2] <= 1.6 * IDEAL_S + 30


def test_devices_that_take_all_of_it_each_are_found() -> None:
    """The rule sees the sum."""

    class Greedy(Device):
        def feed(self, event: e.Event) -> None:
            self._do[e.WanShared] = lambda _: None
            super().feed(event)

    outcome = run_checked(depot(devices=8, wan=Wan(RATE, budget=BUDGET)), 1, seams=Seams(make_device=Greedy))
    assert [v.check for v in outcome.violations] == ["site-budget"]
