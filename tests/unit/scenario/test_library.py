"""The ready scenarios: they are there, described, and small enough to be tried."""

from __future__ import annotations

import pytest

from p2p.errors import OperatorError
from sim.scenario import library
from sim.scenario.estimate import estimate

WANTED = {
    "depot-night", "ship-satellite", "train-stations", "factory-vlans", "retail-chain", "sensors-van",
    "plant-mesh", "stolen-sensor", "two-uplinks", "month-quota", "pump-van",
    "flash-crowd", "bench-8", "bench-24", "bench-bases", "bench-killed", "bench-100", "bench-1000",
}  # fmt: skip


def test_the_library_has_what_the_guide_names() -> None:
    assert set(library.names()) == WANTED


@pytest.mark.parametrize("name", library.names())
def test_a_ready_scenario_says_what_it_is_and_what_it_expects(name: str) -> None:
    scenario = library.load(name)
    assert scenario.name == name
    assert len(scenario.description) > 40
    assert "\n" not in scenario.description.strip()
    assert scenario.expect.finished_by_s > 0
    assert estimate(scenario).memory_bytes < 4e9
    assert "#" in library.text(name), "figures say where they are from"


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(OperatorError, match="no ready scenario 'depot'") as caught:
        library.text("depot")
    assert "sim list" in caught.value.next_step
