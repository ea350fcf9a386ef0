"""From what is meant for this device to a committed slot.

Asks the trust client which release is meant, makes its images through the swarm, has them read back,
switches, and lets the health command decide. Each step is the installer's, durable before its
effect; whatever kills the agent, the next start goes on from there. Not for who fetches what.
"""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2p.adapters.disk_quota import DiskQuota
from p2p.adapters.health import check_health
from p2p.adapters.installer import Installer, Task
from p2p.adapters.slots import FileSlots
from p2p.agent.driver import SwarmDriver
from p2p.agent.images import LocalImage
from p2p.agent.rechecking import ReadBackError
from p2p.agent.spool import SpoolMemory, usual_memory
from p2p.config import AgentConfig
from p2p.content.digests import Digest
from p2p.content.manifest import PayloadSpec
from p2p.errors import LocalError, NothingMeantError, SlipstreamError
from p2p.install import Release, State
from p2p.ports import Boot, ImageReader, SlotWriter
from p2p.swarm import ImageTask
from p2p.swarm.policy import PeerDeltas
from p2p.trust import Meant, Nothing

log = logging.getLogger(__name__)

ENDS = frozenset({"committed", "failed", "rolled-back"})


class UpdateFailedError(LocalError):
    """The release was not installed, or not kept; the message says why."""

    exit_code = 9


class RebootPendingError(SlipstreamError):
    """The new slot is armed; the device has to start from it before it can be committed."""

    exit_code = 10


@dataclass(slots=True)
class Progress:
    """For the status file: what is being done and how far it is (target bytes)."""

    state: str = "starting"
    release: str | None = None
    image: Digest | None = None
    reason: str = ""


