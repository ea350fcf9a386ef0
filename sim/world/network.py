"""Local networks and the connections between devices, with everything that crosses them.

Pieces and blobs are flows from the sender's to the receiver's links; small messages take their delay
and are only counted. Each direction of a connection delivers in order, but that pieces that are not under way
let all else pass (as in `p2p.agent.links`). Which devices can reach one another follows from where they
are, from partitions, and from who bans whom.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Protocol

from p2p.swarm import messages as m
from p2p.swarm.parts import PART_SIZES, Begun, comes_in_parts, in_parts
from sim.scenario.model import Lan, LanKind
from sim.world.flows import Flow, Flows, Link
from sim.world.kernel import Kernel
from sim.world.payloads import begun_with
from sim.world.tracing import key_of, label
from sim.world.uplink import MATHIS
from sim.world.wire import PACKET, RECORD_OVERHEAD, SEGMENT, SIZES, on_tls

FLOW_MIN = 4096
"""Payloads from this size on share their links; smaller ones are messages."""

SILENT_S = 30.0
"""When a far end that is gone without a word is given up (`p2p.adapters.channel.tune`)."""


class Node(Protocol):
    """An end of a connection. `number`: its place among all nodes of the world; `visits`: it may be at any
    site, by its certificate."""

    name: str
    number: int
    local: LocalNet
    visits: bool

    def peer_connected(self, connection: Connection, other: Node) -> None: ...

    def peer_lost(self, connection: Connection, other: Node, why: str) -> None: ...

    def received(self, source: str, message: m.Message) -> None: ...


class LocalNet:
    """The network of one site (or on board of one vehicle)."""

    def __init__(self, name: str, spec: Lan, kernel: Kernel, flows: Flows) -> None:
        self.name = name
        self.spec = spec
        self.kernel = kernel
        self.flows = flows
        self.small = 0
        """Bytes of messages that are no flows."""
        self.medium = Link(f"air {name}", self._rate) if spec.kind is LanKind.WIFI else None
        self._ports: dict[str, tuple[tuple[Link, ...], tuple[Link, ...]]] = {}
        rtt = max(2 * spec.delay_s, 1e-4)
        self.cap = MATHIS * SEGMENT / (rtt * sqrt(spec.loss)) if spec.loss else 0.0

    @property
    def _rate(self) -> float:
        return self.spec.rate * (1 - self.spec.loss)

    def ports(self, device: str) -> tuple[tuple[Link, ...], tuple[Link, ...]]:
        """What a device sends and receives over: its port's two directions, or the medium twice."""
        found = self._ports.get(device)
        if found is None:
            if self.medium is not None:
                found = (self.medium,), (self.medium,)
            else:
                found = (Link(f"{device} tx", self._rate),), (Link(f"{device} rx", self._rate),)
            self._ports[device] = found
        return found

    @property
    def carried(self) -> int:
        """Bytes that crossed it: once per copy on a switch, twice on one medium."""
        if self.medium is not None:
            return self.medium.carried + 2 * self.small
        return self.small + sum(tx.carried for (tx,), _ in self._ports.values())


class _Direction:
    """From one end of a connection to the other."""

    __slots__ = (
        "batch",
        "begun",
        "burst_at",
        "delay",
        "flow",
        "last",
        "pair",
        "part_size",
        "rate",
        "receiver",
        "sender",
    )

    def __init__(self, sender: Node, receiver: Node, delay: float) -> None:
        self.sender = sender
        self.receiver = receiver
        self.delay = delay
        tx, _ = sender.local.ports(sender.name)
        _, rx = receiver.local.ports(receiver.name)
        caps = [net.cap for net in (sender.local, receiver.local) if net.cap]
        self.flow = Flow(tx + rx, min(caps, default=0.0))
        self.rate = min(link.capacity for link in self.flow.path)
        self.last = float("-inf")
        """When the latest message arrives."""
        self.batch: list[m.Message] | None = None
        """Small messages that arrive at that time, together."""
        self.pair = sender.number << 24 | receiver.number
        self.burst_at = float("-inf")
        self.begun: Begun | None = None
        """What has come of the piece that arrives in parts."""
        self.part_size = 0
        """The receiver takes large pieces in parts of this size (`p2p.swarm.parts`); 0: it does not."""


