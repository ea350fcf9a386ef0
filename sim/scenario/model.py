"""A scenario: everything that a run is determined by, but for its seed.

Plain frozen values; `sim.scenario.reading` makes them of TOML, `sim.world` runs them, `sim.fleet`
reckons with them. Times are seconds of virtual time since the start unless a name says otherwise
(`…_of_day`: seconds since midnight; a run starts at `Scenario.starts_of_day`). Rates are bytes per
second, sizes bytes, shares between 0 and 1. A scenario holds distributions; which device has which
base, when it starts and how large a site is come out of the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from p2p.content.limits import KIB
from p2p.swarm.allowance import DailyWindow
from p2p.swarm.policy import Policy

NO_BASE = "none"
"""The name of the base of a device whose slot holds nothing that is of use."""


# Releases


@dataclass(frozen=True, slots=True)
class DeltaSpec:
    """A delta pack of a synthetic release: `stored` bytes of frames; the rest of the image is copied."""

    base: str
    stored: int
    patched_share: float = 0.5
    """Share of the image that lies under patch frames (they need CPU; the rest is copied)."""
    published: bool = True
    """Otherwise there is no such pack, and a delta of so many bytes is what peers can compute for each
    other."""


@dataclass(frozen=True, slots=True)
class SyntheticRelease:
    """An image of `size` bytes with a full pack of `full_stored` bytes and a delta pack per known base."""

    name: str
    size: int
    full_stored: int
    deltas: tuple[DeltaSpec, ...] = ()
    chunk: int = 128 * KIB


@dataclass(frozen=True, slots=True)
class RepositoryRelease:
    """A release that stands in a real repository directory: its real manifest, indexes and sizes."""

    name: str
    repository: Path
    product: str
    version: str
    bases: Mapping[str, str] = field(default_factory=dict)
    """Names that the device classes use for bases, each with the version of a release of the repository."""


Release = SyntheticRelease | RepositoryRelease


# Links


class LanKind(StrEnum):
    """How a copy from peer to peer uses the local network."""

    SWITCHED = "switched"
    """Every node has its own port: a copy takes the sender's up and the receiver's down direction."""
    WIFI = "wifi"
    """One shared medium: a copy crosses the air twice, and everybody shares `rate`."""


@dataclass(frozen=True, slots=True)
class Lan:
    """The local network of a site. `loss` is a share of packets; it is reckoned as lost throughput."""

    kind: LanKind = LanKind.SWITCHED
    rate: float = 12.5e6
    delay_s: float = 0.0005
    loss: float = 0.0
    segments: int = 1
    """Subnets without multicast between them: nodes of other segments are known from the roster only."""
    degree_max: int = 64
    """Connections that a node keeps at most."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The WAN carries nothing in `[at_s, at_s + length_s)`; with `every_s` > 0 again and again."""

    at_s: float
    length_s: float
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Others download over the link meanwhile, as much as they can get."""

    at_s: float
    length_s: float
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wan:
    """A site's link to the origin."""

    rate: float
    up_rate: float = 0.0
    """0: as `rate`."""
    delay_s: float = 0.02
    loss: float = 0.0
    price_per_mb: float = 0.0
    """Money per 10^6 bytes, both directions."""
    windows: tuple[DailyWindow, ...] = ()
    outages: tuple[Outage, ...] = ()
    budget: float = 0.0
    """Bytes per second of images that the site's devices may fetch together; 0: no limit."""
    month_max: int = 0
    """Bytes that the site's devices may use of it together, both ways (`budgets.site_wan_month_max`); a run
    is one month; 0: no limit."""
    queue_s: float = 0.1
    """What its queue holds, at its rate."""
    traffic: tuple[Traffic, ...] = ()
    gives_way: bool = False
    """Whether devices leave the link to such traffic (`p2p.swarm.courtesy`)."""


# Devices and sites


@dataclass(frozen=True, slots=True)
class Uptime:
    """When a device runs: always, or on and off for exponentially distributed times."""

    on_mean_s: float = 0.0
    """0: always on."""
    off_mean_s: float = 0.0
    start_spread_s: float = 0.0
    """First start: uniform within this."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A device's medium."""

    write_rate: float = 50e6
    read_rate: float = 100e6
    capacity: int = 0
    """Bytes per slot; 0: as large as it must be."""
    fsync_s: float = 0.01


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Devices of one kind. `bases`: base name (or `NO_BASE`) to its share; shares add up to 1."""

    name: str
    bases: Mapping[str, float]
    uptime: Uptime = Uptime()
    storage: Storage = Storage()
    patch_rate: float = 40e6
    """Target bytes of patch frames applied per second of CPU."""
    recompute_rate: float = 0.0
    """Target bytes of patches and deltas made for peers per second of CPU; 0: it makes none."""
    has_wan: float = 1.0
    """Share of the devices that can reach the origin themselves (if their site has a WAN)."""
    wan_price_per_mb: float = 0.0
    """Money per 10^6 bytes of their own WAN, which they tell (`budgets.wan_price_per_mb`); 0: as their
    site's, and they tell none."""
    metered: bool = False
    """Whether they fetch for others only if nobody else can (`budgets.wan_metered`)."""
    clock_error_s: float = 0.0
    """Device clocks are wrong by up to this much, either way."""
    healthy: float = 1.0
    """Share of the devices on which the new release passes its health check."""
    reboot_s: float = 20.0
    carrier: bool = False
    """They visit sites without a WAN, and take along what those need of their images (`swarm.carrier`)."""
    cargo: int = 0
    """> 0: they run nothing that is ordered here, and take so many bytes of its images along for others
    (`[carrier]`)."""


