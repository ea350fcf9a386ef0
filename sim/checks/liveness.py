"""When faults have ended, every healthy device with a path finishes, and nobody waits in a circle.

- `unfinished`: the run is over, all the time that it may need (`bounds`) has passed since the last fault,
  and a healthy device with a path has not finished;
- `waiting`: for longer than any wait that is meant (`bounds.quiet_max_s`), a device that makes an image has
  had nothing under way, no fault being under way and a path being there. While frames for others of its site
  cross a WAN it waits for those, which may take long on a thin link: not longer than a few frames do there.

A device that is revoked has no path but its own to the origin, and none leads over it, whoever knows of it.

A device that a carrier with the whole image visits has to have finished by then as well, wherever that is
just now.

A path: over devices that the release is meant for (or that have it), on one network, that know of each
other (one segment, or both known to the coordinator) and do not ban each other, to one that has the image
whole, or that makes it and reaches the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.checks.bounds import faults_end_s, quiet_max_s, time_needed_s, wan_rate
from sim.outcome import Violation
from sim.scenario.model import FaultKind
from sim.world.device import Device
from sim.world.observer import Observer
from sim.world.site import Site
from sim.world.trust import DAY_S, EXPIRY_DAYS
from sim.world.vehicles import stop_site

if TYPE_CHECKING:
    from p2p.content.digests import Digest
    from sim.world.run import World

__all__ = ["Liveness"]

LOOK_S = 10.0
"""How often, in virtual time, it is looked at who waits."""

MOVES_S = 2.0
"""So long after bytes came, a fetch is taken to go on (`sim.world.fetcher.PROGRESS_S`, twice)."""

FRAMES_MAX = 2.0
"""For so many frames of others a device waits without getting any of them: one, and one begun anew."""

_SIGNS = frozenset(
    {m.Piece, m.Blob, e.Stored, e.FetchProgress, e.FetchEnded, e.Pursue, e.ImageVerified, e.ReadBackFailed,
     e.Damaged}
)  # fmt: skip
"""A node that is told one of these has had something under way."""


@dataclass(slots=True)
class _Wait:
    """Since when a device has had nothing under way; for `carried_s` of that, others' frames came, `frames`
    of the largest size at most."""

    since: float
    carried_s: float = 0.0
    frames: float = 0.0


class Liveness(Observer):
    """Remembers when each device last had anything under way. `look_at`: when `look` is due again."""

    heeds = _SIGNS | {e.Tick}  # which comes to every node that makes an image, whatever else happens

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._alive: dict[str, float] = {}
        self.look_at = 0.0
        self._told: set[str] = set()
        self._moved: dict[str, float] = {}
        self._waits: dict[str, _Wait] = {}

    def begun(self, world: World) -> None:
        self._world = world
        hostile = any(
            fault.kind is FaultKind.HOSTILE or fault.manner is not None for fault in world.scenario.faults
        )
        frames = [
            frame.stored_size
            for material in world.materials.values()
            for pieces in material.maps.values()
            for frame in pieces.index.frames
        ]
        self._frame = max(frames, default=0)
        promised = self._frame if hostile else 0
        self._quiet_s = quiet_max_s(world.scenario.policy, promised=promised)
        self._faults_end_s = faults_end_s(world.scenario)
        self.look_at = world.kernel.now

    def started(self, device: Device) -> None:
        self._alive[device.name] = device.kernel.now

    def connected(self, one: str, other: str) -> None:
        self._alive[one] = self._alive[other] = self._world.kernel.now

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        self._alive[device.name] = device.kernel.now

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        now = device.kernel.now
        if type(event) is not e.Tick:
            self._alive[device.name] = now
            if type(event) is e.FetchProgress:
                self._moved[device.name] = now
        if now >= self.look_at:
            self.look()

    def ended(self, world: World) -> None:
        self.look()
        if world.kernel.now < min(time_needed_s(world.scenario), world.scenario.duration_s):
            return
        if world.scenario.duration_s < time_needed_s(world.scenario):
            return
        for name in world.unfinished:
            device = world.devices[name]
            if isinstance(device, Device) and self._should_finish(device):
                state = device.agent.state
                self._add("unfinished", device, f"is {state} {world.kernel.now:.0f} s after the start")

    def look(self) -> None:
        """Look who waits."""
        now = self._world.kernel.now
        passed_s, self.look_at = now - (self.look_at - LOOK_S), now + LOOK_S
        if now < self._faults_end_s:
            return
        for name in self._world.unfinished:
            device = self._world.devices[name]
            if name in self._told or not isinstance(device, Device) or not device.up:
                continue
            since = max(self._alive.get(name, now), self._faults_end_s)
            making = [image for image, held in device.images.items() if not held.complete]
            if device.agent.state != "fetching" or not any(self._has_path(device, i) for i in making):
                self._alive[name] = now
                continue
            wait = self._waits.get(name)
            if wait is None or wait.since != since:
                wait = self._waits[name] = _Wait(since)
            if now - since >= passed_s:
                self._carry(wait, device, making, passed_s)
            excused_s = wait.carried_s if wait.frames <= FRAMES_MAX else 0.0
            if now - since - excused_s > self._quiet_s:
                self._told.add(name)
                node = device.node
                roles = [node.status(image) for image in device.images] if node is not None else []
                said = ", ".join(
                    f"{s.role} with {s.left} of {s.size} bytes to make" for s in roles if s is not None
                )
                self._add("waiting", device, f"nothing under way for {now - since:.0f} s ({said})")

    # Inside

    def _carry(self, wait: _Wait, device: Device, images: list[Digest], seconds: float) -> None:
        """What may have come to others of the site in the last seconds: they share its WANs."""
        now = self._world.kernel.now
        rates = [
            wan_rate(other.site.uplink.spec) * other.site.uplink.factor
            for other in device.site.here()
            if isinstance(other, Device)
            and now - self._moved.get(other.name, -math.inf) <= MOVES_S
            and any(image in other.images for image in images)
            and other.site.uplink is not None
        ]
        if rates and self._frame:
            wait.carried_s += seconds
            wait.frames += seconds * min(rates) / len(rates) / self._frame

    def _should_finish(self, device: Device) -> bool:
        """Whether nothing but the swarm keeps it from finishing."""
        storage, order = device.klass.storage, self._world.coordinator.last_order_for(device)
        if order is None or device.gone or not device.up or device.klass.uptime.on_mean_s > 0:
            return False
        material = self._world.materials[order.release]
        fits = not storage.capacity or material.size <= storage.capacity
        late = device.clock_error_s >= EXPIRY_DAYS["timestamp"] * DAY_S  # to its clock, all has expired
        served = self._has_path(device, material.image) or self._is_visited(device, material.image)
        return fits and not late and served

    def _is_visited(self, device: Device, image: Digest) -> bool:
        """Whether a van that has the image whole comes by now and then, and has done so all the time."""
        revoked = self._world.revoked
        if device.name in revoked or device.site.group.timetable:
            return False
        return any(
            van.klass.carrier and van.up and van.name not in revoked and van.klass.uptime.on_mean_s == 0
            and device.admits(van.name) and van.admits(device.name)
            and van.site.group.timetable_every_s > 0 and _holds(van, image)
            and device.site in _stops(self._world, van)
            for van in self._world.honest
        )  # fmt: skip

    def _has_path(self, device: Device, image: Digest) -> bool:
        """Whether a way leads from the device to an image, over devices that want or have it too."""
        revoked = self._world.revoked
        if device.name in revoked:
            return device.base == image or _reaches_origin(device)
        seen = {device.name}
        waiting = [device]
        here: list[Device] | None = None
        while waiting:
            one = waiting.pop()
            if _has(one, image) if one.base == image else _reaches_origin(one):
                return True
            if here is None:
                here = [
                    d for d in device.site.here() if isinstance(d, Device) and d.up and d.name not in revoked
                ]
            for other in here:
                if other.name in seen or not (image in other.images or other.base == image):
                    continue
                admitted = one.admits(other.name) and other.admits(one.name)
                if admitted and one.site.reaches(one, other) and _know(one, other):
                    seen.add(other.name)
                    waiting.append(other)
        return False

    def _add(self, check: str, device: Device, message: str) -> None:
        now = self._world.kernel.now
        self.violations.append(Violation(check, now, device.site.name, device.name, message))


def _holds(van: Device, image: Digest) -> bool:
    """Whether a carrier has the image whole."""
    held = van.images.get(image)
    return held is not None and held.complete and _has(van, image)


def _stops(world: World, van: Device) -> list[Site | None]:
    number = int(van.site.name.rpartition("/")[2])
    return [stop_site(world, stop.site, number) for stop in van.site.group.timetable]


def _has(device: Device, image: Digest) -> bool:
    """Whether it can still give the image: its medium may have forgotten some of it."""
    held = device.images.get(image)
    return held is None or not held.complete or held.slot.is_good(0, held.material.size)


def _reaches_origin(device: Device) -> bool:
    uplink = device.site.uplink
    origin = device.world.origin
    return (
        device.reaches_wan and not device.meter.closed
        and uplink is not None and not uplink.broken and origin.up
    )  # fmt: skip


def _know(one: Device, other: Device) -> bool:
    return one.segment == other.segment or (one.has_wan and other.has_wan) or one.site is not other.site
