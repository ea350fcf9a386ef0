"""How much of a WAN link a device may fill with fetches while it gives way to whatever else uses the link.

In the manner of RFC 6817 (LEDBAT), done by the receiver as in RFC 9840 (rLEDBAT): who else fills the link
makes its queue longer, and bytes in flight are kept to as many as add no more than `TARGET_S` to the way of
the others. A receiver cannot choose the sender's window, but bounds it by its own; the sender's congestion
control goes on below that bound, so that nothing here can make a fetch greedier than it was.

Pure: round trips come in with the time at which they were seen, a window in bytes comes out. Not for how they
are measured (`p2p.adapters.background`), nor for budgets, which hold whether anybody else is there or not.
"""

from __future__ import annotations

import math
from collections import deque
from math import ceil

TARGET_S = 0.025
"""Delay that fetches may add. RFC 6817 allows 0.1, but a queue shorter than the target is filled without ever
giving way: that of the rig is 0.05 (docs/adr/0014-giving-way.md has what other targets came to)."""

TARGET_MAX_S = 0.1
"""RFC 6817's target: no more is added to the way of others, however uneven a link is."""

NOISE_PART, NOISE_WEIGHT = 3, 1 / 16
"""A link whose delay varies by itself (radio, satellites) has a target that is longer by so many times what
one round trip differs from those beside it, averaged with this weight. Of a delay that is anything between
0 and 60 ms that is 17 ms; a queue grows and shrinks over many round trips, and differs by a few."""

FILTER_STEPS = 4
"""A queue is long when the shortest of so many steps says so (RFC 6817's CURRENT_FILTER): one that is only
seen now and then is the link's own delay. The latest step says whether the window may grow."""

SEGMENT = 1448
"""Payload bytes of a full packet."""

WINDOW_MIN = 2 * SEGMENT
"""RFC 6817's MIN_CWND: with less, a round trip would pass without a sign of how long it takes."""

SHARE_MIN = 1 / 10
"""Of the most that came of late: so much is kept of a link beside others. A site's leases are believed as
long as a fetch is at most twenty times slower than fetches were (`leases.SLOWER`), and a device may have two;
with less than this the others would take the frames for lost and pay for them again."""

RATE_MIN = 8192
"""Bytes per second that are kept in any case: twice what a lease must bring while no rate is known."""

RATE_S = 1.0
"""What came is measured over at least so long."""

WINDOW_FIRST = 10 * SEGMENT
"""RFC 6928's initial window, as the sender will not send more either."""

WINDOW_MAX = 1 << 30
"""What a TCP window can be (RFC 7323)."""

BASE_SPAN_S, BASE_SPANS = 60.0, 10
"""The base delay is the least of so many spans (RFC 6817, section 3.4.2): routes change."""

DRAIN_EVERY_S = 60.0
"""So often the window is made small until the queue is empty, as one that is always there looks like base."""

REST_S = 10.0
"""After so long without a sample the window is looked for anew."""

STEP_MIN_S = 0.01
"""The window changes at most so often, and once in a round trip."""

GROWTH = 1 / 8
"""Of the window, in a round trip in which the queue is empty; less the nearer it is to the target."""

OURS_STEPS, EMPTY_STEPS = 2, 4
"""Steps after which a queue that stays long is another's, and an empty one is no accident."""


