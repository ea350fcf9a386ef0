"""When a node stops counting on its site and uses the origin itself.

Whoever sees no progress for long serves itself, whatever others say they are doing: correctness never
depends on an election. But what looks like a failure of the others may be one of the WAN: then all
would be on their own at the same moment, and each would fetch a copy as soon as it is back. So a
node whose own fetch brings nothing counts on its site again, and one that is on its own still lets those
go first who began after it had lost patience, a few times.
"""

from __future__ import annotations

import math

RELIEFS_MAX = 2
"""How often in a row, without progress, what others fetch, or the end of it, may put off fetching alone."""

DEFERRALS_MAX = 3
"""How often in a row, without progress, a node on its own lets another go first."""

AT_ONCE_S = 0.25
"""Who began so shortly before this node lost patience has lost it at the same moment."""

SUDDEN_S, SPREAD_S = 2.0, 8.0
"""Who finds that it should have lost patience this long ago finds it with all others, so they go one by one:
within `SPREAD_S`, in which the first shows what comes of it."""


class Solitude:
    """Whether one node is on its own with one image. `alone_at`: since when; inf: it is not.

    `impatience` (1 to 2) is the jitter of its deadline.
    """

    def __init__(self, impatience: float) -> None:
        self.alone_at = math.inf
        self._impatience = impatience
        self._relief_at = -math.inf
        self._due_at = math.inf
        self._reliefs = 0
        self._wan_failed = False
        self._deferred: dict[tuple[str, float], None] = {}

    def __bool__(self) -> bool:
        return self.alone_at < math.inf

    def is_due(self, now: float, progress_at: float, deadline_s: float) -> bool:
        """Whether nothing has happened for longer than can be explained; it is on its own from now on."""
        late_s = now - max(progress_at, self._relief_at) - self._impatience * deadline_s
        if self or late_s <= 0:
            self._due_at = math.inf
            return False
        self._due_at = min(self._due_at, now)
        if late_s > SUDDEN_S and now - self._due_at < (self._impatience - 1) * SPREAD_S:
            return False
        self.alone_at = now
        return True

    def over(self) -> None:
        """The site delivers."""
        self.alone_at = math.inf
        self._wan_failed = False
        self._deferred.clear()

    def wan_delivers(self) -> None:
        """Our own fetch brought a frame. If it had failed as others' did, it was the WAN and not they."""
        if self._wan_failed:
            self.over()

    def lease_stalled(self, now: float, progress_at: float) -> None:
        """Somebody failed, others take over: no need yet for all to fetch alone, and at the same moment."""
        if self._relief_at < progress_at:
            self._reliefs = 0
        if self._reliefs < RELIEFS_MAX:
            self._reliefs += 1
            self._relief_at = now

    def others_move(self, now: float, progress_at: float) -> None:
        """Bytes come to others: after an outage, say. It was not they who failed, as far as that goes."""
        if self:
            self.lease_stalled(now, progress_at)
            if self._relief_at == now:
                self.alone_at = math.inf

    def wan_failed(self, now: float) -> None:
        """Our own fetch brought nothing: it is not the others who fail."""
        self._relief_at = now
        self.alone_at = math.inf
        self._wan_failed = True

    def wan_changed(self, now: float) -> None:
        """The link came or went: that nothing came while there was none is nobody's failure."""
        self._relief_at = now
        self.over()

    def defers_to(self, device: str, began_at: float) -> bool:
        """Whether a device that began to fetch at `began_at` may go first, although this node is alone."""
        if began_at < self.alone_at - AT_ONCE_S:
            return False
        if (device, began_at) not in self._deferred and len(self._deferred) >= DEFERRALS_MAX:
            return False
        self._deferred[device, began_at] = None
        return True
