"""What a carrier does with the reports of devices without a WAN: keep each durably, say so, and hand all in
once it is at home.

Files are written in a thread: on a slow medium the event loop does not wait for them. Where this device has
just asked the origin, it is at home already: then an urgent report goes to the coordinator at once, and its
device hears what became of it; elsewhere it hears that the report is carried, and gets what the coordinator
said of an earlier one for it (a new certificate). What the coordinator does not answer stays. Not for what is
kept, and how (`satchel`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from p2p.adapters.device_api import HandedIn
from p2p.agent.satchel import Carried, Satchel
from p2p.content import report as reports
from p2p.content.report import Report
from p2p.errors import OriginError
from p2p.swarm.ration import Ration
from p2p.swarm.relay import NOBODY
from p2p.swarm.report_desk import URGENT_S

log = logging.getLogger(__name__)

HOME = 2.0
"""Pauses after which a carrier tries whether it is at home, while it carries reports."""

NEAR = 1.5
"""Pauses since the origin answered, within which it is taken to be there still."""

WRITES_MAX, WRITE_AGAIN_S = 8, 600.0
"""Reports of one device that are kept one after the other, and the time in which one more may be: what a
device calls a new report costs flash."""

RATE = "rate"
"""What the coordinator says of a report of a device that it has heard of just now: later."""


@dataclass(frozen=True, slots=True)
class _Brought:
    """A report that its device has brought, as its message `number`."""

    carried: Carried
    number: int
    urgent: bool
    renews: bool
    """It waits for a new certificate."""


class Homebound:
    """`hand_in` gives reports to the coordinator, `answer` tells a device what became of its own."""

    def __init__(
        self,
        satchel: Satchel,
        hand_in: Callable[[Sequence[bytes]], Awaitable[list[HandedIn]]],
        answer: Callable[[str, int, HandedIn], None],
        pause_s: Callable[[], float],
    ) -> None:
        self._satchel = satchel
        self._hand_in = hand_in
        self._answer = answer
        self._pause_s = pause_s
        self._brought: dict[str, _Brought] = {}
        """By device, one of each: what is not written yet."""
        self._unanswered: dict[str, _Brought] = {}
        """And what is written, and will be answered when the coordinator has been asked."""
        self._written = Ration(WRITES_MAX)
        self._home_at = math.inf
        """When it is tried whether this is home although this device has asked nothing: others may ask for
        all."""
        self._near_until = -math.inf
        self._more = trio.Event()
        self._disk = trio.CapacityLimiter(1)

    def arrived(self, report: Report, line: bytes, number: int, *, urgent: bool) -> None:
        """A device without a WAN brings its own report."""
        device = report.device
        if not self._written.take(device, WRITE_AGAIN_S, trio.current_time()):
            self._answer(device, number, HandedIn(NOBODY))
            return
        self._replace(self._brought, device)
        self._replace(self._unanswered, device)
        renews = "certificate_until" in report.status
        carried = Carried(device, report.sequence, line)
        self._brought[device] = _Brought(carried, number, urgent, renews)
        self._more.set()

    def polled(self) -> None:
        """The origin has answered a question of this device: it is at home."""
        self._near_until = trio.current_time() + NEAR * self._pause_s()
        if len(self._satchel):
            self._home_at = -math.inf
            self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._look_for_home()
        while True:
            self._more = trio.Event()
            if not self._brought:
                with trio.move_on_at(max(self._home_at, trio.current_time())):
                    await self._more.wait()
            if self._brought:
                await self._pack()
            if trio.current_time() >= self._home_at:
                self._home_at = math.inf
                await self._empty()
                self._look_for_home()

    def _replace(self, held: dict[str, _Brought], device: str) -> None:
        """A device has brought another report: of the older one it hears that nobody takes it."""
        if (older := held.pop(device, None)) is not None:
            self._answer(device, older.number, HandedIn(NOBODY))

    def _look_for_home(self) -> None:
        """What is carried is handed in some pauses later, if nothing else is a reason to."""
        if len(self._satchel) and self._home_at == math.inf:
            self._home_at = trio.current_time() + HOME * self._pause_s() * (0.75 + random.random() / 2)

    async def _pack(self) -> None:
        """Keep what has come, and tell of it what is to be told now."""
        brought, self._brought = list(self._brought.values()), {}
        now = trio.current_time()
        near = now < self._near_until
        kept = await trio.to_thread.run_sync(self._keep, brought, limiter=self._disk)
        for each, (is_kept, certificate) in zip(brought, kept, strict=True):
            device = each.carried.device
            if not is_kept:
                self._answer(device, each.number, HandedIn(NOBODY))
            elif near and each.urgent:
                self._replace(self._unanswered, device)  # it may have brought this one meanwhile
                self._unanswered[device] = each
                self._home_at = min(self._home_at, now + URGENT_S)
            else:
                self._answer(device, each.number, HandedIn(reports.CARRIED, certificate))
        self._look_for_home()

    def _keep(self, brought: list[_Brought]) -> list[tuple[bool, bytes]]:
        """Whether each is kept, and the new certificate of its device. Blocks."""
        kept = []
        for each in brought:
            device = each.carried.device
            is_kept = self._satchel.add(each.carried)
            if not each.renews:
                self._satchel.drop_certificate(device)
            kept.append((is_kept, self._satchel.certificate(device) if is_kept else b""))
        return kept

    async def _empty(self) -> None:
        """Hand in what was carried here; what the coordinator does not answer stays, until it next can."""
        told: dict[tuple[str, int], HandedIn] = {}
        while batch := await trio.to_thread.run_sync(self._satchel.batch, limiter=self._disk):
            try:
                results = await self._hand_in([carried.line for carried in batch])
            except OriginError as error:
                log.info("%d reports that were carried here stay: %s", len(self._satchel), error.message)
                self._near_until = -math.inf
                break
            said = [(carried, result) for carried, result in zip(batch, results, strict=True)]
            answered = [(carried, result) for carried, result in said if result.result != RATE]
            for carried, result in answered:
                log.info("report %d of %s, carried here: %s", carried.sequence, carried.device, result.result)
                told[carried.device, carried.sequence] = result
            gone = await trio.to_thread.run_sync(self._settle, answered, limiter=self._disk)
            if not gone or len(answered) < len(said):
                break  # the rest later: not the same ones again and again
        waiting, self._unanswered = self._unanswered, {}
        for device, each in waiting.items():
            result = told.get((device, each.carried.sequence), HandedIn(reports.CARRIED))
            self._answer(device, each.number, result)

    def _settle(self, answered: list[tuple[Carried, HandedIn]]) -> bool:
        """Keep what the coordinator has answered no longer, but for certificates; False: it stays. Blocks."""
        for carried, result in answered:
            if result.certificate:
                self._satchel.keep_certificate(carried.device, result.certificate)
        return self._satchel.remove(carried for carried, _ in answered)
