"""Which scenarios can be run for real: those that are run twice, and none that the rig would only feign."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.rig.processes import RigError
from benchmarks.rig.staged import check
from benchmarks.sim_vs_real import scenarios
from sim.scenario import library
from sim.scenario.model import Fault, FaultKind, Scenario, Who

ALONE = scenarios("alone")[0]


def test_every_scenario_that_is_run_twice_can_be_run_for_real() -> None:
    found = scenarios("")
    assert len(found) >= 6
    for scenario in found:
        check(scenario)


@pytest.mark.parametrize(
    ("scenario", "what"),
    [
        (library.load("depot-night"), "an image that does not compress"),
        (replace(ALONE, sites=ALONE.sites * 2), "one site"),
        (replace(ALONE, faults=(Fault(FaultKind.PARTITION, 1.0, 2.0),)), "no faults but gateways"),
        (replace(ALONE, classes=(replace(ALONE.classes[0], reboot_s=5.0),)), "start from the new slot"),
    ],
)
def test_what_the_rig_cannot_do_is_refused_with_its_name(scenario: Scenario, what: str) -> None:
    with pytest.raises(RigError, match=f"{scenario.name} cannot be run for real: the rig needs .*{what}"):
        check(scenario)


def test_gateways_that_leave_can_be_had() -> None:
    check(replace(ALONE, faults=(Fault(FaultKind.LEAVE, 1.0, who=Who.GATEWAY),)))
