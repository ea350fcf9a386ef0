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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

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
SHIFTS_S = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""What a fault costs depends on what is under way at its instant: the simulated run is the mean of these."""

BYTES_GOAL = 0.03
TIME_GOAL = 0.15

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated run (with faults: the mean of some), counted as the real one is."""

    down: int
    up: int
    seconds: float
    finished: int
    """On how many devices the image was verified, in the run where the fewest were."""

    runs: tuple[tuple[int, int, float], ...]
    phases: dict[str, dict[str, float | None]]

    @classmethod
    def of(cls, outcomes: Sequence[RunOutcome]) -> Simulated:
        runs, finished = [], []
        for outcome in outcomes:
            times = [d.verified_s for d in outcome.devices if d.verified_s is not None]
            finished.append(len(times))
            runs.append((outcome.sites[0].wan_down, outcome.sites[0].wan_up, max(times, default=0.0)))
        return cls(
            *_means(runs),
            min(finished),
            tuple(runs),
            {
                d.device: {"started": d.started_s, "planning": d.meant_s, "sealing": d.verified_s}
                for d in outcomes[0].devices
            },
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario, run both ways."""

    scenario: str
    description: str
    simulated: Simulated
    reals: tuple[RealRun, ...]

    @property
    def real(self) -> tuple[int, int, float]:
        """Bytes down and up, and seconds: the means of the real runs."""
        return _means([(r.down, r.up, r.seconds) for r in self.reals])

    @property
    def right(self) -> bool:
        """Whether no device of any run, of either kind, was left without the image."""
        fewest = min(r.right for r in self.reals)
        return not any(r.wrong for r in self.reals) and self.simulated.finished >= fewest

    @property
    def ratios(self) -> dict[str, float]:
        """Simulated by real."""
        sim, (down, up, seconds) = self.simulated, self.real
        return {
            "down": sim.down / down,
            "bytes": (sim.down + sim.up) / (down + up),
            "time": sim.seconds / seconds,
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


def run_pair(scenario: Scenario, seed: int, directory: Path, repeat: int) -> Pair:
    """Both runs of a scenario; the real one `repeat` times, each with a repository of its own."""
    reals: list[RealRun] = []
    outcomes: list[RunOutcome] = []
    for n in range(1, repeat + 1):
        place = directory / f"{scenario.name}-{n}"
        place.mkdir(parents=True)
        staged = Staged(scenario, place)
        with Children(place / "logs") as children:
            fleet, release, material = staged.publish(children)
            for shift_s in (0.0, *(s for s in SHIFTS_S if s and scenario.faults)) if n == 1 else ():
                outcomes.append(
                    world.run(
                        _shifted(scenario, shift_s),
                        seed,
                        materials={scenario.releases[0].name: material},
                        seams=Seams(tls=False),  # as the coordinator is reached in the rig
                    )
                )
            reals.append(staged.run(children, fleet, release, outcomes[0]))
    return Pair(scenario.name, scenario.description, Simulated.of(outcomes), tuple(reals))


def _shifted(scenario: Scenario, shift_s: float) -> Scenario:
    faults = tuple(replace(fault, at_s=max(0.0, fault.at_s + shift_s)) for fault in scenario.faults)
    return replace(scenario, faults=faults)


def _means(runs: Sequence[tuple[int, int, float]]) -> tuple[int, int, float]:
    downs, ups, seconds = zip(*runs, strict=True)
    return round(mean(downs)), round(mean(ups)), mean(seconds)


def show(pairs: list[Pair]) -> None:
    """The table, and the goals that were missed."""
    table = Table(
        *("scenario", "WAN down, sim", "real", "ratio", "both ways, sim", "real", "ratio"),
        *("seconds, sim", "real", "ratio", ""),
    )
    for pair in pairs:
        sim, ratios = pair.simulated, pair.ratios
        down, up, seconds = pair.real
        table.add_row(
            pair.scenario,
            *(_mb(sim.down), _mb(down), f"{ratios['down']:.3f}"),
            *(_mb(sim.down + sim.up), _mb(down + up), f"{ratios['bytes']:.3f}"),
            *(f"{sim.seconds:.1f}", f"{seconds:.1f}", f"{ratios['time']:.3f}"),
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
            pair = run_pair(scenario, seed, directory, repeat)
            pairs.append(pair)
            if not as_json:
                near = pair.ratios
                out.print(f"{pair.scenario}: bytes {near['bytes']:.3f}, time {near['time']:.3f}")
    except RigError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if work is None:
            shutil.rmtree(directory, ignore_errors=True)
    wrong = [pair.scenario for pair in pairs if not pair.right]
    if as_json:
        facts = {"load": os.getloadavg()[0], "pairs": [pair.to_json() for pair in pairs]}
        print(json.dumps(facts, indent=2))
    else:
        show(pairs)
    if wrong:
        raise click.ClickException(f"devices without the image: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
