"""A scenario written as TOML is the same scenario when it is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.swarm.cost import Weights
from p2p.swarm.policy import PeerDeltas, Policy
from sim.scenario import library
from sim.scenario.fault_tables import KEYS
from sim.scenario.model import (
    Expect,
    Fault,
    FaultKind,
    Manner,
    RepositoryRelease,
    Scenario,
    Traffic,
    Wan,
    Who,
)
from sim.scenario.writing import scenario_text
from tests.support.scenario_documents import SMALL, read


def again(scenario: Scenario) -> Scenario:
    return read(scenario_text(scenario), directory=Path("/"))


@pytest.mark.parametrize("name", library.names())
def test_every_ready_scenario_survives(name: str) -> None:
    scenario = library.load(name)
    assert again(scenario) == scenario
    assert scenario_text(again(scenario)) == scenario_text(scenario)


def test_names_texts_and_repositories_survive() -> None:
    release = RepositoryRelease("2.0", Path('/a "b"/c\\d'), "engine", "2.0.0", {"1.9": "1.9.0"})
    scenario = dataclasses.replace(
        read(SMALL),
        name="x~y",
        description='two\nlines, a "quote", a \\ and a \t\x01\x7f ü',
        releases=(release,),
    )
    assert again(scenario) == scenario


def test_the_policy_survives() -> None:
    changed = {
        f.name: getattr(Policy(), f.name) + 1 if f.name != "settle_s" else 0.1
        for f in dataclasses.fields(Policy)
        if f.name not in ("peer_deltas", "cost")
    } | {"peer_deltas": PeerDeltas.THIN_LAN, "cost": Weights(1e7, 0.0, 2.5)}
    scenario = dataclasses.replace(read(SMALL), policy=Policy(**changed))
    assert again(scenario) == scenario


def test_other_traffic_survives() -> None:
    scenario = read(SMALL)
    wan = Wan(
        1e6, budget=5e5, queue_s=0.25, traffic=(Traffic(1.0, 2.0, 3.0), Traffic(0.0, 5.0)), gives_way=False
    )
    sites = tuple(dataclasses.replace(group, wan=wan) for group in scenario.sites)
    scenario = dataclasses.replace(scenario, sites=sites)
    assert again(scenario) == scenario


def of_kind(kind: FaultKind) -> st.SearchStrategy[Fault]:
    """Faults with those fields that their kind uses."""
    needed, further = KEYS[kind]
    seconds = st.floats(0.001, 28_000)
    values = {
        "at": ("at_s", seconds),
        "length": ("length_s", seconds),
        "who": ("who", st.sampled_from(Who)),
        "count": ("count", st.integers(1, 9)),
        "factor": ("factor", st.floats(0.001, 0.999)),
        "size": ("size", st.integers(1, 1 << 30)),
        "jump": ("size", st.integers(-(1 << 20), 1 << 20)),
        "manner": ("manner", st.sampled_from(Manner)),
        "every": ("every_s", seconds),
        "until": ("until_s", seconds),
    }
    given_ = {values[key][0]: values[key][1] for key in (*needed, *further)}
    return st.builds(Fault, kind=st.just(kind), where=st.sampled_from([None, "depot", "depot/1"]), **given_)


@given(
    faults=st.lists(st.sampled_from(FaultKind).flatmap(of_kind), max_size=6),
    amplification=st.floats(1, 10),
    share=st.floats(0, 1),
    starts=st.floats(0, 86_399),
)
def test_faults_and_figures_survive_to_the_bit(
    faults: list[Fault], amplification: float, share: float, starts: float
) -> None:
    scenario = dataclasses.replace(
        read(SMALL),
        faults=tuple(faults),
        expect=Expect(amplification, 5.5, share),
        starts_of_day=starts,
    )
    assert again(scenario) == scenario
