"""The reports that a virtual device hands in for its peers, as `p2p.agent.handing_in` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from p2p.content.report import OK
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
        brought = Brought(*author_of(action.report.report), action.device, action.report)
        if self._desk.add(brought, self._pause_s, self._device.kernel.now):
            self._wait()
        else:
            self._device.feed(e.ReportHandedIn(action.device, action.report.number, NOBODY))

    def polled(self) -> None:
        """The origin has answered: what has waited for some time goes along."""
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
