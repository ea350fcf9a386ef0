"""The sites and devices of a group, drawn at once: flat arrays, ordered by site.

Agrees in distribution with the draws of `sim.world`, not draw for draw: those come one at a time from
`random.Random`, these a million at once. The same seed gives the same arrays.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.fleet.curve import Curve, Floats
from sim.scenario.model import NO_BASE, DeviceClass, Phase, Polling, Scenario, SiteGroup, SiteSize, SizeKind

Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

REPEATS = 4
"""How often a device that asks while its windows are closed is followed to its next time."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of all sites of one group. Per site: `offsets` (one more than sites). Per device: the
    rest; `cls` and `base` count in `classes` and `bases`; `order` is uniform in 0..1, its turn in the
    phases; `polls` uniform in 0..1, where in its polling interval it is; `luck` uniform, for the rest."""

    classes: tuple[DeviceClass, ...]
    bases: tuple[str, ...]
    offsets: Ints
    order: Floats
    site: Ints
    cls: Ints
    base: Ints
    wan: Flags
    healthy: Flags
    start_s: Floats
    polls: Floats
    luck: Floats

    @property
    def sites(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Ints:
        """Devices of each site."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.site)

    def least(self, values: Floats) -> Floats:
        """The least of a value of the devices, per site."""
        return np.asarray(np.minimum.reduceat(values, self.offsets[:-1]))

    def most(self, values: Floats) -> Floats:
        """The greatest of a value of the devices, per site."""
        return np.asarray(np.maximum.reduceat(values, self.offsets[:-1]))

    def total(self, values: Floats | Flags) -> Floats:
        """The sum of a value of the devices, per site."""
        return np.asarray(np.add.reduceat(values.astype(np.float64), self.offsets[:-1]))

    @property
    def meant(self) -> Flags:
        """Who is to finish: not those that only take along what others run."""
        return np.asarray([c.cargo == 0 for c in self.classes])[self.cls]

    def per_class(self, values: Sequence[float]) -> Floats:
        """A value of the classes, per device."""
        return np.asarray(values, float)[self.cls]


def base_names(scenario: Scenario) -> tuple[str, ...]:
    """All names of bases that a class of the scenario uses, in order of appearance."""
    return tuple(dict.fromkeys(base for c in scenario.classes for base in _bases(c)))


def _bases(klass: DeviceClass) -> Mapping[str, float]:
    """What a class starts from; what is only taken along starts from nothing."""
    return {NO_BASE: 1.0} if klass.cargo else klass.bases


def generator(seed: int, *names: object) -> np.random.Generator:
    """The random numbers that belong to `names`, whatever else is drawn."""
    key = zlib.crc32("/".join(map(str, names)).encode())
    return np.random.default_rng([seed & 0xFFFFFFFF, key])


def draw_sizes(size: SiteSize, count: int, rng: np.random.Generator) -> Ints:
    """The number of devices of `count` sites."""
    match size.kind:
        case SizeKind.FIXED:
            return np.full(count, size.low, dtype=np.int64)
        case SizeKind.UNIFORM:
            return rng.integers(size.low, size.high, count, endpoint=True)
        case SizeKind.LOGNORMAL:
            drawn = np.rint(np.exp(rng.normal(np.log(size.median), size.sigma, count)))
            return np.clip(drawn, max(1, size.low), max(1, size.low, size.high)).astype(np.int64)


def draw_devices(scenario: Scenario, group: SiteGroup, seed: int) -> Devices:
    """All devices of a group."""
    rng = generator(seed, "fleet", group.name)
    names = base_names(scenario)
    classes = tuple(c for c in scenario.classes if group.classes.get(c.name, 0.0) > 0)
    sizes = np.maximum(draw_sizes(group.size, group.count, rng), 1)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    count = int(offsets[-1])
    cls = _choose([group.classes[c.name] for c in classes], count, rng)
    base = np.zeros(count, dtype=np.int64)
    pick = rng.random(count)
    for n, kind in enumerate(classes):
        mine = cls == n
        bases, shares = zip(*_bases(kind).items(), strict=True)
        numbers = np.asarray([names.index(b) for b in bases])
        edges = np.cumsum(np.asarray(shares) / sum(shares))[:-1]
        base[mine] = numbers[np.searchsorted(edges, pick[mine], side="right")]
    return Devices(
        classes=classes,
        bases=names,
        offsets=offsets,
        order=rng.random(count),
        site=np.repeat(np.arange(group.count, dtype=np.int64), sizes),
        cls=cls,
        base=base,
        wan=rng.random(count) < np.asarray([c.has_wan for c in classes])[cls],
        healthy=rng.random(count) < np.asarray([c.healthy for c in classes])[cls],
        start_s=rng.random(count) * np.asarray([c.uptime.start_spread_s for c in classes])[cls],
        polls=rng.random(count),
        luck=rng.random(count),
    )


