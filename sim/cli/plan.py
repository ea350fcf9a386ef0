"""`slipstream sim plan`: what a release will cost a fleet, before it is published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from coordinator.cli.common import size_text, table
from coordinator.publishing.files import make_directory, write_atomic
from p2p.cli.output import json_option, print_json
from p2p.errors import OperatorError
from sim.fleet.bill import reckon
from sim.fleet.outcome import MARKS, Estimate, GroupEstimate, ModelError, Off, PlanOutcome, Way
from sim.fleet.parameters import fitted
from sim.fleet.plans import OWN, read_plans
from sim.runs.progress import bar, time_text
from sim.runs.releases import expired, packs_of, published, with_release
from sim.runs.scenarios import named, read_scenario

PLAN_FILE = "plan.json"


@click.command(short_help="Reckon what a release costs a whole fleet, by a model of each site.")
@click.argument("scenario", required=False)
@click.option("--fleet", type=click.Path(dir_okay=False, path_type=Path), help="The fleet: a scenario file.")
@click.option("--repo", type=click.Path(file_okay=False, path_type=Path), help="Take the release from here.")
@click.option("--product", help="Of the repository; needed if it has several.")
@click.option("--release", "version", help="Of the product; default the newest.")
@click.option(
    "--plan", "plans", multiple=True, metavar="'NAME: KEY=VALUE; …'",
    help="Another plan to compare; repeatable. See above.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="What the fleet is drawn from."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Keep the plan, and a report, here."
)
@json_option
def plan(
    scenario: str | None,
    fleet: Path | None,
    repo: Path | None,
    product: str | None,
    version: str | None,
    plans: tuple[str, ...],
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Reckon bytes, hours and money of a release for the fleet of SCENARIO (or --fleet FILE).

    Four ways are compared (full images or deltas, shared on site or not), under the phases, windows and
    capacities of the scenario and of every --plan. A model fitted to runs of the real code does it; its
    error is stated. A million devices take less than a minute.

    Bytes and money are the release's. What devices spend on asking, whatever is published, is told apart.

    \b
    A --plan changes what it names; the rest stays as the scenario has it:
      phases=1%@0h,10%@22:30,100%@3d  shares of the devices, and when they are open
      window=22:00-06:00              when devices use their WAN, daily; several with commas; or none
      origin=100Mbit/s                what the origin gives all sites together; or none
      quota=500MB                     WAN bytes of a site in each 30 days; or none

    \b
    Examples:
      slipstream sim plan retail-chain
      slipstream sim plan --fleet fleet.toml --repo ./repo --release 2.4.1
      slipstream sim plan retail-chain --plan "night: window=22:00-06:00" --out plan
      slipstream sim plan retail-chain --plan "careful: phases=1%@0h,100%@1d" --plan "thin: origin=10Mbit/s"
    """
    if (scenario is None) == (fleet is None):
        raise OperatorError("give the fleet once: as SCENARIO or as --fleet FILE")
    if repo is None and (product or version):
        raise OperatorError("--product and --release choose from a repository", next_step="add --repo DIR")
    release = published(repo, product, version) if repo is not None else None
    if fleet is not None:
        found = read_scenario(fleet, (release,) if release is not None else ())
    else:
        found = named(scenario or "")
    if release is not None:
        found = with_release(found, release)
    packs = packs_of(found)
    if out is not None:
        make_directory(out)  # before anything is reckoned
    compared = read_plans(plans, found)
    with bar("{task.completed} of {task.total} estimates") as shown:
        task = shown.add_task(found.name, total=len(compared) * len(Way))
        outcome = reckon(
            found, packs, compared, seed, fitted(),
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )  # fmt: skip
    if repo is not None:
        outcome = replace(outcome, notes=(*outcome.notes, *expired(repo)))
    kept = _keep(outcome, out) if out is not None else []
    if as_json:
        print_json(outcome.to_json() | ({"kept": [str(path) for path in kept]} if kept else {}))
        return
    for line in [*lines(outcome), *(f"kept: {path}" for path in kept)]:
        click.echo(line)


