"""The life of one device's agent in virtual time: ask, install, start anew, judge, commit or go back.

As `p2p.agent.polling` and `p2p.agent.updates`, in callbacks, around the same trust client, floors,
installer, slots and boot environment. It can be cut off at any moment, between two events or in the
middle of a disk operation (`PowerCut`), and goes on from what the disk holds. Who makes the images is
behind `Swarm`; who watches is a `Witness`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from p2p.adapters.installer import Installer, Task
from p2p.content.digests import Digest
from p2p.content.manifest import Manifest
from p2p.errors import LocalError, SlipstreamError
from p2p.install import Release, State
from p2p.swarm.events import ImageTask
from p2p.trust import Decision, Meant, TrustClient
from p2p.trust.documents import Reader
from sim.world.asking import Asking
from sim.world.boot import PAYLOAD, Machine
from sim.world.cargo import Carrying
from sim.world.character import Character
from sim.world.disk import VirtualSlots
from sim.world.medium import PowerCut
from sim.world.trust import DeviceClock
from sim.world.witness import Making, Swarm, Time, Witness


class Lifecycle:
    """One device. `power_on` starts it; `cut_power`, `kill` and `power_on` may come at any time.

    `state` is the agent's own word for what it does, `down` where there is no agent.
    """

    def __init__(
        self,
        character: Character,
        machine: Machine,
        swarm: Swarm,
        time: Time,
        rng: random.Random,
        *,
        reader: Reader,
        clock: DeviceClock | None = None,
        witness: Witness | None = None,
        carrying: Carrying | None = None,
    ) -> None:
        self.character = character
        self.machine = machine
        self.clock = clock or DeviceClock()
        self.state = "down"
        self.reason = ""
        self.up = False
        self._swarm = swarm
        self._time = time
        self._rng = rng
        self._witness = witness or Witness()
        self._carrying = carrying
        self._name = character.member.device
        self._life = 0
        self._starts = 0
        self._settling = False
        self._asking = Asking(self, character, swarm, time, rng, reader, self.clock)
        self._meant: Meant | None = None
        self._makings: dict[Digest, str] = {}
        self._served: dict[str, Digest] = {}
        self._told_installed: Release | None = None
        self._told_blocked: frozenset[Digest] = frozenset()
        self._told_floor = 0

    # What happens to a device

    def power_on(self) -> None:
        """The power is there (again): the boot loader starts a slot, and that the agent."""
        if not self.up:
            self.up = True
            self.guard(self._boot)

    def start_agent(self) -> None:
        """The agent starts (again), the machine ran all the time."""
        if not self.up:
            self.up = True
            self.guard(self._start)

    def cut_power(self) -> None:
        """The power goes: unsynced writes may be lost. `power_on` may follow."""
        self.machine.disk.lose_power(self._rng)
        self._stop("crash")

    def kill(self) -> None:
        """The agent ends; the disk keeps what was written. `start_agent` follows."""
        self.machine.disk.restart()
        self._stop("restart")

    def ask_now(self, *, claimed: str = "") -> None:
        """There is news (an operator says so, or a peer claims it): ask soon what is meant."""
        if self.up:
            self._asking.soon(claimed=claimed)

    @property
    def installed(self) -> Release | None:
        """The release that was committed last."""
        return self._told_installed

    @property
    def floor(self) -> int:
        """The release-counter floor as it was last known."""
        return self._told_floor

    @property
    def settling(self) -> bool:
        """Whether something is on trial or armed: nothing is asked before that is done."""
        return self._settling

    def timestamp(self) -> int:
        """Version of the timestamp that is trusted; 0: none."""
        return self._asking.trust.versions.get("timestamp", 0) if self.up else 0

    @property
    def trust(self) -> TrustClient:
        """The device's trust client, in this life."""
        return self._asking.trust

    @property
    def now(self) -> float:
        """Virtual time."""
        return self._time.now

    # Starting

    def _boot(self) -> None:
        started = self.machine.start(self.character.boots)
        slot = started.slot
        held = None if slot is None else self.machine.slots()[PAYLOAD].image_in(slot)
        right = held is not None and slot is not None and self.machine.holds(PAYLOAD, slot, *held)
        self._witness.booted(self._name, slot, right)
        if slot is None:
            self._stop("bricked")
        else:
            self._start()

    def _start(self) -> None:
        self._starts += 1
        self._settling = True
        self._turn("starting")
        machine = self.machine
        self._floors = machine.floors()
        revoked = machine.revocations() if self.character.revocations else None
        self._asking.open(machine.trust_store(), revoked)
        self._installer: Installer = machine.installer(self._raise_floor, self._starts)
        self._slots = {n: s for n, s in self._installer.slots.items() if isinstance(s, VirtualSlots)}
        self._swarm.started()
        if self._carrying is not None:
            self._carrying.open(self)
        try:
            for slots in self._slots.values():
                slots.adopt_active()
            self._installer.reconcile()
            self.floor_now()
        except LocalError as error:
            self._fail(error)
            return
        self._see()
        if self._installer.task is Task.HEALTH:
            self._asking.began_anew()
        self._settle(self._asking.now)

    def _settle(self, then: Callable[[], None]) -> None:
        """Finish what is on trial, armed or to be rolled back; nothing is asked before that."""
        self._settling = True
        match self._installer.task:
            case Task.HEALTH:
                self._turn("trial")
                self.after_disk(self.character.health_s, self._judge, then)
            case Task.REBOOT:
                self._turn("rebooting")
                self.after_disk(0.0, self._reboot)
            case _:
                self.after_disk(0.0, self._settled, then)

    def _settled(self, then: Callable[[], None]) -> None:
        self._settling = False
        then()

    def _judge(self, then: Callable[[], None]) -> None:
        release = self._installer.record.release
        try:
            if release is None or self.character.healthy(release.manifest):
                self._installer.healthy()
                self.floor_now()
                self._see()
                self._turn("committed")
            else:
                self._installer.unhealthy("health check: failed")
                self._see()
                self._turn("rolled-back", "health check: failed")
        except LocalError as error:
            self._fail(error)
            return
        self._settle(then)

    def _reboot(self) -> None:
        self.machine.disk.restart()
        self._stop("reboot")
        self._swarm.again()

    # Asking

    def undecided(self, error: SlipstreamError) -> None:
        """As `asking.Life` says."""
        self._witness.refused(self._name, error)
        if self._meant is not None:
            self._asking.later(well=False)
        else:
            self._asking.again(error)

    def decided(self, decision: Decision) -> None:
        """As `asking.Life` says."""
        self._witness.decided(self._name, decision)
        if self._settling:
            return  # it asks again when that is done
        if self._meant is not None:
            same = isinstance(decision, Meant) and decision.manifest_digest == self._meant.manifest_digest
            if same or self.state not in ("planning", "fetching"):
                self._asking.later(well=False)
                return
            self._withdraw()
        if isinstance(decision, Meant):
            self._install(decision)
        else:
            if self.state in ("starting", "current", "idle"):
                self._turn("idle", decision.reason)
            self._asking.later()
        if self._carrying is not None:
            self._carrying.look()

    # Installing

    def _install(self, meant: Meant) -> None:
        manifest = meant.manifest
        release = Release(
            manifest.product, manifest.version, manifest.counter, meant.manifest_digest, meant.order.id
        )
        try:
            self._installer.reconcile()
            self._see()
            if self._is_current(meant.manifest):
                self._raise_floor(release)
                self._turn("committed" if self._told_installed == release else "current")
                self._serve(meant)
                self._asking.later()
                return
            if self._installer.task in (Task.HEALTH, Task.REBOOT):
                self._settle(lambda: self._install(meant))
                return
            self._meant = meant
            self._turn("planning")
            self._witness.begun(self._name, meant)
            plan = self._installer.begin(release, manifest)
            if self._installer.record.state in (State.WRITTEN, State.ARMED, State.TRIAL):
                self.after_disk(0.0, self._arm)
            else:
                self._turn("fetching")
                self.after_disk(0.0, self._make, meant, plan.slot)
                self._asking.later(well=False)
        except LocalError as error:
            self._fail(error)

    def _make(self, meant: Meant, slot: str) -> None:
        if self._meant is not meant:
            return  # withdrawn meanwhile
        try:
            for name in self._slots:
                self._forget(name, slot)
            writers = self._installer.open_writers()
        except LocalError as error:
            self._fail(error)
            return
        if not writers:
            self.after_disk(0.0, self._seal)
        for payload in meant.manifest.payloads:
            writer = writers.get(payload.name)
            if writer is None:
                continue
            slots = self._slots[payload.name]
            active = slots.active()
            held = slots.image_in(active)
            task = ImageTask(
                payload.image.sha256, payload.image.size, None if held is None else held[0], payload.packs
            )
            self._makings[task.image] = payload.name
            making = Making(
                task,
                writer,
                slots.path(slot),
                None if held is None else slots.path(active),
                self.still(self._verified, task.image),
                self.still(self._fail),
            )
            self.after_disk(0.0, self._begin_making, making)

    def _begin_making(self, making: Making) -> None:
        if making.task.image in self._makings:
            self._served[making.path] = making.task.image
            self._swarm.make(making)

    def _verified(self, image: Digest) -> None:
        if self._makings.pop(image, None) is not None and not self._makings:
            self._turn("sealing")
            self.after_disk(0.0, self._seal)

    def _seal(self) -> None:
        meant = self._meant
        if meant is None:
            return
        try:
            damaged = self._installer.read_back()
            if damaged:
                raise LocalError(f"read back wrong after all: {', '.join(damaged)}")
        except LocalError as error:
            self._fail(error)
            return
        record = self._installer.record
        if record.plan is not None and record.release is not None:
            right = all(
                self.machine.holds(p.name, record.plan.slot, p.image, p.size) for p in record.plan.payloads
            )
            self._witness.installed(self._name, record.release, record.plan.slot, right)
        for payload in meant.manifest.payloads:
            self._swarm.made(payload.image.sha256)
        self.after_disk(0.0, self._arm)

    def _arm(self) -> None:
        record = self._installer.record
        try:
            if record.state is State.WRITTEN:
                self._turn("armed")
                self._installer.arm()
                if record.release is not None and record.plan is not None:
                    self._witness.armed(self._name, record.release, record.plan.slot)
        except LocalError as error:
            self._fail(error)
            return
        self._meant = None
        self._see()
        self._settling = True
        images = tuple(p.image for p in record.plan.payloads) if record.plan is not None else ()
        self._swarm.before_reboot(images, self.still(self._settle, self._asking.now))

    def _fail(self, error: LocalError, block: bool = False) -> None:
        """The release cannot be installed now (or here); the agent tries again in a while."""
        self._turn("failed", error.message)
        self._settling = False
        self._drop_makings()
        try:
            if self._installer.record.state not in (State.IDLE, State.ARMED, State.TRIAL, State.COMMITTED):
                self._installer.fail(error.message, block=block)
        except LocalError:
            pass  # the same disk; the next try begins with what it holds
        self._installer.close()
        self._see()
        self._asking.again(error)

    def _withdraw(self) -> None:
        """Stop making the release: another is meant, or none. What was verified stays."""
        self._drop_makings()
        try:
            if self._installer.task is Task.FETCH:
                self._installer.supersede()
        except LocalError as error:
            self._turn("failed", error.message)
        self._turn("idle")

    def _drop_makings(self) -> None:
        self._meant = None
        for image in self._makings:
            self._swarm.drop(image)
            self._served = {path: held for path, held in self._served.items() if held != image}
        self._makings.clear()

    def _serve(self, meant: Meant) -> None:
        for payload in meant.manifest.payloads:
            slots = self._slots[payload.name]
            path = slots.path(slots.active())
            if self._served.get(path) != payload.image.sha256:
                self._forget(payload.name, slots.active())
                self._served[path] = payload.image.sha256
                task = ImageTask(payload.image.sha256, payload.image.size, None, payload.packs)
                self._swarm.serve(task, path)

    def _forget(self, payload: str, slot: str) -> None:
        image = self._served.pop(self.machine.path(payload, slot), None)
        if image is not None:
            self._swarm.drop(image)

    def _is_current(self, manifest: Manifest) -> bool:
        if self._installer.task is not Task.NOTHING:
            return False
        return all(
            p.name in self._slots
            and self._slots[p.name].image_in(self._slots[p.name].active()) == (p.image.sha256, p.image.size)
            for p in manifest.payloads
        )

    # What is told

    def _raise_floor(self, release: Release) -> None:
        self._floors.raise_to(release.product, release.counter)
        self.floor_now()

    def floor_now(self) -> int:
        floor = self._floors.get(self.character.product)
        if floor != self._told_floor:
            old, self._told_floor = self._told_floor, floor
            self._witness.floor_moved(self._name, self.character.product, old, floor)
        return floor

    def _see(self) -> None:
        """Tell what the record says has happened, also where a crash kept us from saying so at once."""
        record = self._installer.record
        if record.installed is not None and record.installed.release != self._told_installed:
            self._told_installed = record.installed.release
            self._witness.committed(self._name, record.installed.release, record.installed.slot)
        for manifest in record.blocked:
            if manifest not in self._told_blocked:
                self._witness.rolled_back(self._name, manifest, record.reason)
        self._told_blocked = frozenset(record.blocked)

    def _turn(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._witness.turned(self._name, state, reason)

    # Inside

    def _stop(self, why: str) -> None:
        self._life += 1
        self.up = False
        self._asking.stop()
        if self._carrying is not None:
            self._carrying.stop()
        self._meant = None
        self._makings.clear()
        self._served.clear()
        self._turn("down", why)
        self._swarm.stopped(why)

    def after_disk(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call in `seconds`, after what the disk has to do."""
        self._time.after(seconds + self.machine.disk.take_s(), self._fire, self._life, call, arguments)

    def still(self, call: Callable[..., object], *first: Any) -> Callable[..., None]:
        """`call`, as long as this life goes on."""
        life = self._life
        return lambda *arguments: self._fire(life, call, first + arguments)

    def _fire(self, life: int, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if life == self._life and self.up:
            self.guard(call, *arguments)

    def guard(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call; if the power goes in the middle of it, the device starts again by itself in a while."""
        try:
            call(*arguments)
        except PowerCut:
            self.cut_power()
            self._witness.power_lost(self._name)
            self._swarm.again()
