"""A scenario of the simulator carried out for real: one site in network namespaces, with real agents.

What a scenario draws (who has which base, who is switched on when) is taken from a run of the simulator, and
the devices have the names that they have there, so that both elect the same gateways. A scenario that
asks for what no rig here can do is refused. Not for how the two compare (`benchmarks.sim_vs_real`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.rig.fleet import PRODUCT, Device, Fleet, Release, enroll
from benchmarks.rig.images import edited_image, file_digest, random_image
from benchmarks.rig.network import SiteNetwork
from benchmarks.rig.processes import Children, RigError, until
from coordinator.publishing.releases import list_releases
from coordinator.publishing.repository import Repository
from p2p.content.digests import Digest
from p2p.content.manifest import encode_manifest
from sim.outcome import RunOutcome
from sim.scenario.model import NO_BASE, Fault, FaultKind, Scenario, SyntheticRelease, Who
from sim.world.synthetic import Material, material_of_manifest

__all__ = ["RealRun", "Staged", "check"]

VERSION = "1.0.0"
SEED = 20_240_229
FACTORY = b"an image that has nothing in common with the release\n"
CONGESTION = "cubic"
"""Linux's own default. BBR, where a machine has it instead, keeps to half of a thin link without delay for
seconds after another connection has ended: its probes there are shorter than a packet."""

EDITS = 64
NEW_SHARE = 5 / 8
"""Of the bytes that `edited_image` changes, those that the image has and the base has not."""

WATCH_S = 0.05
PATIENCE = 6
"""A run may take so many times as long as the link needs, and a minute."""

_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) INFO p2p\.agent\.updates: (\w+)")


@dataclass(slots=True)
class RealRun:
    """What crossed the wire, in Ethernet frames, and when the last device had committed the image.

    `phases`: by device, when its agent said so for the first time, seconds after the start of the run.
    """

    down: int = 0
    up: int = 0
    seconds: float = 0.0
    right: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, object]] = field(default_factory=dict)
    wire: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds, bytes down, bytes up) now and then."""


