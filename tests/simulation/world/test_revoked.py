"""Devices that are revoked in the middle of things: cut off by whoever knows, and the site gets over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from p2p.trust import Revocations
from sim.checks.checked import Checks, run_checked
from sim.checks.random_scenario import random_scenario
from sim.outcome import RunOutcome
from sim.scenario.library import load
from sim.scenario.model import (
    NO_BASE,
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    Manner,
    Phase,
    Polling,
    Scenario,
    Who,
)
from sim.world import World
from sim.world.device import Device
from sim.world.publisher import certificate_of
from sim.world.run import Seams
from tests.simulation.world.scenes import RATE, SIZE, depot

HALF = SIZE * 1.047 / RATE / 2


def run(scenario: Scenario, seed: int = 1, **more: Any) -> tuple[World, Checks, RunOutcome]:
    checks = Checks()
    world = World(scenario, seed, observer=checks, **more)
    outcome = world.run()
    assert checks.violations == []
    return world, checks, outcome


def believers(checks: Checks, name: str) -> set[str]:
    return {device for device, believed in checks.revoked.believed.items() if name in believed}


@pytest.mark.parametrize(
    ("who", "at_s"), [(Who.GATEWAY, HALF), (Who.RIDER, HALF), (Who.ANY, HALF), (Who.ANY, 0.5)]
)
def test_a_device_that_is_revoked_in_mid_update_is_parted_with_and_all_finish(who: Who, at_s: float) -> None:
    world, checks, outcome = run(depot(Fault(FaultKind.REVOKED, at_s, who=who, count=2), devices=8))
    assert len(world.revoked) == 2
    assert [d.state for d in outcome.devices] == ["committed"] * 8, "the revoked ones alone"
    for name in world.revoked:
        assert believers(checks, name) == {d.name for d in world.honest}
        device = world.devices[name]
        assert isinstance(device, Device)
        assert not device.connections
        assert device.frames_wan > 0
    assert sum(d.frames_wan > 0 for d in world.honest if d.name not in world.revoked) >= 1


def test_without_the_fault_nothing_is_read_or_kept_of_revocations() -> None:
    world, checks, _ = run(depot(devices=3))
    assert not world.revokes
    assert checks.revoked.believed == {}
    assert "metadata/1.revocations.json" not in world.publisher.repository.files


def test_a_device_without_wan_that_is_revoked_is_not_waited_for_and_gets_nothing_more() -> None:
    klass = DeviceClass("box", {NO_BASE: 1.0}, reboot_s=5.0, has_wan=0.5)
    scenario = depot(Fault(FaultKind.REVOKED, 1.0, who=Who.ALL), devices=6, klass=klass)
    seed = 3
    world, _, outcome = run(scenario, seed)
    states = {d.device: d.state for d in outcome.devices}
    without = {d.name for d in world.honest if not d.has_wan}
    assert 0 < len(without) < 6
    for device in world.honest:
        assert (states[device.name] == "committed") is device.has_wan


@pytest.mark.parametrize("manner", [*Manner])
def test_a_hostile_device_that_is_revoked_is_out_for_good(manner: Manner) -> None:
    fault = Fault(FaultKind.REVOKED, 2.0, manner=manner, count=2)
    world, checks, outcome = run(depot(fault, devices=8))
    assert len(world.revoked) == 2
    for name in world.revoked:
        assert believers(checks, name) == {d.name for d in world.honest}
        assert world.devices[name].connections.keys() <= world.revoked
    assert [d.state for d in outcome.devices if d.state != "hostile"] == ["committed"] * 6


def test_what_a_device_believes_survives_a_power_cut_the_moment_after() -> None:
    cuts: list[str] = []

    class Cut(Device):
        """Loses its power as soon as it believes a revocation."""

        def heed_revoked(self, devices: frozenset[str]) -> None:
            super().heed_revoked(devices)
            if devices and self.name not in devices and self.name not in cuts:
                cuts.append(self.name)
                self.kernel.after(0.0, self.halt, "crash")
                self.kernel.after(20.0, self.resume)

    scenario = depot(Fault(FaultKind.REVOKED, HALF), devices=5)
    world, checks, outcome = run(scenario, seams=Seams(make_device=Cut))
    assert len(cuts) == 4
    assert [d.state for d in outcome.devices] == ["committed"] * 5
    (name,) = world.revoked
    assert believers(checks, name) == {d.name for d in world.honest}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_site_hears_within_a_pause_of_its_lookout_and_all_of_it_in_the_same_second(seed: int) -> None:
    heard: dict[str, float] = {}

    class Timed(Checks):
        def barred(self, device: Device, devices: frozenset[str]) -> None:
            super().barred(device, devices)
            if devices:
                heard.setdefault(device.name, device.kernel.now)

    at_s, pause_s = 1800.0, 60.0
    scenario = depot(Fault(FaultKind.REVOKED, at_s), devices=24, phases=(Phase(1.0, 3500.0),))
    scenario = replace(scenario, polling=Polling(every_s=pause_s), duration_s=3400.0)
    checks = Timed()
    world = World(scenario, seed, observer=checks)
    world.run()
    assert checks.violations == []
    others = [at for name, at in heard.items() if name not in world.revoked]
    assert len(others) == 23
    assert max(others) - at_s <= 1.5 * pause_s
    assert max(others) - min(others) <= 1.0


class Lenient(Device):
    """A planted bug: revoked peers are let in again."""

    def admits(self, device: str) -> bool:
        return self.banned.get(device, float("-inf")) <= self.kernel.now


class Talkative(Device):
    """A planted bug: the connection to a revoked peer stays up."""

    def heed_revoked(self, devices: frozenset[str]) -> None:
        self.revoked = devices
        if self._observer is not None:
            self._observer.barred(self, devices)


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (Lenient, {"connected-to-revoked"}),
        (Talkative, {"connected-to-revoked", "taken-from-revoked", "given-to-revoked"}),
    ],
)
def test_a_planted_bug_is_found(bug: type[Device], found: set[str]) -> None:
    scenario = depot(Fault(FaultKind.REVOKED, HALF, who=Who.ANY), devices=6)
    outcome = run_checked(scenario, 1, seams=Seams(make_device=bug))
    assert found <= {violation.check for violation in outcome.violations}


def test_a_device_that_forgets_what_it_believed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Revocations, "_write", lambda self, value, held: None)
    faults = Fault(FaultKind.REVOKED, 1.0), Fault(FaultKind.CRASH, 4.0, 5.0, who=Who.ALL)
    scenario = depot(*faults, devices=6, lan=replace(Lan(), delay_s=0.001))
    scenario = replace(scenario, faults=(*faults, Fault(FaultKind.ORIGIN_DOWN, 4.0, 300.0)))
    outcome = run_checked(scenario, 1)
    assert "connected-to-revoked" in {violation.check for violation in outcome.violations}


def test_a_van_brings_the_list_to_a_site_without_wan() -> None:
    scenario = load("stolen-sensor")
    world, checks, outcome = run(scenario, 1)
    assert len(world.revoked) == 1
    (name,) = world.revoked
    station = world.devices[name].site
    assert station.own_uplink is None
    at = {station.name, "van/0"}
    assert believers(checks, name) >= {d.name for d in world.honest if d.site.name in at} - {name}
    states = {d.device: d.state for d in outcome.devices}
    assert states.pop(name) != "committed"
    assert set(states.values()) == {"committed"}


SEEDS = range(4000, 4024)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_scenarios_with_a_revocation_hold_every_rule(seed: int) -> None:
    scenario = random_scenario(seed, faults=seed % 2 == 1)
    who = [Who.GATEWAY, Who.RIDER, Who.ANY, Who.ALL][seed % 4]
    at_s = 1.0 + seed % 7 * 5.0
    revoked = Fault(FaultKind.REVOKED, at_s, who=who, count=1 + seed % 3)
    outcome = run_checked(replace(scenario, faults=(*scenario.faults, revoked)), seed)
    assert outcome.violations == ()


def test_the_digest_of_a_certificate_is_of_one_device_and_run() -> None:
    digests = {certificate_of(seed, name) for seed in (1, 2) for name in ("a", "b")}
    assert len(digests) == 4
