"""How a site of several bases begins: who hears of it first waits for those who need less of the WAN."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm.policy import Policy
from tests.support.virtual_site import Driver, Release, Site, make_release

SMALL, LARGE = Digest(b"s" * 32), Digest(b"l" * 32)
JOIN_S = Policy().join_s
FAST, SLOW = 100e6, 100e3
SEEDS = (1, 2, 3, 13, 37)


def _release() -> Release:
    return make_release(13_000_000, {SMALL: 786_000, LARGE: 890_000}, seed=1)


def _site(seed: int, wan_rate: float, bases: list[Digest]) -> Site:
    site, release = Site(seed=seed, wan_rate=wan_rate), _release()
    for n, base in enumerate(bases):
        site.add(f"d{n}", release, base)
    return site


def _tell_roster(site: Site, driver: Driver, roster: str) -> None:
    """What the coordinator knows of the others: all, that they were enrolled, or that there may be more."""
    held = {d.device: d.base if roster == "known" else None for d in site.honest if d is not driver}
    driver.feed(e.Expect(held, whole=roster != "partial"))


def _amplification(site: Site) -> float:
    assert site.run(120, done=site.finished)
    fewest = min(pack.wan_bytes for pack in site.honest[0].release.packs if pack.base is not None)
    return site.wan_bytes / fewest


@pytest.mark.parametrize("roster", ["known", "enrolled", "partial"])
@pytest.mark.parametrize("wan_rate", [FAST, SLOW])
@pytest.mark.parametrize("seed", SEEDS)
def test_devices_that_are_switched_on_pay_the_smallest_pack(seed: int, wan_rate: float, roster: str) -> None:
    """On two busy cores, it took up to three seconds between a connection and the question what is meant."""
    rng = random.Random(seed)
    site = _site(seed, wan_rate, [LARGE, SMALL] * 3)
    for driver in site.honest:
        driver.up = False

    def start(driver: Driver) -> None:
        driver.up = True
        driver.feed(e.Tick())
        for other in site.honest:
            if other is not driver and other.up:
                site.at(site.now + 0.05, lambda other=other: site.connect(driver.device, other.device))

    for driver in site.honest:
        at = rng.uniform(0, 1)
        site.at(at, lambda driver=driver: start(driver))
        site.at(at + 0.15, lambda driver=driver: _tell_roster(site, driver, roster))
        site.at(at + rng.uniform(0.2, 3), driver.pursue)
    assert _amplification(site) <= 1.02


@pytest.mark.parametrize("wan_rate", [FAST, SLOW])
@pytest.mark.parametrize("seed", SEEDS)
def test_devices_at_rest_that_hear_of_it_one_by_one_pay_the_smallest_pack(seed: int, wan_rate: float) -> None:
    rng = random.Random(seed)
    site = _site(seed, wan_rate, [LARGE, SMALL] * 3)
    for driver in site.honest:
        driver.feed(e.Tick())
    site.connect_all()
    site.at(60, lambda: site.honest[0].pursue())
    for driver in site.honest[1:]:
        site.at(60 + rng.uniform(0, 3), driver.pursue)
    assert _amplification(site) <= 1.02


def _alone_at_it(site: Site, knows: dict[str, Digest | None] | None = None) -> float:
    """Seconds that the first device takes, as nobody else takes part; `knows`: its roster."""
    one = site.honest[0]
    for driver in site.honest:
        driver.feed(e.Tick())
    site.connect_all()
    if knows is not None:
        one.feed(e.Expect(knows, whole=True))
    site.at(60, one.pursue)
    assert site.run(120, done=lambda: one.finished_at is not None)
    assert one.finished_at is not None
    return one.finished_at - 60


@pytest.mark.parametrize("held", [SMALL, None], ids=["the-roster-knows-it", "never-seen"])
def test_who_never_takes_part_is_waited_for_once_and_not_for_long(held: Digest | None) -> None:
    """It may belong to a phase that is not open yet."""
    site = _site(1, FAST, [LARGE, SMALL])
    assert JOIN_S <= _alone_at_it(site, {"d1": held}) <= JOIN_S + 1
    assert site.wan_bytes <= 1.02 * site.honest[0].release.pack(LARGE).wan_bytes  # and no index for nobody


def test_who_could_not_make_less_of_it_do_is_not_waited_for() -> None:
    assert _alone_at_it(_site(1, FAST, [SMALL, LARGE]), {"d1": LARGE}) <= Policy().gather_s + 1


def test_those_that_come_and_go_do_not_hold_up_the_site() -> None:
    site = _site(1, FAST, [LARGE, SMALL, SMALL])
    for n in range(60):  # one of the two is always there, and never for long
        other = f"d{1 + n % 2}"
        site.at(59 + n, lambda other=other: site.connect("d0", other))
        site.at(60.1 + n, lambda other=other: site.disconnect("d0", other))
    assert _alone_at_it(site) <= 2 * JOIN_S + 1


def test_what_is_being_fetched_is_not_put_off_for_a_newcomer() -> None:
    """A site that has begun goes on; a newcomer that needs less makes it change only once it takes part."""
    site, release = Site(wan_rate=1e6), make_release(64_000_000, {SMALL: 90_000, LARGE: 8_000_000}, seed=1)
    one, two = site.add("d0", release, LARGE), site.add("d1", release, SMALL)
    two.up = False
    one.feed(e.Tick())
    site.at(1, one.pursue)
    assert site.run(30, done=lambda: one.wan_bytes > 50_000)
    assert site.now < 4  # so the newcomer could still be waited for
    two.up = True
    two.feed(e.Tick())
    site.connect_all()
    before = one.wan_bytes
    site.run(site.now + 4)
    assert one.wan_bytes >= before + 3.5e6
