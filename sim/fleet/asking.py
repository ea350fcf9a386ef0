"""What a fleet spends on asking: polls and check-ins, which it pays with or without a release.

As in `sim.world`: a poll asks for the next root, which is not there, and for the timestamp; a check-in
brings the roster of the site, and is made with a poll, on its connection. Both come at the pace of `Polling`,
whatever is published. What a release
makes devices ask beyond that is the release's: a phase that opens is news to all of a site (`published`),
and who installs asks when told, after the restart and after the commit (`updating`). Bytes are bytes on the
wire of a site's WAN. Not for what is fetched then (`site_bytes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from p2p.adapters.http import TURN_S
from p2p.swarm.lookout import OTHERS, OWN
from p2p.swarm.report_desk import ROUTINE, every_s
from p2p.trust.pace import WITH_POLL
from sim.fleet.curve import DAY_S, Curve, Floats
from sim.fleet.setting import Setting
from sim.scenario.model import DeviceClass, Polling
from sim.world.living import HEALTH_S
from sim.world.orders import (
    ABSENT,
    CHECKIN_DOWN,
    CHECKIN_UP,
    REPORT_UP,
    REPORTS_DOWN,
    REPORTS_UP,
    RESULT,
    ROSTER_ENTRY,
    ROSTER_MAX,
    TIMESTAMP,
)
from sim.world.pool import KEEP_ALIVE_S, SESSION_S
from sim.world.wire import HttpCosts

PUBLISHED = (869, 473, 120)
"""Bytes of what a phase that opens changes: snapshot, the role of phases, the state of the order's."""

LOOKOUT = 1.1
"""Questions of a site in which one device asks for all, per pause: its own, and those that the others ask now
and then (`p2p.swarm.lookout.OWN`), each of which puts off the next."""

RESET = 0.5
"""Polls that a poll out of turn adds in the long run: it begins the interval anew, half of it gone."""

TAKES_ALONG = (1.0 - 2 * WITH_POLL) / 2
"""Check-ins that a poll out of turn adds in the long run: it takes one with it if the last is old enough."""

BATCHES = 2.0
"""Batches of reports by which the devices of a site say that an update has ended, on the average."""

BUSY_S, BUSY_RAMP_S = HEALTH_S + 0.1 + TURN_S, 0.28
"""A check-in at a restart that takes longer than from there to the commit is still under way then. Poll and
check-in wait so long for its connection, then take their own; those of a site take not all equally long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Bytes down and up of each site's WAN."""

    down: Floats
    up: Floats

    def plus(self, other: Asked) -> Asked:
        return Asked(self.down + other.down, self.up + other.up)

    def times(self, factor: Floats | float) -> Asked:
        return Asked(self.down * factor, self.up * factor)


def standing(setting: Setting, curve: Curve, until_s: float, *, shared: bool) -> Asked:
    """What each site spends on asking from the start until `until_s`, release or not.

    The first questions of devices that start are in it; at rest they were asked long ago.
    """
    return _first(setting, curve, until_s).plus(_regular(setting, curve, until_s, shared=shared))


def of_a_day(setting: Setting, curve: Curve, horizon_s: float, *, shared: bool) -> Asked:
    """What each site spends on asking in a mean day of the horizon, first questions left out."""
    found = _regular(setting, curve, horizon_s, shared=shared)
    days = max(horizon_s, 1.0) / DAY_S
    return Asked(found.down / days, found.up / days)


def first(setting: Setting) -> Asked:
    """The first questions of all devices of each site with WAN: a poll and a check-in, on one connection."""
    if setting.polling.at_rest:
        return _nothing(setting)
    return _priced(setting, polls=1.0, check_ins=1.0, full=1.0).times(_able(setting))


def begun(setting: Setting) -> Floats:
    """Bytes down that the devices of each site ask for when it begins, before anything else comes."""
    if not setting.polling.at_rest:
        return first(setting).down
    return _priced(setting, polls=1.0, check_ins=0.0, full=1.0).times(_able(setting)).down


