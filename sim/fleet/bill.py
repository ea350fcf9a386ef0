"""The bill: every way to spread a release over a fleet, under every plan, summed up.

Draws the fleet once, so that ways and plans are compared on the same sites and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim.fleet import asking, draw, model, origin
from sim.fleet.curve import Curve, Floats, of_wan
from sim.fleet.outcome import MARKS, Asking, Estimate, GroupEstimate, PlanOutcome, Way
from sim.fleet.packs import Packs
from sim.fleet.parameters import Parameters
from sim.fleet.plans import Plan
from sim.fleet.setting import Setting, transfers
from sim.fleet.training import SIZE_MAX, WIRELESS_MAX
from sim.outcome import Series
from sim.scenario.model import LanKind, Scenario

POINTS = 400
"""Points of a series over time."""

QUANTILES = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class _Result:
    """One group under one way and plan."""

    load: model.Load
    curve: Curve
    finished_s: Floats
    site_down: Floats
    site_up: Floats
    site_floor: Floats


def reckon(
    scenario: Scenario,
    packs: Packs,
    plans: Sequence[Plan],
    seed: int,
    parameters: Parameters,
    *,
    ways: Sequence[Way] = tuple(Way),
    drawn: Sequence[draw.Devices] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PlanOutcome:
    """All `ways` under all `plans`. `progress` gets estimates done and how many there are.

    `drawn`: the devices of each site group, if they are known; else `seed` decides.
    """
    if drawn is None:
        drawn = [draw.draw_devices(scenario, group, seed) for group in scenario.sites]
    total = len(plans) * len(ways)
    estimates = []
    for plan in plans:
        for way in ways:
            estimates.append(_estimate(scenario, drawn, packs, plan, way, parameters))
            if progress is not None:
                progress(len(estimates), total)
    return PlanOutcome(
        scenario=scenario.name,
        seed=seed,
        sites=sum(d.sites for d in drawn),
        devices=sum(int(d.meant.sum()) for d in drawn),
        release=packs.release,
        image_bytes=packs.size,
        horizon_s=scenario.duration_s,
        plans={plan.name: plan.describe() for plan in plans},
        estimates=tuple(estimates),
        error=parameters.error,
        notes=(*notes(scenario, plans), *untested(scenario, drawn)),
    )


def notes(scenario: Scenario, plans: Sequence[Plan]) -> tuple[str, ...]:
    """What the model leaves out of this scenario and these plans."""
    found = []
    if scenario.faults:
        found.append(f"faults of the scenario ({len(scenario.faults)}) are left out: the model knows none")
    if len(scenario.orders) > 1:
        found.append(f"only the last of {len(scenario.orders)} orders is reckoned")
    if any(stop.site for group in scenario.sites for stop in group.timetable):
        found.append("what vehicles bring to the sites they visit is left out: only their own links count")
    end_s = scenario.duration_s
    for plan in plans:
        late = [p for p in plan.phases if p.opens_s >= end_s]
        if late:
            found.append(
                f"plan {plan.name!r} opens to {late[-1].share:.0%} only at or after the end of the scenario "
                f"({end_s / 3600:.4g} h), where all is counted: make its `duration` longer"
            )
    if any(plan.quota and plan.origin for plan in plans):
        found.append("under a quota the origin's capacity is shared as if there were none")
    return tuple(found)


def untested(scenario: Scenario, drawn: Sequence[draw.Devices]) -> list[str]:
    """Which sites are larger than all that the model was held against."""
    found = []
    for group, devices in zip(scenario.sites, drawn, strict=True):
        most = WIRELESS_MAX if group.lan.kind is LanKind.WIFI else SIZE_MAX
        count = int(np.count_nonzero(devices.sizes > most))
        if count:
            medium = " on one radio channel" if group.lan.kind is LanKind.WIFI else ""
            found.append(
                f"{count:,} sites of {group.name} have more devices{medium} than any that the model was "
                f"tested on ({most}): its error there is not known"
            )
    return found


def _estimate(
    scenario: Scenario,
    drawn: Sequence[draw.Devices],
    packs: Packs,
    plan: Plan,
    way: Way,
    parameters: Parameters,
) -> Estimate:
    shared = way in (Way.SHARED, Way.SLIPSTREAM)
    usable = packs if way in (Way.DELTA, Way.SLIPSTREAM) else packs.without_deltas()
    settings, loads, jobs, links = [], [], [], []
    for group, devices in zip(scenario.sites, drawn, strict=True):
        setting = Setting(
            group,
            devices,
            scenario.polling,
            scenario.policy,
            parameters,
            plan.quota,
            openings(scenario, plan),
        )
        curve = of_wan(
            group.wan,
            starts_of_day=scenario.starts_of_day,
            horizon_s=scenario.duration_s,
            stops=group.timetable,
            every_s=group.timetable_every_s,
            windows=plan.windows,
            transfers=transfers(setting, shared=shared),
        )
        opens = draw.opened(devices, plan.phases, packs.size + packs.full.index)
        known = draw.known(devices, scenario.polling, opens, curve, gossip=shared)
        load = model.load(setting, usable, known, opens, curve, shared=shared)
        settings.append(setting)
        loads.append(load)
        jobs.append(load.jobs(curve))
        links.append(curve)
    curves = origin.shared(jobs, plan.origin, scenario.duration_s)
    results = [
        _result(setting, load, curve, packs, scenario.duration_s)
        for setting, load, curve in zip(settings, loads, curves, strict=True)
    ]
    done = [origin.Jobs(r.curve, job.start_s, job.work) for r, job in zip(results, jobs, strict=True)]
    return _summed(scenario, plan, way, settings, links, results, done)


def _result(setting: Setting, load: model.Load, curve: Curve, packs: Packs, horizon_s: float) -> _Result:
    finished = model.finish(setting, load, curve)
    finished = np.where(finished <= horizon_s, finished, np.inf)
    down, up = load.per_site(load.down), load.per_site(load.up)
    first = np.minimum.reduceat(load.start_s, load.offsets[:-1])
    real = np.isfinite(first)
    end = float(curve.work(np.array([horizon_s]))[0])
    room = np.where(real, end - curve.work(np.where(real, first, 0.0)), 0.0)
    if setting.quota:
        room = np.minimum(room, setting.quota * np.ceil(horizon_s / model.MONTH_S))
    share = np.minimum(1.0, np.maximum(room, 0.0) / np.maximum(down, 1.0))
    return _Result(
        load,
        curve,
        finished,
        down * share,
        up * share,
        model.floors(setting, packs, load, horizon_s),
    )


def _summed(
    scenario: Scenario,
    plan: Plan,
    way: Way,
    settings: Sequence[Setting],
    links: Sequence[Curve],
    results: Sequence[_Result],
    jobs: Sequence[origin.Jobs],
) -> Estimate:
    groups = []
    shared = way in (Way.SHARED, Way.SLIPSTREAM)
    for setting, link, result in zip(settings, links, results, strict=True):
        down, up = float(result.site_down.sum()), float(result.site_up.sum())
        meant = result.finished_s[setting.devices.meant]
        price = _price(setting)
        day = asking.of_a_day(setting, link, scenario.duration_s, shared=shared)
        groups.append(
            GroupEstimate(
                group=setting.group.name,
                sites=setting.devices.sites,
                devices=len(meant),
                finished=int(np.count_nonzero(np.isfinite(meant))),
                wan_bytes=round(down + up),
                wan_down=round(down),
                floor_bytes=round(float(result.site_floor.sum())),
                money=(down + up) / 1e6 * price,
                asking_day_bytes=round(float(day.down.sum() + day.up.sum())),
                marks_s=marks(meant),
            )
        )
    who = [setting.devices.meant for setting in settings]
    finished = np.sort(np.concatenate([r.finished_s[m] for r, m in zip(results, who, strict=True)]))
    site_bytes = np.concatenate([r.site_down + r.site_up for r in results])
    floors = np.concatenate([r.site_floor for r in results])
    wan_down = sum(g.wan_down for g in groups)
    real = finished[np.isfinite(finished)]
    times = _times(real, jobs, scenario.duration_s)
    out = origin.egress(jobs, times)
    rates = np.maximum(np.diff(out) / np.maximum(np.diff(times), 1e-9), 0.0)
    return Estimate(
        way=way,
        plan=plan.name,
        devices=len(finished),
        finished=len(real),
        wan_bytes=sum(g.wan_bytes for g in groups),
        wan_down=wan_down,
        floor_bytes=sum(g.floor_bytes for g in groups),
        wan_money=sum(g.money for g in groups),
        origin_money=wan_down / 1e6 * scenario.origin.price_per_mb,
        asking=_asking(scenario, settings, links, marks(finished)[-1], shared=shared),
        marks_s=marks(finished),
        groups=tuple(groups),
        completion=_completion(real),
        origin_egress=Series(tuple(times.tolist()), (*rates.tolist(), 0.0)),
        site_bytes=tuple(np.quantile(site_bytes, QUANTILES).tolist()),
        site_floors=tuple(np.quantile(floors, QUANTILES).tolist()),
    )


def openings(scenario: Scenario, plan: Plan) -> int:
    """Phases of the plan that open later than what devices at rest are told first, or that start finds."""
    later = {p.opens_s for p in plan.phases if scenario.polling.at_rest or p.opens_s > 0}
    return max(0, len(later) - 1) if scenario.polling.at_rest else len(later)


def _asking(
    scenario: Scenario,
    settings: Sequence[Setting],
    links: Sequence[Curve],
    finished_s: float | None,
    *,
    shared: bool,
) -> Asking:
    """What the fleet asks in a day, and until `finished_s` (None: to the horizon)."""
    until_s = scenario.duration_s if finished_s is None else finished_s
    day_bytes = day_money = down = up = 0.0
    for setting, link in zip(settings, links, strict=True):
        day = asking.of_a_day(setting, link, scenario.duration_s, shared=shared)
        day_down, day_up = float(day.down.sum()), float(day.up.sum())
        day_bytes += day_down + day_up
        day_money += (day_down + day_up) / 1e6 * _price(
            setting
        ) + day_down / 1e6 * scenario.origin.price_per_mb
        found = asking.standing(setting, link, until_s, shared=shared)
        down += float(found.down.sum())
        up += float(found.up.sum())
    return Asking(round(day_bytes), day_money, round(down + up), round(down), until_s)


def marks(finished_s: Floats) -> tuple[float | None, ...]:
    """When each share of `MARKS` of the devices has finished."""
    ranked = np.sort(finished_s)
    found = []
    for share in MARKS:
        at = ranked[max(0, int(np.ceil(share * len(ranked))) - 1)] if len(ranked) else np.inf
        found.append(float(at) if np.isfinite(at) else None)
    return tuple(found)


def _completion(finished: Floats) -> Series:
    """Devices finished over time, at most `POINTS` steps, the first and the last device among them."""
    if len(finished) == 0:
        return Series((0.0,), (0.0,))
    counts = np.unique(np.linspace(1, len(finished), min(POINTS, len(finished))).astype(int))
    return Series((0.0, *finished[counts - 1].tolist()), (0.0, *counts.astype(float).tolist()))


def _times(finished: Floats, jobs: Sequence[origin.Jobs], horizon_s: float) -> Floats:
    """Where the origin's egress is told: evenly until the last job has ended."""
    ends = [j.curve.finish(j.start_s[r], j.work[r]) for j in jobs if (r := np.isfinite(j.start_s)).any()]
    last = max((float(e[np.isfinite(e)].max(initial=0.0)) for e in ends), default=0.0)
    stop = min(horizon_s, max(last, float(finished[-1]) if len(finished) else 0.0)) or horizon_s
    return np.linspace(0.0, stop, POINTS + 1)


def _price(setting: Setting) -> float:
    """Money per 10^6 bytes of the group's sites; the highest of its stops where only those have a link.

    Where devices have WANs of their own, the cheapest: it is those that fetch.
    """
    own = [klass.wan_price_per_mb for klass in setting.devices.classes if klass.wan_price_per_mb]
    if own:
        return min(own)
    if setting.group.wan is not None:
        return setting.group.wan.price_per_mb
    prices = [stop.wan.price_per_mb for stop in setting.group.timetable if stop.wan is not None]
    return max(prices, default=0.0)
