"""Sweeps with real processes: what is finished is kept, an interrupt loses none, failures stay alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.cli import run as slipstream
from p2p.errors import ConfigError, OperatorError
from sim.cli.sweep import read_seeds
from sim.outcome import Violation
from sim.runs.keep import keep, load
from sim.runs.overrides import Override, overridden, read_override
from sim.runs.scenarios import read_scenario
from sim.runs.sweep import Case, cases, sweep
from sim.runs.workers import Done, Failure, Job, LocalWorkers, run_job
from sim.scenario.model import Scenario

TINY = """
name = "tiny"
duration = "1 h"
[[release]]
name = "2.0"
size = "1 MB"
full = "500 kB"
[[class]]
name = "box"
bases = { none = 1.0 }
[[site]]
name = "depot"
count = 1
devices = 2
classes = { box = 1.0 }
[site.wan]
rate = "8 Mbit/s"
[[order]]
release = "2.0"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


class Here:
    """Runs jobs in this process, one after the other; `then` is called after each."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.ran: list[int] = []
        self._stop_after = stop_after

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Done]]:
        for number, (text, seed) in enumerate(jobs):
            if self._stop_after is not None and number == self._stop_after:
                raise KeyboardInterrupt
            self.ran.append(seed)
            if seed == 13:
                yield number, Failure("it fell")
            else:
                yield number, run_job(text, seed)


def wanted(tiny: Path, seeds: Sequence[int], *overrides: str) -> list[Case]:
    return cases([read_scenario(tiny)], seeds, [read_override(o) for o in overrides])


def test_an_interrupted_sweep_goes_on_where_it_was(tiny: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    todo = wanted(tiny, [1, 2, 3])
    with pytest.raises(KeyboardInterrupt):
        sweep(todo, runs, Here(stop_after=2))
    assert [case.path(runs).is_file() for case in todo] == [True, True, False]
    first = load(todo[0].path(runs)).outcome.trace_digest
    workers = Here()
    done = sweep(todo, runs, workers)
    assert workers.ran == [3]
    assert (done.kept, done.done, len(done.paths)) == (2, 1, 3)
    assert load(todo[0].path(runs)).outcome.trace_digest == first


def test_a_failing_run_does_not_end_the_sweep_and_is_tried_again(tiny: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    todo = wanted(tiny, [12, 13, 14])
    done = sweep(todo, runs, Here())
    assert done.done == 2
    assert list(done.failed) == ["tiny, seed 13"]
    kept = json.loads(todo[1].failed_path(runs).read_text())
    assert (kept["seed"], kept["error"]) == (13, "it fell")
    again = Here()
    sweep(todo, runs, again)
    assert again.ran == [13]


def test_what_a_run_missed_or_broke_is_told(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missed expectation is counted; a broken rule is an error with the command that shows it again."""
    tiny.write_text(TINY + '[expect]\nfinished_by = "1 s"\n')
    command = ["sim", "sweep", str(tiny), "--seeds", "1-2", "--workers", "1", "--out", str(tmp_path / "runs")]
    assert slipstream(command) == 0
    assert "2 runs" in capsys.readouterr().out
    first = sorted((tmp_path / "runs").rglob("*.run.json"))[0]
    kept = load(first)
    broken = Violation("waiting", 1.0, "depot/0", "depot-0-0", "nothing under way")
    keep(replace(kept, outcome=replace(kept.outcome, violations=(broken,))), first.parent)
    assert slipstream([*command, "--json"]) == 12
    told = capsys.readouterr()
    assert f"slipstream sim replay {first}" in told.err
    assert [case["missed"] for case in json.loads(told.out)["cases"]] == [["finished by (s)"]] * 2


def test_a_changed_scenario_is_run_anew(tiny: Path, tmp_path: Path) -> None:
    sweep(wanted(tiny, [1]), tmp_path / "runs", Here())
    tiny.write_text(TINY.replace("8 Mbit/s", "4 Mbit/s"))
    workers = Here()
    sweep(wanted(tiny, [1]), tmp_path / "runs", workers)
    assert workers.ran == [1]
    assert len(json.loads((tmp_path / "runs" / "sweep.json").read_text())) == 2


def test_overrides_multiply_and_are_checked(tiny: Path) -> None:
    todo = wanted(tiny, [1, 2], "site.depot.wan.rate=1 Mbit/s,2 Mbit/s", "policy.settle_s=1,2,3")
    assert len(todo) == 2 * 3 * 2
    assert len({case.folder for case in todo}) == 6
    rates = {site.wan.rate for case in todo for site in case.scenario.sites if site.wan}
    assert rates == {125_000.0, 250_000.0}
    assert todo[0].label == "tiny, site.depot.wan.rate=1 Mbit/s, policy.settle_s=1"


