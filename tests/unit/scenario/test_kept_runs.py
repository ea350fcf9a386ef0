"""Runs in files: nothing is lost, and what is no kept run is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ContentError, OperatorError
from sim.errors import KeptRunDamaged
from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome, Span, Violation
from sim.runs.cost import Cost
from sim.runs.keep import SUFFIX, KeptRun, find, keep, load
from sim.runs.outcome_json import from_json, to_json
from tests.support.run_outcomes import device, outcome, site
from tests.support.scenario_documents import SMALL, read

OUTCOME = outcome(
    (device("a", "depot/0", 12.25), device("b", "depot/0", None)),
    (site("depot/0", 2, 1000, 900),),
    violations=(Violation("digest", 3.5, "depot/0", None, "bad"),),
    timelines={"depot/0": (Span("a", "rode", 0.1, 0.2, 0, 5, "b"), Span("a", "made", 0.2, 0.3, 5, 9))},
)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=8)
SERIES = st.lists(st.tuples(FLOAT, FLOAT)).map(
    lambda pairs: Series(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
)


def rows(kind: type) -> st.SearchStrategy[tuple[Any, ...]]:
    """A few of a dataclass, with every field whatever its type allows that JSON can say."""
    of = {str: TEXT, int: st.integers(), float: FLOAT, type(None): st.none()}
    hints = get_type_hints(kind)
    values = {
        name: st.one_of([of[part] for part in get_args(hint) or (hint,)]) for name, hint in hints.items()
    }
    return st.lists(st.builds(kind, **values), max_size=2).map(tuple)


OUTCOMES = st.builds(
    RunOutcome,
    scenario=TEXT, seed=st.integers(0, 1 << 62), virtual_s=FLOAT, events=st.integers(0), trace_digest=TEXT,
    devices=rows(DeviceOutcome),
    sites=rows(SiteOutcome),
    origin_egress=SERIES, completion=SERIES,
    timelines=st.dictionaries(TEXT, rows(Span), max_size=2),
    violations=rows(Violation),
)  # fmt: skip


@given(OUTCOMES)
def test_an_outcome_loses_nothing_as_json(made: RunOutcome) -> None:
    assert from_json(json.loads(json.dumps(to_json(made), allow_nan=False))) == made


def test_a_kept_run_is_as_good_as_one_just_made(tmp_path: Path) -> None:
    run = KeptRun.of(read(SMALL), OUTCOME, Cost(0.5, 0.25, 1 << 20))
    path = keep(run, tmp_path / "runs")
    assert path == tmp_path / "runs" / f"test-1{SUFFIX}"
    found = load(path)
    assert found == run
    assert found.scenario() == read(SMALL)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing half-written is left"


def test_a_name_cannot_leave_the_directory(tmp_path: Path) -> None:
    odd = outcome((), (), scenario="../../.x y", seed=3)
    path = keep(KeptRun("", odd, Cost(0.0), "1"), tmp_path)
    assert path.parent == tmp_path
    assert path.name == f"_.._.x_y-3{SUFFIX}"


def test_files_are_found_by_name_and_by_directory(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    one = keep(KeptRun("", OUTCOME, Cost(0.0), "1"), tmp_path)
    two = keep(KeptRun("", OUTCOME, Cost(0.0), "1"), tmp_path / "deep")
    (tmp_path / "report.html").touch()
    assert find([tmp_path]) == [two, one]
    assert find([one, tmp_path]) == [one, two]
    with pytest.raises(OperatorError, match="no such file"):
        find([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match="no kept run"):
        find([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.pop("slipstream_run"), "not a kept run"),
        (lambda d: d.update(slipstream_run=2), "of version 2; this slipstream reads 1"),
        (lambda d: d.pop("scenario"), "scenario, wall_s or software is missing"),
        (lambda d: d.update(cpu_s="1"), "scenario, wall_s or software is missing"),
        (lambda d: d.pop("outcome"), "outcome is missing"),
        (lambda d: d["outcome"].update(seed="1"), "outcome.seed is missing or of the wrong type"),
        (lambda d: d["outcome"]["devices"]["fields"].pop(), "devices: the fields are not device, site"),
        (lambda d: d["outcome"]["devices"]["rows"][0].pop(), "devices: row 0 has not 14 values"),
        (
            lambda d: d["outcome"]["devices"]["rows"][1].__setitem__(9, "x"),
            "devices: row 1: wan_bytes cannot be",
        ),
        (lambda d: d["outcome"]["sites"].pop("rows"), "sites: no rows"),
        (lambda d: d["outcome"]["completion"]["times"].pop(), "completion: 1 times, 2 values"),
        (lambda d: d["outcome"]["completion"].pop("times"), "completion: needs times and values"),
        (lambda d: d["outcome"].update(timelines=[]), "timelines is missing or no JSON object"),
    ],
)
def test_what_is_no_kept_run_is_told(tmp_path: Path, change: object, told: str) -> None:
    path = keep(KeptRun.of(read(SMALL), OUTCOME, Cost(0.5)), tmp_path)
    load(path)
    document = json.loads(path.read_text())
    assert callable(change)
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(KeptRunDamaged) as caught:
        load(path)
    assert told in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 3


def test_half_a_file_is_told(tmp_path: Path) -> None:
    path = keep(KeptRun.of(read(SMALL), OUTCOME, Cost(0.5)), tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(KeptRunDamaged, match="not JSON"):
        load(path)
    with pytest.raises(OperatorError, match="cannot read"):
        load(tmp_path / "none")


def test_an_outcome_that_is_none_is_refused() -> None:
    with pytest.raises(ContentError):
        from_json([])
