"""One run of one scenario: what it needs is looked at before it starts, and it is timed."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from p2p.errors import OperatorError
from sim import world
from sim.checks.checked import run_checked
from sim.runs.cost import Meter
from sim.runs.keep import KeptRun
from sim.runs.progress import Report
from sim.runs.repositories import materials
from sim.scenario.estimate import estimate
from sim.scenario.model import Scenario

__all__ = ["check_memory", "memory_there", "run_one"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def run_one(
    scenario: Scenario,
    seed: int,
    *,
    timelines: Collection[str] = (),
    progress: Report | None = None,
    observer: world.Observer | None = None,
) -> KeptRun:
    """Run it here and now, held to every rule (unless `observer` watches instead).

    Raises `OperatorError` before it starts if the memory would not do.
    """
    check_memory(scenario)
    found = materials(scenario.releases)
    meter = Meter()
    if observer is None:
        outcome = run_checked(scenario, seed, timelines=timelines, progress=progress, materials=found)
    else:
        outcome = world.run(
            scenario, seed, timelines=timelines, progress=progress, materials=found, observer=observer
        )
    return KeptRun.of(scenario, outcome, meter.read())


def check_memory(scenario: Scenario, there: int | None = None, *, runs: int = 1) -> None:
    """Raise `OperatorError` if `runs` runs at once need more than `there` bytes (default: what is free)."""
    there = memory_there() if there is None else there
    needed = estimate(scenario)
    if there is not None and needed.memory_bytes * runs > there:
        at_once = f" ({runs} at once)" if runs > 1 else ""
        raise OperatorError(
            f"{scenario.name}: {needed.devices:,} devices of real code need about "
            f"{needed.memory_bytes * runs / 1e9:.1f} GB of memory{at_once}; {there / 1e9:.1f} GB are there",
            next_step="lower count or devices of the largest [[site]], or use `slipstream sim plan`, "
            "which reckons with a model of each site",
        )


def memory_there() -> int | None:
    """Bytes that this process can still have: the machine's, or less where a control group limits it."""
    found = [n for n in (_free(), _group_free()) if n is not None]
    return min(found) if found else None


def _free() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _group_free() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return max(0, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return None
