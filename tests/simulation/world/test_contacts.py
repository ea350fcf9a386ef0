"""A site that sees its only source in contacts too short for an image: what came stays, and comes once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.checks.checked import run_checked
from sim.outcome import DeviceOutcome
from sim.scenario.model import (
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    LanKind,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    Wan,
)
from tests.simulation.world.scenes import RATE, SIZE, depot, release

STATION = 4
AIR = 125_000.0
"""Bytes a second of the station's radio: what the van gives crosses it once, what one gives another twice."""

CONTACT_S, EVERY_S, FIRST_S = 25.0, 600.0, 1200.0

CONTACTS = 3
"""So many bring the image of 8 MiB: as many as the air takes to carry it once, headers included."""


def scene(*faults: Fault, contacts: int = CONTACTS) -> Scenario:
    stops = [Stop(0.0, 600.0, wan=Wan(RATE))]
    stops += [Stop(FIRST_S + n * EVERY_S, CONTACT_S, "field") for n in range(contacts)]
    van = SiteGroup("van", 1, SiteSize(low=1, high=1), {"van": 1.0}, Lan(), timetable=tuple(stops))
    air = Lan(LanKind.WIFI, rate=AIR)
    field = SiteGroup("field", 1, SiteSize(low=STATION, high=STATION), {"box": 1.0}, air)
    box = DeviceClass("box", {"none": 1.0}, reboot_s=5.0)
    return replace(
        depot(*faults), sites=(van, field), polling=Polling(every_s=60.0), duration_s=FIRST_S + 8 * EVERY_S,
        classes=(box, replace(box, name="van", carrier=True)),
    )  # fmt: skip


def held(subject: Scenario, seed: int = 1) -> tuple[list[DeviceOutcome], int]:
    """The devices of the station, and the bytes of pieces that the van has sent."""
    outcome = run_checked(subject, seed)
    assert outcome.violations == ()
    (van,) = [d for d in outcome.devices if d.site == "van/0"]
    assert van.state == "committed"
    return [d for d in outcome.devices if d.site == "field/0"], van.sent


def test_what_one_of_them_got_all_have_when_the_van_is_gone() -> None:
    """Nearly all that the van gave was something that none of them had.

    (What is under way when it leaves is lost, in most seeds a piece to each; not in this one.)
    """
    mine, sent = held(scene(contacts=1), seed=3)
    assert {d.state for d in mine} == {"fetching"}
    (each,) = {d.from_peers for d in mine}
    assert 0.6 * sent <= each <= sent
    assert sent > 0.8 * CONTACT_S * AIR / 2


def test_contacts_add_up() -> None:
    """What was verified stays: each contact brings more, and what was there is not sent again."""
    came, sent = zip(
        *((mine[0].from_peers, sent) for mine, sent in map(held, map_contacts(1, 2, 3))), strict=True
    )
    assert came[0] < came[1] < came[2]
    assert came[2] >= 2 * came[0]
    assert sent[2] <= 1.5 * came[2]


def map_contacts(*numbers: int) -> list[Scenario]:
    return [scene(contacts=n) for n in numbers]


@pytest.mark.parametrize("seed", range(2))
def test_in_the_end_all_are_done_and_the_van_has_sent_hardly_more_than_one_image(seed: int) -> None:
    """Four devices take it."""
    mine, sent = held(scene(), seed)
    assert {d.state for d in mine} == {"committed"}
    assert sent <= 1.5 * SIZE


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.RESTART])
def test_a_power_cut_between_contacts_costs_no_contact(kind: FaultKind) -> None:
    fault = Fault(kind, FIRST_S + EVERY_S / 2, 60.0, where="field", count=STATION)
    mine, sent = held(scene(fault))
    assert {d.state for d in mine} == {"committed"}
    assert sent <= 1.5 * SIZE


def test_a_cut_in_the_middle_of_a_contact_costs_no_more_than_one() -> None:
    fault = Fault(FaultKind.CRASH, FIRST_S + CONTACT_S / 2, 20.0, where="field", count=STATION)
    mine, _ = held(scene(fault, contacts=CONTACTS + 1))
    assert {d.state for d in mine} == {"committed"}


def test_a_patch_that_takes_longer_than_a_contact_comes_in_several() -> None:
    """Only whole pieces can be verified; what came of this one is kept until the van is back."""
    subject = scene(contacts=4)
    van, field = subject.sites
    air = Lan(rate=40_000.0)
    box, carrier = subject.classes
    subject = replace(
        subject,
        releases=(release(size=2 * SIZE, deltas={"v1": 2_000_000}),),
        classes=(replace(box, bases={"v1": 1.0}), replace(carrier, bases={"v1": 1.0}, recompute_rate=8e6)),
        sites=(van, replace(field, size=SiteSize(low=1, high=1), lan=air)),
    )
    mine, _ = held(subject)
    assert {d.state for d in mine} == {"committed"}
