"""What rises and falls over time: devices that finished, and bytes per second out of the origin."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from sim.outcome import Series
from sim.report.look import PLAIN, SERIES, WIDTH, ink
from sim.report.picture import Drawn, Picture, picture, rows
from sim.report.thin import POINTS_MAX, binned, thin_series
from sim.report.units import Unit, count_text, rate_text, rate_unit, share_text, time_text, time_unit

LINES_MAX = 8
"""More lines than colours are drawn as a band."""
BAND_POINTS = 300
MARKED = (0.5, 0.9, 1.0)
HEIGHT = 320
THICKEST = 3.0
"""Of several lines the first is thicker by so much at most than the last, which is drawn over it: where lines
are on top of each other, the edges of all are seen."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A step function over time under the name of its run, way or plan. It ends at `end_s`."""

    label: str
    series: Series
    end_s: float
    colour: str = ""
    """As charts write it; empty: the next of `SERIES`."""

    def at(self, time: float) -> float:
        """Its value then; 0 before it begins."""
        n = bisect_right(self.series.times, time)
        return self.series.values[n - 1] if n else 0.0

    def first_at_least(self, value: float) -> float | None:
        """When it first gets there."""
        return next(
            (t for t, v in zip(self.series.times, self.series.values, strict=True) if v >= value), None
        )


def completion(name: str, curves: Sequence[Curve], whose: str) -> Picture | None:
    """Shares of devices that finished (values between 0 and 1); None where there is nothing to draw."""
    drawn = [c for c in curves if c.series.times]
    if not drawn:
        return None
    longest = max(_last_change(c) for c in drawn)
    unit = time_unit(longest)
    x_title, y_title = f"time since the start ({unit.name})", "devices finished"
    until = min(max(c.end_s for c in drawn), longest * 1.05 + 1e-9) or 1.0
    if len(drawn) > LINES_MAX:
        layers, caption = _band(drawn, until, unit)
        title = f"Devices finished: {_slowest_words(drawn)}"
    else:
        ended = [Curve(c.label, c.series, until) for c in drawn]
        data, thinned = _points(ended, unit, 1.0)
        layers = [_lines(data, drawn, x_title, y_title, "%", shares=True)]
        caption = (
            f"A line per {whose}; of lines that run together the thicker lies below."
            if len(drawn) > 1
            else "Marked: half, nine tenths and all devices."
        )
        caption += thinned
        if len(drawn) == 1:
            layers += _marks(drawn[0], until, unit)
        title = _completion_title(drawn, whose)
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    return picture(name, title, caption, chart)


