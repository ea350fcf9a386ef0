"""What devices without a WAN have to say goes home with whoever visits them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.checks.checked import Checks, run_checked
from sim.scenario.model import (
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    Wan,
)
from sim.world import World
from sim.world.desk import Desk
from tests.simulation.world.scenes import RATE, depot, release

STATION = 4


def scene(*faults: Fault, home: bool = True, carrier: bool = True) -> Scenario:
    """A van fetches at the depot, visits a station, and comes home (or does not)."""
    stops = (Stop(0.0, 300.0, wan=Wan(RATE)), Stop(600.0, 300.0, "field"), Stop(1200.0, 900.0, wan=Wan(RATE)))
    van = SiteGroup(
        "van", 1, SiteSize(low=1, high=1), {"van": 1.0}, Lan(), timetable=stops if home else stops[:2]
    )
    field = SiteGroup("field", 1, SiteSize(low=STATION, high=STATION), {"box": 1.0}, Lan())
    box = DeviceClass("box", {"v1": 1.0}, reboot_s=5.0)
    last = SiteGroup("last", 1, SiteSize(low=1, high=1), {"box": 1.0}, Lan(), Wan(RATE))  # until it has come
    late = Fault(FaultKind.LATE, 1800.0, where="last")
    return replace(
        depot(*faults, late, release=release(deltas={"v1": 400_000})), sites=(van, field, last),
        polling=Polling(every_s=60.0), classes=(box, replace(box, name="van", carrier=carrier)),
        duration_s=3000.0,
    )  # fmt: skip


class Heard(Checks):
    """Also looks what the coordinator has heard by the end."""

    def ended(self, world: World) -> None:
        super().ended(world)
        field = world.sites["field/0"]
        seen = world.coordinator._seen.get(field.area.name, {})
        mine = {d.name: d for d in field.honest}
        self.heard = {n for n, (_, image) in seen.items() if n in mine and image == mine[n].base}
        self.committed = {name for name, d in mine.items() if d.agent.state == "committed"}


def test_the_coordinator_learns_of_a_site_without_wan_when_the_van_comes_home() -> None:
    checks = Heard()
    outcome = run_checked(scene(), 1, checks=checks)
    assert outcome.violations == ()
    assert len(checks.committed) == STATION
    assert checks.heard == checks.committed
    assert len(checks.carried.promised) == STATION


def test_until_then_it_knows_nothing_and_the_van_has_the_reports() -> None:
    checks = Heard()
    outcome = run_checked(scene(home=False), 1, checks=checks)
    assert outcome.violations == ()
    assert checks.heard == set()
    assert len(checks.carried.promised) == STATION


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.RESTART])
def test_a_van_that_is_switched_off_on_the_way_loses_none(kind: FaultKind) -> None:
    checks = Heard()
    outcome = run_checked(scene(Fault(kind, 1000.0, 100.0, where="van")), 1, checks=checks)
    assert outcome.violations == ()
    assert checks.heard == checks.committed
    assert len(checks.heard) == STATION


def test_who_carries_nothing_is_given_none() -> None:
    checks = Heard()
    run_checked(scene(carrier=False), 1, checks=checks)
    assert checks.carried.promised == {}
    assert checks.heard == set()


def test_a_van_that_forgets_what_it_carried_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Desk.forget

    def forget(desk: Desk) -> None:
        real(desk)
        desk.carried.clear()

    monkeypatch.setattr(Desk, "forget", forget)
    checks = Heard()
    outcome = run_checked(scene(Fault(FaultKind.CRASH, 1000.0, 100.0, where="van")), 1, checks=checks)
    assert {v.check for v in outcome.violations} == {"report-lost"}
