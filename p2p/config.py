"""The agent's configuration: a TOML document to an `AgentConfig`.

Every fault is reported at once, each with its key, its line and what is allowed: a technician with one
maintenance window must not learn of them one per run. `deploy/agent.toml` is the commented example.
Paths may be relative to the file's own directory. Not for what a device learns later (its site and
groups are in its certificate, releases in signed documents).
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from p2p.content.fields import check_name
from p2p.errors import ConfigError, ContentError
from p2p.swarm.policy import Policy

CONFIG_SIZE_MAX = 1 << 20
DEFAULT_LISTEN = "0.0.0.0:7470"
GATEWAYS_MAX = 3
ATTEMPTS_MAX = 100

_T = TypeVar("_T")
_POLICY = Policy()
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


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
    """Bytes per second, None for no limit; `memory_max`: bytes of frames under way at once."""

    wan_rate_max: int | None
    lan_rate_max: int | None
    memory_max: int


@dataclass(frozen=True, slots=True)
class SwarmConfig:
    """Times in seconds (see `p2p.swarm.policy`). `wan`: whether the device has a way to the origin.

    `weight`: how gladly it is a gateway (0: only when nobody else can be)."""

    settle_s: float
    stall_s: float
    fallback_s: float
    gateways_max: int
    wan: bool
    weight: int


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All of it. `slots` maps payload names to their places."""

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
    def status_path(self) -> Path:
        """Where a running agent writes what `slipstream agent status` shows."""
        return self.device.state_dir / "status.json"


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
    problems = _Problems(text)
    config = _read(_Table(document, (), problems, directory))
    if problems.found or config is None:
        lines = "\n".join(f"  {line}" for line in problems.lines())
        count = "1 fault" if len(problems.found) == 1 else f"{len(problems.found)} faults"
        raise ConfigError(f"{source}: {count}\n{lines}", next_step="deploy/agent.toml shows every key")
    return config


def _read(root: _Table) -> AgentConfig | None:
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
    slots = {name: _slots(slots_table.table(name)) for name in slots_table.payload_names()}
    boot = root.table("boot")
    boot_config = BootConfig(
        environment=boot.path("environment", default=state_dir / "boot.env"),
        default_slot=boot.choice("default_slot", ("a", "b"), default="a"),
        reboot_command=boot.optional("reboot_command", boot.command),
        attempts=boot.integer("attempts", 1, ATTEMPTS_MAX, default=3),
    )
    health = root.table("health")
    health_config = HealthConfig(
        command=health.optional("command", health.command),
        timeout_s=health.number("timeout_s", 0.1, 3600, default=60),
    )
    budgets = root.table("budgets")
    budgets_config = BudgetsConfig(
        wan_rate_max=budgets.optional("wan_rate_max", budgets.rate),
        lan_rate_max=budgets.optional("lan_rate_max", budgets.rate),
        memory_max=budgets.size("memory_max", 16 << 20, 1 << 40, default=64 << 20),
    )
    swarm = root.table("swarm")
    swarm_config = SwarmConfig(
        settle_s=swarm.number("settle_s", 0, 600, default=_POLICY.settle_s),
        stall_s=swarm.number("stall_s", 0.5, 3600, default=_POLICY.stall_s),
        fallback_s=swarm.number("fallback_s", 1, 86_400, default=_POLICY.fallback_s),
        gateways_max=swarm.integer("gateways_max", 1, GATEWAYS_MAX, default=_POLICY.gateways_max),
        wan=swarm.boolean("wan", default=True),
        weight=swarm.integer("weight", 0, 1000, default=100),
    )
    for table in (device, coordinator, origin, trust, network, discovery, boot, health, budgets, swarm, root):
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
    )


def _slots(table: _Table) -> SlotConfig:
    slots = SlotConfig(table.path("a"), table.path("b"))
    if table.has("a") and table.has("b") and slots.a == slots.b:
        table.fault("b", "is the same place as a: an update would overwrite what the device runs from")
    table.finish()
    return slots


