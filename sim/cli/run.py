"""`slipstream sim run`: one scenario, once."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.publishing.files import make_directory
from p2p.cli.output import json_option, print_json
from p2p.errors import OperatorError
from sim.cli.results import facts, lines, replay_command, verdict
from sim.runs.keep import KeptRun, keep
from sim.runs.one import run_one
from sim.runs.progress import run_progress
from sim.runs.scenarios import named
from sim.scenario.model import Scenario
from sim.scenario.timetables import place_problem, site_names


@click.command(short_help="Run a scenario, and hold it to what it expects.")
@click.argument("scenario")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="What chance comes from.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Keep the run, and a report, in here."
)
@click.option(
    "--timeline", "timelines", multiple=True, metavar="SITE",
    help="Keep who fetched what when at this site (depot/0; a group's name: its first); repeatable.",
)  # fmt: skip
@json_option
def run(scenario: str, seed: int, out: Path | None, timelines: tuple[str, ...], as_json: bool) -> None:
    """Run SCENARIO, the name of a ready one or a TOML file, and hold it to what it expects.

    Ends with 0 if all was met, 11 if an expectation was missed, 12 if something happened that must never
    happen.

    \b
    Examples:
      slipstream sim run bench-8
      slipstream sim run train-stations --seed 7 --out runs --timeline refit-train
      slipstream sim run my-fleet.toml --json
    """
    found = named(scenario)
    sites = tuple(_site(found, name) for name in timelines)
    if out is not None:
        make_directory(out)  # before the run, which may take hours
    with run_progress(found.name, found.duration_s) as progress:
        done = run_one(found, seed, timelines=sites, progress=progress)
    again = replay_command(scenario, seed)
    files = {} if out is None else _keep(done, out, again)
    if as_json:
        print_json(facts(done, again) | files)
    else:
        for line in [*lines(done, again), *(f"{what}: {path}" for what, path in files.items())]:
            click.echo(line)
    wrong = verdict(done, again)
    if wrong is not None:
        raise wrong


def _keep(run: KeptRun, directory: Path, again: str) -> dict[str, str]:
    # A second of imports that only those wait for who want the pictures.
    from sim.report import kept_subject, write

    kept = keep(run, directory)
    page = write([kept_subject(run, replay=again)], directory).html
    return {"kept": str(kept), "report": str(page)}


def _site(scenario: Scenario, name: str) -> str:
    """The one site that is meant; raises `OperatorError` if there is none."""
    problem = place_problem(name, site_names(scenario.sites))
    if problem is not None:
        raise OperatorError(f"--timeline {problem}")
    return name if "/" in name else f"{name}/0"
