"""What an agent is configured with, as plain values: bytes, seconds, bytes per second."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from p2p.content.limits import PRICE_UNIT
from p2p.swarm.allowance import DailyWindow
from p2p.swarm.cost import USUAL, Weights
from p2p.swarm.policy import PeerDeltas


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Who the device is and where the agent keeps what it knows (on storage that both slots see)."""

    id: str
    product: str
    hardware: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """`ca`: PEM file that its HTTPS certificate must chain to; None for the system's roots."""

    url: str
    ca: Path | None
    poll_s: float


@dataclass(frozen=True, slots=True)
class OriginConfig:
    """Where metadata and objects come from; the coordinator unless said otherwise."""

    url: str
    ca: Path | None


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """`root`: the pinned root metadata. `build_time`: seconds since 1970 that the clock is never before.

    `fleet_ca`: the fleet's certificate authority, where it is shipped with the device instead of being
    learned at enrolment (which a plain HTTP coordinator does not protect)."""

    root: Path
    build_time: float | None
    fleet_ca: Path | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or IP literal, without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """`listen`: port 0 takes any. `advertise`: the host that peers are told. `site`: what the certificate
    must say, where that is to be checked."""

    listen: Endpoint
    advertise: str | None
    site: str | None


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Which sources of peers are on; `mdns_interfaces` are addresses, empty for all."""

    roster: bool
    mdns: bool
    mdns_interfaces: tuple[str, ...]
    peers: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class SlotConfig:
    """The two places of one payload: files or block devices."""

    a: Path
    b: Path

    @property
    def places(self) -> dict[str, str]:
        """As `FileSlots` takes them."""
        return {"a": str(self.a), "b": str(self.b)}


@dataclass(frozen=True, slots=True)
class BootConfig:
    """`reboot_command` None: the switch is made without a reboot (slots that are only files)."""

    environment: Path
    default_slot: str
    reboot_command: tuple[str, ...] | None
    attempts: int


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """`command` None: a slot that the agent starts from is healthy."""

    command: tuple[str, ...] | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class BudgetsConfig:
    """Rates in bytes per second, `wan_month_max` and `disk_max` in bytes; None for no limit.
    `wan_price_per_mb`: what 10^6 bytes of its WAN cost, in the operator's money; None: not known.
    `site_wan_rate_max`, `site_wan_month_max`: of all devices of the site together, each of which must have
    it. `disk_max`: of the agent's own files (`adapters.disk_quota`). `patch_memory`: what patches kept for
    peers may fill of memory, in bytes; None: by what the machine has (`agent.spool`).

    `wan_windows`: when frames may be fetched, in `zone`; empty for always. `recompute_memory`: what a child
    may take to make a patch anew for peers; None: none is made; `recompute_cpu`: the share of a core that
    this may take on the average. `wan_gives_way`: updates leave the link to
    whatever else uses it. `wan_metered`: its bytes cost money, always; `wan_roaming`: frames may be fetched
    while it roams; `conditions`: the file that says what holds just now (`adapters.conditions`)."""

    wan_rate_max: int | None
    site_wan_rate_max: int | None
    lan_rate_max: int | None
    wan_month_max: int | None
    site_wan_month_max: int | None
    wan_price_per_mb: float | None
    disk_max: int | None
    patch_memory: int | None
    wan_windows: tuple[DailyWindow, ...]
    zone: tzinfo
    recompute_memory: int | None
    recompute_cpu: float
    wan_gives_way: bool
    wan_metered: bool
    wan_roaming: bool
    conditions: Path | None

    @property
    def price(self) -> int | None:
        """Of a MB, in millionths, as peers are told."""
        return None if self.wan_price_per_mb is None else round(self.wan_price_per_mb * PRICE_UNIT)


@dataclass(frozen=True, slots=True)
class SwarmConfig:
    """Times in seconds (see `p2p.swarm.policy`). `wan`: whether the device has a way to the origin.

    `weight`: how gladly it is a gateway (0: only when nobody else can be). `carrier`: it visits sites
    that have no WAN, and takes along what they need of its images. `serve_s`: for how long it gives peers
    what it runs; None: always. `lookout`: whether one device may ask the origin for the site, or each asks
    for itself. `peer_deltas`: for which bases it asks peers for deltas that nobody signed, and makes them."""

    settle_s: float
    stall_s: float
    fallback_s: float
    gateways_max: int
    wan: bool
    weight: int
    carrier: bool
    serve_s: int | None
    lookout: bool = True
    peer_deltas: PeerDeltas = PeerDeltas.UNPUBLISHED


@dataclass(frozen=True, slots=True)
class CarrierConfig:
    """What a carrier takes along beside what it runs: releases of `products` (all hardware), the first before
    the others, within `quota` bytes of images; None: nothing. `learn`: also of products that devices without
    a WAN have asked it for."""

    products: tuple[str, ...] = ()
    quota: int | None = None
    learn: bool = True


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All of it. `slots` maps payload names to their places; `cost`: what the site plan weighs by."""

    device: DeviceConfig
    coordinator: CoordinatorConfig
    origin: OriginConfig
    trust: TrustConfig
    network: NetworkConfig
    discovery: DiscoveryConfig
    slots: dict[str, SlotConfig]
    boot: BootConfig
    health: HealthConfig
    budgets: BudgetsConfig
    swarm: SwarmConfig
    cost: Weights = USUAL
    carrier: CarrierConfig = CarrierConfig()

    @property
    def key_path(self) -> Path:
        """The device's private key, made on the device."""
        return self.device.state_dir / "device.key"

    @property
    def certificate_path(self) -> Path:
        """The device's certificate, from enrolment."""
        return self.device.state_dir / "device.pem"

    @property
    def fleet_ca_path(self) -> Path:
        """The fleet CA that peers must have been certified by."""
        return self.trust.fleet_ca or self.device.state_dir / "fleet-ca.pem"

    @property
    def slots_dir(self) -> Path:
        """Where slot records and journals live, a directory per payload."""
        return self.device.state_dir / "slots"

    @property
    def imported_dir(self) -> Path:
        """The bundle that was imported last, as far as it is of use here (`slipstream bundle import`)."""
        return self.device.state_dir / "imported"

    @property
    def carrying_dir(self) -> Path:
        """What a carrier keeps for others: images, signed documents, and who asked for what."""
        return self.device.state_dir / "carrying"

    @property
    def status_path(self) -> Path:
        """Where a running agent writes what `slipstream agent status` shows."""
        return self.device.state_dir / "status.json"
