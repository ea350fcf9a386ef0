"""The tables that a report begins with. Plain text cells; the page escapes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sim.fleet.outcome import MARKS, Estimate, Off, PlanOutcome
from sim.report.subjects import Subject
from sim.report.units import count_text, money_text, rate_text, ratio_text, share_text, size_text, time_text
from sim.runs.summary import PERCENTILES, Expectation, Summary, summarise_groups

T = TypeVar("T")
ROWS_MAX = 200
"""Rows of a table; more are left out, the worst stay."""
RUNS_MAX = 40
"""Rows of the table of runs, for charts follow it."""
GROUPS_OF_RUNS_MAX = 8
"""Up to so many runs the page has their site groups too."""
SUMMARY = (
    "devices finished", *(f"{p} %" for p in PERCENTILES), "WAN down", "floor", "÷ floor", "money"
)  # fmt: skip
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; without headings it is names and values. `bad`: indexes of rows to point at.
    `texts`: columns that are words or commands, not figures."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bad: frozenset[int] = frozenset()
    texts: frozenset[int] = field(default=frozenset({0}))


def run_tables(subjects: Sequence[Subject]) -> list[Table]:
    """Everything that is known of the runs in figures: facts, groups, expectations, violations."""
    found = [_one_run(subjects[0])] if len(subjects) == 1 else [_runs(subjects)] if subjects else []
    groups = _groups(subjects) if len(subjects) <= GROUPS_OF_RUNS_MAX else None
    if groups is not None and len(groups.rows) > len(subjects):
        found.append(groups)
    return [t for t in (*found, _expectations(subjects), _violations(subjects)) if t is not None]


def verdict(subjects: Sequence[Subject]) -> str:
    """One sentence on how the runs ended; empty for no runs."""
    if not subjects:
        return ""
    violations = sum(len(s.outcome.violations) for s in subjects)
    asked = [e for s in subjects for e in s.expectations]
    missed = sum(not e.met for e in asked)
    unfinished = sum(w.finished < w.devices for w in (s.summary() for s in subjects))
    one = len(subjects) == 1
    words = [
        count_text(violations, "violation") if violations else "no violations",
        f"{missed} of {count_text(len(asked), 'expectation')} missed" if missed else "all expectations met"
        if asked else "no expectations stated",
    ]  # fmt: skip
    if unfinished:
        words.append("not every device finished" if one else f"{unfinished:,} did not finish everywhere")
    else:
        words.append("every device finished")
    start = "" if one else f"{count_text(len(subjects), 'run')}: "
    sentence = start + ", ".join(words) + "."
    return sentence[0].upper() + sentence[1:]


def plan_tables(plan: PlanOutcome) -> list[Table]:
    """A plan's facts, the model's error first of them, and every way under every plan in figures."""
    error = plan.error
    facts = [
        ("scenario", plan.scenario),
        ("seed", str(plan.seed)),
        ("release", f"{plan.release}, an image of {size_text(plan.image_bytes)}"),
        ("fleet", f"{count_text(plan.devices, 'device')} in {count_text(plan.sites, 'site')}"),
        ("model error, bytes", _off(error.bytes_once)),
        ("model error, time", _off(error.time_once)),
        (
            "of the real code's",
            f"in one run of each of {error.held_out} sites held out of the fit",
        ),
        ("bytes, of the mean", f"{_off(error.bytes_mean)} against the mean of {error.seeds} runs of each"),
        ("time, of the mean", f"{_off(error.time_mean)} against the same"),
        ("measured by", error.command),
        ("horizon", time_text(plan.horizon_s)),
        *((f"plan {name}", words) for name, words in plan.plans.items()),
        *(("note", note) for note in plan.notes),
    ]
    found = [Table("The plan", (), tuple(facts))]
    if plan.estimates:
        late = frozenset(n for n, e in enumerate(plan.estimates) if e.finished < e.devices)
        headings = (
            "way", "plan", "release, over WANs", "a site", "÷ floor", "WAN money", "origin money",
            "money a site", "asking till done", "with it ÷ floor",
        )  # fmt: skip
        rows = tuple(_estimate(e, plan.sites) for e in plan.estimates)
        found.append(Table("Ways and plans", headings, rows, texts=frozenset({0, 1})))
        found.append(_asking(plan))
        times = tuple(_times(e) for e in plan.estimates)
        found.append(
            Table(
                "Finished",
                ("way", "plan", *_mark_names(), "devices finished"),
                times,
                "When that share of all devices has committed the release, from the start.",
                bad=late,
                texts=frozenset({0, 1}),
            )
        )
    return found


def _off(off: Off) -> str:
    return (
        f"median {share_text(off.median)}, 90 % of the sites at most {share_text(off.p90)}, "
        f"worst {share_text(off.worst)}"
    )


def _asking(plan: PlanOutcome) -> Table:
    """What the fleet spends whatever is published, under each plan."""
    found = [e for e in plan.estimates if e.way is plan.estimates[0].way]
    rows = tuple(
        (
            e.plan,
            size_text(e.asking.day_bytes),
            size_text(e.asking.day_bytes / max(1, plan.sites)),
            size_text(e.asking.day_bytes / max(1, plan.devices)),
            money_text(e.asking.day_money),
        )
        for e in found
    )
    note = (
        "Polls and check-ins, which devices make whatever is published; a longer time between them makes "
        "this less. A simulated run counts them with the release's bytes."
    )
    headings = ("plan", "over WANs a day", "a site", "a device", "money a day")
    return Table("Asking", headings, rows, note)


def _one_run(s: Subject) -> Table:
    o, whole = s.outcome, s.summary()
    down, up = sum(x.wan_down for x in o.sites), sum(x.wan_up for x in o.sites)
    ratios = [(x.amplification, x.site) for x in o.sites if x.amplification is not None]
    facts = [
        ("scenario", o.scenario),
        ("seed", str(o.seed)),
        ("trace digest", o.trace_digest),
        ("again with", s.replay),
        ("fleet", f"{count_text(len(o.devices), 'device')} in {count_text(len(o.sites), 'site')}"),
        ("devices finished", f"{whole.finished:,} of {whole.devices:,}"),
        *((f"time to {p} %", _time(t)) for p, t in whole.finished_s.items()),
        ("WAN bytes", f"{size_text(down)} down, {size_text(up)} up"),
        ("floor", size_text(whole.floor_bytes) if whole.floor_bytes else NOTHING),
        ("WAN bytes ÷ floor", NOTHING if whole.amplification is None else ratio_text(whole.amplification)),
        *([("worst site", f"{max(ratios)[1]}: {ratio_text(max(ratios)[0])}")] if len(ratios) > 1 else []),
        ("LAN bytes", size_text(sum(x.lan_bytes for x in o.sites))),
        ("wasted bytes", size_text(sum(d.wasted for d in o.devices))),
        ("money", money_text(whole.money)),
        ("origin's peak", rate_text(max(o.origin_egress.values, default=0.0))),
        ("virtual time", time_text(o.virtual_s)),
        ("events", f"{o.events:,}"),
    ]
    return Table("The run", (), tuple(facts))


def _runs(subjects: Sequence[Subject]) -> Table:
    shown, note = _worst(subjects, lambda s: (s.wrong(), s.outcome.amplification or 0.0), "runs")
    headings = ("run", *SUMMARY, "violations", "missed", "trace digest")
    rows = tuple(
        (
            s.label,
            *_summary(s.summary()),
            str(len(s.outcome.violations)),
            str(sum(not e.met for e in s.expectations)),
            s.outcome.trace_digest[:12],
        )
        for s in shown
    )
    bad = frozenset(n for n, s in enumerate(shown) if s.wrong())
    return Table("The runs", headings, rows, note, bad, frozenset({0, len(headings) - 1}))


def _groups(subjects: Sequence[Subject]) -> Table:
    several = len(subjects) > 1
    found = [(s, group) for s in subjects for group in summarise_groups(s.outcome)]
    note = f"The first {ROWS_MAX} of {len(found):,}." if len(found) > ROWS_MAX else ""
    rows = tuple(
        (*((s.label,) if several else ()), group.name, f"{group.sites:,}", *_summary(group))
        for s, group in found[:ROWS_MAX]
    )
    bad = frozenset(n for n, (_, g) in enumerate(found[:ROWS_MAX]) if g.finished < g.devices)
    headings = (*(("run",) if several else ()), "site group", "sites", *SUMMARY)
    return Table("Site groups", headings, rows, note, bad, frozenset({0, 1} if several else {0}))


def _summary(of: Summary) -> tuple[str, ...]:
    return (
        f"{of.finished:,} of {of.devices:,}",
        *(_time(t) for t in of.finished_s.values()),
        size_text(of.wan_down),
        size_text(of.floor_bytes) if of.floor_bytes else NOTHING,
        NOTHING if of.amplification is None else ratio_text(of.amplification),
        money_text(of.money),
    )


def _expectations(subjects: Sequence[Subject]) -> Table | None:
    every = [(s, e) for s in subjects for e in s.expectations]
    many = len(subjects) > GROUPS_OF_RUNS_MAX
    found = [(s, e) for s, e in every if not (many and e.met)]
    if not every:
        return None
    note = f"{sum(e.met for _, e in every):,} of {len(every):,} met; those are left out here." if many else ""
    if len(found) > ROWS_MAX:
        note += f" The first {ROWS_MAX} of {len(found):,} missed."
    one = len(subjects) == 1
    shown = found[:ROWS_MAX]
    rows = tuple(
        (
            *(() if one else (s.label,)),
            e.what.removesuffix(" (s)"),
            _figure(e, e.asked),
            _figure(e, e.got),
            "met" if e.met else "missed",
        )
        for s, e in shown
    )
    bad = frozenset(n for n, (_, e) in enumerate(shown) if not e.met)
    headings = (*(() if one else ("run",)), "expected", "asked", "found", "")
    return Table("Expectations", headings, rows, note, bad, frozenset({0, 3} if one else {0, 1, 4}))


def _figure(e: Expectation, value: float | None) -> str:
    if value is None:
        return NOTHING
    if e.what.startswith("share"):
        return share_text(value)
    return time_text(value) if e.what.endswith("(s)") else ratio_text(value)


def _violations(subjects: Sequence[Subject]) -> Table | None:
    found = [(s, v) for s in subjects for v in s.outcome.violations]
    if not found:
        return None
    note = f"The first {ROWS_MAX} of {len(found):,}." if len(found) > ROWS_MAX else ""
    rows = tuple(
        (v.check, time_text(v.at_s), v.site or NOTHING, v.device or NOTHING, v.message, s.replay)
        for s, v in found[:ROWS_MAX]
    )
    headings = ("check", "at", "site", "device", "what happened", "again with")
    return Table("Violations", headings, rows, note, frozenset(range(len(rows))), frozenset({0, 2, 3, 4, 5}))


def _estimate(e: Estimate, sites: int) -> tuple[str, ...]:
    asked = e.amplification_with_asking
    return (
        e.way.value,
        e.plan,
        size_text(e.wan_bytes),
        size_text(e.wan_bytes / max(1, sites)),
        NOTHING if e.amplification is None else ratio_text(e.amplification),
        money_text(e.wan_money),
        money_text(e.origin_money),
        money_text(e.money / max(1, sites)),
        size_text(e.asking.wan_bytes),
        NOTHING if asked is None else ratio_text(asked),
    )


def _times(e: Estimate) -> tuple[str, ...]:
    return (
        e.way.value,
        e.plan,
        *(_time(t) for t in e.marks_s),
        share_text(e.finished / e.devices) if e.devices else NOTHING,
    )


def _worst(found: Iterable[T], badness: Callable[[T], tuple[bool, float]], noun: str) -> tuple[list[T], str]:
    """All in their order, or the worst `RUNS_MAX` and a note that says so."""
    everything = list(found)
    if len(everything) <= RUNS_MAX:
        return everything, ""
    worst = sorted(everything, key=badness, reverse=True)[:RUNS_MAX]
    return worst, f"The {RUNS_MAX} worst of {len(everything):,} {noun}."


def _mark_names() -> tuple[str, ...]:
    return tuple(share_text(m) for m in MARKS)


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else time_text(seconds)
