"""The rule `waiting` on links where one frame takes minutes: patience is no stall, and a stall is found."""

from __future__ import annotations

from math import inf

import pytest

from p2p.content.limits import MIB
from p2p.swarm.announcements import Announcements
from p2p.swarm.gateway import Gateway
from sim.checks.checked import run_checked
from sim.scenario.model import Wan
from tests.simulation.checks import planted
from tests.simulation.world.scenes import depot, release

THIN = Wan(5_000.0)
"""A frame of 1 MiB takes 3.5 minutes here, and two at once 7."""


def broken(devices: int = 4, mib: int = 4) -> set[str]:
    scenario = depot(devices=devices, wan=THIN, release=release(size=mib * MIB), duration_s=4_000.0)
    return {v.check for v in run_checked(scenario, 1).violations}


def test_a_frame_that_takes_long_to_come_to_others_is_waited_for() -> None:
    assert "waiting" not in broken()


def test_nodes_that_wait_for_each_other_are_found_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.waiting_in_a_circle(monkeypatch)
    assert "waiting" in broken(mib=12)


def test_so_is_who_gets_nothing_of_the_frames_that_come_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway goes on and on, tells nobody what it has, and nobody loses patience."""
    monkeypatch.setattr(Announcements, "add", lambda self, pack, number: None)
    monkeypatch.setattr(Gateway, "_deadline_s", lambda self: inf)
    assert "waiting" in broken(devices=2)
