"""Rate budgets: a token bucket that bytes wait for. Not for windows or quotas."""

from __future__ import annotations

from collections.abc import Callable

import trio

BURST_S = 0.5
"""How much of an unused budget may be saved up, in seconds of its rate."""


class RateBudget:
    """At most `rate` bytes per second on average over all users of one budget; None is no limit.

    `spent` is called with every use, before it waits.
    """

    def __init__(self, rate: int | None, spent: Callable[[], None] | None = None) -> None:
        self.rate = rate
        self._spent = spent
        self._tokens = float(rate or 0) * BURST_S
        self._at: float | None = None
        self._lock = trio.Lock()

    async def spend(self, size: int) -> None:
        """Wait until `size` bytes are allowed; those who wait are served in turn."""
        if self._spent is not None:
            self._spent()
        if self.rate is None:
            return
        async with self._lock:
            now = trio.current_time()
            if self._at is not None:
                earned = (now - self._at) * self.rate
                self._tokens = min(self.rate * BURST_S, self._tokens + earned)
            self._at = now
            self._tokens -= size
            if self._tokens < 0:
                await trio.sleep(-self._tokens / self.rate)
