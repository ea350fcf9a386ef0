"""Small objects and metadata of one device's node: from its own stores, from peers, from the origin.

Indexes that the node knows are kept, so that a restart asks nobody for them. What is asked of the origin, and
what of a peer, is the node's decision; what the bytes mean is not looked at here, but for their digest. The
event loop waits neither for what is read here nor for what is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from p2p.agent.writes import Writes
from p2p.content import index as pack_index
from p2p.content.digests import Digest, sha256
from p2p.content.index import PackIndex
from p2p.errors import OriginError, StoreError
from p2p.ports import BlobStore, Origin
from p2p.swarm import events as e
from p2p.swarm.events import ImageTask

log = logging.getLogger(__name__)

PEER_METADATA_S = 10.0
"""How long a peer may take to send one metadata file."""


class SmallObjects:
    """`indexes` keeps those of packs, `held` finds others on this device.

    `paths`: objects that are metadata at the origin, by digest. `trouble`: the last that the origin gave.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        indexes: BlobStore,
        held: Callable[[Digest], bytes | None],
        feed: Callable[[e.Event], None],
    ) -> None:
        self.paths: dict[Digest, str] = {}
        self.trouble: OriginError | None = None
        self._origin = origin
        self._indexes = indexes
        self._held = held
        self._feed = feed
        self._writes = Writes()
        self._wanted: dict[Digest, list[trio.MemorySendChannel[bytes | None]]] = {}
        self._metadata: dict[tuple[str, str], list[trio.MemorySendChannel[bytes | None]]] = {}

    # What the agent asks for

    async def object(self, digest: Digest, size: int) -> bytes:
        """A small object from a peer or the origin; raises `OriginError` if nobody gives it."""
        send, receive = trio.open_memory_channel[bytes | None](1)
        self._wanted.setdefault(digest, []).append(send)
        self._feed(e.WantObject(digest, size))
        data = await receive.receive()
        if data is None:
            raise OriginError("not-found", f"object {digest.hex()}: neither a peer nor the origin gives it")
        return data

    async def metadata(self, device: str, name: str) -> bytes | None:
        """Mutable metadata from one peer, unverified."""
        send, receive = trio.open_memory_channel[bytes | None](1)
        self._metadata.setdefault((device, name), []).append(send)
        self._feed(e.AskMetadata(device, name))
        with trio.move_on_after(PEER_METADATA_S):
            return await receive.receive()
        return None

    # For the driver

    def arrived(self, digest: Digest, data: bytes | None) -> None:
        """An object that was asked for, or that nobody gives it."""
        for channel in self._wanted.pop(digest, []):
            channel.send_nowait(data)

    def metadata_arrived(self, action: e.MetadataArrived) -> None:
        for channel in self._metadata.pop((action.device, action.name), []):
            channel.send_nowait(action.data)

    async def fetch(self, action: e.FetchObject) -> None:
        """Ask the origin, unless it is here."""
        held = await trio.to_thread.run_sync(self.stored, action.digest)
        if held is not None:
            self._feed(e.HoldObject(action.digest, held))
            return
        try:
            path = self.paths.get(action.digest, "")
            if path.startswith("metadata/"):
                data: bytes | None = await self._origin.metadata(path.removeprefix("metadata/"), action.size)
            else:
                data = await self._origin.object(action.digest, action.size)
        except OriginError as error:
            log.info("object %s: %s: %s", action.digest.hex()[:12], error.reason, error.message)
            self.trouble = error
            data = None
        self._feed(e.ObjectFetched(action.digest, data))

    def stored(self, digest: Digest) -> bytes | None:
        """An object of this device's own stores. Blocks."""
        try:
            held = self._held(digest) or self._indexes.read(f"index-{digest.hex()}")
        except StoreError as error:
            log.warning("%s", error.message)
            return None
        return held if held is not None and sha256(held) == digest else None

    async def indexes_of(self, task: ImageTask) -> list[e.HoldObject]:
        """Indexes of an image that are in this device's own stores: they are at hand, also where nobody else
        has them."""

        def read() -> list[e.HoldObject]:
            names = [pack.index.sha256 for pack in task.packs]
            return [e.HoldObject(name, held) for name in names if (held := self.stored(name)) is not None]

        return await trio.to_thread.run_sync(read)

    def keep_index(self, pack: Digest, index: PackIndex) -> None:
        """So that a restart asks nobody for it."""
        self._writes.add(partial(self._keep_index, f"index-{pack.hex()}", index))

    def drop_index(self, pack: Digest) -> None:
        """It is of no use any more."""
        self._writes.add(partial(self._drop_index, f"index-{pack.hex()}"))

    async def run(self) -> None:
        """Until cancelled."""
        await self._writes.run()

    def _keep_index(self, name: str, index: PackIndex) -> None:
        try:
            if self._indexes.read(name) is None:
                self._indexes.write(name, pack_index.encode(index))
        except StoreError as error:
            log.warning("index not kept: %s", error.message)

    def _drop_index(self, name: str) -> None:
        try:
            self._indexes.delete(name)
        except StoreError as error:
            log.warning("index not dropped: %s", error.message)
