"""A run with every rule watching: the outcome has what was broken in `violations`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.checks.budget import BudgetRule
from sim.checks.cargo import CargoRule
from sim.checks.carried import CarriedRule
from sim.checks.ledgers import LedgerRule
from sim.checks.liveness import Liveness
from sim.checks.quota import QuotaRule
from sim.checks.revoked import RevokedRule
from sim.checks.safety import Safety
from sim.checks.wan import WanRule
from sim.outcome import RunOutcome, Violation
from sim.scenario.model import Fault, Scenario
from sim.world.observer import Observer
from sim.world.run import Seams, World

if TYPE_CHECKING:
    from p2p.content.digests import Digest
    from sim.world.device import Device
    from sim.world.site import Site
    from sim.world.synthetic import Material

__all__ = ["VIOLATIONS_MAX", "Checks", "run_checked"]

Fed = Callable[["Device", e.Event, list[e.Action]], None]

VIOLATIONS_MAX = 100
"""So many violations of a run are told; a broken rule is often broken again at once."""


class Checks(Observer):
    """All rules as one observer: each is told what it is about."""

    heeds = (
        LedgerRule.heeds | WanRule.heeds | Liveness.heeds | BudgetRule.heeds | RevokedRule.heeds
        | CarriedRule.heeds | CargoRule.heeds
    )  # fmt: skip

    def __init__(self) -> None:
        self.safety = Safety()
        self.wan = WanRule()
        self.ledgers = LedgerRule()
        self.liveness = Liveness()
        self.budget = BudgetRule()
        self.quota = QuotaRule()
        self.carried = CarriedRule()
        self.cargo = CargoRule()
        self.revoked = RevokedRule()
        self._fed = self._by_what(revoked=False)

    @property
    def amplification(self) -> float | None:
        """Frames that crossed the WANs per byte of their floors, worst site and image."""
        return max((a for site in self.wan.sites.values() if (a := site.amplification)), default=None)

    @property
    def violations(self) -> list[Violation]:
        """What was broken, in order of time."""
        found = [
            *self.safety.violations,
            *self.wan.violations,
            *self.ledgers.violations,
            *self.liveness.violations,
            *self.budget.violations,
            *self.quota.violations,
            *self.carried.violations,
            *self.cargo.violations,
            *self.revoked.violations,
        ]
        return sorted(found, key=lambda v: v.at_s)[:VIOLATIONS_MAX]

    def _by_what(self, *, revoked: bool) -> dict[type, tuple[Fed, ...]]:
        """Which rules are told of each kind of event; the one of the revoked once there are such."""
        rules = [self.liveness, self.ledgers, self.wan, self.budget, self.carried, self.cargo]
        heeding = [*rules, self.revoked] if revoked else rules
        return {what: tuple(r.fed for r in heeding if r.heeds and what in r.heeds) for what in self.heeds}

    def begun(self, world: World) -> None:
        rules = self.safety, self.wan, self.ledgers, self.liveness, self.budget, self.quota, self.revoked
        for rule in rules:
            rule.begun(world)

    def started(self, device: Device) -> None:
        self.ledgers.started(device)
        self.liveness.started(device)

    def stopped(self, device: Device, why: str) -> None:
        self.wan.stopped(device, why)
        self.ledgers.stopped(device, why)

    def connected(self, one: str, other: str) -> None:
        self.liveness.connected(one, other)
        self.revoked.connected(one, other)

    def barred(self, device: Device, devices: frozenset[str]) -> None:
        self.revoked.barred(device, devices)
        if devices:
            self._fed = self._by_what(revoked=True)

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        what = type(event.message) if type(event) is e.Received else type(event)
        for fed in self._fed.get(what, ()):
            fed(device, event, actions)

    def sent(self, source: str, target: str, message: m.Piece | m.Blob) -> None:
        self.ledgers.sent(source, target, message)
        self.revoked.sent(source, target, message)

    def divided(self, device: Device) -> None:
        self.budget.divided(device)

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        self.wan.fetch_started(device, action)
        self.budget.fetch_started(device, action)
        self.quota.fetch_started(device, action)
        self.liveness.fetch_started(device, action)

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        self.wan.fetch_ended(device, action, error, size, wasted)
        self.budget.fetch_ended(device, action, error, size, wasted)
        self.ledgers.fetch_ended(device, action, error, size, wasted)

    def remnants_lost(self, device: Device, image: Digest, size: int) -> None:
        self.wan.remnants_lost(device, image, size)

    def stored(self, device: Device, event: e.Stored, good: bool) -> None:
        self.safety.stored(device, event, good)
        self.wan.stored(device, event, good)
        self.ledgers.stored(device, event, good)

    def served(self, device: Device, action: e.Serve, good: bool, held: bool) -> None:
        self.safety.served(device, action, good, held)

    def read_back(self, device: Device, image: Digest, right: bool, good: bool) -> None:
        self.safety.read_back(device, image, right, good)

    def installed(self, device: Device, release: str, good: bool, ordered: bool) -> None:
        self.safety.installed(device, release, good, ordered)

    def floor_moved(self, device: Device, old: int, new: int) -> None:
        self.safety.floor_moved(device, old, new)

    def fault(self, fault: Fault, sites: list[Site]) -> None:
        self.wan.fault(fault, sites)

    def ended(self, world: World) -> None:
        self.ledgers.ended(world)
        self.carried.ended(world)
        self.cargo.ended(world)
        self.liveness.ended(world)


def run_checked(
    scenario: Scenario,
    seed: int,
    *,
    timelines: Collection[str] = (),
    progress: Callable[[float, int], None] | None = None,
    materials: Mapping[str, Material] | None = None,
    seams: Seams | None = None,
    checks: Checks | None = None,
) -> RunOutcome:
    """As `sim.world.run`, held to every rule. `checks`: new ones of the caller's, to ask them more."""
    checks = checks or Checks()
    world = World(scenario, seed, timelines=timelines, materials=materials, observer=checks, seams=seams)
    outcome = world.run(progress)
    return replace(outcome, violations=tuple(checks.violations))
