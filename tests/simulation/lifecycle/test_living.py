"""A site of devices whose agents are the real ones, with everything that can go wrong at once or alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sim.outcome import RunOutcome
from sim.scenario.model import (
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Manner,
    Order,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    SyntheticRelease,
    Uptime,
    Wan,
    Who,
)
from sim.world.device import Device
from sim.world.living import LivingAgent
from sim.world.observer import Observer
from sim.world.run import World

MB = 1 << 20
YEAR = 365 * 86_400.0


class Rules(Observer):
    """Holds every install, commit and floor to the rules."""

    def __init__(self) -> None:
        self.committed_by: Counter[str] = Counter()
        self.backs: Counter[str] = Counter()
        self.floors: dict[str, int] = {}

    def installed(self, device: Device, release: str, good: bool, ordered: bool) -> None:
        assert good, device.name
        assert ordered, device.name

    def committed(self, device: Device, release: str) -> None:
        self.committed_by[device.name] += 1
        assert device.healthy

    def rolled_back(self, device: Device, release: str) -> None:
        self.backs[device.name] += 1

    def floor_moved(self, device: Device, old: int, new: int) -> None:
        assert new > old
        self.floors[device.name] = new

    def ended(self, world: World) -> None:
        for device in world.honest:
            agent = device.agent
            assert isinstance(agent, LivingAgent)
            active = agent.machine.boot.read().active
            held = agent.machine.slots()["rootfs"].image_in(active)
            assert held is not None
            assert agent.machine.holds("rootfs", active, *held)
            assert (device.name in self.floors) <= bool(self.committed_by[device.name])


def lived(seed: int = 1, devices: int = 4, **changed: Any) -> tuple[RunOutcome, Rules]:
    release = SyntheticRelease("v2", 8 * MB, 4 * MB, (DeltaSpec("v1", MB // 2),))
    kind = DeviceClass("kind", changed.pop("bases", {"v1": 1.0}), **changed.pop("kind", {}))
    site = SiteGroup("site", 1, SiteSize(low=devices), {"kind": 1.0}, wan=Wan(250e3))
    order = Order("v2", changed.pop("phases", (Phase(1.0, 0.0),)))
    settings: dict[str, Any] = {"polling": Polling(300.0)} | changed
    scenario = Scenario("living", "", 4000.0, (release,), (kind,), (site,), (order,), **settings)
    rules = Rules()
    return World(scenario, seed, observer=rules).run(), rules


def states(outcome: RunOutcome) -> Counter[str]:
    return Counter(device.state for device in outcome.devices)


def test_a_site_commits_and_pays_once() -> None:
    outcome, rules = lived()
    assert states(outcome) == {"committed": 4}
    assert rules.floors == {device.device: 1 for device in outcome.devices}
    (site,) = outcome.sites
    assert site.amplification is not None
    assert site.amplification < 1.1  # half a megabyte, so signed files weigh
    for device in outcome.devices:
        assert device.meant_s is not None
        assert device.verified_s is not None
        assert device.finished_s is not None
        assert device.meant_s < device.verified_s < device.finished_s


F = FaultKind


TROUBLES: dict[str, dict[str, Any]] = {
    "crashes": {"faults": (Fault(F.CRASH, 5.0, 10.0, count=2, every_s=13.0, until_s=150.0),)},
    "restarts": {"faults": (Fault(F.RESTART, 5.0, 2.0, count=2, every_s=7.0, until_s=100.0),)},
    "full disks": {"faults": (Fault(F.DISK_FULL, 2.0, 200.0, who=Who.ALL),)},
    "slow disks": {"faults": (Fault(F.DISK_SLOW, 1.0, 60.0, who=Who.ALL, factor=0.02),)},
    "rot in the slot": {"faults": (Fault(F.BIT_ROT_SLOT, 2.0, count=2, every_s=0.5, until_s=4.0),)},
    "rot in the base": {"faults": (Fault(F.BIT_ROT_BASE, 1.0, count=2),)},
    "origin down": {"faults": (Fault(F.ORIGIN_DOWN, 0.0, 100.0),)},
    "partition": {"faults": (Fault(F.PARTITION, 1.0, 30.0),)},
    "at rest": {"polling": Polling(300.0, at_rest=True)},
    "phases": {"phases": (Phase(0.3, 0.0), Phase(1.0, 900.0))},
    "no base": {"bases": {"none": 0.5, "v1": 0.5}},
    "off and on": {"kind": {"uptime": Uptime(60.0, 30.0, 10.0)}},
    "clocks": {"kind": {"clock_error_s": 13 * 86_400.0}},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_happens_everybody_commits_once(trouble: str) -> None:
    for seed in (1, 2, 3):
        outcome, rules = lived(seed, **TROUBLES[trouble])
        assert states(outcome) == {"committed": 4}
        assert set(rules.committed_by.values()) == {1}


@pytest.mark.parametrize("manner", [Manner.STALE, Manner.POISON, Manner.LIAR])
def test_a_hostile_device_keeps_nobody_from_it(manner: Manner) -> None:
    outcome, _ = lived(2, faults=(Fault(F.HOSTILE, manner=manner),))
    assert states(outcome) == {"committed": 3, "hostile": 1}


def test_unhealthy_devices_go_back_and_stay_there() -> None:
    outcome, rules = lived(1, kind={"healthy": 0.5})
    found = states(outcome)
    assert found["rolled-back"] == len(rules.backs) > 0
    assert found["committed"] == len(rules.committed_by) == len(rules.floors) > 0
    assert set(rules.backs.values()) == {1}
    assert not rules.backs.keys() & rules.floors.keys()


def test_a_clock_far_ahead_is_believed_and_keeps_a_device_waiting() -> None:
    outcome, rules = lived(1, kind={"clock_error_s": 3 * YEAR})
    found = states(outcome)
    assert found["waiting"] > 0
    assert found["committed"] > 0
    assert len(rules.floors) == found["committed"]


def test_a_clock_that_is_set_right_lets_it_go_on() -> None:
    outcome, _ = lived(
        1, devices=1, faults=(Fault(F.CLOCK, 0.0, size=int(YEAR)), Fault(F.CLOCK, 500.0, size=-int(YEAR)))
    )
    assert states(outcome) == {"committed": 1}
    assert outcome.devices[0].finished_s is not None
    assert outcome.devices[0].finished_s > 500.0


def test_the_same_seed_gives_the_same_run() -> None:
    changed = {"faults": (Fault(F.CRASH, 5.0, 10.0, count=2, every_s=13.0, until_s=60.0),)}
    first, second, other = lived(5, **changed)[0], lived(5, **changed)[0], lived(6, **changed)[0]
    assert first == second
    assert first.trace_digest != other.trace_digest
