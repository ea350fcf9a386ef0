"""Sites and devices of a scenario, drawn from the seed.

Every site and every device draws from a generator of its own name, so that one more site changes
nothing about the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, log
from random import Random
from typing import TYPE_CHECKING

from sim.scenario.model import Fault, FaultKind, Manner, SiteGroup, SiteSize, SizeKind
from sim.world.hostile import Hostile
from sim.world.site import Area, Site
from sim.world.uplink import Uplink
from sim.world.vehicles import stop_site

if TYPE_CHECKING:
    from sim.world.run import World


NOT_MEANT = 2.0
"""The draw of a device that no share of an order reaches: it runs another product."""


def make_sites(world: World) -> None:
    """All sites of all groups with their links, then all devices."""
    for group in world.scenario.sites:
        for number in range(group.count):
            name = f"{group.name}/{number}"
            world.sites[name] = site = Site(world, name, group)
            if group.wan is not None:
                site.uplink = site.own_uplink = Uplink(
                    name, group.wan, world.kernel, world.flows, world.origin,
                    starts_of_day=world.scenario.starts_of_day, usable=_teller(world, site),
                )  # fmt: skip
                site.uplinks.append(site.uplink)
    _join_areas(world)
    for site in world.sites.values():
        _make_devices(world, site)


def draw_size(size: SiteSize, rng: Random) -> int:
    """How many devices a site has."""
    match size.kind:
        case SizeKind.FIXED:
            return size.low
        case SizeKind.UNIFORM:
            return rng.randint(size.low, size.high)
        case SizeKind.LOGNORMAL:
            drawn = round(exp(rng.gauss(log(size.median), size.sigma)))
            return max(size.low, min(size.high, drawn))


def choose(shares: Mapping[str, float], rng: Random) -> str:
    """One of the names, by their shares."""
    at = rng.random() * sum(shares.values())
    for name, share in shares.items():
        at -= share
        if at < 0:
            return name
    return list(shares)[-1]


def _teller(world: World, site: Site) -> Callable[[bool], None]:
    return lambda up: world.wan_changed(site)


def _join_areas(world: World) -> None:
    """A vehicle and all sites where it stops are enrolled as one site: only then do they talk."""
    for site in world.sites.values():
        site.area = Area(site.name.replace("/", "-"))
        site.area.sites.append(site)
    for group in world.scenario.sites:
        for number in range(group.count):
            vehicle = world.sites[f"{group.name}/{number}"]
            for stop in group.timetable:
                host = stop_site(world, stop.site, number)
                if host is not None and host.area is not vehicle.area:
                    joined, left = host.area, vehicle.area
                    for site in left.sites:
                        site.area = joined
                        joined.sites.append(site)


def _make_devices(world: World, site: Site) -> None:
    group, kernel = site.group, world.kernel
    prefix = site.name.replace("/", "-")
    size = draw_size(group.size, kernel.rng(f"size/{site.name}"))
    hostile = _hostile(world, site, size)
    for number in range(size):
        name = f"{prefix}-{number}"
        rng = kernel.rng(f"device/{name}")
        klass = world.classes[choose(group.classes, rng)]
        base = choose(klass.bases, rng)
        segment = number % group.lan.segments
        has_wan, healthy = rng.random() < klass.has_wan, rng.random() < klass.healthy
        error, draw = rng.uniform(-1, 1) * klass.clock_error_s, rng.random()
        start = rng.random() * klass.uptime.start_spread_s
        manner = hostile.get(number)
        if manner is not None:
            world.add(Hostile(world, site, name, manner, segment=segment), start)
            continue
        device = world.seams.make_device(world, site, name, klass, base, segment=segment)
        device.has_wan, device.healthy = has_wan, healthy
        device.clock_error_s, device.draw = error, draw
        if klass.cargo:
            device.draw = NOT_MEANT
        world.add(device, start)


def _hostile(world: World, site: Site, size: int) -> dict[int, Manner]:
    """Which of a site's devices are hostile, and how."""
    found: dict[int, Manner] = {}
    for n, fault in enumerate(world.scenario.faults):
        hostile = fault.kind is FaultKind.HOSTILE or fault.manner is not None
        if hostile and _is_at(fault, site.name, site.group):
            rng = world.kernel.rng(f"fault/{n}/{site.name}")
            free = [k for k in range(size) if k not in found]
            for k in rng.sample(free, min(fault.count, len(free))):
                found[k] = fault.manner or Manner.LIAR
    return found


def _is_at(fault: Fault, site: str, group: SiteGroup) -> bool:
    return fault.where in (None, site, group.name)
