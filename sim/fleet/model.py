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

from p2p.swarm.plan import gateway_count
from p2p.swarm.policy import Policy
from sim.fleet import queue
from sim.fleet.curve import Curve, Floats
from sim.fleet.draw import Devices, Flags, Ints
from sim.fleet.origin import Jobs
from sim.fleet.packs import Pack, Packs
from sim.fleet.parameters import Parameters
from sim.scenario.model import LanKind, Polling, SiteGroup
from sim.world.orders import ABSENT, CHECKIN_DOWN, CHECKIN_UP, ROSTER_ENTRY, ROSTER_MAX, TIMESTAMP
from sim.world.wire import HttpCosts

FRAME_TARGET = 4 * 1024 * 1024
"""Target bytes that one patch frame covers at most."""

PIECE = 128 * 1024
CROWDED_S = 20.0
"""A radio channel that takes longer than this (and than the WAN) for all copies is outside the model."""

MONTH_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a group's devices meet: who they are, where, and the constants that hold."""

    group: SiteGroup
    devices: Devices
    polling: Polling
    policy: Policy
    parameters: Parameters
    quota: float = 0.0
    """WAN bytes of a site in each 30 days; 0: no limit."""


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
    asked_down, asked_up = _asking(setting, 0 * ones, _waited(known_s, opens_s) / setting.polling.every_s)
    return Load(
        False, packs, devices.offsets, start, payload, dot(setting.parameters.down, terms) + asked_down,
        dot(setting.parameters.up, terms) + asked_up, pack, known_s, opens_s,
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
        disk, patching = _device_times(setting, load.packs, load.pack)
        extra = _latency(setting) + time["patching"] * _last_patch(setting, load.packs, load.pack)
        done = (
            np.maximum(fetched, load.start_s + np.maximum(disk, patching))
            + extra
            + installing(setting, load.packs)
        )
    done = np.where(devices.healthy, done, np.inf)
    return done + _asleep(setting, done)


def transfers(setting: Setting, *, shared: bool) -> int:
    """How many transfers over the WAN of a middling site are under way at once."""
    size = int(np.median(setting.devices.sizes))
    return gateway_count(size, setting.policy.gateways_max) if shared else size


# With sharing


def _load_shared(setting: Setting, packs: Packs, known_s: Floats, opens_s: Floats, curve: Curve) -> Load:
    devices = setting.devices
    start = devices.least(np.where(devices.wan & (not curve.idle), known_s, np.inf))
    pack, payload = site_plan(devices, packs, known_s, start, curve)
    payload = payload + _while_restarting(setting, packs, known_s, start, payload, curve)
    sizes = devices.sizes.astype(float)
    others = np.minimum(sizes - 1, ROSTER_MAX)
    terms = _byte_terms(setting, payload, sizes, sizes * others)
    polls = devices.total(_waited(known_s, opens_s)) / setting.polling.every_s
    asked_down, asked_up = _asking(setting, others, polls)
    offsets = np.arange(devices.sites + 1, dtype=np.int64)
    parameters = setting.parameters
    return Load(
        True, packs, offsets, start, payload, dot(parameters.down, terms) + asked_down,
        dot(parameters.up, terms) + asked_up, pack, known_s, opens_s,
    )  # fmt: skip


def _while_restarting(
    setting: Setting, packs: Packs, known_s: Floats, start_s: Floats, payload: Floats, curve: Curve
) -> Floats:
    """Payload bytes of devices that come while all that have the image restart into it, per site.

    Such a device finds no peer that gives anything, begins to fetch by itself, and stops when they are back.
    """
    devices, classes = setting.devices, setting.devices.classes
    real = np.isfinite(start_s)
    fetched = curve.finish(np.where(real, start_s, 0.0), payload) + _latency(setting)
    disk = devices.most(devices.per_class([packs.size / c.storage.write_rate for c in classes]))
    read = devices.least(devices.per_class([packs.size / c.storage.read_rate for c in classes]))
    gone = np.maximum(fetched, start_s + disk) + read
    back = gone + devices.least(devices.per_class([c.reboot_s for c in classes]))
    between = (known_s >= gone[devices.site]) & (known_s < back[devices.site]) & devices.wan
    if not between.any():
        return np.zeros(devices.sites)
    first = devices.least(np.where(between, known_s, np.inf)) + _latency(setting)
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


def _asking(setting: Setting, others: Floats, polls: Floats) -> tuple[Floats, Floats]:
    """Bytes down and up of `polls` polls of devices with so many others in their roster: as the world's."""
    costs = HttpCosts()
    connect_down, connect_up, _ = costs.connect()
    down = connect_down + costs.down(ABSENT) + costs.down(TIMESTAMP) + costs.down(CHECKIN_DOWN)
    up = connect_up + 2 * costs.up() + costs.up(CHECKIN_UP)
    return polls * (down + ROSTER_ENTRY * others), polls * up


def _waited(known_s: Floats, opens_s: Floats) -> Floats:
    """Seconds for which each device asked in vain after the order was out."""
    real = np.isfinite(known_s) & np.isfinite(opens_s)
    waited = np.where(real, known_s, 0.0) - np.where(real, opens_s, 0.0)
    return np.asarray(np.maximum(waited, 0.0))


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
            can = can & (devices.base == _number(devices, pack.base))
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


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """Seconds that each part of a site's work would take alone, per site, and the terms of the rest."""

    wan: Floats
    lan: Floats
    disk: Floats
    patching: Floats
    terms: Mapping[str, Floats]
    wireless: bool

    @property
    def crowded(self) -> Flags:
        """Sites whose radio channel is so slow that devices give up on peers and fetch over the WAN as well.

        The model does not know how much; see `CROWDED_S`.
        """
        return np.asarray(self.wireless & (self.lan > CROWDED_S) & (self.lan > self.wan))

    @property
    def local(self) -> Floats:
        """The slowest but for the WAN."""
        return np.maximum(np.maximum(self.lan, self.disk), self.patching)


def site_times(setting: Setting, packs: Packs, pack: Ints, down: Floats, rate: float) -> SiteTimes:
    """What decides how long a site takes that shares; `down` wire bytes over a WAN of `rate`."""
    devices = setting.devices
    group, lan = setting.group, setting.group.lan
    frames = np.asarray([p.frames for p in packs.packs], float)[pack]
    chosen = np.asarray([-1 if p.base is None else _number(devices, p.base) for p in packs.packs])[pack]
    same = devices.total(devices.base == chosen[devices.site])
    sizes = devices.sizes.astype(float)
    alike = np.maximum(np.where(chosen >= 0, same, 0.0) - 1, 0.0)
    others = np.where(chosen >= 0, sizes - same, sizes - 1)
    copies = alike * frames + others * packs.size
    lan_rate = lan.rate * (1.0 - lan.loss)
    largest = np.where(others > 0, float(packs.size), np.where(alike > 0, frames, 0.0))
    if lan.kind is LanKind.WIFI:
        spread, hop = 2 * copies / lan_rate, 2 * PIECE / lan_rate
    else:
        spread, hop = np.maximum(largest, copies / sizes) / lan_rate, PIECE / lan_rate
    disk, patching = _device_times(setting, packs, pack[devices.site])
    wan = down / rate if rate > 0 else np.full(devices.sites, np.inf)
    disk_site, patch_site = devices.most(disk), devices.most(patching)
    ranked = np.sort(np.stack([wan, spread, disk_site, patch_site]), axis=0)
    delay = group.wan.delay_s if group.wan is not None else 0.0
    terms = {
        "second": ranked[-2],
        "constant": np.ones(devices.sites),
        "fresh": np.full(devices.sites, 0.0 if setting.polling.at_rest else setting.policy.settle_s),
        "delay": np.full(devices.sites, 2 * delay),
        "pieces": np.ceil(np.log2(np.maximum(sizes, 1))) * hop,
        "patching": devices.most(_last_patch(setting, packs, pack[devices.site])),
        "devices": np.where(others > 0, sizes, 0.0),
    }
    return SiteTimes(wan, spread, disk_site, patch_site, terms, lan.kind is LanKind.WIFI)


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
    late = load.known_s + _latency(setting) + riding(setting, load)
    return np.maximum(there, late) + installing(setting, load.packs)


def riding(setting: Setting, load: Load) -> Floats:
    """Seconds that a device takes to get everything from peers that are done, alone."""
    devices, lan = setting.devices, setting.group.lan
    pack = load.pack[devices.site]
    base = np.asarray([-1 if p.base is None else _number(devices, p.base) for p in load.packs.packs])[pack]
    frames = np.asarray([p.frames for p in load.packs.packs], float)[pack]
    size = np.where(devices.base == base, frames, float(load.packs.size))
    rate = lan.rate * (1.0 - lan.loss) / (2 if lan.kind is LanKind.WIFI else 1)
    disk, patching = _device_times(setting, load.packs, pack)
    return np.asarray(np.maximum(np.maximum(size / rate, disk), patching))


# What both have in common


def dot(coefficients: Mapping[str, float], terms: Mapping[str, Floats]) -> Floats:
    """The sum of the terms, each times its coefficient."""
    total = sum((coefficients[name] * values for name, values in terms.items()), np.zeros(1))
    return np.asarray(total)


def installing(setting: Setting, packs: Packs) -> Floats:
    """Seconds of reading back and of restarting, per device."""
    classes = setting.devices.classes
    return setting.devices.per_class([packs.size / c.storage.read_rate + c.reboot_s for c in classes])


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


def _number(devices: Devices, base: str) -> int:
    return devices.bases.index(base) if base in devices.bases else -2


def _own_pack(devices: Devices, packs: Packs) -> Ints:
    """The cheapest pack that each device can use by itself."""
    best = np.zeros(len(devices.bases), dtype=np.int64)
    for n, name in enumerate(devices.bases):
        best[n] = packs.packs.index(packs.for_base(name))
    return best[devices.base]


def _latency(setting: Setting) -> float:
    """Seconds from asking to the first fetch, and from the last byte to the end, whatever is fetched."""
    time, wan = setting.parameters.time, setting.group.wan
    settle = 0.0 if setting.polling.at_rest else setting.policy.settle_s
    delay = 2 * wan.delay_s if wan is not None else 0.0
    return time["constant"] + time["fresh"] * settle + time["delay"] * delay


def _device_times(setting: Setting, packs: Packs, pack: Ints) -> tuple[Floats, Floats]:
    """Seconds of writing the image and of patching it, per device; `pack` per device."""
    devices = setting.devices
    disk = devices.per_class([packs.size / c.storage.write_rate for c in devices.classes])
    patched = np.asarray([p.patched for p in packs.packs], float)[pack]
    return disk, patched / devices.per_class([c.patch_rate for c in devices.classes])


def _last_patch(setting: Setting, packs: Packs, pack: Ints) -> Floats:
    patched = np.asarray([min(p.patched, FRAME_TARGET) for p in packs.packs], float)[pack]
    return np.asarray(patched / setting.devices.per_class([c.patch_rate for c in setting.devices.classes]))


def _up_share(setting: Setting) -> Floats:
    """The share of time that each device is up, per device."""
    shares = [
        c.uptime.on_mean_s / (c.uptime.on_mean_s + c.uptime.off_mean_s) if c.uptime.on_mean_s > 0 else 1.0
        for c in setting.devices.classes
    ]
    return setting.devices.per_class(shares)


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
    up = _up_share(setting)
    if bool(np.all(up >= 1.0)):
        return np.zeros(devices.sites)
    nobody = np.exp(devices.total(np.log(np.maximum(np.where(devices.wan, 1.0 - up, 1.0), 1e-12))))
    return np.asarray(work * nobody / np.maximum(1.0 - nobody, 1e-3))


def _stretched(setting: Setting, load: Load, curve: Curve) -> Floats:
    """The work of each job, the time that its device is off counted as work."""
    return load.down * setting.parameters.time["bound"] / np.maximum(_up_share(setting), 1e-3)


def _asleep(setting: Setting, done: Floats) -> Floats:
    """Seconds until a device that is off when its turn comes is up again."""
    devices = setting.devices
    up, off = _up_share(setting), _off_mean(setting)
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
