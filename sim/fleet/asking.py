"""What a fleet spends on asking: polls and check-ins, which it pays with or without a release.

As in `sim.world`: a poll asks for the next root, which is not there, and for the timestamp; a check-in
brings the roster of the site. Both come at the pace of `Polling`, whatever is published. What a release
makes devices ask beyond that is the release's: a phase that opens is news to all of a site (`published`),
and who installs asks when told, after the restart and after the commit (`updating`). Bytes are bytes on the
wire of a site's WAN. Not for what is fetched then (`site_bytes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.fleet.curve import DAY_S, Curve, Floats
from sim.fleet.setting import Setting
from sim.scenario.model import DeviceClass, Polling
from sim.world.living import HEALTH_S
from sim.world.orders import ABSENT, CHECKIN_DOWN, CHECKIN_UP, ROSTER_ENTRY, ROSTER_MAX, TIMESTAMP
from sim.world.uplink import KEEP_ALIVE_S
from sim.world.wire import HttpCosts

PUBLISHED = (869, 473, 120)
"""Bytes of what a phase that opens changes: snapshot, the role of phases, the state of the order's."""

RESET = 0.5
"""Polls that a poll out of turn adds in the long run: it begins the interval anew, half of it gone."""

BUSY_S, BUSY_RAMP_S = HEALTH_S + 0.1, 0.28
"""A check-in at a restart that takes longer than from there to the poll after the commit is still under way
then, and the poll needs a connection of its own; those of one site do not all take equally long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Bytes down and up of each site's WAN."""

    down: Floats
    up: Floats

    def plus(self, other: Asked) -> Asked:
        return Asked(self.down + other.down, self.up + other.up)

    def times(self, factor: Floats | float) -> Asked:
        return Asked(self.down * factor, self.up * factor)


def standing(setting: Setting, curve: Curve, until_s: float) -> Asked:
    """What each site spends on asking from the start until `until_s`, release or not.

    The first questions of devices that start are in it; at rest they were asked long ago.
    """
    return _first(setting, curve, until_s).plus(_regular(setting, curve, until_s))


def of_a_day(setting: Setting, curve: Curve, horizon_s: float) -> Asked:
    """What each site spends on asking in a mean day of the horizon, first questions left out."""
    found = _regular(setting, curve, horizon_s)
    days = max(horizon_s, 1.0) / DAY_S
    return Asked(found.down / days, found.up / days)


def first(setting: Setting) -> Asked:
    """The first questions of all devices of each site with WAN: a poll and a check-in, on one connection."""
    if setting.polling.at_rest:
        return _nothing(setting)
    return _priced(setting, polls=1.0, check_ins=1.0, connections=1.0).times(_able(setting))


def begun(setting: Setting) -> Floats:
    """Bytes down that the devices of each site ask for when it begins, before anything else comes."""
    if not setting.polling.at_rest:
        return first(setting).down
    return _priced(setting, polls=1.0, check_ins=0.0, connections=1.0).times(_able(setting)).down


def published(setting: Setting, phases: int, *, shared: bool) -> Asked:
    """What `phases` openings beyond the first cost each site: everybody asks, and the signed files.

    Peers tell each other of news; without them nobody asks out of turn, and everybody gets the files.
    """
    if phases <= 0:
        return _nothing(setting)
    able = setting.devices.total(setting.devices.wan)
    costs = HttpCosts()
    files_down = sum(costs.down(size) for size in PUBLISHED)
    files_up = sum(costs.up(answer=costs.down(size)) for size in PUBLISHED)
    asked = able if setting.polling.at_rest else np.maximum(able - 1, 0.0) if shared else 0.0 * able
    poll_down, poll_up = _poll()
    connect_down, connect_up, _ = costs.connect()
    copies = np.minimum(able, 1.0) if shared else able
    return Asked(
        phases * (RESET * asked * (poll_down + connect_down) + copies * files_down),
        phases * (RESET * asked * (poll_up + connect_up) + copies * files_up),
    )


