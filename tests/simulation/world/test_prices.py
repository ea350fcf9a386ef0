"""Devices of one site whose uplinks cost different prices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import NO_BASE, DeltaSpec, DeviceClass, Fault, FaultKind, Scenario, SyntheticRelease
from sim.world import World
from tests.simulation.world.scenes import SIZE, depot

DELTA = SIZE // 4


def mixed(
    *faults: Fault, cheap: float = 0.01, dear: float = 4.0, cheap_base: str = "old", devices: int = 8
) -> Scenario:
    """Half of the devices are on a cheap uplink (0: they say no price)."""
    classes = (
        DeviceClass("cheap", {cheap_base: 1.0}, reboot_s=5.0, wan_price_per_mb=cheap),
        DeviceClass("dear", {"old": 1.0}, reboot_s=5.0, wan_price_per_mb=dear),
    )
    scene = depot(
        *faults, devices=devices, release=SyntheticRelease("v2", SIZE, SIZE, (DeltaSpec("old", DELTA),))
    )
    site = replace(scene.sites[0], classes={"cheap": 0.5, "dear": 0.5})
    return replace(scene, classes=classes, sites=(site,))


def run(scene: Scenario, seed: int) -> tuple[RunOutcome, dict[str, int]]:
    """And bytes of frames, by class."""
    outcome = run_checked(scene, seed)
    assert outcome.violations == ()
    by = {"cheap": 0, "dear": 0}
    for device in outcome.devices:
        by[device.device_class] += device.frames_wan
    return outcome, by


@pytest.mark.parametrize("seed", range(4))
def test_devices_on_the_cheaper_uplink_fetch(seed: int) -> None:
    outcome, by = run(mixed(), seed)
    assert {d.state for d in outcome.devices} == {"committed"}
    assert by["dear"] == 0
    assert by["cheap"] == pytest.approx(DELTA, rel=0.02)


def test_without_prices_both_do() -> None:
    found = [run(mixed(cheap=0.0, dear=0.0), seed)[1] for seed in range(4)]
    assert any(by["dear"] for by in found)
    assert any(by["cheap"] for by in found)


def test_a_larger_pack_crosses_the_cheaper_uplink_while_that_costs_less() -> None:
    """The full pack is four times as large."""
    _, by = run(mixed(cheap=0.1, dear=1.0, cheap_base=NO_BASE), 1)
    assert (by["cheap"], by["dear"]) == (pytest.approx(SIZE, rel=0.02), 0)
    _, by = run(mixed(cheap=0.5, dear=1.0, cheap_base=NO_BASE), 1)
    assert (by["cheap"], by["dear"]) == (0, pytest.approx(DELTA, rel=0.02))


def test_the_dear_ones_take_over_when_no_other_is_left() -> None:
    scene = mixed()
    world = World(scene, 2)
    gone = [d for d in world.honest if d.klass.name == "cheap"]
    for device in gone:
        world.kernel.at(1.5, device.leave)
    world.run()
    left = [d for d in world.honest if d not in gone]
    assert left and {d.agent.state for d in left} == {"committed"}
    assert sum(d.frames_wan for d in left) > 0


def test_cheap_devices_whose_wan_is_down_cost_a_while_and_no_update() -> None:
    outcome, _ = run(mixed(Fault(FaultKind.WAN_DOWN, 5.0, 60.0)), 1)
    assert {d.state for d in outcome.devices} == {"committed"}


def test_the_bill_is_by_each_ones_own_price() -> None:
    outcome, _ = run(mixed(), 1)
    prices = {"cheap": 0.01, "dear": 4.0}
    paid = sum(d.wan_bytes * prices[d.device_class] / 1e6 for d in outcome.devices)
    assert outcome.sites[0].money == pytest.approx(paid)
