"""Budgets that work waits for: a token bucket for bytes, a share of a core for what is made for others.

Not for windows or quotas.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

BURST_S = 0.5
"""How much of an unused budget may be saved up, in seconds of its rate."""


class RateBudget:
    """At most `rate` bytes per second on average over all users of one budget; None is no limit.

    `spent` is called with every use, before it waits. `site_rate`: what all devices of a site may use
    together; of it this budget has an equal part, as `divide` was told last (all of it at first).
    """

    def __init__(
        self, rate: int | None, spent: Callable[[], None] | None = None, *, site_rate: int | None = None
    ) -> None:
        self._own = rate
        self._site = site_rate
        self.rate = self._part(1)
        rate = self.rate
        self._spent = spent
        self._tokens = float(rate or 0) * BURST_S
        self._at: float | None = None
        self._lock = trio.Lock()

    def divide(self, among: int) -> None:
        """So many devices share what the site may use. What was saved up is bounded by the new rate."""
        self.rate = self._part(among)

    def _part(self, among: int) -> int | None:
        rates = [self._own, None if self._site is None else max(1, self._site // among)]
        return min((rate for rate in rates if rate is not None), default=None)

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


class ProcessorBudget:
    """At most `share` of a core, on the average, for what this device makes for others; none on its battery.

    What counts is how long the work takes, which at the lowest priority is more than the processor time
    that it uses. What has begun goes to its end.
    """

    def __init__(self, share: float = 1.0, *, battery: bool = False) -> None:
        self._share = share
        self._begins_at = 0.0
        self._mains = trio.Event()
        self.on_battery(battery)

    def on_battery(self, battery: bool) -> None:
        """Whether the device runs on its battery from now on."""
        if not battery:
            self._mains.set()
        elif self._mains.is_set():
            self._mains = trio.Event()

    async def ready(self) -> None:
        """Wait until the last work is paid for and the device is not on its battery."""
        while not self._mains.is_set() or trio.current_time() < self._begins_at:
            await self._mains.wait()
            await trio.sleep_until(self._begins_at)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One piece of work, once the last is paid for; one at a time."""
        await self.ready()
        began = trio.current_time()
        try:
            yield
        finally:
            ended = trio.current_time()
            self._begins_at = ended + (ended - began) * (1 / self._share - 1)
