"""One site, device by device: who fetched, who rode and who made locally; when, and what of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from sim.outcome import Span
from sim.report.look import PLAIN, ink
from sim.report.picture import Drawn, Picture, picture, rows
from sim.report.thin import POINTS_MAX, Stretch, merge_in_image, merge_in_time
from sim.report.units import count_text, size_text, size_unit, time_text, time_unit

ROWS_MAX = 40
ROW = 15
"""Height of a device's row, px."""
SLIVERS = 300
"""No span is drawn shorter than this part of the time that is shown."""
CLOSER_BELOW = 0.4
MARGIN = 0.15
"""Of the time in which a site fetched, shown before and after it."""
WHATS = ("made", "rode", "fetched", "wasted")
"""In the order in which they are drawn: the rarer and dearer on top."""
WORDS = {
    "fetched": "fetched over the WAN",
    "rode": "rode: from a peer",
    "made": "made from what it has",
    "wasted": "wasted",
}


def timeline(site: str, spans: Sequence[Span], name: str) -> list[Picture]:
    """Two panels with a row per device: spans over time, and over offsets in the image.

    Where a site fetched for a small part of that time only, that part is a second picture.
    """
    if not spans:
        return []
    begin, end = min(s.since_s for s in spans), max(s.until_s for s in spans)
    found = [_picture(spans, name, _title(site, spans), (begin, end))]
    fetched = [s for s in spans if s.what == "fetched"]
    if fetched:
        first, last = min(s.since_s for s in fetched), max(s.until_s for s in fetched)
        margin = MARGIN * (last - first)
        window = max(begin, first - margin), min(end, last + margin)
        if window[1] - window[0] < CLOSER_BELOW * (end - begin):
            during = [s for s in spans if s.until_s >= window[0] and s.since_s <= window[1]]
            title = f"{site} while it fetched: {time_text(last - first)} from {time_text(first)} on"
            found.append(_picture(during, f"{name}-closer", title, window))
    return found


def _picture(spans: Sequence[Span], name: str, title: str, window: tuple[float, float]) -> Picture:
    order = _order(spans)
    shown = _sampled(order)
    rows_shown = set(shown)
    kept = [s for s in spans if s.device in rows_shown]
    in_time, gap_s = merge_in_time(kept, POINTS_MAX // 2)
    in_image, gap_bytes = merge_in_image(kept, POINTS_MAX // 2)
    begin, end = window
    unit_t = time_unit(end - begin)
    unit_b = size_unit(max(s.stop for s in kept))
    height = max(60, ROW * len(shown))
    least = (end - begin) / SLIVERS

    def when(s: Stretch) -> tuple[float, float]:
        since = max(begin, s.since_s)
        return since / unit_t.size, min(end + least, max(s.until_s, since + least)) / unit_t.size

    def where(s: Stretch) -> tuple[float, float]:
        return s.start / unit_b.size, s.stop / unit_b.size

    times = alt.Scale(domain=[begin / unit_t.size, (end + least) / unit_t.size], nice=False)
    left = _panel(in_time, when, shown, f"time since the start ({unit_t.name})", times, labels=True)
    offsets = alt.Scale(nice=False, domainMin=0)
    right = _panel(in_image, where, shown, f"offset in the image ({unit_b.name})", offsets, labels=False)
    chart = alt.hconcat(
        left.properties(width=470, height=height),
        right.properties(width=390, height=height),
        spacing=18,
    ).resolve_scale(color="independent")
    return picture(name, title, _caption(order, shown, gap_s, gap_bytes), chart)


def _panel(
    stretches: Sequence[Stretch],
    ends: Callable[[Stretch], tuple[float, float]],
    shown: Sequence[str],
    title: str,
    scale: alt.Scale,
    *,
    labels: bool,
) -> Drawn:
    data: list[dict[str, Any]] = []
    for what in (*WHATS, *sorted({s.what for s in stretches} - set(WHATS))):
        for s in stretches:
            if s.what == what:
                begin, end = ends(s)
                data.append(
                    {
                        "device": s.device,
                        "what": WORDS.get(what, what),
                        "a": begin,
                        "b": end,
                        "when": f"{time_text(s.since_s)} to {time_text(s.until_s)}",
                        "range": f"{size_text(s.start)} to {size_text(s.stop)}",
                        "size": size_text(s.size),
                        "spans": s.spans,
                        "from": _sources(s),
                    }
                )
    names = [WORDS[w] for w in ("fetched", "rode", "made", "wasted")]
    present = {row["what"] for row in data}
    others = sorted(present - set(names))
    domain = [n for n in names if n in present] + others
    colours = dict(zip(names, (ink(w) for w in ("fetched", "rode", "made", "wasted")), strict=True))
    axis = alt.Axis(title=None) if labels else None
    return (
        alt.Chart(rows(data))
        .mark_bar(height=alt.RelativeBandSize(0.8))
        .encode(
            y=alt.Y("device:N", sort=list(shown), scale=alt.Scale(domain=list(shown)), axis=axis),
            x=alt.X("a:Q", title=title, scale=scale, axis=alt.Axis(format=PLAIN, tickCount=6)),
            x2="b:Q",
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=domain, range=[colours.get(n, ink("c5")) for n in domain]),
                legend=alt.Legend(orient="top", title=None) if labels else None,
            ),
            tooltip=[
                alt.Tooltip("device:N"),
                alt.Tooltip("what:N", title="how"),
                alt.Tooltip("from:N", title="from"),
                alt.Tooltip("when:N", title="when"),
                alt.Tooltip("range:N", title="of the image"),
                alt.Tooltip("size:N", title="bytes of it"),
                alt.Tooltip("spans:Q", title="pieces joined"),
            ],
        )
    )


