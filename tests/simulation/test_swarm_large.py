"""Sites that are larger than the connections of a node: one copy crosses the WAN, pieces go hop by hop.

The graphs are pseudo-random, from a seed, as the coordinator's rosters make them; and some that no
roster would make, in which everything has to pass one node.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import events as e
from p2p.swarm import messages as m
from tests.support.virtual_site import Driver, Hostile, Release, Site, make_release

BASES = [Digest(bytes([n]) * 32) for n in range(1, 5)]
Links = list[tuple[str, str]]


def random_graph(devices: list[str], degree: int, seed: int = 1) -> Links:
    """Each connects to degree / 2 others, drawn from the seed."""
    rng = random.Random(seed)
    links: set[tuple[str, str]] = set()
    for one in devices:
        for other in rng.sample(devices, degree // 2):
            if one != other:
                links.add((min(one, other), max(one, other)))
    return sorted(links)


def site_of(
    devices: int, release: Release, *, bases: Iterable[Digest | None] = (None,), seed: int = 1,
    wan_rate: float = 1e6,
) -> Site:  # fmt: skip
    site = Site(seed=seed, wan_rate=wan_rate)
    site.release = release
    site.tracing = False
    kinds = list(bases)
    for n in range(devices):
        site.add(f"d{n}", release, kinds[n % len(kinds)])
    return site


def start(site: Site, links: Links, *, spread_s: float = 0.3) -> None:
    rng = random.Random(7)
    for driver in site.honest:
        site.at(rng.random() * spread_s / 10, driver.pursue)
    for one, other in links:
        site.at(rng.random() * spread_s, lambda one=one, other=other: site.connect(one, other))


def finish(site: Site, until: float = 600, base: Digest | None = None) -> float:
    """Run to the end; WAN bytes as a multiple of one copy."""
    waiting = {d.device for d in site.honest if d.up}

    def done() -> bool:
        while waiting:
            device = next(iter(waiting))
            driver = site.drivers[device]
            if driver.up and driver.finished_at is None:
                return False
            waiting.discard(device)
        return True

    assert site.run(site.now + until, done=done), f"unfinished at {site.now:.0f} s: {sorted(waiting)}"
    assert not site.violations
    assert site.release is not None
    return site.wan_bytes / site.release.pack(base).wan_bytes


def names(site: Site) -> list[str]:
    return [d.device for d in site.honest]


@pytest.mark.parametrize(("devices", "degree"), [(40, 6), (100, 8), (100, 16)])
def test_one_copy_crosses_the_wan_of_a_partial_mesh(devices: int, degree: int) -> None:
    release = make_release(16 * MIB, {})
    site = site_of(devices, release)
    start(site, random_graph(names(site), degree))
    assert finish(site) <= 1.02
    assert site.now <= 1.1 * release.pack(None).wan_bytes / site.wan_rate + 7


@pytest.mark.parametrize("kind", ["line", "star", "two-halls"])
def test_graphs_that_hang_on_one_node(kind: str) -> None:
    release = make_release(16 * MIB, {})
    site = site_of(9, release)
    all_of = names(site)
    links = {
        "line": list(pairwise(all_of)),
        "star": [(all_of[0], other) for other in all_of[1:]],
        "two-halls": [
            *((a, b) for n, a in enumerate(all_of[:5]) for b in all_of[:n]),
            *((a, b) for n, a in enumerate(all_of[4:], 4) for b in all_of[4:n]),
        ],
    }[kind]
    start(site, links)
    assert finish(site) <= 1.1


def test_mixed_bases_in_a_partial_mesh() -> None:
    release = make_release(32 * MIB, {BASES[0]: 3 * MIB, BASES[1]: MIB})
    site = site_of(60, release, bases=(BASES[0], BASES[1], None), wan_rate=250e3)
    start(site, random_graph(names(site), 10))
    finish(site)
    floor = release.pack(BASES[1]).wan_bytes + release.pack(None).index.size
    assert site.wan_bytes <= 1.05 * floor


@pytest.mark.parametrize("seed", range(2))
def test_gateways_die_one_after_the_other(seed: int) -> None:
    release = make_release(16 * MIB, {})
    site = site_of(40, release, seed=seed, wan_rate=500e3)
    start(site, random_graph(names(site), 8, seed))
    for _ in range(3):
        assert site.run(
            site.now + 40, done=lambda: site.now > 8 and any(d.fetches for d in site.honest if d.up)
        )
        site.kill(next(d.device for d in site.honest if d.up and d.fetches))
        site.run(site.now + 5)
    assert finish(site) <= 1.25
    noticed = 3 * 20.0  # until a claim has expired everywhere, at the longest
    assert site.now <= 1.25 * release.pack(None).wan_bytes / site.wan_rate + noticed


def test_churn_in_a_partial_mesh() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(40, release, wan_rate=500e3)
    links = random_graph(names(site), 10)
    start(site, links)
    rng = random.Random(3)

    def churn() -> None:
        driver = rng.choice(site.honest)
        if driver.finished_at is None and driver.up:
            site.kill(driver.device)
            site.at(site.now + 2.0, lambda: back(driver))
        if site.now < 30:
            site.at(site.now + 0.7, churn)

    def back(driver: Driver) -> None:
        driver.restart()
        for one, other in links:
            if driver.device in (one, other):
                site.connect(one, other)

    site.at(3.0, churn)
    site.run(34)
    assert finish(site) <= 1.25


def test_a_latecomer_far_from_where_all_is() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(12, release)
    early, late = names(site)[:4], names(site)[4:]
    for device in late:
        site.drivers[device].up = False
    start(site, [(a, b) for n, a in enumerate(early) for b in early[:n]])
    site.run(60)
    paid = site.wan_bytes
    for one, other in zip([early[0], *late], late, strict=False):
        site.drivers[other].up = True
        site.drivers[other].pursue()
        site.connect(one, other)
    finish(site)
    assert site.wan_bytes - paid <= 0.02 * release.size


def test_a_full_mesh_has_little_to_say_of_who_is_far() -> None:
    release = make_release(32 * MIB, {})
    site = site_of(10, release, wan_rate=250e3)
    site.tracing = True
    start(site, [(a, b) for n, a in enumerate(names(site)) for b in names(site)[:n]])
    assert finish(site) <= 1.005
    told = [float(line.split()[0]) for line in site.trace if " Hearsay" in line]
    assert len(told) <= 150
    assert max(told) <= 10  # of 134 s


def teller(site: Site, device: str, claims: Iterable[m.Claim], every_s: float = 1.0) -> Hostile:
    """Takes part, has nothing, and tells all its peers the same again and again."""
    release = site.release
    assert release is not None
    told = m.Hearsay(release.task_image, tuple(claims))
    hostile = site.add_hostile(device, lambda peer: [m.Join(release.task_image, None, False, 0, False), told])
    hostile.every(every_s, lambda: [told])
    return hostile


def claims(release: Release, kind: str) -> list[m.Claim]:
    """Devices that do not exist, at first hand, the most willing of all."""
    pack = release.pack(None).index.sha256
    leases: dict[str, tuple[tuple[int, int], ...]] = {"idle": (), "complete": (), "leases": ((0, 8), (8, 16))}
    return [
        m.Claim(f"ghost{n}", 0, None, True, 1000, kind == "complete", pack, leases[kind]) for n in range(8)
    ]


@pytest.mark.parametrize("kind", ["idle", "complete"])
@pytest.mark.parametrize("tellers", [1, 5])
def test_ghosts_that_do_nothing_hold_a_site_up_for_seconds(kind: str, tellers: int) -> None:
    release = make_release(16 * MIB, {})
    site = site_of(20, release)
    links = random_graph(names(site), 8)
    for n in range(tellers):
        liar = teller(site, f"liar{n}", claims(release, kind))
        links += [(liar.device, other) for other in random.Random(n).sample(names(site), 6)]
    start(site, links)
    assert finish(site) <= 1.6
    assert site.now <= 3 * release.pack(None).wan_bytes / site.wan_rate + 60


def test_ghosts_that_hold_leases_hold_a_site_up_no_longer_than_a_peer_could() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(20, release)
    links = random_graph(names(site), 8)
    liar = teller(site, "liar", claims(release, "leases"))
    links += [(liar.device, other) for other in names(site)[:6]]
    start(site, links)
    longest = 2 * (8 + 3 * MIB / 4096)  # a lease on promises alone, jitter included
    assert finish(site, 2 * longest) <= 2.0
    assert site.now <= longest + 100


def test_a_ghost_that_claims_what_a_gateway_fetches_costs_a_few_cancelled_fetches() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(20, release)
    links = random_graph(names(site), 8)
    pack = release.pack(None).index.sha256
    liar = teller(site, "liar", ())
    links += [(liar.device, other) for other in names(site)]

    def harass() -> None:
        for driver in site.honest:
            for lease in driver.fetches:
                del lease
                said = m.Claim("a-ghost", 0, None, True, 1000, False, pack, ((0, 16),))
                liar.send(driver.device, m.Hearsay(release.task_image, (said,)))
        site.at(site.now + 0.2, harass)

    site.at(3.0, harass)
    start(site, links)
    assert finish(site, 2000) <= 1.6


def test_nobody_is_blamed_for_what_others_said_of_it() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(20, release)
    links = random_graph(names(site), 8)
    pack = release.pack(None).index.sha256
    told = [m.Claim(f"d{n}", 0, None, True, 1000, True, pack, ()) for n in range(8)]
    liar = teller(site, "liar", told)
    links += [(liar.device, other) for other in names(site)]
    start(site, links)
    assert finish(site) <= 1.6
    assert not any(d.banned for d in site.honest)
    assert all(not reason for d in site.honest for _, reason in d.parted)


def test_the_same_seed_gives_the_same_partial_mesh() -> None:
    def trace() -> list[str]:
        release = make_release(8 * MIB, {})
        site = site_of(30, release, seed=4)
        site.tracing = True
        start(site, random_graph(names(site), 6))
        finish(site)
        return site.trace

    assert trace() == trace()


def test_a_device_that_is_told_of_and_then_met_speaks_for_itself() -> None:
    release = make_release(16 * MIB, {})
    site = site_of(3, release)
    one, other, third = site.honest
    start(site, [(one.device, other.device), (other.device, third.device)])
    site.run(4)
    site.connect(one.device, third.device)
    site.run(5)
    third.feed(e.WanChanged(False))
    assert finish(site) <= 1.1


def test_long_running_nodes_of_a_partial_mesh_take_up_a_release_within_a_second() -> None:
    release = make_release(32 * MIB, {})
    site = site_of(60, release, wan_rate=2e6)
    for one, other in random_graph(names(site), 8):
        site.connect(one, other)
    site.run(60)
    rng = random.Random(3)
    for driver in site.honest:
        site.at(60 + rng.random(), driver.pursue)
    assert finish(site) <= 1.1


def test_a_thin_link_of_a_partial_mesh_carries_one_copy() -> None:
    release = make_release(8 * MIB, {})
    site = site_of(30, release, wan_rate=16e3)
    start(site, random_graph(names(site), 8))
    assert finish(site, 3000) <= 1.05
    assert site.now <= 1.1 * release.pack(None).wan_bytes / site.wan_rate + 10
