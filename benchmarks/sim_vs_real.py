"""Is the simulator true? Scenarios run twice: in virtual time, and by real agents in network namespaces.

    python -m benchmarks.sim_vs_real                       (root; all of benchmarks/scenarios)
    python -m benchmarks.sim_vs_real --only thin-link,alone --json

One TOML document describes both runs. The simulated one uses the packs and the manifest that were really
built, and the real one the simulator's draws, so that what is compared is the world: what crosses the wire,
counted in Ethernet frames on both sides, and how long it takes until the last device holds the image. Time
starts when the order is out and running agents are told to ask, or with the first device that is switched on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.rig.network import unavailable
from benchmarks.rig.processes import Children, RigError
from benchmarks.rig.staged import RealRun, Staged
from p2p.errors import SlipstreamError
from sim import world
from sim.outcome import RunOutcome
from sim.runs.scenarios import read_scenario
from sim.scenario.model import Scenario
from sim.world.run import Seams

SCENARIOS = Path(__file__).with_name("scenarios")
BYTES_GOAL = 0.03
TIME_GOAL = 0.15

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated run, counted as the real one is."""

    down: int
    up: int
    seconds: float
    finished: int
    phases: dict[str, dict[str, float | None]]

    @classmethod
    def of(cls, outcome: RunOutcome) -> Simulated:
        site = outcome.sites[0]
        there = [d for d in outcome.devices if d.verified_s is not None]
        return cls(
            site.wan_down,
            site.wan_up,
            max((d.verified_s or 0.0 for d in there), default=0.0),
            len(there),
            {
                d.device: {"started": d.started_s, "planning": d.meant_s, "sealing": d.verified_s}
                for d in outcome.devices
            },
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario, run both ways."""

    scenario: str
    description: str
    simulated: Simulated
    real: RealRun

    @property
    def ratios(self) -> dict[str, float]:
        """Simulated by real."""
        sim, real = self.simulated, self.real
        return {
            "down": sim.down / real.down,
            "bytes": (sim.down + sim.up) / (real.down + real.up),
            "time": sim.seconds / real.seconds,
        }

    @property
    def reached(self) -> bool:
        """Whether bytes into the site, bytes both ways and time are as near as they are meant to be."""
        near = self.ratios
        return (
            abs(near["down"] - 1) <= BYTES_GOAL
            and abs(near["bytes"] - 1) <= BYTES_GOAL
            and abs(near["time"] - 1) <= TIME_GOAL
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"ratios": self.ratios, "reached": self.reached}


def scenarios(names: str) -> list[Scenario]:
    """Those of `benchmarks/scenarios` (or files) that are named, all if none is."""
    wanted = [n for n in names.split(",") if n] or sorted(f.stem for f in SCENARIOS.glob("*.toml"))
    files = [Path(n) if n.endswith(".toml") else SCENARIOS / f"{n}.toml" for n in wanted]
    missing = [f for f in files if not f.exists()]
    if missing:
        there = ", ".join(sorted(f.stem for f in SCENARIOS.glob("*.toml")))
        raise click.BadParameter(f"no scenario {missing[0].stem}: there are {there}")
    return [read_scenario(file) for file in files]


def run_pair(scenario: Scenario, seed: int, directory: Path, repeat: int) -> Iterator[Pair]:
    """Both runs of a scenario; the real one `repeat` times, each with a repository of its own."""
    for n in range(1, repeat + 1):
        place = directory / f"{scenario.name}-{n}"
        place.mkdir(parents=True)
        staged = Staged(scenario, place)
        with Children(place / "logs") as children:
            fleet, release, material = staged.publish(children)
            outcome = world.run(
                scenario,
                seed,
                materials={scenario.releases[0].name: material},
                seams=Seams(tls=False),  # as the coordinator is reached in the rig
            )
            real = staged.run(children, fleet, release, outcome)
        yield Pair(scenario.name, scenario.description, Simulated.of(outcome), real)


def show(pairs: list[Pair]) -> None:
    """The table, and the goals that were missed."""
    table = Table(
        *("scenario", "WAN down, sim", "real", "ratio", "both ways, sim", "real", "ratio"),
        *("seconds, sim", "real", "ratio", ""),
    )
    for pair in pairs:
        sim, real, ratios = pair.simulated, pair.real, pair.ratios
        table.add_row(
            pair.scenario,
            *(_mb(sim.down), _mb(real.down), f"{ratios['down']:.3f}"),
            *(_mb(sim.down + sim.up), _mb(real.down + real.up), f"{ratios['bytes']:.3f}"),
            *(f"{sim.seconds:.1f}", f"{real.seconds:.1f}", f"{ratios['time']:.3f}"),
            "" if pair.reached else "MISSED",
        )
    out.print(table)
    missed = [pair.scenario for pair in pairs if not pair.reached]
    goals = f"bytes within {BYTES_GOAL:.0%}, time within {TIME_GOAL:.0%}"
    out.print(
        f"Goals ({goals}) missed: {', '.join(missed)}." if missed else f"All within the goals: {goals}."
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.3f} MB"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", metavar="LIST", help="Names of scenarios, or files, separated by commas.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the simulated run and all draws.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each scenario.")
@click.option("--list", "list_only", is_flag=True, help="Only name the scenarios.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything below this directory.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
def main(only: str, seed: int, repeat: int, list_only: bool, work: Path | None, as_json: bool) -> None:
    """Run scenarios simulated and for real and set them side by side (root)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        chosen = scenarios(only)
    except SlipstreamError as error:
        raise click.ClickException(error.diagnostics()) from error
    if list_only:
        for scenario in chosen:
            out.print(f"{scenario.name}: {scenario.description}")
        return
    reason = unavailable()
    if reason:
        raise click.ClickException(reason)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="sim-vs-real-", dir=work))
    pairs: list[Pair] = []
    try:
        for scenario in chosen:
            for pair in run_pair(scenario, seed, directory, repeat):
                pairs.append(pair)
                if not as_json:
                    near = pair.ratios
                    out.print(f"{pair.scenario}: bytes {near['bytes']:.3f}, time {near['time']:.3f}")
    except RigError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if work is None:
            shutil.rmtree(directory, ignore_errors=True)
    wrong = [p.scenario for p in pairs if p.real.wrong or p.simulated.finished < p.real.right]
    if as_json:
        facts = {"load": os.getloadavg()[0], "pairs": [pair.to_json() for pair in pairs]}
        print(json.dumps(facts, indent=2))
    else:
        show(pairs)
    if wrong:
        raise click.ClickException(f"devices without the image: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
