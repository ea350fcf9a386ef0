"""What is meant for this device: the question to the trust client, and when it is asked again.

One device of a site asks the origin for all (`p2p.swarm.lookout`); the others ask their peers when those
claim to know more, and the origin when it is their turn. What follows from the answer is the agent's
(`polling`); what the answer may be is for `p2p.trust` to say.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable

import trio

from p2p.agent.driver import SwarmDriver
from p2p.agent.imported import ImportedBundle
from p2p.agent.metadata import MetadataSource
from p2p.agent.revoking import Revoking
from p2p.agent.stepping import run_in_threads
from p2p.config import AgentConfig
from p2p.content.order import Member
from p2p.errors import OriginError, PeerError, TrustError
from p2p.ports import Origin
from p2p.swarm import events as e
from p2p.swarm.lookout import WORD_S
from p2p.trust import (
    Decision,
    Need,
    Question,
    ReleaseFloors,
    TrustClient,
    release_despite_expiry,
    release_for,
    trusted_time,
)

log = logging.getLogger(__name__)

NEWS_PAUSE_S = 2.0
"""Claims of news lead to no more than one question in this time."""


class Asking:
    """The questions of one device. `contacted` is called when the origin has answered one, `decided` when
    what is meant was decided by what is in force."""

    def __init__(
        self,
        config: AgentConfig,
        member: Member,
        trust: TrustClient,
        floors: ReleaseFloors,
        origin: Origin,
        driver: SwarmDriver,
        imported: ImportedBundle,
        contacted: Callable[[], None],
        revoking: Revoking,
        decided: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._member = member
        self._trust = trust
        self._floors = floors
        self._origin = origin
        self._driver = driver
        self._imported = imported
        self._contacted = contacted
        self._revoking = revoking
        self._decided = decided
        self._asked_at = self._own_at = -math.inf
        self._asked_for = False
        self._turn = True
        self._stands_until = 0.0
        self._anew_at: float | None = None
        """When this device started with its own update, until somebody told when the origin was asked."""
        self._excepted = False  # the last decision was by expired metadata, as its order allows
        self._pause_s = config.coordinator.poll_s

    def ask_now(self) -> None:
        """Do not wait for the next poll, nor be content with a question that is under way."""
        self._asked_for = True
        self._driver.news.set()

    def began_anew(self) -> None:
        """This start is part of an update: what is meant is held, and peers may say whether there is more."""
        if self._config.swarm.lookout:
            self._turn, self._anew_at = False, trio.current_time()
            self._own_at = self._anew_at

    async def ask(self, *, origin: bool = False) -> Decision:
        """Refresh the metadata from origin or peers and decide what this device should run.

        `origin`: ask it, whether it is this device's turn or not.
        """
        wan = self._config.swarm.wan
        first = wan and (origin or self._asked_for or self._turn or not self._config.swarm.lookout)
        self._asked_at = trio.current_time()
        self._asked_for = False
        self._driver.news = trio.Event()
        await self._driver.look_at_imported()
        before = self._claims(self._trust.versions.get("timestamp", 0))
        try:
            decision = await self._decide(wan=first)
        except (TrustError, OriginError, PeerError):
            self._turn = first
            if first or not wan:
                raise
            first = True  # peers are of no help
            decision = await self._decide(wan=True)
        version = self._trust.versions.get("timestamp", 0)
        if self._claims(version) or self._imported.timestamp_version > version:
            # An origin that lags behind (a stale cache, a replay): peers can bring forward, never back. Or
            # peers that do not give what they claim: the origin has it, if there is any.
            excepted = self._excepted
            try:
                decision = await self._decide(wan=wan and not first)
            except (TrustError, OriginError, PeerError) as error:
                if excepted and getattr(error, "reason", "") == "expired":
                    raise  # it is newer, signed, and excepts this device no more: the order may be aborted
                log.info("what peers claim to know: %s", error.message)
        version = self._trust.versions.get("timestamp", 0)
        for device in self._claims(version):
            if before.get(device, 0) > version:  # what was claimed meanwhile may be had by another question
                self._driver.doubts.doubt(device, trio.current_time(), self._pause_s)
        if not self._asked_for and not self._claims(version):
            self._driver.news = trio.Event()  # what was heard meanwhile is known now
        await self._pass_on()
        return decision

    def confirm(self) -> None:
        """Raise `TrustError("expired")` if what the last decision went by has come to its end meanwhile.

        By what this device knows, asking nobody; trusted time.
        """
        built = self._config.trust.build_time or 0.0
        now = trusted_time(time.time(), build_time=built, signed_time=self._trust.time)
        over_s = now - self._stands_until
        if over_s >= 0:
            raise TrustError(
                "expired",
                "the metadata by which the release is meant for this device, or the exception from its"
                f" expiry, ended {over_s:.0f} s ago",
                kept="what is installed goes on running; what was written of the release stays in its slot",
                next_step="bring newer metadata, or order the release with `--allow-stale` for this device",
            )

    async def wait_for_turn(self, pause_s: float) -> None:
        """Wait until it is this device's turn to ask the origin, or until a peer has newer metadata.

        `pause_s`: between two questions of the site, on the average.
        """
        self._pause_s = pause_s
        jitter = random.random()
        while (left := self._turn_at(pause_s, jitter) - trio.current_time()) > 0:
            with trio.move_on_after(min(left, pause_s / 2)):  # who comes first may have left meanwhile
                await self._news()
                return
        self._turn = True

    async def wait_for_news(self, seconds: float) -> None:
        """Wait, but not longer than until a peer has newer metadata (which it may only claim).

        What came while the last question was under way, and was not answered by it, counts.
        """
        with trio.move_on_after(seconds):
            await self._news()

    async def wait_after_trouble(self, seconds: float, pause_s: float, jitter: float) -> None:
        """Wait, but not longer than until a peer has newer metadata or this device's turn to ask the origin.

        Trouble that only something newly published can end does not end in what is held already.
        """
        if not self._turn:  # else the last question failed, and is tried again at the pace of trouble
            seconds = max(0.0, min(seconds, self._turn_at(pause_s, jitter) - trio.current_time()))
        with trio.move_on_after(seconds):
            await self._news()
            return
        self._turn |= trio.current_time() >= self._turn_at(pause_s, jitter)

    # Inside

    def _claims(self, version: int) -> dict[str, int]:
        """What peers that are not doubted claim to know, beyond what is trusted: timestamp versions."""
        now, doubts = trio.current_time(), self._driver.doubts
        claims = {d: claimed for d, (_, claimed) in self._driver.news_from.items() if claimed > version}
        return {device: claimed for device, claimed in claims.items() if doubts.heeds(device, now)}

    async def _news(self) -> None:
        await self._driver.news.wait()
        await trio.sleep_until(self._asked_at + NEWS_PAUSE_S)

    def _turn_at(self, pause_s: float, jitter: float) -> float:
        """When this device asks the origin, by the clock of the event loop, as far as is known now."""
        if not (self._config.swarm.wan and self._config.swarm.lookout):
            return self._asked_at + pause_s * (0.5 + jitter)
        if self._anew_at is not None:
            if not self._driver.node.told_of_origin:
                return self._anew_at + min(WORD_S, pause_s) * (0.5 + jitter)
            self._anew_at = None
        now, own = trio.current_time(), self._own_at + pause_s * (0.5 + jitter)
        turn = self._driver.node.asks_at(self._own_at, pause_s, jitter, now)
        content_s = self._trust.content_until - max(self._trust.time, time.time())
        return min(turn, max(own, now + content_s))

    async def _decide(self, *, wan: bool) -> Decision:
        device = self._config.device
        if wan:
            self._own_at, self._turn, self._anew_at = trio.current_time(), False, None
        self._excepted = False
        known = self._trust.versions.get("timestamp", 0)
        source = MetadataSource(self._driver, self._origin, self._imported, wan=wan, known=known)
        floor = await trio.to_thread.run_sync(self._floors.get, device.product)
        revoked = self._revoking.register
        question = Question(self._member, device.product, device.hardware, floor, revocations=revoked)
        now = time.time()

        async def answer(need: Need) -> bytes | None:
            self._revoking.heed()  # before anybody is asked for more: who is out of the fleet gives nothing
            return await source.answer(need)

        try:
            decision = await run_in_threads(release_for(self._trust, question, now), answer)
        except (TrustError, OriginError) as refused:
            if not source.expired and getattr(refused, "reason", "") != "expired":
                raise
            again = MetadataSource(self._driver, self._origin, self._imported, wan=wan, known=known)
            try:
                lenient = release_despite_expiry(self._trust, question, now)
                decision = await run_in_threads(lenient, again.answer)
            except TrustError as error:
                same = error.reason == "expired" and isinstance(refused, TrustError)
                raise (refused if same else error) from error
            self._excepted = True
            allowed = decision.order.allow_stale
            self._stands_until = allowed.until if allowed is not None else 0.0
            return decision
        finally:
            self._revoking.heed()
            if source.origin_reached:
                self._contacted()
        self._stands_until = self._trust.judged_until
        if source.origin_told:
            await self._pass_on()
            self._driver.feed(e.OriginAnswered())
        self._decided()
        return decision

    async def _pass_on(self) -> None:
        """Let peers have the mutable metadata that is trusted now."""
        for held in await trio.to_thread.run_sync(self._held):
            self._driver.feed(held)

    def _held(self) -> list[e.HoldMetadata]:
        """It. Blocks."""
        versions, found = self._trust.versions, list[e.HoldMetadata]()
        for version in range(max(2, versions.get("root", 1) - 8), versions.get("root", 1) + 1):
            root = self._trust.held_root(version)
            if root is not None:
                found.append(e.HoldMetadata(f"{version}.root.json", version, root))
        timestamp = self._trust.held_timestamp()
        if timestamp is not None:
            found.append(e.HoldMetadata("timestamp.json", versions["timestamp"], timestamp))
        return found
