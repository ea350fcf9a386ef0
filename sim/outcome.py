"""What a simulated run came to: plain values that checks, reports, sweeps and the fleet model read.

All sizes are bytes, all times seconds of virtual time since the start. `sim.runs.keep` writes a run into
a file and loses nothing, so a run that was kept is as good as one just made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceOutcome:
    """One device. `wan_bytes` is what crossed the WAN for it, protocol overhead included."""

    device: str
    site: str
    device_class: str
    base: str
    state: str
    """`committed`, `rolled-back`, `failed`, `fetching`, `waiting`, `down`, `hostile`, `carrying`…"""
    started_s: float | None
    meant_s: float | None
    """When it first knew of the order."""
    verified_s: float | None
    """When its image was read back right."""
    finished_s: float | None
    """When the release was committed."""
    wan_bytes: int
    """All bytes over the WAN, both directions."""
    frames_wan: int
    """Frame bytes fetched over the WAN, wasted ones included."""
    from_peers: int
    sent: int
    wasted: int

    @property
    def is_meant(self) -> bool:
        """Whether it is to finish at all: neither hostile nor only a carrier of what others run."""
        return self.state not in ("hostile", "carrying")


@dataclass(frozen=True, slots=True)
class SiteOutcome:
    """One site. `floor_bytes`: the cheapest published way for what its devices need, indexes and
    metadata counted once; None where nothing was meant for it."""

    site: str
    group: str
    devices: int
    finished: int
    wan_down: int
    wan_up: int
    lan_bytes: int
    floor_bytes: int | None
    money: float
    finished_s: float | None
    """When its last device finished; None if one has not."""

    @property
    def amplification(self) -> float | None:
        """WAN bytes down per byte of the floor."""
        return self.wan_down / self.floor_bytes if self.floor_bytes else None


@dataclass(frozen=True, slots=True)
class Series:
    """A step function: `values[i]` holds from `times[i]` on."""

    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """On the timeline of a site: `device` was at something about target range `[start, stop)`.

    `what`: `fetched` (over the WAN), `rode` (from `source`), `made` (locally), `wasted`.
    """

    device: str
    what: str
    since_s: float
    until_s: float
    start: int
    stop: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen, did. `check` names the rule."""

    check: str
    at_s: float
    site: str | None
    device: str | None
    message: str


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A run. `timelines`: spans of the sites asked for. `trace_digest`: hex SHA-256 of the trace."""

    scenario: str
    seed: int
    virtual_s: float
    events: int
    trace_digest: str
    devices: tuple[DeviceOutcome, ...]
    sites: tuple[SiteOutcome, ...]
    origin_egress: Series
    """Bytes per second out of the origin."""
    completion: Series
    """Devices finished."""
    timelines: dict[str, tuple[Span, ...]]
    violations: tuple[Violation, ...]

    @property
    def amplification(self) -> float | None:
        """WAN bytes down of all sites per byte of their floors."""
        floors = sum(site.floor_bytes or 0 for site in self.sites)
        return sum(s.wan_down for s in self.sites if s.floor_bytes) / floors if floors else None