def lines(outcome: PlanOutcome) -> list[str]:
    """The comparison as tables: ways, then plans, then the site groups of Slipstream under its own plan."""
    found = [
        f"{outcome.scenario}: release {outcome.release} ({size_text(outcome.image_bytes)}) for "
        f"{outcome.devices:,} devices at {outcome.sites:,} sites, seed {outcome.seed}",
        "",
    ]
    heads = ("way", "release bytes", "a site", "A", *_MARK_HEADS, "done", "money", "a site")
    for name, words in outcome.plans.items():
        found += [f"plan {name!r}: {words}" if name != OWN else f"as written: {words}"]
        found += table(heads, [_row(outcome.of(way, name), outcome.sites) for way in Way])
        found += [*_asking(outcome.of(Way.SLIPSTREAM, name), outcome.sites), ""]
    groups = outcome.of(Way.SLIPSTREAM).groups
    if len(groups) > 1:
        heads = (
            "slipstream, by group", "sites", "devices", "release bytes", "a site", *_MARK_HEADS,
            "done", "money", "a site", "asking, a day",
        )  # fmt: skip
        found += [*table(heads, [_group_row(group) for group in groups]), ""]
    found += [f"note: {note}" for note in outcome.notes]
    return [*found, *_error(outcome.error)]


_MARK_HEADS = tuple(f"{100 * m:.0f} % by" for m in MARKS)


def _row(estimate: Estimate, sites: int) -> tuple[str, ...]:
    return (
        str(estimate.way),
        size_text(estimate.wan_bytes),
        size_text(estimate.wan_bytes // max(1, sites)),
        _factor(estimate.amplification),
        *_marks(estimate.marks_s),
        _share(estimate.finished, estimate.devices),
        _money(estimate.money),
        _money(estimate.money / max(1, sites)),
    )


def _group_row(group: GroupEstimate) -> tuple[str, ...]:
    return (
        group.group,
        f"{group.sites:,}",
        f"{group.devices:,}",
        size_text(group.wan_bytes),
        size_text(group.wan_bytes // max(1, group.sites)),
        *_marks(group.marks_s),
        _share(group.finished, group.devices),
        _money(group.money),
        _money(group.money / max(1, group.sites)),
        size_text(group.asking_day_bytes),
    )


def _asking(estimate: Estimate, sites: int) -> list[str]:
    asking = estimate.asking
    return [
        f"asking (polls and check-ins, whatever is published): {size_text(asking.day_bytes)} a day, "
        f"{size_text(asking.day_bytes // max(1, sites))} a site, money {_money(asking.day_money)}",
        f"as `sim run` counts, with {size_text(asking.wan_bytes)} of asking until "
        f"{time_text(asking.until_s)}: {size_text(estimate.wan_bytes + asking.wan_bytes)}, "
        f"A {_factor(estimate.amplification_with_asking)} (slipstream)",
    ]


def _error(error: ModelError) -> list[str]:
    return [
        f"the model against runs of the real code, on {error.held_out} sites that it was not fitted to "
        "(median, 90 % of the sites at most, worst):",
        f"  one run of each: bytes {_off(error.bytes_once)}, time {_off(error.time_once)}",
        f"  mean of {error.seeds} runs: bytes {_off(error.bytes_mean)}, time {_off(error.time_mean)}",
    ]


def _off(off: Off) -> str:
    return f"{off.median:.1%}, {off.p90:.1%}, {off.worst:.1%}"


def _factor(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.3f}" if factor < 10 else f"{factor:.0f}"


def _money(money: float) -> str:
    if money and abs(money) < 0.0001:
        return "< 0.0001"
    return "0" if not money else f"{money:.2g}" if abs(money) < 0.1 else f"{money:,.2f}"


def _marks(times: Sequence[float | None]) -> list[str]:
    return [time_text(t) for t in times]


def _share(finished: int, devices: int) -> str:
    if not devices:
        return "-"
    return "all" if finished == devices else f"{finished / devices:.2%}"


def _keep(outcome: PlanOutcome, directory: Path) -> list[Path]:
    # Charts take a second to import, which most plans do not need.
    from sim.report import write

    path = directory / PLAN_FILE
    write_atomic(path, json.dumps(outcome.to_json(), indent=1).encode() + b"\n")
    return [path, write([outcome], directory).html]
