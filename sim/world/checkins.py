"""Check-ins: a device tells the coordinator that it is there, and hears who else is at its site.

The counterpart of `p2p.agent.reporting`. What a check-in weighs is `orders`'; who is told what comes
from the `Coordinator`'s register.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.trust import CheckInPace
from sim.world.orders import (
    ARMED_ENTRY,
    CHECKIN_DOWN,
    CHECKIN_UP,
    EXPECTED_AGE_S,
    LEDGER_ENTRY,
    ROSTER_ENTRY,
    ROSTER_MAX,
)

if TYPE_CHECKING:
    from sim.world.device import Device

LAST_WORD_S = 10.0
"""How long a device that leaves waits for an answer, as in `p2p.agent.reporting`."""


class CheckIns:
    """One device's: at its start, with its polls, and when an update has ended."""

    def __init__(self, device: Device, rng: Random) -> None:
        self._device = device
        self._coordinator = device.world.coordinator
        self._rng = rng
        self._pace = CheckInPace()
        self._checked_at = float("-inf")
        self._number = 0

    def forget(self) -> None:
        """The agent ends; the next one begins anew."""
        self._pace = CheckInPace()
        self._checked_at = float("-inf")

    def now(self) -> None:
        """Check in now, and again when it is time."""
        self._at(self._device.kernel.now)

    def polled(self) -> None:
        """The origin has just answered a poll: if a check-in is nearly due, it is made now."""
        since = self._device.kernel.now - self._checked_at
        if self._pace.with_poll(since, self._device.world.scenario.polling.every_s):
            self.now()

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
        self._coordinator.know(device, device.kernel.now, armed)
        device.later(device.kernel.now + LAST_WORD_S, over)
        device.ask_origin(CHECKIN_DOWN, over, sent=CHECKIN_UP + ARMED_ENTRY + self._ledger_size())

    def _ledger_size(self) -> int:
        """Bytes of a check-in that name peers."""
        node = self._device.node
        return LEDGER_ENTRY * (len(node.ledger.peers) + len(node.ledger.sent)) if node is not None else 0

    def _at(self, time: float) -> None:
        self._number += 1
        self._device.later(time, self._due, self._number)

    def _due(self, number: int) -> None:
        if number != self._number:
            return
        device = self._device
        self._checked_at = device.kernel.now
        if device.world.scenario.polling.at_rest and self._checked_at < 0.0:
            self._checked_at -= self._rng.random() * device.world.scenario.polling.every_s  # not all just now
        if not device.reaches_wan:
            self._again(ok=True)
            return
        self._coordinator.know(device, device.kernel.now)
        roster = self._coordinator.roster(device)

        def ended(error: str | None) -> None:
            if error is None:
                recent = {name: image for name, age, image in roster if age <= EXPECTED_AGE_S}
                device.feed(e.Expect(recent, len(recent) == len(roster) < ROSTER_MAX))
                device.site.roster_heard(device, [name for name, _, _ in roster])
            self._again(ok=error is None)

        device.ask_origin(
            CHECKIN_DOWN + ROSTER_ENTRY * len(roster), ended, sent=CHECKIN_UP + self._ledger_size()
        )

    def _again(self, *, ok: bool) -> None:
        every_s = self._device.world.scenario.polling.every_s
        self._at(self._device.kernel.now + self._pace.alone(every_s, self._rng.random(), ok=ok))
