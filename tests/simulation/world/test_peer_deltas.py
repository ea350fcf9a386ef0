"""Deltas that peers compute for bases that nothing was published for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.swarm import events as e
from p2p.swarm.policy import PeerDeltas, Policy
from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import (
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    LanKind,
    Manner,
    Order,
    Phase,
    Scenario,
    SyntheticRelease,
    Who,
)
from sim.world import run
from sim.world.device import Device
from sim.world.observer import Observer
from tests.simulation.world.scenes import SIZE, depot

THIN = Lan(LanKind.WIFI, rate=250_000.0)
DELTA = 400_000
LATER_S = 900.0
LATE = 3


def scenario(
    *faults: Fault, rate: float = 2e6, mode: PeerDeltas = PeerDeltas.UNPUBLISHED, published: bool = False,
    **changes: object,
) -> Scenario:  # fmt: skip
    """A canary has installed and restarted long before the order is opened for three others of its base."""
    klass = DeviceClass("box", {"old": 1.0}, reboot_s=5.0, recompute_rate=rate)
    release = SyntheticRelease("v2", SIZE, SIZE, (DeltaSpec("old", DELTA, published=published),))
    found = depot(
        *faults, devices=1 + LATE, klass=klass, lan=THIN, release=release,
        phases=(Phase(0.25, 0.0), Phase(1.0, LATER_S)), policy=Policy(peer_deltas=mode),
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]  # any field


def late_comers(subject: Scenario, seed: int = 3) -> RunOutcome:
    outcome = run_checked(subject, seed)
    assert outcome.violations == ()
    assert {d.state for d in outcome.devices} <= {"committed", "hostile"}
    return outcome


def test_late_comers_cost_their_site_little_more_than_a_delta_each_and_its_wan_nothing() -> None:
    anew, chunks = late_comers(scenario()), late_comers(scenario(rate=0.0))
    first = sum(d.frames_wan for d in chunks.devices)
    assert sum(d.frames_wan for d in anew.devices) == first == SIZE
    assert anew.sites[0].wan_down <= chunks.sites[0].wan_down
    saved = chunks.sites[0].lan_bytes - anew.sites[0].lan_bytes
    assert saved > 0.85 * LATE * (SIZE - DELTA)
    assert sum(d.from_peers for d in anew.devices) < 1.2 * LATE * DELTA


class Seen(Observer):
    """What makers and users of deltas were told."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.used: list[e.DeltaUsed] = []
        self.bans: set[tuple[str, str]] = set()

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        if isinstance(event, e.DeltaUsed):
            self.used.append(event)
        for action in actions:
            if isinstance(action, e.MakeDelta):
                self.made.append((device.name, action.group))
            elif isinstance(action, e.Disconnect) and action.ban_s:
                self.bans.add((action.device, action.reason))


@pytest.mark.parametrize(
    ("mode", "published", "some"),
    [
        (PeerDeltas.OFF, False, False),
        (PeerDeltas.UNPUBLISHED, False, True),
        (PeerDeltas.UNPUBLISHED, True, False),
        (PeerDeltas.THIN_LAN, False, True),
    ],
)
def test_policy_says_for_whom(mode: PeerDeltas, published: bool, some: bool) -> None:
    seen = Seen()
    run(scenario(mode=mode, published=published), 3, observer=seen)
    assert bool(seen.made) is some


def test_a_maker_that_has_another_base_is_asked_once_and_not_banned() -> None:
    rotten = Fault(FaultKind.BIT_ROT_BASE, at_s=LATER_S - 10, who=Who.ALL, size=SIZE)
    seen = Seen()
    outcome = run(scenario(rotten), 3, observer=seen)
    assert {d.state for d in outcome.devices} == {"committed"}
    assert {u.verdict for u in seen.used} <= {e.Verdict.OTHER_BASE}
    assert not seen.bans


def test_who_lies_in_deltas_is_banned_and_costs_the_wan_nothing() -> None:
    liar = Fault(FaultKind.HOSTILE, manner=Manner.DELTA, count=2)
    group = scenario().sites[0]
    subject = replace(
        scenario(liar), sites=(replace(group, size=replace(group.size, low=8, high=8)),),
        orders=(Order("v2", (Phase(0.5, 0.0), Phase(1.0, LATER_S))),),
    )  # fmt: skip
    outcome = late_comers(subject)
    seen = Seen()
    run(subject, 3, observer=seen)
    assert any(reason == "bad-delta" for _, reason in seen.bans)
    assert {u.verdict for u in seen.used} >= {e.Verdict.WRONG, e.Verdict.RIGHT}
    assert sum(d.frames_wan for d in outcome.devices) == SIZE


def test_a_maker_that_leaves_in_the_middle_costs_chunks_or_nothing() -> None:
    leave = Fault(FaultKind.CRASH, at_s=LATER_S + 8, count=1)
    late_comers(scenario(leave))


def test_too_slow_a_maker_is_given_up_before_the_wan_is_asked() -> None:
    outcome = late_comers(scenario(rate=2e4))
    assert sum(d.frames_wan for d in outcome.devices) == SIZE
