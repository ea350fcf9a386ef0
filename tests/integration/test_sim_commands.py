"""`slipstream sim` as a planner types it: real runs of a small scenario, and what is told when they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.cli import run as slipstream
from sim.outcome import RunOutcome, Violation
from sim.runs import keep, one
from sim.scenario import library
from sim.scenario.model import Scenario

TINY = """\
description = "Three devices take 1 MiB. Quickly"
duration = "5 min"

[[release]]
name = "2"
size = "1 MiB"
full = "1 MiB"

[[class]]
name = "box"
bases = "none"
reboot = "1 s"

[[site]]
name = "home"
devices = 3
classes = "box"
wan = { rate = "8 Mbit/s" }

[polling]
at_rest = true

[expect]
finished_by = "1 min"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[RunOutcome], RunOutcome]], None]:
    """Changes what the world tells of its runs."""

    def change(by: Callable[[RunOutcome], RunOutcome]) -> None:
        real = one.run_checked
        monkeypatch.setattr(one, "run_checked", lambda *args, **kwargs: by(real(*args, **kwargs)))

    return change


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_ready_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", "list"]) == 0
    listed = capsys.readouterr().out
    assert slipstream(["sim", "list", "--json"]) == 0
    found = told(capsys)
    assert [brief["name"] for brief in found] == library.names()
    for brief in found:
        assert f"\n{brief['name']} " in listed
        assert brief["devices"] > 0


