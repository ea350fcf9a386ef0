"""One device of a virtual site asks for all: what that saves, and that all hear of a release in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.checks.checked import run_checked
from sim.scenario.reading import parse_scenario
from sim.world.node_side import NodeSide

EVERY_S = 900.0
OPENS_S = 4 * 3600.0
TEXT = b"""
duration = "6 h"
[[release]]
name = "2.0"
size = "2 MiB"
full = "2 MiB"
[[class]]
name = "box"
bases = "none"
reboot = "10 s"
[[site]]
name = "depot"
devices = 10
classes = "box"
[site.wan]
rate = "8 Mbit/s"
delay = "20 ms"
[[order]]
release = "2.0"
[[order.phase]]
share = "100 %"
opens = "4 h"
[polling]
every = "15 min"
"""


def test_one_asks_and_all_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    answered = NodeSide.answered

    def counted(self: NodeSide) -> None:
        asked.append(self._device.kernel.now)
        answered(self)

    monkeypatch.setattr(NodeSide, "answered", counted)
    scenario = parse_scenario(TEXT, source="lookout", directory=Path())
    bytes_before, found = {}, {}
    for lookout in (True, False):
        asked.clear()
        run = run_checked(replace(scenario, polling=replace(scenario.polling, lookout=lookout)), 1)
        assert run.violations == ()
        assert all(d.finished_s is not None for d in run.devices)
        told = [d.meant_s for d in run.devices if d.meant_s is not None]
        assert max(told) - min(told) < 10.0, "news go round at once"
        assert max(told) - OPENS_S <= 1.3 * EVERY_S
        found[lookout] = sum(EVERY_S < at < OPENS_S for at in asked)
        bytes_before[lookout] = sum(s.wan_down + s.wan_up for s in run.sites)
    pauses = (OPENS_S - EVERY_S) / EVERY_S
    assert found[True] <= 1.4 * pauses
    assert found[False] >= 9 * pauses
    assert bytes_before[True] < bytes_before[False] - 3000 * 8 * pauses / 2
