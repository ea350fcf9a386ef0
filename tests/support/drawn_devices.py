"""The devices of a world as the fleet model takes them, so that both reckon the very same fleet."""

from __future__ import annotations

import numpy as np

from sim.fleet.draw import Devices, base_names
from sim.scenario.model import Scenario
from sim.world.run import World


def drawn_devices(scenario: Scenario, seed: int) -> list[Devices]:
    """One `Devices` per site group, as `sim.world` draws them from `seed`; all start at the start."""
    world = World(scenario, seed)
    names = base_names(scenario)
    found = []
    for group in scenario.sites:
        classes = tuple(c for c in scenario.classes if group.classes.get(c.name, 0.0) > 0)
        sites = [site for site in world.sites.values() if site.group is group]
        sizes = [len(site.honest) for site in sites]
        devices = [device for site in sites for device in site.honest]
        rng = np.random.default_rng(seed)
        found.append(
            Devices(
                classes=classes,
                bases=names,
                offsets=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
                order=np.asarray([d.draw for d in devices]),
                site=np.repeat(np.arange(len(sites), dtype=np.int64), sizes),
                cls=np.asarray([classes.index(d.klass) for d in devices], dtype=np.int64),
                base=np.asarray([names.index(d.first_base) for d in devices], dtype=np.int64),
                wan=np.asarray([d.has_wan for d in devices]),
                healthy=np.asarray([d.healthy for d in devices]),
                start_s=np.zeros(len(devices)),
                polls=rng.random(len(devices)),
                luck=rng.random(len(devices)),
            )
        )
    return found
