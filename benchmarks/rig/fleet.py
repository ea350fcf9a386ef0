"""A fleet made with Slipstream's own commands: a repository, its coordinator, devices as real processes.

Everything is done through `slipstream` as an operator or a technician would run it. `Device.right` hashes the
slot that the boot environment names: an agent's own word for it does not count. Not for what devices run in:
a namespace is a prefix of commands, a relayed WAN is another URL of the coordinator.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rig.images import file_digest
from benchmarks.rig.processes import Child, Children, RigError, until, wait_all
from p2p.adapters.device import boot_of
from p2p.config import read_config

__all__ = ["SLIPSTREAM", "Device", "Fleet", "Release", "enroll", "slipstream"]

SLIPSTREAM = Path(sys.executable).with_name("slipstream")
PRODUCT = "engine"
HARDWARE = "board-a"
PAYLOAD = "rootfs"
PORT = 7470
READY_S = 30
ENROLL_S = 60
LINGER_S = 900
"""Devices serve on until the rig ends them, as agents without `--once` do."""

COMMAND_S = 300


def slipstream(*arguments: str | os.PathLike[str]) -> Any:
    """Run `slipstream … --json` and return its facts; `RigError` with what it said otherwise."""
    command = [os.fspath(SLIPSTREAM), *map(os.fspath, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        raise RigError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Release:
    """A published release of one image. `packs`: bytes over the WAN by base file (None: the full pack)."""

    version: str
    image: Path
    digest: str
    size: int
    packs: dict[str | None, int]

    def smallest_pack(self, bases: Iterable[Path | None]) -> int:
        """The fewest bytes by which any one of devices with these bases could make the image."""
        return min(self.pack_from(base) for base in bases)

    def pack_from(self, base: Path | None) -> int:
        """Bytes of the pack that a device with this base would use."""
        return self.packs.get(None if base is None else os.fspath(base), self.packs[None])


class Fleet:
    """The operator's side: a development repository and the coordinator that serves it."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory = directory
        self.repository = directory / "repository"
        self._children = children

    def init(self) -> None:
        """Keys, TUF repository, fleet CA, database."""
        slipstream("repo", "init", self.repository, "--product", PRODUCT, "--insecure-plain-keys")

    def publish(self, version: str, image: Path, bases: Sequence[Path] = ()) -> Release:
        """Build, sign and publish a release. No device installs it before it is ordered."""
        document = self.directory / f"{version}.release.json"
        built = slipstream(
            *("release", "build", image, "--repo", self.repository, "--product", PRODUCT),
            *("--version", version, "--hardware", HARDWARE, "--out", document),
            *(option for base in bases for option in ("--base", os.fspath(base))),
        )
        slipstream("release", "publish", document, "--repo", self.repository, "--sign")
        packs: dict[str | None, int] = {pack["base"]: pack["wan_bytes"] for pack in built["packs"]}
        return Release(version, image, file_digest(image), image.stat().st_size, packs)

    def order(self, release: Release, site: str | None = None) -> None:
        """Sign and publish the order that lets every device, or those of one site, install it."""
        document = self.directory / f"{release.version}-{site or 'all'}.order.json"
        audience = ("--all",) if site is None else ("--site", site)
        what = ("--product", PRODUCT, "--version", release.version, *audience, "--out", document)
        slipstream("order", "create", "--repo", self.repository, *what)
        slipstream("order", "publish", document, "--repo", self.repository, "--sign")

    def vouchers(self, site: str, count: int) -> list[str]:
        """One-time vouchers, one per device."""
        made = slipstream(
            "voucher", "create", "--repo", self.repository, "--site", site, "--count", str(count)
        )
        vouchers: list[str] = made["vouchers"]
        return vouchers

    def introduce(self, devices: Sequence[Device]) -> None:
        """Run all agents until each has reported once, and end them: they have been at work before.

        From then on the roster of their site names them, as it does at a site that did not come into being
        a second ago.
        """
        for device in devices:
            device.start(self._children, once=False)
        running = [device.child for device in devices if device.child is not None]
        sites = {device.site for device in devices}

        def all_seen() -> bool:
            found = [
                known
                for site in sites
                for known in slipstream("coordinator", "site", site, "--repo", self.repository)["devices"]
            ]
            return sum(known["seen_s_ago"] is not None for known in found) >= len(devices)

        until("report of every device", all_seen, READY_S + 2 * len(devices), alive=running)
        self._children.stop(running)

    def wake(self, devices: Sequence[Device]) -> None:
        """Run all agents until each is connected to all others of its site: a fleet at rest."""
        for device in devices:
            device.start(self._children, once=False)
        running = [device.child for device in devices if device.child is not None]
        mates = {device.id: sum(d.site == device.site for d in devices) - 1 for device in devices}

        def all_met() -> bool:
            return all(len(device.status().get("peers", ())) >= mates[device.id] for device in devices)

        until("every agent connected to its peers", all_met, READY_S + 2 * len(devices), alive=running)

    def serve(self, host: str = "127.0.0.1", *, prefix: Sequence[str] = ()) -> tuple[Child, str]:
        """Start the coordinator; its process and its URL once it takes requests."""
        ready = self.directory / "coordinator.url"
        ready.unlink(missing_ok=True)
        command = [SLIPSTREAM, "coordinator", "serve", self.repository, "--listen", f"{host}:0"]
        child = self._children.start("coordinator", [*command, "--ready-file", ready], prefix=prefix)
        until(
            "coordinator ready",
            lambda: ready.exists() and bool(ready.read_text().strip()),
            READY_S,
            alive=[child],
        )
        return child, ready.read_text().strip()


