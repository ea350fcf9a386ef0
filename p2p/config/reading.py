"""A TOML document to an `AgentConfig`: which keys there are, what they may be, what they are by default."""

from __future__ import annotations

import os.path
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from p2p.config.cost import read_weights
from p2p.config.model import (
    AgentConfig,
    BootConfig,
    BudgetsConfig,
    CarrierConfig,
    CoordinatorConfig,
    DeviceConfig,
    DiscoveryConfig,
    HealthConfig,
    NetworkConfig,
    OriginConfig,
    SlotConfig,
    SwarmConfig,
    TrustConfig,
)
from p2p.config.table import Problems, Table
from p2p.content.limits import CARRIED_PRODUCTS_MAX, MIB, PRICE_MAX, PRICE_UNIT
from p2p.errors import ConfigError
from p2p.swarm.policy import PeerDeltas, Policy

DISK_MIN = 16 << 20
"""Trust metadata, indexes and records of a device with room to spare; they are written in any case."""

BY_MACHINE = "a sixteenth of the machine's memory, 8 to 32 MiB"
"""What `patch_memory` is where it is not set (`agent.spool`)."""

CONFIG_SIZE_MAX = 1 << 20
CONFIG_FILE = Path("/etc/slipstream/agent.toml")
DEFAULT_LISTEN = "0.0.0.0:7470"
GATEWAYS_MAX = 3
RECOMPUTE_MEMORY_MIN = 128 << 20
ATTEMPTS_MAX = 100
SERVE_MAX_S = 366 * 86_400

_POLICY = Policy()


def read_config(path: Path) -> AgentConfig:
    """The configuration in a file; raises `ConfigError` naming every key at fault."""
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror or error}",
            next_step="name it with --config; deploy/agent.toml is a commented example",
        ) from error
    return parse_config(data, source=str(path), directory=path.absolute().parent)


def parse_config(data: bytes, *, source: str, directory: Path) -> AgentConfig:
    """Parse and check a document. `source` is named in messages; relative paths start at `directory`."""
    if len(data) > CONFIG_SIZE_MAX:
        raise ConfigError(f"{source}: over {CONFIG_SIZE_MAX} bytes, so it is not a configuration")
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}", next_step="correct that line") from error
    problems = Problems(text)
    config = _read(Table(document, (), problems, directory))
    if problems.found or config is None:
        lines = "\n".join(f"  {line}" for line in problems.lines())
        count = "1 fault" if len(problems.found) == 1 else f"{len(problems.found)} faults"
        raise ConfigError(f"{source}: {count}\n{lines}", next_step="deploy/agent.toml shows every key")
    return config


