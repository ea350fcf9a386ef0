"""Devices whose agent is the real one: signed metadata, verified; slots and boot environment on a disk.

`LivingAgent` puts a `Lifecycle` behind a device of the world. It checks in, lingers and dials as
`PollingAgent` does; all that is believed, kept, installed, judged and blocked is the real trust client's
and installer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.content.order import Member
from p2p.errors import LocalError, OriginError
from p2p.install import Release
from p2p.swarm import events as e
from p2p.swarm.events import ImageTask
from p2p.trust import Decision, Meant
from sim.world.agent import HEALTH_S, PollingAgent
from sim.world.boot import PAYLOAD, Machine
from sim.world.disk import VirtualDisk
from sim.world.disk_slot import DiskSlot
from sim.world.lifecycle import Character, Lifecycle
from sim.world.metadata import Then
from sim.world.orders import ABSENT
from sim.world.publisher import HARDWARE, PRODUCT, Publisher
from sim.world.synthetic import Material, name_digest
from sim.world.trust import EPOCH, DeviceClock
from sim.world.witness import Making, Witness

if TYPE_CHECKING:
    from sim.world.device import Device

ASK_S = 10.0
"""How long a peer is waited for that was asked for metadata, as `p2p.agent.driver` has it."""

ENDS = ("committed", "failed", "rolled-back")
_STATES = {
    "idle": "waiting",
    "starting": "waiting",
    "planning": "fetching",
    "sealing": "fetching",
    "armed": "rebooting",
    "current": "committed",
}
"""The agent's words in those of `DeviceOutcome.state`."""


class Living:
    """Makes the agents of one world (`Seams.make_agent`)."""

    def __init__(self) -> None:
        self._publisher: Publisher | None = None

    def __call__(self, device: Device) -> LivingAgent:
        if self._publisher is None or self._publisher.world is not device.world:
            self._publisher = Publisher(device.world)
        return LivingAgent(device, self._publisher)


class LivingAgent(PollingAgent):
    """One device's agent, as the device sees it."""

    def __init__(self, device: Device, publisher: Publisher) -> None:
        super().__init__(device)
        self.device = device
        self.publisher = publisher
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
        self._check_ins = 0

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
        if device.stopped_why == "restart":
            life.start_agent()
        else:
            life.power_on()
        if life.up and device.up:
            self.check_in()

    def stopped(self) -> None:
        self._forget()
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

    def ask(self) -> None:
        self.life.ask_now()

    def news_heard(self, device: str, root_version: int, timestamp_version: int) -> None:
        self.claims[device] = (root_version, timestamp_version)
        if timestamp_version > self.life.timestamp():
            self.life.ask_now()

    def metadata_arrived(self, device: str, name: str, data: bytes | None) -> None:
        for then in self.metadata.pop((device, name), []):
            then(None if data is None else bytes(data))

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

    def check_in(self) -> None:
        """Check in now; the agent does it at its start, now and then, and when an update has ended."""
        self._check_ins += 1
        self.device.later(self.device.kernel.now, self._check_in_due, self._check_ins)

    def _check_in_later(self, *, ok: bool) -> None:
        self._check_ins += 1
        self.device.later(self.device.kernel.now + self._wait(ok), self._check_in_due, self._check_ins)

    def _check_in_due(self, number: int) -> None:
        if number == self._check_ins:
            self._check_in()

    # For the two below

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
        order = next((o for o in reversed(self._coordinator.orders) if o.release == release), None)
        if order is not None:
            self._finish(order)

    def linger(self, image: Digest, then: Callable[[], None]) -> None:
        """Give peers, before a reboot, what only this device may have."""
        self._linger(image, self.device.kernel.now, then)

    # Inside

    def _born(self) -> Lifecycle:
        device, publisher = self.device, self.publisher
        base = device.base or self.no_base
        material = self.material(base)
        sizes = [m.size for m in device.world.materials.values()]
        size = material.size if material is not None else max(sizes, default=1)
        capacity = device.klass.storage.capacity
        self.machine.factory({PAYLOAD: (base, min(size, capacity) if capacity else size)})
        polling = device.world.scenario.polling
        character = Character(
            Member(device.name, device.site.area.name, publisher.groups(device.draw), HARDWARE),
            PRODUCT,
            publisher.repository.root,
            poll_s=polling.every_s,
            poll_jitter=polling.jitter,
            health_s=HEALTH_S,
            build_time=EPOCH + device.kernel.now - 86_400.0,
            healthy=lambda manifest: device.healthy,
        )
        return Lifecycle(
            character,
            self.machine,
            NodeSide(self),
            device.kernel,
            device.kernel.rng(f"life/{device.name}"),
            reader=publisher.reader,
            clock=Clock(device),
            witness=Told(self),
        )


