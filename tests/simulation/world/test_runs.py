"""Whole runs: what a site pays, and that a seed determines everything."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.errors import OperatorError
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.allowance import DailyWindow
from sim.outcome import RunOutcome
from sim.scenario.model import (
    NO_BASE,
    DeviceClass,
    Lan,
    LanKind,
    Order,
    Outage,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    Uptime,
    Wan,
)
from sim.world import Seams, World, run
from sim.world.device import Device
from sim.world.observer import Observer
from tests.simulation.world.scenes import RATE, SIZE, depot, release

IDEAL_S = SIZE * 1.047 / RATE


def states(outcome: RunOutcome) -> set[str]:
    return {device.state for device in outcome.devices}


def test_a_site_of_8_pays_for_one_copy() -> None:
    outcome = run(depot(), 1)
    assert states(outcome) == {"committed"}
    assert outcome.amplification is not None
    assert 0.99 <= outcome.amplification <= 1.05
    last = max(d.verified_s or 0.0 for d in outcome.devices)
    assert IDEAL_S <= last <= 1.3 * IDEAL_S
    assert sum(d.frames_wan for d in outcome.devices) >= SIZE
    assert outcome.completion.values[-1] == 8
    egress = outcome.origin_egress
    steps = zip(egress.values, egress.times, egress.times[1:], strict=False)
    total = sum(rate * (until - since) for rate, since, until in steps)
    assert total == pytest.approx(outcome.sites[0].wan_down, rel=0.01)


def test_three_bases_pay_for_the_smallest_delta() -> None:
    bases = {"a": 0.4, "b": 0.3, "c": 0.3}
    packs = release(deltas={"a": 600_000, "b": 500_000, "c": 700_000})
    outcome = run(depot(devices=9, bases=bases, release=packs), 3)
    assert states(outcome) == {"committed"}
    assert sum(d.frames_wan for d in outcome.devices) == 500_000
    assert outcome.amplification is not None
    assert outcome.amplification <= 1.2  # of half a megabyte, the check-ins of nine devices are a sixth
    assert outcome.sites[0].wan_down < 800_000


def test_what_the_last_devices_report_is_counted() -> None:
    world = World(depot(devices=4), 1)
    outcome = world.run()
    last = max(d.finished_s or 0.0 for d in outcome.devices)
    assert not any(device.fetcher.busy for device in world.honest)
    assert last < outcome.virtual_s < last + 5.1


def _digest(seed: int, hash_seed: str) -> str:
    program = (
        "from sim.world import run\nfrom tests.simulation.world.scenes import depot\n"
        f"print(run(depot(), {seed}).trace_digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_seed_gives_one_trace_in_every_process_and_another_seed_another() -> None:
    first = _digest(1, "1")
    assert len(first) == 64
    assert _digest(1, "77") == first
    assert run(depot(), 1).trace_digest == first
    assert run(depot(), 2).trace_digest != first


def test_on_one_medium_every_copy_crosses_the_air_twice() -> None:
    switched = run(depot(devices=4), 1)
    wireless = run(depot(devices=4, lan=Lan(LanKind.WIFI)), 1)
    assert switched.sites[0].lan_bytes == pytest.approx(3 * SIZE * 1.05, rel=0.05)
    # the origin's bytes cross the air once as well
    assert wireless.sites[0].lan_bytes == pytest.approx((2 * 3 + 1) * SIZE * 1.05, rel=0.05)


def test_delay_and_loss_cost_time() -> None:
    near = run(depot(devices=3), 1)
    far = run(depot(devices=3, wan=Wan(RATE, delay_s=0.3)), 1)
    lossy = run(depot(devices=3, wan=Wan(RATE, delay_s=0.02, loss=0.2)), 1)
    ends = [max(d.verified_s or 0.0 for d in o.devices) for o in (near, far, lossy)]
    assert ends[0] < ends[1]
    assert ends[2] > 1.2 * ends[0]


def test_outside_its_windows_a_wan_carries_nothing() -> None:
    wan = Wan(RATE, windows=(DailyWindow(3600.0, 3605.0), DailyWindow(5000.0, 7000.0)))
    outcome = run(depot(devices=3, wan=wan), 1)
    assert states(outcome) == {"committed"}
    egress = outcome.origin_egress
    used = [t for t, v in zip(egress.times, egress.values, strict=True) if v > 1000]
    assert used
    bin_s = 7200 / 512
    assert all(3600 - bin_s <= t <= 3605 + bin_s or 5000 - bin_s <= t <= 7000 for t in used)
    assert 5000 <= min(d.verified_s or 0.0 for d in outcome.devices) <= 5120


def test_an_outage_stops_a_fetch_and_it_goes_on_afterwards() -> None:
    outcome = run(depot(devices=3, wan=Wan(RATE, outages=(Outage(4.0, 120.0),))), 1)
    assert states(outcome) == {"committed"}
    assert 124 < min(d.verified_s or 0.0 for d in outcome.devices) < 400
    assert outcome.amplification is not None
    assert outcome.amplification < 1.6


def test_segments_without_multicast_find_each_other_by_the_roster() -> None:
    outcome = run(depot(devices=8, lan=Lan(segments=4)), 1)
    assert states(outcome) == {"committed"}
    assert outcome.amplification is not None
    assert outcome.amplification < 1.05


def test_devices_that_start_apart_and_poll_find_the_release() -> None:
    klass = DeviceClass("box", {NO_BASE: 1.0}, uptime=Uptime(start_spread_s=30.0), reboot_s=5.0)
    outcome = run(depot(devices=5, klass=klass, polling=Polling(every_s=300.0)), 1)
    assert states(outcome) == {"committed"}
    assert outcome.amplification is not None
    assert outcome.amplification < 1.1


def test_devices_that_come_and_go_finish() -> None:
    klass = DeviceClass("box", {NO_BASE: 1.0}, uptime=Uptime(on_mean_s=60.0, off_mean_s=30.0), reboot_s=5.0)
    outcome = run(depot(devices=5, klass=klass, polling=Polling(every_s=60.0)), 1)
    assert states(outcome) == {"committed"}


def test_a_phase_waits_for_its_time_and_its_share() -> None:
    outcome = run(depot(devices=12, phases=(Phase(0.5, 0.0), Phase(1.0, 1000.0))), 1)
    assert states(outcome) == {"committed"}
    early = [d for d in outcome.devices if (d.meant_s or 0.0) < 1000]
    assert 2 <= len(early) <= 10
    assert all((d.meant_s or 0.0) >= 1000 for d in outcome.devices if d not in early)
    assert outcome.amplification is not None
    assert outcome.amplification < 1.1


def test_a_release_that_is_not_healthy_is_rolled_back() -> None:
    klass = DeviceClass("box", {NO_BASE: 1.0}, healthy=0.0, reboot_s=5.0)
    outcome = run(depot(devices=3, klass=klass), 1)
    assert states(outcome) == {"rolled-back"}
    assert outcome.completion.values[-1] == 0
    assert outcome.sites[0].finished == 0


def test_sites_share_the_origins_capacity() -> None:
    scenario = depot(devices=2, count=4)
    alone = run(scenario, 1)
    shared = run(replace(scenario, origin=replace(scenario.origin, capacity=1e6)), 1)
    assert max(shared.origin_egress.values) <= 1.02e6
    assert shared.virtual_s > 3 * max(d.verified_s or 0.0 for d in alone.devices)
    assert states(shared) == {"committed"}


def test_a_van_brings_the_image_to_a_site_without_wan() -> None:
    van = SiteGroup(
        "van", 1, SiteSize(low=1, high=1), {"box": 1.0}, Lan(),
        timetable=(Stop(0.0, 600.0, wan=Wan(RATE)), Stop(1000.0, 600.0, "field")),
    )  # fmt: skip
    field = SiteGroup("field", 1, SiteSize(low=3, high=3), {"box": 1.0}, Lan())
    scenario = replace(depot(), sites=(van, field), polling=Polling(every_s=60.0))
    outcome = run(scenario, 1)
    assert states(outcome) == {"committed"}
    by_site = {s.site: s for s in outcome.sites}
    assert by_site["field/0"].wan_down == 0
    assert by_site["field/0"].floor_bytes is None
    assert all((d.meant_s or 0.0) >= 1000 for d in outcome.devices if d.site == "field/0")


@pytest.mark.parametrize(("carrier", "expected"), [(True, {"committed"}), (False, {"committed", "fetching"})])
def test_a_van_that_was_updated_by_a_delta_serves_a_site_if_it_is_a_carrier(
    carrier: bool, expected: set[str]
) -> None:
    """Its patches are gone after its restart; the full pack's index, which it did not need itself, is not."""
    van = SiteGroup(
        "van", 1, SiteSize(low=2, high=2), {"van": 1.0}, Lan(),
        timetable=(Stop(0.0, 300.0, wan=Wan(RATE)), Stop(600.0, 300.0, "field")),
    )  # fmt: skip
    field = SiteGroup("field", 1, SiteSize(low=4, high=4), {"box": 1.0}, Lan())
    box = DeviceClass("box", {"v1": 1.0}, reboot_s=5.0)
    scenario = replace(
        depot(release=release(deltas={"v1": 400_000})), sites=(van, field), polling=Polling(every_s=60.0),
        classes=(box, replace(box, name="van", carrier=carrier)), duration_s=7200.0,
    )  # fmt: skip
    world = World(scenario, 1)
    outcome = world.run()
    assert states(outcome) == expected
    # Those who wait for what nobody has do not keep a core busy with it.
    assert world.kernel.events < 60_000


