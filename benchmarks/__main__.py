"""`make bench`: every figure that Slipstream is held to, measured here and set beside its goal.

Each part can be run alone and says more then (`python -m benchmarks.site --help`). A part that cannot be
measured on this machine is named with the reason; one that misses its goal is named too. The exit code only
says whether all that was measured came out right: whether a goal is reached is for people to read.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.rig.network import unavailable
from benchmarks.rig.processes import RigError
from benchmarks.rig.rivals import RIVALS
from benchmarks.site import SLIPSTREAM, Result, Workload, run_site, show

MIB = 1 << 20
RATE = 16_000_000
METADATA = 64 << 10
PARTS = ("site", "delta", "throughput", "trust")
PART_S = 3600
DELTA_S = 3 * 3600

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the summary. `reached` None: it could not be measured, `note` says why."""

    name: str
    goal: str
    measured: str
    reached: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class SiteCase:
    """One workload of the site benchmark, its goal in wire bytes, and who runs beside Slipstream."""

    name: str
    workload: Workload
    goal: str
    limit: Callable[[int], float]
    rivals: tuple[str, ...] = ()
    time_limit: float | None = None


def _times(factor: float, extra: int = 0) -> Callable[[int], float]:
    return lambda fewest: factor * fewest + extra


CASES = (
    SiteCase(
        "8 devices, agents at rest",
        Workload(8, 32 * MIB, RATE, running=True),
        "≤ 1.05 copies",
        _times(1.05),
        ("libtorrent-tuned", "aria2-tuned"),
        time_limit=1.15,
    ),
    SiteCase(
        "8 devices, from the start of their processes",
        Workload(8, 32 * MIB, RATE),
        "≤ 1.05 copies",
        _times(1.05),
        ("libtorrent", "libtorrent-tuned", "aria2", "aria2-tuned", "curl"),
        time_limit=1.15,
    ),
    SiteCase(
        "24 devices", Workload(24, 32 * MIB, RATE), "≤ 1.05 copies", _times(1.05), ("libtorrent-tuned",)
    ),
    SiteCase("started over 10 s", Workload(8, 32 * MIB, RATE, stagger_s=10), "≤ 1.05 copies", _times(1.05)),
    SiteCase(
        "busiest gateway killed half-way",
        Workload(8, 32 * MIB, RATE, kill=True),
        "≤ 1.10 copies",
        _times(1.10),
    ),
    SiteCase("first start ever", Workload(8, 32 * MIB, RATE, strangers=True), "≤ 1.05 copies", _times(1.05)),
    SiteCase(
        "three bases",
        Workload(8, 32 * MIB, RATE, bases=3),
        "≤ 1.05 × smallest delta + 64 KiB",
        _times(1.05, METADATA),
    ),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    default=",".join(PARTS),
    show_default=True,
    metavar="LIST",
    help="Parts to run: " + ", ".join(PARTS) + ".",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("work-bench"),
    show_default=True,
    help="Downloads and images are kept here.",
)
@click.option("--suite", envvar="SUITE", help="A checkout of the tuf-conformance suite.")
def main(only: str, work: Path, suite: str | None) -> None:
    """Measure every figure and print it beside its goal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = [part for part in only.split(",") if part]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(PARTS)}")
    work.mkdir(parents=True, exist_ok=True)
    out.print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()},")
    out.print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
    figures: list[Figure] = []
    if "site" in parts:
        figures += _site()
    if "throughput" in parts:
        figures += _throughput()
    if "delta" in parts:
        figures += _delta(work.absolute())
    if "trust" in parts:
        figures += _trust(suite)
    _summary(figures)
    results = work / f"figures-{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    out.print(f"kept: {results}")
    sys.exit(0 if all(figure.measured != "WRONG" for figure in figures) else 1)


def _site() -> list[Figure]:
    reason = unavailable()
    if reason:
        return [Figure(f"site: {case.name}", case.goal, "", None, reason) for case in CASES]
    figures = []
    for case in CASES:
        rivals = [name for name in case.rivals if not RIVALS[name].missing()]
        for name in case.rivals:
            if name not in rivals:
                out.print(f"  without {name}: not installed: {RIVALS[name].missing()}")
        try:
            results = run_site(case.workload, [SLIPSTREAM, *rivals])
        except RigError as error:
            figures.append(Figure(f"site: {case.name}", case.goal, "", None, str(error)))
            continue
        show(case.workload, results)
        figures += _site_figures(case, results)
    return figures


def _site_figures(case: SiteCase, results: Sequence[Result]) -> list[Figure]:
    own, *others = results
    beside = ", ".join(f"{r.system} {r.amplification:.2f}" for r in others)
    if own.wrong or own.failure:
        note = own.failure or f"{own.wrong} devices hold something else"
        return [Figure(f"site: {case.name}", case.goal, "WRONG", False, note)]
    measured = f"{own.wire_down / 1e6:.2f} MB, {own.amplification:.3f}"
    reached = own.wire_down <= case.limit(own.fewest)
    figures = [Figure(f"site: {case.name}, bytes on the wire", case.goal, measured, reached, beside)]
    if case.time_limit is not None:
        beside = ", ".join(f"{r.system} {r.slowness:.2f}" for r in others)
        goal = f"≤ {case.time_limit:g} × size ÷ rate"
        measured = f"{own.seconds:.1f} s, {own.slowness:.2f}"
        reached = own.slowness <= case.time_limit
        figures.append(Figure(f"site: {case.name}, time", goal, measured, reached, beside))
    return figures


def _throughput() -> list[Figure]:
    name, goal = "one node to one node, loopback", "≥ 2.5 × libtorrent"
    command = [sys.executable, "-m", "benchmarks.peer_throughput", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PART_S)
    if done.returncode:
        return [Figure(name, goal, "", None, done.stderr.strip().splitlines()[-1])]
    facts = json.loads(done.stdout)
    speeds = ", ".join(f"{who} {m['MB_per_s']:.0f} MB/s" for who, m in facts["medians"].items())
    if facts["ratio"] is None:
        return [Figure(name, goal, speeds, None, facts["unavailable"])]
    return [Figure(name, goal, f"{facts['ratio']:.2f}", facts["ratio"] >= facts["goal"], speeds)]


def _delta(work: Path) -> list[Figure]:
    goal = "≤ 1.05 × best tool + 2 KiB; ≤ 64 MiB to apply"
    report = work / "delta.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.delta_size", "--cache", str(work / "cache")]
    figures = []
    try:
        subprocess.run([*command, "--json", str(report)], check=False, timeout=DELTA_S)
    except subprocess.TimeoutExpired:
        figures.append(Figure("delta: the rest", goal, "", None, f"not done after {DELTA_S / 3600:g} h"))
    if not report.exists():
        return [Figure("delta packs", goal, "", None, "the benchmark gave no figures")]
    for row in json.loads(report.read_text()):
        ratio = "no other tool" if row["ratio"] is None else f"{row['ratio']:.3f} × best"
        measured = f"{row['pack']} B, {ratio}; {row['apply_rss'] / MIB:.0f} MiB"
        others = ", ".join(
            f"{tool} {row['notes'].get(tool, '-') if size is None else size}"
            for tool, size in row["others"].items()
        )
        reached = row["size_goal"] and row["memory_goal"]
        figures.append(Figure(f"delta: {row['pair']}", goal, measured, reached, others))
    return figures


def _trust(suite: str | None) -> list[Figure]:
    name, goal = "tuf-conformance", "passes whole"
    if not suite:
        return [Figure(name, goal, "", None, "make bench SUITE=<a checkout of the suite>")]
    command = ["make", "conformance", f"SUITE={suite}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PART_S)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    verdict = next(
        (line.strip("= ") for line in reversed(lines) if " passed" in line or " failed" in line), ""
    )
    if not verdict:
        return [Figure(name, goal, "", None, lines[-1] if lines else "no output")]
    whole = not done.returncode and "failed" not in verdict and "xfailed" not in verdict
    return [Figure(name, goal, verdict, whole)]


def _summary(figures: Sequence[Figure]) -> None:
    words = {True: "reached", False: "NOT REACHED", None: "not measured"}
    table = Table("figure", "goal", "measured", "", "beside it, or why", title="All figures")
    for figure in figures:
        table.add_row(figure.name, figure.goal, figure.measured, words[figure.reached], figure.note)
    out.print(table)
    missed = [figure.name for figure in figures if figure.reached is False]
    unmeasured = [figure.name for figure in figures if figure.reached is None]
    if missed:
        out.print(
            f"Not reached here: {'; '.join(missed)}. benchmarks/README.md says what is known about why."
        )
    if unmeasured:
        out.print(f"Not measured here: {'; '.join(unmeasured)}.")
    if not missed and not unmeasured:
        out.print("Every goal is reached.")


if __name__ == "__main__":
    main()
