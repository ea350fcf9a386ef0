"""One fetch over the WAN: a byte range of a frames object, cut into frames, verified and stored.

Frames are stored while the next ones arrive, a few at most, so that memory is bounded and the link
is not idle. Bytes that did not end up in the slot are counted as wasted.
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

STORES_MAX = 2
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
        self._scope = trio.CancelScope()
        self._stores = trio.Semaphore(STORES_MAX)
        self._received = 0
        self._stored = 0
        self._error: str | None = None
        self.trouble: OriginError | None = None
        self._told_at = trio.current_time()
        self._told = 0

    def cancel(self) -> None:
        """Stop; `run` still returns."""
        self._scope.cancel()

    async def run(self) -> FetchEnded:
        """Fetch and store everything, or say why not."""
        action = self._action
        frames = self._image.maps[action.pack].index.frames[action.start : action.stop]
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    await self._stream(frames, nursery)
            except* OriginError as group:
                self._blame(_leaf(group))
        if self._scope.cancelled_caught and self._error is None:
            self._error = "cancelled"
        return FetchEnded(action.fetch, self._error, self._received - self._stored)

    async def _stream(self, frames: tuple[Frame, ...], nursery: trio.Nursery) -> None:
        start = frames[0].stored_offset
        stop = frames[-1].stored_offset + frames[-1].stored_size
        number, filled = 0, 0
        buffer = bytearray(frames[0].stored_size)
        async with self._origin.stream(self._object, start, stop) as parts:
            async for part in parts:
                self._received += len(part)
                self._progress()
                view = memoryview(part)
                while len(view):
                    count = min(len(view), len(buffer) - filled)
                    buffer[filled : filled + count] = view[:count]
                    filled += count
                    view = view[count:]
                    if filled == len(buffer):
                        await self._stores.acquire()
                        nursery.start_soon(self._store, frames[number], buffer)
                        number, filled = number + 1, 0
                        buffer = bytearray(frames[number].stored_size if number < len(frames) else 0)
                await self._budget.spend(len(part))

    async def _store(self, frame: Frame, stored: Buffer) -> None:
        image, pack = self._image, self._action.pack
        try:
            if isinstance(frame.entry, Patch):
                event = await trio.to_thread.run_sync(
                    image.store_frame, pack, frame.number, stored, limiter=self._patching
                )
            else:
                event = image.store_frame(pack, frame.number, stored)
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
            self._stored += frame.stored_size
            self._feed(event)
        finally:
            self._stores.release()

    def _blame(self, error: OriginError) -> None:
        log.warning("fetch of %s: %s: %s", self._object.hex()[:12], error.reason, error.message)
        self._error = self._error or error.reason
        self.trouble = self.trouble or error

    def _progress(self) -> None:
        now = trio.current_time()
        if now - self._told_at >= PROGRESS_S:
            size, self._told, self._told_at = self._received - self._told, self._received, now
            self._feed(FetchProgress(self._action.fetch, size))


def _leaf(group: BaseExceptionGroup[OriginError]) -> OriginError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OriginError)
    return error
