"""What a site does where other things than bytes over the WAN are worth something, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm.cost import USUAL, Weights
from p2p.swarm.policy import Policy
from sim.outcome import RunOutcome
from sim.scenario.model import DeltaSpec, DeviceClass, Scenario, SyntheticRelease
from sim.world import World
from tests.simulation.world.scenes import SIZE, depot

ONE, MANY = SIZE // 16, SIZE // 12
"""Bytes of the delta that one device can use, and of the larger one for all others."""


def mixed(weights: Weights) -> Scenario:
    alone = DeviceClass("alone", {"old": 1.0}, reboot_s=5.0)
    others = DeviceClass("others", {"older": 1.0}, reboot_s=5.0)
    deltas = DeltaSpec("old", ONE), DeltaSpec("older", MANY)
    scene = depot(devices=8, release=SyntheticRelease("v2", SIZE, SIZE, deltas))
    (group,) = scene.sites
    site = replace(group, classes={"alone": 0.125, "others": 0.875})
    return replace(scene, classes=(alone, others), sites=(site,), policy=Policy(cost=weights))


def run(weights: Weights) -> tuple[RunOutcome, int]:
    """And what crossed the WAN of frames."""
    scene = mixed(weights)
    world = World(scene, 4)
    outcome = world.run()
    assert {d.klass.name for d in world.honest} == {"alone", "others"}
    assert {d.state for d in outcome.devices} == {"committed"}
    return outcome, sum(d.frames_wan for d in outcome.devices)


def test_as_a_rule_the_smallest_pack_crosses_the_wan_whatever_the_lan_carries() -> None:
    outcome, wan = run(USUAL)
    assert wan == pytest.approx(ONE, rel=0.02)
    assert outcome.sites[0].lan_bytes > 4 * SIZE


def test_where_the_lan_is_dear_a_larger_pack_that_more_can_use_does() -> None:
    outcome, wan = run(Weights(lan_gb=1e8))
    assert wan == pytest.approx(MANY, rel=0.02)
    assert outcome.sites[0].lan_bytes < 3 * SIZE
