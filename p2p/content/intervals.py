"""Sets of bytes positions, kept as sorted, disjoint, half-open intervals."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class IntervalSet:
    """A mutable set of integers stored as intervals `[start, stop)`.

    Adjacent and overlapping intervals are merged. `add` and `covers` cost O(log n) plus the
    intervals merged.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in intervals:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> int:
        """Add `[start, stop)`; return how many positions were new."""
        if start >= stop:
            return 0
        starts, stops = self._starts, self._stops
        low = bisect_left(stops, start)
        high = bisect_right(starts, stop, low)
        if low == high:
            starts.insert(low, start)
            stops.insert(low, stop)
            return stop - start
        # Intervals `[low, high)` touch the new one and become one with it.
        first, last = starts[low], stops[high - 1]
        if high - low == 1:
            held = last - first
        elif high - low == 2:
            held = stops[low] - first + last - starts[low + 1]
        else:
            held = sum(stops[low:high]) - sum(starts[low:high])
        if start < first:
            starts[low] = first = start
        if stop > last:
            last = stop
        stops[low] = last
        if high - low > 1:
            del starts[low + 1 : high], stops[low + 1 : high]
        return last - first - held

    def remove(self, start: int, stop: int) -> None:
        """Remove `[start, stop)`."""
        if start >= stop:
            return
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        if low >= high:
            return
        starts, stops = [], []
        if self._starts[low] < start:
            starts.append(self._starts[low])
            stops.append(start)
        if self._stops[high - 1] > stop:
            starts.append(stop)
            stops.append(self._stops[high - 1])
        self._starts[low:high] = starts
        self._stops[low:high] = stops

    def covers(self, start: int, stop: int) -> bool:
        """Whether every position of `[start, stop)` is in the set (an empty range is)."""
        if start >= stop:
            return True
        i = bisect_right(self._starts, start)
        return i > 0 and self._stops[i - 1] >= stop

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The intervals of `[start, stop)` that are not in the set, in order."""
        i = bisect_right(self._stops, start)
        at = start
        while at < stop and i < len(self._starts):
            if self._starts[i] > at:
                yield at, min(self._starts[i], stop)
            at = max(at, self._stops[i])
            i += 1
        if at < stop:
            yield at, stop

    def total(self) -> int:
        """How many positions are in the set."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # how Python spells "unhashable"

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"
