"""Fit the fleet model to runs of the real code, and measure how far off it is on sites it has not seen.

    python -m benchmarks.fleet_model                 # fit on random sites, test on others, print the errors
    python -m benchmarks.fleet_model --write         # and keep the constants as sim/fleet/fitted.json
    python -m benchmarks.fleet_model --million       # how long a million devices take

Goals: bytes within 3 %, time within 15 %. Median, 90th percentile and worst are stated, the worst with the
seed of its site: against one run of each held-out site, and against the mean of `--seeds` runs of it, which
differ in who has which base and who comes first. `--each` prints every site.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from p2p.swarm.allowance import DailyWindow
from sim import world
from sim.fleet import bill, packs, parameters, plans
from sim.fleet.fit import Sample, errors, fit, measure, sample
from sim.fleet.outcome import ModelError, Way
from sim.fleet.training import training_scenario
from sim.scenario.model import (
    DeltaSpec,
    DeviceClass,
    Order,
    Phase,
    Scenario,
    SiteGroup,
    SiteSize,
    SizeKind,
    SyntheticRelease,
    Wan,
)

COMMAND = "python -m benchmarks.fleet_model --train {train} --held-out {held_out} --write"
FITTED = Path(__file__).parent.parent / "sim" / "fleet" / "fitted.json"
HELD_OUT_FROM = 100_000
"""Seeds of the sites that nothing is fitted to begin here."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def run_site(seed: int, run: int) -> Sample | str:
    """One run of a site in the real code, in a process of its own; or why it is of no use."""
    scenario = training_scenario(seed)
    try:
        return sample(scenario, world.run(scenario, seed if run == 0 else 1000 * seed + run))
    except ValueError as error:
        return str(error)


def run_sites(seeds: Sequence[int], runs: int, workers: int, what: str) -> dict[int, list[Sample]]:
    """The runs that finished, by the site's seed."""
    found: dict[tuple[int, int], Sample] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run_site, s, run): (s, run) for s in seeds for run in range(runs)}
        for future in track(as_completed(waiting), what, total=len(waiting), console=Console(stderr=True)):
            result = future.result()
            if isinstance(result, str):
                out.print(f"left out: {result}, run {waiting[future][1]}")
            else:
                found[waiting[future]] = result
    sites: dict[int, list[Sample]] = {}
    for (seed, _), one in sorted(found.items()):
        sites.setdefault(seed, []).append(one)
    return sites


def million() -> tuple[Scenario, packs.Packs]:
    """A fleet of a million devices at a hundred thousand sites."""
    release = SyntheticRelease(
        "new", 256 << 20, 180 << 20, (DeltaSpec("v1", 9 << 20), DeltaSpec("v2", 6 << 20))
    )
    scenario = Scenario(
        name="million",
        description="",
        duration_s=30 * 86_400.0,
        releases=(release,),
        classes=(DeviceClass("box", {"v1": 0.6, "v2": 0.3, "none": 0.1}),),
        sites=(
            SiteGroup(
                "shops", 80_000, SiteSize(SizeKind.LOGNORMAL, 1, 200, 8.0, 0.7), {"box": 1.0},
                wan=Wan(1e6, price_per_mb=0.01),
            ),
            SiteGroup(
                "ships", 20_000, SiteSize(SizeKind.UNIFORM, 4, 20), {"box": 1.0},
                wan=Wan(64e3, delay_s=0.3, price_per_mb=5.0, windows=(DailyWindow(79_200.0, 21_600.0),)),
            ),
        ),
        orders=(Order("new", (Phase(0.01, 0.0), Phase(0.2, 86_400.0), Phase(1.0, 3 * 86_400.0))),),
    )  # fmt: skip
    return scenario, packs.of_synthetic(release)


def time_million() -> None:
    """All four ways under two plans, with a limited origin in one of them."""
    scenario, sizes = million()
    compared = plans.read_plans(["thin origin: origin=1000Mbit/s"], scenario)
    for chosen in (compared[:1], compared):
        began = time.process_time()
        outcome = bill.reckon(scenario, sizes, chosen, 1, parameters.fitted())
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        out.print(
            f"{outcome.devices:,} devices at {outcome.sites:,} sites, {len(Way)} ways × {len(chosen)} plans: "
            f"{seconds:.1f} CPU seconds, {peak:.0f} MiB at most",
            soft_wrap=True,
        )


