"""What makes sites awkward, laid over a random scenario: budgets, closed hours, others' traffic, sleepers,
bases that nothing was published for, and among faults devices that are revoked or lie about deltas.

Drawn from generators of its own, so that a seed's plain scenario is the same with and without it. But for
`awkward_faults` nothing of it is a fault: a site has to finish without fetching anything twice, only later.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from p2p.content.limits import KIB
from p2p.swarm.allowance import DAY_S, DailyWindow
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Manner,
    Scenario,
    SiteGroup,
    SyntheticRelease,
    Traffic,
    Uptime,
    Wan,
)

__all__ = ["awkward", "awkward_faults"]

DEGREES = (6, 8, 10)
"""Connections a device keeps: few enough that the larger sites are not all connected with each other."""

CLOSED_MAX_S = 1800.0
"""A link with daily windows opens this much before or after the run begins, at most."""


UNLISTED = "unlisted"
"""A base that no delta was published for; peers that come from it too compute one."""


def awkward_faults(scenario: Scenario, seed: int) -> Scenario:
    """The scenario, with a device that is revoked or lies about deltas in some."""
    rng = Random(f"awkward faults/{seed}")
    revoked, lies = rng.random() < 0.12, rng.random() < 0.1
    where = rng.choice(scenario.sites).name
    faults = scenario.faults
    if revoked:
        faults += (Fault(FaultKind.REVOKED, at_s=round(rng.uniform(1, 120), 1), where=where),)
    if lies:
        faults += (Fault(FaultKind.HOSTILE, where=where, manner=Manner.DELTA),)
    return replace(scenario, faults=faults)


def awkward(scenario: Scenario, seed: int, carriers: str) -> Scenario:
    """The scenario with what the seed draws. `carriers`: the class of those who visit sites without a WAN."""
    rng = Random(f"awkward/{seed}")
    starts_of_day = float(rng.randrange(0, DAY_S, 900))
    sites = [_site(rng, group, starts_of_day) for group in scenario.sites]
    if rng.random() < 0.3:
        degree = rng.choice(DEGREES)
        sites = [replace(g, lan=replace(g.lan, degree_max=degree)) for g in sites]
    classes = tuple(_class(rng, c, carrier=c.name == carriers) for c in scenario.classes)
    releases = scenario.releases
    if any(UNLISTED in c.bases for c in classes):
        releases = tuple(_with_unlisted(rng, r) for r in releases if isinstance(r, SyntheticRelease))
    return replace(
        scenario, starts_of_day=starts_of_day, sites=tuple(sites), classes=classes, releases=releases
    )


def _with_unlisted(rng: Random, release: SyntheticRelease) -> SyntheticRelease:
    """What a peer's delta from the unlisted base comes to."""
    share = rng.uniform(0.05, 0.3)
    stored = min(release.size, max(32 * KIB, int(release.full_stored * share)))
    patched = round(min(0.95, 1.3 * stored / release.full_stored), 3)
    return replace(release, deltas=(*release.deltas, DeltaSpec(UNLISTED, stored, patched, published=False)))


def _class(rng: Random, klass: DeviceClass, *, carrier: bool) -> DeviceClass:
    recomputes, metered, sleeps, unlisted = (rng.random() < share for share in (0.6, 0.25, 0.1, 0.4))
    if carrier:
        return replace(klass, carrier=True)
    if recomputes:
        klass = replace(klass, recompute_rate=float(rng.choice((1_000_000, 8_000_000, 30_000_000))))
    if sleeps:
        klass = replace(klass, uptime=Uptime(rng.choice((300.0, 1200.0)), rng.choice((30.0, 300.0))))
    if unlisted and NO_BASE in klass.bases:
        bases = {UNLISTED if name == NO_BASE else name: share for name, share in klass.bases.items()}
        klass = replace(klass, bases=bases)
    return replace(klass, metered=metered)


def _site(rng: Random, group: SiteGroup, starts_of_day: float) -> SiteGroup:
    stops = tuple(replace(s, wan=_wan(rng, s.wan)) if s.wan is not None else s for s in group.timetable)
    if group.wan is None:
        return replace(group, timetable=stops)
    wan = _wan(rng, group.wan)
    match rng.choice(("open", "open", "window", "traffic")):
        case "window":
            opens = starts_of_day + rng.uniform(-CLOSED_MAX_S, CLOSED_MAX_S)
            stop = opens + rng.uniform(0.25, 0.9) * DAY_S
            wan = replace(wan, windows=(DailyWindow(round(opens) % DAY_S, round(stop) % DAY_S),))
        case "traffic":
            every_s = rng.choice((60.0, 600.0))
            spans = (
                Traffic(round(rng.uniform(0, 60), 1), round(every_s * rng.uniform(0.1, 0.6), 1), every_s),
            )
            wan = replace(wan, traffic=spans, gives_way=rng.random() < 0.5)
        case _:
            pass
    return replace(group, wan=wan, timetable=stops)


def _wan(rng: Random, wan: Wan) -> Wan:
    """A budget that the devices of a site have together, on some links."""
    drawn, share = rng.random() < 0.3, rng.uniform(0.2, 0.9)
    return replace(wan, budget=float(round(wan.rate * share))) if drawn else wan