@dataclass(slots=True)
class Device:
    """One device: its directory, how it is configured, the process that runs it (if any)."""

    id: str
    site: str
    directory: Path
    prefix: Sequence[str] = ()
    host: str = "127.0.0.1"
    child: Child | None = None
    seconds: float | None = None
    """From `started` to the moment its new image was committed."""

    started: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    def configure(
        self,
        fleet: Fleet,
        url: str,
        factory: Path | bytes,
        settings: dict[str, dict[str, object]] | None = None,
    ) -> None:
        """Flash slot A with `factory` and write the configuration; `settings` adds or replaces keys."""
        self.directory.mkdir(parents=True)
        slot = self.directory / "slot-a.img"
        if isinstance(factory, bytes):
            slot.write_bytes(factory)
        else:
            slot.write_bytes(factory.read_bytes())
        tables: dict[str, dict[str, object]] = {
            "device": {"id": self.id, "product": PRODUCT, "hardware": HARDWARE, "state_dir": "state"},
            "coordinator": {"url": url},
            "trust": {
                "root": str(fleet.repository / "root.json"),
                "fleet_ca": str(fleet.repository / "ca.pem"),
            },
            "network": {"listen": f"{self.host}:{PORT}", "advertise": self.host},
            "discovery": {},
            f"slots.{PAYLOAD}": {"a": "slot-a.img", "b": "slot-b.img"},
        }
        for name, values in (settings or {}).items():
            tables.setdefault(name, {}).update(values)
        lines = []
        for name, values in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
        self.config.write_text("\n".join(lines))

    def start(self, children: Children, *, once: bool = True) -> None:
        """As the unit in `deploy` does; with `once` as a command that serves its peers on when it is done."""
        command = [sys.executable, "-m", "p2p.agent", "--config", self.config]
        if once:
            command = [SLIPSTREAM, "agent", "run", "--config", self.config, "--once"]
            command += ["--linger", str(LINGER_S)]
        self.child = children.start(self.id, command, prefix=self.prefix)
        self.expect()

    def ask_now(self) -> None:
        """Tell a running agent to ask at once what is meant for it, as `systemctl reload` does."""
        if self.child is not None:
            self.child.signal(signal.SIGHUP)
        self.expect()

    def kill(self) -> None:
        """SIGKILL, as when the power goes."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def expect(self) -> None:
        """From now on `watch` looks for the end of another update."""
        self.started = time.monotonic()
        self.seconds = None

    def status(self) -> dict[str, Any]:
        """What the agent says of itself; empty before it has said anything."""
        try:
            status: dict[str, Any] = json.loads((self.directory / "state" / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return status

    @property
    def wan_bytes(self) -> int:
        """What its present process has received from the origin, frames under way included."""
        return int(self.status().get("wan_wire_bytes", 0))

    def watch(self, release: Release) -> bool:
        """Whether it has committed `release`; notes when that was first seen. `RigError` if it gave up."""
        if self.seconds is not None:
            return True
        ended = self.child is not None and self.child.exit_code is not None
        status = self.status()
        # "current": it was killed after it had committed, or while it did.
        if status.get("state") in ("committed", "current") and status.get("release") == release.version:
            self.seconds = time.monotonic() - self.started
            return True
        if ended and self.child:
            raise RigError(
                f"{self.id} ended with {self.child.exit_code} before it had {release.version};"
                f" log {self.child.log}:\n{self.child.tail()}"
            )
        return False

    def right(self, release: Release) -> bool:
        """Whether the slot that it would boot from holds the release's image, byte for byte."""
        config = read_config(self.config)
        running = boot_of(config).read().running
        return file_digest(Path(config.slots[PAYLOAD].places[running])) == release.digest


def enroll(children: Children, devices: Iterable[tuple[Device, str]]) -> None:
    """`slipstream agent enroll` on all devices at once, each with its voucher."""
    started = [
        children.start(
            f"{device.id}-enroll",
            [SLIPSTREAM, "agent", "enroll", "--config", device.config, "--voucher", voucher],
            prefix=device.prefix,
        )
        for device, voucher in devices
    ]
    wait_all(started, ENROLL_S)
    for child in started:
        if child.exit_code:
            raise RigError(f"{child.name} ended with {child.exit_code}; log {child.log}:\n{child.tail()}")