def published(setting: Setting, phases: int, *, shared: bool) -> Asked:
    """What `phases` openings beyond the first cost each site: everybody asks, and the signed files.

    Peers tell each other of news, and ask each other where one device asks for all; without peers nobody asks
    out of turn, and everybody gets the files.
    """
    if phases <= 0:
        return _nothing(setting)
    able = setting.devices.total(setting.devices.wan)
    costs = HttpCosts()
    files_down = sum(costs.down(size) for size in PUBLISHED)
    files_up = sum(costs.up(answer=costs.down(size)) for size in PUBLISHED)
    gossip = np.maximum(able - 1, 0.0) if shared and not setting.polling.lookout else 0.0 * able
    asked = able if setting.polling.at_rest else gossip
    _, resumed, full = _connections(setting.polling)
    out_of_turn = _priced(
        setting, polls=RESET, check_ins=TAKES_ALONG, resumed=RESET * resumed, full=RESET * full
    ).times(asked)
    copies = np.minimum(able, 1.0) if shared else able
    return out_of_turn.plus(Asked(copies * files_down, copies * files_up)).times(phases)


def updating(setting: Setting, curve: Curve, known_s: Floats, *, shared: bool = False) -> Asked:
    """What installing makes the devices of each site ask.

    One that is at rest is told, and polls. Whoever has restarted checks in; committed, it checks in again and
    polls. `shared`: where there are peers it waits for their word instead, and one hands in for all.
    `known_s`: when each device knows of the order; those that know at once restart at once, and their
    check-ins share the link.
    """
    devices, polling = setting.devices, setting.polling
    told = 1.0 if polling.at_rest else 0.0
    kept, known = (min(1.0, limit_s / polling.every_s) for limit_s in (KEEP_ALIVE_S, SESSION_S))
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
    asked = _priced(
        setting,
        polls=told,
        check_ins=0.0,
        bare=told * (1.0 - WITH_POLL),
        resumed=told * (known - kept),
        full=told * (1.0 - known),
    ).times(able)
    relayed = np.where((able > 1) & bool(shared and polling.lookout), able, 0.0)
    itself = _priced(setting, polls=1.0, check_ins=2.0, full=1.0 + 2 * another).times(able - relayed)
    batches = np.minimum(relayed, BATCHES)
    down, up, _ = costs.connect()
    begun = np.minimum(relayed, 1.0)
    handed = _handed_in(relayed, batches * (ROUTINE / 2)).plus(Asked(begun * down, begun * up))
    return asked.plus(itself).plus(handed)


# Inside


def _able(setting: Setting) -> Floats:
    """Devices of each site that can ask."""
    return setting.devices.total(setting.devices.wan)


def _regular(setting: Setting, curve: Curve, until_s: float, *, shared: bool) -> Asked:
    """Polls, check-ins and reports at their pace, while the WAN is open and devices are up.

    `shared`: devices know their peers, so that one asks for its site and hands in reports of the others.
    """
    devices, polling = setting.devices, setting.polling
    usable = _open(curve)
    span = usable.work(np.full(1, until_s))[0] - usable.work(np.minimum(devices.start_s, until_s))
    pace = devices.per_class([asks_per_s(c, polling) for c in devices.classes])
    starts = devices.per_class([_starts(c, polling) for c in devices.classes])
    asks = devices.total(np.where(devices.wan, pace * span, 0.0))
    begun = devices.total(np.where(devices.wan, pace * span * starts, 0.0))
    regular = np.maximum(asks - begun, 0.0)
    able = _able(setting)
    own, checks, reports = regular, 0.0 * regular, 0.0 * regular
    if shared and polling.lookout:
        peers = np.maximum(able - 1.0, 0.0)
        checks = np.where(peers > 0, regular / (OWN * np.clip(peers, 1.0, OTHERS)), 0.0)
        own = np.maximum(regular * np.minimum(1.0, LOOKOUT / np.maximum(able, 1.0)) - checks, 0.0)
        reports = np.maximum(regular - own - checks, 0.0) * polling.every_s / every_s(polling.every_s, 0.5)
    _, resumed, full = _connections(polling)
    asked = _priced(setting, polls=1.0, check_ins=1.0, resumed=resumed, full=full).times(own)
    checked = _priced(setting, polls=1.0, check_ins=1.0, full=1.0).times(checks)
    forgotten = np.minimum(able * _reopened(curve, until_s), own * resumed)
    anew = _priced(setting, polls=0.0, check_ins=0.0, resumed=-1.0, full=1.0).times(forgotten)
    begun_asks = _priced(setting, polls=1.0, check_ins=1.0, full=1.0).times(begun)
    return asked.plus(checked).plus(_handed_in(reports, own)).plus(anew).plus(begun_asks)


