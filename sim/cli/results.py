"""Results of runs, for people and for programs; shared by the commands that run something."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from coordinator.cli.common import size_text, table
from p2p.errors import SlipstreamError
from sim.errors import ExpectationMissed, RuleViolated
from sim.outcome import RunOutcome, Violation
from sim.runs.keep import KeptRun
from sim.runs.progress import time_text
from sim.runs.summary import PERCENTILES, Expectation, Summary, expectations, summarise, summarise_groups

__all__ = ["facts", "lines", "missed", "replay_command", "verdict"]

VIOLATIONS_SHOWN = 10


def replay_command(scenario: str, seed: int) -> str:
    """What repeats a run of a ready scenario or of a file."""
    return shlex.join(["slipstream", "sim", "run", scenario, "--seed", str(seed)])


def facts(run: KeptRun, again: str) -> dict[str, object]:
    """Everything that `lines` says, and more, as one JSON object."""
    outcome = run.outcome
    return {
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "trace_digest": outcome.trace_digest,
        "virtual_s": outcome.virtual_s,
        "wall_s": round(run.cost.wall_s, 3),
        "cpu_s": round(run.cost.cpu_s, 3),
        "events": outcome.events,
        "events_per_s": round(_rate(outcome.events, run)),
        "memory_bytes": run.cost.memory_bytes,
        "memory_per_device": _memory_per_device(run),
        "total": _summary_facts(_total(outcome)),
        "groups": [_summary_facts(s) for s in summarise_groups(outcome)],
        "states": _states(outcome),
        "expectations": [
            {"what": e.what, "asked": e.asked, "got": e.got, "met": e.met} for e in _expected(run)
        ],
        "violations": [
            {"check": v.check, "at_s": v.at_s, "site": v.site, "device": v.device, "message": v.message}
            for v in outcome.violations
        ],
        "again": again,
    }


def lines(run: KeptRun, again: str) -> list[str]:
    """A table of results per site group, what was expected, and what must not have happened."""
    outcome = run.outcome
    found = [
        f"{outcome.scenario}, seed {outcome.seed}: {time_text(outcome.virtual_s)} of virtual time in "
        f"{run.cost.wall_s:.1f} s, {run.cost.cpu_s:.1f} s of one core "
        f"({_times(_rate(outcome.virtual_s, run))} × real time)",
        f"{outcome.events:,} events, {_rate(outcome.events, run):,.0f} a second; "
        f"{size_text(run.cost.memory_bytes)} of memory, {size_text(_memory_per_device(run))} a device",
        "",
    ]
    groups = summarise_groups(outcome)
    rows = [_row(s) for s in groups]
    if len(groups) > 1:
        rows.append(_row(_total(outcome)))
    heads = ("site group", "sites", "devices", "done", "WAN down", "WAN up", "floor", "A")
    found += table((*heads, *(f"{p} % by" for p in PERCENTILES), "money"), rows)
    unfinished = {state: n for state, n in _states(outcome).items() if state != "committed"}
    if unfinished:
        found += ["", "not committed: " + ", ".join(f"{n} {state}" for state, n in unfinished.items())]
    found += ["", *(_expectation_line(e) for e in _expected(run))]
    if outcome.violations:
        found += ["", *_violation_lines(outcome.violations)]
    found += ["", f"trace {outcome.trace_digest}", f"again: {again}"]
    return found


def missed(run: KeptRun) -> list[Expectation]:
    """What the scenario expects and the run did not give."""
    return [e for e in _expected(run) if not e.met]


def verdict(run: KeptRun, again: str) -> SlipstreamError | None:
    """What is wrong with the run, if anything is: a broken rule before a missed expectation."""
    outcome = run.outcome
    if outcome.violations:
        first = outcome.violations[0]
        return RuleViolated(
            f"{outcome.scenario}, seed {outcome.seed}: violations: {len(outcome.violations)}, "
            f"the first of {first.check!r} at {first.at_s:.3f} s: {first.message}",
            next_step=again,
        )
    if failed := missed(run):
        told = "; ".join(f"{_asked(e)}, got {_value(e, e.got)}" for e in failed)
        return ExpectationMissed(f"{outcome.scenario}, seed {outcome.seed}: {told}", next_step=again)
    return None


def _rate(amount: float, run: KeptRun) -> float:
    """So much per second of processor time."""
    return amount / run.cost.cpu_s if run.cost.cpu_s > 0 else 0.0


def _memory_per_device(run: KeptRun) -> int:
    return run.cost.memory_bytes // max(1, len(run.outcome.devices))


def _expected(run: KeptRun) -> list[Expectation]:
    return expectations(run.scenario().expect, run.outcome)


def _total(outcome: RunOutcome) -> Summary:
    return summarise("in all", outcome.sites, outcome.devices)


def _states(outcome: RunOutcome) -> dict[str, int]:
    found: dict[str, int] = {}
    for device in outcome.devices:
        found[device.state] = found.get(device.state, 0) + 1
    return dict(sorted(found.items()))


def _summary_facts(summary: Summary) -> dict[str, object]:
    return {
        "name": summary.name,
        "sites": summary.sites,
        "devices": summary.devices,
        "finished": summary.finished,
        "wan_down": summary.wan_down,
        "wan_up": summary.wan_up,
        "floor_bytes": summary.floor_bytes,
        "amplification": summary.amplification,
        "finished_s": {str(p): at for p, at in summary.finished_s.items()},
        "money": summary.money,
    }


def _times(factor: float) -> str:
    """Three digits, or all before the point: never an exponent."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _row(summary: Summary) -> tuple[str, ...]:
    return (
        summary.name,
        f"{summary.sites:,}",
        f"{summary.devices:,}",
        f"{summary.finished:,}",
        size_text(summary.wan_down),
        size_text(summary.wan_up),
        size_text(summary.floor_bytes),
        "-" if summary.amplification is None else f"{summary.amplification:.4f}",
        *(time_text(summary.finished_s[p]) for p in PERCENTILES),
        f"{summary.money:,.2f}" if summary.money else "-",
    )


def _expectation_line(expectation: Expectation) -> str:
    word = "met   " if expectation.met else "MISSED"
    return f"{word}  {_asked(expectation)}: {_value(expectation, expectation.got)}"


def _asked(expectation: Expectation) -> str:
    return f"{expectation.what.removesuffix(' (s)')} {_value(expectation, expectation.asked)}"


def _value(expectation: Expectation, value: float | None) -> str:
    if value is None:
        return "never"
    if expectation.what.startswith("share"):
        return f"{100 * value:.5g} %"
    return time_text(value) if expectation.what.endswith("(s)") else f"{value:.5g}"


def _violation_lines(violations: Sequence[Violation]) -> list[str]:
    found = [f"{len(violations)} VIOLATION{'S' * (len(violations) > 1)}"]
    for v in violations[:VIOLATIONS_SHOWN]:
        where = " ".join(part for part in (v.site, v.device) if part)
        found.append(f"  {v.at_s:.3f} s  {v.check}{f' at {where}' if where else ''}: {v.message}")
    if len(violations) > VIOLATIONS_SHOWN:
        found.append(f"  … and {len(violations) - VIOLATIONS_SHOWN} more (--json has all)")
    return found
