"""What the fleet model reckons from causes, beside runs of the real code of one site each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim import world
from sim.fleet.fit import Sample, reckoned, sample
from sim.fleet.parameters import fitted
from sim.fleet.training import training_scenario
from sim.scenario.model import Scenario, SiteSize, Uptime

SEEDS = (1, 2, 4)


def two_devices(*, reboot_s: float, spread_s: float) -> Scenario:
    """Two devices with one base, behind a thin link, that start within `spread_s` of each other."""
    scenario = training_scenario(100_007)
    kind, *late = scenario.classes
    kind = replace(kind, bases={"old": 1.0}, reboot_s=reboot_s, uptime=Uptime(start_spread_s=spread_s))
    site = replace(scenario.sites[0], size=SiteSize(low=2, high=2))
    return replace(scenario, classes=(kind, *late), sites=(site, *scenario.sites[1:]))


def packs_fetched(one: Sample) -> float:
    """How often the pack crosses the WAN by the model."""
    _, load = one.loaded(fitted())
    return float(load.payload[0]) / one.packs.for_base("old").wan_bytes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("reboot_s", "copies"), [(40.0, 1), (150.0, 2)])
def test_who_starts_while_the_other_restarts_waits_for_it_but_not_for_ever(
    seed: int, reboot_s: float, copies: int
) -> None:
    scenario = two_devices(reboot_s=reboot_s, spread_s=reboot_s)
    outcome = world.run(scenario, seed)
    one = sample(scenario, outcome)
    frames = one.packs.for_base("old").frames
    fetched = sum(d.frames_wan for d in outcome.devices if d.site == outcome.sites[0].site)
    assert fetched == copies * frames
    assert packs_fetched(one) == pytest.approx(copies)
    in_bytes, in_time = reckoned(one, fitted())
    assert in_bytes == pytest.approx(one.down + one.up, rel=0.03)
    assert in_time == pytest.approx(one.seconds, rel=0.05)
