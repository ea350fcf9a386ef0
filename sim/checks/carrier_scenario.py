"""Carriers laid over a random scenario: places without a WAN, vans that come by, and what they take along.

Drawn from a generator of its own, so that what else a seed draws is the same with and without it.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sim.scenario.model import (
    NO_BASE,
    DeviceClass,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    SyntheticRelease,
    Wan,
)

__all__ = ["with_carriers"]

CARGO = "cargo"
"""The class of carriers that run nothing of what is ordered."""


def with_carriers(scenario: Scenario, seed: int, carriers: str) -> Scenario:
    """The scenario, with a van in more of them, and with cargo in some of its vans.

    `carriers`: the class of those who run what they carry.
    """
    rng = Random(f"carriers/{seed}")
    added, loaded, crew, short = (rng.random() for _ in range(4))
    if added < 0.25 and not any(group.timetable for group in scenario.sites):
        scenario = _with_van(rng, scenario, carriers)
    if not any(group.timetable for group in scenario.sites):
        return scenario
    if (
        loaded < 0.5 or len(scenario.releases) > 1
    ):  # who runs it has the second by a delta, of which it gives no chunks
        scenario = _with_cargo(rng, scenario, carriers, fits=short > 0.1)
    if crew < 0.3:
        sites = [_with_crew(g) if g.timetable else g for g in scenario.sites]
        scenario = replace(scenario, sites=tuple(sites))
    return scenario


def _with_crew(van: SiteGroup) -> SiteGroup:
    """Two devices on one network: on two, without multicast, they would know of each other too late."""
    return replace(van, size=SiteSize(low=2, high=2), lan=replace(van.lan, segments=1))


def _with_van(rng: Random, scenario: Scenario, carriers: str) -> Scenario:
    """One or two more places, and a van that comes to each of them once a round."""
    first = scenario.sites[0]
    count = rng.choice((1, 1, 2))
    round_s = float(rng.choice((900, 1800, 3600)))
    home = Wan(float(rng.randint(200_000, 2_500_000)), delay_s=0.02)
    contact_s = rng.uniform(0.05, 0.2) * round_s
    stops = [Stop(0.0, round(0.4 * round_s, 1), None, home)]
    stops += [
        Stop(round((0.5 + 0.25 * n) * round_s, 1), round(contact_s, 1), f"place/{n}") for n in range(count)
    ]
    size = SiteSize(low=(low := rng.randint(1, 5)), high=low)
    places = SiteGroup("place", count, size, dict(first.classes), first.lan)
    van = SiteGroup(
        "van", 1, SiteSize(low=1, high=1), {carriers: 1.0}, first.lan, None, tuple(stops), round_s
    )
    klass = DeviceClass(carriers, {NO_BASE: 1.0}, carrier=True)
    return replace(scenario, sites=(*scenario.sites, places, van), classes=(*scenario.classes, klass))


def _with_cargo(rng: Random, scenario: Scenario, carriers: str, *, fits: bool) -> Scenario:
    """Its vans run something else, and have room for what is ordered, or for less than that."""
    sizes = [r.size for r in scenario.releases if isinstance(r, SyntheticRelease)]
    index = 1.05  # what is kept of an image beside its bytes
    cargo = int(sum(sizes) * index * rng.uniform(1.0, 2.0)) if fits else max(1, min(sizes) // 2)
    klass = DeviceClass(CARGO, {NO_BASE: 1.0}, carrier=True, cargo=cargo)
    sites = [
        replace(g, classes={CARGO if c == carriers else c: share for c, share in g.classes.items()})
        for g in scenario.sites
    ]
    kept = [c for c in scenario.classes if c.name != carriers]
    return replace(scenario, sites=tuple(sites), classes=(*kept, klass))
