"""Devices of a site that fetch without sharing: each gets an equal part of the WAN (processor sharing).

Reckoned in the coordinate of a `Curve`'s work, where the link's rate is always 1; vectorised over
the sites. A site of more than `COLUMNS` devices is treated as `COLUMNS` batches of neighbours in time.
"""

from __future__ import annotations

import numpy as np

from sim.fleet.curve import Floats
from sim.fleet.draw import Ints

COLUMNS = 64


def processor_sharing(offsets: Ints, arrival: Floats, work: Floats) -> Floats:
    """When each job is done. Jobs of site `s` are `offsets[s]:offsets[s + 1]`; infinite arrivals never are.

    All in units of work: the server does 1 per unit, divided among those present.
    """
    done = np.full(len(arrival), np.inf)
    sizes = np.diff(offsets)
    site = np.repeat(np.arange(len(sizes)), sizes)
    by_time = np.lexsort((arrival, site))
    first = 0
    for bound in (1, 2, 4, 8, 16, 32, COLUMNS, int(sizes.max(initial=0))):
        sites = np.flatnonzero((sizes > first) & (sizes <= bound))
        first = max(first, bound)
        if len(sites) == 0:
            continue
        width = int(sizes[sites].max())
        columns = np.arange(width)
        inside = columns < sizes[sites][:, None]
        index = by_time[np.where(inside, offsets[sites][:, None] + columns, 0)]
        at = np.where(inside, arrival[index], np.inf)
        todo = np.where(inside, work[index], 0.0)
        finish = _batched(at, todo) if width > COLUMNS else _share(at, todo, np.ones_like(at))
        done[index[inside]] = finish[inside]
    return done


def in_turn(offsets: Ints, arrival: Floats, work: Floats) -> Floats:
    """When each job would begin if they were served in turn: the server is busy at the same times."""
    sizes = np.diff(offsets)
    site = np.repeat(np.arange(len(sizes)), sizes)
    by_time = np.lexsort((arrival, site))
    begins = np.empty(len(arrival))
    free = np.full(len(sizes), -np.inf)
    for k in range(int(sizes.max(initial=0))):
        sites = np.flatnonzero(sizes > k)
        job = by_time[offsets[sites] + k]
        begins[job] = np.maximum(arrival[job], free[sites])
        free[sites] = begins[job] + work[job]
    return begins


def _share(arrival: Floats, work: Floats, weight: Floats) -> Floats:
    """Rows are sites, columns jobs in order of arrival; `weight` jobs of `work` each per column."""
    rows, width = arrival.shape
    if bool(np.all((arrival == arrival[:, :1]) | np.isinf(arrival))):
        return _together(arrival, work, weight)
    done = np.full((rows, width), np.inf)
    target = np.full((rows, width), np.inf)  # in attained service per job
    now = np.where(np.isfinite(arrival[:, 0]), arrival[:, 0], 0.0)
    service = np.zeros(rows)
    arrived = np.zeros(rows, dtype=np.int64)
    load = np.zeros(rows)
    every = np.arange(rows)
    padded = np.concatenate((arrival, np.full((rows, 1), np.inf)), axis=1)
    for _ in range(2 * width):
        coming = padded[every, arrived]
        least = target.min(axis=1)
        with np.errstate(invalid="ignore"):
            leaving = np.where(load > 0, now + (least - service) * load, np.inf)
        comes = (coming <= leaving) & np.isfinite(coming)
        leaves = ~comes & np.isfinite(leaving)
        if not comes.any() and not leaves.any():
            break
        moved = np.where(comes, np.maximum(coming, now), np.where(leaves, leaving, now))
        service += np.where(load > 0, moved - now, 0.0) / np.maximum(load, 0.5)
        now = moved
        r = every[comes]
        c = arrived[r]
        target[r, c] = service[r] + work[r, c]
        load[r] += weight[r, c]
        arrived[r] += 1
        r = every[leaves]
        c = target[r].argmin(axis=1)
        service[r] = target[r, c]
        done[r, c] = now[r]
        load[r] -= weight[r, c]
        load[r] = np.where(load[r] < 0.5, 0.0, load[r])
        target[r, c] = np.inf
    return done


def _together(arrival: Floats, work: Floats, weight: Floats) -> Floats:
    """All that arrive at all arrive at once: the smaller are done first."""
    never = np.isinf(arrival)
    weight = np.where(never, 0.0, weight)
    order = np.argsort(np.where(never, np.inf, work), axis=1, kind="stable")
    sizes = np.take_along_axis(np.where(never, 0.0, work), order, axis=1)
    weights = np.take_along_axis(weight, order, axis=1)
    left = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(sizes, axis=1, prepend=0.0)
    since = np.cumsum(np.where(left > 0, steps * left, 0.0), axis=1)
    done = np.empty_like(since)
    np.put_along_axis(done, order, since, axis=1)
    return np.where(never, np.inf, done + arrival[:, :1])


def _batched(arrival: Floats, work: Floats) -> Floats:
    width = arrival.shape[1]
    edges = np.linspace(0, width, COLUMNS + 1).astype(int)
    real = np.isfinite(arrival)
    counts = np.add.reduceat(real, edges[:-1], axis=1).astype(float)
    some = np.maximum(counts, 1)
    at = np.add.reduceat(np.where(real, arrival, 0.0), edges[:-1], axis=1) / some
    todo = np.add.reduceat(np.where(real, work, 0.0), edges[:-1], axis=1) / some
    at = np.where(counts > 0, at, np.inf)
    done = _share(at, todo, np.maximum(counts, 1.0))
    spread = np.repeat(done, np.diff(edges), axis=1)
    return np.where(real, spread, np.inf)
