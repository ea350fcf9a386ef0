"""How much memory a run will need, before it starts.

Each virtual device is a real node: it keeps per image a few facts for every piece, and per connection
what the other side has. The constants are fitted to what `benchmarks/sim_memory.py` measures, all rules
watching (CPython 3.11, x86-64), and rounded up by a tenth. What a piece costs for each connection is by
`bench-1000`; sites of up to 100 devices take a quarter less than is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.scenario.model import RepositoryRelease, Scenario, SiteSize, SizeKind

__all__ = ["Estimate", "devices_of", "estimate"]

BASE_BYTES = 76e6
SITE_BYTES = 60e3
DEVICE_BYTES = 52e3
PIECE_BYTES = 520.0
CONNECTION_BYTES = 4.5e3
CONNECTION_PIECE_BYTES = 16.0
REPOSITORY_PIECES = 8000
"""What is assumed of a release whose indexes are not read yet: 1 GB in chunks of 128 KiB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is expected to need. `devices` is the mean over seeds."""

    devices: int
    connections: int
    pieces: int
    memory_bytes: int


def devices_of(size: SiteSize) -> float:
    """The mean number of devices of a site."""
    match size.kind:
        case SizeKind.FIXED:
            return float(size.low)
        case SizeKind.UNIFORM:
            return (size.low + size.high) / 2
        case SizeKind.LOGNORMAL:
            mean = size.median * math.exp(size.sigma**2 / 2)
            return min(max(mean, size.low), size.high)


def estimate(scenario: Scenario) -> Estimate:
    """The memory of one run of a scenario in this process."""
    pieces = sum(
        REPOSITORY_PIECES if isinstance(release, RepositoryRelease) else -(-release.size // release.chunk)
        for release in scenario.releases
    )
    devices = connections = 0.0
    for site in scenario.sites:
        each = devices_of(site.size)
        devices += site.count * each
        connections += site.count * each * min(each - 1, site.lan.degree_max)
    memory = (
        BASE_BYTES
        + sum(site.count for site in scenario.sites) * SITE_BYTES
        + devices * (DEVICE_BYTES + pieces * PIECE_BYTES)
        + connections * (CONNECTION_BYTES + pieces * CONNECTION_PIECE_BYTES)
    )
    return Estimate(round(devices), round(connections), pieces, round(memory))
