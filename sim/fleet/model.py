"""One way to spread an image over the sites of a group: what crosses each WAN, and when devices finish.

With sharing, a site pays for one pack: the cheapest by which any of its devices with WAN can make the
image (the rule of `p2p.swarm.plan`), the change of mind when such a device comes late included. It
is done when the slowest of WAN, LAN, disks and patching is, plus what is left after the last byte: the
fluid bounds of Kumar & Ross (2006), with the constants of `parameters` fitted to runs of the real code.
Without sharing each device fetches its own pack and gets an equal part of the WAN.

`load` says what is fetched and from when on; `finish` when it is there, once it is known what the
origin leaves of each link (`origin.shared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.fleet import asking, queue
from sim.fleet.curve import Curve, Floats
from sim.fleet.draw import Devices, Ints
from sim.fleet.origin import Jobs
from sim.fleet.packs import Pack, Packs
from sim.fleet.setting import Setting, up_share
from sim.fleet.times import device_times, installing, last_patch, latency, number, riding, site_times
from sim.world.orders import ROSTER_MAX
from sim.world.wire import HttpCosts

MONTH_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Load:
    """What crosses the WANs of a group. With sharing there is one job per site, without one per device.

    `offsets` tells the jobs of each site. `down` and `up` are wire bytes of each job, `payload` those of
    them that are packs; `start_s` is infinite for jobs that cannot be. `known_s`: when each device knows of
    the order. `pack`: number of the pack of each job.
    """

    shared: bool
    packs: Packs
    offsets: Ints
    start_s: Floats
    payload: Floats
    down: Floats
    up: Floats
    pack: Ints
    known_s: Floats
    opens_s: Floats

    def per_site(self, values: Floats) -> Floats:
        """Sums of a value of the jobs that can be, per site."""
        return np.asarray(
            np.add.reduceat(np.where(np.isfinite(self.start_s), values, 0.0), self.offsets[:-1])
        )

    def jobs(self, curve: Curve) -> Jobs:
        """The sites' jobs as the origin sees them: one after the other on each link."""
        if self.shared:
            return Jobs(curve, self.start_s, self.down)
        arrival = curve.work(self.start_s)
        arrival = np.where(np.isfinite(self.start_s), arrival, np.inf)
        begins = curve.when(queue.in_turn(self.offsets, arrival, self.down))
        return Jobs(curve, np.maximum(begins, self.start_s), self.down)


def load(
    setting: Setting, packs: Packs, known_s: Floats, opens_s: Floats, curve: Curve, *, shared: bool
) -> Load:
    """What a group fetches, and from when on. `known_s` and `opens_s` per device, see `draw.known`."""
    if shared:
        return _load_shared(setting, packs, known_s, opens_s, curve)
    devices = setting.devices
    pack = _own_pack(devices, packs)
    payload = np.asarray([p.wan_bytes for p in packs.packs], float)[pack]
    start = np.where(devices.wan & (not curve.idle), known_s, np.inf)
    ones = np.ones(len(devices))
    terms = _byte_terms(setting, payload, ones, 0 * ones)
    extra = asking.published(setting, setting.openings, shared=False)
    each = 1.0 / np.maximum(devices.total(start < np.inf), 1.0)
    return Load(
        False, packs, devices.offsets, start, payload,
        dot(setting.parameters.down, terms) + (extra.down * each)[devices.site],
        dot(setting.parameters.up, terms) + (extra.up * each)[devices.site],
        pack, known_s, opens_s,
    )  # fmt: skip


def finish(setting: Setting, load: Load, curve: Curve) -> Floats:
    """When each device has committed the release; infinite if it does not."""
    devices = setting.devices
    if load.shared:
        done = _finish_shared(setting, load, curve)
    else:
        arrival = np.where(np.isfinite(load.start_s), curve.work(load.start_s), np.inf)
        ends = queue.processor_sharing(load.offsets, arrival, _stretched(setting, load, curve))
        fetched = curve.when(ends)
        if setting.quota:
            begun = devices.least(load.start_s)[devices.site]
            done_work = np.minimum(ends - curve.work(begun), load.per_site(load.down)[devices.site])
            fetched = np.maximum(fetched, metered(curve, begun, done_work, setting.quota))
        time = setting.parameters.time
        disk, patching = device_times(setting, load.packs, load.pack)
        extra = latency(setting) + time["patching"] * last_patch(setting, load.packs, load.pack)
        done = (
            np.maximum(fetched, load.start_s + np.maximum(disk, patching))
            + extra
            + installing(setting, load.packs)
        )
    done = np.where(devices.healthy, done, np.inf)
    return done + _asleep(setting, done)


# With sharing


