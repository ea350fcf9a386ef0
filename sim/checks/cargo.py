"""A carrier keeps to the quota for what it takes along, and never runs it.

- `cargo-quota`: images that are made, given or lie in its hold are more bytes than it may keep for others.
- `cargo-run`: a device that runs something else has come to run what it carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from sim.outcome import Violation
from sim.world.cargo import HOLD
from sim.world.device import Device
from sim.world.living import LivingAgent
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.run import World

__all__ = ["CargoRule"]


class CargoRule(Observer):
    """Looks whenever an image is taken up; `violations` as they are found."""

    heeds = frozenset({e.Pursue, e.Offer})

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        if not device.klass.cargo or not isinstance(event, e.Pursue | e.Offer):
            return
        taken = sum(holding.material.size for holding in device.images.values())
        if max(taken, _lying(device)) > device.klass.cargo:
            self._add("cargo-quota", device, f"{max(taken, _lying(device))} of {device.klass.cargo} bytes")

    def ended(self, world: World) -> None:
        for device in world.honest:
            if device.klass.cargo and device.base_name != device.first_base:
                self._add("cargo-run", device, f"it runs {device.base_name}")

    def _add(self, check: str, device: Device, message: str) -> None:
        self.violations.append(Violation(check, device.kernel.now, device.site.name, device.name, message))


def _lying(device: Device) -> int:
    """Bytes in its hold."""
    agent = device.agent
    if not isinstance(agent, LivingAgent):
        return 0
    disk = agent.disk
    return sum(disk.space(f"{HOLD}/{name}").held for name in disk.names_in(HOLD))