@click.command()
@click.option("--train", default=120, show_default=True, help="Sites that the constants are fitted to.")
@click.option("--held-out", default=60, show_default=True, help="Sites that they are tested on.")
@click.option("--seeds", default=5, show_default=True, help="Runs of each site that they are tested on.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--write", is_flag=True, help="Keep the constants in the package.")
@click.option("--million", "big", is_flag=True, help="Only time a fleet of a million devices.")
@click.option("--each", is_flag=True, help="Print every held-out site.")
def main(train: int, held_out: int, seeds: int, workers: int, write: bool, big: bool, each: bool) -> None:
    """Fit, measure, print."""
    if big:
        time_million()
        return
    fitted_to = run_sites(range(train), 1, workers, "training")
    tested_on = run_sites(range(HELD_OUT_FROM, HELD_OUT_FROM + held_out), seeds, workers, "held out")
    found = fit([runs[0] for runs in fitted_to.values()], COMMAND.format(train=train, held_out=held_out))
    found = replace(found, error=measure(tested_on, found))
    table = Table("constants", "values")
    for name in ("down", "up", "time"):
        table.add_row(name, ", ".join(f"{k} {v:.4g}" for k, v in getattr(found, name).items()))
    table.add_row("metadata", f"{found.metadata:.0f}")
    out.print(table)
    if each:
        show_each(tested_on, found)
    show_errors(measure(fitted_to, found), found.error)
    apart = [errors([one], found) for runs in tested_on.values() for one in runs]
    out.print(
        f"of all {len(apart)} runs of the held-out sites, each by itself: "
        f"{sum(abs(b) > 0.03 for b, _ in apart)} are off by over 3 % in bytes, "
        f"{sum(abs(t) > 0.15 for _, t in apart)} by over 15 % in time",
        soft_wrap=True,
    )
    if write:
        FITTED.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
        out.print(f"written: {FITTED.name}")


def show_errors(inside: ModelError, held: ModelError) -> None:
    """What a plan states, and the same of the sites that the constants were fitted to."""
    table = Table("sites", "", "against", "", "median", "90 %", "worst", "goal")
    for what, e in (("fitted to", inside), ("held out", held)):
        against = ["one run of each"] + [f"the mean of {e.seeds} runs"] * (e.seeds > 1)
        for name, in_bytes, in_time in zip(
            against, (e.bytes_once, e.bytes_mean), (e.time_once, e.time_mean), strict=False
        ):
            for unit, off, goal in (("bytes", in_bytes, "3 %"), ("time", in_time, "15 %")):
                worst = f"{off.worst:.1%} (seed {off.worst_seed})"
                table.add_row(
                    what, str(e.held_out), name, unit, f"{off.median:.1%}", f"{off.p90:.1%}", worst, goal
                )
    out.print(table)


def show_each(sites: Mapping[int, Sequence[Sample]], found: parameters.Parameters) -> None:
    """Every site with its errors, the worst in bytes first."""
    table = Table(
        "seed", "devices", "LAN", "WAN kB/s", "image MiB", "pack", "seconds", "bytes off", "time off",
        "mean bytes off", "mean time off",
    )  # fmt: skip
    for seed, runs in sorted(sites.items(), key=lambda item: -abs(errors(item[1][:1], found)[0])):
        one = runs[0]
        in_bytes, in_time = errors([one], found)
        mean_bytes, mean_time = errors(runs, found)
        setting, load = one.loaded(found)
        wan = setting.group.wan
        table.add_row(
            str(seed), str(len(setting.devices)), str(setting.group.lan.kind),
            f"{wan.rate / 1e3:.0f}" if wan else "-", f"{one.packs.size / 2**20:.0f}",
            str(one.packs.packs[int(load.pack[0])].base or "full"), f"{one.seconds:.1f}",
            f"{in_bytes:+.1%}", f"{in_time:+.1%}", f"{mean_bytes:+.1%}", f"{mean_time:+.1%}",
        )  # fmt: skip
    out.print(table)


if __name__ == "__main__":
    main()
