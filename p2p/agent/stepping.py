"""Drives the steps of a trust client: each in a thread, what they need of others on the event loop.

A step verifies signatures and makes durable what it accepts before it is believed, so it takes as long as
processor and medium do; peers and timers do not wait for it. A cancelled computation ends after the step that
it is in. Not for what a step may do (`p2p.trust.client`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import trio

from p2p.errors import OriginError, PeerError
from p2p.trust import Need, Steps

T = TypeVar("T")


async def run_in_threads(steps: Steps[T], answer: Callable[[Need], Awaitable[bytes | None]]) -> T:
    """As `p2p.trust.run_async`. Of one client, one computation at a time."""
    data: bytes | None = None
    error: OriginError | PeerError | None = None
    try:
        while True:
            need, result = await trio.to_thread.run_sync(_advance, steps, data, error)
            if need is None:
                return cast(T, result)
            await trio.lowlevel.checkpoint_if_cancelled()
            data = error = None
            try:
                data = await answer(need)
            except (OriginError, PeerError) as failure:
                error = failure
    finally:
        steps.close()


def _advance(
    steps: Steps[T], data: bytes | None, error: OriginError | PeerError | None
) -> tuple[Need | None, T | None]:
    """The next need, or the result. Blocks."""
    try:
        return (steps.send(data) if error is None else steps.throw(error)), None
    except StopIteration as stop:
        return None, stop.value
