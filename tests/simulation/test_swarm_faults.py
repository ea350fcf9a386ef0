"""Faults that are nobody's ill will: partitions, restarts, dead origins, late starts, thin links."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import events as e
from p2p.swarm.policy import Policy
from tests.support.virtual_site import Driver, Release, Site, make_release

BASES = [Digest(bytes([n]) * 32) for n in range(1, 5)]


def site_of(
    devices: int, release: Release, *, bases: Iterable[Digest | None] = (None,), seed: int = 1,
    wan_rate: float = 2e6, wan: bool = True,
) -> Site:  # fmt: skip
    site = Site(seed=seed, wan_rate=wan_rate)
    site.release = release
    kinds = list(bases)
    for n in range(devices):
        site.add(f"d{n}", release, kinds[n % len(kinds)], wan=wan)
    return site


def start(site: Site) -> None:
    for driver in site.honest:
        driver.pursue()
    site.connect_all()


def finish(site: Site, until: float = 600, base: Digest | None = None) -> float:
    done = site.run(site.now + until, done=site.finished)
    assert not site.violations
    assert done, f"unfinished at {site.now:.0f} s: {[d.device for d in site.honest if not d.finished_at]}"
    assert site.release is not None
    return site.wan_bytes / site.release.pack(base).wan_bytes


def test_two_halves_without_wan_finish_from_each_other() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(2, release, wan=False)
    left, right = site.honest
    for driver in site.honest:
        for name, data in release.objects.items():
            driver.feed(e.HoldObject(name, data))
    left.slot.add(0, 8 * MIB)
    right.slot.add(8 * MIB, 16 * MIB)
    start(site)
    assert finish(site, 30) == 0


def test_wants_of_one_object_that_cross_are_both_answered() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(2, release)
    start(site)
    pack = release.pack(None)
    for driver in site.honest:
        driver.feed(e.WantObject(pack.index.sha256, pack.index.size))
    assert finish(site) <= 1.005
    assert all(d.ready == {pack.index.sha256: release.objects[pack.index.sha256]} for d in site.honest)


def test_an_image_taken_up_later_on_an_old_connection() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(3, release)
    early, *late = site.honest
    site.connect_all()
    early.pursue()
    assert site.run(60, done=lambda: early.finished_at is not None)
    for driver in late:
        driver.pursue()
    assert finish(site, 30) <= 1.005


def test_a_join_between_connection_and_hello_is_not_lost() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(2, release)
    site.connect_all()
    for driver in site.honest:  # the hellos are still on their way
        driver.pursue()
    assert finish(site, 30) <= 1.005


@pytest.mark.parametrize("seed", range(3))
def test_a_partition_and_its_healing(seed: int) -> None:
    release = make_release(32 * MIB, {})
    site = site_of(6, release, seed=seed)
    start(site)
    site.run(6)
    site.partition(["d0", "d1", "d2"], ["d3", "d4", "d5"])
    site.run(10)
    site.heal()
    assert finish(site) <= 1.5  # while apart, both halves go on


def test_a_silence_that_is_no_loss_is_forgiven() -> None:
    """Without WAN, nobody is written off for good: the packets of half a minute were lost, no more."""
    release = make_release(16 * MIB, {})
    site = site_of(2, release, wan=False)
    visitor = site.add("van", release, wan=False)
    visitor.finished_at = 0.0
    for name, data in release.objects.items():
        visitor.feed(e.HoldObject(name, data))
    visitor.feed(e.Offer(release.task(None)))
    site.lan_rate = 2e6
    for driver in site.honest[:2]:
        driver.pursue()
    site.connect_all()
    site.run(4)
    visitor.mute = lambda message: 4 < site.now < 34
    assert finish(site) == 0


@pytest.mark.parametrize("seed", range(3))
def test_flapping_connections(seed: int) -> None:
    release = make_release(32 * MIB, {})
    site = site_of(5, release, seed=seed)
    start(site)
    rng = random.Random(seed)

    def flap() -> None:
        a, b = rng.sample([d.device for d in site.honest], 2)
        site.disconnect(a, b)
        site.at(site.now + 0.5, lambda: site.connect(a, b))
        if site.now < 40:
            site.at(site.now + 0.3, flap)

    site.at(1.0, flap)
    assert finish(site) <= 1.5  # a lost connection hands over at once


@pytest.mark.parametrize("at", [4.0, 9.0, 15.0])
def test_a_restart_goes_on_from_what_was_verified(at: float) -> None:
    release = make_release(32 * MIB, {})
    site = site_of(4, release)
    start(site)
    site.run(at)
    busiest = max(site.honest, key=lambda d: d.wan_bytes)
    before = busiest.slot.total()
    site.kill(busiest.device)
    site.run(at + 2)
    busiest.restart()
    site.connect_all()
    assert before > 0
    assert finish(site) <= 1.10
    new = sum(stored.stop - stored.start for stored in busiest.stored)
    assert new <= release.size


def test_every_gateway_dies_in_turn() -> None:
    release = make_release(32 * MIB, {})
    site = site_of(8, release)
    start(site)
    for n in range(6):
        site.run(4 + 3 * n)
        alive = [d for d in site.honest if d.up and d.fetches]
        if alive:
            site.kill(alive[0].device)
    assert sum(not d.up for d in site.honest) >= 4
    assert finish(site) <= 1.35


def test_the_origin_is_down_for_one_device_only() -> None:
    release = make_release(16 * MIB, {})
    for n in range(4):
        site = site_of(4, release)
        site.honest[n].origin_down = True
        start(site)
        assert finish(site) <= 1.01
        assert site.now <= 20


def test_the_origin_fails_for_all_and_comes_back() -> None:
    release = make_release(32 * MIB, {})
    site = site_of(8, release)
    start(site)
    site.run(8)
    site.origin_down = True
    site.run(60)
    site.origin_down = False
    assert finish(site) <= 1.05
    site.run(site.now + 5)
    site.check_ledgers()


def test_wan_closed_by_policy_stops_at_once_and_others_take_over() -> None:
    release = make_release(32 * MIB, {})
    site = site_of(4, release)
    start(site)
    site.run(6)
    busiest = max(site.honest, key=lambda d: d.wan_bytes)
    assert busiest.fetches
    busiest.feed(e.WanChanged(False))
    paid = busiest.wan_bytes
    assert not busiest.fetches
    assert finish(site) <= 1.05
    assert busiest.wan_bytes - paid <= 2 * 64 * 1024  # what was on its way


def test_wan_opened_by_policy_starts_at_once() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(2, release, wan=False)
    start(site)
    site.run(60)
    assert site.wan_bytes == 0
    site.honest[0].feed(e.WanChanged(True))
    assert finish(site, 20) <= 1.005


def expect(driver: Driver, others: Iterable[Driver], *, whole: bool = False) -> None:
    driver.feed(e.Expect({d.device: d.base for d in others}, whole))


def test_who_knows_the_roster_does_not_wait_for_the_window() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(6, release)
    for driver in site.honest:
        expect(driver, site.honest, whole=True)
    start(site)
    assert finish(site) <= 1.005
    assert site.now <= release.pack(None).wan_bytes / site.wan_rate + 1.0


def test_who_starts_anew_waits_for_those_that_the_roster_says_are_done() -> None:
    release = make_release(16 * MIB, {BASES[0]: MIB})
    site = site_of(3, release, bases=(BASES[0],))
    start(site)
    assert finish(site, base=BASES[0]) <= 1.05
    paid = site.wan_bytes
    late = site.add("late", release, BASES[0])
    late.feed(e.Expect({d.device: release.task_image for d in site.honest if d is not late}, True))
    late.pursue()
    for other in site.honest:
        if other is not late:
            site.at(site.now + 1.0, lambda other=other: site.connect("late", other.device))
    assert site.run(site.now + 60, done=site.finished)
    assert late.wan_bytes <= release.pack(None).index.size
    assert site.wan_bytes - paid <= 2 * release.pack(None).index.size


@pytest.mark.parametrize("was_here", [True, False])
def test_who_saw_others_leave_complete_waits_for_them_when_it_begins(was_here: bool) -> None:
    release = make_release(4 * MIB, {})
    site = site_of(2, release)
    later, first = site.honest
    if was_here:
        site.connect(later.device, first.device)
    first.pursue()
    assert site.run(site.now + 120, done=lambda: first.finished_at is not None)
    site.run(site.now + 1)  # it says so before it leaves
    paid = site.wan_bytes
    if was_here:
        site.disconnect(later.device, first.device)
        site.run(site.now + 1)
    later.pursue()
    site.at(site.now + 30, lambda: site.connect(later.device, first.device))
    assert site.run(site.now + 90, done=site.finished)
    again = 0 if was_here else release.pack(None).frames.size
    assert site.wan_bytes - paid == pytest.approx(again, abs=release.pack(None).index.size)


@pytest.mark.parametrize("absent", [1, 6])
def test_a_roster_that_names_absent_devices(absent: int) -> None:
    release = make_release(32 * MIB, {})
    site = site_of(6, release)
    for driver in site.honest:
        driver.feed(e.Expect(dict.fromkeys([f"d{n}" for n in range(6 + absent)]), True))
    start(site)
    assert finish(site) <= 1.05
    waited = Policy().settle_s + Policy().settle_silent_s  # they might have been about to wake
    assert site.now <= release.pack(None).wan_bytes / site.wan_rate + waited + 2.0


@pytest.mark.parametrize("bases", [(None,), (BASES[0], BASES[1], None)], ids=["one-base", "three-bases"])
def test_partial_rosters_of_a_first_boot(bases: tuple[Digest | None, ...]) -> None:
    release = make_release(32 * MIB, {BASES[0]: 3 * MIB, BASES[1]: 2 * MIB})
    site = site_of(8, release, bases=bases)
    known: list[Driver] = []
    for n, driver in enumerate(site.honest):

        def boot(driver: Driver = driver, before: tuple[Driver, ...] = tuple(known)) -> None:
            expect(driver, before)
            driver.pursue()
            for other in before:
                site.connect(driver.device, other.device)

        site.at(0.15 * n, boot)
        known.append(driver)
    assert finish(site, base=bases[1] if len(bases) > 1 else None) <= 1.05


@pytest.mark.parametrize("wan_rate", [8_000, 64_000])
def test_a_thin_link_carries_one_copy(wan_rate: int) -> None:
    release = make_release(8 * MIB, {})
    site = site_of(6, release, wan_rate=wan_rate)
    start(site)
    assert finish(site, 3000) <= 1.05
    assert site.now <= 1.1 * release.pack(None).wan_bytes / wan_rate + 5


def test_long_running_nodes_that_take_up_a_release_within_a_second() -> None:
    release = make_release(64 * MIB, {BASES[0]: 3 * MIB, BASES[1]: 1 * MIB})
    site = site_of(6, release, bases=(None, BASES[0], BASES[1]))
    site.connect_all()
    site.run(60)
    rng = random.Random(3)
    for driver in site.honest:
        site.at(60 + rng.random(), driver.pursue)
    assert finish(site, base=BASES[1]) <= 1.05


@pytest.mark.parametrize("devices", [50])
def test_a_large_site(devices: int) -> None:
    release = make_release(16 * MIB, {})
    site = site_of(devices, release)
    start(site)
    assert finish(site) <= 1.05


def scenario(seed: int) -> None:
    """Joins, leaves, kills, restarts, cuts and a failing origin, drawn from the seed."""
    rng = random.Random(seed)
    bases = rng.sample([None, *BASES[:3]], rng.randint(1, 3))
    release = make_release(8 * MIB, {b: rng.randint(1, 3) * MIB // 2 for b in bases if b}, seed=seed)
    site = site_of(rng.randint(2, 6), release, bases=bases, seed=seed)
    for n, driver in enumerate(site.honest):
        driver.up = n == 0
        site.at(rng.random() * 6, lambda driver=driver: wake(site, driver))

    def disturb() -> None:
        driver = rng.choice(site.honest)
        match rng.randrange(6):
            case 0:
                site.kill(driver.device)
                site.at(site.now + 3 * rng.random(), lambda: wake(site, driver))
            case 1:
                other = rng.choice([d for d in site.honest if d is not driver])
                site.disconnect(driver.device, other.device)
            case 2:
                driver.origin_down = True
            case 3:
                driver.feed(e.WanChanged(rng.random() < 0.5))
            case 4:
                driver.bad_base.append((0, MIB))
            case 5:
                site.connect_all()

    for _ in range(rng.randint(1, 8)):
        site.at(rng.random() * 12, disturb)

    def calm() -> None:
        for driver in site.honest:
            driver.origin_down = False
            wake(site, driver)
            driver.feed(e.WanChanged(True))
        site.connect_all()

    site.at(20.0, calm)
    site.run(20.5)
    finish(site, 400)


def wake(site: Site, driver: Driver) -> None:
    if driver.finished_at is not None and driver.up:
        return
    if not driver.up or driver.node.status(driver.release.task_image) is None:
        driver.finished_at = None
        driver.restart()
    site.connect_all()


@pytest.mark.parametrize("block", range(10))
def test_random_scenarios(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        try:
            scenario(seed)
        except BaseException as error:
            error.add_note(
                f"seed {seed}; replay: python -c "
                f"'from tests.simulation.test_swarm_faults import scenario; scenario({seed})'"
            )
            raise


def test_a_policy_with_one_gateway_still_finishes() -> None:
    release = make_release(16 * MIB, {})
    site = Site()
    site.release = release
    for n in range(5):
        site.add(f"d{n}", release, policy=Policy(gateways_max=1))
    start(site)
    assert finish(site) <= 1.005
    assert sum(d.wan_bytes > release.pack(None).index.size for d in site.honest) == 1
