"""What a start after a crash, a reboot or a power cut has to make of what it finds.

The boot environment decides what runs, the slots know what they hold, the record is a hint of what
was meant. `reconcile` compares the three and names one step; its caller takes it and asks again until
none is left. It converges: no sequence of steps comes back to a state (checked by a test over every
combination).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.install.machine import Effect, Event
from p2p.install.record import InstallPlan, InstallRecord, State


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What the boot environment says: `trial` was started `tried` times; `failed` ran out of attempts."""

    active: str
    trial: str | None
    tried: int
    failed: str | None

    @property
    def running(self) -> str:
        return self.trial if self.trial is not None and self.tried else self.active


@dataclass(frozen=True, slots=True)
class Finding:
    """One step to take: effects (each of them may be done twice), then an event for the record."""

    event: Event | None = None
    effects: tuple[Effect, ...] = ()
    reason: str = ""
    plan: InstallPlan | None = None


_PLANLESS = (State.VERIFIED, State.FETCHING)


def reconcile(
    record: InstallRecord,
    boot: BootFacts,
    images: Mapping[str, tuple[Digest, int] | None],
    *,
    rebooted: bool,
) -> Finding | None:
    """The next step, or None when record, boot environment and slots agree.

    `images`: by payload, what the plan's slot validly holds. `rebooted`: the device started anew since
    the record's `boot_id`. What goes on for longer (fetching, a reboot, a health check) is not a step:
    it follows from the state.
    """
    slot = record.plan.slot if record.plan else None
    match record.state:
        case State.IDLE:
            return _idle(boot)
        case State.FAILED:
            return Finding(Event.DONE)
        case State.ROLLED_BACK:
            return _rolled_back(boot, rebooted)
        case State.ARMED if slot is not None:
            return _armed(record, boot, slot, _holds_all(record, images), rebooted)
        case State.TRIAL if slot is not None:
            return _trial(boot, slot, rebooted)
        case State.COMMITTED if slot is not None:
            return _committed(boot, slot)
        case State.ARMED | State.TRIAL | State.COMMITTED:
            return Finding(Event.FELL_BACK, reason="the record has no plan")
        case _:
            return _before_armed(record, boot, slot, images)


def _idle(boot: BootFacts) -> Finding | None:
    if boot.trial is not None and boot.tried:
        # The record was lost, yet something is on trial: judge it as if it were known.
        return Finding(Event.FOUND_TRIAL, plan=InstallPlan(boot.trial, ()))
    if boot.trial is not None or boot.failed is not None:
        return Finding(effects=(Effect.ROLL_BACK_BOOT,))
    return None


def _before_armed(
    record: InstallRecord,
    boot: BootFacts,
    slot: str | None,
    images: Mapping[str, tuple[Digest, int] | None],
) -> Finding | None:
    if boot.trial is not None or slot == boot.active:
        return Finding(Event.SUPERSEDED, reason="the boot environment was changed by somebody else")
    if slot is None and record.state not in _PLANLESS:
        return Finding(Event.SUPERSEDED, reason="the record has no plan")
    if record.state is State.WRITTEN and not _holds_all(record, images):
        return Finding(Event.DAMAGED)
    return None


def _rolled_back(boot: BootFacts, rebooted: bool) -> Finding | None:
    if boot.trial is not None or boot.failed is not None:
        return Finding(effects=(Effect.ROLL_BACK_BOOT,))
    # Until the device has started anew it runs from the slot that the next update would go to.
    return Finding(Event.DONE) if rebooted else None


def _armed(record: InstallRecord, boot: BootFacts, slot: str, whole: bool, rebooted: bool) -> Finding | None:
    if boot.active == slot:
        return Finding(Event.FOUND_ACTIVE)
    if boot.failed == slot:
        return Finding(Event.FELL_BACK, reason=f"slot {slot} was given up by the boot environment")
    if boot.trial == slot:
        return Finding(Event.STARTED) if boot.tried or rebooted else None
    if not whole:
        return Finding(Event.FAILED, reason=f"slot {slot} no longer holds the release")
    return Finding(effects=(Effect.ARM_BOOT,))


def _trial(boot: BootFacts, slot: str, rebooted: bool) -> Finding | None:
    if boot.active == slot:
        return Finding(Event.FOUND_ACTIVE)
    if boot.trial != slot:
        return Finding(Event.FELL_BACK, reason=f"slot {slot} was given up by the boot environment")
    return Finding(Event.STARTED) if rebooted or not boot.tried else None


def _committed(boot: BootFacts, slot: str) -> Finding:
    if boot.active == slot and boot.trial is None:
        return Finding(Event.DONE, effects=(Effect.RAISE_FLOOR,))
    if boot.trial == slot and boot.tried:
        return Finding(effects=(Effect.COMMIT_BOOT,))
    return Finding(Event.FELL_BACK, reason=f"slot {slot} was given up before it was committed")


def _holds_all(record: InstallRecord, images: Mapping[str, tuple[Digest, int] | None]) -> bool:
    return record.plan is not None and all(
        images.get(p.name) == (p.image, p.size) for p in record.plan.payloads
    )
