"""`slipstream sim list` and `show`: which scenarios there are and what they say."""

from __future__ import annotations

import click

from coordinator.cli.common import size_text, table
from p2p.cli.output import json_option, print_facts, print_json
from sim.runs.progress import time_text
from sim.runs.scenarios import named, source_text
from sim.scenario import library
from sim.scenario.estimate import estimate
from sim.scenario.model import Fault, Release, RepositoryRelease, Scenario, SiteGroup, SizeKind


@click.command(name="list")
@json_option
def list_scenarios(as_json: bool) -> None:
    """List the ready scenarios.

    \b
    Examples:
      slipstream sim list
      slipstream sim list --json
    """
    found = [(name, library.load(name)) for name in library.names()]
    if as_json:
        print_json([_brief(scenario) for _, scenario in found])
        return
    rows = []
    for name, scenario in found:
        brief = _brief(scenario)
        rows.append((name, f"{brief['devices']:,}", f"{brief['sites']:,}", _first_sentence(scenario)))
    for line in table(("name", "devices", "sites", "what happens"), rows):
        click.echo(line)


@click.command(short_help="Show what a scenario says, and check it.")
@click.argument("scenario")
@click.option("--toml", is_flag=True, help="Print the document itself, to start one of your own from.")
@json_option
def show(scenario: str, toml: bool, as_json: bool) -> None:
    """Show what SCENARIO, the name of a ready one or a TOML file, says, and check it.

    \b
    Examples:
      slipstream sim show depot-night
      slipstream sim show depot-night --toml > my-fleet.toml
      slipstream sim show my-fleet.toml --json
    """
    found = named(scenario)
    if as_json:
        print_json(_brief(found) | {"toml": source_text(scenario)})
    elif toml:
        click.echo(source_text(scenario), nl=False)
    else:
        _print(found)


def _brief(scenario: Scenario) -> dict[str, object]:
    needed = estimate(scenario)
    expect = scenario.expect
    return {
        "name": scenario.name,
        "description": scenario.description,
        "duration_s": scenario.duration_s,
        "sites": sum(site.count for site in scenario.sites),
        "devices": needed.devices,
        "memory_bytes": needed.memory_bytes,
        "releases": [release.name for release in scenario.releases],
        "faults": [str(fault.kind) for fault in scenario.faults],
        "expect": {
            "amplification": expect.amplification_max or None,
            "finished_by_s": expect.finished_by_s or None,
            "finished_share": expect.finished_share,
        },
    }


def _print(scenario: Scenario) -> None:
    needed = estimate(scenario)
    expect = scenario.expect
    asked = [f"{100 * expect.finished_share:.4g} % of the devices finished"]
    asked += [f"by {time_text(expect.finished_by_s)} from the start"] if expect.finished_by_s else []
    asked += [f"amplification at most {expect.amplification_max:g}"] if expect.amplification_max else []
    click.echo(f"{scenario.description.strip() or scenario.name}\n")
    print_facts(
        [
            ("scenario", scenario.name),
            ("lasts at most", time_text(scenario.duration_s)),
            *(("release", _release(release)) for release in scenario.releases),
            *(("site group", _site(site)) for site in scenario.sites),
            *(("fault", _fault(fault)) for fault in scenario.faults),
            ("expected", ", ".join(asked)),
            ("devices", f"about {needed.devices:,}; needs about {size_text(needed.memory_bytes)} of memory"),
        ]
    )


def _first_sentence(scenario: Scenario) -> str:
    text = " ".join(scenario.description.split())
    return text.partition(". ")[0].removesuffix(".")


def _release(release: Release) -> str:
    if isinstance(release, RepositoryRelease):
        return f"{release.name}: {release.product} {release.version} of {release.repository}"
    deltas = "".join(f", {size_text(d.stored)} from {d.base}" for d in release.deltas if d.published)
    return f"{release.name}: {size_text(release.size)}, full pack {size_text(release.full_stored)}{deltas}"


def _site(site: SiteGroup) -> str:
    size = site.size
    match size.kind:
        case SizeKind.FIXED:
            each = f"{size.low}"
        case SizeKind.UNIFORM:
            each = f"{size.low}..{size.high}"
        case SizeKind.LOGNORMAL:
            each = f"about {size.median:g}"
    wan = "no WAN" if site.wan is None else f"WAN {site.wan.rate * 8 / 1e6:g} Mbit/s"
    stops = f", {len(site.timetable)} stops" if site.timetable else ""
    return f"{site.name}: {site.count:,} × {each} devices, {wan}, {site.lan.kind} LAN{stops}"


def _fault(fault: Fault) -> str:
    parts = [str(fault.kind)]
    parts += [f"({fault.manner})"] if fault.manner else []
    parts += [f"at {fault.where}"] if fault.where else []
    parts += [f"from {time_text(fault.at_s)}"] if fault.at_s else []
    parts += [f"for {time_text(fault.length_s)}"] if fault.length_s else []
    return " ".join(parts)
