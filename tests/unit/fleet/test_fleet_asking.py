"""What a fleet asks: in proportion to its devices with WAN, to the time that links are open, to the pace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2p.content.limits import MIB
from p2p.swarm.allowance import DailyWindow
from p2p.trust.pace import WITH_POLL
from sim.fleet import asking, draw
from sim.fleet.bill import openings, reckon
from sim.fleet.curve import DAY_S, Curve, of_wan
from sim.fleet.outcome import Way
from sim.fleet.plans import read_plans
from sim.fleet.setting import Setting
from sim.scenario.model import Outage, Phase, Polling, Scenario, Uptime, Wan
from sim.world.orders import ABSENT, CHECKIN_DOWN, ROSTER_ENTRY, TIMESTAMP
from sim.world.pool import KEEP_ALIVE_S
from sim.world.wire import HttpCosts
from tests.unit.fleet.fleets import PACKS, fleet, plain

HOURLY = Polling(every_s=3600.0)


def met(scenario: Scenario, *, wan: Wan | None = None, changed: int = 0) -> tuple[Setting, Curve]:
    """The first group and its link."""
    group = scenario.sites[0]
    devices = draw.draw_devices(scenario, group, 1)
    link = of_wan(wan or group.wan, starts_of_day=0.0, horizon_s=1e6)
    return Setting(group, devices, scenario.polling, scenario.policy, plain(), openings=changed), link


def day(scenario: Scenario, *, wan: Wan | None = None, shared: bool = False) -> float:
    setting, link = met(scenario, wan=wan)
    found = asking.of_a_day(setting, link, 10 * DAY_S, shared=shared)
    return float(found.down.sum() + found.up.sum())


def test_a_day_is_so_many_polls_and_check_ins_of_each_device() -> None:
    one = day(fleet(count=10, polling=HOURLY))
    assert one / (10 * 4 * 24) == pytest.approx(4_600, rel=0.1)  # a session resumed, three answers
    assert day(fleet(count=20, polling=HOURLY)) == pytest.approx(2 * one)
    assert day(fleet(count=10, polling=Polling(every_s=1800.0))) == pytest.approx(2 * one)
    full = day(fleet(count=10, polling=Polling(every_s=36_000.0))) * 10
    assert full / one == pytest.approx(1.52, rel=0.02), "no session lives as long"
    half = day(fleet(count=10, polling=Polling(every_s=7200.0))) * 2
    assert half == pytest.approx((one + full) / 2), "every other one does"
    assert day(fleet(count=10, polling=Polling(every_s=3600.0, at_rest=True))) == one


def test_where_one_asks_for_its_site_it_hands_in_for_the_others() -> None:
    each, one = (fleet(count=10, polling=replace(HOURLY, lookout=lookout)) for lookout in (False, True))
    assert day(each, shared=True) == day(each) == day(one)
    assert 0.25 * day(each) < day(one, shared=True) < 0.35 * day(each), "one of four, and a little"


def test_nothing_is_asked_over_a_link_that_is_closed_or_by_devices_without_one() -> None:
    scenario = fleet(count=10, polling=HOURLY)
    night = Wan(1e6, windows=(DailyWindow(0.0, 6 * 3600.0),))
    costs = HttpCosts()
    forgotten = 10 * 4 * (sum(costs.connect()[:2]) - sum(costs.connect(resumed=True)[:2]))
    assert day(scenario, wan=night) == pytest.approx(day(scenario) / 4 + forgotten), (
        "no session lasts so long"
    )
    broken = Wan(1e6, outages=(Outage(0.0, DAY_S, 2 * DAY_S),))
    assert day(scenario, wan=broken) == pytest.approx(day(scenario) / 2 + forgotten / 2)
    assert day(fleet(count=10, polling=HOURLY, has_wan=0.0)) == 0


def test_devices_that_are_switched_on_and_off_ask_at_each_start() -> None:
    kind = fleet(polling=HOURLY).classes[0]
    always = asking.asks_per_s(kind, HOURLY)
    assert always == 1 / 3600
    long = replace(kind, uptime=Uptime(on_mean_s=1e6, off_mean_s=1e6))
    assert asking.asks_per_s(long, HOURLY) == pytest.approx(always / 2, rel=0.01)
    short = replace(kind, uptime=Uptime(on_mean_s=60.0, off_mean_s=540.0))
    assert asking.asks_per_s(short, HOURLY) == pytest.approx(1 / 600, rel=1e-6)


def test_who_is_switched_on_has_no_session_to_resume() -> None:
    always, starts = fleet(count=10, polling=HOURLY), fleet(count=10, polling=HOURLY)
    short = replace(starts.classes[0], uptime=Uptime(on_mean_s=60.0, off_mean_s=3540.0))
    costs = HttpCosts()
    more = sum(costs.connect()[:2]) - sum(costs.connect(resumed=True)[:2])
    expected = day(always) + 10 * 4 * 24 * more
    assert day(replace(starts, classes=(short,))) == pytest.approx(expected, rel=0.03)


def test_first_questions_are_asked_where_devices_start_and_the_link_is_open() -> None:
    scenario = fleet(count=10, polling=HOURLY)
    setting, link = met(scenario)
    begun = asking.standing(setting, link, 1e-3, shared=True)
    assert begun.down.sum() == pytest.approx(asking.first(setting).down.sum(), rel=1e-3)
    shut, later = met(scenario, wan=Wan(1e6, windows=(DailyWindow(3600.0, 7200.0),)))
    assert asking.standing(shut, later, 3600.0, shared=True).down.sum() == 0
    resting, _ = met(fleet(count=10, polling=Polling(at_rest=True)))
    assert asking.first(resting).down.sum() == asking.first(resting).up.sum() == 0


@pytest.mark.parametrize(("shared", "at_rest"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("lookout", [True, False])
def test_every_further_phase_costs_the_same_again(shared: bool, at_rest: bool, lookout: bool) -> None:
    setting, _ = met(fleet(count=10, polling=Polling(at_rest=at_rest, lookout=lookout)))
    one, three = (asking.published(setting, n, shared=shared) for n in (1, 3))
    assert three.down == pytest.approx(3 * one.down)
    assert (one.down > 0).all() and (one.up > 0).all()
    assert asking.published(setting, 0, shared=shared).down.sum() == 0


def installs(scenario: Scenario, *, apart_s: float = 0.0) -> float:
    """Bytes down that the devices of one site ask for as they install."""
    setting, link = met(scenario)
    known = np.linspace(0.0, apart_s, len(setting.devices))
    return float(asking.updating(setting, link, known).down[0])


def test_who_installs_asks_when_told_restarted_and_committed() -> None:
    costs = HttpCosts()
    poll, check_in = costs.down(ABSENT) + costs.down(TIMESTAMP), costs.down(CHECKIN_DOWN + 3 * ROSTER_ENTRY)
    connect, resume = costs.connect()[0], costs.connect(resumed=True)[0]
    started = 4 * (poll + 2 * check_in + connect)
    assert installs(fleet(polling=HOURLY)) == pytest.approx(started)
    told = 1 - KEEP_ALIVE_S / 3600  # polls so far apart find the connection closed, and the session known
    at_rest = installs(fleet(polling=Polling(every_s=3600.0, at_rest=True)))
    bare = costs.down(CHECKIN_DOWN)  # the last roster is not old yet
    asked = started + 4 * (poll + (1 - WITH_POLL) * bare)
    assert at_rest == pytest.approx(asked + 4 * told * resume)
    assert installs(fleet(polling=Polling(every_s=60.0, at_rest=True))) == pytest.approx(asked)
    assert installs(fleet(polling=HOURLY, has_wan=0.0)) == 0


def test_who_installs_beside_others_is_handed_in_for() -> None:
    setting, link = met(fleet(polling=HOURLY))
    known = np.zeros(len(setting.devices))
    alone, shared = (asking.updating(setting, link, known, shared=shared) for shared in (False, True))
    assert shared.down[0] < 0.3 * alone.down[0]
    assert shared.up[0] < 0.6 * alone.up[0]
    each, link = met(fleet(polling=replace(HOURLY, lookout=False)))
    assert asking.updating(each, link, known, shared=True).down[0] == alone.down[0]


def test_a_check_in_that_takes_much_longer_than_the_commit_costs_two_other_connections() -> None:
    connect = HttpCosts().connect()[0]
    near, thin = fleet(polling=HOURLY), fleet(polling=HOURLY, wan=Wan(2e3))
    others = installs(near) + 2 * 4 * connect
    assert installs(fleet(polling=HOURLY, wan=Wan(1e6, delay_s=1.2))) == pytest.approx(others)
    assert installs(fleet(polling=HOURLY, wan=Wan(1e6, delay_s=0.3))) == pytest.approx(installs(near))
    assert installs(thin) == pytest.approx(others), "as all share the link"
    assert installs(thin, apart_s=60.0) == pytest.approx(installs(near)), "and not one after the other"


def test_phases_are_counted_that_devices_do_not_know_from_the_beginning() -> None:
    plans = {
        "phases=100%@0h": (0, 0),
        "phases=100%@5h": (1, 0),
        "phases=10%@0h,20%@1h,100%@9h": (2, 2),
        "phases=10%@1h,100%@9h": (2, 1),
    }
    started, rest = fleet(polling=HOURLY), fleet(polling=Polling(at_rest=True))
    for text, counted in plans.items():
        found = tuple(openings(s, read_plans([f"x: {text}"], s)[1]) for s in (started, rest))
        assert found == counted, text


def test_a_plan_tells_asking_apart_from_the_release() -> None:
    often = fleet(
        count=30,
        polling=Polling(every_s=600.0, lookout=False),
        phases=(Phase(0.5, 0.0), Phase(1.0, 5 * DAY_S)),
    )
    seldom = replace(often, polling=Polling(every_s=6_000.0, lookout=False))
    ours = [reckon(s, PACKS, read_plans([], s), 1, plain()).of(Way.SLIPSTREAM) for s in (often, seldom)]
    assert ours[0].asking.day_bytes == pytest.approx(10 * ours[1].asking.day_bytes, rel=0.03)
    assert ours[0].wan_bytes == pytest.approx(ours[1].wan_bytes, rel=0.001)
    for estimate in ours:
        asked = estimate.asking
        days = asked.until_s / DAY_S
        assert asked.until_s == estimate.marks_s[-1]
        assert asked.wan_bytes == pytest.approx(asked.day_bytes * days, rel=0.15)
        assert estimate.amplification is not None and estimate.amplification_with_asking is not None
        assert estimate.amplification < estimate.amplification_with_asking
        assert sum(g.asking_day_bytes for g in estimate.groups) == asked.day_bytes
        assert estimate.wan_down < 30 * 6 * MIB


def test_asking_has_a_price() -> None:
    scenario = fleet(count=10, polling=HOURLY, wan=Wan(1e6, price_per_mb=2.0))
    asked = reckon(scenario, PACKS, read_plans([], scenario), 1, plain()).of(Way.SLIPSTREAM).asking
    assert asked.day_money == pytest.approx(asked.day_bytes / 1e6 * 2.0)
    assert np.isfinite(asked.day_money)
