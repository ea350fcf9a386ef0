"""Asks what is meant for this device, again and again, and has it installed: the agent's main loop.

A poll that fails changes nothing: the device goes on with what it has, and peers may bring news that the
origin does not. While a release is being made it is asked on whether that is still meant. Not for the
question itself (`asking`), nor for how a release gets into its slot (`updates`).
"""

from __future__ import annotations

import logging
import math
import random

import trio

from p2p.adapters.installer import ReleaseBlockedError
from p2p.agent.asking import Asking
from p2p.agent.driver import SwarmDriver
from p2p.agent.imported import ImportedBundle
from p2p.agent.metering import WanMeter
from p2p.agent.reporting import Reporting
from p2p.agent.updates import RebootPendingError, Updates, explain
from p2p.config import AgentConfig
from p2p.errors import LocalError, OriginError, PeerError, SlipstreamError, TrustError
from p2p.trust import Decision, Meant, Pace, ReleaseFloors

log = logging.getLogger(__name__)

ONCE_PATIENCE_S = 30.0
"""With `--once`: how long neither origin nor peers may tell anything."""

RETRY_S = (1.0, 60.0)


class Polling:
    """That of one device."""

    def __init__(
        self,
        config: AgentConfig,
        asking: Asking,
        updates: Updates,
        reporting: Reporting,
        driver: SwarmDriver,
        meter: WanMeter | None,
        floors: ReleaseFloors,
        imported: ImportedBundle,
    ) -> None:
        self._config = config
        self._asking = asking
        self._updates = updates
        self._reporting = reporting
        self._driver = driver
        self._meter = meter
        self._floors = floors
        self._imported = imported
        self._told = ""

    async def once(self) -> SlipstreamError | None:
        """Until what is meant is committed; gives the error that prevents it, if one does."""
        started = trio.current_time()
        pause, longest = RETRY_S
        while True:
            try:
                decision = await self._asking.ask(origin=True)
            except TrustError as error:
                return error
            except (OriginError, PeerError) as error:
                if trio.current_time() - started > ONCE_PATIENCE_S:
                    return error
                await self._asking.wait_for_news(pause)
                pause = min(longest, pause * 1.5)
                continue
            if not isinstance(decision, Meant):
                return explain(decision)
            if self._updates.is_current(decision):
                await self._commit_seen(decision)
                return None
            try:
                changed = await self._install_while_meant(decision, patience_s=self._patience_s)
            except (LocalError, OriginError, TrustError) as error:
                return error
            if not changed:
                self._updates.serve(decision)
                return None

    async def always(self) -> None:
        """Until cancelled. Raises `RebootPendingError` where the device has to start anew."""
        pace = Pace(RETRY_S)
        while True:
            try:
                decision = await self._asking.ask()
                if isinstance(decision, Meant):
                    if self._updates.is_current(decision):
                        await self._commit_seen(decision)
                    elif await self._install_while_meant(decision):
                        continue
                    else:
                        self._updates.serve(decision)
                self._tell_nothing(decision)
                pace.answered()
                await self._asking.wait_for_turn(self._reporting.poll_s)
            except RebootPendingError:
                raise
            except SlipstreamError as error:
                log.warning("%s", error.diagnostics())
                lasting = isinstance(error, TrustError | ReleaseBlockedError)
                poll_s, jitter = self._reporting.poll_s, random.random()
                wait = pace.after_trouble(poll_s, jitter, lasting=lasting)
                await self._asking.wait_after_trouble(wait, poll_s, jitter)

    @property
    def _patience_s(self) -> float:
        """With `--once`: how long an update may bring nothing. Who has peers waits for them first."""
        return ONCE_PATIENCE_S + 2 * self._config.swarm.fallback_s

    async def _install_while_meant(self, meant: Meant, *, patience_s: float = math.inf) -> bool:
        """Install, asking again now and then; True if something else is meant meanwhile.

        Raises `OriginError` if nothing of use came for `patience_s`, `TrustError` once what is known expires.
        Until the boot environment is armed, that is; from then on the update goes to its end.
        """
        changed = False
        begun = trio.Event()

        async def despair(scope: trio.CancelScope) -> None:
            while not self._driver.lacks or trio.current_time() - self._driver.moved_at < patience_s:
                await trio.sleep(min(1.0, patience_s / 8))
            last = self._driver.objects.trouble
            why = last.message if last is not None else "no peer and no origin has what is missing"
            if self._meter is not None and not self._meter.open:
                why = f"no peer has what is missing, and the WAN is {self._meter.explain()}"
            outcome.append(
                OriginError(
                    last.reason if last is not None else "stalled",
                    f"release {meant.manifest.version}: nothing of use came for {patience_s:.0f} s ({why})",
                )
            )
            scope.cancel()

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal changed
            await begun.wait()  # a question that a refusal breaks off would be this device's turn lost
            while True:
                await self._asking.wait_for_turn(self._reporting.poll_s)
                why: list[SlipstreamError] = []
                try:
                    decision = await self._asking.ask()
                    same = isinstance(decision, Meant) and decision.manifest_digest == meant.manifest_digest
                except SlipstreamError as error:
                    log.info("%s", error.message)
                    why.append(error)
                    same = not isinstance(error, TrustError) or error.reason != "expired"
                if not same and self._updates.progress.state in ("planning", "fetching"):
                    changed = True
                    outcome.extend(why)
                    scope.cancel()

        outcome: list[SlipstreamError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            if patience_s < math.inf:
                nursery.start_soon(despair, nursery.cancel_scope)
            try:
                await self._updates.install(meant, begun.set, self._asking.confirm)
            except (LocalError, RebootPendingError, TrustError) as error:
                outcome.append(error)
            nursery.cancel_scope.cancel()
        if outcome:
            if isinstance(outcome[0], OriginError | TrustError):
                await self._updates.withdraw(outcome[0].message)
            raise outcome[0]
        if changed:
            await self._updates.withdraw()
        return changed

    def _tell_nothing(self, decision: Decision) -> None:
        """Say why there is nothing to install: once, not at each poll."""
        why = "" if isinstance(decision, Meant) else f"{decision.reason} {decision.detail}".rstrip()
        if why and why != self._told:
            log.info("nothing to install: %s", why)
        self._told = why

    async def _commit_seen(self, meant: Meant) -> None:
        """The device runs what is meant (it may have been flashed with it)."""
        manifest = meant.manifest
        await trio.to_thread.run_sync(self._floors.raise_to, manifest.product, manifest.counter)
        self._updates.serve(meant)
        await trio.to_thread.run_sync(self._imported.drop, manifest.product, manifest.version)
