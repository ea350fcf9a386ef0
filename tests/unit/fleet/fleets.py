"""Small fleets, and constants under which the model is its closed forms, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sim.fleet import draw, model
from sim.fleet.curve import of_wan
from sim.fleet.outcome import NO_ERROR
from sim.fleet.packs import Pack, Packs
from sim.fleet.parameters import BYTE_TERMS, TIME_TERMS, Parameters
from sim.fleet.setting import Setting
from sim.scenario.model import (
    DeltaSpec,
    DeviceClass,
    Lan,
    Order,
    Phase,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Storage,
    SyntheticRelease,
    Wan,
)

MB = 1_000_000
PACKS = Packs("new", 100 * MB, (Pack(None, 0, 50 * MB, 0), Pack("a", 0, 4 * MB, 0), Pack("b", 0, 10 * MB, 0)))


def plain(**changes: Mapping[str, float]) -> Parameters:
    """Payload bytes and the bound, nothing else."""
    nothing = dict.fromkeys(BYTE_TERMS, 0.0)
    return Parameters(
        down=nothing | {"payload": 1.0} | changes.get("down", {}),
        up=nothing | changes.get("up", {}),
        time=dict.fromkeys(TIME_TERMS, 0.0) | {"bound": 1.0} | changes.get("time", {}),
        metadata=0.0,
        error=NO_ERROR,
    )


def fleet(
    *,
    bases: Mapping[str, float] | None = None,
    size: SiteSize | None = None,
    count: int = 1,
    wan: Wan | None = None,
    polling: Polling | None = None,
    phases: tuple[Phase, ...] = (Phase(1.0, 0.0),),
    **device: Any,
) -> Scenario:
    """Sites alike, on a LAN and media so fast that only the WAN counts."""
    kind = DeviceClass(
        "box",
        bases or {"a": 1.0},
        **{"storage": Storage(1e15, 1e15), "reboot_s": 0.0, "patch_rate": 1e15, **device},
    )
    release = SyntheticRelease("new", 100 * MB, 50 * MB, (DeltaSpec("a", 4 * MB), DeltaSpec("b", 10 * MB)))
    return Scenario(
        name="fleet",
        description="",
        duration_s=1e6,
        releases=(release,),
        classes=(kind,),
        sites=(
            SiteGroup(
                "site", count, size or SiteSize(low=4, high=4), {"box": 1.0}, Lan(rate=1e15), wan or Wan(1e6)
            ),
        ),
        orders=(Order("new", phases),),
        polling=polling or Polling(at_rest=True),
    )


def spread(
    scenario: Scenario,
    *,
    shared: bool,
    packs: Packs = PACKS,
    parameters: Parameters | None = None,
    quota: float = 0.0,
) -> tuple[Setting, model.Load, np.ndarray]:
    """The first group under one way: its setting, what it fetches, and when devices finish."""
    group = scenario.sites[0]
    devices = draw.draw_devices(scenario, group, 1)
    setting = Setting(group, devices, scenario.polling, scenario.policy, parameters or plain(), quota)
    curve = of_wan(group.wan, starts_of_day=0.0, horizon_s=1e8)
    opens = draw.opened(devices, scenario.orders[0].phases)
    known = draw.known(devices, scenario.polling, opens, curve, gossip=shared)
    load = model.load(setting, packs, known, opens, curve, shared=shared)
    return setting, load, model.finish(setting, load, curve)
