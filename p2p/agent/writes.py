"""Writes that the event loop asks for and does not wait for: one after the other, in a thread.

For what is kept only so that something is quicker or kinder later (an index, a roster): nobody relies on its
being durable. Who has to know that waits for a thread itself. Not for what is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio


class Writes:
    """In the order in which they were added. None may raise: each tells what went wrong itself."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._more = trio.Event()

    def add(self, write: Callable[[], None]) -> None:
        """Have something written soon."""
        self._waiting.append(write)
        self._more.set()

    async def run(self) -> None:
        """Until cancelled; what was added before is still written then."""
        try:
            while True:
                await self._write()
                self._more = trio.Event()
                await self._more.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._write()

    async def _write(self) -> None:
        while self._waiting:
            await trio.to_thread.run_sync(self._waiting[0])  # it stays if this is cancelled instead
            self._waiting.popleft()
