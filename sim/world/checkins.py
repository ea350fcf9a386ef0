"""Check-ins and reports: a device tells the coordinator how it is, and hears who else is at its site.

The counterpart of `p2p.agent.reporting`. What a check-in weighs is `orders`'; who is told what comes
from the `Coordinator`'s register; what peers hand in lies at the `desk`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.report import CARRIED, TAKEN
from p2p.swarm import events as e
from p2p.swarm import report_desk
from p2p.trust import CheckInPace
from sim.world.orders import (
    ARMED_ENTRY,
    CHECKIN_DOWN,
    CHECKIN_UP,
    EXPECTED_AGE_S,
    LEDGER_ENTRY,
    ROSTER_ENTRY,
    ROSTER_MAX,
    written,
)

if TYPE_CHECKING:
    from sim.world.device import Device

LAST_WORD_S = 10.0
"""How long a device that leaves waits for an answer, as in `p2p.agent.reporting`."""

ANEW_S, MEET_S, MEET_STEP_S = 60.0, 15.0, 0.25
"""How long one that starts with its update waits for that to end, and for a peer that hands in, as there."""


class CheckIns:
    """One device's: at its start, with its polls, when an update has ended, and after long without any.

    `_number` counts what is waited for: only the last of it is done.
    """

    def __init__(self, device: Device, rng: Random) -> None:
        self._device = device
        self._coordinator = device.world.coordinator
        self._polling = device.world.scenario.polling
        self._rng = rng
        self._pace = CheckInPace()
        self._checked_at = self._roster_at = float("-inf")
        self._number = 0
        self._sequence = 0
        self._given: int | None = None
        """The report that a peer is to hand in."""
        self._made_at = 0.0
        self._anew = False
        self._quiet: bool | None = None
        """As `_announced` of `p2p.agent.reporting`: whether peers hand in for it."""

    def forget(self) -> None:
        """The agent ends; the next one begins anew."""
        self._pace = CheckInPace()
        self._checked_at = self._roster_at = float("-inf")
        self._given, self._anew, self._quiet = None, False, None

    def started(self, *, anew: bool) -> None:
        """The agent starts; `anew`: as part of an update, which ends first."""
        self._anew = anew and self._polling.lookout
        if self._anew:
            self._at(self._device.kernel.now + min(ANEW_S, self._polling.every_s), self._meet, float("inf"))
        else:
            self._at(self._device.kernel.now, self._direct)

    def ended(self) -> None:
        """An update has ended."""
        now = self._device.kernel.now
        self._at(now, self._meet, now + MEET_S) if self._anew else self._at(now, self._speak, True)
        self._anew = False

    def polled(self) -> None:
        """The origin has just answered a poll: if a check-in is nearly due, it is made now."""
        since = self._device.kernel.now - self._checked_at
        if not self._anew and self._pace.with_poll(since, self._polling.every_s):
            self._at(self._device.kernel.now, self._direct)

    def leaving(self, armed: Digest, then: Callable[[], None]) -> None:
        """Tell what it will be back with, then call `then`; it waits for no answer for long."""
        device = self._device
        waiting = [then]

        def over(_: str | None = None) -> None:
            if waiting:
                waiting.pop()()

        if not device.reaches_wan:
            over()
            return
        self._coordinator.know(device, device.kernel.now + self._announced(), armed)
        device.later(device.kernel.now + LAST_WORD_S, over)
        device.ask_origin(CHECKIN_DOWN, over, sent=CHECKIN_UP + ARMED_ENTRY + self._ledger_size())

    def returned(self, action: e.ReportReturned) -> None:
        """A peer's word of our report, or nobody takes it."""
        if self._given != action.sequence:
            return
        self._given = None
        if action.device is not None and action.result in (*TAKEN, CARRIED):
            self._checked_at, self._quiet = self._made_at, True
            pause = report_desk.every_s(self._polling.every_s, self._rng.random())
            self._at(self._device.kernel.now + pause, self._speak, False)
        else:
            self._at(self._device.kernel.now, self._direct)

    # Inside

    def _at(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        """Do this at `time`, and nothing of what was waited for before."""
        if self._given is not None:
            given, self._given = self._given, None
            self._device.feed(e.ReportWithdrawn(given))
        self._number += 1
        self._device.later(time, self._due, self._number, call, arguments)

    def _due(self, number: int, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if number == self._number:
            call(*arguments)

    def _meet(self, until: float) -> None:
        """Wait for a peer that hands in, but not for long."""
        now = self._device.kernel.now
        self._anew, until = False, min(until, now + MEET_S)
        if now < until and self._for_itself:
            self._at(now + MEET_STEP_S, self._meet, until)
        else:
            self._speak(True)

    @property
    def _for_itself(self) -> bool:
        node = self._device.node
        return node is None or not self._polling.lookout or node.speaks_for_itself

    def _speak(self, urgent: bool) -> None:
        """Report by way of a peer where one hands in."""
        if self._for_itself:
            self._direct()
            return
        device, every_s = self._device, self._polling.every_s
        self._sequence += 1
        self._made_at = device.kernel.now
        wait = report_desk.waits_s(every_s, urgent=urgent)
        if device.may_have_wan:
            self._at(device.kernel.now + wait, self._direct)
        else:  # who carries it is still to come
            self._number += 1
        self._given = self._sequence
        self._coordinator.written(device, self._sequence, report_desk.quiet_s(every_s))
        device.feed(e.ReportMade(self._sequence, urgent, written(device.name, self._sequence)))

    def _announced(self) -> float:
        """For how long nothing may be heard of it after a check-in."""
        if not self._polling.lookout:
            return 0.0
        if self._quiet is None:
            self._quiet = False
            return report_desk.first_quiet_s(self._polling.every_s)
        self._quiet = self._quiet and not self._for_itself
        return report_desk.quiet_s(self._polling.every_s) if self._quiet else 0.0

    def _ledger_size(self) -> int:
        """Bytes of a check-in that name peers."""
        node = self._device.node
        return LEDGER_ENTRY * (len(node.ledger.peers) + len(node.ledger.sent)) if node is not None else 0

    def _direct(self) -> None:
        """Check in."""
        device = self._device
        self._checked_at = device.kernel.now
        if self._polling.at_rest and self._checked_at < 0.0:
            self._checked_at -= self._rng.random() * self._polling.every_s  # not all just now
        if not device.reaches_wan:
            self._again(ok=True)
            return
        self._coordinator.know(device, device.kernel.now + self._announced())
        wanted = self._pace.with_roster(
            device.kernel.now - self._roster_at, self._polling.every_s, peers=len(device.connections)
        )
        roster = self._coordinator.roster(device) if wanted else []

        def ended(error: str | None) -> None:
            if error is None and wanted:
                self._roster_at = device.kernel.now
                recent = {name: image for name, age, image in roster if age <= EXPECTED_AGE_S}
                device.feed(e.Expect(recent, len(recent) == len(roster) < ROSTER_MAX))
                device.roster = [name for name, _, _ in roster]
                device.site.roster_heard(device, device.roster)
            self._again(ok=error is None)

        device.ask_origin(
            CHECKIN_DOWN + ROSTER_ENTRY * len(roster), ended, sent=CHECKIN_UP + self._ledger_size()
        )

    def _again(self, *, ok: bool) -> None:
        wait = self._pace.alone(self._polling.every_s, self._rng.random(), ok=ok)
        self._at(self._device.kernel.now + wait, self._speak, False)
