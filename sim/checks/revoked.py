"""Once a device believes that another is revoked, nothing passes between the two.

- `taken-from-revoked`: it took a piece or an object of it;
- `given-to-revoked`: it gave it one;
- `connected-to-revoked`: the two are connected, or have become so again;
- `waits-for-revoked`: its plan of the site counts on it.

What a device believes it believes for good: also after a crash, as it was kept before it was believed. A
device that believes that it is revoked itself has no peers at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.outcome import Violation
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World

__all__ = ["RevokedRule"]


class RevokedRule(Observer):
    """Collects `violations` as they happen. `believed`: by device, whom it knows to be revoked."""

    heeds = frozenset({m.Piece, m.Blob, e.Tick})

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.believed: dict[str, frozenset[str]] = {}

    def begun(self, world: World) -> None:
        self._world = world

    def barred(self, device: Device, devices: frozenset[str]) -> None:
        if devices:
            self.believed[device.name] = self.believed.get(device.name, frozenset()) | devices

    def connected(self, one: str, other: str) -> None:
        if self.believed and (self._parted(one, other) or self._parted(other, one)):
            self._add("connected-to-revoked", one, f"and {other}")

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        believed = self.believed.get(device.name)
        if not believed or device.node is None:
            return
        if type(event) is e.Received:
            if self._parted(device.name, event.device):
                self._add("taken-from-revoked", device.name, f"of {event.device}")
            return
        for other in device.node.peers:
            if self._parted(device.name, other):
                self._add("connected-to-revoked", device.name, f"and {other}")
        for image in device.images:
            status = device.node.status(image)
            for other in status.gateways if status is not None else ():
                if other in believed and other != device.name:
                    self._add("waits-for-revoked", device.name, f"for {other}")

    def sent(self, source: str, target: str, message: m.Piece | m.Blob) -> None:
        if self.believed and self._parted(source, target):
            self._add("given-to-revoked", source, f"to {target}")

    def _parted(self, device: str, other: str) -> bool:
        """Whether a device must have nothing to do with another."""
        believed = self.believed.get(device, frozenset())
        return other in believed or device in believed

    def _add(self, check: str, name: str, message: str) -> None:
        world = self._world
        self.violations.append(
            Violation(check, world.kernel.now, world.devices[name].site.name, name, message)
        )
