"""`slipstream sim sweep`: many runs, kept one by one."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli.common import table
from p2p.cli.output import json_option, print_json
from p2p.errors import OperatorError, SlipstreamError
from sim.cli.results import missed, verdict
from sim.runs.keep import KeptRun, load
from sim.runs.one import check_memory
from sim.runs.overrides import read_override
from sim.runs.progress import bar, time_text
from sim.runs.scenarios import named
from sim.runs.summary import summarise
from sim.runs.sweep import Case, Swept, cases, sweep
from sim.runs.workers import DaskWorkers, LocalWorkers, Workers

SEEDS_MAX = 100_000
SHOWN_MAX = 40


class RunsFailed(SlipstreamError):  # noqa: N818 (a verdict)
    """Some runs of a sweep have no outcome."""


@click.command(
    name="sweep", short_help="Run scenarios with many seeds and values, on all cores or a cluster."
)
@click.argument("scenarios", nargs=-1, required=True)
@click.option(
    "--seeds", default="1-10", show_default=True, metavar="LIST", help="Such as `1-100` or `3,7,20-29`."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE[,VALUE…]",
    help="Another value for a key of the scenario, or several to compare; repeatable.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Keep runs in here."
)
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
@click.option("--dask", metavar="ADDRESS", help="Run on this Dask cluster instead (tcp://HOST:8786).")
@json_option
def sweep_command(
    scenarios: tuple[str, ...],
    seeds: str,
    overrides: tuple[str, ...],
    out: Path,
    workers: int | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Run every one of SCENARIOS with every seed and every combination of --set values.

    Each finished run is kept in --out at once. Interrupted, the same command goes on where it was. A run
    that fails is named at the end (exit code 1) and tried again by the next sweep; the others go on. Ends
    with 12 if something happened in a run that must never happen; runs that missed what their scenario
    expects are counted.

    \b
    A key of --set is a path as in the scenario's file; * stands for all of a kind:
      site.depot.wan.rate   class.*.reboot   polling.every   policy.settle_s   duration

    \b
    Examples:
      slipstream sim sweep depot-night ship-satellite --seeds 1-100 --out runs
      slipstream sim sweep depot-night --set "site.depot.wan.rate=1 Mbit/s,4 Mbit/s" --out runs
      slipstream sim sweep depot-night --seeds 1-10000 --dask tcp://10.0.0.5:8786 --out runs
      slipstream sim report runs
    """
    if dask is not None and workers is not None:
        raise OperatorError("--workers is for this machine, --dask for a cluster: give one of them")
    wanted = cases(
        [named(name) for name in scenarios], read_seeds(seeds), [read_override(o) for o in overrides]
    )
    where: Workers = LocalWorkers(workers) if dask is None else DaskWorkers(dask)
    if isinstance(where, LocalWorkers):
        for case in {case.folder: case for case in wanted}.values():
            check_memory(case.scenario, runs=min(where.count, len(wanted)))
    with bar("{task.completed} of {task.total} runs", "{task.fields[failed]}") as shown:
        task = shown.add_task("sweep", total=len(wanted), failed="")

        def progress(there: int, failed: int, total: int) -> None:
            text = f"{failed} failed" if failed else ""
            shown.update(task, completed=there + failed, total=total, failed=text)

        try:
            done = sweep(wanted, out, where, progress=progress)
        except KeyboardInterrupt:
            there = sum(case.path(out).is_file() for case in wanted)
            click.echo(f"{there} of {len(wanted)} runs are kept in {out}; the same command goes on", err=True)
            raise
    runs = [(case, load(path)) for case in wanted if (path := case.path(out)).is_file()]
    if as_json:
        print_json(_facts(done, runs))
    else:
        for line in _lines(done, runs, out):
            click.echo(line)
    if done.failed:
        first, why = next(iter(done.failed.items()))
        raise RunsFailed(
            f"{len(done.failed)} of {len(wanted)} runs failed, the first: {first}: {why.error}",
            kept=f"{len(runs)} finished runs in {out}",
            next_step="…/*.failed.json have the reasons; the same command tries them again",
        )
    for case, run in runs:
        if run.outcome.violations and (wrong := verdict(run, f"slipstream sim replay {case.path(out)}")):
            raise wrong


def read_seeds(text: str) -> list[int]:
    """`1-100` or `3,7,20-29`; raises `OperatorError`."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise OperatorError(
                f"--seeds {text!r}: {part.strip()!r} is neither a seed nor a range such as 1-100"
            )
        start, stop = int(first), int(last or first)
        if stop < start or stop - start >= SEEDS_MAX:
            raise OperatorError(f"--seeds {text!r}: {part.strip()} is empty or over {SEEDS_MAX} seeds")
        found += range(start, stop + 1)
    return list(dict.fromkeys(found))


def _facts(done: Swept, runs: list[tuple[Case, KeptRun]]) -> dict[str, object]:
    return {
        "runs": len(runs),
        "kept_before": done.kept,
        "failed": {name: failure.error for name, failure in done.failed.items()},
        "paths": [str(path) for path in done.paths],
        "cases": [
            {
                "case": case.label,
                "seed": case.seed,
                "amplification": run.outcome.amplification,
                "devices": len(run.outcome.devices),
                "finished": sum(d.finished_s is not None for d in run.outcome.devices),
                "virtual_s": run.outcome.virtual_s,
                "missed": [e.what for e in missed(run)],
                "violations": len(run.outcome.violations),
                "trace_digest": run.outcome.trace_digest,
            }
            for case, run in runs
        ],
    }


def _lines(done: Swept, runs: list[tuple[Case, KeptRun]], out: Path) -> list[str]:
    """A line per scenario and overrides: the spread over its seeds."""
    by_label: dict[str, list[tuple[int, KeptRun]]] = {}
    for case, run in runs:
        by_label.setdefault(case.label, []).append((case.seed, run))
    rows = []
    for label, found in list(by_label.items())[:SHOWN_MAX]:
        factors = sorted(
            (run.outcome.amplification, seed) for seed, run in found if run.outcome.amplification
        )
        whole = [summarise(label, run.outcome.sites, run.outcome.devices) for _, run in found]
        times = sorted(t for s in whole if (t := s.finished_s[100]) is not None)
        rows.append(
            (
                label,
                str(len(found)),
                f"{sum(s.finished for s in whole):,} of {sum(s.devices for s in whole):,}",
                f"{factors[len(factors) // 2][0]:.3f}" if factors else "-",
                f"{factors[-1][0]:.3f} (seed {factors[-1][1]})" if factors else "-",
                time_text(times[len(times) // 2]) if times else "-",
                time_text(times[-1]) if times else "-",
                f"{sum(bool(missed(run)) for _, run in found)} runs",
                str(sum(len(run.outcome.violations) for _, run in found)),
            )
        )
    heads = (
        "case", "runs", "devices done", "A median", "A worst", "all by, median", "worst", "missed",
        "violations",
    )  # fmt: skip
    lines = table(heads, rows)
    if len(by_label) > SHOWN_MAX:
        lines.append(f"… and {len(by_label) - SHOWN_MAX} more (--json has all)")
    kept = f" ({done.kept} of them were there before)" if done.kept else ""
    return [*lines, "", f"kept: {len(runs)} runs in {out}{kept}", f"look: slipstream sim report {out}"]
