"""Sites to fit the model to, and others to test it on: random, but the same from the same seed.

Sizes from 1 to 64 (10 on a radio channel), WANs from 200 kbit/s to 20 Mbit/s, images from 4 to 64 MiB,
switched and wireless LANs, one base or several, devices that start together, at rest or spread out.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from p2p.content.limits import KIB, MIB
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Lan,
    LanKind,
    Order,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Storage,
    SyntheticRelease,
    Uptime,
    Wan,
)

BASES = ("old", "older", "oldest")
SWITCHED = (12_500_000, 125_000_000)
"""Rates of switched LANs, bytes per second."""

SIZE_MAX = 64
"""Devices of a site at most."""

WIRELESS_MAX = 10
"""Devices that share one radio channel at most: every copy crosses it twice."""

IDEAL_MAX_S = 4 * 3600.0
"""A site takes at most this long at the rate of its link, so that a fit does not take days."""


def training_scenario(seed: int, *, size_max: int = SIZE_MAX) -> Scenario:
    """A scenario of one random site, the first, and one more device that ends last."""
    rng = random.Random(f"fleet model/{seed}")
    devices = _log_uniform(rng, 1, size_max)
    image = _log_uniform(rng, 4 * MIB, 64 * MIB) // KIB * KIB
    rate = float(_log_uniform(rng, 25_000, 2_500_000))
    mixes = (
        {NO_BASE: 1.0},
        {"old": 1.0},
        {"old": 0.5, "older": 0.5},
        {"old": 0.6, "older": 0.3, NO_BASE: 0.1},
        {"old": 0.4, "older": 0.3, "oldest": 0.3},
    )
    mix = mixes[rng.randrange(len(mixes))]
    full = int(image * rng.uniform(0.4, 1.0))
    deltas = tuple(
        DeltaSpec(base, max(20 * KIB, int(full * share * rng.uniform(0.5, 1.5))), rng.uniform(0.05, 0.6))
        for base, share in zip(BASES, (0.05, 0.1, 0.2), strict=True)
    )
    release = SyntheticRelease("new", image, min(full, image), deltas)
    fewest = min(next((d.stored for d in deltas if d.base == base), full) for base in mix)
    rate = max(rate, fewest / IDEAL_MAX_S)
    wireless = rng.random() < 0.3
    devices = min(devices, WIRELESS_MAX) if wireless else devices
    lan = Lan(
        LanKind.WIFI if wireless else LanKind.SWITCHED,
        rate=float(
            _log_uniform(rng, 3_000_000, 30_000_000) if wireless else rng.choice((12_500_000, 125_000_000))
        ),
        delay_s=rng.uniform(0.0002, 0.003),
    )
    # What a LAN of radio has to carry twice for every device must not take days either.
    image_s = 2 * image * devices / lan.rate if wireless else 0.0
    start = rng.choice(("together", "together", "rest", "rest", "rest", "spread"))
    kind = DeviceClass(
        "device",
        mix,
        uptime=Uptime(start_spread_s=rng.uniform(5, 600) if start == "spread" else 0.0),
        storage=Storage(write_rate=rng.uniform(5e6, 80e6), read_rate=rng.uniform(40e6, 200e6)),
        patch_rate=rng.uniform(10e6, 60e6),
        reboot_s=rng.uniform(5, 20),
    )
    group = SiteGroup(
        "site", 1, SiteSize(low=devices, high=devices), {"device": 1.0}, lan,
        Wan(rate, delay_s=rng.choice((0.01, 0.02, 0.05, 0.3))),
    )  # fmt: skip
    # A second site that is done later keeps the run going, so that what devices say last is counted too.
    late = replace(kind, name="late", reboot_s=120.0 + 1.5 * (fewest / rate + image_s))
    last = SiteGroup("last", 1, SiteSize(low=1, high=1), {"late": 1.0}, wan=Wan(1e8))
    duration = 3600.0 + 20 * (fewest / rate + image_s) + 4 * full / rate
    return Scenario(
        name=f"fleet-model-{seed}",
        description="A random site that the fleet model is fitted to or tested on.",
        duration_s=duration,
        releases=(release,),
        classes=(kind, late),
        sites=(group, last),
        orders=(Order("new"),),
        polling=Polling(every_s=duration * 2, at_rest=start == "rest"),
    )


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))
