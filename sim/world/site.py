"""A site: its devices, its networks, and who there finds and dials whom.

Discovery is as the agent's: multicast within a segment, the roster across segments, addresses from
peers. Whom a device dials and keeps is decided by the agent's own code (`p2p.swarm.neighbours`). Devices of
vehicles are on the network of the site where they stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from p2p.swarm.neighbours import LISTEN_S
from sim.scenario.model import Lan, SiteGroup
from sim.world.network import Connection, LocalNet, Node
from sim.world.uplink import Uplink

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.hostile import Hostile
    from sim.world.run import World

MULTICAST_S = (0.05, 0.6)
"""How long it takes until a device that starts has been found by multicast."""

DIAL_BACKOFF_S = (0.25, 30.0)
"""As `p2p.agent.links`."""

HANDSHAKE = 6000
"""Bytes on the LAN of a connection's mutual TLS handshake, two certificates included, both ways."""


class Area:
    """Sites whose devices are enrolled as one: a vehicle and where it stops. `name` is in certificates."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sites: list[Site] = []


class Site:
    """One site (`group/number`), or one vehicle."""

    def __init__(self, world: World, name: str, group: SiteGroup) -> None:
        self.world = world
        self.name = name
        self.group = group
        self.local = LocalNet(name, group.lan, world.kernel, world.flows)
        self.uplink: Uplink | None = None
        self.own_uplink: Uplink | None = None
        self.uplinks: list[Uplink] = []
        """All that it had."""
        self.host: Site | None = None
        """Where a vehicle stands."""
        self.guests: list[Site] = []
        self.area = Area(name)
        self.devices: list[Device | Hostile] = []
        self.parted: frozenset[str] | None = None
        """One side of a partition."""
        self._rng: Random = world.kernel.rng(f"discovery/{name}")
        self._pauses: dict[tuple[str, str], float] = {}
        self._dialling: dict[tuple[str, str], int] = {}
        """Who is about to dial whom again, in which life."""

    @property
    def lan(self) -> Lan:
        return self.group.lan

    @property
    def budget(self) -> float:
        """Bytes per second that its devices may fetch together, as they are configured; 0: no limit."""
        wan = self.group.wan
        return 0.0 if wan is None else wan.budget

    @property
    def honest(self) -> list[Device]:
        return [d for d in self.devices if d.honest]  # type: ignore[misc]  # a `Hostile` never is

    # Who can reach whom

    def here(self) -> list[Device | Hostile]:
        """All devices that are on one network with this site's own."""
        ground = self.host or self
        found = list(ground.devices)
        for guest in ground.guests:
            found += guest.devices
        return found

    def reaches(self, one: Device | Hostile, other: Device | Hostile) -> bool:
        """Whether two devices are on one network that is whole."""
        a, b = one.site, other.site
        if (a.host or a) is not (b.host or b):
            return False
        for site in {id(a): a, id(b): b}.values():
            if site.parted is not None and (one.name in site.parted) != (other.name in site.parted):
                return False
        return True

    # Discovery

    def discover(self, device: Device | Hostile) -> None:
        """A device is here (again): it and its neighbours find each other after a moment."""
        low, high = MULTICAST_S
        kernel = self.world.kernel
        kernel.after(low + (high - low) * self._rng.random(), self._dial_neighbours, device, device.life)
        kernel.after(LISTEN_S, self._listened, device, device.life)

    def _listened(self, device: Device | Hostile, life: int) -> None:
        if device.life == life and device.up:
            device.neighbours.listened()
            self._dial_some(device, [self.world.devices[name] for name in sorted(device.neighbours.wanted())])

    def _dial_neighbours(self, device: Device | Hostile, life: int) -> None:
        if device.life != life or not device.up:
            return
        neighbours = [
            d for d in self.here()
            if d is not device and d.up and (d.site is not device.site or d.segment == device.segment)
        ]  # fmt: skip
        self._dial_some(device, neighbours)
        self.roster_heard(device, device.roster)

    def roster_heard(self, device: Device | Hostile, names: Sequence[str]) -> None:
        """The coordinator named devices: those that are here are dialled."""
        devices = self.world.devices
        known = [devices[n] for n in names if n != device.name and n in devices]
        self._dial_some(device, [d for d in known if d.up])

    def heard_of(self, device: Device | Hostile, names: list[str]) -> None:
        """A peer named others."""
        connections, devices, neighbours = device.connections, self.world.devices, device.neighbours
        for name in names:
            if name not in connections and (other := devices.get(name)) is not None and other is not device:
                neighbours.heard(name)
                if neighbours.wants(name):
                    self._dial(device, other)

    def _dial_some(self, device: Device | Hostile, others: list[Device | Hostile]) -> None:
        """Dial those of them that it wants."""
        for other in others:
            device.neighbours.heard(other.name)
        for other in others:
            self._dial(device, other)

    def _dial(self, device: Device | Hostile, other: Device | Hostile) -> None:
        device.neighbours.heard(other.name)
        if other.name in device.connections or not device.neighbours.wants(other.name):
            return
        if not self.connect(device, other):
            device.neighbours.failed(other.name)
            if other.up and self.reaches(device, other):
                self.redial(device, other.name)  # it is full, or one of the two is banned by the other

    def redial(self, device: Device | Hostile, name: str) -> None:
        """There is no connection (any more): try again after a pause that grows."""
        first, longest = DIAL_BACKOFF_S
        key = (device.name, name)
        if self._dialling.get(key) == device.life:
            return
        self._dialling[key] = device.life
        pause = self._pauses.get(key, first)
        self._pauses[key] = min(longest, pause * 1.6)
        self.world.kernel.after(pause, self._redial, device, device.life, name)

    def _redial(self, device: Device | Hostile, life: int, name: str) -> None:
        if self._dialling.get((device.name, name)) == life:
            del self._dialling[device.name, name]
        if device.life != life or not device.up or name in device.connections:
            return
        if not device.neighbours.wants(name):
            return
        other = self.world.devices[name]
        if not other.up:
            device.neighbours.failed(name)
            self._pauses.pop((device.name, name), None)
            self._dial_neighbours(device, life)  # it says so itself when it is back; others may have room
            return
        if not self.connect(device, other):
            self.redial(device, name)

    def connect(self, one: Device | Hostile, other: Device | Hostile) -> bool:
        """Make a connection if that is possible; whether there is one now."""
        if not (one.up and other.up and self.reaches(one, other)):
            return False
        if not (one.admits(other.name) and other.admits(one.name)):
            return False
        old = one.connections.get(other.name)
        if old is not None and not old.silent:
            return True
        if old is None and not (self._has_room(one, other) and self._has_room(other, one)):
            return False
        for end, far in ((one, other), (other, one)):
            stale = end.connections.get(far.name)
            if stale is not None:
                stale.close("replaced")
        if other.name in one.connections or not (one.up and other.up):
            return other.name in one.connections
        for end, far in ((one, other), (other, one)):
            if len(end.connections) >= end.site.lan.degree_max:
                last = end.neighbours.displaced(far.name, end.connections)
                if last is not None:
                    end.connections[last].close("displaced")
        one.neighbours.met(other.name)
        other.neighbours.met(one.name)
        world = self.world
        connection = Connection(one, other, world.kernel, world.flows)
        self.local.small += HANDSHAKE
        world.kernel.trace(f"{one.name} connects {other.name}")
        if world.observer is not None:
            world.observer.connected(one.name, other.name)
        one.peer_connected(connection, other)
        if connection.up:
            other.peer_connected(connection, one)
        self._settle_pause(one, other)
        return True

    def _has_room(self, device: Device | Hostile, newcomer: Device | Hostile) -> bool:
        """Whether it takes a peer, in the place of another perhaps."""
        if len(device.connections) < device.site.lan.degree_max:
            return True
        return device.neighbours.displaced(newcomer.name, device.connections) is not None

    def _settle_pause(self, one: Node, other: Node) -> None:
        self.world.kernel.after(DIAL_BACKOFF_S[1], self._forget_pause, one.name, other.name)

    def _forget_pause(self, one: str, other: str) -> None:
        """A connection that lasted starts with the shortest pause again."""
        connection = self.world.devices[one].connections.get(other)
        if connection is not None and self.world.kernel.now - connection.since >= DIAL_BACKOFF_S[1] - 1e-6:
            self._pauses.pop((one, other), None)
            self._pauses.pop((other, one), None)

    def cut_apart(self) -> None:
        """Close, silently, all connections between devices that no longer reach each other."""
        for device in self.here():
            self.lose_unreachable(device)
        for device in self.devices:
            self.lose_unreachable(device)

    def heal(self) -> None:
        """The partition is over; devices find each other again, as announcements are repeated."""
        self.parted = None
        for device in self.here():
            if device.up:
                self.discover(device)

    def lose_unreachable(self, device: Device | Hostile) -> None:
        for name, connection in list(device.connections.items()):
            if not self.reaches(device, self.world.devices[name]):
                connection.close("unreachable", silently=True)
