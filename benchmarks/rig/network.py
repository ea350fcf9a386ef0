"""A site behind a thin link, in network namespaces of this machine (root only).

    device 1 .. N  --veth--  bridge `lan` in the router  --`wan`, shaped by tbf both ways--  origin

What is counted is what crosses the wire: segmentation and receive offloads are off on the WAN pair, so that
every packet is at most 1514 bytes with its Ethernet header and the interface's counters are those of the
wire. Multicast floods the bridge as on a plain switch, so LAN discovery of any kind works; it does not leave
the site. Nothing outside the namespaces is touched, names carry the process id, and all is taken down even
on failure; what a killed run left behind is removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from benchmarks.rig.processes import RigError

__all__ = ["ETHERNET_MTU", "Namespace", "SiteNetwork", "WireBytes", "unavailable"]

ETHERNET_MTU = 1500
BURST_BYTES = 4096
QUEUE_MS = 50
LAN_PREFIX = "10.77.0"
WAN_PREFIX = "198.18.0"
FAR_PREFIX = "198.19.0"

_PREFIX = "slip"
_COMMAND_S = 20
_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class WireBytes:
    """Bytes over the site's WAN interface, Ethernet headers included: into the site, and out of it."""

    down: int
    up: int

    def __sub__(self, other: WireBytes) -> WireBytes:
        return WireBytes(self.down - other.down, self.up - other.up)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace and the IPv4 address that it is reached at."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command so that it runs inside."""
        return ("ip", "netns", "exec", self.name)