def updating(setting: Setting, curve: Curve, known_s: Floats) -> Asked:
    """What installing makes the devices of each site ask.

    One that is at rest is told, and polls. Whoever has restarted checks in; committed, it checks in again
    and polls. `known_s`: when each device knows of the order; those that know at once restart at once, and
    their check-ins share the link.
    """
    devices, polling = setting.devices, setting.polling
    told = 1.0 if polling.at_rest else 0.0
    anew = told * (1.0 - min(1.0, KEEP_ALIVE_S / polling.every_s))
    able = _able(setting)
    costs = HttpCosts()
    first_down = costs.connect()[0] + _check_in(setting)[0]
    finite = np.where(devices.wan & np.isfinite(known_s), known_s, np.nan)
    with np.errstate(invalid="ignore"):
        spread = np.fmax.reduceat(finite, devices.offsets[:-1]) - np.fmin.reduceat(
            finite, devices.offsets[:-1]
        )
    rate = curve.rate_max
    together = able * first_down / rate - np.nan_to_num(spread) if rate > 0 else np.zeros(devices.sites)
    trips = costs.connect()[2] + 1
    delay = 2 * setting.group.wan.delay_s if setting.group.wan is not None else 0.0
    takes = trips * delay + np.maximum(together, 0.0)
    another = np.clip((takes - BUSY_S) / BUSY_RAMP_S, 0.0, 1.0)
    found = _priced(setting, polls=1.0 + told, check_ins=2.0, connections=1.0 + anew + another)
    return found.times(able)


# Inside


def _able(setting: Setting) -> Floats:
    """Devices of each site that can ask."""
    return setting.devices.total(setting.devices.wan)


def _regular(setting: Setting, curve: Curve, until_s: float) -> Asked:
    """Polls and check-ins at their pace, while the WAN is open and devices are up."""
    devices, polling = setting.devices, setting.polling
    usable = _open(curve)
    span = usable.work(np.full(1, until_s))[0] - usable.work(np.minimum(devices.start_s, until_s))
    pace = devices.per_class([asks_per_s(c, polling) for c in devices.classes])
    asks = devices.total(np.where(devices.wan, pace * span, 0.0))
    anew = 1.0 - min(1.0, KEEP_ALIVE_S / polling.every_s)
    return _priced(setting, polls=1.0, check_ins=1.0, connections=2.0 * anew).times(asks)


def _first(setting: Setting, curve: Curve, until_s: float) -> Asked:
    found = first(setting)
    devices = setting.devices
    there = devices.wan & (devices.start_s <= until_s) & curve.open_at(devices.start_s)
    share = devices.total(there) / np.maximum(devices.total(devices.wan), 1.0)
    return Asked(found.down * share, found.up * share)


def asks_per_s(kind: DeviceClass, polling: Polling) -> float:
    """Polls per second of a device of this class; as many check-ins.

    One each `every_s`; where devices are switched on and off at random, one at each start and then each
    `every_s` until they are off (a geometric number).
    """
    on = kind.uptime.on_mean_s
    if on <= 0:
        return 1.0 / polling.every_s
    return 1.0 / (-math.expm1(-polling.every_s / on) * (on + kind.uptime.off_mean_s))


def _priced(setting: Setting, *, polls: float, check_ins: float, connections: Floats | float) -> Asked:
    """What so many polls, check-ins and new connections cost a device of each site."""
    connect_down, connect_up, _ = HttpCosts().connect()
    poll_down, poll_up = _poll()
    check_in_down, check_in_up = _check_in(setting)
    return Asked(
        polls * poll_down + check_ins * check_in_down + connections * connect_down,
        polls * poll_up + check_ins * check_in_up + connections * connect_up,
    )


def _check_in(setting: Setting) -> tuple[Floats, Floats]:
    """Bytes down and up of a check-in on an open connection, per site: its answer is the roster."""
    costs = HttpCosts()
    others = np.minimum(setting.devices.sizes - 1, ROSTER_MAX)
    down = np.asarray([costs.down(CHECKIN_DOWN + ROSTER_ENTRY * n) for n in range(ROSTER_MAX + 1)], float)
    up = np.asarray([costs.up(CHECKIN_UP, answer=round(size)) for size in down], float)
    return down[others], up[others]


def _poll() -> tuple[int, int]:
    """Bytes down and up of a poll on an open connection."""
    costs = HttpCosts()
    answers = (costs.down(ABSENT), costs.down(TIMESTAMP))
    return sum(answers), sum(costs.up(answer=answer) for answer in answers)


def _open(curve: Curve) -> Curve:
    """A curve whose work is the seconds for which this one carries anything."""
    return Curve.of_steps(curve.times, (curve.rates > 0).astype(float))


def _nothing(setting: Setting) -> Asked:
    none = np.zeros(setting.devices.sites)
    return Asked(none, none)
