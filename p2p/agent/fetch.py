"""One fetch over the WAN: a byte range of a frames object, cut into frames, verified and stored.

Frames are stored, in a thread, while the next ones arrive, a few at most, so that memory is bounded and the
link is not idle. The beginning of a frame whose fetch breaks off is kept with the image
(`p2p.swarm.remnants`), and the next fetch of that frame asks for the rest. Other bytes that did not end up in
the slot are counted as wasted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2p.agent.budget import RateBudget
from p2p.agent.images import BaseDamagedError, LocalImage
from p2p.content.digests import Buffer, Digest
from p2p.content.index import Frame, Patch
from p2p.errors import ContentError, LocalError, OriginError
from p2p.ports import Origin
from p2p.swarm.events import BaseDamaged, Event, Fetch, FetchEnded, FetchProgress

log = logging.getLogger(__name__)

FRAMES_MAX = 3
"""Frames in memory at once: one that arrives, the others being stored."""

PROGRESS_S = 0.2


class FrameFetch:
    """One `Fetch`; `run` ends with the `FetchEnded` for the node, whatever happens."""

    def __init__(
        self,
        action: Fetch,
        image: LocalImage,
        frames_object: Digest,
        origin: Origin,
        budget: RateBudget,
        *,
        feed: Callable[[Event], None],
        failed: Callable[[LocalImage, LocalError], None],
        patching: trio.CapacityLimiter,
    ) -> None:
        self._action = action
        self._image = image
        self._object = frames_object
        self._origin = origin
        self._budget = budget
        self._feed = feed
        self._failed = failed
        self._patching = patching
        self._storing = trio.CapacityLimiter(1)
        """What a frame opens to is in memory, too: one at a time of this fetch."""
        self._scope = trio.CancelScope()
        self._frames = self._image.maps[action.pack].index.frames[action.start : action.stop]
        self._places = trio.Semaphore(FRAMES_MAX)
        self._arriving: tuple[Frame, bytearray] | None = None
        self._filled = 0
        self._received = 0
        self._used = 0
        self._error: str | None = None
        self.trouble: OriginError | None = None
        self._told_at = trio.current_time()
        self._told = 0

    def cancel(self) -> None:
        """Stop; `run` still returns."""
        self._scope.cancel()

    async def run(self) -> FetchEnded:
        """Fetch and store everything, or say why not. What has come whole is stored even so."""
        async with trio.open_nursery() as nursery:
            with self._scope:
                try:
                    await self._stream(nursery)
                except OriginError as error:
                    self._blame(error)
        if self._scope.cancelled_caught and self._error is None:
            self._error = "cancelled"
        given_up = self._keep_rest()
        return FetchEnded(self._action.fetch, self._error, self._received - self._used + given_up)

    async def _stream(self, nursery: trio.Nursery) -> None:
        frames = iter(self._frames)
        await self._begin(next(frames))
        start = self._frames[0].stored_offset + self._filled
        stop = self._frames[-1].stored_offset + self._frames[-1].stored_size
        async with self._origin.stream(self._object, start, stop) as parts:
            async for part in parts:
                self._received += len(part)
                self._progress()
                view = memoryview(part)
                while len(view) and self._arriving is not None:
                    frame, buffer = self._arriving
                    count = min(len(view), len(buffer) - self._filled)
                    buffer[self._filled : self._filled + count] = view[:count]
                    self._filled += count
                    view = view[count:]
                    if self._filled == len(buffer):
                        self._arriving = None
                        nursery.start_soon(self._store, frame, buffer)
                        if (following := next(frames, None)) is not None:
                            await self._begin(following)
                await self._budget.spend(len(part))

    async def _begin(self, frame: Frame) -> None:
        """Wait until there is room for a frame, and go on with it where an earlier fetch stopped."""
        await self._places.acquire()
        buffer, self._filled = bytearray(frame.stored_size), 0
        if frame is self._frames[0]:
            kept = self._image.remnants.take(self._action.pack, frame.number) or b""
            buffer[: len(kept)] = kept
            self._filled = len(kept)
            self._received += len(kept)  # no ledger has counted them yet
            self._told += len(kept)
        self._arriving = frame, buffer

    def _keep_rest(self) -> int:
        """Keep the beginning of a frame that did not come whole; returns the bytes given up for it."""
        if self._arriving is None or self._error == "bad-bytes":
            return 0
        frame, buffer = self._arriving
        self._used += self._filled
        return self._image.remnants.keep(self._action.pack, frame, buffer[: self._filled])

    async def _store(self, frame: Frame, stored: Buffer) -> None:
        image, pack = self._image, self._action.pack
        try:
            async with self._patching if isinstance(frame.entry, Patch) else self._storing:
                if self._error == "local":  # it was told, and this one would end the same way
                    return
                event = await trio.to_thread.run_sync(image.store_frame, pack, frame.number, stored)
        except ContentError as error:
            self._blame(OriginError("bad-bytes", f"frame {frame.number}: {error}"))
            self._scope.cancel()
        except BaseDamagedError as error:
            log.warning("%s", error)
            self._feed(
                BaseDamaged(image.task.image, frame.target_offset, frame.target_offset + frame.target_length)
            )
        except LocalError as error:
            self._failed(image, error)
            self._error = self._error or "local"
            self._scope.cancel()
        else:
            self._used += frame.stored_size
            self._feed(event)
        finally:
            self._places.release()

    def _blame(self, error: OriginError) -> None:
        log.warning("fetch of %s: %s: %s", self._object.hex()[:12], error.reason, error.message)
        self._error = self._error or error.reason
        self.trouble = self.trouble or error

    def _progress(self) -> None:
        now = trio.current_time()
        if now - self._told_at >= PROGRESS_S:
            size, self._told, self._told_at = self._received - self._told, self._received, now
            self._feed(FetchProgress(self._action.fetch, size))