def opened(devices: Devices, phases: Sequence[Phase], size: int = 0) -> Floats:
    """When the order is open for each device; infinite where no phase reaches it.

    `size`: what the image takes in a carrier's hold, which loads what has room when it is open to anybody.
    """
    at = np.full(len(devices), np.inf)
    for phase in sorted(phases, key=lambda p: p.opens_s):
        at = np.where((devices.order < phase.share) & np.isinf(at), phase.opens_s, at)
    loads = devices.per_class([size <= c.cargo for c in devices.classes]) > 0
    first = min((phase.opens_s for phase in phases), default=np.inf)
    return np.where(devices.meant, at, np.where(loads, first, np.inf))


def intervals(devices: Devices, polling: Polling) -> Floats:
    """Seconds from any moment to the next time that each device asks.

    Intervals are uniform within `jitter` of `every_s`; the one that the moment falls into is as likely to
    be found as it is long.
    """
    low, high = polling.every_s * (1 - polling.jitter), polling.every_s * (1 + polling.jitter)
    return np.asarray(devices.polls * np.sqrt(low**2 + devices.luck * (high**2 - low**2)))


def known(devices: Devices, polling: Polling, opens_s: Floats, curve: Curve, *, gossip: bool) -> Floats:
    """When each device knows of the order that opens for it at `opens_s`.

    By asking when it starts, at intervals after that, and not while its WAN's windows are closed. Devices at
    rest are told at once. With `gossip` a device also knows as soon as any other of its site does, and after
    the start only one of them asks (`Polling.lookout`).
    """
    later = np.zeros(len(devices)) if polling.at_rest else intervals(devices, polling)
    if gossip and polling.lookout:
        later = _of_first_able(devices, later)
    asks = np.where(devices.start_s >= opens_s, devices.start_s, opens_s + later)
    for _ in range(REPEATS):
        shut = np.isfinite(asks) & ~curve.open_at(asks) & devices.wan
        if curve.idle or not shut.any():
            break
        opens = curve.when(curve.work(asks) + 1.0)
        asks = np.where(shut, opens + later, asks)
    asks = np.where(devices.wan & (not curve.idle), asks, np.inf)
    if not gossip:
        return asks
    first = devices.least(asks)[devices.site]
    if polling.at_rest or bool(np.all(opens_s == opens_s[0])):
        return np.maximum(np.maximum(devices.start_s, opens_s), first)
    wait = devices.least(later)[devices.site]
    told = np.maximum(devices.start_s, opens_s + np.where(opens_s > devices.start_s, wait, 0.0))
    return np.minimum(asks, np.maximum(told, first))


def _of_first_able(devices: Devices, values: Floats) -> Floats:
    """For each device the value of the first of its site that can ask (or of the last there is)."""
    last = len(devices) - 1
    able = np.where(devices.wan, np.arange(len(devices)), last)
    found = np.minimum.reduceat(able, devices.offsets[:-1])
    return np.asarray(values[found][devices.site])


def _choose(shares: Sequence[float], count: int, rng: np.random.Generator) -> Ints:
    edges = np.cumsum(np.asarray(shares) / sum(shares))[:-1]
    return np.searchsorted(edges, rng.random(count), side="right").astype(np.int64)


def shares_of(devices: Devices) -> Mapping[str, float]:
    """The share of the devices that runs each base."""
    counts = np.bincount(devices.base, minlength=len(devices.bases))
    return {name: float(n) / max(1, len(devices)) for name, n in zip(devices.bases, counts, strict=True)}
