"""Makes what an image has durable: soon after its first bytes, then less and less often.

Not for what a checkpoint is (`p2p.adapters.slot_writer`).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2p.agent.images import LocalImage
from p2p.errors import LocalError

CHECKPOINT_FIRST_S, CHECKPOINT_S = 0.5, 3.0
"""How much work a kill may cost: at first, and at most."""


class Checkpoints:
    """Of the images of one driver, one at a time. `failed` is told when a medium fails."""

    def __init__(
        self, *, failed: Callable[[LocalImage, LocalError], None], is_current: Callable[[LocalImage], bool]
    ) -> None:
        self._failed = failed
        self._is_current = is_current
        self._syncing = trio.CapacityLimiter(1)

    async def make(self, image: LocalImage) -> None:
        """As long as an image is being made.

        No pause is shorter than the checkpoint before it took, so that a slow medium is not only synced.
        """
        pause = min(CHECKPOINT_FIRST_S, CHECKPOINT_S)
        while image.is_written and self._is_current(image):
            await trio.sleep(pause)
            if not image.unsynced:
                continue
            began = trio.current_time()
            try:
                await trio.to_thread.run_sync(image.checkpoint, limiter=self._syncing)
            except LocalError as error:
                self._failed(image, error)
                return
            pause = max(min(2 * pause, CHECKPOINT_S), trio.current_time() - began)
