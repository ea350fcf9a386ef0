"""The origin's capacity, shared by all sites at once: a fluid in steps of time.

All sites of a group that fetch at a moment do so at the same rate, `min(their link, the water level)`:
max-min sharing. So a capacity only changes the groups' curves, and everything after that is reckoned
with the changed ones. Also what leaves the origin over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.fleet.curve import Curve, Floats

STEP_SHARE = 0.005
"""At most this share of all bytes, and of all sites' starts, falls into one step."""

STEPS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Jobs:
    """What the sites of a group fetch: `work` bytes each, from `start_s` on (infinite: never)."""

    curve: Curve
    start_s: Floats
    work: Floats


def shared(groups: Sequence[Jobs], capacity: float, horizon_s: float) -> list[Curve]:
    """The groups' curves when the origin gives at most `capacity` bytes per second in all (0: no limit)."""
    if capacity <= 0 or _never_short(groups, capacity):
        return [g.curve for g in groups]
    starts = np.sort(np.concatenate([g.start_s[np.isfinite(g.start_s)] for g in groups]))
    total = sum(float(g.work[np.isfinite(g.start_s)].sum()) for g in groups)
    edges = np.unique(np.concatenate([g.curve.times for g in groups]))
    batch = max(1, int(len(starts) * STEP_SHARE))
    now, reached = 0.0, [0.0] * len(groups)
    keys = [np.full(len(g.work), np.inf) for g in groups]
    waiting = [np.isfinite(g.start_s) for g in groups]
    times: list[float] = []
    rates: list[list[float]] = []
    while len(times) < STEPS_MAX and now < horizon_s:
        active = []
        for n, group in enumerate(groups):
            fresh = waiting[n] & (group.start_s <= now)
            keys[n][fresh] = reached[n] + group.work[fresh]
            waiting[n] &= ~fresh
            active.append(int(np.count_nonzero(np.isfinite(keys[n]) & (keys[n] > reached[n] * (1 + 1e-12)))))
        links = [float(g.curve.rates[np.searchsorted(g.curve.times, now, side="right") - 1]) for g in groups]
        level = water_level(links, active, capacity)
        rate = [min(link, level) for link in links]
        times.append(now)
        rates.append(rate)
        flowing = sum(r * n for r, n in zip(rate, active, strict=True))
        coming = int(np.searchsorted(starts, now, side="right"))
        until = starts[min(coming + batch, len(starts)) - 1] if coming < len(starts) else np.inf
        if until <= now:
            until = np.inf
        if not any(active):
            until = starts[coming] if coming < len(starts) else np.inf
            if np.isinf(until):
                break
        elif flowing > 0:
            until = min(until, now + total * STEP_SHARE / flowing)
        later = edges[edges > now]
        stop = float(min(until, later[0] if len(later) else np.inf, horizon_s))
        reached = [x + r * (stop - now) for x, r in zip(reached, rate, strict=True)]
        now = stop
    curves = []
    for n, group in enumerate(groups):
        tail = group.curve.times > now
        last = float(group.curve.rates[np.searchsorted(group.curve.times, now, side="right") - 1])
        curves.append(
            Curve.of_steps(
                [*times, *([now] if now > times[-1] else []), *group.curve.times[tail]],
                [*(r[n] for r in rates), *([last] if now > times[-1] else []), *group.curve.rates[tail]],
            )
        )
    return curves


def water_level(links: Sequence[float], active: Sequence[int], capacity: float) -> float:
    """The rate that nobody gets more than, so that all together get `capacity`; max-min fair."""
    left, users = capacity, sum(n for n, link in zip(active, links, strict=True) if link > 0)
    for link, n in sorted(zip(links, active, strict=True)):
        if link <= 0 or n == 0:
            continue
        if link * users > left:
            return left / users
        left -= link * n
        users -= n
    return max(left, capacity) if users == 0 else left / users


def egress(groups: Sequence[Jobs], times: Floats) -> Floats:
    """Bytes out of the origin by each of `times`, all groups together.

    Jobs of one site must not overlap (one at a time, at the full rate of its curve).
    """
    out = np.zeros(len(times))
    for group in groups:
        real = np.isfinite(group.start_s)
        begins = np.sort(group.curve.work(group.start_s[real]))
        ends = np.sort(group.curve.work(group.start_s[real]) + group.work[real])
        at = group.curve.work(times)
        out += _ramps(begins, at) - _ramps(ends, at)
    return out


def _ramps(starts: Floats, at: Floats) -> Floats:
    """The sum over `starts` (sorted) of what `at` is beyond each."""
    if len(starts) == 0:
        return np.zeros(len(at))
    shift = starts[0]
    sums = np.concatenate(([0.0], np.cumsum(starts - shift)))
    passed = np.searchsorted(starts, at, side="right")
    return np.asarray(passed * (at - shift) - sums[passed])


def _never_short(groups: Sequence[Jobs], capacity: float) -> bool:
    return sum(len(g.work) * g.curve.rate_max for g in groups if not g.curve.idle) <= capacity
