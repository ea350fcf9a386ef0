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

from dataclasses import dataclass

import numpy as np

from sim.fleet import asking, queue
from sim.fleet.curve import Curve, Floats
from sim.fleet.draw import Devices, Ints
from sim.fleet.origin import Jobs
from sim.fleet.packs import Packs
from sim.fleet.presence import Presence, expected, presence
from sim.fleet.setting import Setting, up_share
from sim.fleet.site_bytes import dot, on_the_wire, own_fetches, site_plan, terms
from sim.fleet.times import device_times, installing, last_patch, latency, reading, riding, site_times

MONTH_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Load:
    """What crosses the WANs of a group. With sharing there is one job per site, without one per device.

    `offsets` tells the jobs of each site. `down` and `up` are wire bytes of each job, `payload` those of
    them that are packs, `work` those of `down` that an image waits for (not what is asked after it);
    `start_s` is infinite for jobs that cannot be. `known_s`: when each device knows of the order; `served_s`:
    when somebody can be there to serve it. `pack`: number of the pack of each job.
    """

    shared: bool
    packs: Packs
    offsets: Ints
    start_s: Floats
    payload: Floats
    down: Floats
    up: Floats
    work: Floats
    pack: Ints
    known_s: Floats
    served_s: Floats
    opens_s: Floats
    alone: Floats | None = None
    """With sharing: how many devices of each site start while all others are away."""

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
    found = terms(setting, packs, pack, payload, alone=None)
    asked = asking.published(setting, setting.openings, shared=False)
    asked = asked.plus(asking.updating(setting, curve, known_s))
    each = 1.0 / np.maximum(devices.total(devices.wan), 1.0)
    down, up = dot(setting.parameters.down, found), dot(setting.parameters.up, found)
    return Load(
        False, packs, devices.offsets, start, payload, down + (asked.down * each)[devices.site],
        up + (asked.up * each)[devices.site], down, pack, known_s, known_s, opens_s,
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
            done_work = np.minimum(ends - curve.work(begun), load.per_site(load.work)[devices.site])
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
    pack, payload = _planned(setting, packs, known_s, start, curve)
    who = _presence(setting, packs, known_s, start, pack, payload, curve)
    payload = payload + own_fetches(setting, packs, who, start, curve)
    alone = devices.total(who.alone & devices.wan)
    found = terms(setting, packs, pack, payload, alone=alone)
    asked = asking.published(setting, setting.openings, shared=True)
    asked = asked.plus(asking.updating(setting, curve, known_s, shared=True))
    down, up = dot(setting.parameters.down, found), dot(setting.parameters.up, found)
    offsets = np.arange(devices.sites + 1, dtype=np.int64)
    return Load(
        True, packs, offsets, start, payload, down + asked.down, up + asked.up, down, pack, known_s,
        np.maximum(known_s, _served(setting, packs, who, curve)), opens_s, alone,
    )  # fmt: skip


def _planned(
    setting: Setting, packs: Packs, known_s: Floats, start_s: Floats, curve: Curve
) -> tuple[Ints, Floats]:
    """The pack of each site, and the payload bytes to be expected.

    Who comes first waits longer for others if the roster names some that have been heard of lately: more come
    while nothing is fetched yet. The pack is the one of the likelier case.
    """
    devices, policy = setting.devices, setting.policy
    brief = policy.settle_s
    first, payload = site_plan(devices, packs, known_s, start_s, curve, together_s=brief)
    heard = expected(devices, setting.polling, start_s, brief)
    if not heard.any():
        return first, payload
    longer = brief + policy.settle_silent_s + policy.gather_s
    second, more = site_plan(devices, packs, known_s, start_s, curve, together_s=longer)
    return np.where(heard > 0.5, second, first), (1 - heard) * payload + heard * more


def _presence(
    setting: Setting,
    packs: Packs,
    known_s: Floats,
    start_s: Floats,
    pack: Ints,
    payload: Floats,
    curve: Curve,
) -> Presence:
    """Who starts while all others restart into the image, by when each has it and how long it is away."""
    devices = setting.devices
    real = np.isfinite(start_s)
    fetched = np.where(real, curve.finish(np.where(real, start_s, 0.0), payload), np.inf)
    rides, away = (
        riding(setting, packs, pack[devices.site]),
        devices.per_class([c.reboot_s for c in devices.classes]),
    )
    done = np.maximum(fetched[devices.site], known_s + rides) + latency(setting) + reading(setting, packs)
    who = presence(devices, done, done + away)
    if not who.alone.any():
        return who
    # Who waits for others is there itself meanwhile.
    done = np.maximum(done, who.served_s + rides + reading(setting, packs))
    return presence(devices, done, done + away)


def _served(setting: Setting, packs: Packs, who: Presence, curve: Curve) -> Floats:
    """When each device can be served, or has what it needs by itself: who waits in vain fetches then."""
    devices = setting.devices
    if not who.alone.any():
        return who.served_s
    costs = np.asarray([packs.for_base(name).wan_bytes for name in devices.bases], float)
    alone = curve.finish(devices.start_s + setting.policy.return_s, costs[devices.base])
    return np.where(who.alone & devices.wan, np.minimum(who.served_s, alone), who.served_s)


def _finish_shared(setting: Setting, load: Load, curve: Curve) -> Floats:
    devices, time = setting.devices, setting.parameters.time
    times = site_times(setting, load.packs, load.pack, load.work, curve.rate_max)
    work = load.work * time["bound"]
    fetched = curve.finish(load.start_s, work + _stretched_by(setting, work, curve))
    if setting.quota:
        fetched = np.maximum(fetched, metered(curve, load.start_s, work, setting.quota))
    bound = np.maximum(fetched, load.start_s + times.local * time["bound"])
    tail = sum((time[name] * values for name, values in times.terms.items()), np.zeros(devices.sites))
    last = devices.luck >= devices.most(devices.luck)[devices.site]
    there = bound[devices.site] + tail[devices.site] * np.where(last, 1.0, (1.0 + devices.luck) / 2)
    late = load.served_s + latency(setting) + riding(setting, load.packs, load.pack[devices.site])
    return np.maximum(there, late) + installing(setting, load.packs)


# What both have in common


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
    return load.work * setting.parameters.time["bound"] / np.maximum(up_share(setting), 1e-3)


def _asleep(setting: Setting, done: Floats) -> Floats:
    """Seconds until a device that is off when its turn comes is up again."""
    devices = setting.devices
    up, off = up_share(setting), _off_mean(setting)
    if bool(np.all(up >= 1.0)):
        return np.zeros(len(devices))
    sleeps = devices.polls > up
    rest = np.clip((devices.polls - up) / np.maximum(1.0 - up, 1e-9), 1e-9, 1.0)
    return np.asarray(np.where(sleeps, -np.log(rest) * off, 0.0))


def floors(setting: Setting, packs: Packs, load: Load, horizon_s: float) -> Floats:
    """The fewest bytes that any one device of each site could have needed, metadata included, per site.

    Of those that the order is open for before the horizon, and 0 where nothing can come over a WAN.
    """
    devices = setting.devices
    costs = np.asarray([on_the_wire(packs.for_base(name)) for name in devices.bases], float)
    cheapest = devices.least(np.where(load.opens_s < horizon_s, costs[devices.base], np.inf))
    metadata = setting.parameters.metadata
    served = np.isfinite(np.minimum.reduceat(load.start_s, load.offsets[:-1]))
    return np.asarray(np.where(served & np.isfinite(cheapest), cheapest + metadata, 0.0))
