"""A device and its node, as the device's life sees them: the other side of `witness.Swarm`.

Not for what the life decides (`lifecycle`), nor for how an image is made (`maker`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.errors import LocalError, OriginError
from p2p.swarm import events as e
from p2p.swarm.events import ImageTask
from sim.world.disk_slot import DiskSlot
from sim.world.metadata import Then
from sim.world.orders import ABSENT
from sim.world.trust import EPOCH, DeviceClock
from sim.world.witness import Making

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.living import LivingAgent

ASK_S = 10.0
"""How long a peer is waited for that was asked for metadata, as `p2p.agent.driver` has it."""


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

    def revoked(self, devices: frozenset[str]) -> None:
        self._device.heed_revoked(devices)

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

    def asks_at(self, asked_at: float, pause_s: float, jitter: float) -> float:
        node, now = self._device.node, self._device.kernel.now
        return now if node is None else node.asks_at(asked_at, pause_s, jitter, now)

    @property
    def told_of_origin(self) -> bool:
        node = self._device.node
        return node is not None and node.told_of_origin

    def answered(self) -> None:
        self._device.feed(e.OriginAnswered())

    def polled(self) -> None:
        self._agent.desk.polled()
        self._agent.check_ins.polled()
