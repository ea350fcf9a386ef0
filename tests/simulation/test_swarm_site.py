"""A site of many nodes in virtual time: what crosses the WAN, who rides, who takes over."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.content.index import Patch
from p2p.content.limits import MIB
from p2p.swarm import events as e
from tests.support.virtual_site import Driver, Release, Site, make_release

BASES = [Digest(bytes([n]) * 32) for n in range(1, 5)]


def start_all(site: Site, *, spread_s: float = 0.0) -> None:
    rng = random.Random(5)
    for driver in site.drivers.values():
        driver.up = spread_s == 0.0
    for driver in site.drivers.values():

        def wake(driver: Driver = driver) -> None:
            driver.up = True
            driver.pursue()
            for other in site.drivers.values():
                if other is not driver and other.up:
                    site.at(site.now + 0.01, lambda other=other: site.connect(driver.device, other.device))

        site.at(rng.random() * spread_s, wake)


def amplification(site: Site, release: Release, base: Digest | None = None) -> float:
    return site.wan_bytes / release.pack(base).wan_bytes


@pytest.mark.parametrize("devices", [2, 8, 24])
def test_one_copy_crosses_the_wan(devices: int) -> None:
    release = make_release(32 * MIB, {})
    site = Site()
    for n in range(devices):
        site.add(f"d{n}", release)
    start_all(site)
    assert site.run(300, done=site.finished)
    assert amplification(site, release) == pytest.approx(1.0, abs=0.005)
    site.check_ledgers()
    assert site.now <= 2.5 + 1.05 * release.pack(None).wan_bytes / site.wan_rate


def test_starts_spread_over_ten_seconds() -> None:
    release = make_release(32 * MIB, {})
    site = Site()
    for n in range(8):
        site.add(f"d{n}", release)
    start_all(site, spread_s=10.0)
    site.run(11)
    assert site.run(300, done=site.finished)
    assert amplification(site, release) <= 1.01


@pytest.mark.parametrize("killed_at", [4.0, 8.0, 12.0, 17.0])
def test_the_busiest_gateway_dies(killed_at: float) -> None:
    release = make_release(32 * MIB, {})
    site = Site()
    for n in range(8):
        site.add(f"d{n}", release)
    start_all(site)
    site.run(killed_at)
    busiest = max(site.drivers.values(), key=lambda d: d.wan_bytes)
    assert busiest.wan_bytes > 0
    site.kill(busiest.device)
    assert site.run(300, done=site.finished)
    assert amplification(site, release) <= 1.10


def test_mixed_bases_pay_the_smallest_delta_once() -> None:
    release = make_release(64 * MIB, {BASES[0]: 3 * MIB, BASES[1]: 1 * MIB, BASES[2]: 2 * MIB})
    site = Site()
    for n in range(9):
        site.add(f"d{n}", release, BASES[n % 3])
    start_all(site)
    assert site.run(300, done=site.finished)
    floor = release.pack(BASES[1]).wan_bytes + release.pack(None).index.size
    assert site.wan_bytes <= 1.01 * floor
    entries = release.maps[release.pack(BASES[1]).index.sha256].index.entries
    patched = sum(entry.length for entry in entries if isinstance(entry, Patch))
    for driver in site.honest:
        driver.check_image()
        ledger = driver.node.ledger
        if driver.base == BASES[1]:
            assert (ledger.base, ledger.patched) == (release.size - patched, patched)
        else:
            assert ledger.patched == 0  # no patch of the others' deltas crossed any link
            assert ledger.chunks >= patched
        assert ledger.wasted == 0


def test_a_byte_that_an_earlier_run_verified_is_told_as_such() -> None:
    release = make_release(32 * MIB, {BASES[0]: 2 * MIB})
    site = Site()
    for n in range(3):
        site.add(f"d{n}", release, BASES[0] if n else None)
    start_all(site)
    site.run(2.5)
    held = [driver.slot.total() for driver in site.honest]
    for driver in site.honest:
        site.kill(driver.device)
        driver.restart()
    site.connect_all()
    assert site.run(300, done=site.finished)
    for driver, kept in zip(site.honest, held, strict=True):
        assert driver.node.ledger.resumed == kept
        driver.check_image()
    assert any(0 < kept < release.size for kept in held)


def test_same_base_riders_take_patches_not_images() -> None:
    release = make_release(64 * MIB, {BASES[0]: 1 * MIB})
    site = Site()
    for n in range(4):
        site.add(f"d{n}", release, BASES[0])
    start_all(site)
    assert site.run(300, done=site.finished)
    assert site.wan_bytes == release.pack(BASES[0]).wan_bytes
    assert site.lan_bytes <= 3.2 * MIB


def test_an_isolated_device_uses_the_origin() -> None:
    release = make_release(8 * MIB, {})
    site = Site()
    alone = site.add("alone", release)
    alone.pursue()
    assert site.run(60, done=site.finished)
    assert alone.wan_bytes == release.pack(None).wan_bytes
    assert alone.node.ledger.wan == alone.wan_bytes


def test_devices_without_wan_ride() -> None:
    release = make_release(8 * MIB, {})
    site = Site()
    site.add("up", release)
    for n in range(3):
        site.add(f"d{n}", release, wan=False)
    start_all(site)
    assert site.run(60, done=site.finished)
    assert amplification(site, release) == 1.0


def test_no_wan_at_all_waits_and_finishes_when_a_holder_comes() -> None:
    release = make_release(8 * MIB, {})
    site = Site()
    for n in range(3):
        site.add(f"d{n}", release, wan=False)
    start_all(site)
    assert not site.run(120, done=site.finished)
    visitor = site.add("van", release, wan=False)
    visitor.finished_at = site.now
    for data in release.objects.items():
        visitor.feed(e.HoldObject(*data))
    visitor.feed(e.Offer(release.task(None)))
    site.connect_all()
    assert site.run(site.now + 60, done=site.finished)
    assert site.wan_bytes == 0


def test_a_latecomer_costs_the_wan_nothing() -> None:
    release = make_release(16 * MIB, {BASES[0]: MIB})
    site = Site()
    for n in range(3):
        site.add(f"d{n}", release, BASES[0])
    start_all(site)
    assert site.run(60, done=site.finished)
    before = site.wan_bytes
    for name, base in (("late0", BASES[0]), ("late1", None)):
        site.add(name, release, base).pursue()
    site.connect_all()
    assert site.run(site.now + 60, done=site.finished)
    assert site.wan_bytes - before <= 2 * release.pack(None).index.size


def test_origin_down_then_up() -> None:
    release = make_release(8 * MIB, {})
    site = Site()
    for n in range(4):
        site.add(f"d{n}", release)
    site.origin_down = True
    start_all(site)
    assert not site.run(30, done=site.finished)
    site.origin_down = False
    assert site.run(site.now + 200, done=site.finished)
    assert amplification(site, release) <= 1.02


def test_a_damaged_base_is_mended_from_the_full_pack() -> None:
    release = make_release(64 * MIB, {BASES[0]: MIB})
    site = Site()
    hurt = site.add("hurt", release, BASES[0])
    hurt.bad_base.append((0, 100))
    for n in range(3):
        site.add(f"d{n}", release, BASES[0])
    start_all(site)
    assert site.run(120, done=site.finished)
    assert site.wan_bytes <= release.pack(BASES[0]).wan_bytes + release.pack(None).index.size + 6 * MIB


def test_bytes_found_wrong_at_read_back_are_fetched_again() -> None:
    release = make_release(16 * MIB, {})
    site = Site()
    hurt = site.add("hurt", release)
    hurt.read_backs.append(((MIB, MIB + 5),))
    site.add("d1", release)
    start_all(site)
    assert site.run(120, done=site.finished)
    assert amplification(site, release) <= 1.0 + 2 * MIB / (16 * MIB)
    assert hurt.finished_at is not None


@pytest.mark.parametrize("times", [1, 2])
def test_an_image_that_is_read_wrong_for_no_reason_is_read_again(times: int) -> None:
    release = make_release(8 * MIB, {})
    site = Site()
    hurt = site.add("hurt", release)
    hurt.read_backs += [()] * times
    site.add("d1", release)
    start_all(site)
    assert site.run(60, done=site.finished)
    assert amplification(site, release) <= 1.01
    assert not hurt.given_up


@pytest.mark.parametrize("damage", [(), ((MIB, MIB + 5),)], ids=["nothing-found", "the-same-each-time"])
def test_an_image_that_never_reads_back_right_is_given_up(damage: tuple[tuple[int, int], ...]) -> None:
    release = make_release(16 * MIB, {})
    site = Site()
    hurt = site.add("hurt", release)
    hurt.read_backs += [damage] * 50
    other = site.add("d1", release)
    start_all(site)
    site.run(200)
    mended = 2 * sum(stop - start for start, stop in damage)
    assert hurt.given_up == [e.GiveUp(release.task_image, 3, mended)]
    assert (hurt.finished_at, len(hurt.read_backs)) == (None, 48)  # each recheck takes one
    assert other.finished_at is not None
    assert amplification(site, release) <= 1.01 + 2 * len(damage) * MIB / (16 * MIB)
    status = hurt.node.status(release.task_image)
    assert status is not None
    assert status.role != "complete"


def test_the_same_seed_gives_the_same_trace() -> None:
    def trace(seed: int) -> list[str]:
        release = make_release(8 * MIB, {})
        site = Site(seed=seed)
        for n in range(5):
            site.add(f"d{n}", release)
        start_all(site, spread_s=3)
        site.run(60)
        return site.trace

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)
