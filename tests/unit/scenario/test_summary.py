"""The figures of a run, and what was expected of it."""

from __future__ import annotations

import pytest

from sim.outcome import RunOutcome
from sim.runs.progress import time_text
from sim.runs.summary import Expectation, expectations, summarise, summarise_groups
from sim.scenario.model import Expect
from tests.support.run_outcomes import device, outcome, site


def run() -> RunOutcome:
    depot = tuple(device(f"d{n}", "depot/0", float(n)) for n in range(1, 11))
    rest = (device("s0", "ship/0", None), device("h", "ship/0", None, state="hostile"))
    return outcome((*depot, *rest), (site("depot/0", 10, 1050, 1000, 2.5), site("ship/0", 2, 70, None, 0.25)))


def test_figures_per_group_and_in_all() -> None:
    depot, ship = summarise_groups(run())
    assert (depot.name, depot.sites, depot.devices, depot.finished) == ("depot", 1, 10, 10)
    assert depot.finished_s == {50: 5.0, 90: 9.0, 99: 10.0, 100: 10.0}
    assert depot.amplification == 1.05
    assert (ship.devices, ship.finished, ship.amplification) == (1, 0, None), "hostile devices do not count"
    assert ship.finished_s == {50: None, 90: None, 99: None, 100: None}
    whole = summarise("all", run().sites, run().devices)
    assert (whole.devices, whole.finished, whole.wan_down, whole.wan_up) == (11, 10, 1120, 20)
    assert whole.money == 2.75
    assert whole.finished_s == {50: 6.0, 90: 10.0, 99: None, 100: None}
    assert whole.amplification == 1.05, "of the sites for which anything was meant"


@pytest.mark.parametrize(
    ("expect", "met"),
    [
        (Expect(), [False]),
        (Expect(finished_share=10 / 11), [True]),
        (Expect(finished_share=0.91), [False]),
        (Expect(1.05, 0, 0.9), [True, True]),
        (Expect(1.049, 0, 0.9), [True, False]),
        (Expect(0, 10, 0.9), [True, True]),
        (Expect(0, 9.9, 0.9), [True, False]),
        (Expect(0, 99, 1), [False, False]),
    ],
)
def test_expectations_are_met_or_missed(expect: Expect, met: list[bool]) -> None:
    assert [e.met for e in expectations(expect, run())] == met


def test_an_expectation_says_what_it_got() -> None:
    assert expectations(Expect(1.05, 5.0, 0.9), run())[1:] == [
        Expectation("amplification at most", 1.05, 1.05, True),
        Expectation("finished by (s)", 5.0, 10.0, False),
    ]


def test_a_run_without_devices_expects_nothing() -> None:
    assert all(e.met for e in expectations(Expect(finished_by_s=1), outcome((), ())))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"), (7 * 3600 + 12 * 60, "7 h 12 min"), (76 * 3600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text
