"""What others are told of this device: check-ins and reports for the coordinator, a file for people here.

A check-in brings the site's roster back, for discovery and for the node to know whom to expect. A
coordinator that cannot be reached costs nothing but its knowledge.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any

import trio

from p2p.adapters.device_api import DeviceApi
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.http import HttpClient
from p2p.adapters.identity import Credentials
from p2p.adapters.installer import Installer, Task
from p2p.adapters.reports import ReportCount
from p2p.adapters.roster import RosterDiscovery
from p2p.adapters.status import write_status
from p2p.agent.driver import SwarmDriver
from p2p.agent.handing_in import HandingIn, first_of
from p2p.agent.metering import WanMeter
from p2p.agent.renewing import Renewing
from p2p.agent.revoking import Revoking
from p2p.agent.satchel import Satchel
from p2p.agent.updates import Updates
from p2p.config import AgentConfig
from p2p.errors import OriginError, StoreError
from p2p.ports import Boot
from p2p.swarm import report_desk
from p2p.swarm.events import Expect
from p2p.trust import CheckInPace

log = logging.getLogger(__name__)

STATUS_S, STATUS_REST_S = 0.5, 8.0
"""How often the status file is brought up to date: while it changes, and at rest."""

LAST_WORD_S = 10.0
ANEW_S, MEET_S = 60.0, 15.0
"""How long a device that starts anew with its update waits for that to end, and then for a peer that hands
in, before it checks in itself."""

EXPECTED_AGE_S = 900
"""A device of the roster that was heard of within this long may be waking up beside us."""

ROSTER_MAX = 64
"""A roster that is this long may leave somebody out (`docs/spec/device-api.md`)."""


class Reporting:
    """`poll_s` is how often the coordinator wants to hear of this device, at least."""

    def __init__(
        self,
        config: AgentConfig,
        credentials: Credentials,
        api: DeviceApi,
        client: HttpClient,
        installer: Installer,
        boot: Boot,
        driver: SwarmDriver,
        updates: Updates,
        meter: WanMeter | None,
        count: ReportCount,
        revoking: Revoking,
        renewing: Renewing,
    ) -> None:
        self._config = config
        self._credentials = credentials
        self._api = api
        self._client = client
        self._installer = installer
        self._boot = boot
        self._driver = driver
        self._updates = updates
        self._meter = meter
        self._revoking = revoking
        self._renewing = renewing
        self._written: dict[str, Any] | None = None
        self._writing = trio.Lock()
        self._unwritten = ""
        """Why the status file could not be written the last time, if it could not."""
        self._left = False
        self._pace = CheckInPace()
        self._checked_at = self._roster_at = -math.inf
        self._due = trio.Event()
        self._quiet: bool | None = None
        """Whether peers hand in for this device; None: it has not been long enough there to know."""
        self.carried: Callable[[], list[dict[str, Any]]] | None = None
        """Of a carrier: what it keeps for others, for the status file."""
        kept = DirectoryBlobStore(config.device.state_dir / "roster")
        self.roster = RosterDiscovery(credentials.identity.device, kept)
        self.poll_s = config.coordinator.poll_s
        satchel = None
        if config.swarm.carrier and config.swarm.wan:
            satchel = Satchel(DirectoryBlobStore(config.device.state_dir / "carried"))
        self.handing_in = HandingIn(
            credentials,
            api,
            driver,
            count,
            lambda: self.poll_s,
            renewing.take,
            wan=config.swarm.wan,
            satchel=satchel,
        )

    async def check_in_always(
        self, *, once: bool = False, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Check in at the start, with polls, and (unless `last_word` will) whenever an update ended.

        Where a peer hands in for this device, it reports by way of that peer instead, but for the start and
        its own polls; and then much more seldom while nothing changes. `started` is said as the first
        check-in begins: it goes before the first poll on their connection, as its answer tells of others.
        """
        task_status.started()
        urgent = await self._began_anew()
        direct = not urgent
        while True:
            ended, self._due = self._updates.ended, trio.Event()
            if not (once or direct) and await self._hand_in(ended, urgent=urgent):
                wait = report_desk.every_s(self.poll_s, random.random())
            elif ended.is_set() or self._due.is_set():
                wait = 0.0  # it broke off for something newer
            else:
                ok = not self._config.swarm.wan or await self._check_in()
                wait = self._pace.alone(self.poll_s, random.random(), ok=ok)
            with trio.move_on_after(wait):
                if once:
                    await trio.sleep_forever()
                await first_of(ended, self._due)
            urgent, direct = ended.is_set(), self._due.is_set()

    async def _began_anew(self) -> bool:
        """Whether this start is part of an update, which ends first; peers that were met know the rest."""
        if self._installer.task is not Task.HEALTH or not self._config.swarm.lookout:
            return False
        with trio.move_on_after(min(ANEW_S, self.poll_s)):
            await self._updates.ended.wait()
        with trio.move_on_after(min(MEET_S, self.poll_s)):
            while self.handing_in.for_itself():
                await trio.sleep(MEET_S / 60)
        return True

    async def _hand_in(self, ended: trio.Event, *, urgent: bool) -> bool:
        """Report by way of a peer; False if nobody does that, or if something newer is to be said."""
        if not self._config.swarm.lookout:
            return False
        began = trio.current_time()
        handed = await self.handing_in.report(self._report(), urgent=urgent, unless=(ended, self._due))
        while self.handing_in.lapsed:
            began = trio.current_time()
            handed = await self.handing_in.report(self._report(), urgent=urgent, unless=(ended, self._due))
        if handed:
            self._checked_at, self._quiet = began, True
        return handed

    def polled(self) -> None:
        """The origin has just answered a poll: if a check-in is nearly due, it is made now."""
        self.handing_in.polled()
        if self._pace.with_poll(trio.current_time() - self._checked_at, self.poll_s):
            self._due.set()

    async def last_word(self) -> None:
        """One more check-in before the agent ends, if there is a way to the coordinator."""
        if self._config.swarm.wan and not self._left:
            with trio.move_on_after(LAST_WORD_S):
                await self._check_in(roster=False)
        await self.write_status()

    async def leaving(self) -> None:
        """The last word before a reboot: this device will be back, with what it has armed."""
        await self.last_word()
        self._left = True

    async def write_status_always(self) -> None:
        """Keep the status file up to date: at once when the state turns, ever more seldom at rest."""
        pause = STATUS_S
        while True:
            turned = self._updates.turned  # also while the file is written
            pause = STATUS_S if await self.write_status() else min(2 * pause, STATUS_REST_S)
            with trio.move_on_after(pause):
                await turned.wait()
                pause = STATUS_S

    async def write_status(self) -> bool:
        """Write the status file if anything changed; whether it was. A failure is told once."""
        async with self._writing:
            facts = self._facts()
            if facts == self._written:
                return False
            status = {**facts, "updated": time.time()}
            try:
                await trio.to_thread.run_sync(write_status, self._config.status_path, status)
            except StoreError as error:
                if error.message != self._unwritten:
                    log.warning("%s (kept: what was there; it is tried again)", error.message)
                self._unwritten = error.message
                return False
            self._written, self._unwritten = facts, ""
            return True

    async def _check_in(self, *, roster: bool = True) -> bool:
        """Report to the coordinator and learn who is on the site; False if that failed and may soon not."""
        self._checked_at = now = trio.current_time()
        roster &= self._pace.with_roster(
            now - self._roster_at, self.poll_s, peers=len(self._driver.node.peers)
        )
        report = self._report() | ({} if roster else {"roster": False}) | await self._announced()
        try:
            answer = await self._api.checkin(self._config.device.id, self._credentials.key, report)
        except OriginError as error:
            log.info("check-in: %s", error.message)
            # Who is out of the fleet stays so: a try each minute would only cost the link.
            return error.reason == "revoked"
        self.handing_in.checked_in(answer.sequence)
        if answer.certificate is not None:
            await self._renewing.take(answer.certificate)
        self.poll_s = min(self._config.coordinator.poll_s, answer.poll_s)
        self._roster_at = now if roster else self._roster_at
        if self._config.discovery.roster and roster:
            self.roster.update(r for r in answer.roster if not self._revoking.is_out(r.device))
            recent = {r.device: r.image for r in answer.roster if r.age_s <= EXPECTED_AGE_S}
            whole = len(recent) == len(answer.roster) < ROSTER_MAX
            self._driver.feed(Expect(recent, whole))
            await self.roster.keep()
        return True

    async def _announced(self) -> dict[str, object]:
        """The number of a check-in, and for how long nothing may be heard of this device after it."""
        number, quiet_s = await self.handing_in.number(), 0
        if self._config.swarm.lookout:
            if self._quiet is not None and self.handing_in.for_itself():
                self._quiet = False
            if self._quiet:
                quiet_s = report_desk.quiet_s(self.poll_s)
            elif self._quiet is None:
                self._quiet = False
                quiet_s = report_desk.first_quiet_s(self.poll_s)
        announced: dict[str, object] = {} if number is None else {"sequence": number}
        return announced | ({"quiet_s": quiet_s} if quiet_s else {})

    def _report(self) -> dict[str, object]:
        running = self._boot.read().running
        installed = self._installer.record.installed
        report: dict[str, object] = {
            "listen_port": self._driver.node.port,
            "release": installed.release.version if installed else None,
            "slot": running,
            "state": self._updates.progress.state,
            "images": self._images(running),
            "ledger": self._driver.node.ledger.to_json(),
            "role": self._role(),
            "revocations": self._revoking.register.version,
            **self._renewing.asked_for(),
        }
        plan = self._installer.record.plan
        if self._installer.task is Task.REBOOT and plan is not None:
            report["armed"] = self._images(plan.slot)
        if self._config.network.advertise is not None:
            report["listen_host"] = self._config.network.advertise
        return report

    def _images(self, slot: str) -> dict[str, str]:
        """What a slot holds, by payload."""
        return {
            name: held[0].hex()
            for name, slots in self._installer.slots.items()
            if (held := slots.image_in(slot)) is not None
        }

    def _facts(self) -> dict[str, Any]:
        node, progress = self._driver.node, self._updates.progress
        status = node.status(progress.image) if progress.image is not None else None
        gateways = status.gateways if status is not None else ()
        facts: dict[str, Any] = {
            "device": self._config.device.id,
            "site": self._credentials.identity.site,
            "listen_port": node.port,
            "state": progress.state,
            "release": progress.release,
            "reason": progress.reason or None,
            "role": self._role(),
            "gateways": list(gateways),
            "ledger": node.ledger.to_json(),
            "wan_wire_bytes": self._client.wire_received,
            "peers": [
                {"device": device, "role": "gateway" if device in gateways else "rider"}
                for device in node.peers
            ],
            "revocations": self._revoking.facts(),
        }
        if self._meter is not None:
            facts["wan"] = self._meter.facts()
        if self._config.swarm.carrier:
            facts["given"] = self._updates.given()
        if self.carried is not None:
            facts["carried"] = self.carried()
        if status is not None:
            facts["progress"] = {"done": status.size - status.left, "total": status.size}
        return facts

    def _role(self) -> str:
        image = self._updates.progress.image
        status = self._driver.node.status(image) if image is not None else None
        return status.role if status is not None else "idle"
