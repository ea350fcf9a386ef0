"""Hostile devices: good certificates, no `SwarmNode`, and one `Manner` each.

They speak valid messages (but for `garbage`) over the same connections as everybody, and come back
when they are cut off, as long as they are let in. What they do is the worst that a simple program
would; what it may cost the others is for the checks to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from p2p.content import limits
from p2p.swarm import messages as m
from p2p.swarm.delta_making import delta_name
from p2p.swarm.neighbours import Neighbours
from p2p.swarm.parts import RESTS
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from sim.scenario.model import Manner
from sim.world.device import PORT
from sim.world.network import Connection, LocalNet, Node
from sim.world.payloads import BAD
from sim.world.synthetic import Material

if TYPE_CHECKING:
    from sim.world.run import World
    from sim.world.site import Site

FLOOD_S = 0.5
FLOOD_MESSAGES = 20
"""What a flooding device sends to each peer, and how often."""

FALSE_DELTA = 1000
"""Bytes of a delta that is none."""

LEASE_S = 2.0
"""How often a greedy one renews its leases."""

BREACH_BAN_S = 60.0
"""How long one that breaks the wire format is kept out (`p2p.agent.links`)."""


class Hostile:
    """One hostile device; stands where a `Device` could."""

    honest = False
    roster: Sequence[str] = ()

    def __init__(self, world: World, site: Site, name: str, manner: Manner, *, segment: int) -> None:
        self.world = world
        self.site = site
        self.name = name
        self.manner = manner
        self.segment = segment
        self.number = len(world.devices)
        self.kernel = world.kernel
        self.local: LocalNet = site.local
        self.visits = bool(site.group.timetable)
        self.connections: dict[str, Connection] = {}
        self.neighbours = Neighbours(name, site.lan.degree_max)
        self.up = False
        self.gone = False
        self.life = 0
        self.absent = 0
        self.started_s: float | None = None
        self.sent_bytes = 0
        self._poisons_objects = self.kernel.rng(f"hostile/{name}").random() < 0.3
        self._number = 0
        self._replies: dict[Manner, Callable[[m.Message], Iterator[m.Message]]] = {
            Manner.POISON: self._poison,
            Manner.STALE: self._stale,
            Manner.SLOW: self._refuse_none,
            Manner.DELTA: self._lie_in_deltas,
        }

    def start(self) -> None:
        """Be on the network."""
        if self.up or self.gone:
            return
        self.up = True
        self.life += 1
        if self.started_s is None:
            self.started_s = self.kernel.now
        self.site.discover(self)
        if self.manner in (Manner.FLOOD, Manner.GREEDY, Manner.GARBAGE):
            self.kernel.after(self._every, self._again, self.life)

    def stop(self, why: str) -> None:
        self.up = False
        self.life += 1
        for connection in list(self.connections.values()):
            connection.close(why)
        self.connections.clear()

    def halt(self, why: str) -> None:
        self.absent += 1
        self.stop(why)

    def resume(self) -> None:
        self.absent -= 1
        if not self.absent:
            self.start()

    def admits(self, device: str) -> bool:
        return True

    def peer_connected(self, connection: Connection, other: Node) -> None:
        self.connections[other.name] = connection
        self._send(other.name, m.Hello(PROTOCOL, self.site.area.name, PORT, True))
        for message in self._greeting():
            self._send(other.name, message)

    def peer_lost(self, connection: Connection, other: Node, why: str) -> None:
        if self.connections.get(other.name) is connection:
            del self.connections[other.name]
            self.site.redial(self, other.name)

    def received(self, source: str, message: m.Message) -> None:
        if not self.up:
            return
        if self.manner is Manner.SLOW and type(message) is m.Want:
            connection = self.connections.get(source)
            if connection is not None:  # a byte at a time: the reader gives up in the end
                self.kernel.after(limits.PEER_IDLE_S, connection.close, "too-slow")
            return
        replies = self._replies.get(self.manner)
        if replies is not None:
            for reply in replies(message):
                self._send(source, reply)

    # Inside

    @property
    def _materials(self) -> list[Material]:
        return list(self.world.materials.values())

    @property
    def _every(self) -> float:
        return LEASE_S if self.manner is Manner.GREEDY else FLOOD_S

    def _send(self, target: str, message: m.Message) -> None:
        connection = self.connections.get(target)
        if connection is not None:
            self.sent_bytes += connection.send(target, message)

    def _greeting(self) -> Iterator[m.Message]:
        """What it says of itself when a connection is up."""
        if self.manner is Manner.STALE:
            yield m.News(1, 1 << 20)
        if self.manner in (Manner.POISON, Manner.LIAR, Manner.SLOW):
            for material in self._materials:
                yield m.Join(material.image, None, True, 1000, True)
                for digest, pieces in material.maps.items():
                    total = len(pieces)
                    yield m.Have(material.image, digest, total, pack_bitmap(set(range(total)), total))
        if self.manner is Manner.DELTA:
            for material in self._materials:
                full = material.task(None).full_pack.index.sha256
                bases = list(material.bases.values())
                for base in bases:
                    yield m.Have(material.image, delta_name(full, base), 1, b"\1")
                if bases:  # a device has one base only
                    yield m.Join(material.image, bases[self.number % len(bases)], True, 1000, True)
        if self.manner is Manner.GREEDY:
            for material in self._materials:
                yield m.Join(material.image, None, True, 1000, False)
            yield from self._leases()

    def _again(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        for target in list(self.connections):
            if self.manner is Manner.GARBAGE:
                self._break(target)
                continue
            for message in self._leases() if self.manner is Manner.GREEDY else self._flood():
                self._send(target, message)
        self.kernel.after(self._every, self._again, life)

    def _leases(self) -> Iterator[m.Message]:
        """Leases on as much as a node may claim, at the start of every pack."""
        packs = [(x.image, digest, p) for x in self._materials for digest, p in x.maps.items()]
        each = max(1, 16 // len(packs))
        for n, (image, digest, pieces) in enumerate(packs[:16]):
            frames = pieces.index.frames
            slot, start = n * each, 0
            while start < len(frames) and slot < (n + 1) * each:
                stop, size = start + 1, frames[start].stored_size
                while stop < len(frames) and size + frames[stop].stored_size <= limits.LEASE_BYTES_MAX:
                    size += frames[stop].stored_size
                    stop += 1
                yield m.Lease(image, digest, slot, start, stop)
                slot, start = slot + 1, stop

    def _flood(self) -> Iterator[m.Message]:
        for _ in range(FLOOD_MESSAGES):
            self._number += 1
            material = self._materials[self._number % len(self._materials)]
            digest = next(iter(material.maps))
            if self._number % 3 == 0:
                yield m.News(1, self._number)
            elif self._number % 3 == 1:
                yield m.HaveMore(material.image, digest, (self._number % len(material.maps[digest]),))
            else:
                yield m.Want(self._number, material.image, digest, 0)

    def _break(self, target: str) -> None:
        """Bytes that are no message: the reader closes and keeps this device out for a while."""
        connection = self.connections[target]
        receiver = connection.peer_of(self.name)
        self.local.small += 100
        if hasattr(receiver, "banned"):
            receiver.banned[self.name] = self.kernel.now + BREACH_BAN_S
        connection.close("protocol")

    def _poison(self, message: m.Message) -> Iterator[m.Message]:
        if type(message) is m.Want or type(message) is m.WantRest:
            for material in self._materials:
                pieces = material.maps.get(message.pack)
                if pieces is not None and message.piece < len(pieces):
                    start = message.start if type(message) is m.WantRest else 0
                    yield m.Piece(message.request, BAD[: pieces[message.piece].wire_size - start])
        elif type(message) is m.MetadataWant and message.name == RESTS:
            yield m.Blob(message.request, b"")
        elif type(message) is m.ObjectWant:
            if self._poisons_objects:
                yield m.Blob(message.request, BAD[: message.size])
            else:  # or it would be found out before anybody asks it for a piece
                held = [i for material in self._materials if (i := material.indexes.get(message.digest))]
                yield (
                    m.Blob(message.request, held[0]) if held
                    else m.Refuse(message.request, m.Refusal.DONT_HAVE)
                )  # fmt: skip

    def _stale(self, message: m.Message) -> Iterator[m.Message]:
        if type(message) is m.MetadataWant:
            yield m.Blob(message.request, self.world.publisher.first_timestamp)
        elif type(message) is m.ObjectWant:
            yield m.Refuse(message.request, m.Refusal.DONT_HAVE)

    def _lie_in_deltas(self, message: m.Message) -> Iterator[m.Message]:
        if type(message) is m.Want:
            known = any(message.pack in material.maps for material in self._materials)
            yield (
                m.Refuse(message.request, m.Refusal.DONT_HAVE) if known
                else m.Piece(message.request, BAD[:FALSE_DELTA])
            )  # fmt: skip
        elif type(message) is m.ObjectWant:
            yield m.Refuse(message.request, m.Refusal.DONT_HAVE)

    def _refuse_none(self, message: m.Message) -> Iterator[m.Message]:
        return iter(())
