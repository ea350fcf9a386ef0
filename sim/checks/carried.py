"""A report that a carrier took for a device without a WAN is carried, or handed in.

- `report-lost`: a carrier told a device that it keeps its report; at the end nobody carries it (nor a newer
  one of that device), and the coordinator never had it. Carriers that have left for good took theirs with
  them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.content.report import CARRIED
from p2p.swarm import events as e
from sim.outcome import Violation
from sim.world.device import Device
from sim.world.living import LivingAgent
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.run import World

__all__ = ["CarriedRule"]


class CarriedRule(Observer):
    """Remembers what was promised; `violations` at the end."""

    heeds = frozenset({e.ReportHandedIn})

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.promised: dict[str, tuple[int, str]] = {}
        """By device: the number of its newest such report, and who carries it."""

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        if isinstance(event, e.ReportHandedIn) and event.result == CARRIED:
            agent = device.agent
            assert isinstance(agent, LivingAgent)
            name, sequence = agent.desk.promised[event.device]
            self.promised[name] = (sequence, device.name)

    def ended(self, world: World) -> None:
        for name, (sequence, carrier) in self.promised.items():
            by = world.devices[carrier]
            if not isinstance(by, Device) or by.gone or world.coordinator.has(name, sequence):
                continue
            if any(_carries(device, name, sequence) for device in world.devices.values()):
                continue
            message = f"{carrier} took report {sequence} of {name}, and neither it nor the coordinator has it"
            self.violations.append(Violation("report-lost", world.kernel.now, by.site.name, carrier, message))


def _carries(device: object, name: str, sequence: int) -> bool:
    agent = device.agent if isinstance(device, Device) else None
    return isinstance(agent, LivingAgent) and agent.desk.carried.get(name, 0) >= sequence
