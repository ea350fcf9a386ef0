"""Makes a failing scenario small: fewer faults, devices, sites and bytes, as long as the same rule breaks.

Greedy delta debugging (after Zeller & Hildebrandt 2002): whole halves first, then single parts, then every
number towards the plain. Each try is a whole run, so there is a budget. The seed stays: what it draws for a
device depends on names only, so that most of a smaller scenario runs as it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from p2p.content.limits import KIB
from p2p.errors import ConfigError
from p2p.swarm.policy import Policy
from sim.scenario.model import (
    NO_BASE,
    DeviceClass,
    Fault,
    Lan,
    Order,
    Origin,
    Phase,
    Scenario,
    SiteGroup,
    SiteSize,
    SizeKind,
    Storage,
    SyntheticRelease,
    Uptime,
)
from sim.scenario.reading import parse_scenario
from sim.scenario.writing import scenario_text

__all__ = ["TRIES_MAX", "Shrunk", "shrink"]

TRIES_MAX = 120
SIZE_MIN = 256 * KIB

_Part = TypeVar("_Part")

Fails = Callable[[Scenario], bool]
"""Runs a scenario; whether the rule in question still breaks."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest scenario that was found to fail, and how many runs it took."""

    scenario: Scenario
    tries: int


def shrink(scenario: Scenario, fails: Fails, *, tries_max: int = TRIES_MAX) -> Shrunk:
    """Take away what can be taken away. `scenario` itself is known to fail and is not run."""
    tries = 0
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(scenario):
            if tries >= tries_max:
                return Shrunk(scenario, tries)
            if smaller == scenario or not _is_valid(smaller):
                continue
            tries += 1
            if fails(smaller):
                scenario = smaller
                progress = True
                break
    return Shrunk(scenario, tries)


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with a little less, those with the least first."""
    yield from (replace(scenario, faults=kept) for kept in _without(scenario.faults))
    if len(scenario.sites) > 1:
        yield from (replace(scenario, sites=kept) for kept in _without(scenario.sites) if kept)
    if len(scenario.orders) > 1:
        yield _only(scenario, scenario.orders[:1])
        yield _only(scenario, scenario.orders[1:])
    for n, group in enumerate(scenario.sites):
        for smaller in _smaller_groups(group):
            yield replace(scenario, sites=(*scenario.sites[:n], smaller, *scenario.sites[n + 1 :]))
    for n, release in enumerate(scenario.releases):
        if isinstance(release, SyntheticRelease):
            for less in _smaller_releases(release, scenario):
                yield replace(scenario, releases=(*scenario.releases[:n], less, *scenario.releases[n + 1 :]))
    used = {name for group in scenario.sites for name in group.classes}
    yield replace(scenario, classes=tuple(c for c in scenario.classes if c.name in used))
    for n, klass in enumerate(scenario.classes):
        for plainer in _plainer_classes(klass):
            yield replace(scenario, classes=(*scenario.classes[:n], plainer, *scenario.classes[n + 1 :]))
    for n, fault in enumerate(scenario.faults):
        for milder in _milder_faults(fault):
            yield replace(scenario, faults=(*scenario.faults[:n], milder, *scenario.faults[n + 1 :]))
    yield replace(scenario, origin=Origin())
    yield replace(scenario, policy=Policy())
    yield replace(scenario, polling=replace(scenario.polling, at_rest=True))
    yield replace(scenario, orders=tuple(_at_once(order) for order in scenario.orders))


def _without(parts: tuple[_Part, ...]) -> Iterator[tuple[_Part, ...]]:
    """None, each half, then all but one."""
    if parts:
        yield ()
    if len(parts) > 2:
        half = len(parts) // 2
        yield parts[:half]
        yield parts[half:]
    if len(parts) > 1:
        yield from (parts[:n] + parts[n + 1 :] for n in range(len(parts)))


def _only(scenario: Scenario, orders: tuple[Order, ...]) -> Scenario:
    """Some of the orders, and only their releases (and those that are bases of theirs)."""
    names = {order.release for order in orders}
    releases = tuple(r for r in scenario.releases if r.name in names)
    known = {d.base for r in releases if isinstance(r, SyntheticRelease) for d in r.deltas} | names
    classes = tuple(
        replace(
            c,
            bases={b: share for b, share in c.bases.items() if b in known or b == NO_BASE} or {NO_BASE: 1.0},
        )
        for c in scenario.classes
    )
    first = min(order.phases[0].opens_s for order in orders)
    orders = tuple(
        Order(o.release, tuple(Phase(p.share, p.opens_s - first) for p in o.phases)) for o in orders
    )
    return replace(scenario, releases=releases, orders=orders, classes=classes)


def _smaller_groups(group: SiteGroup) -> Iterator[SiteGroup]:
    if group.count > 1:
        yield replace(group, count=1)
    size = group.size
    if size.kind is not SizeKind.FIXED:
        for devices in dict.fromkeys((size.low, (size.low + size.high) // 2, size.high)):
            yield replace(group, size=SiteSize(SizeKind.FIXED, devices, devices))
    elif size.low > 1:
        for devices in dict.fromkeys((size.low // 2, size.low - 1)):
            yield replace(group, size=SiteSize(SizeKind.FIXED, devices, devices))
    yield replace(group, lan=Lan())
    yield replace(group, lan=replace(group.lan, segments=1))
    if len(group.classes) > 1:
        yield from (replace(group, classes={name: 1.0}) for name in group.classes)
    if group.wan is not None:
        yield replace(group, wan=replace(group.wan, loss=0.0, up_rate=0.0, delay_s=0.02, price_per_mb=0.0))
        yield replace(group, wan=replace(group.wan, outages=()))
        yield replace(group, wan=replace(group.wan, traffic=()))
        yield replace(group, wan=replace(group.wan, budget=0.0))
        yield replace(group, wan=replace(group.wan, month_max=0))
        yield replace(group, wan=replace(group.wan, windows=()))


def _smaller_releases(release: SyntheticRelease, scenario: Scenario) -> Iterator[SyntheticRelease]:
    if release.size > SIZE_MIN:
        yield replace(
            release,
            size=release.size // 2,
            full_stored=release.full_stored // 2,
            deltas=tuple(replace(d, stored=max(1, d.stored // 2)) for d in release.deltas),
        )
    used = {base for klass in scenario.classes for base in klass.bases}
    for n, delta in enumerate(release.deltas):
        if delta.base not in used:
            yield replace(release, deltas=release.deltas[:n] + release.deltas[n + 1 :])


def _plainer_classes(klass: DeviceClass) -> Iterator[DeviceClass]:
    if len(klass.bases) > 1:
        yield from (replace(klass, bases={base: 1.0}) for base in klass.bases)
    yield replace(klass, uptime=Uptime())
    yield replace(klass, uptime=Uptime(start_spread_s=klass.uptime.start_spread_s))
    yield replace(klass, storage=Storage(), patch_rate=DeviceClass("", {}).patch_rate)
    yield replace(klass, has_wan=1.0, healthy=1.0)
    yield replace(klass, clock_error_s=0.0, reboot_s=DeviceClass("", {}).reboot_s)


def _milder_faults(fault: Fault) -> Iterator[Fault]:
    if fault.every_s:
        yield replace(fault, every_s=0.0, until_s=0.0)
    if fault.count > 1:
        yield replace(fault, count=1)
    if fault.length_s > 4:
        yield replace(fault, length_s=float(round(fault.length_s / 2)))
    if fault.size > 2:
        yield replace(fault, size=fault.size // 2)


def _at_once(order: Order) -> Order:
    return Order(order.release, (Phase(1.0, order.phases[0].opens_s),))


def _is_valid(scenario: Scenario) -> bool:
    """Whether the format has it: what is kept must be read again."""
    try:
        read = parse_scenario(scenario_text(scenario).encode(), source="shrunk", directory=Path("/"))
    except ConfigError:
        return False
    return read == scenario
