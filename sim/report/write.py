"""Writing a report: its sections for what it is given, and its files. The only I/O of the package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.publishing.files import make_directory, write_atomic
from p2p.errors import OperatorError
from sim.fleet.outcome import PlanOutcome
from sim.outcome import RunOutcome, Series
from sim.report.charts import bill, wan
from sim.report.charts.curves import LINES_MAX, Curve, completion, egress
from sim.report.charts.timeline import timeline
from sim.report.facts import plan_tables, run_tables, verdict
from sim.report.page import Section, page
from sim.report.picture import Picture, png
from sim.report.subjects import Subject, label_apart, subject
from sim.report.units import count_text

REPORT = "report.html"
TIMELINES_MAX = 8
"""Sites whose timeline a page shows."""


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report."""

    html: Path
    pngs: tuple[Path, ...]


def write(
    outcomes: Iterable[RunOutcome | Subject | PlanOutcome], directory: Path, *, with_png: bool = False
) -> Written:
    """Leave `report.html`, and with `with_png` a PNG per chart, in `directory`, which is made if need be.

    A `Subject` says what its run was held to and how to replay it; a bare `RunOutcome` is taken to be a
    run of the scenario of its name. Raises `OperatorError` for nothing at all and `LocalError` where the
    directory cannot be written.
    """
    title, summary, sections = compose(outcomes)
    make_directory(directory)
    path = directory / REPORT
    write_atomic(path, page(title, summary, sections).encode())
    pngs = []
    if with_png:
        for shown in (p for section in sections for p in section.pictures):
            pngs.append(directory / f"{shown.name}.png")
            write_atomic(pngs[-1], png(shown))
    return Written(path, tuple(pngs))


def compose(outcomes: Iterable[RunOutcome | Subject | PlanOutcome]) -> tuple[str, str, list[Section]]:
    """Title, summary and sections of the report of these outcomes; raises `OperatorError` for none."""
    runs: list[Subject] = []
    plans: list[PlanOutcome] = []
    for one in outcomes:
        if isinstance(one, PlanOutcome):
            plans.append(one)
        else:
            runs.append(subject(one) if isinstance(one, RunOutcome) else one)
    if not runs and not plans:
        raise OperatorError("there is nothing to report on", next_step="`slipstream sim run NAME --out DIR`")
    sections = [] if not runs else _run_sections(label_apart(runs))
    for number, plan in enumerate(plans, 1):
        prefix = "plan-" if len(plans) == 1 else f"plan-{number}-"
        heading = f"Plan: {plan.scenario}" if runs or len(plans) > 1 else ""
        sections.append(Section(heading, tuple(plan_tables(plan)), tuple(bill.pictures(plan, prefix))))
    return _title(runs, plans), verdict(runs), sections


def _title(runs: Sequence[Subject], plans: Sequence[PlanOutcome]) -> str:
    names = list(dict.fromkeys([*(s.outcome.scenario for s in runs), *(p.scenario for p in plans)]))
    if len(names) > 3:
        return f"Slipstream simulated: {count_text(len(names), 'scenario')}"
    what = "planned" if not runs else "simulated"
    return f"Slipstream {what}: {', '.join(names)}"


def _run_sections(runs: Sequence[Subject]) -> list[Section]:
    remarks = []
    found = []
    scenarios = {s.outcome.scenario for s in runs}
    if len(runs) <= LINES_MAX or len(scenarios) == 1:
        curves = [Curve(s.label, _shares(s.outcome), s.outcome.virtual_s) for s in runs]
        sent = [Curve(s.label, s.outcome.origin_egress, s.outcome.virtual_s) for s in runs]
        found += [completion("completion", curves, "run"), egress("egress", sent, "run")]
    else:
        remarks.append(
            f"Curves over time are left out: {len(runs):,} runs of {len(scenarios):,} scenarios "
            "share no axis."
        )
    found += [wan.amplification(runs), wan.sites(runs)]
    if len(runs) == 1:
        found.append(wan.devices(runs[0].outcome))
    timelines, left_out = _timelines(runs)
    remarks += left_out
    pictures = (*(p for p in found if p is not None), *timelines)
    return [Section("", tuple(run_tables(runs)), pictures, tuple(remarks))]


def _shares(outcome: RunOutcome) -> Series:
    """Devices finished as a share of those that had to."""
    meant = sum(d.is_meant for d in outcome.devices)
    values = tuple(v / meant for v in outcome.completion.values) if meant else ()
    return Series(outcome.completion.times if meant else (), values)


def _timelines(runs: Sequence[Subject]) -> tuple[list[Picture], list[str]]:
    asked = [(s, site, spans) for s in runs for site, spans in s.outcome.timelines.items() if spans]
    found: list[Picture] = []
    for number, (s, site, spans) in enumerate(asked[:TIMELINES_MAX], 1):
        name = f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', site).strip('-')[:60] or 'site'}"
        if len(runs) == 1 and len(s.outcome.sites) > 1:
            drawn = wan.devices(s.outcome, site, f"devices-{name}")
            found += [drawn] if drawn is not None else []
        where = site if len(runs) == 1 else f"{site} ({s.label})"
        found += timeline(where, spans, f"timeline-{name}")
    if len(asked) > TIMELINES_MAX:
        return found, [f"Timelines of the first {TIMELINES_MAX} of {len(asked):,} sites are shown."]
    return found, []
