"""What a device's life says, for the outcome of a run and for whoever watches the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.install import Release
from p2p.trust import Decision, Meant
from sim.world.boot import PAYLOAD
from sim.world.witness import Witness

if TYPE_CHECKING:
    from sim.world.living import LivingAgent

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
            agent.check_ins.ended()
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
            self._device.previous, self._device.base = self._device.base, image
            self._device.base_name = self._device.first_base if material is None else material.name
            self._device.base_bad = IntervalSet()

    def decided(self, device: str, decision: Decision) -> None:
        if isinstance(decision, Meant) and self._agent.meant_s is None:
            self._agent.meant_s = self._device.kernel.now

    def installed(self, device: str, release: Release, slot: str, right: bool) -> None:
        if self._observer is not None:
            world = self._device.world
            order = world.coordinator.order_for(self._device)
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