def egress(name: str, curves: Sequence[Curve], whose: str) -> Picture | None:
    """Bytes per second out of the origin, as means of short times; of many runs, the highest peaks."""
    drawn = [c for c in curves if any(c.series.values)]
    if not drawn:
        return None
    by_peak = sorted(drawn, key=lambda c: -max(c.series.values))
    shown = [c for c in drawn if c in by_peak[:LINES_MAX]]
    peak = max(by_peak[0].series.values)
    until = max(_last_change(c) for c in shown) * 1.02 or 1.0
    unit, rate = time_unit(until), rate_unit(peak)
    parts = min(BAND_POINTS, POINTS_MAX // len(shown))
    data = [
        {
            "of": c.label,
            "t": begin / unit.size,
            "v": mean / rate.size,
            "peak": most / rate.size,
            "when": f"{time_text(begin)} to {time_text(end)}",
        }
        for c in shown
        for begin, end, mean, most in binned(c.series, until, parts)
    ]
    x_title, y_title = f"time since the start ({unit.name})", f"out of the origin ({rate.name})"
    caption = (
        "What the origin, or the CDN that stands for it, sends to all sites together; means over "
        f"{time_text(until / parts)} each"
    )
    if len(shown) == 1:
        peaks = (
            alt.Chart(rows(data))
            .mark_area(interpolate="step-after", color=ink("band"))
            .encode(x="t:Q", y=alt.Y("peak:Q", title=y_title))
        )
        chart = alt.layer(peaks, _lines(data, shown, x_title, y_title, PLAIN, shares=False))
        caption += ", and pale the highest moment in each."
    else:
        chart = _lines(data, shown, x_title, y_title, PLAIN, shares=False)
        caption += ", which level short peaks."
    if len(shown) < len(drawn):
        caption += f" Shown: the {len(shown)} of {len(drawn)} {whose}s with the highest peaks."
    highest = [c.label for c in drawn if max(c.series.values) > 0.99 * peak]
    of = f" ({highest[0]})" if len(drawn) > 1 and len(highest) == 1 else ""
    title = f"The origin sends {rate_text(peak)} at its peak{of}"
    return picture(name, title, caption, chart.properties(width=WIDTH, height=220))


def _last_change(curve: Curve) -> float:
    values, times = curve.series.values, curve.series.times
    changes = [t for t, before, after in zip(times[1:], values, values[1:], strict=False) if before != after]
    return changes[-1] if changes else curve.end_s


def _points(curves: Iterable[Curve], unit: Unit, size: float) -> tuple[list[dict[str, Any]], str]:
    found = list(curves)
    each = POINTS_MAX // max(1, len(found))
    data: list[dict[str, Any]] = []
    thinned = False
    for curve in found:
        series = thin_series(curve.series, each)
        thinned = thinned or series is not curve.series
        ends = [(t, v) for t, v in zip(series.times, series.values, strict=True) if t <= curve.end_s]
        if ends and ends[0][0] > 0:
            ends.insert(0, (0.0, 0.0))
        if ends and ends[-1][0] < curve.end_s:
            ends.append((curve.end_s, ends[-1][1]))
        data += [
            {"of": curve.label, "t": t / unit.size, "v": v / size, "when": time_text(t)} for t, v in ends
        ]
    note = f" Thinned to {len(data):,} points; ends and peaks stayed." if thinned else ""
    return data, note


def _lines(
    data: list[dict[str, Any]], curves: Sequence[Curve], x: str, y: str, form: str, *, shares: bool
) -> Drawn:
    several = len(curves) > 1
    labels = [c.label for c in curves]
    colours = [c.colour or colour for c, colour in zip(curves, SERIES, strict=False)]
    columns = 8 if sum(map(len, labels)) < 90 else 4
    axis = alt.Axis(title=y, format=form, tickCount=5)
    scale = alt.Scale(domain=[0, 1]) if shares else alt.Scale(domainMin=0)
    encodings: dict[str, Any] = {
        "x": _time_axis(x),
        "y": alt.Y("v:Q", scale=scale, axis=axis),
        "tooltip": [
            alt.Tooltip("of:N", title="of"),
            alt.Tooltip("when:N", title="at"),
            alt.Tooltip("v:Q", title=y, format=".1%" if shares else ".3~g"),
        ],
    }
    if several:
        encodings["color"] = alt.Color(
            "of:N",
            scale=alt.Scale(domain=list(labels), range=colours),
            legend=alt.Legend(orient="top", title=None, columns=columns, symbolType="stroke"),
        )
        step = min(1.5, THICKEST / (len(labels) - 1)) if shares else 0.0  # peaks stay thin
        return alt.layer(
            *(
                alt.Chart(rows([row for row in data if row["of"] == label]))
                .mark_line(interpolate="step-after", strokeWidth=2 + step * (len(labels) - 1 - n))
                .encode(**encodings)
                for n, label in enumerate(labels)
            )
        )
    if shares:
        return alt.Chart(rows(data)).mark_line(interpolate="step-after", color=SERIES[0]).encode(**encodings)
    return alt.Chart(rows(data)).mark_area(interpolate="step-after", color=SERIES[0]).encode(**encodings)


def _time_axis(title: str) -> alt.X:
    return alt.X(
        "t:Q",
        title=title,
        scale=alt.Scale(nice=False, domainMin=0),
        axis=alt.Axis(grid=False, format=PLAIN, tickCount=10),
    )


def _marks(curve: Curve, until: float, unit: Unit) -> list[Drawn]:
    data: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for share in MARKED:
        time = curve.first_at_least(share)
        if time is not None:
            late = time > 0.7 * until
            text = f"{share_text(share)} at {time_text(time)}"
            data[late].append({"t": time / unit.size, "v": share, "text": text})
    layers = []
    for late, marks in data.items():
        if not marks:
            continue
        base = alt.Chart(rows(marks)).encode(x="t:Q", y="v:Q")
        layers.append(base.mark_point(filled=True, size=60, color=SERIES[0], opacity=1))
        text = (
            base.mark_text(align="right", dx=-10, dy=-4, color=ink("ink"))
            if late
            else base.mark_text(align="left", dx=10, dy=14, color=ink("ink"))
        )
        layers.append(text.encode(text="text:N"))
    return layers


def _band(curves: Sequence[Curve], until: float, unit: Unit) -> tuple[list[Drawn], str]:
    slowest = _slowest(curves)
    band = []
    for n in range(BAND_POINTS + 1):
        time = until * n / BAND_POINTS
        values = sorted(c.at(time) for c in curves)
        at = {"t": time / unit.size, "when": time_text(time), "low": values[0], "high": values[-1]}
        band.append(at | {"middle": values[len(values) // 2], "slow": slowest.at(time)})
    x = _time_axis(f"time since the start ({unit.name})")
    base = alt.Chart(rows(band)).encode(x=x)
    axis = alt.Axis(title="devices finished", format="%", tickCount=5)
    area = base.mark_area(interpolate="step-after", color=ink("band")).encode(
        y=alt.Y("low:Q", scale=alt.Scale(domain=[0, 1]), axis=axis), y2="high:Q"
    )
    tips = [
        alt.Tooltip("when:N", title="at"),
        *(
            alt.Tooltip(f"{field}:Q", title=title, format=".1%")
            for field, title in (("low", "least"), ("middle", "median"), ("high", "most"))
        ),
    ]
    middle = base.mark_line(interpolate="step-after", color=ink("c1")).encode(y="middle:Q", tooltip=tips)
    slow = base.mark_line(interpolate="step-after", color=ink("c2"), strokeDash=[6, 3]).encode(
        y="slow:Q", tooltip=tips
    )
    caption = (
        f"Band: from the least to the most of {count_text(len(curves), 'run')} at each moment; solid line: "
        f"the median; dashed: the slowest run, {slowest.label}."
    )
    return [area, middle, slow], caption


def _slowest(curves: Sequence[Curve]) -> Curve:
    """The one that gets least far, and of those the one that takes longest."""

    def late(curve: Curve) -> tuple[float, float]:
        final = curve.series.values[-1]
        reached = curve.first_at_least(final)
        return (-final, curve.end_s if reached is None else reached)

    return max(curves, key=late)


def _slowest_words(curves: Sequence[Curve]) -> str:
    slowest = _slowest(curves)
    final = slowest.series.values[-1]
    time = slowest.first_at_least(final)
    if final < 1:
        return f"the slowest run, {slowest.label}, got to {share_text(final)}"
    return f"all in every run, the slowest, {slowest.label}, after {time_text(time or 0.0)}"


def _completion_title(curves: Sequence[Curve], whose: str) -> str:
    if len(curves) == 1:
        curve = curves[0]
        final = curve.series.values[-1]
        if final <= 0:
            return "No device finished"
        time = time_text(curve.first_at_least(final) or 0.0)
        return (
            f"All devices finished after {time}"
            if final >= 1
            else f"{share_text(final)} of the devices finished"
        )
    slow = _slowest(curves)
    final = slow.series.values[-1]
    if final < 1:
        return f"Not all devices finished: {slow.label} got to {share_text(final)}"
    times = {c.label: c.first_at_least(1) or 0.0 for c in curves}
    fast = min(times, key=times.__getitem__)
    if times[fast] == times[slow.label]:
        return f"All devices finished after {time_text(times[fast])} in every {whose}"
    first, last = (time_text(times[label]) for label in (fast, slow.label))
    return f"All devices finished, first {fast} ({first}), last {slow.label} ({last})"
