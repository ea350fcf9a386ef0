"""Making data small enough for a page without hiding what matters: ends, peaks and gaps stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.outcome import Series, Span

POINTS_MAX = 5000
"""Points of one chart, all its lines together."""


def thin_series(series: Series, points_max: int) -> Series:
    """At most about `points_max` (at least 8) of the points of a step function.

    The time between its ends is cut into equal parts; of each part the first, least, greatest and last point
    stay. A series that is short enough is given back as it is.
    """
    count = len(series.times)
    if count <= max(8, points_max):
        return series
    first, last = series.times[0], series.times[-1]
    parts = max(1, points_max // 4)
    width = (last - first) / parts
    kept: list[int] = []
    begin = 0
    while begin < count:
        part = _part(series.times[begin], first, width, parts)
        end = begin + 1
        while end < count and _part(series.times[end], first, width, parts) == part:
            end += 1
        inside = range(begin, end)
        chosen = {begin, end - 1, min(inside, key=series.values.__getitem__)}
        chosen.add(max(inside, key=series.values.__getitem__))
        kept += sorted(chosen)
        begin = end
    return Series(tuple(series.times[i] for i in kept), tuple(series.values[i] for i in kept))


def _part(time: float, first: float, width: float, parts: int) -> int:
    return min(parts - 1, int((time - first) / width)) if width > 0 else 0


def binned(series: Series, until_s: float, parts: int) -> list[tuple[float, float, float, float]]:
    """A step function in equal parts of `[0, until_s)`: begin, end, mean over the part and the most in it.

    It is 0 before it begins; its mean times the length of the parts adds up to its integral.
    """
    width = until_s / parts
    found = []
    at = 0
    value = 0.0
    for part in range(parts):
        begin, end = part * width, (part + 1) * width
        total, most, now = 0.0, value, begin
        while at < len(series.times) and series.times[at] < end:
            time = max(begin, series.times[at])
            total += value * (time - now)
            if time == begin:
                most = series.values[at]
            value, now = series.values[at], time
            most = max(most, value)
            at += 1
        total += value * (end - now)
        found.append((begin, end, total / width, most))
    return found


@dataclass(frozen=True, slots=True)
class Stretch:
    """One or several spans of a device drawn as one: same `what`, gaps between them not worth a pixel.

    `size`: bytes of the target in the spans. `sources`: who they came from, in order of first use.
    """

    device: str
    what: str
    since_s: float
    until_s: float
    start: int
    stop: int
    spans: int
    size: int
    sources: tuple[str, ...]


def merge_in_time(spans: Iterable[Span], stretches_max: int) -> tuple[list[Stretch], float]:
    """Spans joined over gaps in time, and the longest gap that was joined over (0: none).

    The longest gaps stay: there are at most `stretches_max`, or one per device and `what`.
    """
    return _merged(spans, stretches_max, by_time=True)


def merge_in_image(spans: Iterable[Span], stretches_max: int) -> tuple[list[Stretch], float]:
    """Spans joined over gaps in the target, and the longest gap in bytes that was joined over (0: none)."""
    return _merged(spans, stretches_max, by_time=False)


def _merged(spans: Iterable[Span], stretches_max: int, *, by_time: bool) -> tuple[list[Stretch], float]:
    ordered = list(spans)
    if by_time:
        ordered.sort(key=lambda s: (s.device, s.what, s.since_s, s.until_s, s.start))
    else:
        ordered.sort(key=lambda s: (s.device, s.what, s.start, s.stop, s.since_s))
    if len(ordered) <= stretches_max:
        return [_stretch([span]) for span in ordered], 0.0
    before = _gaps_before(ordered, by_time)
    # A border stays where another device or `what` begins, and at the longest gaps that there is room for.
    gaps = sorted((gap for gap in before if gap is not None), reverse=True)
    room = max(0, stretches_max - (len(ordered) - len(gaps)))
    joined = max(0.0, gaps[room]) if room < len(gaps) else 0.0
    groups: list[list[Span]] = []
    for span, gap in zip(ordered, before, strict=True):
        if gap is None or gap > joined:
            groups.append([])
        groups[-1].append(span)
    return [_stretch(group) for group in groups], joined


def _gaps_before(ordered: Sequence[Span], by_time: bool) -> list[float | None]:
    """How far each span begins after all earlier ones of its device and `what` ended; None for a first."""
    found: list[float | None] = []
    key: tuple[str, str] | None = None
    reach = 0.0
    for span in ordered:
        begin, end = _ends(span, by_time)
        if (span.device, span.what) != key:
            key = (span.device, span.what)
            found.append(None)
            reach = end
        else:
            found.append(begin - reach)
            reach = max(reach, end)
    return found


def _ends(span: Span, by_time: bool) -> tuple[float, float]:
    return (span.since_s, span.until_s) if by_time else (span.start, span.stop)


def _stretch(group: Sequence[Span]) -> Stretch:
    first = group[0]
    return Stretch(
        device=first.device,
        what=first.what,
        since_s=min(s.since_s for s in group),
        until_s=max(s.until_s for s in group),
        start=min(s.start for s in group),
        stop=max(s.stop for s in group),
        spans=len(group),
        size=sum(s.stop - s.start for s in group),
        sources=tuple(dict.fromkeys(s.source for s in group if s.source is not None)),
    )