def test_a_timeline_tells_where_every_byte_came_from() -> None:
    outcome = run(depot(devices=3), 1, timelines=("depot/0",))
    spans = outcome.timelines["depot/0"]
    for device in outcome.devices:
        mine = [s for s in spans if s.device == device.device and s.what in ("fetched", "rode", "made")]
        assert sum(s.stop - s.start for s in mine) == SIZE
        assert all(s.since_s <= s.until_s for s in mine)
    assert {s.what for s in spans} >= {"fetched", "rode"}
    with pytest.raises(OperatorError):
        run(depot(), 1, timelines=("nowhere/0",))


def test_a_second_order_supersedes_the_first() -> None:
    orders = (Order("v2"), Order("v3", (Phase(1.0, 4.0),)))
    releases = (release("v2"), release("v3", deltas={"v2": 400_000}))
    outcome = run(depot(devices=3, releases=releases, orders=orders), 1)
    assert states(outcome) == {"committed"}
    assert min(d.finished_s or 0.0 for d in outcome.devices) > 10


def test_bytes_and_time_are_those_of_the_site_benchmark() -> None:
    """`benchmarks/README.md`: 8 agents at rest, 32 MiB, 16 Mbit/s, plain HTTP: 35.13 MB and 18.6 s."""
    klass = DeviceClass("box", {NO_BASE: 1.0}, reboot_s=0.0)
    scenario = depot(klass=klass, release=release(size=32 << 20), wan=Wan(2e6), lan=Lan(rate=125e6))
    outcome = run(scenario, 1, seams=Seams(tls=False))
    assert outcome.sites[0].wan_down == pytest.approx(35.13e6, rel=0.03)
    assert max(d.verified_s or 0.0 for d in outcome.devices) == pytest.approx(18.6, rel=0.15)