class Courtesy:
    """Of one way to one server. `window`: bytes that may be in flight on it in all, over all connections."""

    def __init__(self, target_s: float = TARGET_S) -> None:
        self.target_s = target_s
        self.window = WINDOW_FIRST
        self.queue_s = 0.0
        """Delay over the base, as of the last step."""
        self.giving_way = False
        """Whether the last step made the window smaller, as the queue was longer than the target."""
        self._bases: deque[tuple[float, float]] = deque(maxlen=BASE_SPANS)
        self._bests: deque[tuple[float, float]] = deque(maxlen=BASE_SPANS)
        """Spans in which nobody was given way to: when each began, and the most bytes per second in it."""
        self._came = 0.0
        """Bytes per second that came at last, whoever else was there."""
        self._counted, self._counted_at = 0, 0.0
        self._yielded = False
        """Whether somebody was given way to since `_counted_at`."""
        self._noise_s = 0.0
        self._steps: deque[float] = deque(maxlen=FILTER_STEPS)
        self._searching = True
        """Bytes in flight still grow in proportion, as nothing was met so far."""
        self._empty = self._long = 0
        """Steps in a row with a queue that was as good as empty, and much longer than the target."""
        self._current: float | None = None
        self._received = 0
        self._stepped_at: float | None = None
        self._sampled_at = 0.0
        self._drained_at: float | None = None
        self._resume: tuple[float, int] | None = None
        self._drained_s = math.inf
        """The shortest round trip since the window was made small."""

    @property
    def allowed_s(self) -> float:
        """The delay that fetches may add on this way: the target, and more where delay varies by itself."""
        return max(self.target_s, min(TARGET_MAX_S, self.target_s + NOISE_PART * self._noise_s))

    @property
    def base_s(self) -> float | None:
        """The round trip with an empty queue, as far as it was seen; None before the first sample."""
        return min((base for _, base in self._bases), default=None)

    def sampled(self, round_trip_s: float, shortest_s: float, received: int, now: float) -> int:
        """A round trip was seen at `now`, after `received` more bytes had come on all connections.

        `shortest_s`: the shortest that the connection knows of, which only counts as a base. Returns the
        window.
        """
        if self._stepped_at is not None and now - self._sampled_at > REST_S:
            self._rest()
        self._sampled_at = now
        self._note_base(min(round_trip_s, shortest_s), now)
        self._note_rate(received, now)
        self._received += received
        self._current = round_trip_s if self._current is None else min(self._current, round_trip_s)
        if self._stepped_at is None:
            self._stepped_at, self._received, self._current = now, 0, None
            self._drained_at = now if self._drained_at is None else self._drained_at
            return self.window
        passed = now - self._stepped_at
        if passed >= max(STEP_MIN_S, self._current):
            self._step(self._current, passed, now)
            self._stepped_at, self._received, self._current = now, 0, None
        return self.window

    # Inside

    def _rest(self) -> None:
        """Nothing was fetched for a while: the link may be another's now, or nobody's."""
        self.window = min(self.window, WINDOW_FIRST)
        self._searching, self._current, self._received = True, None, 0
        self._empty = self._long = 0
        self._steps.clear()
        self._stepped_at = self._resume = None
        self.giving_way = False

    def _note_base(self, seen_s: float, now: float) -> None:
        if not self._bases or now - self._bases[-1][0] >= BASE_SPAN_S:
            self._bases.append((now, seen_s))
        elif seen_s < self._bases[-1][1]:
            self._bases[-1] = (self._bases[-1][0], seen_s)

    def _note_rate(self, received: int, now: float) -> None:
        """What comes while others are given way to is no measure of the link."""
        passed = now - self._counted_at
        if passed > REST_S:
            self._counted, self._counted_at, self._yielded = 0, now, self._long > OURS_STEPS
            return
        self._counted += received
        if passed >= RATE_S:
            self._came = self._counted / passed
            if not self._yielded:
                if not self._bests or now - self._bests[-1][0] >= BASE_SPAN_S:
                    self._bests.append((now, 0.0))
                since, best = self._bests[-1]
                self._bests[-1] = since, max(best, self._came)
            self._counted, self._counted_at, self._yielded = 0, now, self._long > OURS_STEPS

    def _note_noise(self, current_s: float) -> None:
        """How far a round trip is from the mean of those beside it: what is steady does not count."""
        if len(self._steps) >= 2:
            before, middle = self._steps[-2], self._steps[-1]
            self._noise_s += NOISE_WEIGHT * (abs(middle - (before + current_s) / 2) - self._noise_s)
        self._steps.append(current_s)

    def _least(self, current_s: float) -> int:
        """The window that is kept beside others."""
        best = max((best for _, best in self._bests), default=0.0)
        return max(WINDOW_MIN, int(max(RATE_MIN, SHARE_MIN * best) * current_s))

    def _step(self, current_s: float, passed_s: float, now: float) -> None:
        base = self.base_s or 0.0
        self._note_noise(current_s)
        seen_s = max(0.0, current_s - base)
        self.queue_s = max(0.0, min(self._steps) - base)
        if self._draining(current_s, now):
            return
        target_s = self.allowed_s
        over_s = self.queue_s - target_s
        self.giving_way = over_s > 0
        if over_s > 0:
            self._searching = False
            self._empty = 0
            # What our own bytes add is taken back at once. Where that changes nothing, it is another's queue.
            self._long = self._long + 1 if over_s > target_s / 2 else 0
            others = self._long > OURS_STEPS
            self._yielded |= others
            share = 0.5 if others else min(0.5, over_s / current_s)
            self.window = max(self._least(current_s), int(self.window * (1.0 - share)))
            return
        self._long = 0
        room = 1.0 - seen_s / target_s
        if room < 0.25:
            self._searching = False
        if room <= 0:
            self._empty = 0
            return  # it may be the link's own, or the beginning of a queue
        self._empty = self._empty + 1 if room > 0.75 else 0
        if self._empty > EMPTY_STEPS and room >= 0.25:
            self._searching = True
        if self._searching:
            # Where the base is short beside the target, many round trips pass before the queue shows.
            growth = self.window / min(16, ceil(2 * self.target_s / max(base, 1e-3)))
        else:
            # No step may make the queue longer by more than a part of the target, or it would swing.
            growth = room * (SEGMENT + self.window * min(GROWTH, self.target_s / (4 * current_s)))
        # RFC 6817's ALLOWED_INCREASE: a window that is not used says nothing about the link.
        used = 2 * self._received * max(current_s, STEP_MIN_S) / passed_s + WINDOW_FIRST
        if self.window < used:
            self.window = min(WINDOW_MAX, int(min(self.window + growth, used)))

    def _draining(self, current_s: float, now: float) -> bool:
        """Now and then the queue is let run empty, so that the base is seen."""
        if self._resume is not None:
            until, window = self._resume
            self._drained_s = min(self._drained_s, current_s)
            if now < until:
                return True
            self._resume, self.window, self._drained_at = None, window, now
            if self.giving_way and self._drained_s - (self.base_s or 0.0) <= self.allowed_s:
                # It was our own queue: the link carries what came, whatever it carried once.
                self._bests.clear()
                self._bests.append((now, self._came))
            return False
        if self._drained_at is None or now - self._drained_at < DRAIN_EVERY_S:
            return False
        if self.queue_s < self.target_s / 4:  # it is as good as empty
            self._drained_at = now
            return False
        self._resume, self._drained_s = (now + 2 * current_s, self.window), math.inf
        self.window = WINDOW_MIN
        return True
