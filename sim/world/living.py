"""What runs a virtual device: the real trust client and installer behind the agent's face.

The counterpart of `p2p.agent.polling`. `LivingAgent` puts a `Lifecycle` behind a device of the world: all
that is believed, kept, installed, judged and blocked is the real code's. What outlives a crash is what
its virtual disk holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.order import Member
from p2p.errors import LocalError
from p2p.swarm import departure
from p2p.swarm import events as e
from sim.world.boot import PAYLOAD, Machine
from sim.world.cargo import OWN_HARDWARE, OWN_PRODUCT, Carrying
from sim.world.character import Character
from sim.world.checkins import CheckIns
from sim.world.desk import Desk
from sim.world.disk import VirtualDisk
from sim.world.disk_slot import DiskSlot
from sim.world.lifecycle import Lifecycle
from sim.world.metadata import Then
from sim.world.node_side import Clock, NodeSide
from sim.world.publisher import HARDWARE, PRODUCT
from sim.world.synthetic import Material, name_digest
from sim.world.told import Told
from sim.world.trust import EPOCH
from sim.world.witness import Making

if TYPE_CHECKING:
    from sim.world.device import Device

HEALTH_S = 1.0
"""How long the health check of a new release takes."""

TOLD_S = 0.05
"""Devices at rest hear of a publication within this time."""


class LivingAgent:
    """One device's agent, as the device sees it. `state` is what `DeviceOutcome.state` says."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.publisher = device.world.publisher
        self.state = "waiting"
        self.meant_s: float | None = None
        self.verified_s: float | None = None
        self.finished_s: float | None = None
        self._rng = device.kernel.rng(f"agent/{device.name}")
        self.check_ins = CheckIns(device, self._rng)
        self.desk = Desk(device)
        self.under_way: Making | None = None
        storage = device.klass.storage
        self.disk = VirtualDisk(
            write_rate=storage.write_rate, read_rate=storage.read_rate, fsync_s=storage.fsync_s
        )
        self.machine = Machine(self.disk, capacity=storage.capacity)
        self.no_base = name_digest(device.kernel.seed, "no-base", device.name)
        self.claims: dict[str, tuple[int, int]] = {}
        self.objects: dict[Digest, list[Then]] = {}
        self.metadata: dict[tuple[str, str], list[Then]] = {}
        self._life: Lifecycle | None = None
        self._crashed = False

    @property
    def life(self) -> Lifecycle:
        """The device's life, which begins at its first start."""
        if self._life is None:
            self._life = self._born()
        return self._life

    # From the device

    def started(self) -> None:
        device = self.device
        life = self.life
        if not isinstance(device.slot, DiskSlot):
            device.slot = self.slot()
        self.desk.started()
        # before the first poll, on their connection
        self.check_ins.started(anew=device.stopped_why == "reboot")
        if device.stopped_why == "restart":
            life.start_agent()
        else:
            life.power_on()

    def stopped(self) -> None:
        self.check_ins.forget()
        self.desk.forget()
        self.under_way = None
        self.objects.clear()
        self.metadata.clear()
        self.claims.clear()
        if self.life.up:
            if self._crashed:
                self.life.cut_power()
            else:
                self.life.kill()
        self._crashed = False
        if isinstance(self.device.slot, DiskSlot):
            self.device.slot.close()

    def told(self) -> None:
        """Something was published: ask at once."""
        device = self.device
        device.later(device.kernel.now + TOLD_S * self._rng.random(), self._ask)

    def _ask(self) -> None:
        self.life.ask_now()

    def news_heard(self, device: str, root_version: int, timestamp_version: int) -> None:
        self.claims[device] = (root_version, timestamp_version)
        if timestamp_version > self.life.timestamp():
            self.life.ask_now(claimed=device)

    def metadata_arrived(self, device: str, name: str, data: bytes | None) -> None:
        for then in self.metadata.pop((device, name), []):
            then(None if data is None else bytes(data))

    def report_arrived(self, action: e.ReportArrived) -> None:
        self.desk.arrived(action)

    def report_returned(self, action: e.ReportReturned) -> None:
        self.check_ins.returned(action)

    def object_arrived(self, digest: Digest, data: bytes | None) -> None:
        if data is not None:
            self.device.objects[digest] = data
        for then in self.objects.pop(digest, []):
            then(data)

    def verified(self, image: Digest) -> None:
        making = self.under_way
        if making is None or making.task.image != image:
            return
        self.verified_s = self.device.kernel.now
        try:
            right = making.writer.digest() == image
        except LocalError as error:
            self.give_up(image, error)
            return
        finally:
            self.disk.take_s()  # the device has taken its time for it
        if right:
            self.under_way = None
            making.verified()
        else:
            self.give_up(image, LocalError("read back wrong after all"))

    def failed(self, image: Digest, reason: str) -> None:
        self.give_up(image, LocalError(reason), block=reason == "read-back")

    # For `node_side` and `told`

    def give_up(self, image: Digest, error: LocalError, *, block: bool = False) -> None:
        """An image cannot be made here."""
        making = self.under_way
        if making is not None and making.task.image == image:
            self.under_way = None
            making.failed(error, block)
            material = self.material(image)
            if block and material is not None:
                self.end(material.name)

    def material(self, image: Digest) -> Material | None:
        """The release with this image."""
        return next((m for m in self.device.world.materials.values() if m.image == image), None)

    def slot(self, making: Making | None = None) -> DiskSlot:
        """The spare slot, to make an image in."""

        def crashed() -> None:
            self._crashed = True

        spec = self.device.klass.storage
        if making is None:
            return DiskSlot(spec, self.disk, crashed=crashed)
        image = making.task.image
        return DiskSlot(
            spec,
            self.disk,
            path=making.path,
            image=image,
            writer=making.writer,
            trouble=lambda error: self.give_up(image, error),
            crashed=crashed,
        )

    def end(self, release: str) -> None:
        """This device is done with a release, well or not."""
        world = self.device.world
        order = next((o for o in reversed(world.scenario.orders) if o.release == release), None)
        if order is not None:
            self.finished_s = self.device.kernel.now
            self.device.kernel.trace(f"{self.device.name} {self.state} {release}")
            world.finished(self.device, order)

    def linger(self, image: Digest, then: Callable[[], None]) -> None:
        """Give peers, before a reboot, what only this device may have."""
        self._linger(image, self.device.kernel.now, then)

    def _linger(self, image: Digest, since: float, then: Callable[[], None]) -> None:
        device, now = self.device, self.device.kernel.now
        node = device.node
        if node is None or departure.may_leave(
            now,
            since,
            device.server.served_at,
            all_complete=node.all_complete(image),
            all_begun=node.all_begun(image),
            needed=node.needed(image),
        ):
            if node is not None and node.fetched(image):
                self.check_ins.leaving(image, then)
            else:
                then()
        else:
            device.later(now + departure.STEP_S, self._linger, image, since, then)

    # Inside

    def _born(self) -> Lifecycle:
        device, publisher = self.device, self.publisher
        base = device.base or self.no_base
        material = self.material(base)
        sizes = [m.size for m in device.world.materials.values()]
        size = material.size if material is not None else max(sizes, default=1)
        capacity = device.klass.storage.capacity
        self.machine.factory({PAYLOAD: (base, min(size, capacity) if capacity else size)})
        polling, cargo = device.world.scenario.polling, device.klass.cargo
        product, hardware = (OWN_PRODUCT, OWN_HARDWARE) if cargo else (PRODUCT, HARDWARE)
        character = Character(
            Member(device.name, device.site.area.name, publisher.groups(device.draw), hardware),
            product,
            publisher.repository.root,
            poll_s=polling.every_s,
            poll_jitter=polling.jitter,
            lookout=polling.lookout,
            revocations=device.world.revokes,
            health_s=HEALTH_S,
            build_time=EPOCH + device.kernel.now - 86_400.0,
            healthy=lambda manifest: device.healthy,
        )
        side, reader = NodeSide(self), publisher.reader
        carrying = Carrying(cargo, PRODUCT, character, self.machine, side, reader) if cargo else None
        return Lifecycle(
            character,
            self.machine,
            side,
            device.kernel,
            device.kernel.rng(f"life/{device.name}"),
            reader=reader,
            clock=Clock(device),
            witness=Told(self),
            carrying=carrying,
        )