class _Heard(Observer):
    """Counts what it is told of."""

    def __init__(self, heeds: Collection[type] | None) -> None:
        self.heeds = heeds
        self.counts: Counter[type] = Counter()
        self.payloads: Counter[type] = Counter()

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        self.counts[type(event.message) if type(event) is e.Received else type(event)] += 1

    def sent(self, source: str, target: str, message: m.Piece | m.Blob) -> None:
        self.payloads[type(message)] += 1


def test_an_observer_is_told_of_what_it_heeds_and_changes_nothing() -> None:
    all_of_it, some, none = _Heard(None), _Heard({m.Want, e.PieceSent}), _Heard(())
    digests = {run(depot(), 1, observer=observer).trace_digest for observer in (all_of_it, some, none, None)}
    assert len(digests) == 1
    assert {m.Want, m.HaveMore, e.PieceSent, e.Tick} < set(all_of_it.counts)
    assert dict(some.counts) == {what: all_of_it.counts[what] for what in (m.Want, e.PieceSent)}
    assert not none.counts
    assert none.payloads == all_of_it.payloads
    assert all_of_it.payloads[m.Piece] == all_of_it.counts[m.Piece] > 0


def _objects_fetched(scenario: Scenario, seed: int) -> tuple[World, Counter[str]]:
    """How often each small object was asked of the origin, by the beginning of its digest."""
    lines: list[str] = []
    world = World(scenario, seed, tell=lines.append)
    outcome = world.run()
    assert states(outcome) == {"committed"}
    return world, Counter(line.split()[-1] for line in lines if " fetches object " in line)


@pytest.mark.parametrize("bases", [{NO_BASE: 1.0}, {"a": 0.6, NO_BASE: 0.4}])
def test_every_small_object_crosses_the_wan_once_although_all_ask_at_once(bases: dict[str, float]) -> None:
    scenario = depot(devices=9, bases=bases, release=release(deltas={"a": 300_000}))
    for seed in range(3):
        _, fetched = _objects_fetched(scenario, seed)
        assert len(fetched) >= 10
        assert set(fetched.values()) == {1}


def test_an_index_is_not_fetched_while_who_has_it_starts_anew() -> None:
    klass = DeviceClass("box", {NO_BASE: 1.0}, uptime=Uptime(start_spread_s=40.0), reboot_s=60.0)
    world, fetched = _objects_fetched(depot(devices=2, klass=klass, polling=Polling(every_s=300.0)), 4)
    first, second = sorted(world.honest, key=lambda d: d.started_s or 0.0)
    assert first.agent.verified_s is not None
    assert second.started_s is not None
    assert first.agent.verified_s + 5.0 < second.started_s < first.agent.verified_s + 60.0
    index = next(digest for m in world.materials.values() for digest in m.maps)
    assert fetched[index[:4].hex()] == 1
