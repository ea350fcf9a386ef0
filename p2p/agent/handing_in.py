"""Reports by way of peers: this device's own, and those that it hands in for others.

Who asks the origin for the site hands in for it: `p2p.swarm.relay` decides who that is, `report_desk` when.
What a peer says became of a report is believed until this device next asks the coordinator itself, which
then knows better; so who swallows reports is found out. Not for when to report or what (`reporting`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.adapters.device_api import CoordinatorRefusal, DeviceApi, HandedIn
from p2p.adapters.identity import Credentials
from p2p.adapters.reports import ReportCount, compact, signed_report
from p2p.agent.driver import SwarmDriver
from p2p.agent.homebound import Homebound
from p2p.agent.satchel import Satchel
from p2p.content import report as reports
from p2p.errors import ContentError, OriginError, StoreError
from p2p.swarm import events as e
from p2p.swarm import report_desk
from p2p.swarm.relay import NO_WORD, NOBODY
from p2p.swarm.report_desk import Brought, ReportDesk

log = logging.getLogger(__name__)

UNSUPPORTED_S = 86_400.0
"""How long a coordinator that knows no batches is not asked again."""

NO_SUCH_PATH = (404, 405, 501)

FRESH_S = 21_600.0
"""How old a report gets at most that waits for a carrier, before it is made anew: the coordinator refuses one
that is older than two days when it comes, and its way is still before it."""

UNABLE_S = 86_400.0
"""How long this device takes no reports of others once the coordinator took none from it."""


@dataclass
class _Given:
    """A report that a peer is to hand in."""

    sequence: int
    over: trio.Event = field(default_factory=trio.Event)
    result: str | None = None
    device: str | None = None
    certificate: bytes = b""


class HandingIn:
    """`pause_s` tells how long the site waits between two questions to the origin; `renewed` is given a new
    certificate (unverified) that came with a peer's word. `wan`: there is another way than by peers.
    `satchel`: of a carrier."""

    def __init__(
        self,
        credentials: Credentials,
        api: DeviceApi,
        driver: SwarmDriver,
        count: ReportCount,
        pause_s: Callable[[], float],
        renewed: Callable[[bytes], Awaitable[None]],
        *,
        wan: bool = True,
        satchel: Satchel | None = None,
    ) -> None:
        self._credentials = credentials
        self._api = api
        self._driver = driver
        self._count = count
        self._pause_s = pause_s
        self._renewed = renewed
        self._wan = wan
        self._homebound: Homebound | None = None
        if satchel is not None:
            self._homebound = Homebound(satchel, self._given_in, self._answer, pause_s)
        self._desk = ReportDesk()
        self._more = trio.Event()
        self._polled = False
        """The origin has just answered, and there is something for the coordinator."""
        self._given: _Given | None = None
        self._believed: tuple[str, int] | None = None
        """The peer that says that it handed our report in, or says nothing, and the number of that."""
        self.lapsed = False
        """No carrier came for the last report while it was new: it is to be made anew."""
        self._overdue: int | None = None
        """The number of a report of which there was no word in time."""
        self._unsupported_until = -math.inf
        self._able_at = math.inf
        """When this device takes reports of peers again; it does now if that is never."""
        driver.reports = self

    # This device's own

    @property
    def device(self) -> str:
        return self._credentials.identity.device

    def for_itself(self) -> bool:
        """Whether nobody hands in for this device just now."""
        if trio.current_time() < self._unsupported_until:
            return True
        return self._driver.node.speaks_for_itself

    async def number(self) -> int | None:
        """The number of a check-in, which makes reports before it void; None if there is none to be had."""
        try:
            return await trio.to_thread.run_sync(self._count.next)
        except StoreError as error:
            log.warning("this device's count of its reports: %s", error.message)
            return None

    def checked_in(self, known: int | None) -> None:
        """The coordinator itself says which report it had before this check-in (None: it does not say)."""
        if known is None:
            return
        self._count.at_least(known)
        if self._believed is not None and known < self._believed[1]:
            device, sequence = self._believed
            log.warning("%s did not hand in report %d; it gets no more", device, sequence)
            self._driver.feed(e.ReportWithdrawn(sequence, doubted=device))
        self._believed = None

    async def report(
        self, status: Mapping[str, Any], *, urgent: bool, unless: tuple[trio.Event, ...]
    ) -> bool:
        """Have a peer hand in what this device says of itself; False if it has to do that itself.

        `unless`: what makes this device speak for itself, or anew, meanwhile.
        """
        self.lapsed = False
        number = None if self.for_itself() else await self.number()
        if number is None:
            return False
        pause_s = self._pause_s()
        said = compact(status) | {"quiet_s": report_desk.quiet_s(pause_s)}
        line = signed_report(self._credentials.key, self.device, number, self._api.now(), said)
        self._given = given = _Given(number)
        self._driver.feed(e.ReportMade(number, urgent, line))
        overdue = False
        try:
            waits_s = report_desk.waits_s(pause_s, urgent=urgent) if self._wan else FRESH_S
            with trio.move_on_after(waits_s) as waiting:
                await first_of(given.over, *unless)
            overdue = waiting.cancelled_caught and self._wan
            self.lapsed = waiting.cancelled_caught and not self._wan
        finally:
            self._given = None
            if given.result is None:
                self._overdue = number if overdue else None
                self._driver.feed(e.ReportWithdrawn(number, overdue=overdue))
        if given.certificate:
            await self._renewed(given.certificate)
        if given.result == reports.CARRIED:
            log.info("report %d goes home with %s", number, given.device)
            return True
        if given.result in reports.TAKEN and given.device is not None:
            self._believed = given.device, number
            return True
        if given.result is None and not any(event.is_set() for event in unless):
            log.info("no word of report %d", number)
        elif given.result == reports.UNSUPPORTED:
            self._unsupported_until = trio.current_time() + UNSUPPORTED_S
        elif given.result is not None and given.device is not None:
            log.info("report %d by way of %s: %s", number, given.device, given.result)
        return False

    # From the driver

    def returned(self, action: e.ReportReturned) -> None:
        """A peer's word of our report, or nobody takes it."""
        given = self._given
        if action.result == NO_WORD and action.sequence == self._overdue and action.device is not None:
            # The coordinator tells with the check-in that follows whether it has it.
            self._believed, self._overdue = (action.device, action.sequence), None
        elif given is not None and given.sequence == action.sequence:
            given.result, given.device = action.result, action.device
            given.certificate = action.certificate
            given.over.set()

    def arrived(self, action: e.ReportArrived) -> None:
        """A report that a peer brings: it waits at the desk, if it is in one piece."""
        message = action.report
        try:
            _, document = reports.split(message.report)
            report = reports.Report.parse(document)
        except ContentError as error:
            log.info("a report of %s: %s", action.device, error.message)
            self._answer(action.device, message.number, HandedIn("bad-report"))
            return
        if not message.hops and report.device != action.device:
            self._answer(action.device, message.number, HandedIn("bad-report"))
            return
        if action.homebound and self._homebound is not None:
            self._homebound.arrived(report, message.report, message.number, urgent=message.urgent)
            return
        brought = Brought(report.device, report.sequence, action.device, message)
        if self._desk.add(brought, self._pause_s(), trio.current_time()):
            self._more.set()
        else:
            self._answer(action.device, message.number, HandedIn(NOBODY))

    # The desk

    def polled(self) -> None:
        """The origin has answered a question of this device: what has waited for some time goes along."""
        if self._homebound is not None:
            self._homebound.polled()
        if self._desk.with_question(trio.current_time()):
            self._polled = True
            self._more.set()

    async def hand_in_always(self) -> None:
        """Hand in what peers bring, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._homebound is not None:
                nursery.start_soon(self._homebound.run)
            await self._serve_desk()

    async def _serve_desk(self) -> None:
        self._driver.feed(e.HandsIn(True))
        while True:
            self._more = trio.Event()
            with trio.move_on_at(min(self._desk.due_at, self._able_at)):
                await self._more.wait()
            if trio.current_time() >= self._able_at:
                self._able_at = math.inf
                self._driver.feed(e.HandsIn(True))
            if trio.current_time() >= self._desk.due_at or self._polled:
                self._polled = False
                await self._hand_in()

    async def _hand_in(self) -> None:
        batch = self._desk.take(trio.current_time())
        if not batch:
            return
        try:
            results = await self._given_in([brought.message.report for brought in batch])
        except CoordinatorRefusal as error:
            if error.status in NO_SUCH_PATH:
                log.info("the coordinator takes no reports by way of peers")
                results = [HandedIn(reports.UNSUPPORTED)] * len(batch)
                self._unsupported_until = trio.current_time() + UNSUPPORTED_S
            elif error.reason == "revoked":  # of others the coordinator does hear
                log.info("reports of peers: %s", error.message)
                results = [HandedIn(NOBODY)] * len(batch)
            else:
                self._failed(error)
                return
            self._able_at = trio.current_time() + UNABLE_S
            self._driver.feed(e.HandsIn(False))
        except OriginError as error:
            self._failed(error)
            return
        self._desk.answered()
        for brought, result in zip(batch, results, strict=True):
            self._answer(brought.peer, brought.message.number, result)

    async def _given_in(self, lines: Sequence[bytes]) -> list[HandedIn]:
        """Hand in signed reports, as this device; raises `OriginError`."""
        return await self._api.hand_in(self.device, self._credentials.key, lines)

    def _failed(self, error: OriginError) -> None:
        log.info("reports of peers: %s", error.message)
        self._desk.failed(trio.current_time(), random.random())

    def _answer(self, device: str, number: int, said: HandedIn) -> None:
        self._driver.feed(e.ReportHandedIn(device, number, said.result, said.certificate))


async def first_of(*events: trio.Event) -> None:
    """Until one of them is set."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)
