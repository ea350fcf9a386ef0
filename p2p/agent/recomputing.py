"""Making patches anew for peers: one at a time, in a child process that may take so much memory and no more.

What the node decides (`p2p.swarm.recomputing`) is carried out here: the base view and the target are read
from the two slots, a child runs the codec on them, and what it makes is kept like a patch that was fetched,
once it has its signed digest. Whatever fails fails only this: the peer takes chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2p.adapters.recompute import recompute
from p2p.agent.budget import ProcessorBudget
from p2p.agent.images import LocalImage
from p2p.errors import ContentError, LocalError
from p2p.swarm import events as e

log = logging.getLogger(__name__)


class Recomputing:
    """`feed` is told what came of each `Recompute`. `memory`: bytes for a child; None: nothing is made.

    `processor`: what each waits for; peers that wait take chunks, or another device makes the patch.
    `one`: shared with whatever else makes something for peers (`peer_deltas`).
    """

    def __init__(
        self,
        feed: Callable[[e.Event], None],
        memory: int | None,
        processor: ProcessorBudget | None = None,
        one: trio.CapacityLimiter | None = None,
    ) -> None:
        self._feed = feed
        self._processor = processor or ProcessorBudget()
        self._memory = memory
        self._one = one or trio.CapacityLimiter(1)

    async def make(self, image: LocalImage | None, action: e.Recompute) -> None:
        """Make one patch, or say that it cannot be made."""
        right = False
        if image is not None and self._memory is not None:
            await self._processor.ready()  # nobody else waits behind this for the battery
            async with self._one, self._processor.turn():
                right = await self._made(image, action, self._memory)
        self._feed(e.Recomputed(action.image, action.pack, action.piece, right))

    async def _made(self, image: LocalImage, action: e.Recompute, memory: int) -> bool:
        try:
            pack, piece = action.pack, action.piece
            entry, view, target = await trio.to_thread.run_sync(image.recompute_job, pack, piece)
            stored = await recompute(entry, view, target, memory)
            return await trio.to_thread.run_sync(image.keep_patch, pack, piece, stored, target)
        except (ContentError, LocalError) as error:
            log.info("piece %d is not made anew: %s", action.piece, error)
            return False
