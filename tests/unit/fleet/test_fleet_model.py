"""The model of a site against closed forms, and what must hold of it whatever the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content.digests import Digest
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm.plan import Participant, make_plan
from sim.fleet import asking, draw, model
from sim.fleet.packs import Pack, Packs
from sim.fleet.site_bytes import on_the_wire, site_plan
from sim.fleet.times import PIECE
from sim.scenario.model import DeviceClass, Phase, Polling, SiteSize, SizeKind, Uptime, Wan
from sim.world.wire import HttpCosts
from tests.unit.fleet.fleets import MB, PACKS, fleet, plain, spread

WIRE = HttpCosts().down(2 << 20) / (2 << 20)


def test_a_site_that_shares_pays_for_its_cheapest_pack_once() -> None:
    _, load, finished = spread(fleet(bases={"a": 0.5, "b": 0.5}, size=SiteSize(low=40, high=40)), shared=True)
    assert load.payload == pytest.approx([4 * MB])
    assert finished.max() == pytest.approx(4 * WIRE)


def test_without_sharing_each_device_pays_and_waits_for_all() -> None:
    _, load, finished = spread(fleet(size=SiteSize(low=5, high=5)), shared=False)
    assert load.payload == pytest.approx([4 * MB] * 5)
    assert finished == pytest.approx([5 * 4 * WIRE] * 5)


def test_one_device_alone_is_the_same_either_way() -> None:
    scenario = fleet(size=SiteSize(low=1, high=1))
    alone, shared = (spread(scenario, shared=s)[2] for s in (False, True))
    assert alone == pytest.approx(shared)


def test_devices_without_wan_finish_only_where_they_share() -> None:
    scenario = fleet(size=SiteSize(low=30, high=30), has_wan=0.5)
    setting, _, alone = spread(scenario, shared=False)
    assert np.array_equal(np.isfinite(alone), setting.devices.wan)
    assert np.isfinite(spread(scenario, shared=True)[2]).all()


def test_devices_that_fail_the_health_check_do_not_finish() -> None:
    setting, _, finished = spread(fleet(size=SiteSize(low=50, high=50), healthy=0.7), shared=True)
    assert np.array_equal(np.isfinite(finished), setting.devices.healthy)
    assert 0 < np.count_nonzero(~setting.devices.healthy) < 50


def test_a_slow_lan_or_disk_decides_when_it_is_the_slowest() -> None:
    scenario = fleet(size=SiteSize(low=1, high=1))
    slow = DeviceClass("box", {"a": 1.0}, reboot_s=7.0, patch_rate=1e15)
    assert slow.storage.write_rate == 50e6
    _, _, finished = spread(replace(scenario, classes=(slow,)), shared=True)
    # 100 MB read back at 100 MB/s and 7 s of reboot on top of 4.x s of WAN, which hides 2 s of writing.
    assert finished == pytest.approx([4 * WIRE + 1.0 + 7.0])


def test_a_quota_of_a_month_takes_as_many_months_as_it_must() -> None:
    scenario = fleet(size=SiteSize(low=1, high=1))
    _, load, finished = spread(scenario, shared=True, quota=load_bytes() / 2.5)
    assert load.work == pytest.approx([load_bytes()])
    assert finished == pytest.approx([2 * model.MONTH_S + 0.2 * 4 * WIRE])


def load_bytes() -> float:
    return 4 * MB * WIRE


def test_a_cheaper_base_that_comes_late_changes_the_plan_only_if_it_saves_much() -> None:
    scenario = fleet(
        bases={"a": 0.5, "b": 0.5},
        size=SiteSize(low=2, high=2),
        count=400,
        uptime=Uptime(start_spread_s=20.0),
        polling=Polling(every_s=1e9),
    )
    packs = Packs("new", 100 * MB, (*PACKS.packs[:2], Pack("b", 0, 24 * MB, 0)))
    setting, load, _ = spread(scenario, shared=True, packs=packs)
    devices = setting.devices
    start = devices.start_s.reshape(-1, 2)
    base = devices.base.reshape(-1, 2)
    order = start.argsort(axis=1)
    first, second = (np.take_along_axis(base, order[:, n : n + 1], 1)[:, 0] for n in (0, 1))
    gap = np.diff(np.sort(start, axis=1), axis=1)[:, 0] * 1e6  # bytes of b's pack that are there by then
    together = gap <= scenario.policy.settle_s * 1e6
    pieces = np.floor(gap / PIECE) * PIECE  # of b's pack, which is passed on in these
    switches = (first == 1) & (second == 0) & (24 * MB - pieces > 8 * MB) & ~together
    least = np.where((first == 0) | (together & (second == 0)), 4 * MB, 24 * MB)
    expected = np.where(switches, gap + 4 * MB, least)
    assert min(together.sum(), (~switches & ~together & (first == 1) & (second == 0)).sum()) > 2
    assert switches.sum() > 20
    assert load.payload == pytest.approx(expected)


@given(
    bases=st.lists(st.sampled_from(["a", "b", "none"]), min_size=1, max_size=6),
    wan=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_the_pack_is_the_one_that_the_site_plan_chooses(bases: list[str], wan: list[bool]) -> None:
    count = len(bases)
    names = ("a", "b", "none")
    devices = draw.Devices(
        classes=(DeviceClass("box", {"a": 1.0}),),
        bases=names,
        offsets=np.array([0, count]),
        order=np.zeros(count),
        site=np.zeros(count, dtype=np.int64),
        cls=np.zeros(count, dtype=np.int64),
        base=np.array([names.index(b) for b in bases]),
        wan=np.array(wan[:count]),
        healthy=np.ones(count, dtype=bool),
        start_s=np.zeros(count),
        polls=np.zeros(count),
        luck=np.zeros(count),
    )
    if not any(wan[:count]):
        return
    curve = model.Curve.of_steps([0.0], [1e6])
    chosen, payload = site_plan(devices, PACKS, np.zeros(count), np.zeros(1), curve, together_s=2.0)
    digest = {name: Digest(bytes([n + 1] * 32)) for n, name in enumerate(("a", "b"))}
    refs = [
        PackRef(
            digest.get(p.base or ""),
            ObjectRef(Digest(bytes([n] * 32)), p.index),
            ObjectRef(Digest(bytes([n + 9] * 32)), p.frames),
        )
        for n, p in enumerate(PACKS.packs)
    ]
    people = [Participant(str(n), digest.get(b), w) for n, (b, w) in enumerate(zip(bases, wan, strict=False))]
    real = make_plan(refs, people, {})
    assert real.pack is not None
    assert PACKS.packs[int(chosen[0])].frames == real.pack.frames.size
    assert payload[0] == real.pack.wan_bytes


@settings(max_examples=40, deadline=None)
@given(
    devices=st.integers(1, 40),
    rate=st.floats(1e4, 1e7),
    share=st.floats(0.0, 1.0),
    sharing=st.booleans(),
)
def test_a_faster_wan_is_never_slower_and_a_larger_pack_never_cheaper(
    devices: int, rate: float, share: float, sharing: bool
) -> None:
    mix = {"a": share, "b": 1 - share} if 0 < share < 1 else {"a": 1.0}
    size = SiteSize(low=devices, high=devices)
    slow = spread(fleet(bases=mix, size=size, wan=Wan(rate)), shared=sharing)
    fast = spread(fleet(bases=mix, size=size, wan=Wan(rate * 1.5)), shared=sharing)
    full = spread(fleet(bases=mix, size=size, wan=Wan(rate)), shared=sharing, packs=PACKS.without_deltas())
    assert np.all(fast[2] <= slow[2] + 1e-6)
    assert full[1].down.sum() >= slow[1].down.sum()
    assert np.all(full[2] >= slow[2] - 1e-6)


def test_phases_are_met_by_their_share_of_devices() -> None:
    phases = (Phase(0.1, 0.0), Phase(1.0, 10_000.0))
    scenario = fleet(size=SiteSize(low=1, high=1), count=5000, phases=phases)
    _, _, finished = spread(scenario, shared=False)
    assert np.mean(finished < 10_000.0) == pytest.approx(0.1, abs=0.02)
    assert finished.min() >= 4 * WIRE - 1e-6


def test_draws_follow_the_scenario_and_the_seed() -> None:
    scenario = fleet(
        bases={"a": 0.7, "b": 0.2, "none": 0.1}, count=4000,
        size=SiteSize(SizeKind.LOGNORMAL, 2, 30, 8.0, 0.6), uptime=Uptime(start_spread_s=60.0),
    )  # fmt: skip
    drawn = draw.draw_devices(scenario, scenario.sites[0], 5)
    again = draw.draw_devices(scenario, scenario.sites[0], 5)
    other = draw.draw_devices(scenario, scenario.sites[0], 6)
    assert np.array_equal(drawn.base, again.base) and np.array_equal(drawn.offsets, again.offsets)
    assert not np.array_equal(drawn.start_s[:100], other.start_s[:100])
    assert drawn.sizes.min() >= 2 and drawn.sizes.max() <= 30
    assert np.median(drawn.sizes) == pytest.approx(8, abs=1)
    shares = np.bincount(drawn.base) / len(drawn)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert drawn.start_s.mean() == pytest.approx(30.0, abs=0.5)


def test_polling_waits_half_an_interval_and_far_less_where_all_ask() -> None:
    polling = Polling(every_s=1000.0, jitter=0.2, lookout=False)
    phases = (Phase(1.0, 5000.0),)
    scenario = fleet(size=SiteSize(low=9, high=9), count=500, phases=phases, polling=polling)
    curve = model.Curve.of_steps([0.0], [1e6])
    devices = draw.draw_devices(scenario, scenario.sites[0], 1)
    opens = draw.opened(devices, phases)
    alone = draw.known(devices, polling, opens, curve, gossip=False)
    told = draw.known(devices, polling, opens, curve, gossip=True)
    assert (alone - 5000.0).mean() == pytest.approx(500 * (1 + 0.2**2 / 3), rel=0.03)
    assert (told - 5000.0).mean() == pytest.approx(100.0, rel=0.1)
    assert np.all(told <= alone + 1e-9)
    one = draw.known(devices, replace(polling, lookout=True), opens, curve, gossip=True)
    assert (one - 5000.0).mean() == pytest.approx((alone - 5000.0).mean(), rel=0.1), "one asks for all"
    assert np.all(devices.least(one)[devices.site] == one), "and all hear of it"


def test_news_wait_for_the_window() -> None:
    polling = Polling(every_s=600.0, jitter=0.0)
    scenario = fleet(count=50, polling=polling)
    curve = model.Curve.of_steps([0.0, 10_000.0], [0.0, 1.0])
    devices = draw.draw_devices(scenario, scenario.sites[0], 1)
    known = draw.known(devices, polling, draw.opened(devices, (Phase(1.0, 0.0),)), curve, gossip=False)
    assert known.min() >= 10_000.0
    assert known.max() <= 10_601.0


def test_the_constants_are_what_a_device_and_a_site_cost() -> None:
    constants = {"rest": 1000.0, "rest together": 200.0, "devices": 10.0, "fresh": 1e9}
    parameters = plain(down=constants, up={"rest": 7.0})
    scenario = fleet(size=SiteSize(low=5, high=5))
    setting, shared, _ = spread(scenario, shared=True, parameters=parameters)
    curve = model.Curve.of_steps([0.0], [1e6])
    asked = asking.updating(setting, curve, np.zeros(5), shared=True)
    assert shared.work == pytest.approx([4 * MB * WIRE + 1000 + 200 + 40])
    assert shared.down == pytest.approx(shared.work + asked.down)
    assert shared.up == pytest.approx(7.0 + asked.up)
    _, alone, _ = spread(scenario, shared=False, parameters=parameters)
    asked = asking.updating(setting, curve, np.zeros(5))
    assert alone.work == pytest.approx([4 * MB * WIRE + 1000] * 5)
    assert alone.down.sum() == pytest.approx(alone.work.sum() + asked.down.sum())


def test_indexes_are_those_of_the_pack_and_of_the_full_pack_where_chunks_are_exchanged() -> None:
    packs = Packs("new", 100 * MB, (Pack(None, 5000, 50 * MB, 0), Pack("a", 300, 4 * MB, 0)))
    parameters = plain(down={"index": 1.0, "index rest": 1.0})
    own, full = (HttpCosts().down(p.index) for p in (packs.packs[1], packs.full))

    def index(size: int, *, mixed: bool, rest: bool, shared: bool = True) -> float:
        scenario = fleet(
            bases={"a": 0.5, "none": 0.5} if mixed else None,
            size=SiteSize(low=size, high=size), polling=Polling(at_rest=rest),
        )  # fmt: skip
        setting, load, _ = spread(scenario, shared=shared, packs=packs, parameters=parameters)
        assert np.unique(setting.devices.base).size == 1 + mixed
        return float(load.work[0] - 4 * MB * WIRE)

    assert index(1, mixed=False, rest=True) == pytest.approx(own)
    assert index(40, mixed=False, rest=True) == pytest.approx(own)
    assert index(40, mixed=True, rest=True) == pytest.approx(own + full)
    assert index(40, mixed=False, rest=False) == pytest.approx(own + full), "until the plan is known"
    assert index(40, mixed=False, rest=False, shared=False) == pytest.approx(own)


def test_floors_are_those_of_the_device_that_needs_least() -> None:
    setting, load, _ = spread(fleet(bases={"b": 1.0}, count=3), shared=True)
    cheapest = PACKS.for_base("b")
    assert model.floors(setting, PACKS, load, 1.0) == pytest.approx([on_the_wire(cheapest)] * 3)
    assert model.floors(setting, PACKS, load, 0.0) == pytest.approx([0.0] * 3), "open to nobody by then"
    for shared in (True, False):
        isolated, nothing, _ = spread(fleet(has_wan=0.0), shared=shared)
        assert model.floors(isolated, PACKS, nothing, 1.0) == pytest.approx([0.0])
    assert Packs("x", 1, PACKS.packs[:1]).for_base("b") is PACKS.packs[0]
