"""What a carrier keeps for sites and hardware other than its own: images and all that is signed about them.

It goes by the same repository as everything else that the device does: what its trust client has accepted of
root and timestamp, a second client follows to the products that others need, and keeps their orders and
manifests apart from what this device itself goes by. Nothing that is not verified is kept or given away. Each
image is a pursuit of the swarm like any other, so it comes over the WAN once for the site that the carrier is
at, within its budgets, and is given to peers while it comes; but it is written to the hold (`hold`), and
nothing is ever installed from there.

What is carried follows from the orders in force, from who asked (`interest`) and from the quota
(`p2p.trust.cargo`); what is none of that any more is dropped, but for older images that those are made from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import trio

from p2p.adapters.disk_quota import DiskQuota
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.identity import read_pinned_root
from p2p.adapters.slot_writer import FileSlotWriter, SlotImage
from p2p.agent.driver import SwarmDriver
from p2p.agent.hold import Hold
from p2p.agent.images import LocalImage
from p2p.agent.interest import Interest
from p2p.agent.spool import SpoolMemory
from p2p.agent.stepping import run_in_threads
from p2p.config import AgentConfig
from p2p.content.digests import Digest
from p2p.errors import LocalError, OriginError, PeerError, SlipstreamError, StoreError, TrustError
from p2p.swarm import ImageTask
from p2p.swarm import messages as m
from p2p.trust import Need, Steps, TrustClient, TrustStore
from p2p.trust.bundling import Survey, products_of, survey_releases
from p2p.trust.cargo import Cargo, Parcel, load

log = logging.getLogger(__name__)

MAKING_MAX = 4
"""Images that are fetched at the same time; others wait, so that the first are whole first."""

LOOK_S = 5.0
"""What is carried is thought over no more often than this, whatever was asked for."""

RETRY_S = (60.0, 3600.0)
"""First and longest pause after which something that failed is tried again."""

_ORDERS, _PRODUCT = "orders-", "product-"


class Carrying:
    """The cargo of one device. `main` is its trust client, `store` what the second one keeps.

    `pinned`: the root that both start from; `now`: trusted time; `quota`: of all of the agent's files, beside
    the carrier's own.
    """

    def __init__(
        self,
        config: AgentConfig,
        main: TrustClient,
        store: TrustStore,
        pinned: bytes | None,
        interest: Interest,
        driver: SwarmDriver,
        quota: DiskQuota,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._main = main
        self._client = TrustClient(store, pinned, build_time=config.trust.build_time or 0.0)
        self._interest = interest
        self._driver = driver
        self._quota = quota
        self._now = now
        self._hold = Hold(config.carrying_dir / "images")
        self._taking = trio.Lock()
        self._memory = SpoolMemory()
        self._roles: dict[Digest, str] = {}
        self._cargo = Cargo()
        self._whole: dict[Digest, LocalImage] = {}
        self._making: dict[Digest, tuple[LocalImage | None, trio.CancelScope]] = {}
        self._sizes: dict[Digest, int] = {}
        """What those take up once they are whole, of which the room was found."""
        self._troubles: dict[Digest, tuple[str, float, float]] = {}
        """Images that failed: why, when they are tried again, and the pause before that."""
        self._stuck: set[Digest] = set()
        """Images that are cargo no more and could not be dropped."""
        self._changed = trio.Event()
        self._surveys: dict[str, Survey] = {}
        self._incomplete = self._unsure = False
        """Of some product nothing new could be had, or something could not be dropped; or nothing at all, and
        nothing is dropped for that."""
        self._seen: int | None = None
        """The version of the timestamp that all this is by."""
        self._nursery: trio.Nursery | None = None
        self._bases: dict[Digest, Digest] = {}
        self._damaged: dict[Digest, None] = {}
        self._mended_at: dict[Digest, float] = {}
        driver.asked, driver.joined, driver.damaged = self._asked, self._joined, self._is_damaged

    # What others of the agent ask and tell

    def held(self, digest: Digest) -> bytes | None:
        """A signed file that is kept for others."""
        return self._client.held(digest)

    def has(self, image: Digest) -> bool:
        """Whether an image is cargo, and not something that the device itself installs meanwhile."""
        local = self._whole.get(image) or self._making.get(image, (None,))[0]
        return local is not None and self._driver.is_current(local)

    def failed(self, image: Digest, error: LocalError) -> None:
        """The driver cannot go on with one of the images (a full disk, a failing medium)."""
        _, _, pause = self._troubles.get(image, ("", 0.0, RETRY_S[0] / 2))
        pause = min(2 * pause, RETRY_S[1])
        self._troubles[image] = error.message, trio.current_time() + pause, pause
        log.warning("carried image %s: %s", image.hex()[:12], error.message)
        if image in self._making:
            self._making[image][1].cancel()
        self._changed.set()

    def look(self) -> None:
        """What the device goes by may have changed."""
        if self._version != self._seen:
            self._changed.set()

    def facts(self) -> list[dict[str, Any]]:
        """For the status file: what is carried, in its order, and what there is no room for."""
        found = [self._fact(parcel) for parcel in self._cargo.parcels]
        return found + [
            {"name": parcel.name, "size": parcel.size, "state": "no-room"} for parcel in self._cargo.left_out
        ]

    def _fact(self, parcel: Parcel) -> dict[str, Any]:
        status = self._driver.node.status(parcel.image)
        state = "whole" if parcel.image in self._whole else "waiting"
        fact: dict[str, Any] = {"name": parcel.name, "size": parcel.size}
        if parcel.image in self._making:
            state = "coming"
            fact["left"] = status.left if status is not None else parcel.payload.image.size
        elif parcel.image in self._troubles and state != "whole":
            state, fact["reason"] = "failed", self._troubles[parcel.image][0]
        if state == "whole":
            fact["lacks"] = None if self._driver.gives_all(parcel.image) else "index"
        return fact | {"state": state}

    async def run(self) -> None:
        """Until cancelled."""
        retry_s = RETRY_S[0]
        async with trio.open_nursery() as self._nursery:
            while True:
                self._changed = trio.Event()
                looked_at = trio.current_time()
                try:
                    await self._mend()
                    cargo = await self._load()
                    await self._arrange(cargo)
                except (SlipstreamError, OSError) as error:
                    message = error.message if isinstance(error, SlipstreamError) else str(error)
                    log.info("what is carried for others stays as it is: %s", message)
                    self._seen = None
                    again_at, retry_s = looked_at + retry_s, min(2 * retry_s, RETRY_S[1])
                else:
                    again_at = min((at for _, at, _ in self._troubles.values()), default=math.inf)
                    if self._incomplete:
                        again_at, retry_s = min(again_at, looked_at + retry_s), min(2 * retry_s, RETRY_S[1])
                    else:
                        retry_s = RETRY_S[0]
                with trio.move_on_at(max(again_at, looked_at + RETRY_S[0])):
                    await self._changed.wait()
                    await trio.sleep_until(looked_at + LOOK_S)

    # What is meant

    @property
    def _version(self) -> int:
        return self._main.versions.get("timestamp", 0)

    def _products(self) -> tuple[str, ...]:
        """Those that are carried, the most wanted first; other hardware of the own one only by name."""
        carrier, own = self._config.carrier, self._config.device.product
        learned = self._interest.products(self._now()) if carrier.learn else ()
        return tuple(dict.fromkeys([*carrier.products, *(p for p in learned if p != own)]))

    async def _load(self) -> Cargo:
        """Read what is signed about the products, and fill the quota with it. Raises what trust and sources
        raise."""
        version, products = self._version, self._products()
        await trio.to_thread.run_sync(self._interest.save)
        client = self._client
        try:
            await self._steps(client.refresh(self._now()))
        except TrustError as error:
            if error.reason != "expired":
                raise
            # What expired still says what is in the hold; a device judges for itself what it takes.
            client = self._client.lenient_copy()
            await self._steps(client.refresh(self._now()))
        self._roles = client.roles_by_digest()
        known = await self._steps(products_of(client))
        device = self._config.device
        surveys: dict[str, Survey] = {}
        self._incomplete = self._unsure = False
        for product in dict.fromkeys([*products, device.product]):
            if product not in known:
                continue
            try:
                surveys[product] = await self._steps(survey_releases(client, product))
            except (TrustError, OriginError, PeerError) as error:
                log.info("product %s, which is carried: %s", product, error.message)
                self._incomplete = True
                if product in self._surveys:
                    surveys[product] = self._surveys[product]
                else:
                    self._unsure = True
        if client is self._client and not self._unsure:
            documents = {digest for found in surveys.values() for digest in found.documents}
            await trio.to_thread.run_sync(client.prune, documents)
        self._surveys, self._seen = surveys, version
        carrier = self._config.carrier
        met = self._interest.kinds(self._now()) if carrier.learn else ()
        return load(surveys, products, carrier.quota or 0, device.product, device.hardware, met)

    async def _steps(self, steps: Steps[Any]) -> Any:
        return await run_in_threads(steps, self._answer)

    async def _answer(self, need: Need) -> bytes | None:
        """Root and timestamp are those that the device goes by; the rest is had as everything signed is."""
        if need.digest is not None and need.size is not None:
            if need.error is not None:
                raise OriginError("bad-bytes", need.error.message)
            await trio.lowlevel.checkpoint_if_cancelled()  # the driver may have ended meanwhile
            self._driver.objects.paths[need.digest] = need.path
            return await self._driver.objects.object(need.digest, need.size)
        if need.error is not None:
            raise need.error
        if need.role == "root":
            return await trio.to_thread.run_sync(self._main.held_root, need.version or 0)
        return await trio.to_thread.run_sync(self._main.held_timestamp)

    def _asked(self, device: str, digest: Digest) -> None:
        """A peer asks for a signed file: if it is about a product, and the peer has no WAN, it needs that."""
        role = self._roles.get(digest, "")
        product = role.removeprefix(_ORDERS).removeprefix(_PRODUCT)
        if product == role or not self._driver.node.lacks_wan(device):
            return
        if self._interest.asked(device, product, self._now()) and self._config.carrier.learn:
            log.info("%s, which has no WAN, asks about %s", device, product)
            self._changed.set()

    def _joined(self, device: str, join: m.Join) -> None:
        """A peer takes an image up, or has it: if it has no WAN, what that is for is met here."""
        if join.wan or not self._driver.node.lacks_wan(device):
            return
        for survey in self._surveys.values():
            for manifest in survey.manifests.values():
                if any(payload.image.sha256 == join.image for payload in manifest.payloads):
                    now, hardware = self._now(), manifest.hardware
                    if (
                        self._interest.met(device, manifest.product, hardware, now)
                        and self._config.carrier.learn
                    ):
                        self._changed.set()
                    return

    # The hold

    def _is_damaged(self, image: Digest) -> None:
        """A piece of an image cannot be read, or not as it was signed."""
        now = trio.current_time()
        if image in self._whole and now - self._mended_at.get(image, -math.inf) >= RETRY_S[0]:
            self._mended_at[image] = now
            self._damaged[image] = None
            self._changed.set()

    async def _mend(self) -> None:
        """Keep what is right of damaged images, and let the rest come again."""
        while self._damaged:
            image = next(iter(self._damaged))
            del self._damaged[image]
            local = self._whole.get(image)
            right = None if local is None else await trio.to_thread.run_sync(local.right_ranges)
            await trio.lowlevel.checkpoint_if_cancelled()
            if local is None or right is None or not self._driver.is_current(local):
                continue
            size = local.task.size
            del self._whole[image]
            self._driver.drop(image)
            if right.covers(0, size):
                continue  # this time all can be read, and it is given again
            log.warning(
                "carried image %s: %d bytes are damaged, and come again",
                image.hex()[:12],
                size - right.total(),
            )
            try:
                await trio.to_thread.run_sync(self._hold.mend, image, size, right)
            except (LocalError, StoreError) as error:
                self.failed(image, error)

    async def _arrange(self, cargo: Cargo) -> None:
        """Drop what is no cargo any more, give what is whole, and fetch what is missing."""
        self._cargo = cargo
        wanted = {parcel.image for parcel in cargo.parcels}
        quota = self._config.carrier.quota or 0
        self._bases = await trio.to_thread.run_sync(self._hold.bases_for, cargo, quota)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._unsure:
            wanted |= self._making.keys() | self._whole.keys()
        bases = set(self._bases.values())
        ending = [i for i, (local, _) in self._making.items() if i not in wanted or self._lost_base(i, local)]
        for image in ending:
            self._making[image][1].cancel()
        for image in [i for i in self._whole if i not in wanted]:
            local = self._whole.pop(image)
            if self._driver.is_current(local):
                self._driver.forget(image)
        for image in [i for i, local in self._whole.items() if self._lost_base(i, local)]:
            self._driver.drop(image)  # and given again without it
            del self._whole[image]
        self._troubles = {i: trouble for i, trouble in self._troubles.items() if i in wanted}
        for image in await trio.to_thread.run_sync(self._hold.names):
            if image not in wanted | bases and image not in self._making and not self._unsure:
                await self._drop(image)
        now = trio.current_time()
        for parcel in cargo.parcels:
            if parcel.image in self._making or self._driver.holds(parcel.image):
                continue
            if now < self._troubles.get(parcel.image, ("", 0.0))[1]:
                continue
            try:
                reader = await trio.to_thread.run_sync(self._whole_one, parcel.image)
            except LocalError as error:  # it holds none of the others up
                self.failed(parcel.image, error)
                continue
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._driver.holds(parcel.image):  # this device itself has begun with it meanwhile
                if reader is not None:
                    reader.close()
            elif reader is not None:
                self._whole[parcel.image] = local = self._local(parcel, reader=reader)
                self._troubles.pop(parcel.image, None)
                self._driver.offer(local)
            elif ending:
                continue  # there is room once that has ended, and its files are gone
            elif len(self._making) < MAKING_MAX:
                assert self._nursery is not None
                scope = trio.CancelScope()
                self._making[parcel.image] = None, scope
                self._nursery.start_soon(self._make, parcel, scope)

    async def _drop(self, image: Digest) -> None:
        """Nothing of an image is kept; one that cannot be dropped stays, is told once, and is tried again."""
        try:
            await trio.to_thread.run_sync(self._hold.drop, image)
        except LocalError as error:
            self._incomplete = True
            if image not in self._stuck:
                log.warning("%s (kept: it; it is tried again)", error.message)
            self._stuck.add(image)
        else:
            self._stuck.discard(image)

    def _whole_one(self, image: Digest) -> SlotImage | None:
        """Reads of an image, if it is whole. Raises `SlotError`. Blocks."""
        return self._hold.reader(image) if self._hold.is_whole(image) else None

    async def _make(self, parcel: Parcel, scope: trio.CancelScope) -> None:
        """Fetch one image into the hold, as far as it gets; what is verified of it stays."""
        image, local = parcel.image, None
        writer: FileSlotWriter | None = None
        try:
            with scope:
                async with self._taking:  # what one takes up the next one's look finds
                    others = dict(self._sizes)
                    writer = await trio.to_thread.run_sync(self._begin, parcel, others)
                    self._sizes[image] = parcel.size
                await trio.lowlevel.checkpoint_if_cancelled()
                local = self._local(parcel, writer)
                self._making[image] = local, scope
                await self._driver.pursue(local)
                await self._driver.wait_verified(image)
                # No await between this and `sealed`: nobody finds the image closed and not yet open.
                local.sealed(await trio.to_thread.run_sync(self._seal, writer, image))
                self._whole[image] = local
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(local.let_go)
                self._troubles.pop(image, None)
                log.info("%s is carried", parcel.name)
        except (LocalError, StoreError) as error:
            self.failed(image, error)
        finally:
            if image not in self._whole:
                if local is not None and self._driver.is_current(local):
                    await self._driver.give_up(image)
                elif local is None and writer is not None:
                    writer.close()
            self._sizes.pop(image, None)
            del self._making[image]  # not before its files are closed: it may be begun with again
            self._changed.set()

    def _begin(self, parcel: Parcel, others: Mapping[Digest, int]) -> FileSlotWriter:
        """Room in the hold for an image, or for the rest of it. Raises `StoreError`, `SlotError`. Blocks.

        `others`: sizes of those that are being made: where a file system reserves nothing, what they lack is
        not taken up yet.
        """
        sizes = {**others, parcel.image: parcel.size}
        missing = sum(max(0, size - self._hold.taken(image)) for image, size in sizes.items())
        self._quota.check(missing, parcel.name)
        return self._hold.writer(parcel.image, parcel.payload.image.size)

    def _seal(self, writer: FileSlotWriter, image: Digest) -> SlotImage:
        """It is whole, durably, and read anew. Raises `SlotError`. Blocks."""
        writer.seal()
        return self._hold.reader(image)

    def _local(
        self, parcel: Parcel, writer: FileSlotWriter | None = None, *, reader: SlotImage | None = None
    ) -> LocalImage:
        payload = parcel.payload
        base = self._bases.get(parcel.image)
        older = self._older(base) if base is not None else None
        base = base if older is not None else None
        task = ImageTask(payload.image.sha256, payload.image.size, base, payload.packs)
        spool = self._config.device.state_dir / "spool"
        return LocalImage(
            task, spool, writer=writer, reader=reader, base=older, quota=self._quota, memory=self._memory
        )

    def _older(self, image: Digest) -> SlotImage | None:
        """Reads of an older image; None if it cannot be read, as a newer one can be had without it."""
        try:
            return self._hold.reader(image)
        except LocalError as error:
            log.warning("%s", error.message)
            return None

    def _lost_base(self, image: Digest, local: LocalImage | None) -> bool:
        """Whether what it is made from has no room any more."""
        return local is not None and local.task.base is not None and image not in self._bases


def carrying_of(
    config: AgentConfig, main: TrustClient, driver: SwarmDriver, quota: DiskQuota, now: Callable[[], float]
) -> Carrying | None:
    """That of a device, if it carries for others. `quota`: of all of the agent's files."""
    if config.carrier.quota is None:
        return None
    directory = config.carrying_dir
    return Carrying(
        config,
        main,
        DirectoryBlobStore(directory / "trust"),
        read_pinned_root(config.trust.root),
        Interest(DirectoryBlobStore(directory / "asked")),
        driver,
        quota,
        now,
    )