class Connection:
    """Two devices that are connected; `up` until both are told that they are not."""

    __slots__ = ("_to", "flows", "kernel", "one", "other", "silent", "since", "told", "up")

    def __init__(self, one: Node, other: Node, kernel: Kernel, flows: Flows) -> None:
        self.one = one
        self.other = other
        self.kernel = kernel
        self.flows = flows
        self.up = True
        self.silent = False
        """Nothing arrives any more, and nobody has noticed."""
        self.since = kernel.now
        self.told = False
        delay = max(one.local.spec.delay_s, other.local.spec.delay_s)
        self._to = {one.name: _Direction(other, one, delay), other.name: _Direction(one, other, delay)}

    def begun_at(self, device: str) -> Begun | None:
        """What has come to a device of the piece that was arriving in parts."""
        return self._to[device].begun

    def peer_of(self, device: str) -> Node:
        return self.other if device == self.one.name else self.one

    def send(
        self, target: str, message: m.Message, sent: Callable[..., object] | None = None, *arguments: object
    ) -> int:
        """Queue a message; `sent(*arguments)` when it has left. Returns its size on the wire."""
        way, kind = self._to[target], type(message)
        size = SIZES[kind](message)
        kernel = self.kernel
        now = kernel.now
        kernel.note(way.pair, key_of(message, size))
        if kernel.heard:
            kernel.tell(f"{way.sender.name}>{target} {label(message)}")
        if type(message) is m.MetadataWant and message.name in PART_SIZES:
            self._to[way.sender.name].part_size = PART_SIZES[message.name]
        if size >= FLOW_MIN:
            wire, queue = 0, self.flows.push if kind is m.Piece else self.flows.pass_on
            if type(message) is m.Piece and comes_in_parts(len(message.payload), way.part_size):
                *parts, rest = in_parts(message, way.part_size)
                for part in parts:
                    wire += (crosses := on_tls(SIZES[m.Part](part)))
                    queue(way.flow, crosses, self._crossed, way, part, None, ())
                size = SIZES[m.Piece](rest)
            last = on_tls(size)
            queue(way.flow, last, self._crossed, way, message, sent, arguments)
            return wire + last
        if way.burst_at == now:
            wire = size
        else:
            wire = size + RECORD_OVERHEAD + PACKET * (1 + size // SEGMENT)
            way.burst_at = now
        if way.flow.items:
            queue = self.flows.push if kind is m.Piece else self.flows.pass_on
            queue(way.flow, wire, self._crossed, way, message, sent, arguments)
            return wire
        way.sender.local.small += wire
        arrival = now + way.delay + wire / way.rate
        if way.batch is not None and arrival <= way.last:
            way.batch.append(message)
        else:
            if arrival > way.last:
                way.last = arrival
            way.batch = batch = [message]
            kernel.at(way.last, self._arrive_together, way, batch)
        if sent is not None:
            kernel.soon(sent, *arguments)
        return wire

    def close(self, why: str, *, silently: bool = False) -> None:
        """End it. `silently`: a power cut or a partition, which the ends only notice after a while."""
        if not self.up:
            return
        for way in self._to.values():
            self.flows.cut(way.flow)
        if silently and not self.silent:
            self.silent = True
            self.kernel.after(SILENT_S, self.close, why)
            return
        self.up = False
        self.silent = True
        self.one.peer_lost(self, self.other, why)
        self.other.peer_lost(self, self.one, why)

    def _crossed(
        self,
        way: _Direction,
        message: m.Message,
        sent: Callable[..., object] | None,
        arguments: tuple[object, ...],
    ) -> None:
        kernel = self.kernel
        arrival = kernel.now + way.delay
        if arrival > way.last:
            way.last = arrival
        else:
            arrival = way.last
        way.batch = None
        kernel.at(arrival, self._arrive, way, message)
        if sent is not None:
            sent(*arguments)

    def _arrive(self, way: _Direction, message: m.Message) -> None:
        if not self.silent:
            if type(message) is m.Part:
                way.begun = begun_with(way.begun, message)
            elif type(message) is m.Piece:
                way.begun = None
            way.receiver.received(way.sender.name, message)

    def _arrive_together(self, way: _Direction, batch: list[m.Message]) -> None:
        if way.batch is batch:
            way.batch = None
        self.kernel.events += len(batch) - 1
        receiver, source = way.receiver, way.sender.name
        for message in batch:
            if self.silent:
                return
            receiver.received(source, message)
