"""What one site pays on the wire, and how long it waits: Slipstream beside curl, aria2 and libtorrent.

    python -m benchmarks.site --devices 8 --size 32MiB --rate 16 --against curl,aria2,libtorrent

One network of namespaces per run (`benchmarks.rig.network`, root only), the systems one after another in it,
each from nothing. Wire bytes are those of the site's WAN interface, Ethernet headers included, from the start
of the first process to the moment when the last device has its image; the ideal is one copy at full rate. Of
1514 bytes on the wire 1448 are payload, so 1.0456 of the amplification is the price of TCP/IP itself.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.rig.fleet import Device, Fleet, enroll
from benchmarks.rig.images import edited_image, file_digest, random_image
from benchmarks.rig.network import SiteNetwork, unavailable
from benchmarks.rig.processes import Child, Children, RigError, until
from benchmarks.rig.rivals import RIVALS, Rival, make_torrent, nginx

SLIPSTREAM = "slipstream"
WATCH_S = 0.05
PATIENCE = 14
"""A run may take so many times as long as one copy does, and a minute."""

SEED = 20_240_229
FACTORY = b"an image that has nothing in common with the release\n"

out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is done to the site."""

    devices: int
    size: int
    rate_bit_s: int
    stagger_s: float = 0
    kill: bool = False
    bases: int = 0
    delay_ms: float = 0
    strangers: bool = False
    """No device has ever run before, so that no roster names any."""

    running: bool = False
    """The agents run already, at rest; time starts when the order is out and each is told to ask."""

    @property
    def title(self) -> str:
        parts = [
            f"{self.devices} devices",
            f"{self.size / (1 << 20):g} MiB",
            f"{self.rate_bit_s / 1e6:g} Mbit/s",
        ]
        parts += [f"started over {self.stagger_s:g} s"] if self.stagger_s else []
        parts += ["busiest killed half-way"] if self.kill else []
        parts += [f"{self.bases} bases"] if self.bases else []
        parts += ["first start ever"] if self.strangers else []
        parts += ["agents running"] if self.running else []
        parts += [f"{self.delay_ms:g} ms each way"] if self.delay_ms else []
        return ", ".join(parts)


@dataclass(slots=True)
class Result:
    """One system's run. `fewest`: the bytes that any one device could have made the image of."""

    system: str
    fewest: int
    wire_down: int = 0
    wire_up: int = 0
    seconds: float = 0
    ideal_s: float = 0
    right: int = 0
    wrong: int = 0
    killed: str = ""
    failure: str = ""
    devices: list[dict[str, object]] = field(default_factory=list)

    @property
    def amplification(self) -> float:
        return self.wire_down / self.fewest

    @property
    def slowness(self) -> float:
        return self.seconds / self.ideal_s

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"amplification": self.amplification, "slowness": self.slowness}