def test_a_scenario_is_shown_and_checked(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", "show", str(tiny)]) == 0
    shown = capsys.readouterr().out
    assert "1 × 3 devices, WAN 8 Mbit/s, switched LAN" in shown
    assert slipstream(["sim", "show", str(tiny), "--toml"]) == 0
    assert capsys.readouterr().out == TINY
    assert slipstream(["sim", "show", "bench-8", "--toml"]) == 0
    assert capsys.readouterr().out == library.text("bench-8")
    assert slipstream(["sim", "show", str(tiny), "--json"]) == 0
    assert told(capsys)["expect"] == {"amplification": None, "finished_by_s": 60.0, "finished_share": 1.0}


def test_a_faulty_scenario_is_told_with_key_and_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(TINY.replace("8 Mbit/s", "0 Mbit/s").replace("devices = 3", "device = 3"))
    for command in (["show"], ["run"]):
        assert slipstream(["sim", *command, str(tiny)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {tiny}: 3 faults\n  line 14: site[0].devices is missing")
        assert "\n  line 16: site[0].device is unknown" in captured.err
        assert "\n  line 18: site[0].wan.rate must be above 0" in captured.err
        assert "\nnext: docs/sim.md" in captured.err


def test_what_is_no_scenario_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", "run", "depot"]) == 2
    assert "no ready scenario 'depot'" in capsys.readouterr().err
    assert slipstream(["sim", "run", "gone.toml"]) == 2
    assert "cannot read the scenario gone.toml: No such file" in capsys.readouterr().err


def test_a_run_is_told_kept_and_replayed(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert slipstream(["sim", "run", str(tiny), "--seed", "7", "--out", str(out), "--timeline", "home"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny, seed 7: ")
    assert "\nmet     share of devices finished 100 %: 100 %\n" in text
    assert f"\nagain: slipstream sim run {tiny} --seed 7\n" in text
    assert (out / "report.html").is_file()
    kept = out / "tiny-7.run.json"
    run = keep.load(kept)
    assert run.outcome.trace_digest in text
    assert list(run.outcome.timelines) == ["home/0"]
    tiny.unlink()  # a kept run needs no other file
    assert slipstream(["sim", "replay", str(out), "--json"]) == 0
    (facts,) = told(capsys)
    assert facts["same"] is True
    assert facts["trace_digest"] == run.outcome.trace_digest
    assert facts["file"] == str(kept)


def test_the_same_seed_tells_the_same_and_another_does_not(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for seed in ("1", "1", "2"):
        assert slipstream(["sim", "run", str(tiny), "--seed", seed, "--json"]) == 0
        runs.append(told(capsys))
    costs = {"wall_s", "cpu_s", "events_per_s", "memory_bytes", "memory_per_device"}
    assert costs <= runs[0].keys()
    same, again, other = ({k: v for k, v in facts.items() if k not in costs} for facts in runs)
    assert same == again
    assert same["trace_digest"] != other["trace_digest"]
    assert same["total"]["finished"] == same["total"]["devices"] == 3
    assert same["total"]["amplification"] > 0.99


def test_a_missed_expectation_has_its_exit_code(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(TINY.replace('"1 min"', '"1 s"'))
    assert slipstream(["sim", "run", str(tiny), "--json"]) == 11
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert [e["met"] for e in facts["expectations"]] == [True, False]
    error = json.loads(captured.err.strip().splitlines()[-1])
    assert error["error"] == "ExpectationMissed"
    assert error["next_step"] == f"slipstream sim run {tiny} --seed 1"


def test_a_broken_rule_has_its_exit_code_and_the_command_that_repeats_it(
    tiny: Path, capsys: pytest.CaptureFixture[str], changed: Callable[..., None]
) -> None:
    violation = Violation("verified-only", 3.25, "home/0", "home-0-1", "stored what was not verified")
    changed(lambda outcome: replace(outcome, violations=(violation,)))
    assert slipstream(["sim", "run", str(tiny), "--seed", "5"]) == 12
    captured = capsys.readouterr()
    assert "1 VIOLATION\n  3.250 s  verified-only at home/0 home-0-1: stored what" in captured.out
    assert f"next: slipstream sim run {tiny} --seed 5\n" in captured.err


def test_another_trace_than_the_kept_one_is_told(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: Callable[..., None]
) -> None:
    assert slipstream(["sim", "run", str(tiny), "--out", str(tmp_path)]) == 0
    changed(lambda outcome: replace(outcome, trace_digest="0" * 64, events=outcome.events + 1))
    capsys.readouterr()
    assert slipstream(["sim", "replay", str(tmp_path)]) == 13
    captured = capsys.readouterr()
    assert "ANOTHER TRACE" in captured.out
    assert "another trace than the one that was kept: events " in captured.err


def test_a_file_that_is_no_kept_run_is_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", "replay", str(tiny)]) == 3
    assert "not JSON" in capsys.readouterr().err
    assert slipstream(["sim", "replay", str(tiny.parent / "none")]) == 2


def test_a_place_that_cannot_be_is_told_before_anything_runs(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("hours of work would be lost")

    monkeypatch.setattr(one, "run_checked", never)
    monkeypatch.setattr("sim.cli.plan.reckon", never)
    for command in (["run"], ["plan", "--fleet"]):
        assert slipstream(["sim", *command, str(tiny), "--out", str(tiny / "below-a-file")]) == 5
        assert "cannot make" in capsys.readouterr().err


def test_a_timeline_of_no_site_is_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", "run", str(tiny), "--timeline", "home/1"]) == 2
    assert "--timeline names 'home/1'; the sites of home are home/0..home/0" in capsys.readouterr().err


def test_a_run_that_needs_too_much_memory_does_not_start(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(scenario: Scenario, seed: int, *, timelines: Collection[str] = (), **_: object) -> RunOutcome:
        raise AssertionError("it started")

    monkeypatch.setattr(one, "run_checked", never)
    tiny.write_text(TINY.replace("devices = 3", "count = 9000000\ndevices = 1000"))
    assert slipstream(["sim", "run", str(tiny)]) == 2
    assert "9,000,000,000 devices of real code need about" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "show", "run", "replay", "plan", "sweep", "soak", "report"])
def test_every_command_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert slipstream(["sim", command, "--help"]) == 0
    assert f"\n    slipstream sim {command}" in capsys.readouterr().out


def test_a_soak_on_several_processes_tells_the_same_and_ends_quietly(tmp_path: Path) -> None:
    """A real process: what its own end has to say of a pool is said when the command is over."""

    def soak(jobs: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from p2p.cli import main; main()", "sim", "soak", "--no-faults", "--json",
             "--runs", "5", "--seed", "0", "--jobs", str(jobs), "--out", str(tmp_path)],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip

    alone, both = soak(1), soak(2)
    assert json.loads(alone.stdout) == json.loads(both.stdout)
    assert "Traceback" not in both.stderr
    assert "Exception" not in both.stderr
