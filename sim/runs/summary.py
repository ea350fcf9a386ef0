"""What a run came to in a few figures: per site group and in all, and against what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sim.outcome import DeviceOutcome, RunOutcome, SiteOutcome
from sim.scenario.model import Expect

__all__ = ["PERCENTILES", "Expectation", "Summary", "expectations", "summarise", "summarise_groups"]

PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of some sites. `devices` leaves out hostile ones and carriers of what others run; `finished_s`: per
    percentile, when that share of the devices had committed (virtual seconds), None if it never had."""

    name: str
    sites: int
    devices: int
    finished: int
    wan_down: int
    wan_up: int
    floor_bytes: int
    money: float
    amplification: float | None
    """WAN bytes down per byte of the floor, over the sites that have one."""
    finished_s: dict[int, float | None]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that the scenario asks for, in words, and whether the run gave it."""

    what: str
    asked: float
    got: float | None
    met: bool


def summarise(name: str, sites: Iterable[SiteOutcome], devices: Iterable[DeviceOutcome]) -> Summary:
    """The figures of some sites and their devices."""
    sites = list(sites)
    counted = [d for d in devices if d.is_meant]
    times = sorted(d.finished_s for d in counted if d.finished_s is not None)
    floor = sum(s.floor_bytes or 0 for s in sites)
    return Summary(
        name=name,
        sites=len(sites),
        devices=len(counted),
        finished=len(times),
        wan_down=sum(s.wan_down for s in sites),
        wan_up=sum(s.wan_up for s in sites),
        floor_bytes=floor,
        money=sum(s.money for s in sites),
        amplification=sum(s.wan_down for s in sites if s.floor_bytes) / floor if floor else None,
        finished_s={p: _time_of(p, times, len(counted)) for p in PERCENTILES},
    )


def summarise_groups(outcome: RunOutcome) -> list[Summary]:
    """One summary per site group, in the order of the scenario."""
    groups: dict[str, list[SiteOutcome]] = {}
    group_of = {}
    for site in outcome.sites:
        groups.setdefault(site.group, []).append(site)
        group_of[site.site] = site.group
    devices: dict[str, list[DeviceOutcome]] = {group: [] for group in groups}
    for device in outcome.devices:
        devices[group_of[device.site]].append(device)
    return [summarise(group, sites, devices[group]) for group, sites in groups.items()]


def expectations(expect: Expect, outcome: RunOutcome) -> list[Expectation]:
    """Everything that is asked, met or not."""
    whole = summarise("all", outcome.sites, outcome.devices)
    share = whole.finished / whole.devices if whole.devices else 1.0
    found = [
        Expectation("share of devices finished", expect.finished_share, share, share >= expect.finished_share)
    ]
    if expect.amplification_max:
        a = whole.amplification
        met = a is not None and a <= expect.amplification_max
        found.append(Expectation("amplification at most", expect.amplification_max, a, met))
    if expect.finished_by_s:
        times = sorted(d.finished_s for d in outcome.devices if d.finished_s is not None)
        needed = math.ceil(expect.finished_share * whole.devices - 1e-9)
        at = times[needed - 1] if 0 < needed <= len(times) else None
        met = needed == 0 or (at is not None and at <= expect.finished_by_s)
        found.append(Expectation("finished by (s)", expect.finished_by_s, at, met))
    return found


def _time_of(percentile: int, times: list[float], devices: int) -> float | None:
    """When the device that makes up the percentile had finished."""
    number = math.ceil(devices * percentile / 100)
    return times[number - 1] if 0 < number <= len(times) else None