class Updates:
    """One device's updates. `ended` is set, and replaced, whenever one of them ends, well or not; `turned`,
    whenever the state changes.

    `leaving` is called before a reboot by a device that fetched for its site: others should know that it
    will be back with the image.
    """

    def __init__(
        self,
        config: AgentConfig,
        installer: Installer,
        slots: dict[str, FileSlots],
        boot: Boot,
        driver: SwarmDriver,
        quota: DiskQuota,
        raise_floor: Callable[[Release], None],
        leaving: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._installer = installer
        self._slots = slots
        self._boot = boot
        self._driver = driver
        self._raise_floor = raise_floor
        self._leaving = leaving
        self._quota = quota
        self._memory = SpoolMemory(config.budgets.patch_memory or usual_memory())
        self.ended = trio.Event()
        self.turned = trio.Event()
        self._served: dict[tuple[str, str], Digest] = {}
        self._serving = True
        self._runs: Meant | None = None
        self._runs_since = 0.0
        self._found = trio.Event()
        """Set, and replaced, when another release is found to run here."""
        self._failure: LocalError | None = None
        self._making: trio.CancelScope | None = None
        self._told: tuple[str, str | None, str] | None = None
        self.progress = Progress()

    def failed(self, image: Digest, error: LocalError) -> None:
        """The swarm's driver cannot go on with an image (a full disk, a failing medium)."""
        log.error("image %s: %s", image.hex()[:12], error.message)
        self._failure = error
        if self._making is not None:
            self._making.cancel()

    def adopt(self) -> None:
        """First start of a flashed device: learn what the running slot holds. Blocks while it reads.

        One that cannot be read is looked at again with the next start; updates do not need it.
        """
        for slots in self._slots.values():
            try:
                slots.adopt_active()
            except LocalError as error:
                log.error("%s: it is not known which image runs, so updates start from none", error.message)

    def is_current(self, meant: Meant) -> bool:
        """Whether the slot that this device runs from holds every image of the release."""
        if self._installer.task is not Task.NOTHING:
            return False
        return all(
            payload.name in self._slots
            and self._slots[payload.name].image_in(self._slots[payload.name].active())
            == (payload.image.sha256, payload.image.size)
            for payload in meant.manifest.payloads
        )

    async def settle(self) -> None:
        """Finish what an earlier run or boot left on trial, armed or to be rolled back."""
        while True:
            match self._installer.task:
                case Task.HEALTH:
                    await self._judge()
                case Task.REBOOT:
                    await self._reboot()
                case _:
                    return

    async def install(self, meant: Meant, begun: Callable[[], object], confirm: Callable[[], object]) -> None:
        """Install a release and commit it; returns when it is. Raises the `LocalError` that prevents it.

        `begun` is called once it is known not to be blocked here, before anything is fetched; `confirm` at
        the last moment at which nothing has changed yet, before the boot environment is armed: what it
        raises ends the update, and the written slot stays as it is.
        May be cancelled while it fetches: what is verified stays and is gone on from.
        """
        release = Release(
            meant.manifest.product,
            meant.manifest.version,
            meant.manifest.counter,
            meant.manifest_digest,
            meant.order.id,
        )
        installer = self._installer
        # An earlier try may have ended between two steps (a disk that was full for a moment).
        await trio.to_thread.run_sync(installer.reconcile)
        await self.settle()
        if self.is_current(meant):
            self._turn("committed", release)
            return
        try:
            installer.refuse_blocked(release)
            begun()
            self._turn("planning", release)
            plan = await trio.to_thread.run_sync(installer.begin, release, meant.manifest)
            if installer.record.state not in (State.WRITTEN, State.ARMED, State.TRIAL):
                await self._make(meant, plan.slot)
            if installer.record.state is State.WRITTEN:
                confirm()
                self._turn("armed", release)
                await trio.to_thread.run_sync(installer.arm)
        except ReadBackError as error:
            await trio.to_thread.run_sync(partial(installer.fail, error.message, block=True))
            self._turn("failed", release, error.message)
            raise UpdateFailedError(
                f"release {release.version} was not installed: {error.message}",
                kept=f"slot {self._boot.read().running} runs as before; the release is blocked here",
                next_step=error.next_step,
            ) from error
        except LocalError as error:
            if installer.record.state not in (State.IDLE, State.ARMED, State.TRIAL):
                await trio.to_thread.run_sync(installer.fail, error.message)
            self._turn("failed", release, error.message)
            raise
        await self.settle()
        if installer.record.installed is None or installer.record.installed.release != release:
            reason = installer.record.reason or "the device went back to the old slot"
            self._turn("rolled-back", release, reason)
            raise UpdateFailedError(
                f"release {release.version} was not kept: {reason}",
                kept=f"slot {self._boot.read().running} runs as before",
                next_step="publish a corrected release under a new version",
            )
        self._turn("committed", release)

    async def withdraw(self, reason: str = "") -> None:
        """Stop making the release: another is meant, or `reason` says why. What was verified stays."""
        if reason:
            self._turn("failed", reason=reason)
        if self._installer.task in (Task.FETCH, Task.ARM):
            await trio.to_thread.run_sync(self._installer.supersede)
            for key, image in list(self._served.items()):
                status = self._driver.node.status(image)
                if status is not None and status.role != "complete":
                    await self._driver.give_up(image)
                    self._served.pop(key, None)

    def serve(self, meant: Meant) -> None:
        """Serve the images of a release that this device runs, if it serves just now."""
        if self._runs is None or self._runs.manifest_digest != meant.manifest_digest:
            self._runs_since = trio.current_time()
            self._found.set()
            self._found = trio.Event()
        self._runs = meant
        if self._serves:
            self._offer(meant)
        self.progress.release = meant.manifest.version
        if self.progress.state != "committed":
            self._turn("current")

    def _offer(self, meant: Meant) -> None:
        for payload in meant.manifest.payloads:
            slots = self._slots[payload.name]
            slot = slots.active()
            if self._served.get((payload.name, slot)) == payload.image.sha256:
                continue
            self._forget(payload.name, slot)
            image = self._complete(payload, slots, slot)
            self._served[payload.name, slot] = payload.image.sha256
            self._driver.offer(image)

    def may_serve(self, serving: bool) -> None:
        """Whether to give peers what this device runs. What it is making is given in any case.

        Never raises: whoever says so (the watch of its link and power) has others to tell as well. A slot
        that cannot be read is tried again when this device next finds what it runs, at its next poll.
        """
        self._serving = serving
        if not self._serves:
            self._withhold()
            return
        try:
            if self._runs is not None and self.is_current(self._runs):
                self._offer(self._runs)
        except LocalError as error:
            log.warning("not served to peers for now: %s", error.message)

    async def serve_for_a_time(self) -> None:
        """End serving `swarm.serve_s` after what this device runs was found to be what it runs."""
        longest = self._config.swarm.serve_s
        while longest is not None:
            found = self._found
            due = math.inf if self._runs is None else self._runs_since + longest
            if trio.current_time() >= due:
                self._withhold()
                due = math.inf
            with trio.move_on_at(due):
                await found.wait()

    def given(self) -> list[dict[str, Any]]:
        """For the status file of a carrier: what it runs, and what is missing for giving it to any device."""
        if self._runs is None:
            return []
        found, manifest = list[dict[str, Any]](), self._runs.manifest
        for payload in manifest.payloads:
            image = payload.image
            is_given = (payload.name, self._slots[payload.name].active()) in self._served
            lacks = None if self._driver.gives_all(image.sha256) else "index"
            name = f"{manifest.product} {manifest.version} {payload.name}"
            found.append({"name": name, "size": image.size, "lacks": lacks if is_given else "leave"})
        return found

    @property
    def _serves(self) -> bool:
        longest = self._config.swarm.serve_s
        in_time = longest is None or trio.current_time() < self._runs_since + longest
        return self._serving and in_time

    def _withhold(self) -> None:
        """Serve what this device runs no more."""
        for (payload, slot), image in list(self._served.items()):
            if slot == self._slots[payload].active():
                self._driver.drop(image)
                del self._served[payload, slot]

    def _complete(self, payload: PayloadSpec, slots: FileSlots, slot: str) -> LocalImage:
        """An image that this device runs, and what the other slot still holds of what it was made from."""
        image, base, base_digest = payload.image, None, None
        deltas = self._config.swarm.peer_deltas is not PeerDeltas.OFF
        if self._config.budgets.recompute_memory is not None and self._installer.task is not Task.FETCH:
            for other in slots.names:
                held = slots.image_in(other) if other != slot else None
                if held is not None and (deltas or any(pack.base == held[0] for pack in payload.packs)):
                    base, base_digest = slots.open_reader(other), held[0]
        task = ImageTask(image.sha256, image.size, base_digest, payload.packs)
        reader = slots.open_reader(slot)
        return LocalImage(task, self._spool, reader=reader, base=base, quota=self._quota, memory=self._memory)

    @property
    def _spool(self) -> Path:
        return self._config.device.state_dir / "spool"

    async def _make(self, meant: Meant, slot: str) -> None:
        """Fetch, verify and write every image that the target slot lacks, until all are read back."""
        self._turn("fetching")
        for name in self._slots:
            self._forget(name, slot)
        self._failure = None
        with trio.CancelScope() as self._making:
            await self._driver.lose_bases()
            writers = await trio.to_thread.run_sync(self._installer.open_writers)
            made: dict[str, LocalImage] = {}
            try:
                await trio.lowlevel.checkpoint_if_cancelled()  # the driver may have ended meanwhile
                for payload in meant.manifest.payloads:
                    if payload.name in writers:
                        image = self._image(payload, writers[payload.name])
                        made[payload.name] = image
                        self._served[payload.name, slot] = payload.image.sha256
                        self.progress.image = payload.image.sha256
                        await self._driver.pursue(image)
                async with trio.open_nursery() as nursery:
                    for image in made.values():
                        nursery.start_soon(self._driver.wait_verified, image.task.image)
                self._turn("sealing")
                readers = await trio.to_thread.run_sync(self._seal, slot, made)
                # Without an await in between, so that nobody finds what is written closed and not yet open.
                for name, image in made.items():
                    image.sealed(readers[name])
                self._failure = None  # whatever came up meanwhile: all is right, durably
            except BaseException:
                with trio.CancelScope(shield=True):
                    for name, image in made.items():
                        self._served.pop((name, slot), None)
                        await self._driver.give_up(image.task.image)
                self._installer.close()
                raise
            finally:
                self.progress.image = None
        if self._failure is not None:
            raise self._failure
        for image in made.values():
            await trio.to_thread.run_sync(image.let_go)

    def _seal(self, slot: str, names: Collection[str]) -> dict[str, ImageReader]:
        """Mark the slot valid and open it anew, by payload name. Blocks; what is made is read meanwhile."""
        damaged = self._installer.read_back()
        if damaged:
            raise UpdateFailedError(f"read back wrong after all: {', '.join(damaged)}")
        return {name: self._slots[name].open_reader(slot) for name in names}

    def _image(self, payload: PayloadSpec, writer: SlotWriter) -> LocalImage:
        slots = self._slots[payload.name]
        base: ImageReader | None = None
        base_digest: Digest | None = None
        held = slots.image_in(slots.active())
        if held is not None:
            base_digest = held[0]
            base = slots.open_reader(slots.active())
        task = ImageTask(payload.image.sha256, payload.image.size, base_digest, payload.packs)
        return LocalImage(task, self._spool, writer=writer, base=base, quota=self._quota, memory=self._memory)

    def _forget(self, payload: str, slot: str) -> None:
        image = self._served.pop((payload, slot), None)
        if image is not None:
            self._driver.forget(image)

    async def _judge(self) -> None:
        self._turn("trial")
        health = self._config.health
        if health.command is None:
            passed, reason = True, ""
        else:
            places = {
                f"SLIPSTREAM_SLOT_{name.upper().replace('-', '_')}": slots.path(slots.active())
                for name, slots in self._slots.items()
            }
            environment = {"SLIPSTREAM_SLOT": self._boot.read().running, **places}
            result = await check_health(health.command, health.timeout_s, environment)
            passed, reason = result.passed, result.reason
        if passed:
            await trio.to_thread.run_sync(self._installer.healthy)
            if (installed := self._installer.record.installed) is not None:
                self._turn("committed", installed.release)
        else:
            log.error("health check: %s", reason)
            await trio.to_thread.run_sync(self._installer.unhealthy, f"health check: {reason}")

    async def _reboot(self) -> None:
        command = self._config.boot.reboot_command
        plan = self._installer.record.plan
        made = [p.image for p in plan.payloads] if plan is not None else []
        await self._driver.wait_unneeded(tuple(self._served.values()), made)
        self._turn("rebooting")
        if any(self._driver.node.fetched(image) for image in made):
            await self._leaving()
        if command is not None:
            try:
                await trio.run_process(command, stdin=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                raise LocalError(f"the reboot command failed: {error}") from error
        raise RebootPendingError("the new slot is armed; it is tried when the device has started anew")

    def _turn(self, state: str, release: Release | None = None, reason: str = "") -> None:
        """Show the state in the status file, and tell it once, however often it is found again."""
        version = self.progress.release if release is None else release.version
        now = (state, version, reason)
        self.progress.state, self.progress.release, self.progress.reason = now
        self.turned.set()
        self.turned = trio.Event()
        if now == self._told:
            return
        self._told = now
        log.info("%s %s%s", state, version or "", f": {reason}" if reason else "")
        if state in ENDS:
            self.ended.set()
            self.ended = trio.Event()


def explain(nothing: Nothing) -> NothingMeantError:
    """Why there is nothing to do, as an error for `--once`."""
    detail = nothing.detail or {
        "no-order": "no published order names this device",
        "not-open": "an order names this device, but its phase is not open",
    }.get(nothing.reason, nothing.reason)
    return NothingMeantError(f"nothing is meant for this device ({nothing.reason}): {detail}")
