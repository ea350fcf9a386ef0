"""Who starts while everybody else of the site restarts into the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.fleet import draw
from sim.fleet.draw import Devices
from sim.fleet.presence import Presence, expected, presence
from sim.scenario.model import Polling, SiteSize
from tests.unit.fleet.fleets import fleet


def started(*sites: list[float]) -> Devices:
    """Sites whose devices start at these times."""
    sizes = {len(s) for s in sites}
    assert len(sizes) == 1
    scenario = fleet(size=SiteSize(low=min(sizes), high=min(sizes)), count=len(sites))
    devices = draw.draw_devices(scenario, scenario.sites[0], 1)
    return replace(devices, start_s=np.concatenate([np.asarray(s, float) for s in sites]))


def found(devices: Devices, *, takes_s: float = 10.0, away_s: float = 20.0) -> Presence:
    gone = devices.start_s + takes_s
    return presence(devices, gone, gone + away_s)


def test_who_starts_together_is_not_alone() -> None:
    devices = started([5.0, 5.0, 5.0], [0.0, 0.0, 0.0])
    assert not found(devices).alone.any()
    assert np.array_equal(found(devices).served_s, devices.start_s)


def test_who_starts_while_all_others_are_away_waits_for_the_first_that_is_back() -> None:
    devices = started([0.0, 3.0, 15.0], [0.0, 3.0, 12.0], [0.0, 3.0, 40.0])
    who = found(devices)  # the first two are away from 10 and 13 until 30 and 33
    assert who.alone.tolist() == [False, False, True] + [False] * 6, "one is there at 12, all at 40"
    assert who.served_s[2] == 30.0
    assert np.array_equal(np.delete(who.served_s, 2), np.delete(devices.start_s, 2))


def test_sites_do_not_see_each_other_however_late_they_start() -> None:
    lone = started([0.0, 15.0], [1e6, 1e6 + 15.0], [7.0, 7.0])
    who = found(lone)
    assert who.alone.tolist() == [False, True, False, True, False, False]
    assert who.served_s[[1, 3]].tolist() == [30.0, 1e6 + 30.0]


def test_who_never_comes_back_is_waited_for_in_vain() -> None:
    devices = started([0.0, 15.0])
    who = presence(devices, np.array([10.0, 25.0]), np.full(2, np.inf))
    assert who.alone.tolist() == [False, True]
    assert np.isinf(who.served_s[1])


def test_others_are_expected_if_one_of_them_was_heard_of_lately() -> None:
    devices = started([0.0, 1.0, 100.0], [100.0, 300.0, 300.0], [2000.0, 2100.0, 2100.0], [0.0, 0.0, 0.0])
    devices = replace(devices, wan=np.ones(len(devices), dtype=bool))
    first = devices.least(devices.start_s)
    likely = expected(devices, Polling(every_s=1800.0), first, 2.0)
    # One of three starts within the 2 s; each of two was heard of with 800 of 1800; 2000 s is too long ago.
    assert np.allclose(likely, [0.5, 1 - (1 - 800 / 1800) ** 2, 0.0, 0.0])
    assert not expected(devices, Polling(every_s=1800.0, at_rest=True), first, 2.0).any()