def _load_shared(setting: Setting, packs: Packs, known_s: Floats, opens_s: Floats, curve: Curve) -> Load:
    devices = setting.devices
    start = devices.least(np.where(devices.wan & (not curve.idle), known_s, np.inf))
    pack, payload = site_plan(devices, packs, known_s, start, curve)
    payload = payload + _while_restarting(setting, packs, known_s, start, payload, curve)
    sizes = devices.sizes.astype(float)
    others = np.minimum(sizes - 1, ROSTER_MAX)
    terms = _byte_terms(setting, payload, sizes, sizes * others)
    extra = asking.published(setting, setting.openings, shared=True)
    offsets = np.arange(devices.sites + 1, dtype=np.int64)
    parameters = setting.parameters
    return Load(
        True, packs, offsets, start, payload, dot(parameters.down, terms) + extra.down,
        dot(parameters.up, terms) + extra.up, pack, known_s, opens_s,
    )  # fmt: skip


def _while_restarting(
    setting: Setting, packs: Packs, known_s: Floats, start_s: Floats, payload: Floats, curve: Curve
) -> Floats:
    """Payload bytes of devices that come while all that have the image restart into it, per site.

    Such a device finds no peer that gives anything, begins to fetch by itself, and stops when they are back.
    """
    devices, classes = setting.devices, setting.devices.classes
    real = np.isfinite(start_s)
    fetched = curve.finish(np.where(real, start_s, 0.0), payload) + latency(setting)
    disk = devices.most(devices.per_class([packs.size / c.storage.write_rate for c in classes]))
    read = devices.least(devices.per_class([packs.size / c.storage.read_rate for c in classes]))
    gone = np.maximum(fetched, start_s + disk) + read
    back = gone + devices.least(devices.per_class([c.reboot_s for c in classes]))
    between = (known_s >= gone[devices.site]) & (known_s < back[devices.site]) & devices.wan
    if not between.any():
        return np.zeros(devices.sites)
    first = devices.least(np.where(between, known_s, np.inf)) + latency(setting)
    costs = np.asarray([packs.for_base(name).wan_bytes for name in devices.bases], float)
    cheapest = devices.least(np.where(between, costs[devices.base], np.inf))
    late = np.isfinite(first) & np.isfinite(back)
    room = curve.work(np.where(late, back, 0.0)) - curve.work(np.where(late, first, 0.0))
    return np.asarray(np.where(late, np.minimum(np.maximum(room, 0.0), cheapest), 0.0))


def shared_terms(setting: Setting, load: Load) -> dict[str, Floats]:
    """What the bytes of each site that shares are made of, by the names of `parameters.BYTE_TERMS`."""
    sizes = setting.devices.sizes.astype(float)
    return _byte_terms(setting, load.payload, sizes, sizes * np.minimum(sizes - 1, ROSTER_MAX))


def _byte_terms(setting: Setting, payload: Floats, sizes: Floats, pairs: Floats) -> dict[str, Floats]:
    run = setting.policy.run_bytes
    rest = setting.polling.at_rest
    return {
        "payload": payload * (HttpCosts().down(run) / run),
        "site": np.ones(len(payload)),
        "rest": sizes if rest else 0 * sizes,
        "fresh": 0 * sizes if rest else sizes,
        "rest pairs": pairs if rest else 0 * pairs,
        "fresh pairs": 0 * pairs if rest else pairs,
        "piece": np.ceil(payload / run),
    }


def site_plan(
    devices: Devices, packs: Packs, present_s: Floats, start_s: Floats, curve: Curve
) -> tuple[Ints, Floats]:
    """Number of the pack that each site ends with, and the payload bytes that cross its WAN.

    The cheapest pack of those present at `start_s`; a device that comes later with a cheaper one than
    what is still missing changes the plan, and what was fetched by then is spent.
    """
    costs = [float(p.wan_bytes) for p in packs.packs]
    arrives = np.full((len(costs), devices.sites), np.inf)
    for n, pack in enumerate(packs.packs):
        can = devices.wan
        if pack.base is not None:
            can = can & (devices.base == number(devices, pack.base))
        arrives[n] = np.maximum(devices.least(np.where(can, present_s, np.inf)), start_s)
    order = np.argsort(arrives, axis=0, kind="stable")
    chosen = order[0].astype(np.int64)
    every = np.arange(devices.sites)
    left, spent = np.asarray(costs)[chosen], np.zeros(devices.sites)
    now = curve.work(np.where(np.isfinite(start_s), start_s, 0.0))
    for k in range(1, len(costs)):
        other = order[k]
        at = arrives[other, every]
        comes = np.isfinite(at)
        then = np.where(comes, curve.work(np.where(comes, at, 0.0)), now)
        moved = np.clip(then - now, 0.0, left)
        spent, left, now = spent + moved, left - moved, np.maximum(now, then)
        better = comes & (left > 0) & (np.asarray(costs)[other] < left)
        chosen = np.where(better, other, chosen)
        left = np.where(better, np.asarray(costs)[other], left)
    return chosen, spent + left


