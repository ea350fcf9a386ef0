"""What crossed the WANs, beside the floor: per site, per device, and over many runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome
from sim.report.look import PLAIN, SERIES, WIDTH, ink
from sim.report.picture import Drawn, Picture, picture, rows
from sim.report.subjects import Subject
from sim.report.thin import POINTS_MAX, thin_series
from sim.report.units import count_text, ratio_text, size_text, size_unit

SITES_MAX = 30
"""Up to here every site has a bar; beyond, the distribution and the worst."""
WORST = 12
DEVICES_MAX = 40
SLACK = 1.05
"""The goal for the amplification of a site without faults."""
BAR = 20
"""Height of a bar with its gap, px."""


def sites(subjects: Sequence[Subject]) -> Picture | None:
    """WAN bytes of each site beside its floor; None where no site has either."""
    found = [
        (_site_label(subjects, s, site), s, site)
        for s in subjects
        for site in s.outcome.sites
        if site.floor_bytes or site.wan_down
    ]
    if not found:
        return None
    found.sort(key=lambda f: (-(f[2].amplification or 0.0), -f[2].wan_down, f[0]))
    worst_label, _, worst = found[0]
    over = sum((site.amplification or 0.0) > SLACK for _, _, site in found)
    what = f"{worst_label}: {_times(worst)}" if len(found) > 1 else f"{_times(worst)}"
    if len(found) <= SITES_MAX:
        title = f"WAN bytes of each site against the floor, at worst {what}"
        if len(found) == 1:
            title = f"{worst_label} took {size_text(worst.wan_down)} over its WAN, {what}"
        caption = (
            "Bar: bytes down the WAN. Line across: the floor, the fewest that the published packs allow."
        )
        return picture(
            "sites", title, caption, _bars([(label, site) for label, _, site in found], WIDTH - 60)
        )
    title = (
        f"{over:,} of {count_text(len(found), 'site')} took more than {SLACK} × the floor; at worst {what}"
    )
    bars = [(label, site) for label, _, site in found[:WORST]]
    if worst.amplification is None:
        title = f"{count_text(len(found), 'site')} took WAN bytes, none has a floor; most: {worst_label}"
        return picture(
            "sites", title, f"Shown: the {len(bars)} sites with the most bytes.", _bars(bars, WIDTH - 60)
        )
    points, thinned = _distribution(found)
    left = _ecdf(points, subjects)
    right = _bars(bars, 330)
    caption = (
        "Left: share of the sites at or below each ratio of WAN bytes down to the floor; dashed: the goal of "
        f"{SLACK}. Right: the {min(WORST, len(found))} sites with the highest ratio; line across: the floor."
    )
    return picture(
        "sites", title, caption + thinned, alt.hconcat(left, right).resolve_scale(color="independent")
    )


def devices(outcome: RunOutcome, site: str | None = None, name: str = "devices") -> Picture | None:
    """Where each device's bytes came from, the ones with most WAN bytes first.

    Of one site, or of all; None for a fleet of several sites with too many devices.
    """
    here = [d for d in outcome.devices if site is None or d.site == site]
    active = [d for d in here if d.wan_bytes or d.from_peers or d.sent or d.wasted]
    several = site is None and len(outcome.sites) > 1
    if not active or (several and len(active) > DEVICES_MAX):
        return None
    ordered = sorted(active, key=lambda d: (-d.wan_bytes, -d.sent, d.device))
    shown = ordered[:DEVICES_MAX]
    unit = size_unit(max(d.wan_bytes + d.from_peers for d in shown))
    kinds = ("frames over the WAN", "other WAN bytes", "from peers")
    data: list[dict[str, Any]] = []
    for device in shown:
        label = _device_label(several, device)
        for order, (kind, size) in enumerate(zip(kinds, _parts(device), strict=True)):
            if size:
                data.append(
                    {
                        "device": label,
                        "kind": kind,
                        "order": order,
                        "v": size / unit.size,
                        "size": size_text(size),
                        "sent": size_text(device.sent),
                        "wasted": size_text(device.wasted),
                        "state": device.state,
                        "base": device.base,
                    }
                )
    chart = (
        alt.Chart(rows(data))
        .mark_bar(height=alt.RelativeBandSize(0.72))
        .encode(
            y=alt.Y("device:N", sort=[_device_label(several, d) for d in shown], title=None),
            x=alt.X("v:Q", title=f"received ({unit.name})", axis=alt.Axis(format=PLAIN, tickCount=8)),
            order="order:Q",
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=list(kinds), range=[ink("fetched"), ink("c5"), ink("rode")]),
                legend=alt.Legend(orient="top", title=None),
            ),
            tooltip=[
                alt.Tooltip("device:N"),
                alt.Tooltip("kind:N", title="came"),
                alt.Tooltip("size:N", title="bytes"),
                alt.Tooltip("sent:N", title="sent to peers"),
                alt.Tooltip("wasted:N", title="wasted"),
                alt.Tooltip("base:N"),
                alt.Tooltip("state:N"),
            ],
        )
        .properties(width=WIDTH - 60, height=max(60, BAR * len(shown)))
    )
    frames = sum(d.frames_wan for d in active)
    fetched = sum(d.frames_wan > 0 for d in active)
    where = "" if site is None else f"{site}: "
    title = (
        f"{where}{count_text(fetched, 'device')} of {len(here):,} fetched frames over the WAN, "
        f"{size_text(frames)}; peers passed on {size_text(sum(d.from_peers for d in active))}"
    )
    caption = "Other WAN bytes: indexes, metadata, check-ins and protocol, up and down."
    if len(shown) < len(active):
        caption += f" Shown: the {len(shown)} of {len(active):,} devices with the most WAN bytes."
    return picture(name, title, caption, chart)


def amplification(subjects: Sequence[Subject]) -> Picture | None:
    """How WAN bytes over the floor are spread over runs, and which seed was worst; None for fewer than 2."""
    found = [(s.outcome.amplification, s) for s in subjects if s.outcome.amplification is not None]
    if len(found) < 2:
        return None
    found.sort(key=lambda f: f[0] or 0.0)
    ratios = [ratio or 0.0 for ratio, _ in found]
    worst = found[-1][1]
    median = ratios[len(ratios) // 2]
    over = sum(r > SLACK for r in ratios)
    count = len(ratios)
    points = [
        (r, (n + 1) / count, s) for n, (r, s) in enumerate(zip(ratios, (s for _, s in found), strict=True))
    ]
    if count > POINTS_MAX:
        step = -(-count // POINTS_MAX)
        points = [p for n, p in enumerate(points) if n % step == 0 or n >= count - WORST]
    data = [
        {"ratio": r, "share": share, "run": s.label, "replay": s.replay, "seed": s.outcome.seed}
        for r, share, s in points
    ]
    x = alt.X(
        "ratio:Q",
        title="WAN bytes down ÷ floor",
        scale=alt.Scale(zero=False, nice=True, domainMin=min(1.0, ratios[0])),
        axis=alt.Axis(format=PLAIN, tickCount=10),
    )
    y = alt.Y("share:Q", title="share of the runs at or below", axis=alt.Axis(format="%", tickCount=5))
    base = alt.Chart(rows(data)).encode(x=x, y=y)
    dots = base.mark_point(filled=True, size=24 if count > 60 else 50, color=SERIES[0], opacity=0.8).encode(
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("ratio:Q", format=".4f", title="WAN bytes ÷ floor"),
            alt.Tooltip("replay:N", title="again with"),
        ]
    )
    line = base.mark_line(interpolate="step-after", strokeWidth=1, color=ink("muted")).encode()
    label = {"ratio": ratios[-1], "share": 1.0, "text": f"worst: {worst.label}, {ratio_text(ratios[-1])}"}
    text = (
        alt.Chart(rows([label]))
        .mark_text(align="right", dx=-8, dy=-10, color=ink("ink"))
        .encode(x="ratio:Q", y="share:Q", text="text:N")
    )
    chart = alt.layer(_goal(ratios[0], ratios[-1]), line, dots, text).properties(width=WIDTH, height=300)
    title = (
        f"{over:,} of {count_text(count, 'run')} took more than {SLACK} × the floor: median "
        f"{ratio_text(median)}, worst {ratio_text(ratios[-1])} ({worst.label})"
    )
    goal = f" Dashed: the goal of {SLACK}." if _near(ratios[0], ratios[-1]) else ""
    caption = f"Each dot is a run.{goal} The worst again: {worst.replay}"
    return picture("amplification", title, caption, chart)


def _near(low: float, high: float) -> bool:
    return low <= SLACK * 1.5 and high >= 1 + (SLACK - 1) / 4


def _goal(low: float, high: float) -> Drawn:
    """The rule at the goal, where it would not squeeze the data."""
    data = [{"ratio": SLACK}] if _near(low, high) else []
    return alt.Chart(rows(data)).mark_rule(strokeDash=[6, 3], color=ink("c2")).encode(x="ratio:Q")


def _site_label(subjects: Sequence[Subject], subject: Subject, site: SiteOutcome) -> str:
    if len(subjects) == 1:
        return site.site
    if all(len(s.outcome.sites) == 1 for s in subjects):
        return subject.label
    return f"{site.site} · {subject.label}"


def _device_label(several: bool, device: DeviceOutcome) -> str:
    told = not several or device.device.startswith(device.site)
    return device.device if told else f"{device.device} ({device.site})"


def _parts(device: DeviceOutcome) -> tuple[int, int, int]:
    return device.frames_wan, max(0, device.wan_bytes - device.frames_wan), device.from_peers


def _times(site: SiteOutcome) -> str:
    ratio = site.amplification
    if ratio is None:
        return f"{size_text(site.wan_down)}, with no floor"
    return f"{ratio_text(ratio)} × its floor of {size_text(site.floor_bytes or 0)}"


def _bars(found: Sequence[tuple[str, SiteOutcome]], width: int) -> Drawn:
    unit = size_unit(max(max(site.wan_down, site.floor_bytes or 0) for _, site in found))
    data = [
        {
            "site": label,
            "down": site.wan_down / unit.size,
            "floor": None if site.floor_bytes is None else site.floor_bytes / unit.size,
            "text": "" if site.amplification is None else f"{ratio_text(site.amplification)} ×",
            "end": max(site.wan_down, site.floor_bytes or 0) / unit.size,
            "size": size_text(site.wan_down),
            "up": size_text(site.wan_up),
            "least": "none" if site.floor_bytes is None else size_text(site.floor_bytes),
            "devices": f"{site.finished} of {site.devices}",
        }
        for label, site in found
    ]
    y = alt.Y("site:N", sort=[label for label, _ in found], title=None)
    base = alt.Chart(rows(data)).encode(y=y)
    tips = [
        alt.Tooltip("site:N"),
        alt.Tooltip("size:N", title="down"),
        alt.Tooltip("up:N", title="up"),
        alt.Tooltip("least:N", title="floor"),
        alt.Tooltip("text:N", title="ratio"),
        alt.Tooltip("devices:N", title="devices finished"),
    ]
    bars = base.mark_bar(color=SERIES[0], height=alt.RelativeBandSize(0.66)).encode(
        x=alt.X("down:Q", title=f"down the WAN ({unit.name})", axis=alt.Axis(format=PLAIN, tickCount=6)),
        tooltip=tips,
    )
    ticks = base.mark_tick(color=ink("ink"), thickness=2, height=alt.RelativeBandSize(0.95)).encode(
        x="floor:Q", tooltip=tips
    )
    text = base.mark_text(align="left", dx=6, color=ink("muted")).encode(x="end:Q", text="text:N")
    return alt.layer(bars, ticks, text).properties(width=width, height=max(50, BAR * len(found)))


def _distribution(
    found: Sequence[tuple[str, Subject, SiteOutcome]],
) -> tuple[list[dict[str, Any]], str]:
    ratios = sorted(site.amplification for _, _, site in found if site.amplification is not None)
    steps = Series(tuple(ratios), tuple((n + 1) / len(ratios) for n in range(len(ratios))))
    series = thin_series(steps, POINTS_MAX)
    data = [{"ratio": r, "share": s} for r, s in zip(series.times, series.values, strict=True)]
    note = f" Thinned to {len(data):,} points; the ends stayed." if series is not steps else ""
    return data, note


def _ecdf(data: list[dict[str, Any]], subjects: Sequence[Subject]) -> Drawn:
    low, high = data[0]["ratio"], data[-1]["ratio"]
    line = (
        alt.Chart(rows(data))
        .mark_line(interpolate="step-after", color=SERIES[0])
        .encode(
            x=alt.X(
                "ratio:Q",
                title="WAN bytes down ÷ floor",
                scale=alt.Scale(zero=False, domainMin=min(1.0, low)),
                axis=alt.Axis(format=PLAIN, tickCount=6),
            ),
            y=alt.Y(
                "share:Q",
                title="share of the sites at or below",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5),
            ),
            tooltip=[
                alt.Tooltip("ratio:Q", format=".3f", title="ratio"),
                alt.Tooltip("share:Q", format=".1%", title="of the sites"),
            ],
        )
    )
    return alt.layer(_goal(low, high), line).properties(width=400, height=BAR * WORST)