class Staged:
    """The release of a scenario, built and published for real; `material` is the same for the simulator."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        check(scenario)
        self.scenario = scenario
        self.directory = directory
        spec = scenario.releases[0]
        assert isinstance(spec, SyntheticRelease)
        self._image = random_image(directory / "image", spec.size, SEED)
        self._bases = {
            delta.base: edited_image(
                directory / f"base-{delta.base}",
                self._image,
                SEED + n,
                changed=round(delta.stored / NEW_SHARE),
                runs=EDITS,
            )
            for n, delta in enumerate(spec.deltas, 1)
        }

    def publish(self, children: Children) -> tuple[Fleet, Release, Material]:
        """Build and sign the release; no device installs it before it is ordered."""
        fleet = Fleet(self.directory, children)
        fleet.init()
        release = fleet.publish(VERSION, self._image, list(self._bases.values()))
        repository = Repository.open(fleet.repository)
        (manifest,) = list_releases(repository, repository.state(), PRODUCT)
        indexes = {p.index.sha256: repository.get(p.index) for p in manifest.payloads[0].packs}
        bases = {name: Digest(bytes.fromhex(file_digest(path))) for name, path in self._bases.items()}
        name = self.scenario.releases[0].name
        return fleet, release, material_of_manifest(name, encode_manifest(manifest), indexes, bases)

    def run(self, children: Children, fleet: Fleet, release: Release, drawn: RunOutcome) -> RealRun:
        """Carry it out once with what was drawn, in a network of its own."""
        site = self.scenario.sites[0]
        assert site.wan is not None
        network = SiteNetwork(
            devices=len(drawn.devices), rate_bit_s=round(site.wan.rate * 8), congestion=CONGESTION
        )
        with network:
            coordinator, url = fleet.serve(network.origin.address, prefix=network.origin.prefix)
            try:
                return _Run(self, network, children, fleet, release, drawn, url).measure()
            finally:
                children.stop([coordinator])

    def base(self, name: str) -> Path | bytes:
        """What a device with this base has in its slot."""
        return FACTORY if name == NO_BASE else self._bases[name]


class _Run:
    def __init__(
        self,
        staged: Staged,
        network: SiteNetwork,
        children: Children,
        fleet: Fleet,
        release: Release,
        drawn: RunOutcome,
        url: str,
    ) -> None:
        self._scenario = staged.scenario
        self._network = network
        self._children = children
        self._fleet = fleet
        self._release = release
        self._result = RealRun()
        self._starts: dict[str, float] = {}
        self._devices: list[Device] = []
        self._again: list[tuple[float, Device]] = []
        for device, namespace in zip(drawn.devices, network.devices, strict=True):
            made = Device(
                device.device,
                "site",
                staged.directory / device.device,
                prefix=namespace.prefix,
                host=namespace.address,
            )
            made.configure(fleet, url, staged.base(device.base))
            self._devices.append(made)
            self._starts[device.device] = max(0.0, device.started_s or 0.0)
        vouchers = fleet.vouchers("site", len(self._devices))
        enroll(children, zip(self._devices, vouchers, strict=True))

    def measure(self) -> RealRun:
        rest = self._scenario.polling.at_rest
        if rest:
            self._fleet.wake([d for d in self._devices if not self._starts[d.id]])
        else:
            self._fleet.introduce(self._devices)
        self._fleet.order(self._release)
        self._watch(rest)
        for device in self._devices:
            self._result.ledgers[device.id] = dict(device.status().get("ledger") or {})
        self._children.stop([d.child for d in self._devices if d.child is not None])
        for device in self._devices:
            if device.child is not None:
                right = device.right(self._release)
                self._result.right += right
                self._result.wrong += not right
        return self._result

    def _watch(self, rest: bool) -> None:
        result, network = self._result, self._network
        site = self._scenario.sites[0]
        assert site.wan is not None
        todo = sorted(self._devices, key=lambda d: self._starts[d.id])
        faults = sorted(self._scenario.faults, key=lambda f: f.at_s)
        waiting = list(self._devices)
        patience_s = PATIENCE * self._release.size / site.wan.rate + 60
        before = network.wire_bytes()
        wall = time.time()
        begun = time.monotonic()

        def step() -> bool:
            elapsed = time.monotonic() - begun
            while todo and elapsed >= self._starts[todo[0].id]:
                self._start(todo.pop(0), rest)
            while faults and elapsed >= faults[0].at_s:
                self._strike(faults.pop(0), waiting, elapsed)
            while self._again and elapsed >= self._again[0][0]:
                self._again.pop(0)[1].start(self._children, once=False)
            if not result.wire or elapsed - result.wire[-1][0] >= 0.5:
                spent = network.wire_bytes() - before
                result.wire.append((round(elapsed, 3), spent.down, spent.up))
            for device in list(waiting):
                if device.child is not None and device not in todo and device.watch(self._release):
                    waiting.remove(device)
            return not waiting

        until("end of the run", step, patience_s, interval_s=WATCH_S)
        result.seconds = time.monotonic() - begun
        spent = network.wire_bytes() - before
        result.down, result.up = spent.down, spent.up
        for device in self._devices:
            result.phases[device.id] = _phases(self._children.logs / f"{device.id}.log", wall)

    def _strike(self, fault: Fault, waiting: list[Device], elapsed: float) -> None:
        """The busiest gateway leaves without a word, or its agent is killed and started again later."""
        victim = max(waiting, key=lambda d: d.wan_bytes)
        if fault.kind is FaultKind.LEAVE:
            self._network.unplug(self._network.devices[self._devices.index(victim)])
            waiting.remove(victim)
            self._result.lost.append(victim.id)
        else:
            self._again.append((elapsed + fault.length_s, victim))
        victim.kill()

    def _start(self, device: Device, rest: bool) -> None:
        if rest and device.child is not None:
            device.ask_now()
        else:
            device.start(self._children, once=False)


def _phases(log: Path, since: float) -> dict[str, float]:
    """When an agent said for the first time, after `since` (system time), what it does."""
    found: dict[str, float] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = _LOG_LINE.match(line)
        if match:
            told = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(match[2]) / 1000
            if told >= since:
                found.setdefault(match[3], round(told - since, 3))
    return found


def check(scenario: Scenario) -> None:
    """Raise `RigError` naming what of a scenario cannot be had here."""
    release, site = scenario.releases[0], scenario.sites[0]
    can: Sequence[tuple[str, Callable[[], bool]]] = (
        ("one synthetic release", lambda: len(scenario.releases) == 1),
        ("a release of no repository", lambda: isinstance(release, SyntheticRelease)),
        (
            "an image that does not compress",
            lambda: isinstance(release, SyntheticRelease) and release.full_stored == release.size,
        ),
        ("one site", lambda: len(scenario.sites) == 1 and site.count == 1),
        (
            "a WAN of one rate both ways",
            lambda: site.wan is not None and site.wan.up_rate in (0, site.wan.rate),
        ),
        ("no loss, windows or outages", lambda: site.wan is not None and _is_plain(scenario)),
        ("devices that stay up", lambda: all(c.uptime.on_mean_s == 0 for c in scenario.classes)),
        (
            "devices that start from the new slot by themselves",
            lambda: all(c.reboot_s == 0 for c in scenario.classes),
        ),
        (
            "an order for all at once",
            lambda: all(len(o.phases) == 1 and o.phases[0].opens_s == 0 for o in scenario.orders),
        ),
        ("no faults but gateways that leave or restart", lambda: all(map(_can_do, scenario.faults))),
    )
    for what, holds in can:
        if not holds():
            raise RigError(f"{scenario.name} cannot be run for real: the rig needs {what}")


def _is_plain(scenario: Scenario) -> bool:
    wan, lan = scenario.sites[0].wan, scenario.sites[0].lan
    assert wan is not None
    return not (
        wan.loss or wan.windows or wan.outages or lan.loss or lan.segments > 1 or scenario.origin.capacity
    )


def _can_do(fault: Fault) -> bool:
    kinds = (FaultKind.LEAVE, FaultKind.RESTART)
    return fault.kind in kinds and fault.who is Who.GATEWAY and fault.count == 1 and not fault.every_s