def unavailable() -> str | None:
    """Why no rig can be made here, or None if one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "ethtool") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, ethtool)"
    try:
        with SiteNetwork(devices=1, rate_bit_s=8_000_000):
            return None
    except RigError as error:
        return f"no network namespaces here: {error}"


class SiteNetwork:
    """The namespaces of one site and its origin, as a context.

    `rate_bit_s` shapes the WAN in each direction, counted on whole Ethernet frames (without preamble and
    checksum), behind a queue that holds `queue_ms` at that rate. `delay_ms` delays each direction by netem,
    where the kernel has it. `congestion` names the TCP congestion control over the WAN, both ways, if not the
    machine's. `far`: the origin is one hop beyond the link, without which nobody fills the queue: a
    sender that holds it itself stops at a few packets of each connection (TCP small queues).
    """

    def __init__(
        self,
        *,
        devices: int,
        rate_bit_s: int,
        delay_ms: float = 0,
        queue_ms: float = QUEUE_MS,
        congestion: str | None = None,
        far: bool = False,
    ) -> None:
        if not 1 <= devices <= 240:
            raise RigError("a site of 1 to 240 devices, please")
        self.rate_bit_s = rate_bit_s
        self._delay_ms = delay_ms
        self._queue_ms = queue_ms
        # By route: a namespace may not choose another default than the machine allows to all.
        self._control = f" congctl {congestion}" if congestion else ""
        tag = f"{_PREFIX}{os.getpid():x}n{next(_serial)}"
        self.router = Namespace(f"{tag}r", f"{LAN_PREFIX}.1")
        end = Namespace(f"{tag}o", f"{WAN_PREFIX}.1")
        self._end = end
        """Of the link, towards the origin."""
        self.origin = Namespace(f"{tag}of", f"{FAR_PREFIX}.1") if far else end
        self.devices = [Namespace(f"{tag}d{n}", f"{LAN_PREFIX}.{9 + n}") for n in range(1, devices + 1)]

    def __enter__(self) -> Self:
        _remove_orphans()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def wire_bytes(self) -> WireBytes:
        """What has crossed the WAN so far; subtract two readings."""
        text = _run("ip", "-n", self.router.name, "-s", "-j", "link", "show", "wan")
        counters = json.loads(text)[0]["stats64"]
        return WireBytes(counters["rx"]["bytes"], counters["tx"]["bytes"])

    @contextlib.contextmanager
    def without_wan(self) -> Iterator[None]:
        """The WAN is down for the duration."""
        self.cut()
        try:
            yield
        finally:
            self.restore()

    def unplug(self, device: Namespace) -> None:
        """A device is gone from the LAN without a word to anybody."""
        _run("ip", "-n", self.router.name, "link", "set", f"p{self.devices.index(device) + 1}", "down")

    def cut(self) -> None:
        """The WAN goes down, as when a modem loses its carrier: open connections are not told."""
        _run("ip", "-n", self.router.name, "link", "set", "wan", "down")

    def restore(self) -> None:
        """Undo `cut`."""
        _run("ip", "-n", self.router.name, "link", "set", "wan", "up")

    @property
    def _namespaces(self) -> list[Namespace]:
        far = [] if self.origin is self._end else [self.origin]
        return [self.router, self._end, *far, *self.devices]

    def _build(self) -> None:
        for namespace in self._namespaces:
            _run("ip", "netns", "add", namespace.name)
            # Inside, only IPv4: neighbour discovery of IPv6 would be noise on the counters.
            _run(
                *namespace.prefix,
                *("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"),
                *("net.ipv6.conf.default.disable_ipv6=1", "net.ipv4.ip_forward=1"),
            )
        router = self.router.name
        end = self._end
        _batch(
            end.name,
            "link set lo up",
            f"link add wan mtu {ETHERNET_MTU} type veth peer name wan mtu {ETHERNET_MTU} netns {router}",
            f"address add {end.address}/24 dev wan",
            "link set wan up",
            f"route add {LAN_PREFIX}.0/24 via {WAN_PREFIX}.2{self._control}",
        )
        _batch(
            router,
            "link set lo up",
            f"address add {WAN_PREFIX}.2/24 dev wan",
            "link set wan up",
            f"route add default via {end.address}",
            "link add lan type bridge stp_state 0 mcast_snooping 0 forward_delay 0",
            f"address add {self.router.address}/24 dev lan",
            "link set lan up",
        )
        if self.origin is not end:
            _batch(
                self.origin.name,
                "link set lo up",
                f"link add far mtu {ETHERNET_MTU} type veth"
                f" peer name far mtu {ETHERNET_MTU} netns {end.name}",
                f"address add {self.origin.address}/24 dev far",
                "link set far up",
                f"route add default via {FAR_PREFIX}.2{self._control}",
            )
            _batch(end.name, f"address add {FAR_PREFIX}.2/24 dev far", "link set far up")
            _run(*end.prefix, "ethtool", "-K", "far", "tso", "off", "gso", "off", "gro", "off")
            _run(*self.origin.prefix, "ethtool", "-K", "far", "tso", "off", "gso", "off", "gro", "off")
        for number, device in enumerate(self.devices, 1):
            _batch(
                device.name,
                "link set lo up",
                f"link add eth0 mtu {ETHERNET_MTU} type veth"
                f" peer name p{number} mtu {ETHERNET_MTU} netns {router}",
                f"address add {device.address}/24 brd + dev eth0",
                "link set eth0 up",
                f"route add default via {self.router.address}{self._control}",
            )
        _batch(router, *(f"link set p{n} master lan up" for n in range(1, len(self.devices) + 1)))
        for namespace in (end, self.router):
            _run(*namespace.prefix, "ethtool", "-K", "wan", "tso", "off", "gso", "off", "gro", "off")
            self._shape(namespace)

    def _shape(self, namespace: Namespace) -> None:
        qdisc = ("tc", "-n", namespace.name, "qdisc", "add", "dev", "wan")
        _run(
            *(*qdisc, "root", "handle", "1:", "tbf", "rate", f"{self.rate_bit_s}bit"),
            *("burst", str(BURST_BYTES), "latency", f"{self._queue_ms}ms"),
        )
        if self._delay_ms:
            try:
                _run(*qdisc, "parent", "1:1", "handle", "10:", "netem", "delay", f"{self._delay_ms}ms")
            except RigError as error:
                raise RigError(f"a delay needs the kernel's netem, which is not here ({error})") from error

    def _remove(self) -> None:
        for namespace in reversed(self._namespaces):
            with contextlib.suppress(RigError):
                _run("ip", "netns", "delete", namespace.name)


def _remove_orphans() -> None:
    """Remove namespaces of runs that were killed: their name says whose they were, and it is gone."""
    for line in _run("ip", "netns", "list").splitlines():
        match = re.match(rf"({_PREFIX}([0-9a-f]+)n\d+(?:r|of?|d\d+))\b", line)
        if match and not os.path.exists(f"/proc/{int(match[2], 16)}"):  # noqa: PTH110 (text, as /proc is)
            with contextlib.suppress(RigError):
                _run("ip", "netns", "delete", match[1])


def _batch(namespace: str, *commands: str) -> None:
    _run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(commands) + "\n")


def _run(*command: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=_COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise RigError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
