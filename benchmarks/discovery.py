"""What devices at rest say to find each other and to stay connected, counted in a network namespace.

    python -m benchmarks.discovery                         (root; 14 minutes, nearly all of them waiting)
    python -m benchmarks.discovery --devices 4,8 --minutes 5

Twice, beside each other: multicast discovery alone (`MdnsDiscovery` in one process a device), and whole
agents at rest that have found each other, without anything to install. Counted is what the interfaces of the
devices sent, in Ethernet frames; what agents ask of their coordinator is taken off. The first minute, in
which they find each other, is told apart from the rest, which is reckoned to an hour. What 100 devices come
to is then reckoned from what one device, and one connection, cost here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.table import Table

from benchmarks.rig.fleet import Device, Fleet, enroll
from benchmarks.rig.network import Namespace, SiteNetwork, unavailable
from benchmarks.rig.processes import Children, RigError
from p2p.adapters.mdns import MdnsDiscovery
from p2p.content.limits import PEERS_MAX

RATE = 100_000_000
FIRST_S = 60.0
HOUR_S = 3600.0
POLL_S = 600
LARGE = 100

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Sent:
    """By all devices together."""

    frames: int
    size: int

    def __sub__(self, other: Sent) -> Sent:
        return Sent(self.frames - other.frames, self.size - other.size)


@dataclass(frozen=True, slots=True)
class Measured:
    """One network. `first`: in the first minute; `hour`: in an hour of rest, reckoned from `minutes`."""

    what: str
    devices: int
    minutes: float
    first: Sent
    hour: Sent

    @property
    def connections(self) -> int:
        return self.devices * (self.devices - 1) // 2


class _Rest:
    """Devices at rest in a network of their own."""

    def __init__(self, what: str, network: SiteNetwork) -> None:
        self.what = what
        self.network = network
        self.began = self.settled = Sent(0, 0)

    def sent(self) -> Sent:
        """What the devices sent to each other so far."""
        frames = size = 0
        for device in self.network.devices:
            count, bytes_ = _sent_by(device, "eth0")
            frames, size = frames + count, size + bytes_
        up, up_bytes = _sent_by(self.network.router, "wan")
        return Sent(frames - up, size - up_bytes)


def measure(devices: int, minutes: float, directory: Path) -> list[Measured]:
    """Both kinds at once. Raises `RigError`."""
    with ExitStack() as stack:
        children = stack.enter_context(Children(directory / "logs"))
        rests = [
            _Rest(what, stack.enter_context(SiteNetwork(devices=devices, rate_bit_s=RATE)))
            for what in ("multicast", "agents")
        ]
        agents = _agents(rests[1].network, children, directory)
        for rest in rests:
            rest.began = rest.sent()
        for n, device in enumerate(rests[0].network.devices):
            command = [sys.executable, "-m", "benchmarks.discovery", "--as", f"device-{n}"]
            children.start(f"mdns-{n}", command, prefix=device.prefix)
        for agent in agents:
            agent.start(children, once=False)
        time.sleep(FIRST_S)
        for rest in rests:
            rest.settled = rest.sent()
        known = [len(agent.status().get("peers", ())) for agent in agents]
        if known != [devices - 1] * devices:
            raise RigError(f"agents have {known} peers after {FIRST_S:g} s")
        time.sleep(60 * minutes)
        found = []
        for rest in rests:
            idle, factor = rest.sent() - rest.settled, HOUR_S / (60 * minutes)
            hour = Sent(round(idle.frames * factor), round(idle.size * factor))
            found.append(Measured(rest.what, devices, minutes, rest.settled - rest.began, hour))
        return found


def _agents(network: SiteNetwork, children: Children, directory: Path) -> list[Device]:
    """Enrolled, with nothing to install."""
    fleet = Fleet(directory / "fleet", children)
    fleet.init()
    _, url = fleet.serve(network.origin.address, prefix=network.origin.prefix)
    made = []
    for number, namespace in enumerate(network.devices):
        name = f"rest-{number}"
        device = Device(name, "rest", directory / name, prefix=namespace.prefix, host=namespace.address)
        device.configure(fleet, url, b"factory\n", {"coordinator": {"poll_s": POLL_S}})
        made.append(device)
    enroll(children, zip(made, fleet.vouchers("rest", len(made)), strict=True))
    return made


def _sent_by(where: Namespace, interface: str) -> tuple[int, int]:
    """Frames and bytes."""
    command = ["ip", "-n", where.name, "-s", "-j", "link", "show", interface]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    counters = json.loads(done.stdout)[0]["stats64"]["tx"]
    return int(counters["packets"]), int(counters["bytes"])


async def _announce(device: str) -> None:
    """What an agent does for multicast discovery, and nothing else."""
    await MdnsDiscovery(device, "rest", 7470).run(lambda _: None)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", default="4,8", show_default=True, metavar="LIST", help="Devices of each network.")
@click.option("--minutes", default=5.0, show_default=True, help="At rest, after the first minute.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--as", "role", hidden=True)
def main(devices: str, minutes: float, as_json: bool, role: str | None) -> None:
    """Count what devices at rest send to each other."""
    if role is not None:
        trio.run(_announce, role)
        return
    reason = unavailable()
    if reason:
        raise click.ClickException(reason)
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="discovery-") as directory:
        for count in map(int, devices.split(",")):
            place = Path(directory) / str(count)
            place.mkdir()
            found += measure(count, minutes, place)
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
        return
    table = Table("", "devices", "first minute, a device", "an hour at rest, a device", "a connection")
    for one in found:
        each = one.hour.size / one.devices
        table.add_row(
            one.what,
            str(one.devices),
            f"{one.first.frames / one.devices:.0f} frames, {one.first.size / one.devices / 1e3:.1f} kB",
            f"{one.hour.frames / one.devices:.0f} frames, {each / 1e3:.1f} kB",
            "" if one.what == "multicast" else f"{one.hour.size / one.connections / 1e3:.1f} kB",
        )
    out.print(table)
    multicast, agents = found[-2:]
    said = multicast.hour.size / multicast.devices * LARGE
    links = LARGE * min(LARGE - 1, PEERS_MAX) // 2
    kept = (agents.hour.size - multicast.hour.size) / agents.connections * links
    out.print(
        f"{LARGE} devices an hour: {said / 1e6:.2f} MB of multicast if each says as much as here, and "
        f"{kept / 1e6:.1f} MB for {links} connections ({kept * 8 / HOUR_S / 1e3:.1f} kbit/s)"
    )


if __name__ == "__main__":
    main()
