"""What an image needs from nobody else: copies of the base, zeros, frames that were imported, and what a
strange base still offers.

The frames of an imported bundle take the same way into the slot as those of the WAN: each is verified as it
is opened. While they last the node asks nobody for anything; what they could not make (a frame that has
rotted, a range of the base that is damaged) comes from peers or the WAN afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import trio

from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.agent.salvage import salvage
from p2p.content.digests import Digest
from p2p.errors import LocalError
from p2p.swarm import events as e
from p2p.swarm.cost import USUAL, Weights, looking_pays
from p2p.swarm.events import ImageTask

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A pack whose frames and index were imported."""

    pack: Digest
    encoded: bytes
    read: Callable[[int, int], bytes]


class Filling:
    """For the images of one driver, from which all but the bundle is."""

    def __init__(
        self,
        imported: ImportedBundle,
        *,
        feed: Callable[[e.Event], None],
        failed: Callable[[LocalImage, LocalError], None],
        is_current: Callable[[LocalImage], bool],
        start: Callable[..., None],
        patching: trio.CapacityLimiter,
        weights: Weights = USUAL,
    ) -> None:
        self._imported = imported
        self._feed = feed
        self._failed = failed
        self._is_current = is_current
        self._start = start
        self._patching = patching
        self._weights = weights
        self._filling: set[LocalImage] = set()
        self._more: set[LocalImage] = set()
        """Of these more was imported while they were filled."""

    async def look(self, images: Collection[LocalImage]) -> None:
        """Whether something was imported since the last look, that images lack."""
        if await trio.to_thread.run_sync(self._imported.look):
            for image in images:
                found = await self.find(image) if image.is_written else []
                if self._is_current(image):
                    self.begin(image, found)

    async def find(self, image: LocalImage) -> list[Found]:
        """What was imported for an image, the smallest pack first."""
        return await trio.to_thread.run_sync(self._find, image.task)

    def _find(self, task: ImageTask) -> list[Found]:
        found = []
        for pack in sorted(task.packs, key=lambda pack: pack.wan_bytes):
            read = self._imported.frames(pack) if pack.base in (None, task.base) else None
            index = self._imported.object(pack.index.sha256) if read is not None else None
            if read is not None and index is not None:
                found.append(Found(pack.index.sha256, index, read))
        return found

    def begin(self, image: LocalImage, found: list[Found]) -> bool:
        """Make as much of an image as was imported; False if nothing was."""
        if not found:
            return False
        for each in found:
            image.attach(each.pack, each.read)
        if image in self._filling:
            self._more.add(image)
            return True
        name = image.task.image
        log.info("image %s: making it from the imported bundle", name.hex()[:12])
        self._filling.add(image)
        self._feed(e.AtHand(name, tuple((each.pack, each.encoded) for each in found)))
        self._start(self._fill, image, [each.pack for each in found if each.pack in image.maps])
        return True

    def routed(self, image: LocalImage, pack: Digest) -> None:
        """The node knows a pack: make what it says that needs no bytes, or what a strange base has of it."""
        if image in self._filling:
            return
        if image.is_written and image.is_strange and pack == image.task.full_pack.index.sha256:
            self._filling.add(image)
            self._feed(e.AtHand(image.task.image, ()))
            self._start(self._fill, image, [pack])
        else:
            self._start(self.local, image, pack)

    async def local(self, image: LocalImage, pack: Digest) -> None:
        """Copies and zeros of a pack."""
        try:
            await self._take(image, image.local_steps(pack))
        except LocalError as error:
            self._failed(image, error)

    async def mend(self, image: LocalImage, pack: Digest, damaged: tuple[tuple[int, int], ...]) -> None:
        """Ranges were found wrong in the slot (none: they were not): make anew what needs nobody else."""
        name = image.task.image
        if not damaged:
            self._feed(e.Damaged(name, damaged))
            return
        if image.is_at_hand(pack):
            self._feed(e.AtHand(name, ()))
        self._feed(e.Damaged(name, damaged))
        await self.local(image, pack)  # zeros that were none come from nobody else
        if image.is_at_hand(pack):
            await self._fill(image, [pack])

    async def _fill(self, image: LocalImage, packs: list[Digest]) -> None:
        try:
            for pack in packs:
                await self._take(image, image.local_steps(pack))
                if image.is_at_hand(pack):
                    await self._take(image, image.imported_steps(pack), limiter=self._patching)
                if image.is_strange and image.maps[pack].index.base is None and self._looks(image):
                    await self._take(image, salvage(image, pack), limiter=self._patching)
        except LocalError as error:
            self._failed(image, error)
        finally:
            self._filling.discard(image)
            more = image in self._more
            self._more.discard(image)
        found = await self.find(image) if more else []
        if self._is_current(image) and not self.begin(image, found):
            self._feed(e.Filled(image.task.image))
            for pack in list(image.maps):  # of which it was told meanwhile; more of them may come
                await self.local(image, pack)

    def _looks(self, image: LocalImage) -> bool:
        """Whether it pays to look through what the device runs."""
        lacking = image.task.size - sum(stop - start for start, stop in image.done)
        return looking_pays(image.base_size, lacking, self._weights)

    async def _take(self, image: LocalImage, steps: Any, limiter: trio.CapacityLimiter | None = None) -> None:
        while self._is_current(image):
            event = await trio.to_thread.run_sync(next, steps, None, limiter=limiter)
            if event is None:
                return
            if self._is_current(image):
                self._feed(event)
