"""Faults: what goes wrong, when, to whom. Each kind is two functions, what begins and what ends it.

Faults compose: every one finds its victims when its time comes and undoes only what it did. Hostile
devices are not here: they are hostile from the start (`fleet`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from sim.scenario.model import Fault, FaultKind, Who
from sim.world.hostile import Hostile

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World
    from sim.world.site import Site

BASE_ROT = 1 << 20
"""Bytes that rot where a fault does not say how many."""

End = Callable[[], None]


class Faults:
    """All faults of a scenario. `begun` counts how often one began; `last_end` is when the last is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.begun = 0
        self.last_end_s = 0.0
        self._kinds: dict[FaultKind, Callable[[Fault, Random], list[End]]] = {
            FaultKind.CRASH: self._crash,
            FaultKind.RESTART: self._restart,
            FaultKind.LEAVE: self._leave,
            FaultKind.PARTITION: self._partition,
            FaultKind.ORIGIN_DOWN: self._origin_down,
            FaultKind.WAN_DOWN: self._wan_down,
            FaultKind.WAN_SLOW: self._wan_slow,
            FaultKind.CUT: self._cut,
            FaultKind.BIT_ROT_BASE: self._rot_base,
            FaultKind.BIT_ROT_SLOT: self._rot_slot,
            FaultKind.DISK_FULL: self._disk_full,
            FaultKind.DISK_SLOW: self._disk_slow,
            FaultKind.CLOCK: self._clock,
            FaultKind.REVOKED: self._revoked,
        }

    def begin(self) -> None:
        """Enter all of them. `LATE` needs no entry: the device starts late."""
        for number, fault in enumerate(self._world.scenario.faults):
            if fault.kind in (FaultKind.HOSTILE, FaultKind.LATE):
                continue
            self._enter(number, fault, fault.at_s, 0)

    def late(self) -> dict[str, float]:
        """Which devices start late, and when."""
        starts: dict[str, float] = {}
        for number, fault in enumerate(self._world.scenario.faults):
            if fault.kind is FaultKind.LATE:
                rng = self._world.kernel.rng(f"fault/{number}/0")
                for device in self._victims(fault, rng):
                    starts[device.name] = max(starts.get(device.name, 0.0), fault.at_s)
        return starts

    def _enter(self, number: int, fault: Fault, at: float, time: int) -> None:
        self.last_end_s = max(self.last_end_s, at + fault.length_s)
        self._world.kernel.at(at, self._happen, number, fault, at, time)

    def _happen(self, number: int, fault: Fault, at: float, time: int) -> None:
        world = self._world
        self.begun += 1
        world.kernel.trace(f"fault {fault.kind.value}")
        if world.observer is not None:
            world.observer.fault(fault, self._sites(fault))
        ends = self._kinds[fault.kind](fault, world.kernel.rng(f"fault/{number}/{time}"))
        for end in ends:
            world.kernel.after(fault.length_s, end)
        if fault.every_s > 0 and at + fault.every_s <= fault.until_s:
            self._enter(number, fault, at + fault.every_s, time + 1)

    # Whom

    def _sites(self, fault: Fault) -> list[Site]:
        """Where a fault is felt: there is one origin, wherever it is said to be down."""
        where = None if fault.kind is FaultKind.ORIGIN_DOWN else fault.where
        return [s for s in self._world.sites.values() if where in (None, s.name, s.group.name)]

    def _victims(self, fault: Fault, rng: Random) -> list[Device]:
        """The devices that it hits, site by site."""
        hit: list[Device] = []
        for site in self._sites(fault):
            devices = [d for d in site.honest if not d.gone]
            match fault.who:
                case Who.ALL:
                    chosen = devices
                case Who.GATEWAY:
                    busy = [d for d in devices if d.fetching]
                    busy.sort(key=lambda d: (-d.wan_down, d.name))
                    chosen = busy[: fault.count]
                case Who.RIDER:
                    idle = [d for d in devices if not d.fetching]
                    chosen = rng.sample(idle, min(fault.count, len(idle)))
                case Who.ANY:
                    chosen = rng.sample(devices, min(fault.count, len(devices)))
            hit += chosen
        return hit

    # What

    def _crash(self, fault: Fault, rng: Random) -> list[End]:
        return self._halted(fault, rng, "crash")

    def _restart(self, fault: Fault, rng: Random) -> list[End]:
        return self._halted(fault, rng, "restart")

    def _halted(self, fault: Fault, rng: Random, why: str) -> list[End]:
        victims = [d for d in self._victims(fault, rng) if not d.absent]
        for device in victims:
            device.halt(why)
        return [device.resume for device in victims]

    def _leave(self, fault: Fault, rng: Random) -> list[End]:
        for device in self._victims(fault, rng):
            device.leave()
        return []

    def _partition(self, fault: Fault, rng: Random) -> list[End]:
        ends: list[End] = []
        for site in self._sites(fault):
            if site.parted is None and len(site.devices) > 1:
                names = sorted(d.name for d in site.devices)
                site.parted = frozenset(rng.sample(names, len(names) // 2))
                site.cut_apart()
                ends.append(site.heal)
        return ends

    def _origin_down(self, fault: Fault, rng: Random) -> list[End]:
        origin = self._world.origin
        origin.break_down()
        return [origin.mend]

    def _wan_down(self, fault: Fault, rng: Random) -> list[End]:
        ends: list[End] = []
        for site in self._sites(fault):
            if site.uplink is not None:
                site.uplink.break_down()
                ends.append(site.uplink.mend)
        return ends

    def _wan_slow(self, fault: Fault, rng: Random) -> list[End]:
        ends: list[End] = []
        for site in self._sites(fault):
            if site.uplink is not None:
                site.uplink.slow(fault.factor)
                ends.append(partial(site.uplink.slow, 1 / fault.factor))
        return ends

    def _cut(self, fault: Fault, rng: Random) -> list[End]:
        for site in self._sites(fault):
            if site.uplink is not None:
                site.uplink.cut()
        return []

    def _rot_base(self, fault: Fault, rng: Random) -> list[End]:
        for device in self._victims(fault, rng):
            if device.base is not None:
                device.rot_base(*self._range(fault, rng))
        return []

    def _rot_slot(self, fault: Fault, rng: Random) -> list[End]:
        for device in self._victims(fault, rng):
            ranges = list(device.slot.written)
            if ranges:
                start, stop = ranges[rng.randrange(len(ranges))]
                at = rng.randrange(start, stop)
                device.slot.rot(at, min(stop, at + (fault.size or BASE_ROT)))
        return []

    def _revoked(self, fault: Fault, rng: Random) -> list[End]:
        world = self._world
        names = [d.name for d in self._victims(fault, rng)] if fault.manner is None else []
        if fault.manner is not None:
            hostile = [d for site in self._sites(fault) for d in site.devices if isinstance(d, Hostile)]
            names = [d.name for d in hostile if d.manner is fault.manner]
        world.revoke(names)
        return []

    def _range(self, fault: Fault, rng: Random) -> tuple[int, int]:
        size = max(m.size for m in self._world.materials.values())
        length = min(size, fault.size or BASE_ROT)
        start = rng.randrange(max(1, size - length))
        return start, start + length

    def _disk_full(self, fault: Fault, rng: Random) -> list[End]:
        victims = self._victims(fault, rng)
        for device in victims:
            device.slot.full = True
        return [partial(self._empty, device) for device in victims]

    @staticmethod
    def _empty(device: Device) -> None:
        device.slot.full = False

    def _disk_slow(self, fault: Fault, rng: Random) -> list[End]:
        victims = self._victims(fault, rng)
        for device in victims:
            device.slot.factor *= fault.factor
        return [partial(device.speed_disk, 1 / fault.factor) for device in victims]

    def _clock(self, fault: Fault, rng: Random) -> list[End]:
        for device in self._victims(fault, rng):
            device.clock_error_s += fault.size
        return []