def _handed_in(reports: Floats, questions: Floats) -> Asked:
    """So many reports of each site, in batches that go with its lookout's questions."""
    costs = HttpCosts()
    batches = np.minimum(reports, questions / (ROUTINE / 2))
    down, up = costs.down(REPORTS_DOWN), costs.up(REPORTS_UP, answer=costs.down(REPORTS_DOWN))
    return Asked(batches * down + reports * RESULT, batches * up + reports * REPORT_UP)


def _reopened(curve: Curve, until_s: float) -> int:
    """How often the link opens, until then, after it was shut so long that no session is known any more."""
    shut_since: float | None = -math.inf if curve.rates[0] <= 0 else None
    count = 0
    for at, rate in zip(curve.times, curve.rates, strict=True):
        if rate <= 0:
            shut_since = at if shut_since is None else shut_since
        elif shut_since is not None:
            count += bool(at <= until_s and at - shut_since > SESSION_S)
            shut_since = None
    return count


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


def _starts(kind: DeviceClass, polling: Polling) -> float:
    """The share of a device's polls that it makes at a start, with neither connection nor session."""
    on = kind.uptime.on_mean_s
    return -math.expm1(-polling.every_s / on) if on > 0 else 0.0


def _connections(polling: Polling, pauses: float = 1.0) -> tuple[float, float, float]:
    """The shares of polls that find their connection open, resume a session, and do neither.

    `pauses`: how many pass between two of them.
    """
    kept, known = (_within(polling, limit_s / pauses) for limit_s in (KEEP_ALIVE_S, SESSION_S))
    return kept, known - kept, 1.0 - known


def _within(polling: Polling, limit_s: float) -> float:
    """The share of pauses between two polls that are no longer than `limit_s`."""
    shortest, longest = (polling.every_s * (1 + sign * polling.jitter) for sign in (-1, 1))
    if longest <= shortest:
        return float(shortest <= limit_s)
    return min(1.0, max(0.0, (limit_s - shortest) / (longest - shortest)))


def _priced(
    setting: Setting,
    *,
    polls: float,
    check_ins: float,
    bare: float = 0.0,
    resumed: Floats | float = 0.0,
    full: Floats | float = 0.0,
) -> Asked:
    """What so many polls, check-ins and new connections (by their sessions) cost a device of each site.

    `bare`: check-ins that ask for no roster, as the last is not old.
    """
    costs = HttpCosts()
    (down, up, _), (resumed_down, resumed_up, _) = costs.connect(), costs.connect(resumed=True)
    poll_down, poll_up = _poll()
    check_in_down, check_in_up = _check_in(setting)
    bare_down = costs.down(CHECKIN_DOWN)
    bare_up = costs.up(CHECKIN_UP, answer=bare_down)
    return Asked(
        polls * poll_down
        + check_ins * check_in_down
        + bare * bare_down
        + full * down
        + resumed * resumed_down,
        polls * poll_up + check_ins * check_in_up + bare * bare_up + full * up + resumed * resumed_up,
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
