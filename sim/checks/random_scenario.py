"""Small scenarios out of a seed: sites, links, devices, releases, orders, and faults thrown together.

The same seed gives the same scenario, one that `sim.scenario.writing` writes and `sim.scenario.reading`
reads back. Sizes are small enough for a run to take well under a second, and varied enough that every
kind of link, base, timetable and fault meets every other. What a run is held to is `safety`'s and
`liveness`'s business.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

from p2p.content.limits import KIB, MIB
from p2p.swarm.policy import Policy
from sim.checks.awkward_scenario import awkward as make_awkward
from sim.checks.awkward_scenario import awkward_faults
from sim.checks.bounds import time_needed_s
from sim.checks.carrier_scenario import with_carriers
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    LanKind,
    Manner,
    Order,
    Origin,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    SizeKind,
    Stop,
    Storage,
    SyntheticRelease,
    Uptime,
    Wan,
    Who,
)

__all__ = ["DEVICES_MAX", "SITES_MAX", "random_scenario"]

SITES_MAX = 3
DEVICES_MAX = 16
"""Per site."""

SMALL_SITES = 2
SMALL_DEVICES = 5
FAULTS_MAX = 4
CARRIER = "carrier"
"""The class of devices on vehicles: they make their image of the full pack, which they can pass on."""

_BASES = ("old", "older", "oldest")
_MIXES: tuple[dict[str, float], ...] = (
    {NO_BASE: 1.0},
    {"old": 1.0},
    {"old": 0.5, "older": 0.5},
    {"old": 0.7, "older": 0.2, NO_BASE: 0.1},
    {"old": 0.4, "older": 0.3, "oldest": 0.3},
    {"oldest": 0.5, NO_BASE: 0.5},
)


def random_scenario(
    seed: int, *, faults: bool = True, small: bool = False, awkward: bool = False, carriers: bool = False
) -> Scenario:
    """The scenario of a seed; without `faults` nothing goes wrong in it.

    `small`: at most `SMALL_SITES` sites of `SMALL_DEVICES` devices, and images of a few MB, so that
    hundreds of runs take seconds. `awkward`: sites have what `awkward_scenario` draws, too; `carriers`:
    there are more vans, as `carrier_scenario` draws them.
    """
    scenario = _Maker(Random(f"random scenario/{seed}"), seed, small=small).make()
    if awkward:
        scenario = make_awkward(scenario, seed, CARRIER)
    if carriers:
        scenario = with_carriers(scenario, seed, CARRIER)
    if faults:
        scenario = replace(scenario, faults=_faults(Random(f"random faults/{seed}"), scenario))
        scenario = awkward_faults(scenario, seed) if awkward else scenario
    return replace(scenario, duration_s=math.ceil(time_needed_s(scenario)) + 600.0)


class _Maker:
    """One scenario in the making."""

    def __init__(self, rng: Random, seed: int, *, small: bool) -> None:
        self._rng = rng
        self._seed = seed
        self._sites = SMALL_SITES if small else SITES_MAX
        self._devices = SMALL_DEVICES if small else DEVICES_MAX
        self._image = (256 * KIB, 3 * MIB) if small else (MIB, 16 * MIB)

    def make(self) -> Scenario:
        rng = self._rng
        releases = [self._release("new")]
        vehicle = rng.random() < 0.1
        if rng.random() < 0.15 and not vehicle:  # it would come with a delta, of which it cannot give chunks
            releases.append(self._release("newer", before="new"))
        known = {delta.base for release in releases for delta in release.deltas}
        classes = tuple(self._class(f"class-{n}", known) for n in range(rng.choice((1, 1, 2))))
        sites = self._groups(classes, vehicle=vehicle)
        if vehicle:
            classes = (*classes, DeviceClass(CARRIER, {NO_BASE: 1.0}))
        every_s = float(rng.choice((60, 120, 300, 600)))
        return Scenario(
            name=f"random-{self._seed}",
            description="",
            duration_s=1.0,
            releases=tuple(releases),
            classes=classes,
            sites=sites,
            orders=self._orders(releases),
            origin=Origin(capacity=_rate(rng, 500_000, 5_000_000) if rng.random() < 0.15 else 0.0),
            polling=Polling(every_s, rng.choice((0.0, 0.2)), at_rest=rng.random() < 0.5),
            policy=self._policy(),
        )

    def _release(self, name: str, before: str | None = None) -> SyntheticRelease:
        rng = self._rng
        size = _log_uniform(rng, *self._image) // KIB * KIB
        full = max(64 * KIB, int(size * rng.uniform(0.3, 1.0)))
        bases = [*_BASES, *([before] if before else [])]
        deltas = []
        for base, share in zip(bases, (0.1, 0.25, 0.4, 0.1), strict=False):
            if rng.random() < 0.85:
                stored = max(32 * KIB, int(full * share * rng.uniform(0.3, 1.3)))
                low = min(0.95, 1.2 * stored / full)  # a patch is smaller than what it replaces
                deltas.append(DeltaSpec(base, min(stored, size), round(rng.uniform(low, 1.0), 3)))
        return SyntheticRelease(name, size, full, tuple(deltas), chunk=rng.choice((32, 128, 256)) * KIB)

    def _class(self, name: str, known: set[str]) -> DeviceClass:
        rng = self._rng
        bases: dict[str, float] = {}
        for base, share in rng.choice(_MIXES).items():
            base = base if base in known else NO_BASE
            bases[base] = round(bases.get(base, 0.0) + share, 3)
        return DeviceClass(
            name,
            bases,
            uptime=Uptime(start_spread_s=rng.choice((0.0, 0.0, 2.0, 30.0, 300.0))),
            storage=Storage(
                write_rate=_rate(rng, 2_000_000, 100_000_000), read_rate=_rate(rng, 20_000_000, 200_000_000)
            ),
            patch_rate=_rate(rng, 2_000_000, 80_000_000),
            has_wan=rng.choice((1.0, 1.0, 1.0, 0.5)),
            reboot_s=rng.choice((5.0, 20.0, 45.0)),
        )

    def _groups(self, classes: tuple[DeviceClass, ...], *, vehicle: bool) -> tuple[SiteGroup, ...]:
        rng = self._rng
        left = rng.randint(1, self._sites)
        groups: list[SiteGroup] = []
        while left:
            count = rng.randint(1, left)
            left -= count
            groups.append(
                SiteGroup(
                    f"site-{len(groups)}", count, self._size(), self._mix(classes), self._lan(), self._wan()
                )
            )
        if vehicle:
            groups += self._vehicle(classes)
        return tuple(groups)

    def _vehicle(self, classes: tuple[DeviceClass, ...]) -> list[SiteGroup]:
        """A place without a WAN, and a vehicle that comes by with what it fetched elsewhere."""
        rng = self._rng
        island = SiteGroup("island", 1, self._size(), self._mix(classes), self._lan())
        round_s = float(rng.choice((600, 1200, 3600)))
        stops = (
            Stop(0.0, 0.5 * round_s, None, self._wan()),
            Stop(0.6 * round_s, 0.3 * round_s, "island"),
        )
        size = SiteSize(SizeKind.FIXED, 1, 1)
        van = SiteGroup("van", 1, size, {CARRIER: 1.0}, self._lan(), None, stops, round_s)
        return [island, van]

    def _size(self) -> SiteSize:
        low, high = sorted(_log_uniform(self._rng, 1, self._devices) for _ in range(2))
        return SiteSize(SizeKind.UNIFORM, low, high) if low < high else SiteSize(SizeKind.FIXED, low, low)

    def _mix(self, classes: tuple[DeviceClass, ...]) -> dict[str, float]:
        return {c.name: round(1 / len(classes), 3) for c in classes}

    def _lan(self) -> Lan:
        rng = self._rng
        return Lan(
            kind=rng.choice((LanKind.SWITCHED, LanKind.SWITCHED, LanKind.WIFI)),
            rate=_rate(rng, 1_000_000, 125_000_000),
            delay_s=rng.choice((0.0002, 0.001, 0.005)),
            loss=rng.choice((0.0, 0.0, 0.01)),
            segments=rng.choice((1, 1, 1, 2)),
            degree_max=rng.choice((64, 64, 32)),
        )

    def _wan(self) -> Wan:
        rng = self._rng
        rate = _rate(rng, 30_000, 2_500_000)
        return Wan(
            rate,
            up_rate=rng.choice((0.0, round(rate / 8))),
            delay_s=rng.choice((0.005, 0.02, 0.08, 0.3)),
            loss=rng.choice((0.0, 0.0, 0.0, 0.002)),
            price_per_mb=rng.choice((0.0, 0.5)),
        )

    def _orders(self, releases: list[SyntheticRelease]) -> tuple[Order, ...]:
        rng = self._rng
        orders: list[Order] = []
        opens = 0.0
        for release in releases:
            if rng.random() < 0.2:
                phases: tuple[Phase, ...] = (Phase(0.3, opens), Phase(1.0, opens + rng.choice((60.0, 600.0))))
            else:
                phases = (Phase(1.0, opens),)
            orders.append(Order(release.name, phases))
            opens = phases[-1].opens_s + rng.choice((20.0, 200.0, 2000.0))
        return tuple(orders)

    def _policy(self) -> Policy:
        rng = self._rng
        if rng.random() < 0.8:
            return Policy()
        return replace(
            Policy(), gateways_max=rng.choice((1, 2, 3)), run_bytes=rng.choice((256 * KIB, 4 * MIB))
        )


_OF_DEVICES = frozenset(
    {FaultKind.CRASH, FaultKind.RESTART, FaultKind.LEAVE, FaultKind.LATE, FaultKind.BIT_ROT_BASE,
     FaultKind.BIT_ROT_SLOT, FaultKind.DISK_FULL, FaultKind.DISK_SLOW, FaultKind.CLOCK}
)  # fmt: skip
_LASTING = frozenset(
    {FaultKind.ORIGIN_DOWN, FaultKind.WAN_DOWN, FaultKind.WAN_SLOW, FaultKind.PARTITION, FaultKind.CRASH,
     FaultKind.RESTART, FaultKind.DISK_FULL, FaultKind.DISK_SLOW}
)  # fmt: skip
_DRAWN = tuple(kind for kind in FaultKind if kind is not FaultKind.REVOKED)
"""Kinds that a random scenario has; another one would make other scenarios of all seeds that are pinned."""

_KINDS: tuple[FaultKind, ...] = (*_DRAWN, FaultKind.HOSTILE, FaultKind.HOSTILE)


def _faults(rng: Random, scenario: Scenario) -> tuple[Fault, ...]:
    """Some faults, at the times when most is going on, or a little later."""
    busy_s = 20.0 + max(
        min(r.full_stored, 4 * MIB) / g.wan.rate
        for r in scenario.releases
        if isinstance(r, SyntheticRelease)
        for g in (*scenario.sites,)
        if g.wan is not None
    )
    places = [None, *(g.name for g in scenario.sites), *(f"{g.name}/0" for g in scenario.sites)]
    manners = tuple(m for m in Manner if m is not Manner.DELTA)  # nothing here needs deltas of peers
    if any(group.timetable for group in scenario.sites):
        manners = tuple(m for m in manners if m is not Manner.FLOOD)  # for hours: too many messages
    return tuple(
        _fault(rng, rng.choice(_KINDS), round(rng.uniform(0.5, busy_s), 2), rng.choice(places), manners)
        for _ in range(rng.randint(1, FAULTS_MAX))
    )


def _fault(
    rng: Random, kind: FaultKind, at_s: float, where: str | None, manners: tuple[Manner, ...]
) -> Fault:
    fault = Fault(kind, where=where)
    if kind is not FaultKind.HOSTILE:
        fault = replace(fault, at_s=at_s)
    if kind in _LASTING:
        fault = replace(fault, length_s=float(_log_uniform(rng, 2, 180)))
    match kind:
        case FaultKind.WAN_SLOW | FaultKind.DISK_SLOW:
            fault = replace(fault, factor=round(rng.uniform(0.05, 0.8), 3))
        case FaultKind.BIT_ROT_BASE | FaultKind.BIT_ROT_SLOT:
            fault = replace(fault, size=_log_uniform(rng, 1, 2 * MIB))
        case FaultKind.CLOCK:
            fault = replace(fault, size=rng.choice((-86_400, -60, 3600, 1_000_000)))
        case FaultKind.HOSTILE:
            fault = replace(fault, manner=rng.choice(manners))
    if kind in _OF_DEVICES:
        fault = replace(fault, who=rng.choice(tuple(Who)), count=rng.choice((1, 1, 2, 4)))
    if kind in (FaultKind.CRASH, FaultKind.RESTART, FaultKind.CUT) and rng.random() < 0.3:
        every_s = max(2 * fault.length_s, float(_log_uniform(rng, 5, 120)))
        fault = replace(fault, every_s=every_s, until_s=at_s + every_s * rng.randint(1, 4))
    return fault


def _rate(rng: Random, low: int, high: int) -> float:
    return float(_log_uniform(rng, low, high))


def _log_uniform(rng: Random, low: int, high: int) -> int:
    return min(high, max(low, round(math.exp(rng.uniform(math.log(low), math.log(high))))))
