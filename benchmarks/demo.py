"""The demo (`make demo`): two sites of real agents are updated, then once more while a gateway is killed.

Everything runs on loopback without root: a coordinator, a depot of six devices on two different versions, and
a bus that is alone with its link. Each site reaches the coordinator over a link of its own that counts and
limits bytes. The exit code is 0 only if every slot holds the right image, by its own digest, at the end.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.rig.fleet import Device, Fleet, Release, enroll
from benchmarks.rig.images import RealImages, made_up_images, real_images
from benchmarks.rig.link import Link
from benchmarks.rig.processes import Children, RigError, until

DEPOT_DEVICES = 6
UPDATE_S = 100
SECOND_UPDATE_S = 6
"""How long the second update's bytes take on the depot's link, so that there is a middle to kill in."""

POLL_S = 5.0

out = Console(width=None if sys.stdout.isatty() else 110, highlight=False)


@dataclass(slots=True)
class Site:
    """Devices behind one link."""

    name: str
    link: Link
    devices: list[Device]
    bases: dict[str, Path]
    spent: int = 0
    """Bytes over the link before the update under way."""


@dataclass(slots=True)
class Bytes:
    """A device's byte ledger: what moved, and (from `base` on) where the bytes of its images came from."""

    wan: int = 0
    peers: int = 0
    wasted: int = 0
    base: int = 0
    patched: int = 0
    chunks: int = 0
    zero: int = 0
    resumed: int = 0

    @classmethod
    def of(cls, device: Device) -> Bytes:
        ledger = device.status().get("ledger", {})
        counts = {f.name: ledger.get(f.name, 0) for f in fields(cls)}
        return cls(**counts | {"peers": sum(ledger.get("peers", {}).values())})

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(slots=True)
class Update:
    """One update of all sites, from its order to the last committed slot."""

    release: Release
    sites: Sequence[Site]
    before: dict[str, Bytes] = field(default_factory=dict)
    lost: dict[str, Bytes] = field(default_factory=dict)
    """What killed agents had counted in this update."""

    received: dict[str, int] = field(default_factory=dict)
    """What each process had received from the origin before."""

    said: set[str] = field(default_factory=set)
    spent: dict[str, int] = field(default_factory=dict)
    """Bytes over each site's link when the last slot was committed."""

    @property
    def devices(self) -> list[Device]:
        return [device for site in self.sites for device in site.devices]

    def begin(self) -> None:
        for site in self.sites:
            site.spent = site.link.down
            for device in site.devices:
                self.before[device.id] = Bytes.of(device)
                self.received[device.id] = device.wan_bytes
                device.expect()

    def killed(self, device: Device) -> None:
        """Its next process counts from nothing."""
        self.lost[device.id] = self.of(device)
        self.before[device.id] = Bytes()
        device.kill()

    def of(self, device: Device) -> Bytes:
        return self.of_process(device) + self.lost.get(device.id, Bytes())

    def of_process(self, device: Device) -> Bytes:
        """Without what a killed process had counted."""
        return Bytes.of(device) - self.before[device.id]

    def finished(self, live: Live) -> bool:
        """Whether all have committed; says which just have, and shows where the others are."""
        for device in self.devices:
            if device.id not in self.said and device.watch(self.release):
                self.said.add(device.id)
                if not out.is_terminal:
                    out.print(f"  {device.id} committed {self.release.version} after {device.seconds:.1f} s")
        live.update(self._progress())
        if len(self.said) < len(self.devices):
            return False
        for site in self.sites:
            self.spent.setdefault(site.name, site.link.down - site.spent)
        return True

    def _progress(self) -> Table:
        table = Table("device", "state", "role", "of the image", "from WAN", "from peers", title="live")
        for device in self.devices:
            status = device.status()
            progress = status.get("progress") or {}
            share = progress.get("done", 0) / (progress.get("total") or 1)
            done = device.seconds is not None
            count = self.of(device)
            table.add_row(
                device.id,
                "committed" if done else str(status.get("state", "starting")),
                str(status.get("role", "")),
                "100 %" if done else f"{share:.0%}",
                _size(count.wan),
                _size(count.peers),
            )
        return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("work-demo"),
    show_default=True,
    help="Where everything is made; downloads in it are used again.",
)
@click.option("--keep", is_flag=True, help="Keep the sites, the repository and the logs afterwards.")
@click.option(
    "--quick", is_flag=True, help="Small made-up images: the same path, nothing to learn from figures."
)
def main(work: Path, keep: bool, quick: bool) -> None:
    """Update two sites of real agents on loopback, then once more while a gateway is killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = work.absolute()
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    try:
        right = _demo(work, run, quick)
    except RigError as error:
        out.print(f"[red]the demo failed:[/red] {error}", markup=True)
        right = False
    if right and not keep:
        shutil.rmtree(run)
    else:
        out.print(f"kept: {run} (logs in {run / 'logs'})")
    sys.exit(0 if right else 1)


def _demo(work: Path, run: Path, quick: bool) -> bool:
    begun = time.monotonic()
    images = made_up_images(work / "quick") if quick else real_images(work / "images")
    out.print(f"images: {images.source}")
    with Children(run / "logs") as children:
        fleet = Fleet(run, children)
        fleet.init()
        first, second = _releases(fleet, images)
        server, url = fleet.serve()
        host, port = url.removeprefix("http://").split(":")
        out.print(f"coordinator: {url}; set up in {time.monotonic() - begun:.0f} s")
        with Link(host, int(port)) as depot_link, Link(host, int(port)) as bus_link:
            sites = _sites(run, fleet, children, images, depot_link, bus_link)
            right = _first_update(fleet, children, sites, first)
            right &= _second_update(fleet, children, sites, second, images.paths[2])
            if server.exit_code is not None:
                raise RigError(f"the coordinator ended with {server.exit_code}; log {server.log}")
    out.print(f"{'all right' if right else 'NOT RIGHT'} after {time.monotonic() - begun:.0f} s in all")
    return right


def _releases(fleet: Fleet, images: RealImages) -> tuple[Release, Release]:
    oldest, older, new, newest = images.paths
    first = fleet.publish(images.versions[2], new, [oldest, older])
    second = fleet.publish(images.versions[3], newest, [new])
    for release in (first, second):
        deltas = ", ".join(_size(size) for base, size in release.packs.items() if base is not None)
        out.print(
            f"release {release.version}: image {_size(release.size)},"
            f" full pack {_size(release.packs[None])}, delta packs {deltas}"
        )
    return first, second


def _sites(
    run: Path, fleet: Fleet, children: Children, images: RealImages, depot_link: Link, bus_link: Link
) -> list[Site]:
    settings: dict[str, dict[str, object]] = {
        "coordinator": {"poll_s": POLL_S},
        "discovery": {"mdns": False},
        "swarm": {"settle_s": 2.0},
    }
    depot, bus = Site("depot", depot_link, [], {}), Site("bus-17", bus_link, [], {})
    vouchers = []
    for site, names in (
        (depot, [f"depot-{n}" for n in range(1, DEPOT_DEVICES + 1)]),
        (bus, ["bus-17"]),
    ):
        for name in names:
            number = len(depot.devices) + len(bus.devices)
            device = Device(name, site.name, run / name, host=f"127.0.0.{10 + number}")
            site.devices.append(device)
            site.bases[name] = images.paths[number % 2]
            device.configure(fleet, site.link.url, site.bases[name], settings)
        vouchers += list(zip(site.devices, fleet.vouchers(site.name, len(names)), strict=True))
    enroll(children, vouchers)
    out.print(
        f"enrolled: {len(depot.devices)} devices at the depot on {images.versions[0]} and"
        f" {images.versions[1]}, and bus-17 alone on its link"
    )
    return [depot, bus]


def _first_update(fleet: Fleet, children: Children, sites: list[Site], release: Release) -> bool:
    out.print(f"\n[bold]first update[/bold]: everything to {release.version}", markup=True)
    fleet.order(release)
    update = Update(release, sites)
    update.begin()
    for device in update.devices:
        device.start(children, once=False)
    with _live() as live:
        until("update finished", lambda: update.finished(live), UPDATE_S, interval_s=0.1)
    return _report(update)


def _second_update(fleet: Fleet, children: Children, sites: list[Site], release: Release, base: Path) -> bool:
    depot = sites[0]
    for site in sites:
        site.bases = dict.fromkeys(site.bases, base)
    pack = release.pack_from(base)
    depot.link.rate = pack // SECOND_UPDATE_S
    out.print(
        f"\n[bold]second update[/bold]: everything to {release.version}; the depot's link now carries"
        f" {_size(depot.link.rate)}/s, and its busiest gateway is killed half-way",
        markup=True,
    )
    update = Update(release, sites)
    update.begin()
    fleet.order(release)
    with _live() as live:

        def half_way() -> bool:
            update.finished(live)
            return depot.link.down - depot.spent >= pack // 2

        until("half of the update at the depot", half_way, UPDATE_S, interval_s=0.1)
        victim = max(depot.devices, key=lambda device: device.wan_bytes - update.received[device.id])
        received = victim.wan_bytes - update.received[victim.id]
        if victim.seconds is not None:
            raise RigError(f"{victim.id} had finished before it could be killed")
        update.killed(victim)
        live.console.print(f"  killed {victim.id} after {_size(received)} from the WAN")
        rest = [device for device in update.devices if device is not victim]

        def others_finished() -> bool:
            update.finished(live)
            return all(device.seconds is not None for device in rest)

        until("end of the update without the killed gateway", others_finished, UPDATE_S, interval_s=0.1)
        live.console.print(f"  the site finished without {victim.id}; starting it again")
        started = victim.started
        victim.start(children, once=False)
        victim.started = started
        until("update finished", lambda: update.finished(live), UPDATE_S, interval_s=0.1)
    return _report(update)


def _report(update: Update) -> bool:
    """The table of one finished update; whether every slot is right and the lone device used the origin."""
    release = update.release
    table = Table("device", "from", "WAN", "peers", "wasted", "seconds", "slot")
    all_right = True
    for site in update.sites:
        for device in site.devices:
            count = update.of(device)
            right = device.right(release)
            all_right &= right
            killed = " (killed)" if device.id in update.lost else ""
            table.add_row(
                device.id + killed,
                site.bases[device.id].stem,
                *(_size(n) for n in (count.wan, count.peers, count.wasted)),
                f"{device.seconds or 0:.1f}",
                "right" if right else "WRONG",
            )
    out.print(table)
    out.print(_origins(update))
    summary = Table("site", "devices", "over its link", "fewest possible", "amplification", "ledgers")
    for site in update.sites:
        fewest = min(release.pack_from(base) for base in site.bases.values())
        spent = update.spent[site.name]
        counted = sum(update.of(device).wan for device in site.devices)
        summary.add_row(
            site.name,
            str(len(site.devices)),
            _size(spent),
            _size(fewest),
            f"{spent / fewest:.3f}",
            f"{counted / fewest:.3f}",
        )
    out.print(summary)
    out.print(
        "  over its link: all that the coordinator sent there, polls and metadata included;"
        " ledgers: frames and objects alone"
    )
    devices = update.devices
    spent = sum(update.spent.values())
    images = release.packs[None] * len(devices)
    deltas = sum(release.pack_from(base) for site in update.sites for base in site.bases.values())
    out.print(
        f"  the same update without Slipstream: {_size(images)} as compressed images,"
        f" {_size(deltas)} as a delta for each device; with it: {_size(spent)}"
    )
    alone = [site.devices[0] for site in update.sites if len(site.devices) == 1]
    for device in alone:
        if update.of(device).peers or not update.of(device).wan:
            out.print(f"  {device.id} was to use the origin alone, and did not")
            all_right = False
    return all_right


def _origins(update: Update) -> Table:
    """Where every byte of the images came from, by the ledgers; the columns add up to the image."""
    table = Table(
        "image of", "copied", "rebuilt by patches", "new chunks", "zeros", "from before", "together"
    )
    for device in update.devices:
        count = update.of_process(device)
        parts = (count.base, count.patched, count.chunks, count.zero, count.resumed)
        rest = update.release.size - sum(parts)
        table.add_row(
            device.id, *(_size(n) for n in parts), "the image" if not rest else f"{_size(rest)} missing"
        )
    return table


def _live() -> Live:
    return Live(console=out, refresh_per_second=4, transient=True)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000 or unit == "MB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"


if __name__ == "__main__":
    main()