def _read(root: Table) -> AgentConfig | None:
    device = root.table("device", required=True)
    state_dir = device.path("state_dir")
    device_config = DeviceConfig(
        id=device.name("id"),
        product=device.name("product"),
        hardware=device.name("hardware"),
        state_dir=state_dir,
    )
    coordinator = root.table("coordinator", required=True)
    coordinator_config = CoordinatorConfig(
        url=coordinator.url("url"),
        ca=coordinator.optional("ca", coordinator.path),
        poll_s=coordinator.number("poll_s", 0.1, 86_400, default=60),
    )
    origin = root.table("origin")
    origin_url = origin.optional("url", origin.url)
    origin_ca = origin.optional("ca", origin.path)
    if origin_url is None and origin_ca is not None:
        origin.fault("ca", "is of no use without origin.url: the coordinator's ca is used")
    origin_config = OriginConfig(
        url=coordinator_config.url if origin_url is None else origin_url,
        ca=coordinator_config.ca if origin_url is None else origin_ca,
    )
    trust = root.table("trust")
    trust_config = TrustConfig(
        root=trust.path("root", default=state_dir / "root.json"),
        build_time=trust.optional("build_time", trust.moment),
        fleet_ca=trust.optional("fleet_ca", trust.path),
    )
    network = root.table("network")
    network_config = NetworkConfig(
        listen=network.endpoint("listen", port_min=0, default=DEFAULT_LISTEN),
        advertise=network.optional("advertise", network.host),
        site=network.optional("site", network.name),
    )
    discovery = root.table("discovery")
    discovery_config = DiscoveryConfig(
        roster=discovery.boolean("roster", default=True),
        mdns=discovery.boolean("mdns", default=True),
        mdns_interfaces=discovery.addresses("mdns_interfaces"),
        peers=discovery.endpoints("peers"),
    )
    slots_table = root.table("slots", required=True)
    tables = {name: slots_table.table(name) for name in slots_table.payload_names()}
    slots = {name: _slots(table) for name, table in tables.items()}
    boot = root.table("boot")
    boot_config = BootConfig(
        environment=boot.path("environment", default=state_dir / "boot.env"),
        default_slot=boot.choice("default_slot", ("a", "b"), default="a"),
        reboot_command=boot.optional("reboot_command", boot.command),
        attempts=boot.integer("attempts", 1, ATTEMPTS_MAX, default=3),
    )
    _check_places(tables, slots, boot_config.environment)
    health = root.table("health")
    health_config = HealthConfig(
        command=health.optional("command", health.command),
        timeout_s=health.number("timeout_s", 0.1, 3600, default=60),
    )
    budgets = root.table("budgets")
    budgets_config = BudgetsConfig(
        wan_rate_max=budgets.optional("wan_rate_max", budgets.rate),
        site_wan_rate_max=budgets.optional("site_wan_rate_max", budgets.rate),
        lan_rate_max=budgets.optional("lan_rate_max", budgets.rate),
        wan_month_max=budgets.optional("wan_month_max", budgets.size),
        site_wan_month_max=budgets.optional("site_wan_month_max", budgets.size),
        wan_price_per_mb=budgets.optional("wan_price_per_mb", _price_per_mb(budgets)),
        disk_max=budgets.optional("disk_max", lambda key: budgets.size(key, DISK_MIN)),
        patch_memory=budgets.optional("patch_memory", lambda key: budgets.size(key, MIB, BY_MACHINE)),
        wan_windows=budgets.windows("wan_windows"),
        zone=budgets.zone("time_zone", default="UTC"),
        recompute_memory=budgets.optional("recompute_memory", budgets.size),
        recompute_cpu=budgets.number("recompute_cpu", 0.01, 1, default=1, what="share of a core"),
        wan_gives_way=budgets.boolean("wan_gives_way", default=False),
        wan_metered=budgets.boolean("wan_metered", default=False),
        wan_roaming=budgets.boolean("wan_roaming", default=False),
        conditions=budgets.optional("conditions", budgets.path),
    )
    if (budgets_config.recompute_memory or RECOMPUTE_MEMORY_MIN) < RECOMPUTE_MEMORY_MIN:
        budgets.fault("recompute_memory", "is less than the 128 MiB that a child needs with nothing to do")
    if budgets.has("recompute_cpu") and not budgets.has("recompute_memory"):
        budgets.fault("recompute_cpu", "bounds nothing without recompute_memory")
    swarm = root.table("swarm")
    swarm_config = SwarmConfig(
        settle_s=swarm.number("settle_s", 0, 600, default=_POLICY.settle_s),
        stall_s=swarm.number("stall_s", 0.5, 3600, default=_POLICY.stall_s),
        fallback_s=swarm.number("fallback_s", 1, 86_400, default=_POLICY.fallback_s),
        gateways_max=swarm.integer("gateways_max", 1, GATEWAYS_MAX, default=_POLICY.gateways_max),
        wan=swarm.boolean("wan", default=True),
        weight=swarm.integer("weight", 0, 1000, default=100),
        carrier=swarm.boolean("carrier", default=False),
        serve_s=swarm.optional("serve_s", lambda key: swarm.integer(key, 0, SERVE_MAX_S, default=0)),
        lookout=swarm.boolean("lookout", default=True),
        peer_deltas=PeerDeltas(
            swarm.choice("peer_deltas", tuple(p.value for p in PeerDeltas), default=_POLICY.peer_deltas.value)
        ),
    )
    cost = root.table("cost")
    weights = read_weights(cost)
    carrier = root.table("carrier")
    carrier_config = _carrier(carrier, swarm_config, budgets_config)
    for table in (
        device,
        coordinator,
        origin,
        trust,
        network,
        discovery,
        boot,
        health,
        budgets,
        swarm,
        cost,
        carrier,
        root,
    ):
        table.finish()
    return AgentConfig(
        device_config,
        coordinator_config,
        origin_config,
        trust_config,
        network_config,
        discovery_config,
        slots,
        boot_config,
        health_config,
        budgets_config,
        swarm_config,
        weights,
        carrier_config,
    )


def _carrier(table: Table, swarm: SwarmConfig, budgets: BudgetsConfig) -> CarrierConfig:
    config = CarrierConfig(
        products=table.names("products", CARRIED_PRODUCTS_MAX),
        quota=table.optional("quota", table.size),
        learn=table.boolean("learn", default=True),
    )
    if table.keys() and not swarm.carrier:
        table.fault(table.keys()[0], "is of no use without swarm.carrier = true")
    if config.quota is None and (config.products or table.has("learn")):
        table.fault("quota", "is missing: how many bytes of images for others may be kept")
    if config.quota is not None and budgets.disk_max is not None and config.quota > budgets.disk_max:
        table.fault("quota", f"is more than budgets.disk_max ({budgets.disk_max}), which counts it too")
    return config


def _price_per_mb(table: Table) -> Callable[[str], float]:
    what = "what 1,000,000 bytes cost, in one currency for all devices"
    return lambda key: table.number(key, 0, PRICE_MAX / PRICE_UNIT, default=0, what=what)


def _slots(table: Table) -> SlotConfig:
    slots = SlotConfig(table.path("a"), table.path("b"))
    table.finish()
    return slots


def _check_places(tables: Mapping[str, Table], slots: Mapping[str, SlotConfig], environment: Path) -> None:
    """Note slots that share a place with another, or with the boot environment, by their names alone."""
    taken = {os.path.normpath(place): "boot.environment" for place in (environment, f"{environment}.2")}
    for payload, table in tables.items():
        for slot, place in slots[payload].places.items():
            if not table.has(slot):
                continue
            other = taken.setdefault(os.path.normpath(place), f"slots.{payload}.{slot}")
            if other != f"slots.{payload}.{slot}":
                other = other.removeprefix(f"slots.{payload}.")
                table.fault(slot, f"is the same place as {other}: an update would overwrite what the device"
                            " runs from")  # fmt: skip
