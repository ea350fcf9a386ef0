"""`slipstream sim soak`: random scenarios until the time is up."""

from __future__ import annotations

import itertools
import math
import secrets
import shlex
import time
from pathlib import Path

import click

from p2p.cli.output import json_option, print_json
from sim.errors import RuleViolated
from sim.runs.progress import bar, time_text
from sim.runs.shrink import TRIES_MAX
from sim.runs.soak import Failed, SoakSummary, keep_failed, soak

FAILED_MAX = 20
"""After so many failing runs, a soak ends: they have most likely one cause."""


@click.command(name="soak", short_help="Run random small fleets, held to every rule.")
@click.option(
    "--minutes", type=click.FloatRange(0), help="No run begins later. Default: 1, or no end with --runs."
)
@click.option("--runs", type=click.IntRange(1), help="At most so many runs.")
@click.option("--seed", type=click.IntRange(0), help="The first seed; the next ones follow. Default: any.")
@click.option("--faults/--no-faults", default=True, show_default=True, help="Whether anything goes wrong.")
@click.option(
    "--awkward/--plain",
    default=False,
    show_default=True,
    help="Whether sites have budgets, closed hours, others' traffic, sleepers and few connections.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("soak"), show_default=True,
    help="Keep failing scenarios in here.",
)  # fmt: skip
@click.option(
    "--tries", type=click.IntRange(0), default=TRIES_MAX, show_default=True, help="Runs to shrink one."
)
@json_option
def soak_command(
    minutes: float | None,
    runs: int | None,
    seed: int | None,
    faults: bool,
    awkward: bool,
    jobs: int,
    out: Path,
    tries: int,
    as_json: bool,
) -> None:
    """Run random small fleets, held to every rule of safety and liveness.

    A run that breaks one is told with its seed, kept as a scenario file and made smaller; the command that
    runs it again is printed. Ends with 12 if there was one.

    \b
    Examples:
      slipstream sim soak --minutes 10
      slipstream sim soak --no-faults --runs 1000 --seed 0 --jobs 2
      slipstream sim soak --awkward --minutes 60
      slipstream sim run soak/random-7.small.toml --seed 7
    """
    first = secrets.randbelow(10**9) if seed is None else seed
    seeds = itertools.count(first) if runs is None else iter(range(first, first + runs))
    if minutes is None:
        minutes = math.inf if runs else 1.0
    until = time.monotonic() + 60 * minutes
    summary = SoakSummary()
    failed: list[Failed] = []
    with bar(
        "{task.fields[runs]:,} runs", "{task.fields[virtual]} virtual", "{task.fields[failed]}"
    ) as shown:
        task = shown.add_task("soak", total=runs or 60 * minutes, runs=0, virtual="", failed="")
        begun = time.monotonic()
        for run in soak(seeds, faults=faults, awkward=awkward, jobs=jobs, until=until):
            summary.add(run)
            if run.violations:
                failed.append(keep_failed(run, out, faults=faults, awkward=awkward, tries_max=tries))
                if not as_json:
                    for line in _failure_lines(failed[-1]):
                        shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
            shown.update(
                task,
                completed=summary.runs if runs else time.monotonic() - begun,
                runs=summary.runs,
                virtual=time_text(summary.virtual_s),
                failed=f"{len(failed)} failed" if failed else "",
            )
            if len(failed) == FAILED_MAX:
                break
    if as_json:
        print_json(_facts(summary, failed, first, faults, awkward))
    else:
        for line in _lines(summary, first, faults, awkward):
            click.echo(line)
    if failed:
        raise RuleViolated(
            f"{len(failed)} of {summary.runs} random runs broke a rule",
            kept=f"their scenarios in {out}",
            next_step=_again(failed[0]),
        )


def _again(failed: Failed) -> str:
    path = failed.small or failed.path
    return shlex.join(["slipstream", "sim", "run", str(path), "--seed", str(failed.run.seed)])


def _failure_lines(failed: Failed) -> list[str]:
    run = failed.run
    first = run.violations[0]
    who = first.device or first.site or "the run"
    return [
        f"seed {run.seed} broke {first.check} at {first.at_s:.1f} s ({who}): {first.message}",
        f"  scenario: {failed.path}",
        f"  again: {_again(failed)}",
    ]


def _lines(summary: SoakSummary, first: int, faults: bool, awkward: bool) -> list[str]:
    what = f"{'of awkward sites ' if awkward else ''}{'with' if faults else 'without'} faults"
    lines = [
        f"{summary.runs:,} runs {what} from seed {first} on: {summary.devices:,} devices, "
        f"{time_text(summary.virtual_s)} of virtual time, {summary.events:,} events"
    ]
    worst, median = summary.worst, summary.median
    if worst is not None and median is not None:
        lines.append(f"amplification of frames: median {median:.3f}, worst {worst[0]:.3f} (seed {worst[1]})")
    if summary.wires:
        wires = sorted(summary.wires)
        middle, (most, seed) = wires[len(wires) // 2][0], wires[-1]
        lines.append(f"of all bytes on the wire: median {middle:.3f}, worst {most:.3f} (seed {seed})")
    if summary.faults:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(summary.faults.items()))
        lines.append(f"runs with a fault of a kind: {kinds}")
    broken = ", ".join(f"{check} {n}" for check, n in sorted(summary.broken.items()))
    lines.append(f"runs that broke a rule: {broken or 'none'}")
    return lines


def _facts(
    summary: SoakSummary, failed: list[Failed], first: int, faults: bool, awkward: bool
) -> dict[str, object]:
    worst = summary.worst
    wire = max(summary.wires, default=None)
    return {
        "runs": summary.runs,
        "first_seed": first,
        "with_faults": faults,
        "awkward": awkward,
        "devices": summary.devices,
        "virtual_s": round(summary.virtual_s, 3),
        "events": summary.events,
        "amplification": {
            "median": summary.median,
            "worst": worst[0] if worst else None,
            "worst_seed": worst[1] if worst else None,
        },
        "wire_amplification": {
            "median": sorted(summary.wires)[len(summary.wires) // 2][0] if summary.wires else None,
            "worst": wire[0] if wire else None,
            "worst_seed": wire[1] if wire else None,
        },
        "faults": dict(sorted(summary.faults.items())),
        "broken": dict(sorted(summary.broken.items())),
        "failed": [
            {
                "seed": f.run.seed,
                "check": f.run.violations[0].check,
                "at_s": f.run.violations[0].at_s,
                "message": f.run.violations[0].message,
                "scenario": str(f.path),
                "small": str(f.small) if f.small else None,
                "again": _again(f),
            }
            for f in failed
        ],
    }
