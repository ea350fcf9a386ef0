"""What is legal while a release is installed: states, events and effects, as one table.

`step` is the only way from one state to the next. Its caller makes the new record durable *before* it
carries out the effects, so after a crash the record names either what was done or what is to be done
again; every effect may be done twice. What a crash left behind is judged by `reconcile`, where the
boot environment outranks the record. The diagram in `docs/architecture/install.md` is generated from
`TRANSITIONS`. Not for how slots are written or booted: that is behind `p2p.ports`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from p2p.errors import LocalError
from p2p.install.record import Installed, InstallPlan, InstallRecord, Release, State

BLOCKED_MAX = 64


class Event(StrEnum):
    """What happened."""

    MEANT = "meant"  # a valid manifest and a valid order name this release for this device
    WANTED = "wanted"  # its packs are about to be chosen
    PLANNED = "planned"  # the whole plan exists, and it fits
    BEGUN = "begun"  # the slots are about to be written
    OPENED = "opened"  # the slots are marked invalid and may change
    READ_BACK = "read-back"  # every image was read back from its slot with the signed digest
    DAMAGED = "damaged"  # a slot that was whole is not
    ARMING = "arming"  # the boot environment is about to be told
    STARTED = "started"  # the device, or the agent where nothing reboots, started from the new slot
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    FELL_BACK = "fell-back"  # the boot environment gave the new slot up
    FOUND_ACTIVE = "found-active"  # the boot environment made the new slot the active one
    FOUND_TRIAL = "found-trial"  # the boot environment tries a slot that the record does not know of
    FAILED = "failed"  # ENOSPC, EIO, a plan that does not fit
    UNSOUND = "unsound"  # what was written is read back wrong, again and again
    SUPERSEDED = "superseded"  # another release is meant, or none
    DONE = "done"  # everything that the state asked for was done


class Effect(StrEnum):
    """What is to be done once the new record is durable; each may be done twice."""

    FETCH_INDEXES = "fetch indexes"
    OPEN_SLOTS = "open slots"
    FETCH_FRAMES = "fetch frames"
    SEAL_SLOTS = "seal slots"
    CLOSE_SLOTS = "close slots"
    ARM_BOOT = "arm boot environment"
    REBOOT = "reboot"
    COUNT_ATTEMPT = "count attempt"
    CHECK_HEALTH = "check health"
    COMMIT_BOOT = "commit boot environment"
    RAISE_FLOOR = "raise floor"
    ROLL_BACK_BOOT = "roll back boot environment"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an event leads, and what is to be done then."""

    to: State
    effects: tuple[Effect, ...] = ()


_S, _E, _F = State, Event, Effect

