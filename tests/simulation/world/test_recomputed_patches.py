"""Patches made anew by devices that have long restarted: for those who come late, on thin local networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm import events as e
from p2p.swarm.cost import Weights
from p2p.swarm.policy import Policy
from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import DeviceClass, Fault, FaultKind, Lan, LanKind, Phase, Scenario, Who
from sim.world import run
from sim.world.device import Device
from sim.world.observer import Observer
from tests.simulation.world.scenes import depot, release

THIN = Lan(LanKind.WIFI, rate=125_000.0)
PACK = 400_000
LATER_S = 900.0


def scenario(recompute_rate: float, *faults: Fault, lan: Lan = THIN) -> Scenario:
    """A canary has installed and restarted long before the order is opened for the three others."""
    klass = DeviceClass("box", {"old": 1.0}, reboot_s=5.0, recompute_rate=recompute_rate)
    return depot(
        *faults, devices=4, klass=klass, lan=lan, release=release(deltas={"old": PACK}),
        phases=(Phase(0.25, 0.0), Phase(1.0, LATER_S)),
    )  # fmt: skip


def late_comers(recompute_rate: float, *faults: Fault) -> RunOutcome:
    outcome = run_checked(scenario(recompute_rate, *faults), 3)
    assert outcome.violations == ()
    assert {d.state for d in outcome.devices} == {"committed"}
    return outcome


def took_s(outcome: RunOutcome) -> float:
    return max(d.verified_s or 0.0 for d in outcome.devices) - LATER_S


def test_on_a_thin_network_late_comers_get_patches_instead_of_the_image() -> None:
    anew, chunks = late_comers(2e6), late_comers(0.0)
    assert anew.sites[0].lan_bytes < 0.4 * chunks.sites[0].lan_bytes
    assert took_s(anew) < 0.4 * took_s(chunks)
    assert sum(d.frames_wan for d in anew.devices) == sum(d.frames_wan for d in chunks.devices) == PACK


class Made(Observer):
    """Counts the patches that devices are told to make."""

    def __init__(self) -> None:
        self.count = 0
        self.what: set[int] = set()
        self.who: set[str] = set()

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        for action in actions:
            if isinstance(action, e.Recompute):
                self.count += 1
                self.what.add(action.piece)
                self.who.add(device.name)


@pytest.mark.parametrize(("lan", "some"), [(THIN, True), (Lan(rate=125e6), False)])
def test_processor_time_is_spent_where_the_network_is_thin(lan: Lan, some: bool) -> None:
    made = Made()
    run(scenario(2e6, lan=lan), 3, observer=made)
    assert bool(made.count) is some


def test_processor_time_that_is_dear_is_not_spent() -> None:
    made = Made()
    policy = Policy(cost=Weights(cpu_hour=1e6))
    outcome = run(replace(scenario(2e6), policy=policy), 3, observer=made)
    assert {d.state for d in outcome.devices} == {"committed"}
    assert made.count == 0


def test_those_who_can_share_the_work() -> None:
    klass = DeviceClass("box", {"old": 1.0}, reboot_s=5.0, recompute_rate=2e6)
    large = release(size=48 << 20, deltas={"old": 10 * PACK})
    made = Made()
    phases = (Phase(0.5, 0.0), Phase(1.0, LATER_S))
    run(depot(devices=4, klass=klass, lan=THIN, release=large, phases=phases), 3, observer=made)
    assert len(made.what) == made.count, "no patch was made twice"
    assert len(made.who) == 2


def test_they_go_on_sharing_when_it_takes_long() -> None:
    klass = DeviceClass("box", {"old": 1.0}, reboot_s=5.0, recompute_rate=5e5)
    large = release(size=96 << 20, deltas={"old": 10 * PACK})
    made = Made()
    phases = (Phase(0.5, 0.0), Phase(1.0, LATER_S))
    run(depot(devices=6, klass=klass, lan=THIN, release=large, phases=phases), 3, observer=made)
    assert len(made.who) >= 3
    assert made.count <= 1.5 * len(made.what), "but for some at the end, when those who are done help"


def test_who_cannot_make_them_as_they_were_gives_chunks() -> None:
    rotten = Fault(FaultKind.BIT_ROT_BASE, at_s=LATER_S - 10, who=Who.ALL, size=8 << 20)
    outcome = late_comers(2e6, rotten)
    assert sum(d.frames_wan for d in outcome.devices) >= PACK