def _finish_shared(setting: Setting, load: Load, curve: Curve) -> Floats:
    devices, time = setting.devices, setting.parameters.time
    times = site_times(setting, load.packs, load.pack, load.down, curve.rate_max)
    work = load.down * time["bound"]
    fetched = curve.finish(load.start_s, work + _stretched_by(setting, work, curve))
    if setting.quota:
        fetched = np.maximum(fetched, metered(curve, load.start_s, work, setting.quota))
    bound = np.maximum(fetched, load.start_s + times.local * time["bound"])
    tail = sum((time[name] * values for name, values in times.terms.items()), np.zeros(devices.sites))
    last = devices.luck >= devices.most(devices.luck)[devices.site]
    there = bound[devices.site] + tail[devices.site] * np.where(last, 1.0, (1.0 + devices.luck) / 2)
    late = load.known_s + latency(setting) + riding(setting, load.packs, load.pack[devices.site])
    return np.maximum(there, late) + installing(setting, load.packs)


# What both have in common


def dot(coefficients: Mapping[str, float], terms: Mapping[str, Floats]) -> Floats:
    """The sum of the terms, each times its coefficient."""
    total = sum((coefficients[name] * values for name, values in terms.items()), np.zeros(1))
    return np.asarray(total)


def metered(curve: Curve, start_s: Floats, work: Floats, quota: float) -> Floats:
    """When `work` bytes begun at `start_s` are carried, at most `quota` of them in each 30 days."""
    left, done = work.copy(), np.full(len(work), np.inf)
    month = 0
    while month * MONTH_S < curve.times[-1]:
        begin, end = month * MONTH_S, (month + 1) * MONTH_S
        since = np.clip(start_s, begin, end)
        got = curve.work(np.full(len(work), end)) - curve.work(since)
        within = np.minimum(np.maximum(got, 0.0), quota)
        ends = (left > 0) & (left <= within) & (since < end)
        done = np.where(ends, curve.finish(since, left), done)
        left = np.where(ends, 0.0, np.maximum(left - within, 0.0))
        month += 1
        if not np.any((left > 0) & np.isfinite(start_s)):
            break
    return np.asarray(np.where(work <= 0, start_s, done))


def _own_pack(devices: Devices, packs: Packs) -> Ints:
    """The cheapest pack that each device can use by itself."""
    best = np.zeros(len(devices.bases), dtype=np.int64)
    for n, name in enumerate(devices.bases):
        best[n] = packs.packs.index(packs.for_base(name))
    return best[devices.base]


def _off_mean(setting: Setting) -> Floats:
    return setting.devices.per_class(
        [c.uptime.off_mean_s if c.uptime.on_mean_s > 0 else 0.0 for c in setting.devices.classes]
    )


def _stretched_by(setting: Setting, work: Floats, curve: Curve) -> Floats:
    """Work that the WAN could have carried while no device of the site was up, per site.

    The sum of as many exponential times as such times begin while the site fetches (a compound
    Poisson process, its mean kept): all devices are off `q` of the time, each time for a mean of
    `off / devices`.
    """
    devices = setting.devices
    up = up_share(setting)
    if bool(np.all(up >= 1.0)):
        return np.zeros(devices.sites)
    nobody = np.exp(devices.total(np.log(np.maximum(np.where(devices.wan, 1.0 - up, 1.0), 1e-12))))
    return np.asarray(work * nobody / np.maximum(1.0 - nobody, 1e-3))


def _stretched(setting: Setting, load: Load, curve: Curve) -> Floats:
    """The work of each job, the time that its device is off counted as work."""
    return load.down * setting.parameters.time["bound"] / np.maximum(up_share(setting), 1e-3)


def _asleep(setting: Setting, done: Floats) -> Floats:
    """Seconds until a device that is off when its turn comes is up again."""
    devices = setting.devices
    up, off = up_share(setting), _off_mean(setting)
    if bool(np.all(up >= 1.0)):
        return np.zeros(len(devices))
    sleeps = devices.polls > up
    rest = np.clip((devices.polls - up) / np.maximum(1.0 - up, 1e-9), 1e-9, 1.0)
    return np.asarray(np.where(sleeps, -np.log(rest) * off, 0.0))


def on_the_wire(pack: Pack) -> int:
    """Bytes down of a WAN that a pack costs at least, as `sim.world` counts them."""
    costs = HttpCosts()
    return costs.down(pack.index) + costs.down(pack.frames)


def floors(setting: Setting, packs: Packs, load: Load) -> Floats:
    """The fewest bytes that any one device of each site could have needed, metadata included, per site."""
    devices = setting.devices
    costs = np.asarray([on_the_wire(packs.for_base(name)) for name in devices.bases], float)
    cheapest = devices.least(np.where(np.isfinite(load.opens_s), costs[devices.base], np.inf))
    metadata = setting.parameters.metadata
    return np.asarray(np.where(np.isfinite(cheapest), cheapest + metadata, 0.0))
