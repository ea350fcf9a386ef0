"""Others' traffic on a site's WAN: devices leave the link to it, and finish when they can."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm.courtesy import SHARE_MIN
from sim.checks.checked import Checks, run_checked
from sim.checks.random_scenario import random_scenario
from sim.outcome import RunOutcome
from sim.scenario.model import Scenario, Traffic, Wan
from sim.world import World
from tests.simulation.world.scenes import RATE, SIZE, depot

IDEAL_S = SIZE * 1.047 / RATE
BUSY_S = 60.0


def scene(*, gives_way: bool = True, every_s: float = 0.0, at_s: float = 2.0) -> Scenario:
    traffic = (Traffic(at_s, BUSY_S, every_s),)
    return depot(devices=6, wan=Wan(RATE, traffic=traffic, gives_way=gives_way))


def latest(outcome: RunOutcome) -> float:
    return max(d.finished_s or 0.0 for d in outcome.devices)


def others(scenario: Scenario) -> tuple[float, RunOutcome]:
    """What the others got of the link while they were there, and the outcome."""
    world = World(scenario, 1)
    outcome = world.run()
    traffic = next(iter(world.sites.values())).uplinks[0].traffic
    assert traffic is not None
    return traffic.carried / (BUSY_S * RATE), outcome


def test_devices_leave_the_link_to_others_and_take_it_when_they_have_gone() -> None:
    share, outcome = others(scene())
    assert share >= 0.95 * (1 - SHARE_MIN)
    assert {d.state for d in outcome.devices} == {"committed"}
    assert outcome.amplification is not None
    assert outcome.amplification <= 1.05
    assert latest(outcome) <= 2 + BUSY_S + IDEAL_S + 15


def test_devices_that_do_not_give_way_take_their_share() -> None:
    """Two gateways with two transfers each are four connections beside one."""
    share, outcome = others(scene(gives_way=False))
    yielded, later = others(scene())
    assert share < yielded - 0.3
    assert latest(outcome) < latest(later)


def test_a_link_that_others_use_now_and_then_is_used_between() -> None:
    outcome = run_checked(scene(every_s=2 * BUSY_S, at_s=0.0), 1)
    assert {d.state for d in outcome.devices} == {"committed"}


def test_without_others_all_is_as_it_was() -> None:
    calm, also = (
        World(depot(devices=6), 1).run(),
        World(depot(devices=6, wan=Wan(RATE, queue_s=0.5)), 1).run(),
    )
    assert calm.trace_digest == also.trace_digest


@pytest.mark.parametrize("seed", [0, 1, 2, 8, 14, 17])
def test_random_sites_on_a_link_that_is_nearly_always_busy_keep_every_rule(seed: int) -> None:
    """In seed 2 leases were taken for dead, and paid for again, when next to nothing was left to updates."""
    scenario = random_scenario(seed, faults=False)
    traffic = (Traffic(5.0 * (seed % 3), 290.0, 300.0),)
    sites = tuple(
        group if group.wan is None else replace(group, wan=replace(group.wan, traffic=traffic))
        for group in scenario.sites
    )
    checks = Checks()
    outcome = run_checked(replace(scenario, sites=sites), seed, checks=checks)
    assert outcome.violations == ()
    assert checks.amplification is not None
    assert checks.amplification <= 1.1
