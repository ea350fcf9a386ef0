"""The reports that a virtual device hands in for its peers, as `p2p.agent.handing_in` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from p2p.content.limits import REPORTS_PER_BATCH_MAX
from p2p.content.report import CARRIED, OK
from p2p.swarm import events as e
from p2p.swarm.relay import NOBODY
from p2p.swarm.report_desk import Brought, ReportDesk
from sim.world.orders import REPORT_UP, REPORTS_DOWN, REPORTS_UP, RESULT, RESULTS_MAX, author_of

if TYPE_CHECKING:
    from sim.world.device import Device


class Desk:
    """One device's."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._desk = ReportDesk()
        self._due_at = math.inf
        self.carried: dict[str, int] = {}
        """Of devices without a WAN, for when this one comes home; durable."""
        self.promised: dict[str, tuple[str, int]] = {}
        """By who brought it: whose report was last said to be carried, and its number."""

    def started(self) -> None:
        """The agent starts."""
        if self._device.has_wan:
            self._device.feed(e.HandsIn(True))

    def forget(self) -> None:
        """The agent ends, and what lay here is lost."""
        self._desk = ReportDesk()
        self._due_at = math.inf

    def arrived(self, action: e.ReportArrived) -> None:
        """A report that a peer brings."""
        if action.homebound:
            device, sequence = author_of(action.report.report)
            self.carried[device] = max(sequence, self.carried.get(device, 0))
            self._device.kernel.trace(f"{self._device.name} carries {device} {sequence}")
            self.promised[action.device] = device, sequence
            self._device.feed(e.ReportHandedIn(action.device, action.report.number, CARRIED))
            return
        brought = Brought(*author_of(action.report.report), action.device, action.report)
        if self._desk.add(brought, self._pause_s, self._device.kernel.now):
            self._wait()
        else:
            self._device.feed(e.ReportHandedIn(action.device, action.report.number, NOBODY))

    def polled(self) -> None:
        """The origin has answered: what has waited for some time goes along."""
        if self.carried:
            self._empty_satchel()
        if self._desk.with_question(self._device.kernel.now):
            self._hand_in()

    @property
    def _pause_s(self) -> float:
        return self._device.world.scenario.polling.every_s

    def _wait(self) -> None:
        due_at = self._desk.due_at
        if due_at < self._due_at:
            self._due_at = due_at
            self._device.later(max(due_at, self._device.kernel.now), self._due, due_at)

    def _due(self, due_at: float) -> None:
        if due_at != self._due_at:
            return
        self._due_at = math.inf
        if self._desk.due_at > due_at:
            self._wait()
        else:
            self._hand_in()

    def _empty_satchel(self) -> None:
        """Hand in what was carried here."""
        device, batch = self._device, dict(list(self.carried.items())[:REPORTS_PER_BATCH_MAX])

        def ended(error: str | None) -> None:
            if error is not None:
                return
            for name, sequence in batch.items():
                device.world.coordinator.handed_in(name, sequence)
                if self.carried.get(name) == sequence:
                    del self.carried[name]

        size = REPORTS_DOWN + RESULT * len(batch)
        device.ask_origin(min(size, RESULTS_MAX), ended, sent=REPORTS_UP + REPORT_UP * len(batch))

    def _hand_in(self) -> None:
        device = self._device
        batch = self._desk.take(device.kernel.now)
        if not batch:
            return

        def ended(error: str | None) -> None:
            if error is None:
                self._desk.answered()
                for brought in batch:
                    device.world.coordinator.handed_in(brought.device, brought.sequence)
                    device.feed(e.ReportHandedIn(brought.peer, brought.message.number, OK))
            else:
                self._desk.failed(device.kernel.now, 0.5)
            self._wait()

        size = REPORTS_DOWN + RESULT * len(batch)
        device.ask_origin(min(size, RESULTS_MAX), ended, sent=REPORTS_UP + REPORT_UP * len(batch))
