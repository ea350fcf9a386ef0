"""Random runs for as long as there is time: each from its own seed, each held to every rule.

A run that breaks a rule (or the code) is kept as a scenario file that runs on its own, then made small.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.publishing.files import make_directory, write_atomic
from sim.checks.checked import Checks, run_checked
from sim.checks.random_scenario import random_scenario
from sim.outcome import Violation
from sim.runs.shrink import TRIES_MAX, shrink
from sim.runs.workers import end_pool, start_pool
from sim.scenario.model import Scenario
from sim.scenario.writing import scenario_text
from sim.world.run import Seams

__all__ = ["CRASHED", "Failed", "SoakRun", "SoakSummary", "keep_failed", "soak", "soak_one"]

CRASHED = "crashed"
"""The check that a run breaks which ends in an exception."""


@dataclass(frozen=True, slots=True)
class SoakRun:
    """What one seed came to. `amplification` is of frames, the worst of its sites and images; `wire` of
    all bytes of all sites, protocol and all, by the floor that outcomes state."""

    seed: int
    devices: int
    virtual_s: float
    events: int
    wall_s: float
    amplification: float | None
    wire: float | None
    faults: tuple[str, ...]
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A failing run on disk: the scenario as it was, and the smallest that was found (None: not tried)."""

    run: SoakRun
    path: Path
    small: Path | None


@dataclass(slots=True)
class SoakSummary:
    """Sums over runs, filled with `add`."""

    runs: int = 0
    devices: int = 0
    virtual_s: float = 0.0
    events: int = 0
    amplifications: list[tuple[float, int]] = field(default_factory=list)
    """(of frames, seed)."""
    wires: list[tuple[float, int]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    """Runs in which a kind of fault is."""
    broken: Counter[str] = field(default_factory=Counter)
    """Runs that broke a check."""

    def add(self, run: SoakRun) -> None:
        """Count a run."""
        self.runs += 1
        self.devices += run.devices
        self.virtual_s += run.virtual_s
        self.events += run.events
        if run.amplification is not None:
            self.amplifications.append((run.amplification, run.seed))
        if run.wire is not None:
            self.wires.append((run.wire, run.seed))
        self.faults.update(set(run.faults))
        self.broken.update({v.check for v in run.violations})

    @property
    def median(self) -> float | None:
        """Median amplification of frames."""
        return statistics.median(a for a, _ in self.amplifications) if self.amplifications else None

    @property
    def worst(self) -> tuple[float, int] | None:
        """Worst amplification of frames, and its seed."""
        return max(self.amplifications, default=None)


def soak_one(seed: int, faults: bool, awkward: bool = False) -> SoakRun:
    """One random run; never raises an `Exception`."""
    return run_soak(random_scenario(seed, faults=faults, awkward=awkward, carriers=awkward), seed)


def run_soak(scenario: Scenario, seed: int, seams: Seams | None = None) -> SoakRun:
    """One run of a scenario; an exception is a violation of `CRASHED`."""
    begun = time.perf_counter()
    checks = Checks()
    kinds = tuple(f"{f.kind}:{f.manner}" if f.manner else str(f.kind) for f in scenario.faults)
    try:
        outcome = run_checked(scenario, seed, checks=checks, seams=seams)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        crash = Violation(CRASHED, 0.0, None, None, f"{type(error).__name__} at {where}: {error}")
        return SoakRun(seed, 0, 0.0, 0, time.perf_counter() - begun, None, None, kinds, (crash,))
    return SoakRun(
        seed,
        len(outcome.devices),
        outcome.virtual_s,
        outcome.events,
        time.perf_counter() - begun,
        checks.amplification,
        outcome.amplification,
        kinds,
        outcome.violations,
    )


def soak(
    seeds: Iterator[int], *, faults: bool, awkward: bool = False, jobs: int, until: float
) -> Iterator[SoakRun]:
    """Runs of `seeds`, as they end, on `jobs` processes (1: this one), none begun after `until`.

    `until` is on the clock of `time.monotonic`. A process that dies is a run that `CRASHED`.
    """
    if jobs == 1:
        for seed in seeds:
            yield soak_one(seed, faults, awkward)
            if time.monotonic() >= until:
                return
        return
    waiting: dict[Future[SoakRun], int] = {}
    pool = start_pool(jobs)
    try:
        while True:
            while len(waiting) < 2 * jobs and time.monotonic() < until:
                following = next(seeds, None)
                if following is None:
                    break
                waiting[pool.submit(soak_one, following, faults, awkward)] = following
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                seed = waiting.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    died = Violation(CRASHED, 0.0, None, None, "its process died (out of memory, or killed)")
                    yield SoakRun(seed, 0, 0.0, 0, 0.0, None, None, (), (died,))
                    return
    finally:
        end_pool(pool)


def keep_failed(
    run: SoakRun, directory: Path, *, faults: bool, awkward: bool = False, tries_max: int = TRIES_MAX
) -> Failed:
    """Write the scenario of a failing run, and the smallest that breaks the same check.

    Raises `LocalError` where a file cannot be written.
    """
    scenario = random_scenario(run.seed, faults=faults, awkward=awkward, carriers=awkward)
    make_directory(directory)
    kind = ("-awkward" if awkward else "") + ("" if faults else "-plain")
    path = directory / f"random-{run.seed}{kind}.toml"
    write_atomic(path, scenario_text(scenario).encode())
    if not tries_max:
        return Failed(run, path, None)
    small = shrink(scenario, lambda s: breaks(s, run.seed, run.violations), tries_max=tries_max)
    if small.scenario == scenario:
        return Failed(run, path, None)
    small_path = path.with_suffix(".small.toml")
    write_atomic(small_path, scenario_text(small.scenario).encode())
    return Failed(run, path, small_path)


def breaks(
    scenario: Scenario, seed: int, violations: Sequence[Violation], seams: Seams | None = None
) -> bool:
    """Whether a scenario breaks the check that was broken first (a crash: in the same way)."""
    first = violations[0]
    found = run_soak(scenario, seed, seams).violations
    if first.check == CRASHED:
        kind = first.message.partition(":")[0]
        return any(v.check == CRASHED and v.message.startswith(kind) for v in found)
    return any(v.check == first.check for v in found)
