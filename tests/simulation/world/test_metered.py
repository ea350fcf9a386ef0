"""Metered devices fetch for their site only if nobody else can, and the site still pays once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm import events as e
from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Order,
    Phase,
    Scenario,
    SyntheticRelease,
    Wan,
)
from sim.world import World
from sim.world.device import Device
from tests.simulation.world.scenes import RATE, SIZE, depot


def mixed(*faults: Fault, free: float = 0.5, devices: int = 8, free_base: str = NO_BASE) -> Scenario:
    """A site where `free` of the devices are not metered. Metered ones have the base `old`."""
    cheap = DeviceClass("cheap", {free_base: 1.0}, reboot_s=5.0)
    dear = DeviceClass("dear", {"old": 1.0}, reboot_s=5.0, metered=True)
    release = SyntheticRelease("v2", SIZE, SIZE, (DeltaSpec("old", SIZE // 16),))
    scene = depot(*faults, devices=devices, release=release, wan=Wan(RATE))
    (group,) = scene.sites
    shares = {"cheap": free, "dear": 1 - free} if 0 < free < 1 else {"cheap" if free else "dear": 1.0}
    return replace(scene, classes=(cheap, dear), sites=(replace(group, classes=shares),))


def frames(scene: Scenario, outcome: RunOutcome, world: World) -> tuple[int, int]:
    """Bytes of frames that came over the WAN of metered devices, and of all others."""
    by = {True: 0, False: 0}
    for device in world.honest:
        by[device.klass.metered] += device.frames_wan
    return by[True], by[False]


@pytest.mark.parametrize("seed", range(4))
def test_metered_devices_fetch_nothing_where_others_can(seed: int) -> None:
    """Not even where their smaller pack would cost fewer bytes: those of the others cost nothing."""
    scene = mixed()
    world = World(scene, seed)
    outcome = world.run()
    assert {d.state for d in outcome.devices} == {"committed"}
    assert len({d.klass.metered for d in world.honest}) == 2
    dear, cheap = frames(scene, outcome, world)
    assert dear == 0
    assert cheap == pytest.approx(SIZE, rel=0.02)


def test_where_all_are_metered_one_of_them_fetches_the_small_pack() -> None:
    scene = mixed(free=0.0)
    world = World(scene, 1)
    outcome = world.run()
    assert {d.state for d in outcome.devices} == {"committed"}
    dear, _ = frames(scene, outcome, world)
    assert dear == pytest.approx(SIZE / 16, rel=0.05)


def test_the_gateways_of_a_metered_site_are_not_always_the_same() -> None:
    firsts = set()
    for n in range(8):
        scene = mixed(free=0.0)
        name = f"v2-{n}"
        scene = replace(
            scene,
            releases=(replace(scene.releases[0], name=name),),
            orders=(Order(name, (Phase(1.0, 0.0),)),),
        )
        world = World(scene, 1)
        world.run()
        firsts.add(max(world.honest, key=lambda d: d.frames_wan).name)
    assert len(firsts) >= 3


def test_metered_devices_take_over_when_nobody_else_can() -> None:
    """The only unmetered device goes for good in the middle."""
    scene = mixed(free=0.5, devices=8)
    world = World(scene, 2)
    cheap = [d for d in world.honest if not d.klass.metered]
    for device in cheap:
        world.kernel.at(4.0, device.leave)
    outcome = world.run()
    rest = [d for d in outcome.devices if d.device not in {c.name for c in cheap}]
    assert {d.state for d in rest} == {"committed"}
    assert frames(scene, outcome, world)[0] > 0


def test_a_link_that_becomes_metered_is_left_to_others_from_then_on() -> None:
    scene = depot(devices=6)
    world = World(scene, 1)

    def metered() -> None:
        busiest = max(world.honest, key=lambda d: d.frames_wan)
        chosen.append((busiest, busiest.frames_wan))
        busiest.feed(e.WeightChanged(0))

    chosen: list[tuple[Device, int]] = []
    world.kernel.at(5.0, metered)
    outcome = world.run()
    assert {d.state for d in outcome.devices} == {"committed"}
    ((device, before),) = chosen
    policy = scene.policy
    assert device.frames_wan - before <= policy.fetches_max * policy.run_bytes
    assert device.frames_wan < SIZE / 2
    assert outcome.amplification is not None
    assert outcome.amplification <= 1.05


def test_every_rule_holds_while_links_become_metered_and_free_again() -> None:
    fault = Fault(FaultKind.WAN_SLOW, 5.0, 20.0, factor=0.2)
    outcome = run_checked(mixed(fault), 3)
    assert outcome.violations == ()