def _sources(stretch: Stretch) -> str:
    if stretch.what == "fetched" and not stretch.sources:
        return "origin"
    few = ", ".join(stretch.sources[:3])
    more = len(stretch.sources) - 3
    return f"{few} and {more} more" if more > 0 else few or "-"


def _order(spans: Sequence[Span]) -> list[str]:
    """Devices: who fetched most first, then the others by when they first did anything."""
    fetched: dict[str, int] = {}
    first: dict[str, float] = {}
    for span in spans:
        first[span.device] = min(span.since_s, first.get(span.device, span.since_s))
        if span.what == "fetched":
            fetched[span.device] = fetched.get(span.device, 0) + span.stop - span.start
    return sorted(first, key=lambda d: (-fetched.get(d, 0), first[d], d))


def _sampled(order: Sequence[str]) -> list[str]:
    """At most `ROWS_MAX`: half of them the first, the rest evenly from the others, the last included."""
    if len(order) <= ROWS_MAX:
        return list(order)
    head = ROWS_MAX // 2
    tail = ROWS_MAX - head
    left = len(order) - head
    return [*order[:head], *(order[head + (n * (left - 1)) // (tail - 1)] for n in range(tail))]


def _title(site: str, spans: Sequence[Span]) -> str:
    fetched = {s.device for s in spans if s.what == "fetched"}
    rode = {s.device for s in spans if s.what == "rode"} - fetched
    wasted = sum(s.stop - s.start for s in spans if s.what == "wasted")
    text = f"{site}: {count_text(len(fetched), 'device')} fetched over the WAN, {len(rode):,} only rode"
    return f"{text}; {size_text(wasted)} of the image came in vain" if wasted else text


def _caption(order: Sequence[str], shown: Sequence[str], gap_s: float, gap_bytes: float) -> str:
    parts = ["A row per device, the busiest over the WAN on top. Left: when; right: which part of the image."]
    if len(shown) < len(order):
        parts.append(
            f"Shown: {len(shown)} of {len(order):,} devices, those that fetched most and a sample of "
            "the others."
        )
    if gap_s or gap_bytes:
        parts.append(
            "Joined to stay readable: spans of a device less than "
            f"{time_text(gap_s)} apart on the left, {size_text(gap_bytes)} on the right."
        )
    return " ".join(parts)
