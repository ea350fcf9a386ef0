"""Kept runs in, report and PNGs out; damaged files are named, and leave no report."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2p.errors import OperatorError
from sim.cli.report import report
from sim.errors import KeptRunDamaged
from sim.fleet.outcome import PlanOutcome
from sim.report import Subject, read, write
from sim.runs.cost import Cost
from sim.runs.keep import KeptRun, keep
from sim.runs.scenarios import named
from tests.unit.report.samples import depot, plan

PNG = b"\x89PNG\r\n\x1a\n"


def keep_depot(directory: Path, seed: int = 7) -> Path:
    scenario = named("depot-night")
    return keep(KeptRun.of(scenario, depot(seed=seed), Cost(1.0)), directory)


def keep_plan(directory: Path) -> Path:
    path = directory / "plan.json"
    path.write_text(json.dumps(plan().to_json()))
    return path


def test_kept_runs_and_plans_are_found_below_a_directory(tmp_path: Path) -> None:
    path = keep_depot(tmp_path / "wan = 1")
    keep_depot(tmp_path, seed=8)
    keep_plan(tmp_path)
    found = read([tmp_path, path])
    runs = [one for one in found if isinstance(one, Subject)]
    assert sorted((s.outcome.seed, s.folder) for s in runs) == [(7, "wan = 1"), (8, "")]
    assert [one for one in found if isinstance(one, PlanOutcome)] == [plan()]
    seven = next(s for s in runs if s.outcome.seed == 7)
    assert seven.replay == f"slipstream sim replay '{path}'"
    assert [e.what for e in seven.expectations]


def test_every_damaged_file_is_named_and_no_report_is_left(tmp_path: Path) -> None:
    keep_depot(tmp_path)
    (tmp_path / "a.run.json").write_text("{")
    (tmp_path / "b.run.json").write_text('{"slipstream_run": 99}')
    (tmp_path / "plan.json").write_text('{"_type": "slipstream-plan", "version": 7}')
    with pytest.raises(KeptRunDamaged) as caught:
        read([tmp_path])
    for name, why in (("a.run.json", "not JSON"), ("b.run.json", "version 99"), ("plan.json", "version 7")):
        assert any(name in line and why in line for line in caught.value.message.splitlines()), name
    assert "depot-night-7" not in caught.value.message
    assert caught.value.exit_code == 3
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert isinstance(result.exception, KeptRunDamaged)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match=name) as caught:
        read([tmp_path / name])
    assert "slipstream sim run" in caught.value.next_step


def test_the_command_leaves_a_page_and_pngs_where_it_is_told(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    keep_depot(runs)
    result = CliRunner().invoke(report, [str(runs), "--out", str(out), "--png", "--json"])
    assert result.exception is None
    facts = json.loads(result.output)
    assert (facts["runs"], facts["plans"], facts["html"]) == (1, 0, str(out / "report.html"))
    names = [Path(p).name for p in facts["pngs"]]
    assert names == ["completion.png", "egress.png", "sites.png", "devices.png", "timeline-1-depot-0.png"]
    assert sorted(p.name for p in out.iterdir()) == sorted(["report.html", *names])
    for path in facts["pngs"]:
        data = Path(path).read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(PNG)
        assert 1600 < width < 2600
        assert height > 200


def test_without_out_the_report_lies_beside_what_it_is_of(tmp_path: Path) -> None:
    path = keep_depot(tmp_path / "runs")
    assert CliRunner().invoke(report, [str(path)]).output == f"{tmp_path / 'runs' / 'report.html'}\n"
    assert (tmp_path / "runs" / "report.html").is_file()


def test_the_same_outcomes_give_the_same_page(tmp_path: Path) -> None:
    one = write([depot(), plan()], tmp_path / "a").html.read_bytes()
    assert write([depot(), plan()], tmp_path / "b").html.read_bytes() == one
