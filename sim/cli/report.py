"""`slipstream sim report`: pictures of what was kept."""

from __future__ import annotations

from pathlib import Path

import click

from p2p.cli.output import json_option, print_json
from sim.fleet.outcome import PlanOutcome
from sim.report import read, write


@click.command(short_help="Make one HTML page, and PNGs, of kept runs and plans.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR|FILE...")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes; default the first DIR, or where the first FILE is.",
)  # fmt: skip
@click.option("--png", "with_png", is_flag=True, help="Leave each chart as a PNG too.")
@json_option
def report(paths: tuple[Path, ...], out: Path | None, with_png: bool, as_json: bool) -> None:
    """Make one report.html of kept runs and plans: FILEs, and all that is kept below DIRs.

    The page stands alone: it can be mailed, and opened without a network. It begins with the figures, then
    shows who finished when, what crossed the WANs beside the floor, what the origin sent and, of the sites
    that were run with --timeline, who fetched and who rode.

    \b
    Examples:
      slipstream sim report runs
      slipstream sim report runs/depot-night-1.run.json --png
      slipstream sim report sweep plan --out report --json
    """
    found = read(paths)
    first = paths[0]
    written = write(found, out or (first if first.is_dir() else first.parent), with_png=with_png)
    plans = sum(isinstance(one, PlanOutcome) for one in found)
    if as_json:
        print_json(
            {
                "html": str(written.html),
                "pngs": [str(path) for path in written.pngs],
                "runs": len(found) - plans,
                "plans": plans,
            }
        )
        return
    for path in (written.html, *written.pngs):
        click.echo(str(path))
