"""How long a scenario may take, and for how long nothing may happen: what liveness is measured by.

Upper bounds, from the scenario alone: with everything that can go slowly going slowly, one thing after
the other. A run that needs longer is stuck, not slow.
"""

from __future__ import annotations

from math import sqrt

from p2p.swarm.allowance import DAY_S
from p2p.swarm.leases import RATE_MIN
from p2p.swarm.policy import Policy
from p2p.trust.pace import RETRY_S
from sim.scenario.model import (
    Fault,
    LanKind,
    Outage,
    Scenario,
    SiteGroup,
    SizeKind,
    SyntheticRelease,
    Traffic,
    Wan,
)
from sim.world.wire import SEGMENT

__all__ = ["faults_end_s", "quiet_max_s", "time_needed_s", "wan_rate"]

WAN_COPIES = 3
"""Full packs that a site's WAN may carry per release and fault (and once without) before it is stuck."""

BACKOFF_MAX_S = 90.0
"""Longest pause of a gateway after failed fetches (`p2p.swarm.gateway.BACKOFF_S`, jittered)."""

LINGER_S = 120.0
"""How long a device may serve on before it reboots."""

BESIDE_OTHERS = 0.02
"""What is left of a link beside others' traffic, at least: two segments in flight for each who fetches."""

FAULT_SETTLES_S = 700.0
"""How long a fault may be felt: distrust, bans and retries that grow (`penalty_s`, `FAILED_RETRY_S`)."""


def faults_end_s(scenario: Scenario) -> float:
    """When the last fault is over."""
    return max((_end(fault) for fault in scenario.faults), default=0.0)


def time_needed_s(scenario: Scenario) -> float:
    """Seconds after which everything that can finish has: after the last start, order and fault."""
    opened = max((phase.opens_s for order in scenario.orders for phase in order.phases), default=0.0)
    spread = max((c.uptime.start_spread_s for c in scenario.classes), default=0.0)
    after = max(opened, spread, faults_end_s(scenario), _outages_end(scenario))
    if any(group.wan is not None and group.wan.windows for group in scenario.sites):
        after += DAY_S
    polling = scenario.polling
    heard = 60.0 + (0.0 if polling.at_rest else 2 * polling.every_s * (1 + polling.jitter))
    if any(group.timetable or group.wan is None for group in scenario.sites) or scenario.faults:
        heard += polling.every_s * (1 + polling.jitter)
    felt = FAULT_SETTLES_S * (1 + len(scenario.faults))
    return after + heard + felt + max(_group_s(scenario, group) for group in scenario.sites)


def quiet_max_s(policy: Policy, *, promised: int = 0) -> float:
    """For how long at most a device with a path has nothing under way while it makes an image.

    The longest wait that is meant: the jittered fallback (twice `fallback_s`), a gateway's longest pause,
    the agent's own retry, one request that is given up, a holder that starts anew.
    """
    waits = 2 * policy.fallback_s + BACKOFF_MAX_S + 1.5 * RETRY_S[1] + policy.request_s + policy.return_s
    if promised:
        waits += 2 * (policy.stall_s + promised * policy.gateways_max / RATE_MIN)
    return float(waits + policy.settle_s + policy.settle_silent_s + policy.stall_s)


def _group_s(scenario: Scenario, group: SiteGroup) -> float:
    """How long a site of a group takes with all releases."""
    devices = group.size.low if group.size.kind is SizeKind.FIXED else group.size.high
    size = sum(r.size for r in scenario.releases if isinstance(r, SyntheticRelease))
    full = sum(r.full_stored for r in scenario.releases if isinstance(r, SyntheticRelease))
    wans = [w for w in (group.wan, *(stop.wan for stop in group.timetable)) if w is not None]
    rounds = 1.0
    if not wans:  # others bring it
        wans = [w for g in scenario.sites for s in g.timetable if (w := s.wan) is not None]
        wans += [g.wan for g in scenario.sites if g.timetable and g.wan is not None]
    rate = min((wan_rate(w) * _open_share(w) for w in wans), default=1.0)
    if scenario.origin.capacity:
        rate = min(rate, scenario.origin.capacity / max(1, sum(g.count for g in scenario.sites)))
    factors = [f.factor for f in scenario.faults if 0 < f.factor < 1]
    copies = WAN_COPIES * (1 + len(scenario.faults))
    over_wan = copies * full / rate / min(1.0, *factors, 1.0)
    times = 4 if group.lan.kind is LanKind.WIFI else 2
    over_lan = copies * times * devices * size / _lan_rate(group)
    classes = [c for c in scenario.classes if c.name in group.classes]
    made = max(
        size * (3 / c.patch_rate + 4 / c.storage.write_rate + 4 / c.storage.read_rate)
        + 3 * c.reboot_s
        + LINGER_S
        for c in classes
    )
    if scenario.sites and any(g.timetable for g in scenario.sites):
        period = max(max(g.timetable_every_s, 1.0) for g in scenario.sites if g.timetable)
        share = min(
            (s.length_s / period for g in scenario.sites for s in g.timetable),
            default=1.0,
        )
        rounds = 2 * period
        return rounds + (over_wan + over_lan + made * copies) / max(share, 0.01)
    return over_wan + over_lan + made * copies


def wan_rate(wan: Wan) -> float:
    """Bytes per second that a link carries to one connection, loss taken off."""
    rate = wan.rate * (1 - wan.loss)
    if wan.loss:
        rate = min(rate, 1.22 * SEGMENT / (max(2 * wan.delay_s, 1e-3) * sqrt(wan.loss)))
    if wan.budget:
        rate = min(rate, wan.budget)
    for span in wan.traffic:
        if span.every_s > 0:
            rate *= max(BESIDE_OTHERS, 1 - span.length_s / span.every_s)
    return rate


def _open_share(wan: Wan) -> float:
    """For what part of the day its windows let frames through."""
    lengths = [(w.stop_s - w.start_s) % DAY_S for w in wan.windows]
    return max(lengths) / DAY_S if lengths else 1.0


def _lan_rate(group: SiteGroup) -> float:
    lan = group.lan
    rate = lan.rate * (1 - lan.loss)
    if lan.loss:
        rate = min(rate, 1.22 * SEGMENT / (max(2 * lan.delay_s, 1e-4) * sqrt(lan.loss)))
    return rate


def _end(fault: Fault) -> float:
    return max(fault.at_s, fault.until_s if fault.every_s > 0 else 0.0) + fault.length_s


def _outages_end(scenario: Scenario) -> float:
    """When the last outage, or other traffic, that does not come again is over."""
    wans = [g.wan for g in scenario.sites if g.wan is not None]
    spans: list[Outage | Traffic] = [s for w in wans for s in w.outages]
    spans += [s for w in wans for s in w.traffic]
    return max((s.at_s + s.length_s for s in spans if not s.every_s), default=0.0)
