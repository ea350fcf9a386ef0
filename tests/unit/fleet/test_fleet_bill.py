"""The whole bill: sums that add up, plans that do what they say, outcomes that survive JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from p2p.errors import ContentError, OperatorError
from p2p.swarm.allowance import DailyWindow
from p2p.trust.pace import WITH_POLL
from sim.fleet.bill import reckon
from sim.fleet.outcome import MARKS, PlanOutcome, Way
from sim.fleet.plans import OWN, read_plans
from sim.scenario.model import (
    Fault,
    FaultKind,
    Lan,
    LanKind,
    Origin,
    Phase,
    Scenario,
    SiteSize,
    SizeKind,
    Wan,
)
from sim.world.orders import ABSENT, CHECKIN_DOWN, TIMESTAMP
from sim.world.wire import HttpCosts
from tests.unit.fleet.fleets import MB, PACKS, fleet, plain

SCENARIO = fleet(
    bases={"a": 0.6, "b": 0.3, "none": 0.1},
    count=60,
    size=SiteSize(SizeKind.UNIFORM, 1, 12),
    wan=Wan(1e6, price_per_mb=2.0),
)


def bill(*plans: str, scenario: object = SCENARIO) -> PlanOutcome:
    assert isinstance(scenario, type(SCENARIO))
    return reckon(scenario, PACKS, read_plans(plans, scenario), 3, plain())


def asked(devices: int) -> float:
    """Bytes down that so many devices at rest ask for as they install, rosters left out."""
    costs = HttpCosts()
    poll = costs.down(ABSENT) + costs.down(TIMESTAMP)
    check_ins = (3 - WITH_POLL) * costs.down(CHECKIN_DOWN)
    return devices * (2 * poll + check_ins + costs.connect()[0] + costs.connect(resumed=True)[0])


def test_four_ways_are_compared_on_one_fleet_and_slipstream_costs_least() -> None:
    outcome = bill()
    costs = {way: outcome.of(way).wan_bytes for way in Way}
    assert costs[Way.SLIPSTREAM] < costs[Way.SHARED] < costs[Way.FULL]
    assert costs[Way.SLIPSTREAM] < costs[Way.DELTA] < costs[Way.FULL]
    assert {e.devices for e in outcome.estimates} == {outcome.devices}
    assert all(e.finished == outcome.devices for e in outcome.estimates)
    each = bill(scenario=replace(SCENARIO, polling=replace(SCENARIO.polling, lookout=False)))
    theirs, ours = (bills.of(Way.SLIPSTREAM) for bills in (each, outcome))
    assert (theirs.wan_down - asked(outcome.devices)) / theirs.floor_bytes == pytest.approx(1.0, rel=0.001)
    assert ours.wan_down < theirs.wan_down, "where one asks and hands in for its site"


def test_money_groups_and_sites_add_up() -> None:
    outcome = bill(scenario=replace(SCENARIO, origin=Origin(price_per_mb=0.5)))
    for estimate in outcome.estimates:
        assert estimate.wan_bytes == sum(g.wan_bytes for g in estimate.groups)
        assert estimate.wan_money == pytest.approx(estimate.wan_bytes / 1e6 * 2.0, rel=1e-6)
        assert estimate.origin_money == pytest.approx(estimate.wan_down / 1e6 * 0.5)
        assert estimate.money == pytest.approx(estimate.wan_money + estimate.origin_money)
        assert estimate.site_bytes[0] - 1 <= estimate.wan_bytes / outcome.sites <= estimate.site_bytes[-1] + 1
        assert list(estimate.marks_s) == sorted(estimate.marks_s)
        assert len(estimate.marks_s) == len(MARKS)


def test_completion_and_egress_are_all_devices_and_all_bytes() -> None:
    for estimate in bill("thin: origin=4Mbit/s").estimates:
        assert estimate.completion.values[-1] == estimate.finished
        assert estimate.completion.times[-1] == pytest.approx(estimate.marks_s[-1])
        times, rates = np.asarray(estimate.origin_egress.times), np.asarray(estimate.origin_egress.values)
        assert (np.diff(times) * rates[:-1]).sum() == pytest.approx(estimate.wan_down, rel=1e-3)
        assert rates.max() <= (0.5e6 * 1.02 if estimate.plan == "thin" else np.inf)


def test_plans_delay_but_do_not_change_the_bytes_of_who_finishes() -> None:
    outcome = bill("night: window=22:00-06:00", "later: phases=100%@10h", "thin: origin=8Mbit/s")
    own = outcome.of(Way.SLIPSTREAM)
    for name in ("later", "thin"):
        other = outcome.of(Way.SLIPSTREAM, name)
        assert other.wan_bytes == own.wan_bytes
        assert other.marks_s[-1] is not None and own.marks_s[-1] is not None
        assert other.marks_s[-1] > own.marks_s[-1]
    later = outcome.of(Way.SLIPSTREAM, "later")
    assert later.marks_s[0] == pytest.approx((own.marks_s[0] or 0) + 36_000)
    with pytest.raises(KeyError):
        outcome.of(Way.FULL, "never")


def test_what_does_not_fit_the_horizon_is_not_called_finished_nor_paid() -> None:
    scenario = replace(SCENARIO, duration_s=20.0)
    full = bill(scenario=scenario).of(Way.FULL)
    assert full.finished < full.devices
    assert full.marks_s[-1] is None
    assert full.wan_down <= 60 * 20.0 * 1e6 * 1.01


def test_what_opens_after_the_end_is_told_and_in_no_floor() -> None:
    outcome = bill("late: phases=50%@0h,100%@1000h", "in time: phases=50%@0h,100%@200h")
    late, in_time = (outcome.of(Way.SLIPSTREAM, name) for name in ("late", "in time"))
    assert late.finished < in_time.finished == outcome.devices
    assert late.amplification is not None and late.amplification >= 1.0
    assert late.floor_bytes <= in_time.floor_bytes
    (note,) = outcome.notes
    assert "'late' opens to 100% only at or after the end" in note and "277.8 h" in note


def test_what_is_left_out_is_said() -> None:
    scenario = replace(SCENARIO, faults=(Fault(FaultKind.CRASH, 1.0),))
    assert any("faults" in note for note in bill(scenario=scenario).notes)
    assert bill().notes == ()


def test_sites_larger_than_all_that_the_model_was_tested_on_are_told() -> None:
    group = SCENARIO.sites[0]  # of up to 12 devices
    radio = replace(SCENARIO, sites=(replace(group, lan=Lan(LanKind.WIFI)),))
    (note,) = bill(scenario=radio).notes
    assert "sites of site have more devices on one radio channel" in note and "(10)" in note
    large = replace(SCENARIO, sites=(replace(group, count=2, size=SiteSize(low=65, high=65)),))
    (note,) = bill(scenario=large).notes
    assert note.startswith("2 sites of site have more devices than any") and "(64)" in note
    assert bill(scenario=replace(large, sites=(replace(group, size=SiteSize(low=64, high=64)),))).notes == ()


def test_an_outcome_survives_json() -> None:
    outcome = bill("night: window=22:00-06:00; quota=500MB")
    assert PlanOutcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


@pytest.mark.parametrize("document", [None, {}, {"_type": "slipstream-plan", "version": 99}])
def test_what_is_no_outcome_is_refused(document: object) -> None:
    with pytest.raises(ContentError):
        PlanOutcome.from_json(document)
    broken = bill().to_json()
    del broken["error"]
    with pytest.raises(ContentError):
        PlanOutcome.from_json(broken)


def test_a_plan_is_read_as_it_is_written() -> None:
    own, plan = read_plans(
        [
            "careful: phases=1%@0h,10%@90min,100%@3d; window=22:00-06:00,12:00-13:00;"
            " origin=100Mbit/s; quota=2GB"
        ],
        SCENARIO,
    )
    assert own.name == OWN
    assert plan.phases == (Phase(0.01, 0.0), Phase(0.1, 5400.0), Phase(1.0, 3 * 86_400.0))
    assert plan.windows is not None and [w.start_s for w in plan.windows] == [79_200.0, 43_200.0]
    assert (plan.origin, plan.quota) == (12.5e6, 2e9)
    assert "22:00-06:00" in plan.describe() and "100 Mbit/s" in plan.describe()
    assert "at any time" in read_plans(["always: window=none"], SCENARIO)[1].describe()


def test_times_of_a_plan_are_kept_and_said_to_the_second() -> None:
    """`SCENARIO` with a start in the evening: a time of day is the first such after it."""
    evening = replace(SCENARIO, starts_of_day=21 * 3600.0)
    text = "exact: phases=0.0125%@10min,1%@22:30:15,100%@1 d 5 s; window=22:00:30-06:00"
    _, plan = read_plans([text], evening)
    assert plan.phases == (Phase(0.000125, 600.0), Phase(0.01, 5415.0), Phase(1.0, 86_405.0))
    assert plan.windows == (DailyWindow(79_230.0, 21_600.0),)
    assert plan.describe().startswith(
        "open to 0.0125 % from 10 min, 1 % from 1 h 30 min 15 s, 100 % from 24 h 5 s; windows 22:00:30-06:00"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no colon", "a name and a colon"),
        (": window=1:00-2:00", "a name and a colon"),
        ("x: speed=9", "'speed' is none of"),
        ("x: window", "is not one `key=value`"),
        ("x: window=25:00-26:00", "not a daily window"),
        ("x: window=22:75-06:00", "not a daily window"),
        ("x: window=06:00-06:00", "two different times"),
        ("x: window=noon", "not a daily window"),
        ("x: phases=1.2.3%@0h", "not a phase"),
        ("x: quota=1.5.0MB", "not an amount"),
        ("x: origin=0Mbit/s", "not an amount"),
        ("x: phases=10%", "not a phase"),
        ("x: phases=100%@1h,10%@2h", "rise in share"),
        ("x: quota=many", "not an amount"),
        ("x: quota=1GB; quota=2GB", "stands there twice"),
        (f"{OWN}: quota=1GB", "two plans are called"),
    ],
)
def test_a_plan_that_cannot_be_is_named(text: str, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        read_plans([text], SCENARIO)


def test_a_quota_is_paid_as_far_as_it_goes() -> None:
    scenario = replace(SCENARIO, duration_s=40 * 86_400.0)
    full = bill("little: quota=30MB", scenario=scenario).of(Way.SHARED, "little")
    assert full.finished == full.devices  # 50 MB need two months, of which 40 days hold the beginning
    assert full.marks_s[0] is not None and full.marks_s[0] > 30 * 86_400.0
    less = bill("less: quota=20MB", scenario=scenario).of(Way.SHARED, "less")
    assert less.finished == 0
    assert less.wan_down == pytest.approx(60 * 40 * MB, rel=0.01)


def _with_cargo(cargo: int, base: str = "none") -> Scenario:
    """The fleet, and ten carriers that run nothing of what is ordered."""
    klass = replace(SCENARIO.classes[0], name="van", bases={base: 1.0}, carrier=True, cargo=cargo)
    group = replace(
        SCENARIO.sites[0], name="van", count=10, size=SiteSize(low=1, high=1), classes={"van": 1.0}
    )
    return replace(SCENARIO, classes=(*SCENARIO.classes, klass), sites=(*SCENARIO.sites, group))


@pytest.mark.parametrize("base", ["none", "a"])
def test_who_only_takes_along_what_others_run_is_paid_for_and_does_not_count(base: str) -> None:
    """It fetches the whole image, whatever it runs itself."""
    outcome, without = bill(scenario=_with_cargo(PACKS.size * 2, base)), bill()
    assert outcome.devices == without.devices
    found, before = outcome.of(Way.SLIPSTREAM), without.of(Way.SLIPSTREAM)
    assert (found.devices, found.finished, found.marks_s) == (before.devices, before.finished, before.marks_s)
    fleet_group, vans = found.groups
    assert (vans.sites, vans.devices, vans.finished) == (10, 0, 0)
    assert vans.wan_down > 10 * PACKS.full.wan_bytes
    assert found.wan_bytes == fleet_group.wan_bytes + vans.wan_bytes


def test_what_has_no_room_in_a_hold_is_not_paid_for() -> None:
    vans = bill(scenario=_with_cargo(PACKS.size - 1)).of(Way.SLIPSTREAM).groups[1]
    assert (vans.wan_bytes, vans.floor_bytes) == (0, 0)


def test_a_carrier_loads_as_soon_as_an_order_is_open_to_anybody() -> None:
    outcome = bill("slow: phases=0.1%@0h,0.2%@1h", scenario=_with_cargo(PACKS.size * 2))
    vans = outcome.of(Way.SLIPSTREAM, "slow").groups[1]
    assert vans.wan_down > 10 * PACKS.full.wan_bytes
