"""What of the base a stretch of the target resembles: unchanged runs, and base views for the rest.

Content is found by **anchors**: small content-defined chunks of base and target whose digests agree,
grown byte by byte to runs. The number of anchors is bounded, so memory does not grow with the image.
A base view is one range around where the neighbourhood of the stretch came from (the same offset when
nothing moved, the shifted one when something was inserted before), plus ranges from elsewhere where
anchors say that content came from there. Everything here is deterministic: the same images give the
same runs and views on every machine.

Cutting into chunks is an argument (`Cutter`): this package brings no chunker of its own.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.content.index import ViewRange
from p2p.content.intervals import IntervalSet
from p2p.delta.framing import Repeat

Cutter = Callable[[memoryview, int], Iterable[tuple[int, int]]]
"""`cut(data, average)`: offsets and lengths of content-defined chunks that cover `data` in order."""

ANCHORS_MAX = 1 << 16
ANCHOR_SIZE_MIN = 256
RUN_MIN = 4 * limits.KIB
"""Shorter unchanged runs are left to the codec: an index entry costs about as much as they do."""
_MARGIN_MIN = limits.MIB  # on each side of the main range, whatever came from elsewhere
_MARGIN_MAX = 4 * limits.MIB
_FAR_SIZE_MAX = 4 * limits.MIB
_FAR_MARGIN = 64 * limits.KIB
_FAR_RUN_MIN = 512
_FAR_RANGES_MAX = 24
_GROW_STEP = 4 * limits.KIB
_ZERO_BLOCK = bytes(4 * limits.KIB)


@dataclass(frozen=True, slots=True)
class Run:
    """`length` bytes of the target that equal the base at `base_offset`."""

    target_offset: int
    base_offset: int
    length: int

    @property
    def target_stop(self) -> int:
        return self.target_offset + self.length

    @property
    def shift(self) -> int:
        """How far the content moved: base offset minus target offset."""
        return self.base_offset - self.target_offset


def anchor_size(image_size: int) -> int:
    """Average anchor chunk in bytes, a power of two, such that an image has about `ANCHORS_MAX`."""
    return max(ANCHOR_SIZE_MIN, 1 << max(0, image_size // ANCHORS_MAX).bit_length())


def find_runs(target: Buffer, base: Buffer, cut: Cutter) -> list[Run]:
    """Unchanged runs in target order, disjoint, of whatever length the anchors showed.

    Where content occurs in the base more than once, the occurrence that continues the run before it
    is taken, then the one at the same offset, then the first.
    """
    old, new = memoryview(base), memoryview(target)
    size = anchor_size(max(len(old), len(new)))
    places: dict[bytes, int] = {}
    for offset, length in cut(old, size):
        places.setdefault(_name(old[offset : offset + length]), offset)
    runs: list[Run] = []
    stop = 0
    for offset, length in cut(new, size):
        if offset + length <= stop:
            continue
        chunk = new[offset : offset + length]
        shift = _shift(old, chunk, offset, runs, places)
        if shift is None:
            continue
        # The run before may have grown into this chunk: only what is behind it is still to be had.
        start = max(offset, stop)
        run = _grow(old, new, start, offset + length - start, shift, stop)
        if runs and runs[-1].target_stop == run.target_offset and runs[-1].shift == shift:
            last = runs.pop()
            run = Run(last.target_offset, last.base_offset, last.length + run.length)
        runs.append(run)
        stop = run.target_stop
    return runs


def find_repeats(target: Buffer, gaps: Iterable[tuple[int, int]], cut: Cutter) -> list[Repeat]:
    """Chunks of new content (in `gaps`) that were there before within the reach of a frame, in order."""
    view = memoryview(target)
    size = anchor_size(len(view))
    last: dict[bytes, int] = {}
    repeats: list[Repeat] = []
    for low, high in gaps:
        if high - low < size:
            continue
        for offset, length in cut(view[low:high], size):
            at = low + offset
            name = _name(view[at : at + length])
            before = last.get(name)
            if before is not None and at + length - before <= limits.PATCH_TARGET_MAX:
                repeats.append(Repeat(before, at, length))
            last[name] = at
    return repeats


def _name(chunk: memoryview) -> bytes:
    return hashlib.blake2b(chunk, digest_size=12).digest()


def _shift(
    old: memoryview, chunk: memoryview, offset: int, runs: Sequence[Run], places: dict[bytes, int]
) -> int | None:
    known = (runs[-1].shift, 0) if runs else (0,)
    for shift in known:
        start = offset + shift
        if start >= 0 and bytes(old[start : start + len(chunk)]) == bytes(chunk):
            return shift
    place = places.get(_name(chunk))
    return None if place is None else place - offset


def _grow(old: memoryview, new: memoryview, offset: int, length: int, shift: int, low: int) -> Run:
    start = offset - _common(old, new, offset, shift, min(offset - low, offset + shift), -1)
    stop = offset + length
    stop += _common(old, new, stop, shift, min(len(new) - stop, len(old) - stop - shift), 1)
    return Run(start, start + shift, stop - start)


def _common(old: memoryview, new: memoryview, at: int, shift: int, most: int, way: int) -> int:
    """How many bytes agree from target offset `at` onwards (`way` 1) or backwards (-1), at most `most`."""
    agreed = 0
    step = _GROW_STEP
    while agreed < most:
        step = min(step, most - agreed)
        low = at + agreed if way > 0 else at - agreed - step
        if bytes(new[low : low + step]) == bytes(old[low + shift : low + shift + step]):
            agreed += step
            step = min(step * 2, limits.MIB)
        elif step == 1:
            break
        else:
            # The difference is inside this step; halving finds it exactly, and never grows again.
            most = min(most, agreed + step - 1)
            step = (step + 1) // 2
    return agreed


def zero_runs(data: Buffer, least: int) -> Iterator[tuple[int, int]]:
    """Runs of zero bytes as `(start, stop)`, found by whole aligned 4 KiB blocks, at least `least` long."""
    view = memoryview(data)
    block = len(_ZERO_BLOCK)
    start: int | None = None
    for at in range(0, len(view) - block + 1, block):
        if bytes(view[at : at + block]) == _ZERO_BLOCK:
            if start is None:
                start = at
        elif start is not None:
            if at - start >= least:
                yield start, at
            start = None
    if start is not None:
        stop = len(view) // block * block
        if stop - start >= least:
            yield start, stop


class ViewChooser:
    """Chooses base views of at most `limits.BASE_VIEW_MAX` bytes from the runs of a whole image."""

    def __init__(self, runs: Sequence[Run], base_size: int, *, view_max: int = limits.BASE_VIEW_MAX) -> None:
        self._runs = runs
        self._starts = [r.target_offset for r in runs]
        self._stops = [r.target_stop for r in runs]
        self._base_size = base_size
        self._view_max = view_max

    def choose(self, start: int, stop: int) -> tuple[ViewRange, ...]:
        """The base view for target bytes `[start, stop)`; empty only when the base is empty."""
        if self._base_size == 0:
            return ()
        inside = self._runs[bisect_right(self._stops, start) : bisect_left(self._starts, stop)]
        shift = self._main_shift(start, stop, inside)
        length = stop - start
        # A short stretch seldom gains from a wide view, and each view is read and held by every device.
        wanted = length + 2 * max(_MARGIN_MIN, min(_MARGIN_MAX, length))
        around = self._window(start + shift, stop + shift, min(wanted, self._view_max))
        far_max = max(0, min(_FAR_SIZE_MAX, self._view_max - length - 2 * _MARGIN_MIN))
        chosen = self._far(start, stop, inside, around, far_max)
        size = min(wanted, self._view_max - chosen.total())
        low, high = self._window(start + shift, stop + shift, size)
        chosen.add(low, high)
        return tuple(ViewRange(low, high - low) for low, high in chosen)

    def _main_shift(self, start: int, stop: int, inside: Sequence[Run]) -> int:
        """The median shift of the bytes found again inside, else that of the nearest run, else 0."""
        if inside:
            weighted = sorted(
                (r.shift, min(r.target_stop, stop) - max(r.target_offset, start)) for r in inside
            )
            half = sum(weight for _, weight in weighted) / 2
            for shift, weight in weighted:
                half -= weight
                if half <= 0:
                    return shift
        before = bisect_right(self._stops, start) - 1
        after = before + 1 + len(inside)
        near = [self._runs[i] for i in (before, after) if 0 <= i < len(self._runs)]
        best = min(near, key=lambda r: max(start - r.target_stop, r.target_offset - stop), default=None)
        return 0 if best is None else best.shift

    def _window(self, low: int, high: int, size: int) -> tuple[int, int]:
        """`size` bytes of the base around `[low, high)`, moved inside where it would pass an end."""
        size = min(size, self._base_size)
        first = low - (size - (high - low)) // 2
        first = max(0, min(first, self._base_size - size))
        return first, first + size

    def _far(
        self, start: int, stop: int, inside: Sequence[Run], around: tuple[int, int], size_max: int
    ) -> IntervalSet:
        """Where else content came from, most bytes first, as long as it fits `size_max`."""
        groups: list[tuple[int, int, int]] = []  # low, high, bytes found again
        for run in sorted(inside, key=lambda r: r.base_offset):
            low = run.base_offset + max(0, start - run.target_offset)
            high = run.base_offset + run.length - max(0, run.target_stop - stop)
            if high - low < _FAR_RUN_MIN or (low >= around[0] and high <= around[1]):
                continue
            gain = high - low
            low, high = max(0, low - _FAR_MARGIN), min(self._base_size, high + _FAR_MARGIN)
            if groups and low <= groups[-1][1]:
                first, last, sum_ = groups.pop()
                groups.append((first, max(last, high), sum_ + gain))
            else:
                groups.append((low, high, gain))
        chosen = IntervalSet()
        for low, high, _ in sorted(groups, key=lambda g: (-g[2], g[0])):
            if len(chosen) < _FAR_RANGES_MAX and chosen.total() + high - low <= size_max:
                chosen.add(low, high)
        return chosen
