"""Where to end one patch frame and begin the next.

Each frame is compressed alone, so new content that occurs twice in an image is paid for twice unless
both places are in one frame. Images hold many such pairs close together (the same changelog in several
packages of one source). A frame may reach 4 MiB; where exactly it begins is free. The best boundaries are
found by dynamic programming over a bounded number of candidates. Pure and deterministic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2p.content import limits

FRAME_COST = 256
"""What another frame costs: its entry, and the context that its compressor starts without."""
_STEP = 128 * limits.KIB


@dataclass(frozen=True, slots=True)
class Repeat:
    """`length` new bytes at `second` that were at `first`, further ahead in the same image."""

    first: int
    second: int
    length: int


def spans(
    gaps: Iterable[tuple[int, int]], repeats: Sequence[Repeat], split_min: int
) -> Iterator[tuple[int, int]]:
    """Few spans of at most `PATCH_TARGET_MAX` bytes that hold every gap, keeping repeats together.

    `gaps`: what is not free, in order. Free runs of `split_min` bytes always part two spans.
    """
    starts = [r.second for r in repeats]
    group: list[tuple[int, int]] = []
    for gap in gaps:
        if group and gap[0] - group[-1][1] >= split_min:
            yield from _group_spans(group, repeats, starts)
            group = []
        group.append(gap)
    if group:
        yield from _group_spans(group, repeats, starts)


def _group_spans(
    group: list[tuple[int, int]], repeats: Sequence[Repeat], starts: list[int]
) -> Iterator[tuple[int, int]]:
    low, high = group[0][0], group[-1][1]
    here = repeats[bisect_left(starts, low) : bisect_left(starts, high)]
    pieces = list(_pieces(group, _STEP if here else limits.PATCH_TARGET_MAX))
    begins = [p[0] for p in pieces]
    # best[i]: least cost of covering the pieces from i on, and where the first span ends.
    best: list[tuple[int, int]] = [(0, 0)] * len(pieces) + [(0, 0)]
    for i in range(len(pieces) - 1, -1, -1):
        reach = bisect_left(begins, begins[i] + limits.PATCH_TARGET_MAX)
        while reach > i + 1 and pieces[reach - 1][1] - begins[i] > limits.PATCH_TARGET_MAX:
            reach -= 1
        saved = _saved(here, begins[i], [p[1] for p in pieces[i:reach]])
        # Of equals the longest span: fewer, larger frames.
        best[i] = min((FRAME_COST - saved[j - i - 1] + best[j][0], -j) for j in range(i + 1, reach + 1))
    i = 0
    while i < len(pieces):
        j = -best[i][1]
        yield begins[i], pieces[j - 1][1]
        i = j


def _saved(repeats: Sequence[Repeat], start: int, ends: list[int]) -> list[int]:
    """Repeated bytes with both places in `[start, end)`, for each of `ends` (ascending)."""
    saved = [0] * len(ends)
    low = bisect_left(repeats, start, key=lambda r: r.second)
    high = bisect_left(repeats, ends[-1], key=lambda r: r.second)
    for repeat in repeats[low:high]:
        if repeat.first >= start:
            at = bisect_left(ends, repeat.second + repeat.length)
            if at < len(ends):
                saved[at] += repeat.length
    for n in range(1, len(saved)):
        saved[n] += saved[n - 1]
    return saved


def _pieces(group: list[tuple[int, int]], step: int) -> Iterator[tuple[int, int]]:
    """The gaps of a group, near ones joined and long ones cut, `step` bytes at most."""
    start, stop = group[0]
    for low, high in group[1:]:
        if high - start <= step:
            stop = high
        else:
            yield from _cut(start, stop, step)
            start, stop = low, high
    yield from _cut(start, stop, step)


def _cut(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for at in range(start, stop, step):
        yield at, min(stop, at + step)
