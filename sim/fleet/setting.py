"""What the model is asked about: one group of sites and the constants that hold. Not for what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2p.swarm.plan import gateway_count
from p2p.swarm.policy import Policy
from sim.fleet.curve import Floats
from sim.fleet.draw import Devices
from sim.fleet.parameters import Parameters
from sim.scenario.model import Polling, SiteGroup


@dataclass(frozen=True, slots=True)
class Setting:
    """What a group's devices meet: who they are, where, and the constants that hold."""

    group: SiteGroup
    devices: Devices
    polling: Polling
    policy: Policy
    parameters: Parameters
    quota: float = 0.0
    """WAN bytes of a site in each 30 days; 0: no limit."""
    openings: int = 0
    """Phases that open later than what devices at rest are told first, or devices that start find."""


def transfers(setting: Setting, *, shared: bool) -> int:
    """How many transfers over the WAN of a middling site are under way at once."""
    size = int(np.median(setting.devices.sizes))
    return gateway_count(size, setting.policy.gateways_max) if shared else size


def up_share(setting: Setting) -> Floats:
    """The share of time that each device is up, per device."""
    shares = [
        c.uptime.on_mean_s / (c.uptime.on_mean_s + c.uptime.off_mean_s) if c.uptime.on_mean_s > 0 else 1.0
        for c in setting.devices.classes
    ]
    return setting.devices.per_class(shares)
