"""Carries out an install: the record made durable, then the slots and the boot environment told.

`Installer` is the one caller of `p2p.install`: each method takes one step of its table, so that the
agent between them only fetches, checks health and reboots. All methods block (fsync, reading images
back); a failure leaves the record at a state from which `reconcile` goes on. Not for choosing a
release (`p2p.trust`) nor for getting its bytes (`p2p.swarm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum

from p2p.adapters.slot_writer import FileSlotWriter
from p2p.adapters.slots import FileSlots
from p2p.content.digests import Digest
from p2p.content.manifest import Manifest
from p2p.errors import ContentError, SlotError
from p2p.install import (
    BootFacts,
    Effect,
    Event,
    InstallPlan,
    InstallRecord,
    Release,
    SlotFacts,
    State,
    decode_record,
    encode_record,
    make_plan,
    reconcile,
    step,
)
from p2p.install.record import RECORD_NAME
from p2p.ports import BlobStore, Boot

STEPS_MAX = 32


class Task(StrEnum):
    """What the agent has to do next about the record's state."""

    NOTHING = "nothing"  # idle
    FETCH = "fetch"  # make the release that the record names, if it is still meant
    ARM = "arm"  # the slots hold the release
    REBOOT = "reboot"
    HEALTH = "health"  # decide between `healthy` and `unhealthy`


_TASKS = {
    State.WRITTEN: Task.ARM,
    State.ARMED: Task.REBOOT,
    State.ROLLED_BACK: Task.REBOOT,
    State.TRIAL: Task.HEALTH,
    State.IDLE: Task.NOTHING,
}


class ReleaseBlockedError(SlotError):
    """The release failed on this device before, and is not tried again by itself."""

    exit_code = 9