class Clock(DeviceClock):
    """A device's clock, as wrong as the device says."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def read(self, now: float) -> float:
        return EPOCH + now + self._device.clock_error_s


class NodeSide:
    """A device and its node, as the device's life sees them (`witness.Swarm`)."""

    def __init__(self, agent: LivingAgent) -> None:
        self._agent = agent
        self._device = agent.device

    @property
    def news(self) -> Mapping[str, tuple[int, int]]:
        connected = self._device.connections
        return {device: claim for device, claim in self._agent.claims.items() if device in connected}

    def object(self, digest: Digest, size: int, path: str, then: Then) -> None:
        waiting = self._agent.objects.setdefault(digest, [])
        waiting.append(then)
        if len(waiting) == 1:
            self._device.feed(e.WantObject(digest, size))

    def from_origin(self, name: str, size_max: int, then: Then) -> None:
        data = self._agent.publisher.repository.files.get(f"metadata/{name}")

        def ended(error: str | None) -> None:
            if error is not None:
                then(OriginError("unreachable", f"{name}: {error}"))
            else:
                then(OriginError("not-found", name) if data is None else data)

        self._device.ask_origin(ABSENT if data is None else len(data), ended)

    def from_peer(self, device: str, name: str, then: Then) -> None:
        waiting = self._agent.metadata.setdefault((device, name), [])
        waiting.append(then)
        if len(waiting) == 1:
            self._device.later(self._device.kernel.now + ASK_S, self._give_up, device, name, waiting)
            self._device.feed(e.AskMetadata(device, name))

    def _give_up(self, device: str, name: str, waiting: list[Then]) -> None:
        if self._agent.metadata.get((device, name)) is waiting:
            self._agent.metadata_arrived(device, name, None)

    def hold(self, name: str, version: int, data: bytes) -> None:
        self._device.feed(e.HoldMetadata(name, version, data))

    def started(self) -> None:
        """Its base is what it runs from, once the boot environment has counted the start."""

    def stopped(self, why: str) -> None:
        if self._device.up:
            self._device.stop(why)

    def again(self) -> None:
        self._device.start_again()

    def before_reboot(self, images: tuple[Digest, ...], then: Callable[[], None]) -> None:
        if images:
            self._agent.linger(images[0], then)
        else:
            then()

    def make(self, making: Making) -> None:
        device, material = self._device, self._agent.material(making.task.image)
        if material is None:
            making.failed(LocalError("the world has no such image"), False)
            return
        self._agent.under_way = making
        device.slot = self._agent.slot(making)
        device.pursue(material)

    def made(self, image: Digest) -> None:
        slot = self._device.slot
        if isinstance(slot, DiskSlot):
            slot.sealed()

    def serve(self, task: ImageTask, path: str) -> None:
        device, material = self._device, self._agent.material(task.image)
        if material is not None and material.image not in device.images:
            spec = device.klass.storage
            device.active_slot = DiskSlot(spec, self._agent.disk, path=path, image=task.image, size=task.size)
            device.offer(material)

    def drop(self, image: Digest) -> None:
        making = self._agent.under_way
        if making is not None and making.task.image == image:
            self._agent.under_way = None
        self._device.drop(image)


class Told(Witness):
    """What a device's life says, for the outcome and for whoever watches the world."""

    def __init__(self, agent: LivingAgent) -> None:
        self._agent = agent
        self._device = agent.device
        self._observer = agent.device.world.observer

    def turned(self, device: str, state: str, reason: str) -> None:
        agent = self._agent
        self._device.kernel.trace(f"{device} is {state} {reason}")
        if state == "down":
            return
        if agent.state != "rolled-back" or state in ("planning", "committed", "current"):
            agent.state = _STATES.get(state, state)
        if state in ENDS and self._device.up:
            agent.check_in()
        if state == "current":
            material = agent.material(self._device.base) if self._device.base is not None else None
            if material is not None:
                agent.end(material.name)

    def booted(self, device: str, slot: str | None, right: bool) -> None:
        if slot is None:
            return
        held = self._agent.machine.slots()[PAYLOAD].image_in(slot)
        image = None if held is None or held[0] == self._agent.no_base else held[0]
        if image != self._device.base:
            material = self._agent.material(image) if image is not None else None
            self._device.base = image
            self._device.base_name = self._device.first_base if material is None else material.name
            self._device.base_bad = IntervalSet()

    def decided(self, device: str, decision: Decision) -> None:
        if isinstance(decision, Meant) and self._agent.meant_s is None:
            self._agent.meant_s = self._device.kernel.now

    def installed(self, device: str, release: Release, slot: str, right: bool) -> None:
        if self._observer is not None:
            world = self._device.world
            order = self._agent._coordinator.order_for(self._device, self._agent._coordinator.version)
            ordered = order is not None and world.counters[order.release] >= release.counter
            self._observer.installed(self._device, release.version, right, ordered)

    def committed(self, device: str, release: Release | None, slot: str) -> None:
        if release is None:
            return
        self._agent.state = "committed"
        if self._observer is not None:
            self._observer.committed(self._device, release.version)
        self._agent.end(release.version)

    def rolled_back(self, device: str, manifest: Digest, reason: str) -> None:
        name = self._agent.publisher.names.get(manifest)
        if name is None:
            return
        self._agent.state = "rolled-back"
        if self._observer is not None:
            self._observer.rolled_back(self._device, name)
        self._agent.end(name)

    def floor_moved(self, device: str, product: str, old: int, new: int) -> None:
        if self._observer is not None:
            self._observer.floor_moved(self._device, old, new)