class Site:
    """The network, the images and what each system needs of them."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        self.workload = workload
        self.directory = directory
        self.image = random_image(directory / "image", workload.size, SEED)
        self.bases = [
            # Each base is further away than the one before: 1/32, 2/32, 3/32 ... of the image differ.
            edited_image(
                directory / f"base-{n}", self.image, SEED + n, changed=workload.size * n // 32, runs=16 * n
            )
            for n in range(1, workload.bases + 1)
        ]
        self.digest = file_digest(self.image)

    def run(self, system: str) -> Result:
        """One system from nothing to the last image, in a network of its own."""
        workload = self.workload
        directory = self.directory / system
        directory.mkdir()
        network = SiteNetwork(
            devices=workload.devices, rate_bit_s=workload.rate_bit_s, delay_ms=workload.delay_ms
        )
        with network, Children(directory / "logs") as children:
            run = _SlipstreamRun if system == SLIPSTREAM else _RivalRun
            return run(self, system, network, children, directory).measure()


class _Run:
    """Start the devices, watch them and the wire. Subclasses say how a device starts and when it is done."""

    def __init__(
        self, site: Site, system: str, network: SiteNetwork, children: Children, directory: Path
    ) -> None:
        self.site = site
        self.workload = site.workload
        self.network = network
        self.children = children
        self.directory = directory
        self.result = Result(system, fewest=self.workload.size)

    def measure(self) -> Result:
        raise NotImplementedError

    def _watch(
        self,
        starts: Sequence[Callable[[], object]],
        done: Callable[[int], bool],
        half_way: Callable[[], int | None],
    ) -> None:
        """Fill in the result: `starts` by device, `done(n)`, and whom `half_way` killed when it was time."""
        result, workload = self.result, self.workload
        ideal = result.fewest * 8 / workload.rate_bit_s
        result.ideal_s = ideal
        waiting = list(range(workload.devices))
        started = 0
        before = self.network.wire_bytes()
        begun = time.monotonic()

        def step() -> bool:
            nonlocal started
            elapsed = time.monotonic() - begun
            while started < len(starts) and elapsed >= workload.stagger_s * started / max(1, len(starts) - 1):
                starts[started]()
                started += 1
            if workload.kill and not result.killed:
                spent = self.network.wire_bytes() - before
                if spent.down >= result.fewest // 2:
                    victim = half_way()
                    if victim is not None:
                        result.killed = f"device {victim + 1} at {elapsed:.1f} s"
                        waiting.remove(victim)
            for number in list(waiting):
                if number < started and done(number):
                    waiting.remove(number)
            return not waiting

        try:
            until("end of the run", step, ideal * PATIENCE + 60 + workload.stagger_s, interval_s=WATCH_S)
        except RigError as error:
            result.failure = str(error)
        result.seconds = time.monotonic() - begun
        spent = self.network.wire_bytes() - before
        result.wire_down, result.wire_up = spent.down, spent.up


class _RivalRun(_Run):
    def measure(self) -> Result:
        rival = RIVALS[self.result.system]
        directory = self.directory
        served = directory / "www"
        served.mkdir()
        image = served / "image"
        image.hardlink_to(self.site.image)
        devices = self.network.devices
        places = [directory / f"device-{n}" for n in range(1, len(devices) + 1)]
        with nginx(self.children, self.network.origin, served, directory / "nginx") as origin:
            url = f"{origin}/image"
            torrent = directory / "image.torrent"
            if rival.needs_torrent:
                torrent.write_bytes(make_torrent(image, url, rival.piece_bytes))
            started: dict[int, Child] = {}

            def start(number: int) -> None:
                started[number] = rival.start(
                    self.children, devices[number], "image", torrent, url, places[number]
                )

            def done(number: int) -> bool:
                return (places[number] / "done").exists()

            self._watch(_numbered(start, len(devices)), done, lambda: None)
            self.children.stop(started.values())
        for place in places:
            there = place / "image"
            right = there.exists() and file_digest(there) == self.site.digest
            self.result.right += right
            self.result.wrong += not right
        return self.result


class _SlipstreamRun(_Run):
    def measure(self) -> Result:
        fleet = Fleet(self.directory, self.children)
        fleet.init()
        release = fleet.publish("1.0.0", self.site.image, self.site.bases)
        _, url = fleet.serve(self.network.origin.address, prefix=self.network.origin.prefix)
        devices = self._devices(fleet, url)
        if self.workload.running:
            fleet.wake(devices)
        elif not self.workload.strangers:
            fleet.introduce(devices)
        fleet.order(release)
        packs = [release.pack_from(self._base(n)) for n in range(len(devices))]
        self.result.fewest = min(packs) if self.workload.bases else self.workload.size

        def kill_busiest() -> int | None:
            spent = [device.wan_bytes for device in devices]
            busiest = spent.index(max(spent))
            if not spent[busiest] or devices[busiest].seconds is not None:
                return None
            devices[busiest].kill()
            return busiest

        self._watch(
            _numbered(self._start_of(devices), len(devices)),
            lambda number: devices[number].watch(release),
            kill_busiest,
        )
        statuses = [device.status() for device in devices]
        self.children.stop([device.child for device in devices if device.child is not None])
        for device, status in zip(devices, statuses, strict=True):
            if device.child is not None:
                right = device.right(release)
                self.result.right += right
                self.result.wrong += not right
            self.result.devices.append(
                {"device": device.id, "seconds": device.seconds, "ledger": status.get("ledger")}
            )
        return self.result

    def _start_of(self, devices: Sequence[Device]) -> Callable[[int], object]:
        if self.workload.running:
            return lambda number: devices[number].ask_now()
        return lambda number: devices[number].start(self.children)

    def _devices(self, fleet: Fleet, url: str) -> list[Device]:
        devices = []
        for number, namespace in enumerate(self.network.devices):
            device = Device(
                f"device-{number + 1}",
                "site",
                self.directory / f"device-{number + 1}",
                prefix=namespace.prefix,
                host=namespace.address,
            )
            device.configure(fleet, url, self._base(number) or FACTORY)
            devices.append(device)
        enroll(self.children, zip(devices, fleet.vouchers("site", len(devices)), strict=True))
        return devices

    def _base(self, number: int) -> Path | None:
        bases = self.site.bases
        return bases[number % len(bases)] if bases else None


def _numbered(start: Callable[[int], object], count: int) -> list[Callable[[], object]]:
    return [partial(start, number) for number in range(count)]


def run_site(workload: Workload, systems: Sequence[str], work: Path | None = None) -> list[Result]:
    """Run `systems` one after another; the directory is removed unless `work` names one."""
    directory = Path(tempfile.mkdtemp(prefix="slipstream-site-", dir=work))
    try:
        site = Site(workload, directory)
        return [site.run(system) for system in systems]
    finally:
        if work is None:
            shutil.rmtree(directory, ignore_errors=True)


def show(workload: Workload, results: Sequence[Result]) -> None:
    """The table of one workload, each system beside Slipstream."""
    own = next((r for r in results if r.system == SLIPSTREAM), None)
    table = Table(
        *("system", "on the wire", "amplification", "seconds", "× ideal", "right", "wrong", "× Slipstream"),
        title=workload.title,
    )
    for result in results:
        ratio = f"{result.wire_down / own.wire_down:.2f}" if own and own.wire_down else ""
        table.add_row(
            result.system,
            f"{result.wire_down / 1e6:.2f} MB",
            f"{result.amplification:.3f}",
            f"{result.seconds:.1f}",
            f"{result.slowness:.2f}",
            str(result.right),
            str(result.wrong),
            ratio,
        )
    out.print(table)
    for result in results:
        if result.killed:
            out.print(f"  {result.system}: killed {result.killed}")
        if result.failure:
            out.print(f"  {result.system}: {result.failure}")


def size_of(text: str) -> int:
    """`32MiB`, `4000000`."""
    match = re.fullmatch(r"(\d+)\s*(B|kB|MB|KiB|MiB)?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is no size such as 32MiB")
    return int(match[1]) * {"kB": 10**3, "MB": 10**6, "KiB": 1 << 10, "MiB": 1 << 20}.get(match[2], 1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", type=click.IntRange(1, 240), default=8, show_default=True)
@click.option("--size", default="32MiB", show_default=True, help="Of the image.")
@click.option("--rate", type=float, default=16, show_default=True, help="Of the WAN, Mbit/s each way.")
@click.option("--delay", type=float, default=0, help="Of the WAN, ms each way (needs netem).")
@click.option("--stagger", type=float, default=0, help="Start the devices over so many seconds.")
@click.option("--kill-busiest", type=click.Choice(["half"]), help="SIGKILL Slipstream's busiest gateway.")
@click.option("--bases", type=click.IntRange(0, 16), default=0, help="Different bases among the devices.")
@click.option("--strangers", is_flag=True, help="The devices start for the first time ever: no roster.")
@click.option(
    "--running", is_flag=True, help="The agents run already; time starts when they are told to ask."
)
@click.option(
    "--against",
    default="",
    metavar="LIST",
    help=f"Systems to run as well: {', '.join(RIVALS)}.",
)
@click.option("--without-slipstream", is_flag=True, help="Only the systems of --against.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything below this directory.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
def main(
    devices: int,
    size: str,
    rate: float,
    delay: float,
    stagger: float,
    kill_busiest: str | None,
    bases: int,
    strangers: bool,
    running: bool,
    against: str,
    without_slipstream: bool,
    work: Path | None,
    as_json: bool,
) -> None:
    """Measure one site behind a thin link, in network namespaces (root)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reason = unavailable()
    if reason:
        raise click.ClickException(reason)
    rivals = [_rival(name) for name in against.split(",") if name]
    workload = Workload(
        devices,
        size_of(size),
        int(rate * 1e6),
        stagger,
        kill_busiest is not None,
        bases,
        delay,
        strangers,
        running,
    )
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    systems = ([] if without_slipstream else [SLIPSTREAM]) + [rival.name for rival in rivals]
    try:
        results = run_site(workload, systems, work)
    except RigError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print(json.dumps({"workload": asdict(workload), "results": [r.to_json() for r in results]}, indent=2))
    else:
        show(workload, results)
    sys.exit(1 if any(r.wrong or r.failure for r in results) else 0)


def _rival(name: str) -> Rival:
    if name not in RIVALS:
        raise click.BadParameter(f"{name!r} is none of {', '.join(RIVALS)}")
    missing = RIVALS[name].missing()
    if missing:
        raise click.ClickException(f"not installed: {missing}")
    return RIVALS[name]


if __name__ == "__main__":
    main()