class SizeKind(StrEnum):
    """How the number of devices of a site is drawn."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    LOGNORMAL = "lognormal"


@dataclass(frozen=True, slots=True)
class SiteSize:
    """Devices per site: `fixed` takes `low`; `uniform` is within `low..high`; `lognormal` has the median
    `median` and the shape `sigma`, cut to `low..high`."""

    kind: SizeKind = SizeKind.FIXED
    low: int = 8
    high: int = 8
    median: float = 8.0
    sigma: float = 0.5


@dataclass(frozen=True, slots=True)
class Stop:
    """A vehicle is at `site` (the name of a site group, or one of its sites, `name/0`) in
    `[at_s, at_s + length_s)`: its nodes are on that site's LAN. `wan`: and use this link there."""

    at_s: float
    length_s: float
    site: str | None = None
    wan: Wan | None = None


@dataclass(frozen=True, slots=True)
class SiteGroup:
    """`count` sites alike. With a `timetable` they are vehicles: their WAN (and further peers) are only
    what a stop gives them, besides `wan` if they have one."""

    name: str
    count: int
    size: SiteSize
    classes: Mapping[str, float]
    """Device class to its share of the devices."""
    lan: Lan = Lan()
    wan: Wan | None = None
    timetable: tuple[Stop, ...] = ()
    timetable_every_s: float = 0.0
    """> 0: the timetable repeats."""


# Orders


@dataclass(frozen=True, slots=True)
class Phase:
    """From `opens_s` on, the order is meant for this share of the devices in all (cumulative)."""

    share: float
    opens_s: float


@dataclass(frozen=True, slots=True)
class Order:
    """Install `release`. Phases in order of time; the last one's share is 1 for everybody."""

    release: str
    phases: tuple[Phase, ...] = (Phase(1.0, 0.0),)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin server (or CDN): `capacity` bytes per second for all sites; 0: no limit."""

    capacity: float = 0.0
    price_per_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Polling:
    """Devices ask the coordinator every `every_s`, jittered by `jitter` of it. `at_rest`: at the start
    the devices have run for long (connected, metadata fresh) and are told when an order is published.
    `lookout`: one asks for its site (`p2p.swarm.lookout`)."""

    every_s: float = 3600.0
    jitter: float = 0.2
    at_rest: bool = False
    lookout: bool = True


# Faults


class FaultKind(StrEnum):
    """What goes wrong."""

    CRASH = "crash"  # the device dies at once, unsynced writes are lost; back after `length_s`
    RESTART = "restart"  # the agent is killed, the disk keeps what was written; back after `length_s`
    LEAVE = "leave"  # the device goes and never comes back
    LATE = "late"  # the device starts only at `at_s`
    PARTITION = "partition"  # the site's LAN falls into two halves for `length_s`
    ORIGIN_DOWN = "origin-down"
    WAN_DOWN = "wan-down"  # of the sites that `where` names
    WAN_SLOW = "wan-slow"  # to `factor` of its rate
    CUT = "cut"  # every transfer under way over the WAN is cut, once
    BIT_ROT_BASE = "bit-rot-base"  # a range of `size` bytes of the base reads wrong
    BIT_ROT_SLOT = "bit-rot-slot"  # a written range of the spare slot reads wrong
    DISK_FULL = "disk-full"
    DISK_SLOW = "disk-slow"  # to `factor` of its rates
    CLOCK = "clock"  # the clock jumps by `size` seconds (may be negative)
    HOSTILE = "hostile"  # the devices are hostile from the start: see `manner`
    REVOKED = "revoked"  # their certificates are; with `manner` they were hostile from the start, and stay so


class Manner(StrEnum):
    """What a hostile device does; its certificate is a good one of the fleet."""

    POISON = "poison"  # wrong bytes for pieces
    LIAR = "liar"  # says that it has everything and answers nothing
    SLOW = "slow"  # answers one byte at a time
    FLOOD = "flood"  # messages without end
    GREEDY = "greedy"  # leases on everything, never delivers
    STALE = "stale"  # old metadata, replayed
    GARBAGE = "garbage"  # messages that break the protocol
    DELTA = "delta"  # offers to compute deltas for every base, and gives wrong ones


class Who(StrEnum):
    """Which of the devices that `where` names."""

    ANY = "any"
    GATEWAY = "gateway"  # those that fetch over the WAN at that moment, the busiest first
    RIDER = "rider"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, composable with all others. `count` devices (or all) of every site that `where` names."""

    kind: FaultKind
    at_s: float = 0.0
    length_s: float = 0.0
    where: str | None = None
    """A site group or one site (`name/0`); None: everywhere."""
    who: Who = Who.ANY
    count: int = 1
    factor: float = 1.0
    size: int = 0
    manner: Manner | None = None
    every_s: float = 0.0
    """> 0: again and again until `until_s`."""
    until_s: float = 0.0


# The whole


@dataclass(frozen=True, slots=True)
class Expect:
    """What a run of the scenario is held to, beside what every run is held to. 0: not asked."""

    amplification_max: float = 0.0
    finished_by_s: float = 0.0
    finished_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run, but for the seed. It ends when everything that can finish has, or after `duration_s`."""

    name: str
    description: str
    duration_s: float
    releases: tuple[Release, ...]
    classes: tuple[DeviceClass, ...]
    sites: tuple[SiteGroup, ...]
    orders: tuple[Order, ...]
    faults: tuple[Fault, ...] = ()
    origin: Origin = Origin()
    polling: Polling = Polling()
    policy: Policy = field(default_factory=Policy)
    expect: Expect = Expect()
    starts_of_day: float = 0.0