class _Problems:
    """Faults found so far, with the line of each key as far as a plain scan finds it."""

    def __init__(self, text: str) -> None:
        self.found: list[tuple[str, str]] = []
        self._lines = _key_lines(text)

    def add(self, path: tuple[str, ...], message: str) -> None:
        self.found.append((".".join(path), message))

    def lines(self) -> list[str]:
        """One line per fault, in the order of the file; what is missing has no line and comes first."""
        placed = [(self._lines.get(path, 0), path, message) for path, message in self.found]
        return [
            f"line {line}: {path} {message}" if line else f"{path} {message}"
            for line, path, message in sorted(placed, key=lambda item: item[0])
        ]


class _Table:
    """One table of the document. A getter that finds a fault notes it and returns a stand-in."""

    def __init__(
        self, value: dict[str, Any], path: tuple[str, ...], problems: _Problems, directory: Path
    ) -> None:
        self._value = value
        self._path = path
        self._problems = problems
        self._directory = directory
        self._known: set[str] = set()

    def fault(self, key: str, message: str) -> None:
        self._problems.add((*self._path, key), message)

    def has(self, key: str) -> bool:
        return key in self._value

    def table(self, key: str, *, required: bool = False) -> _Table:
        self._known.add(key)
        value = self._value.get(key, {})
        if not isinstance(value, dict):
            self.fault(key, f"must be a table: [{'.'.join((*self._path, key))}]")
            value = {}
        elif required and key not in self._value:
            self.fault(key, f"is missing: the table [{key}] is needed")
        return _Table(value, (*self._path, key), self._problems, self._directory)

    def finish(self) -> None:
        """Note the keys that nobody asked for."""
        for key in self._value:
            if key not in self._known:
                self.fault(key, f"is unknown (allowed: {', '.join(sorted(self._known))})")

    def optional(self, key: str, getter: Callable[[str], _T]) -> _T | None:
        self._known.add(key)
        return getter(key) if self.has(key) else None

    def payload_names(self) -> list[str]:
        names = []
        for key in self._value:
            try:
                names.append(check_name(key, "payload"))
            except ContentError:
                self.fault(key, "is no payload name (letters, digits, '._+~-')")
        if not self._value:
            self._problems.add(self._path, "needs a table per payload, such as [slots.rootfs]")
        return names

    def text(self, key: str, *, what: str = "text", default: str | None = None) -> str | None:
        self._known.add(key)
        if key not in self._value:
            if default is None:
                self.fault(key, f"is missing: {what}")
            return default
        value = self._value[key]
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return None
        return value

    def name(self, key: str) -> str:
        what = "a name (letters, digits, '._+~-'; at most 128)"
        value = self.text(key, what=what)
        if value is None:
            return ""
        try:
            return check_name(value, key)
        except ContentError:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ""

    def path(self, key: str, default: Path | None = None) -> Path:
        if default is not None and not self.has(key):
            self._known.add(key)
            return default
        value = self.text(key, what="a path")
        return self._directory / (value or "")

    def url(self, key: str) -> str:
        what = "a URL such as https://updates.example.org"
        value = self.text(key, what=what)
        if value is None:
            return ""
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.query or parts.fragment or parts.username or any(c.isspace() for c in value):
            self.fault(
                key, f"must be {what} (http or https; no user, query or fragment), not {_shown(value)}"
            )
        return value.rstrip("/")

    def host(self, key: str) -> str:
        what = "a host name or an IP address"
        value = self.text(key, what=what)
        if value is not None and not _is_host(value):
            self.fault(key, f"must be {what}, not {_shown(value)}")
        return value or ""

    def endpoint(self, key: str, *, port_min: int, default: str) -> Endpoint:
        what = f"HOST:PORT with a port of {port_min}..65535, as in {DEFAULT_LISTEN!r} or '[::]:7470'"
        value = self.text(key, what=what, default=default)
        endpoint = _endpoint(value, port_min) if value is not None else None
        if value is not None and endpoint is None:
            self.fault(key, f"must be {what}, not {_shown(value)}")
        return endpoint or Endpoint("", 0)

    def endpoints(self, key: str) -> tuple[Endpoint, ...]:
        what = "a list of 'HOST:PORT' texts"
        return self._each(key, what, lambda item: _endpoint(item, 1))

    def addresses(self, key: str) -> tuple[str, ...]:
        return self._each(key, "a list of IP addresses", lambda item: item if _is_address(item) else None)

    def boolean(self, key: str, *, default: bool) -> bool:
        self._known.add(key)
        value = self._value.get(key, default)
        if not isinstance(value, bool):
            self.fault(key, f"must be true or false, not {_shown(value)}")
            return default
        return value

    def integer(self, key: str, low: int, high: int, *, default: int) -> int:
        self._known.add(key)
        value = self._value.get(key, default)
        if type(value) is not int or not low <= value <= high:
            self.fault(key, f"must be a whole number of {low}..{high}, not {_shown(value)}")
            return default
        return value

    def number(self, key: str, low: float, high: float, *, default: float) -> float:
        self._known.add(key)
        value = self._value.get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            self.fault(key, f"must be a number of {low:g}..{high:g} (seconds), not {_shown(value)}")
            return default
        return float(value)

    def rate(self, key: str) -> int:
        what = (
            "bytes per second: a number or text such as '250kB/s', '2MB/s', '16Mbit/s'; absent for no limit"
        )
        return self._amount(key, what, _rate, 1, 1 << 50)

    def size(self, key: str, low: int, high: int, *, default: int) -> int:
        self._known.add(key)
        if not self.has(key):
            return default
        what = f"bytes: a number or text such as '64MiB', at least {low}"
        return self._amount(key, what, _size, low, high)

    def moment(self, key: str) -> float:
        what = "a date and time such as 2025-01-31T12:00:00Z"
        self._known.add(key)
        value = self._value.get(key)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
        if type(value) is int and value >= 0:
            return float(value)
        self.fault(key, f"must be {what}, not {_shown(value)}")
        return 0.0

    def choice(self, key: str, allowed: tuple[str, ...], *, default: str) -> str:
        what = " or ".join(repr(item) for item in allowed)
        value = self.text(key, what=what, default=default)
        if value is not None and value not in allowed:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return default
        return value or default

    def command(self, key: str) -> tuple[str, ...]:
        what = "a program and its arguments: ['/usr/bin/check', '--quick']"
        self._known.add(key)
        value = self._value.get(key)
        if not isinstance(value, list) or not value or not value[0]:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ()
        return self._each(key, what, lambda item: item if "\0" not in item else None)

    def _each(self, key: str, what: str, parse: Callable[[str], _T | None]) -> tuple[_T, ...]:
        self._known.add(key)
        value = self._value.get(key, [])
        if not isinstance(value, list):
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ()
        found = []
        for item in value:
            parsed = parse(item) if isinstance(item, str) else None
            if parsed is None:
                self.fault(key, f"must be {what}; {_shown(item)} is not")
            else:
                found.append(parsed)
        return tuple(found)

    def _amount(self, key: str, what: str, parse: Callable[[str], float | None], low: int, high: int) -> int:
        self._known.add(key)
        value = self._value[key]
        amount: float | None = None
        if isinstance(value, str):
            amount = parse(value)
        elif type(value) is int:
            amount = value
        if amount is None or not low <= amount <= high:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return low
        return int(amount)


def _endpoint(value: str, port_min: int) -> Endpoint | None:
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            return None
    elif ":" in host:
        return None
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or not _is_host(host):
        return None
    return Endpoint(host, int(port)) if port_min <= int(port) <= 65535 else None


def _is_host(value: str) -> bool:
    return _is_address(value) or (len(value) <= 253 and bool(_HOST.fullmatch(value)))


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _size(value: str) -> float | None:
    match = _AMOUNT.fullmatch(value.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    return float(match[1]) * unit if match and unit else None


def _rate(value: str) -> float | None:
    amount, slash, per = value.strip().partition("/")
    if not slash or per.strip() != "s":
        return None
    bits = re.fullmatch(r"(.*?)(k|M|G)?bit", amount.strip())
    if bits:
        size = _size(f"{bits[1]}{bits[2] or ''}B")
        return None if size is None else size / 8
    return _size(amount)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_lines(text: str) -> dict[str, int]:
    """Dotted key to line number, for keys written plainly; a table counts from its header."""
    found: dict[str, int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", line)
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=", line)
        if header:
            table = _split_key(header[1])
            found.setdefault(".".join(table), number)
        elif key:
            found.setdefault(".".join((*table, *_split_key(key[1]))), number)
    return found


def _split_key(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
