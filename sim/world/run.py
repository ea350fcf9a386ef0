"""A run: a scenario and a seed in, an outcome out. `World` is what there is while it runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from p2p.content.digests import Digest
from p2p.content.pieces import open_index
from p2p.errors import OperatorError
from p2p.swarm.events import Fetch
from p2p.swarm.node import SwarmNode
from sim.outcome import RunOutcome
from sim.scenario.model import NO_BASE, FaultKind, Order, Scenario, SyntheticRelease
from sim.world.device import Agent, Device
from sim.world.faults import Faults
from sim.world.fleet import make_sites
from sim.world.flows import Flows
from sim.world.hostile import Hostile
from sim.world.kernel import Kernel
from sim.world.living import LivingAgent
from sim.world.observer import Observer
from sim.world.orders import Coordinator
from sim.world.publisher import Publisher
from sim.world.results import outcome_of
from sim.world.site import Site
from sim.world.spans import Spans
from sim.world.synthetic import Material, make_material, name_digest
from sim.world.uplink import OriginServer
from sim.world.vehicles import Timetable

LEAD_S = 180.0
"""Devices at rest have run for this long before time 0."""

ENDING_S, ENDING_STEP_S = 5.0, 0.05
"""A run goes on after the last device is done until no request is under way, for so long at most; how often
that is looked at."""

COLLECTOR = (50_000, 20, 50)
"""Thresholds of the cyclic collector during a run: a world is large and makes few cycles."""

SLICES = 400
"""How often `progress` is told, at least."""


@dataclass(frozen=True, slots=True)
class Seams:
    """Where a test puts something else in the place of the real thing."""

    make_node: Callable[..., SwarmNode] = SwarmNode
    make_device: Callable[..., Device] = Device
    make_agent: Callable[[Device], Agent] = LivingAgent
    tls: bool = True
    """Whether origin and coordinator are reached by HTTPS."""


class World:
    """Everything of a run. `materials` by release, `devices` by name, in the order they were made."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        timelines: Collection[str] = (),
        materials: Mapping[str, Material] | None = None,
        observer: Observer | None = None,
        seams: Seams | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.kernel = Kernel(seed, tell=tell)
        if scenario.polling.at_rest:
            self.kernel.now = -LEAD_S
        self.seams = seams or Seams()
        self.open_index = cache(open_index)
        self.observer = observer
        self.flows = Flows(self.kernel)
        self.origin = OriginServer(scenario.origin, scenario.duration_s, tls=self.seams.tls)
        self.spans = Spans(timelines)
        self.classes = {c.name: c for c in scenario.classes}
        self.origin_objects: dict[Digest, bytes] = {}
        self.counters = {release.name: n + 1 for n, release in enumerate(scenario.releases)}
        self.materials = self._materials(materials or {})
        self._bases = {name: d for m in self.materials.values() for name, d in m.bases.items()}
        self._bases |= {m.name: m.image for m in self.materials.values()}
        self.sites: dict[str, Site] = {}
        self.devices: dict[str, Device | Hostile] = {}
        self.honest: list[Device] = []
        self.completed: list[float] = []
        self.pursued: dict[tuple[str, str], dict[Digest | None, bool]] = {}
        """By (site, release): the bases from which it was made, and whether any such device has WAN."""
        self.unfinished: dict[str, None] = {}
        self.revoked: set[str] = set()
        """Whom the published list names, whoever knows of it."""
        self.revokes = any(fault.kind is FaultKind.REVOKED for fault in scenario.faults)
        self._over_at: float | None = None
        """When everybody was done."""
        self._starts: list[tuple[float, Device | Hostile]] = []
        self.publisher = Publisher(self)
        self.coordinator = Coordinator(self)
        make_sites(self)
        unknown = [name for name in timelines if name not in self.sites]
        if unknown:
            raise OperatorError(f"no site {unknown[0]} in scenario {scenario.name}")
        self.faults = Faults(self)
        self._begin()

    def run(self, progress: Callable[[float, int], None] | None = None) -> RunOutcome:
        """Until everything that can finish has, or the scenario's time is over."""
        collector = gc.get_threshold()
        gc.set_threshold(*COLLECTOR)
        try:
            self._run(progress)
        finally:
            gc.set_threshold(*collector)
        if self.observer is not None:
            self.observer.ended(self)
        return outcome_of(self)

    def _run(self, progress: Callable[[float, int], None] | None) -> None:
        kernel, until = self.kernel, self.scenario.duration_s
        step = until / SLICES if progress is not None else until
        stop = min(until, max(0.0, kernel.now) + step)
        while True:
            kernel.run(stop)
            if progress is not None:
                progress(kernel.now, kernel.events)
            if kernel.stopped or kernel.now >= until:
                break
            stop = min(until, stop + step)

    # For its parts

    def add(self, device: Device | Hostile, start_s: float) -> None:
        """A device that starts at `start_s`."""
        self.devices[device.name] = device
        device.site.devices.append(device)
        if isinstance(device, Device):
            self.honest.append(device)
        self._starts.append((start_s, device))

    def base_digest(self, name: str) -> Digest | None:
        """The image that a base's name stands for."""
        if name == NO_BASE:
            return None
        return self._bases.get(name) or name_digest(self.kernel.seed, "image", name)

    def make_agent(self, device: Device) -> Agent:
        return self.seams.make_agent(device)

    def wan_changed(self, site: Site) -> None:
        """A site's link opened, closed, came or went."""
        self.kernel.trace(f"wan of {site.name} changed")
        for device in site.honest:
            device.wan_changed()

    def note_pursuit(self, device: Device, material: Material) -> None:
        """A device begins to make an image."""
        bases = self.pursued.setdefault((device.site.name, material.name), {})
        bases[device.base] = bases.get(device.base, False) or device.has_wan

    def target_of(self, action: Fetch) -> tuple[int, int]:
        """The target range of a fetch."""
        material = next(m for m in self.materials.values() if m.image == action.image)
        frames = material.maps[action.pack].index.frames
        last = frames[action.stop - 1]
        return frames[action.start].target_offset, last.target_offset + last.target_length

    def finished(self, device: Device, order: Order) -> None:
        """A device is done with an order, well or not; the run is over when all are with their last."""
        if order is self.coordinator.last_order_for(device) and device.name in self.unfinished:
            if device.agent.state == "committed":
                self.completed.append(self.kernel.now)
            self.left(device)

    def revoke(self, names: Collection[str]) -> None:
        """Put devices out of the fleet. Who has no WAN of its own cannot finish, and is not waited for."""
        self.revoked |= set(names)
        self.publisher.revoke(self.revoked)
        for name in names:
            device = self.devices[name]
            if isinstance(device, Device) and not device.has_wan:
                self.left(device)

    def left(self, device: Device) -> None:
        """Nobody waits for this device any more."""
        self.unfinished.pop(device.name, None)
        if not self.unfinished and self._over_at is None:
            self._over_at = self.kernel.now
            self.kernel.after(ENDING_STEP_S, self._end_quietly)

    # Inside

    def _materials(self, given: Mapping[str, Material]) -> dict[str, Material]:
        seed = self.kernel.seed
        releases = self.scenario.releases
        images = {r.name: name_digest(seed, "image", r.name) for r in releases}
        images |= {name: material.image for name, material in given.items()}
        found: dict[str, Material] = {}
        for release in releases:
            if release.name in given:
                found[release.name] = given[release.name]
            elif isinstance(release, SyntheticRelease):
                found[release.name] = make_material(release, seed, images)
            else:
                raise OperatorError(
                    f"release {release.name} stands in {release.repository}, which was not read",
                    next_step="give its material to run()",
                )
            self.origin_objects |= found[release.name].indexes
        return found

    def _end_quietly(self) -> None:
        """Stop when what the last to finish tell origin and coordinator has been told, or soon."""
        late = self._over_at is None or self.kernel.now - self._over_at >= ENDING_S
        if late or not any(device.fetcher.busy for device in self.honest):
            self.kernel.stop()
        else:
            self.kernel.after(ENDING_STEP_S, self._end_quietly)

    def _begin(self) -> None:
        """Enter all that is known to happen."""
        kernel, rest = self.kernel, self.scenario.polling.at_rest
        late = self.faults.late()
        for start_s, device in self._starts:
            at = late.get(device.name, kernel.now if rest else start_s)
            kernel.at(at, device.start)
            if isinstance(device, Device):
                if self.coordinator.last_order_for(device) is not None:
                    self.unfinished[device.name] = None
                if device.has_wan and device.site.own_uplink is not None and device.name not in late:
                    heard = 0.0 if rest else device.draw * self.scenario.polling.every_s
                    self.coordinator.know(device, kernel.now - heard)
                if device.klass.uptime.on_mean_s > 0:
                    rng = kernel.rng(f"uptime/{device.name}")
                    kernel.at(
                        max(0.0, at) + rng.expovariate(1 / device.klass.uptime.on_mean_s),
                        self._off,
                        device,
                        rng,
                    )
        for site in self.sites.values():
            if site.group.timetable:
                Timetable(self, site, int(site.name.rpartition("/")[2])).begin()
        self.faults.begin()
        if rest:
            kernel.at(0.0, self._forget_lead)
        self.coordinator.begin()
        if self.observer is not None:
            self.observer.begun(self)

    def _off(self, device: Device, rng: Random) -> None:
        if not device.gone:
            device.halt("off")
            self.kernel.after(
                rng.expovariate(1 / max(1e-3, device.klass.uptime.off_mean_s)), self._on, device, rng
            )

    def _on(self, device: Device, rng: Random) -> None:
        if not device.gone:
            device.resume()
            self.kernel.after(rng.expovariate(1 / device.klass.uptime.on_mean_s), self._off, device, rng)

    def _forget_lead(self) -> None:
        """What devices at rest have said to each other before time 0 is not the release's."""
        self.origin.egress.clear()
        for site in self.sites.values():
            for uplink in site.uplinks:
                uplink.down = uplink.up = 0
        for device in self.honest:
            device.wan_down = device.wan_up = 0


def run(
    scenario: Scenario,
    seed: int,
    *,
    timelines: Collection[str] = (),
    progress: Callable[[float, int], None] | None = None,
    materials: Mapping[str, Material] | None = None,
    observer: Observer | None = None,
    seams: Seams | None = None,
) -> RunOutcome:
    """Run a scenario. The same scenario and seed give the same outcome, trace digest included.

    `timelines`: sites (`group/number`) whose spans are kept. `progress` gets virtual time and events.
    `materials`: releases that stand in a repository, read by the caller. Raises `OperatorError` for a
    site or a release that is not there.
    """
    world = World(scenario, seed, timelines=timelines, materials=materials, observer=observer, seams=seams)
    return world.run(progress)
