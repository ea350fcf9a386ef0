"""Many runs: scenarios × overrides × seeds, each kept as soon as it is done.

A case's file is named by a digest of its whole scenario, so a sweep that was interrupted goes on where it
was: what is there is not run again, and a scenario that was changed is. A run that fails leaves
`….failed.json` with the reason and the others go on; the next sweep tries it again. Where runs happen is
`sim.runs.workers`'; only this process writes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.publishing.files import make_directory, write_atomic
from sim.runs.keep import SUFFIX, keep
from sim.runs.overrides import Override, overridden
from sim.runs.workers import Done, Failure, Workers
from sim.scenario.model import Scenario
from sim.scenario.writing import scenario_text

__all__ = ["Case", "Swept", "cases", "sweep"]

FAILED = ".failed.json"
LIST = "sweep.json"


@dataclass(frozen=True, slots=True)
class Case:
    """One run to make. `label`: the scenario and its overrides, for people; `folder`: the digest's."""

    label: str
    scenario: Scenario
    seed: int
    text: str
    """The scenario as TOML, which is what goes to the worker."""

    @property
    def folder(self) -> str:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.scenario.name).lstrip(".") or "run"
        return f"{name}-{hashlib.sha256(self.text.encode()).hexdigest()[:10]}"

    def path(self, directory: Path) -> Path:
        """Where the run is kept."""
        return directory / self.folder / file_name(self.scenario.name, self.seed)

    def failed_path(self, directory: Path) -> Path:
        """Where it is kept why the run failed."""
        return directory / self.folder / f"{self.seed}{FAILED}"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to. `kept`: runs that were there before; `done` and `failed`: of this time."""

    kept: int
    done: int
    failed: Mapping[str, Failure]
    """By label and seed, such as `depot-night, seed 3`."""
    paths: tuple[Path, ...]
    """Every run of the sweep that is there now."""


def cases(
    scenarios: Iterable[Scenario], seeds: Sequence[int], overrides: Sequence[Sequence[Override]] = ()
) -> list[Case]:
    """Every scenario under every combination of overrides (one out of each list) with every seed.

    Raises `OperatorError` for an override that does not fit and `ConfigError` for what it makes invalid.
    """
    found = []
    for scenario in scenarios:
        for chosen in itertools.product(*overrides):
            changed = overridden(scenario, chosen)
            label = ", ".join([scenario.name, *(o.text for o in chosen)])
            text = scenario_text(changed)
            found += [Case(label, changed, seed, text) for seed in seeds]
    return list({(case.folder, case.seed): case for case in found}.values())


def sweep(
    wanted: Sequence[Case],
    directory: Path,
    workers: Workers,
    *,
    progress: Callable[[int, int, int], None] | None = None,
) -> Swept:
    """Run what is not in `directory` yet. `progress` gets runs there, failed, and how many there are.

    Raises `LocalError` where a run cannot be written; what was kept before stays. The same for
    `KeyboardInterrupt`.
    """
    make_directory(directory)
    _write_list(wanted, directory)
    missing = [case for case in wanted if not case.path(directory).is_file()]
    there = len(wanted) - len(missing)
    done, failed = 0, {}
    _tell(progress, there, 0, len(wanted))
    for case, result in _results(missing, workers):
        failed_path = case.failed_path(directory)
        if isinstance(result, Failure):
            failed[f"{case.label}, seed {case.seed}"] = result
            make_directory(failed_path.parent)
            write_atomic(failed_path, _failure_text(case, result))
        else:
            keep(result, failed_path.parent)
            failed_path.unlink(missing_ok=True)
            done += 1
        _tell(progress, there + done, len(failed), len(wanted))
    paths = tuple(p for case in wanted if (p := case.path(directory)).is_file())
    return Swept(there, done, failed, paths)


def file_name(scenario: str, seed: int) -> str:
    """The file name that `sim.runs.keep` gives a run of this scenario."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", scenario).lstrip(".") or "run"
    return f"{name}-{seed}{SUFFIX}"


def _results(missing: Sequence[Case], workers: Workers) -> Iterator[tuple[Case, Done]]:
    for number, result in workers.run([(case.text, case.seed) for case in missing]):
        yield missing[number], result


def _write_list(wanted: Sequence[Case], directory: Path) -> None:
    """Says which folder is which case; a later sweep into the same directory adds its own."""
    path = directory / LIST
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    known |= {case.folder: case.label for case in wanted}
    write_atomic(path, json.dumps(known, indent=1, sort_keys=True).encode() + b"\n")


def _failure_text(case: Case, failure: Failure) -> bytes:
    facts = {"case": case.label, "seed": case.seed, "error": failure.error, "traceback": failure.traceback}
    return json.dumps(facts | {"scenario": case.text}, indent=1).encode() + b"\n"


def _tell(progress: Callable[[int, int, int], None] | None, there: int, failed: int, total: int) -> None:
    if progress is not None:
        progress(there, failed, total)