class Installer:
    """`slots` by payload name. `boot_id`: which boot of the device this is (a new one per process where
    nothing reboots). `reboots`: whether a new slot needs a reboot. `raise_floor` may be called twice
    for the same release."""

    def __init__(
        self,
        store: BlobStore,
        slots: Mapping[str, FileSlots],
        boot: Boot,
        *,
        attempts: int,
        boot_id: str,
        reboots: bool,
        raise_floor: Callable[[Release], None],
    ) -> None:
        self._store = store
        self._slots = dict(slots)
        self._boot = boot
        self._attempts = attempts
        self._boot_id = boot_id
        self._reboots = reboots
        self._raise_floor = raise_floor
        self._record = self._load()
        self.writers: dict[str, FileSlotWriter] = {}

    @property
    def slots(self) -> dict[str, FileSlots]:
        """The slots by payload name."""
        return dict(self._slots)

    @property
    def record(self) -> InstallRecord:
        return self._record

    @property
    def task(self) -> Task:
        """What is next, once `reconcile` was called."""
        return _TASKS.get(self._record.state, Task.FETCH)

    def reconcile(self) -> Task:
        """Bring record, boot environment and slots into agreement; at every start, before all else."""
        for _ in range(STEPS_MAX):
            finding = reconcile(self._record, self._boot_facts(), self._images(), rebooted=self._rebooted())
            if finding is None:
                return self.task
            for effect in finding.effects:
                self._do(effect)
            if finding.event is not None:
                self._take(finding.event, reason=finding.reason, plan=finding.plan)
        raise SlotError(
            f"install: record and boot environment do not come to agree ({self._record.state})",
            kept="both, as they are",
            next_step="look at `slipstream agent status`",
        )

    def target(self) -> str:
        """The slot that a release would go to; the same for all payloads."""
        targets = {slots.target() for slots in self._slots.values()}
        if len(targets) != 1:
            raise SlotError(f"the payloads of this device do not agree on a target slot ({sorted(targets)})")
        return targets.pop()

    def refuse_blocked(self, release: Release) -> None:
        """Raise `ReleaseBlockedError` for a release that failed its trial or could not be read back here."""
        if release.manifest in self._record.blocked:
            why = self._record.reason
            raise ReleaseBlockedError(
                f"release {release.version} is blocked: it failed on this device before ({why})",
                kept="the release that runs",
                next_step="publish a corrected release under a new version,"
                " or `slipstream agent unblock` when the cause is gone",
            )

    def begin(self, release: Release, manifest: Manifest, *, reserve: int = 0) -> InstallPlan:
        """Take up a release, or go on with it: plan it whole and stop before the first byte changes.

        A record of another release is given up first. Raises `ReleaseBlockedError`, and `SlotError` or
        `SlotFull` when the plan cannot be; the record then says why, the device is idle.
        """
        self.refuse_blocked(release)
        record = self._record
        if record.release is not None and record.release != release:
            self.supersede()
        if self._record.state is State.IDLE:
            self._take(Event.MEANT, release=release)
        if self._record.state is State.VERIFIED:
            self._take(Event.WANTED)
        if self._record.state is State.FETCHING:
            try:
                slot = self.target()
                plan = make_plan(manifest, slot, self._slot_facts(slot), reserve=reserve)
            except SlotError as error:
                self.fail(error.message)
                raise
            self._take(Event.PLANNED, plan=plan)
        if self._record.plan is None:
            raise SlotError(f"install: there is no plan while {self._record.state}")
        return self._record.plan

    def open_writers(self) -> dict[str, FileSlotWriter]:
        """Mark the slots invalid and open them; resumes what was verified. By payload name."""
        if self._record.state is State.STAGED:
            self._take(Event.BEGUN)
        if self._record.state not in (State.SLOT_INVALID, State.WRITING):
            raise SlotError(f"install: no slot may be written while {self._record.state}")
        plan = self._plan()
        for payload in plan.payloads:
            slots = self._slots_of(payload.name)
            whole = slots.image_in(plan.slot) == (payload.image, payload.size)
            if not whole and payload.name not in self.writers:
                self.writers[payload.name] = slots.open_writer(plan.slot, payload.image, payload.size)
        if self._record.state is State.SLOT_INVALID:
            self._take(Event.OPENED)
        return dict(self.writers)

    def read_back(self) -> tuple[str, ...]:
        """Read every image back and, if all are right, seal the slots; else the payloads that are damaged.

        Takes as long as reading the images from the medium. Damaged payloads stay open: find what is
        wrong, `forget` it, fetch it again. Writers of sealed slots are let go of: they can be read until
        whoever reads there closes them.
        """
        writers = sorted(self.writers.items())
        damaged = tuple(name for name, w in writers if not w.is_read_back and w.digest() != w.image)
        if damaged:
            return damaged
        self._take(Event.READ_BACK)
        return ()

    def arm(self) -> Task:
        """Tell the boot environment to try the slot next; `HEALTH` follows at once where nothing reboots."""
        self._take(Event.ARMING)
        return self.reconcile()

    def healthy(self) -> None:
        """The trial is over and good: commit, raise the floor, be idle."""
        self._take(Event.HEALTHY)
        self.reconcile()

    def unhealthy(self, reason: str) -> Task:
        """The trial is over and bad: back to the old slot, and never this manifest by itself again."""
        self._take(Event.UNHEALTHY, reason=reason)
        return self.reconcile()

    def fail(self, reason: str, *, block: bool = False) -> None:
        """Give this try up. The running slot is untouched; what was verified is resumed by the next.

        `block`: there is no next by itself (only possible while the slots are written).
        """
        self._take(Event.UNSOUND if block else Event.FAILED, reason=reason)
        self._take(Event.DONE)

    def supersede(self) -> None:
        """Another release is meant, or none: back to idle, an armed slot disarmed."""
        self._take(Event.SUPERSEDED)

    def unblock(self) -> None:
        """Let blocked releases be tried again (an operator's wish)."""
        self._write(replace(self._record, blocked=()))

    def _take(
        self,
        event: Event,
        *,
        reason: str = "",
        release: Release | None = None,
        plan: InstallPlan | None = None,
    ) -> None:
        marks = event in (Event.ARMING, Event.STARTED, Event.FOUND_TRIAL)
        record, effects = step(
            self._record,
            event,
            reason=reason,
            release=release,
            plan=plan,
            boot_id=self._boot_id if marks else None,
        )
        self._write(record)
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Effect.ARM_BOOT:
                self._boot.arm(self._plan().slot, self._attempts)
            case Effect.COUNT_ATTEMPT:
                self._boot.started()
            case Effect.COMMIT_BOOT:
                self._boot.commit()
            case Effect.ROLL_BACK_BOOT:
                self._boot.rollback()
            case Effect.RAISE_FLOOR:
                if self._record.release is not None:
                    self._raise_floor(self._record.release)
            case Effect.SEAL_SLOTS:
                for name, writer in list(self.writers.items()):
                    writer.seal()
                    del self.writers[name]
            case Effect.CLOSE_SLOTS:
                self.close()
            case _:
                pass  # longer than a step: the agent's, see `task`

    def close(self) -> None:
        """Close what is open; never raises."""
        for name in list(self.writers):
            self.writers.pop(name).close()

    def _load(self) -> InstallRecord:
        data = self._store.read(RECORD_NAME)
        if data is None:
            return InstallRecord()
        try:
            return decode_record(data)
        except ContentError:
            # It was a hint. The boot environment and the slots say what matters.
            return InstallRecord(reason="the install record was damaged and was started anew")

    def _write(self, record: InstallRecord) -> None:
        if record != self._record:
            self._store.write(RECORD_NAME, encode_record(record))
            self._record = record

    def _plan(self) -> InstallPlan:
        if self._record.plan is None:
            raise SlotError(f"install: there is no plan while {self._record.state}")
        return self._record.plan

    def _slots_of(self, payload: str) -> FileSlots:
        if payload not in self._slots:
            raise SlotError(
                f"this device has no slot for payload {payload} any more",
                next_step=f"add [slots.{payload}] to the configuration",
            )
        return self._slots[payload]

    def _rebooted(self) -> bool:
        waits = self._record.state in (State.ARMED, State.ROLLED_BACK)
        return self._record.boot_id != self._boot_id or (waits and not self._reboots)

    def _boot_facts(self) -> BootFacts:
        boot = self._boot.read()
        return BootFacts(boot.active, boot.trial, boot.tried, boot.failed)

    def _images(self) -> dict[str, tuple[Digest, int] | None]:
        plan = self._record.plan
        names = [p.name for p in plan.payloads if p.name in self._slots] if plan else []
        return {name: self._slots[name].image_in(plan.slot) for name in names} if plan else {}

    def _slot_facts(self, slot: str) -> dict[str, SlotFacts]:
        facts = {}
        for name, slots in self._slots.items():
            space = slots.space(slot)
            facts[name] = SlotFacts(slots.image_in(slot), space.filesystem, space.held, space.free)
        return facts