TRANSITIONS: Mapping[tuple[State, Event], Transition] = {
    (_S.IDLE, _E.MEANT): Transition(_S.VERIFIED),
    (_S.IDLE, _E.FOUND_TRIAL): Transition(_S.TRIAL, (_F.COUNT_ATTEMPT, _F.CHECK_HEALTH)),
    (_S.VERIFIED, _E.WANTED): Transition(_S.FETCHING, (_F.FETCH_INDEXES,)),
    (_S.FETCHING, _E.PLANNED): Transition(_S.STAGED),
    (_S.STAGED, _E.BEGUN): Transition(_S.SLOT_INVALID, (_F.OPEN_SLOTS,)),
    (_S.SLOT_INVALID, _E.OPENED): Transition(_S.WRITING, (_F.FETCH_FRAMES,)),
    (_S.WRITING, _E.READ_BACK): Transition(_S.WRITTEN, (_F.SEAL_SLOTS,)),
    (_S.WRITING, _E.UNSOUND): Transition(_S.FAILED, (_F.CLOSE_SLOTS, _F.REPORT)),
    (_S.WRITTEN, _E.DAMAGED): Transition(_S.SLOT_INVALID, (_F.OPEN_SLOTS,)),
    (_S.WRITTEN, _E.ARMING): Transition(_S.ARMED, (_F.ARM_BOOT, _F.REBOOT)),
    (_S.ARMED, _E.STARTED): Transition(_S.TRIAL, (_F.COUNT_ATTEMPT, _F.CHECK_HEALTH)),
    (_S.ARMED, _E.SUPERSEDED): Transition(_S.IDLE, (_F.ROLL_BACK_BOOT,)),
    (_S.TRIAL, _E.STARTED): Transition(_S.TRIAL, (_F.COUNT_ATTEMPT, _F.CHECK_HEALTH)),
    (_S.TRIAL, _E.HEALTHY): Transition(_S.COMMITTED, (_F.COMMIT_BOOT, _F.RAISE_FLOOR, _F.REPORT)),
    (_S.TRIAL, _E.UNHEALTHY): Transition(_S.ROLLED_BACK, (_F.ROLL_BACK_BOOT, _F.REPORT, _F.REBOOT)),
    (_S.COMMITTED, _E.DONE): Transition(_S.IDLE),
    (_S.ROLLED_BACK, _E.DONE): Transition(_S.IDLE),
    (_S.FAILED, _E.DONE): Transition(_S.IDLE),
    **{
        (state, _E.FELL_BACK): Transition(_S.ROLLED_BACK, (_F.ROLL_BACK_BOOT, _F.REPORT))
        for state in (_S.ARMED, _S.TRIAL, _S.COMMITTED)
    },
    **{
        (state, _E.FOUND_ACTIVE): Transition(_S.COMMITTED, (_F.RAISE_FLOOR, _F.REPORT))
        for state in (_S.ARMED, _S.TRIAL)
    },
    **{
        (state, event): Transition(to, (_F.CLOSE_SLOTS,) + ((_F.REPORT,) if to is _S.FAILED else ()))
        for state in (_S.VERIFIED, _S.FETCHING, _S.STAGED, _S.SLOT_INVALID, _S.WRITING, _S.WRITTEN)
        for event, to in ((_E.FAILED, _S.FAILED), (_E.SUPERSEDED, _S.IDLE))
    },
    (_S.ARMED, _E.FAILED): Transition(_S.FAILED, (_F.ROLL_BACK_BOOT, _F.REPORT)),
}


def step(
    record: InstallRecord,
    event: Event,
    *,
    reason: str = "",
    release: Release | None = None,
    plan: InstallPlan | None = None,
    boot_id: str | None = None,
) -> tuple[InstallRecord, tuple[Effect, ...]]:
    """The record after `event` and what to do once it is durable.

    `reason`: why it failed, for people. `release` comes with MEANT, `plan` with PLANNED and FOUND_TRIAL,
    `boot_id` (which boot of the device this is) with ARMING, STARTED and FOUND_TRIAL. Raises
    `LocalError` for an event that the state does not know; the record is unchanged then.
    """
    found = TRANSITIONS.get((record.state, event))
    if found is None:
        raise LocalError(f"install: {event} is not possible while {record.state}")
    changed = replace(
        record,
        state=found.to,
        release=release or record.release,
        plan=plan or record.plan,
        boot_id=record.boot_id if boot_id is None else boot_id,
        reason=reason or record.reason,
    )
    if event is Event.MEANT:
        changed = replace(changed, plan=None, reason="")
    if (found.to is State.ROLLED_BACK or event is Event.UNSOUND) and record.release is not None:
        # Never tried again by itself: it would fail the same way, at the cost of reboots or of WAN bytes.
        others = [digest for digest in record.blocked if digest != record.release.manifest]
        changed = replace(changed, blocked=(*others, record.release.manifest)[-BLOCKED_MAX:])
    if found.to is State.COMMITTED and record.release is not None and changed.plan is not None:
        changed = replace(changed, installed=Installed(record.release, changed.plan.slot), reason="")
    if event is Event.FELL_BACK and record.state is State.COMMITTED:
        changed = replace(changed, installed=None)
    if found.to is State.IDLE:
        changed = replace(changed, release=None, plan=None, boot_id="")
    return changed, found.effects
