"""A van brings images that it does not run itself to a station without a WAN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim.checks.checked import run_checked
from sim.outcome import DeviceOutcome, RunOutcome
from sim.scenario.model import (
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    Manner,
    Order,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    SyntheticRelease,
    Wan,
)
from sim.world.cargo import Carrying
from tests.simulation.world.scenes import RATE, SIZE, depot, release

STATION = 4
VISIT_S, EVERY_S, FIRST_S = 60.0, 600.0, 900.0


def scene(
    *faults: Fault, cargo: int = 2 * SIZE, visits: int = 2, home_s: float = 600.0, rate: float = 12.5e6
) -> Scenario:
    """A van that runs something else is at home for `home_s`, then visits a station now and then."""
    stops = [Stop(0.0, home_s, wan=Wan(RATE))]
    stops += [Stop(FIRST_S + n * EVERY_S, VISIT_S, "field") for n in range(visits)]
    van = SiteGroup("van", 1, SiteSize(low=1, high=1), {"van": 1.0}, Lan(), timetable=tuple(stops))
    field = SiteGroup("field", 1, SiteSize(low=STATION, high=STATION), {"box": 1.0}, Lan(rate=rate))
    box = DeviceClass("box", {"v1": 1.0}, reboot_s=5.0)
    return replace(
        depot(*faults, release=release(deltas={"v1": 400_000})), sites=(van, field),
        polling=Polling(every_s=60.0), duration_s=FIRST_S + (visits + 1) * EVERY_S,
        classes=(box, DeviceClass("van", {"none": 1.0}, carrier=True, cargo=cargo)),
    )  # fmt: skip


def ran(subject: Scenario, seed: int = 1) -> tuple[RunOutcome, DeviceOutcome, list[DeviceOutcome]]:
    """The outcome, the van's, and those of the station."""
    outcome = run_checked(subject, seed)
    assert outcome.violations == ()
    (van,) = [d for d in outcome.devices if d.site == "van/0"]
    assert van.state == "carrying"
    return outcome, van, [d for d in outcome.devices if d.site == "field/0"]


@pytest.mark.parametrize("seed", range(3))
def test_a_station_is_updated_by_a_van_that_runs_something_else(seed: int) -> None:
    _, van, station = ran(scene(), seed)
    assert {d.state for d in station} == {"committed"}
    assert sum(d.wan_bytes for d in station) == 0
    assert SIZE / 2 < van.frames_wan < 1.1 * SIZE


def test_without_room_for_it_nothing_is_taken_along() -> None:
    _, van, station = ran(scene(cargo=SIZE // 2))
    assert van.frames_wan == 0
    assert {d.state for d in station} == {"fetching"}, "they know of the order"
    assert max(d.from_peers for d in station) < SIZE / 100


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.RESTART])
@pytest.mark.parametrize("at_s", [4.0, 700.0, FIRST_S + 1.0], ids=["fetching", "on-the-way", "visiting"])
def test_a_van_that_is_switched_off_at_any_moment_loses_little(kind: FaultKind, at_s: float) -> None:
    _, van, station = ran(scene(Fault(kind, at_s, 20.0, where="van"), visits=3))
    assert {d.state for d in station} == {"committed"}
    assert van.frames_wan < 1.5 * SIZE


def test_what_came_of_an_image_is_of_use_and_the_rest_comes_next_time() -> None:
    """The van leaves home with a part, and is at home again between two visits."""
    subject = scene(home_s=4.0)
    (van, field) = subject.sites
    stops = (*van.timetable, Stop(FIRST_S + 200.0, 300.0, wan=Wan(RATE)))
    subject = replace(subject, sites=(replace(van, timetable=stops), field))
    _, carrier, station = ran(subject)
    assert {d.state for d in station} == {"committed"}
    assert carrier.frames_wan < 1.2 * SIZE


def test_a_newer_release_takes_the_place_of_the_older_one() -> None:
    """There is room for one."""
    subject = scene(cargo=SIZE + SIZE // 4, visits=4)
    newer = SyntheticRelease("v3", SIZE, SIZE // 2)
    (van, field) = subject.sites
    stops = (*van.timetable, Stop(FIRST_S + EVERY_S + 100.0, 400.0, wan=Wan(RATE)))
    orders = (*subject.orders, Order("v3", (Phase(1.0, FIRST_S + EVERY_S),)))
    subject = replace(
        subject, sites=(replace(van, timetable=stops), field), releases=(*subject.releases, newer),
        orders=orders,
    )  # fmt: skip
    outcome, _, station = ran(subject)
    assert {d.state for d in station} == {"committed"}
    assert all(d.finished_s is not None and d.finished_s > FIRST_S + EVERY_S for d in station)
    assert outcome.virtual_s > FIRST_S + EVERY_S


def test_a_hostile_device_at_the_station_gets_nothing_wrong_into_the_hold() -> None:
    fault = Fault(FaultKind.HOSTILE, where="field", count=2, manner=Manner.POISON)
    _, _, station = ran(scene(fault, home_s=6.0, visits=4))
    assert {d.state for d in station if d.state != "hostile"} <= {"committed", "fetching", "waiting"}


def test_a_van_that_takes_along_more_than_it_may_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Carrying.__init__

    def greedy(carrying: Carrying, quota: int, *rest: Any) -> None:
        real(carrying, 100 * quota, *rest)

    monkeypatch.setattr(Carrying, "__init__", greedy)
    outcome = run_checked(scene(cargo=SIZE // 2), 1)
    assert {v.check for v in outcome.violations} == {"cargo-quota"}
