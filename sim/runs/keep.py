"""Runs kept as files: scenario, seed and outcome in one JSON document, enough to replay and to report.

`DIR/NAME-SEED.run.json` is written at once or not at all. The scenario is kept whole, as TOML with every
value in plain numbers (`sim.scenario.writing`), so that a kept run replays on its own, also when it came
out of a sweep or a shrinker and no file of a person describes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeGuard

from coordinator.publishing.files import make_directory, write_atomic
from p2p.errors import ContentError, OperatorError
from sim.errors import KeptRunDamaged
from sim.outcome import RunOutcome
from sim.runs.cost import Cost
from sim.runs.outcome_json import from_json, to_json
from sim.scenario.model import Scenario
from sim.scenario.reading import parse_scenario
from sim.scenario.writing import scenario_text

__all__ = ["KEPT_VERSION", "SUFFIX", "KeptRun", "find", "keep", "load"]

KEPT_VERSION = 1
SUFFIX = ".run.json"
SIZE_MAX = 2 << 30


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run and what it was a run of. `cost`: what it took here; `software`: what ran it."""

    scenario_toml: str
    outcome: RunOutcome
    cost: Cost
    software: str

    @classmethod
    def of(cls, scenario: Scenario, outcome: RunOutcome, cost: Cost) -> KeptRun:
        return cls(scenario_text(scenario), outcome, cost, version("slipstream"))

    def scenario(self) -> Scenario:
        """What was run. Whether a repository that it names is still there is not looked at."""
        return parse_scenario(
            self.scenario_toml.encode(), source=f"kept scenario {self.outcome.scenario}", directory=Path("/")
        )

    @property
    def file_name(self) -> str:
        """Safe as a path element, whatever the scenario is called."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.outcome.scenario).lstrip(".") or "run"
        return f"{name}-{self.outcome.seed}{SUFFIX}"


def keep(run: KeptRun, directory: Path) -> Path:
    """Write a run into a directory, which is made if need be; the file's path. Raises `LocalError`."""
    make_directory(directory)
    document = {
        "slipstream_run": KEPT_VERSION,
        "software": run.software,
        "wall_s": run.cost.wall_s,
        "cpu_s": run.cost.cpu_s,
        "memory_bytes": run.cost.memory_bytes,
        "scenario": run.scenario_toml,
        "outcome": to_json(run.outcome),
    }
    path = directory / run.file_name
    write_atomic(path, json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    return path


def load(path: Path) -> KeptRun:
    """A kept run; raises `KeptRunDamaged` (exit code 3), or `OperatorError` if there is no such file."""
    try:
        if path.stat().st_size > SIZE_MAX:
            raise KeptRunDamaged(f"{path}: over {SIZE_MAX} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot read {path}: {error.strerror or error}",
            next_step="`slipstream sim run NAME --out DIR` keeps a run",
        ) from error
    again = "run the scenario again with --out"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeptRunDamaged(f"{path}: not JSON: {error}", next_step=again) from error
    if not isinstance(document, dict) or "slipstream_run" not in document:
        raise KeptRunDamaged(f"{path}: not a kept run", next_step=again)
    if document["slipstream_run"] != KEPT_VERSION:
        raise KeptRunDamaged(
            f"{path}: of version {document['slipstream_run']!r}; this slipstream reads {KEPT_VERSION}",
            next_step="use the slipstream that made it, or run the scenario again",
        )
    text, software = document.get("scenario"), document.get("software")
    cost = _cost(document)
    if not isinstance(text, str) or cost is None or not isinstance(software, str):
        raise KeptRunDamaged(f"{path}: scenario, wall_s or software is missing", next_step=again)
    try:
        outcome = from_json(document.get("outcome"))
    except ContentError as error:
        raise KeptRunDamaged(f"{path}: {error.message}", next_step=again) from error
    return KeptRun(text, outcome, cost, software)


def _cost(document: dict[str, object]) -> Cost | None:
    """What a kept run took; None if it does not say. Not all was measured from the beginning."""
    wall_s, cpu_s = document.get("wall_s"), document.get("cpu_s", 0.0)
    memory = document.get("memory_bytes", 0)
    if not _is_number(wall_s) or not _is_number(cpu_s) or type(memory) is not int:
        return None
    return Cost(float(wall_s), float(cpu_s), memory)


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float)


def find(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named; directories stand for the kept runs below them, by name.

    Raises `OperatorError` for what is not there and for directories without a kept run.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob(f"*{SUFFIX}"))
            if not inside:
                raise OperatorError(
                    f"{path}: no kept run in it", next_step="`slipstream sim run NAME --out DIR`"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise OperatorError(f"{path}: no such file", next_step="`slipstream sim run NAME --out DIR`")
    return list(dict.fromkeys(found))
