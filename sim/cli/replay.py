"""`slipstream sim replay`: kept runs again, to see that nothing but the seed decides."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from p2p.cli.output import json_option, print_json
from p2p.errors import SlipstreamError
from sim.cli.results import facts, lines, verdict
from sim.errors import ReplayDiffers
from sim.runs.keep import KeptRun, find, load
from sim.runs.one import run_one
from sim.runs.progress import run_progress


@click.command(short_help="Run kept runs again, and compare their traces.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE|DIR...")
@json_option
def replay(paths: tuple[Path, ...], as_json: bool) -> None:
    """Run kept runs again from what was kept, and compare the digests of their traces.

    Ends with 0 if all are the same, 13 if one is not; with 12 if a rule is broken (again).

    \b
    Examples:
      slipstream sim replay runs
      slipstream sim replay runs/depot-night-1.run.json --json
    """
    told = []
    wrong: list[SlipstreamError] = []
    for path in find(paths):
        kept = load(path)
        scenario = kept.scenario()
        with run_progress(f"{scenario.name}, seed {kept.outcome.seed}", scenario.duration_s) as progress:
            timelines = tuple(kept.outcome.timelines)
            now = run_one(scenario, kept.outcome.seed, timelines=timelines, progress=progress)
        same = now.outcome.trace_digest == kept.outcome.trace_digest
        again = f"slipstream sim replay {path}"
        told.append(facts(now, again) | {"file": str(path), "same": same, "kept_with": kept.software})
        if not as_json:
            for line in lines(now, again):
                click.echo(line)
            click.echo("the same trace\n" if same else "ANOTHER TRACE\n")
        if not same:
            wrong.append(_differs(path, kept, now))
        elif now.outcome.violations:
            wrong += [error for error in [verdict(now, again)] if error is not None]
    if as_json:
        print_json(told)
    if wrong:
        raise next((e for e in wrong if isinstance(e, ReplayDiffers)), wrong[0])


def _differs(path: Path, kept: KeptRun, now: KeptRun) -> ReplayDiffers:
    changes = [
        f"{what} {was} then, {is_} now"
        for what, was, is_ in (
            ("events", kept.outcome.events, now.outcome.events),
            ("virtual time", kept.outcome.virtual_s, now.outcome.virtual_s),
            ("WAN bytes", _wan(kept), _wan(now)),
        )
        if was != is_
    ]
    here = version("slipstream")
    other = f" It was kept by slipstream {kept.software}, this is {here}." if kept.software != here else ""
    return ReplayDiffers(
        f"{path}: another trace than the one that was kept: {'; '.join(changes) or 'same figures'}.{other}",
        next_step="if the software changed since, keep the run anew; if not, more than the seed decides",
    )


def _wan(run: KeptRun) -> int:
    return sum(site.wan_down + site.wan_up for site in run.outcome.sites)
