"""How much memory a simulated run takes, beside what `sim.scenario.estimate` says before it starts.

    python -m benchmarks.sim_memory

Each case runs in a process of its own, whose peak resident size is what counts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from sim.checks.checked import run_checked
from sim.runs.scenarios import named
from sim.scenario.estimate import estimate
from sim.scenario.model import Scenario
from sim.scenario.reading import parse_scenario

DOCUMENT = """\
duration = "1 h"
[[release]]
name = "new"
size = "{mib} MiB"
full = "{mib} MiB"
[[class]]
name = "device"
bases = "none"
[[site]]
name = "site"
count = {sites}
devices = {devices}
classes = "device"
lan = {{ rate = "1 Gbit/s" }}
wan = {{ rate = "100 Mbit/s" }}
[polling]
at_rest = true
"""
CASES = (
    "1x1x1", "400x1x1", "40x1x256", "1x16x128", "1x60x1", "1x40x32", "20x8x32", "1x250x2", "bench-24",
    "bench-100",
)  # fmt: skip
"""Sites x devices of each x MiB of the image, or a ready scenario."""


def scenario_of(case: str) -> Scenario:
    """The scenario of a case."""
    if not case[0].isdigit():
        return named(case)
    sites, devices, mib = case.split("x")
    text = DOCUMENT.format(sites=sites, devices=devices, mib=mib)
    return parse_scenario(text.encode(), source=case, directory=Path())


def peak_here() -> int:
    """The most bytes that this process has had at once; unlike `ru_maxrss`, nothing of who started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--here", is_flag=True, help="Run one case in this process and print its peak, in bytes.")
def main(cases: tuple[str, ...], here: bool) -> None:
    """Measure CASES (default: a set that tells devices, connections and pieces apart)."""
    if here:
        run_checked(scenario_of(cases[0]), 1)
        print(peak_here())
        return
    print(f"{'case':12} {'devices':>8} {'links':>8} {'pieces':>7} {'measured MB':>12} {'estimate MB':>12}")
    for case in cases or CASES:
        command = [sys.executable, "-m", "benchmarks.sim_memory", "--here", case]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        said = estimate(scenario_of(case))
        print(
            f"{case:12} {said.devices:8,} {said.connections:8,} {said.pieces:7,} "
            f"{peak / 1e6:12.1f} {said.memory_bytes / 1e6:12.1f}"
        )


if __name__ == "__main__":
    main()