def test_keys_are_those_of_a_scenarios_file(tiny: Path) -> None:
    """With and without the `_s` of seconds, which only the model writes."""
    scenario = read_scenario(tiny)
    for key in ("polling.every", "polling.every_s"):
        assert overridden(scenario, read_override(f"{key}=30 min")).polling.every_s == 1800
    assert {c.reboot_s for c in overridden(scenario, read_override("class.*.reboot=5 s")).classes} == {5.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("wan.rate=1", r"no 'wan' \(there are: .*class, site"),
        ("site.port.wan.rate=1", "no 'port'"),
        ("site.depot.wan.speed=1", "no 'speed'"),
        ("policy.settle_s=soon", "cannot take the place"),
        ("polling.at_rest=perhaps", "cannot take the place"),
        ("duration_s.x=1", "nothing is below"),
    ],
)
def test_an_override_that_does_not_fit_is_named(tiny: Path, text: str, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        overridden(read_scenario(tiny), read_override(text))


def test_an_override_cannot_make_an_impossible_scenario(tiny: Path) -> None:
    with pytest.raises((ConfigError, OperatorError)):
        overridden(read_scenario(tiny), [Override(("site", "depot", "wan", "rate"), "-5")])


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-3,7", [1, 2, 3, 7]), ("5-5,5", [5])])
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "1-999999999"])
def test_no_seeds_are_refused(text: str) -> None:
    with pytest.raises(OperatorError):
        read_seeds(text)


def scenario_text_of(tiny: Path) -> str:
    scenario: Scenario = read_scenario(tiny)
    return cases([scenario], [1])[0].text


def test_processes_give_the_same_runs_as_this_one(tiny: Path) -> None:
    text = scenario_text_of(tiny)
    there = dict(LocalWorkers(2).run([(text, 1), (text, 2), ("no scenario", 3)]))
    here = run_job(text, 2)
    assert not isinstance(here, Failure)
    assert not isinstance(there[1], Failure)
    assert there[1].outcome.trace_digest == here.outcome.trace_digest
    assert isinstance(there[2], Failure)


def test_a_dask_cluster_gives_the_same_runs(tiny: Path, tmp_path: Path) -> None:
    """A scheduler and a worker as processes of their own, as Dask's commands start them."""
    pytest.importorskip("distributed", reason="slipstream[cluster] is not installed")
    told = tmp_path / "scheduler.json"
    quiet = ["--no-dashboard"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
         "--scheduler-file", str(told), *quiet],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worker = None
    try:
        while not told.is_file() or not told.read_text().strip().endswith("}"):
            assert scheduler.poll() is None
            os.sched_yield()
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(told),
             "--nthreads", "1", "--local-directory", str(tmp_path), "--no-nanny", *quiet],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", "from p2p.cli import main; main()", "sim", "sweep", str(tiny), "--seeds",
             "1-3", "--dask", json.loads(told.read_text())["address"], "--out", str(tmp_path / "runs"),
             "--json"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.kill()
                process.wait()
    here = run_job(scenario_text_of(tiny), 2)
    assert not isinstance(here, Failure)
    assert [case["trace_digest"] for case in facts["cases"] if case["seed"] == 2] == [
        here.outcome.trace_digest
    ]


def test_no_scheduler_is_an_error_that_says_so(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="slipstream[cluster] is not installed")
    done = subprocess.run(
        [sys.executable, "-c", "from p2p.cli import main; main()", "sim", "sweep", str(tiny), "--seeds", "1",
         "--dask", "tcp://127.0.0.1:9", "--out", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no Dask scheduler answers" in done.stderr


def test_the_command_survives_an_interrupt_and_resumes(tiny: Path, tmp_path: Path) -> None:
    """A real process, interrupted when the first run is on disk; the same command then ends the sweep."""
    runs = tmp_path / "runs"
    # Whoever runs the tests in the background may have it ignore SIGINT, and what it starts inherits that.
    program = "import signal; signal.signal(2, signal.default_int_handler); from p2p.cli import main; main()"
    command = [
        sys.executable, "-c", program, "sim", "sweep", str(tiny),
        "--seeds", "1-200", "--workers", "1", "--out", str(runs), "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(runs.rglob("*.run.json")):
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    kept = {path: path.read_bytes() for path in runs.rglob("*.run.json")}
    assert 0 < len(kept) < 200
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    facts = json.loads(done.stdout)
    assert facts["runs"] == 200
    assert facts["kept_before"] == len(kept)
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert not list(runs.rglob("*.tmp*"))
