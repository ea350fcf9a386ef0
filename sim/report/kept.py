"""Kept runs and plans, read as what a report is about."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from p2p.errors import ContentError, OperatorError, SlipstreamError
from sim.errors import KeptRunDamaged
from sim.fleet.outcome import FORMAT, PlanOutcome
from sim.report.subjects import Subject, subject
from sim.runs.keep import SUFFIX, KeptRun, load

PLAN_FILE = "plan.json"
PLAN_MAX = 1 << 30
"""Bytes of a plan's file."""
TOLD_MAX = 10
"""Damaged files that an error names."""
NEXT = "`slipstream sim run NAME --out DIR` keeps a run, `slipstream sim plan NAME --out DIR` a plan"


def read(paths: Iterable[Path]) -> list[Subject | PlanOutcome]:
    """What stands in these files, and in the kept runs and plans below these directories.

    Raises `OperatorError` for what is not there, and `KeptRunDamaged` for what cannot be read: it names
    every damaged file, not the first alone.
    """
    found: list[Subject | PlanOutcome] = []
    damaged: list[str] = []
    for path, folder in _files(paths):
        try:
            found.append(_one(path, folder))
        except OperatorError:
            raise
        except SlipstreamError as error:
            damaged.append(error.message if str(path) in error.message else f"{path}: {error.message}")
    if damaged:
        told = damaged[:TOLD_MAX]
        if len(damaged) > TOLD_MAX:
            told.append(f"… and {len(damaged) - TOLD_MAX} more")
        raise KeptRunDamaged(
            "\n".join(told),
            kept="no report was written",
            next_step="leave these files out, or run their scenarios again with --out",
        )
    return found


def kept_subject(run: KeptRun, *, replay: str, folder: str = "") -> Subject:
    """A kept run as a subject, held to what its scenario expects.

    `folder`: where it lies, for telling it from another of the same scenario and seed.
    """
    return subject(run.outcome, expect=run.scenario().expect, replay=replay, folder=folder)


def _files(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Each file once, with its folder below the directory that was named."""
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted([*path.rglob(f"*{SUFFIX}"), *path.rglob(PLAN_FILE)])
            if not inside:
                raise OperatorError(f"{path}: neither a kept run nor a plan is in it", next_step=NEXT)
            for file in inside:
                folder = file.parent.relative_to(path).as_posix()
                found.setdefault(file, "" if folder == "." else folder)
        elif path.exists():
            found.setdefault(path, "")
        else:
            raise OperatorError(f"{path}: no such file", next_step=NEXT)
    return list(found.items())


def _one(path: Path, folder: str) -> Subject | PlanOutcome:
    if not path.name.endswith(SUFFIX):
        plan = _plan(path)
        if plan is not None:
            return plan
    replay = shlex.join(["slipstream", "sim", "replay", str(path)])
    return kept_subject(load(path), replay=replay, folder=folder)


def _plan(path: Path) -> PlanOutcome | None:
    """The plan that a file is; None if it is something else, for `load` to judge."""
    try:
        if path.stat().st_size > PLAN_MAX:
            return None
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("_type") != FORMAT:
        return None
    try:
        return PlanOutcome.from_json(document)
    except ContentError as error:
        raise KeptRunDamaged(f"{path}: {error.message}") from error
