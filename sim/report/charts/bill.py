"""What a release would cost a fleet: bytes, money and time of the four ways, and of plans to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from sim.fleet.outcome import MARKS, Estimate, PlanOutcome, Way
from sim.outcome import Series
from sim.report.charts.curves import Curve, completion, egress
from sim.report.look import PLAIN, SERIES, WIDTH, ink
from sim.report.picture import Drawn, Picture, picture, rows
from sim.report.thin import POINTS_MAX
from sim.report.units import money_text, ratio_text, share_text, size_text, size_unit, time_text, time_unit

WAYS = tuple(way.value for way in Way)
COLOURS = dict(zip(WAYS, (SERIES[7], SERIES[4], SERIES[3], SERIES[0]), strict=True))
PANEL = 230

COMPARABLE = 0.99
"""Bytes of two ways can be compared if the one serves at least so many of the devices that the other does."""


def pictures(plan: PlanOutcome, prefix: str) -> list[Picture]:
    """All pictures of a plan; their names begin with `prefix`."""
    own = next(iter(plan.plans), "")
    by_way = [e for e in plan.estimates if e.plan == own]
    ours = [e for e in plan.estimates if e.way is Way.SLIPSTREAM]
    found = [
        cost(plan, f"{prefix}cost"),
        completion(f"{prefix}completion", [_completed(e, e.way.value, plan) for e in by_way], "way"),
        egress(f"{prefix}egress", [_egress(e, e.way.value, plan) for e in by_way], "way"),
        per_site(by_way, f"{prefix}sites") if plan.sites > 1 else None,
    ]
    if len(ours) > 1:
        found.append(
            completion(f"{prefix}plans-completion", [_completed(e, e.plan, plan) for e in ours], "plan")
        )
        found.append(egress(f"{prefix}plans-egress", [_egress(e, e.plan, plan) for e in ours], "plan"))
    return [p for p in found if p is not None]


def cost(plan: PlanOutcome, name: str) -> Picture | None:
    """WAN bytes, money and times of every way under every plan."""
    if not plan.estimates:
        return None
    bytes_unit = size_unit(max(e.wan_bytes for e in plan.estimates))
    times = [t for e in plan.estimates for t in e.marks_s if t is not None]
    unit = time_unit(max(times, default=0.0))
    data = [_row(e, bytes_unit.size, plan) for e in plan.estimates]
    order = [row["row"] for row in data]
    names = alt.Axis(title=None, labelLimit=300)
    bars = [
        _bar(data, order, "size", f"over the WANs ({bytes_unit.name})", names),
        *([_bar(data, order, "money", "money", None)] if any(e.money for e in plan.estimates) else []),
        _times(plan, order, unit.size, unit.name),
    ]
    chart = alt.hconcat(*bars, spacing=28).resolve_scale(y="independent")
    return picture(name, _title(plan), _caption(plan), chart)


def per_site(estimates: Sequence[Estimate], name: str) -> Picture | None:
    """How WAN bytes of a site are spread over the fleet, a line per way, and the floor."""
    data: list[dict[str, Any]] = []
    for e in estimates:
        data += _quantiles(e.way.value, e.site_bytes)
        if e.way is Way.SLIPSTREAM:
            data += _quantiles("floor", e.site_floors)
    data = [row for row in data if row["v"] > 0][:POINTS_MAX]
    if not data:
        return None
    labels = [label for label in (*WAYS, "floor") if any(row["of"] == label for row in data)]
    unit = size_unit(max(row["v"] for row in data))
    legend = alt.Legend(orient="top", title=None, symbolType="stroke")
    for row in data:
        row["size"] = size_text(row["v"])
        row["v"] /= unit.size
    chart = (
        alt.Chart(rows(data))
        .mark_line(interpolate="linear")
        .encode(
            x=alt.X(
                "v:Q",
                title=f"over the WAN of a site ({unit.name}), log scale",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(format=PLAIN, tickCount=8),
            ),
            y=alt.Y(
                "share:Q",
                title="share of the sites at or below",
                axis=alt.Axis(format="%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=alt.Color(
                "of:N",
                scale=alt.Scale(domain=labels, range=[COLOURS.get(n, ink("ink")) for n in labels]),
                legend=legend,
            ),
            strokeDash=alt.StrokeDash(
                "of:N",
                scale=alt.Scale(domain=labels, range=[[4, 3] if n == "floor" else [1, 0] for n in labels]),
                legend=legend,
            ),
            order="share:Q",
            tooltip=[
                alt.Tooltip("of:N", title="way"),
                alt.Tooltip("share:Q", format=".0%", title="of the sites take at most"),
                alt.Tooltip("size:N", title="bytes"),
            ],
        )
        .properties(width=WIDTH, height=280)
    )
    ours = next((e for e in estimates if e.way is Way.SLIPSTREAM and e.site_bytes), None)
    middle = (
        "" if ours is None else f": half of them at most {size_text(ours.site_bytes[50])} with Slipstream"
    )
    caption = "Per site, both directions. The floor is what the cheapest published way for the site takes."
    return picture(name, f"WAN bytes per site{middle}", caption, chart)


def _quantiles(label: str, values: Sequence[float]) -> list[dict[str, Any]]:
    last = max(1, len(values) - 1)
    return [{"of": label, "share": n / last, "v": value} for n, value in enumerate(values)]


def _completed(e: Estimate, label: str, plan: PlanOutcome) -> Curve:
    share = tuple(v / e.devices if e.devices else 0.0 for v in e.completion.values)
    return Curve(label, Series(e.completion.times, share), plan.horizon_s, COLOURS.get(label, ""))


def _egress(e: Estimate, label: str, plan: PlanOutcome) -> Curve:
    return Curve(label, e.origin_egress, plan.horizon_s, COLOURS.get(label, ""))


def _key(e: Estimate, plan: PlanOutcome) -> str:
    """What a row is called. What serves far fewer devices than others do cannot be compared, and says so."""
    few = e.finished < COMPARABLE * max(other.finished for other in plan.estimates)
    part = f" ({share_text(e.finished / e.devices)} done)" if few else ""
    return f"{e.plan}: {e.way.value}{part}" if len(plan.plans) > 1 else f"{e.way.value}{part}"


def _row(e: Estimate, unit: float, plan: PlanOutcome) -> dict[str, Any]:
    ratio = e.amplification
    return {
        "row": _key(e, plan),
        "way": e.way.value,
        "size": e.wan_bytes / unit,
        "size_text": size_text(e.wan_bytes),
        "money": e.money,
        "money_text": money_text(e.money),
        "wan_money": money_text(e.wan_money),
        "origin_money": money_text(e.origin_money),
        "ratio": "-" if ratio is None else ratio_text(ratio),
        "finished": share_text(e.finished / e.devices) if e.devices else "-",
    }


def _bar(
    data: list[dict[str, Any]], order: list[str], field: str, title: str, names: alt.Axis | None
) -> Drawn:
    most = max(row[field] for row in data) or 1.0
    base = alt.Chart(rows(data)).encode(y=alt.Y("row:N", sort=order, axis=names))
    bars = base.mark_bar(height=alt.RelativeBandSize(0.7)).encode(
        x=alt.X(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, most * 1.3]), axis=_few()),
        color=_way_colour(),
        tooltip=[
            alt.Tooltip("row:N", title="way"),
            alt.Tooltip("size_text:N", title="over the WANs"),
            alt.Tooltip("ratio:N", title="÷ floor"),
            alt.Tooltip("money_text:N", title="money"),
            alt.Tooltip("wan_money:N", title="of it WANs"),
            alt.Tooltip("origin_money:N", title="of it origin"),
            alt.Tooltip("finished:N", title="devices finished"),
        ],
    )
    text = base.mark_text(align="left", dx=5, color=ink("ink")).encode(x=f"{field}:Q", text=f"{field}_text:N")
    return alt.layer(bars, text).properties(width=PANEL, height=max(90, 26 * len(order)))


def _times(plan: PlanOutcome, order: list[str], size: float, unit: str) -> Drawn:
    data = [
        {
            "row": _key(e, plan),
            "way": e.way.value,
            "t": time / size,
            "mark": share_text(mark),
            "when": time_text(time),
            "last": all(later is None for later in e.marks_s[n + 1 :]),
        }
        for e in plan.estimates
        for n, (mark, time) in enumerate(zip(MARKS, e.marks_s, strict=False))
        if time is not None
    ]
    longest = max((t for e in plan.estimates for t in e.marks_s if t is not None), default=size) / size
    base = alt.Chart(rows(data)).encode(
        y=alt.Y("row:N", sort=order, scale=alt.Scale(domain=order), axis=None),
        x=alt.X(
            "t:Q",
            title=f"half to all devices ({unit})",
            axis=_few(),
            scale=alt.Scale(domain=[0, 1.5 * longest]),
        ),
        color=_way_colour(),
        tooltip=[
            alt.Tooltip("row:N", title="way"),
            alt.Tooltip("mark:N", title="devices"),
            alt.Tooltip("when:N", title="finished after"),
        ],
    )
    line = base.mark_line(strokeWidth=2).encode(detail="row:N")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        shape=alt.Shape(
            "mark:N",
            scale=alt.Scale(
                domain=[share_text(m) for m in MARKS], range=["circle", "diamond", "triangle-up", "square"]
            ),
            legend=alt.Legend(orient="bottom", title="devices finished", columns=4),
        )
    )
    text = (
        base.transform_filter("datum.last")
        .mark_text(align="left", dx=9)
        .encode(text="when:N", color=alt.value(ink("ink")))
    )
    return alt.layer(line, dots, text).properties(width=PANEL, height=max(90, 26 * len(order)))


def _few() -> alt.Axis:
    return alt.Axis(format=PLAIN, tickCount=3)


def _way_colour() -> alt.Color:
    return alt.Color(
        "way:N", scale=alt.Scale(domain=list(WAYS), range=[COLOURS[w] for w in WAYS]), legend=None
    )


def _title(plan: PlanOutcome) -> str:
    try:
        ours, plain = plan.of(Way.SLIPSTREAM), plan.of(Way.FULL)
    except (KeyError, StopIteration):
        return f"What {plan.release} costs {plan.devices:,} devices"
    text = f"Release {plan.release} takes {size_text(ours.wan_bytes)} over all WANs with Slipstream"
    if not ours.wan_bytes:
        return text
    return f"{text}, {plain.wan_bytes / ours.wan_bytes:,.0f} times less than with full images"


def _caption(plan: PlanOutcome) -> str:
    late = [e for e in plan.estimates if e.finished < e.devices]
    words = "Marks: when 50, 90, 99 and 100 % of the devices have finished."
    if plan.estimates and plan.estimates[0].asking.day_bytes:
        asked = size_text(plan.estimates[0].asking.day_bytes)
        words += f" The release only: asking, whatever is published, is {asked} a day more."
    if late:
        words += f" A mark is missing where that share does not finish within {time_text(plan.horizon_s)}."
    return words
