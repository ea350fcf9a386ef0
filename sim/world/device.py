"""One honest device: the real `SwarmNode`, and everything around it in virtual time.

`Device` is the counterpart of `p2p.agent.driver`: it carries out the node's actions over the virtual
network and feeds it what happens. Bytes do not exist: a payload is a slice of one block of zeros, and
one whose first byte is 1 is wrong. What is installed when is the agent's business (`agent`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from p2p.content.digests import Buffer, Digest
from p2p.content.intervals import IntervalSet
from p2p.content.limits import PRICE_UNIT
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.conditions import Conditions
from p2p.swarm.neighbours import Neighbours
from p2p.swarm.node import SwarmNode
from sim.scenario.model import DeviceClass
from sim.world.deltas import Deltas
from sim.world.fetcher import Fetcher
from sim.world.maker import Holding, Maker
from sim.world.metering import Meter
from sim.world.network import Connection, LocalNet, Node
from sim.world.payloads import is_right
from sim.world.server import PieceServer
from sim.world.slot import VirtualSlot
from sim.world.synthetic import Material
from sim.world.totals import Totals

if TYPE_CHECKING:
    from sim.world.run import World
    from sim.world.site import Site

PORT = 7711
TICK = e.Tick()
WEIGHT = 100
"""How gladly devices are gateways, as in `p2p.swarm.node`."""


class Agent(Protocol):
    """What runs a device besides its node: asks what is meant, has it made, installs it."""

    state: str

    meant_s: float | None
    verified_s: float | None
    finished_s: float | None

    def started(self) -> None: ...
    def told(self) -> None: ...
    def stopped(self) -> None: ...
    def verified(self, image: Digest) -> None: ...
    def failed(self, image: Digest, reason: str) -> None: ...
    def object_arrived(self, digest: Digest, data: bytes | None) -> None: ...
    def metadata_arrived(self, device: str, name: str, data: bytes | None) -> None: ...
    def news_heard(self, device: str, root_version: int, timestamp_version: int) -> None: ...
    def report_arrived(self, action: e.ReportArrived) -> None: ...
    def report_returned(self, action: e.ReportReturned) -> None: ...


class Device:
    """One device. `life` counts the starts of its agent: what was asked for in an earlier one is void."""

    honest = True

    def __init__(
        self, world: World, site: Site, name: str, klass: DeviceClass, base: str, *, segment: int
    ) -> None:
        self.world = world
        self.site = site
        self.name = name
        self.number = len(world.devices)
        self.klass = klass
        self.segment = segment
        self.local: LocalNet = site.local
        self.visits = klass.carrier
        self.kernel = world.kernel
        self.base_name = base
        self.first_base = base
        self.base: Digest | None = world.base_digest(base)
        self.base_bad = IntervalSet()
        self.roster: list[str] = []
        """Of its last check-in that had one, durable."""
        self.previous: Digest | None = None
        """What its other slot still holds, once it runs something newer."""
        self.has_wan = True
        self.clock_error_s = 0.0
        self.healthy = True
        self.draw = 0.0
        self.gone = False
        """It left for good."""
        self.absent = 0
        self.stopped_why = ""
        self.node: SwarmNode | None = None
        self.life = 0
        self.slot = VirtualSlot(klass.storage)
        self.active_slot: VirtualSlot | None = None
        self.images: dict[Digest, Holding] = {}
        self.objects: dict[Digest, bytes] = {}
        """Small objects in its own stores, durable."""
        self.connections: dict[str, Connection] = {}
        self.neighbours = Neighbours(name, site.lan.degree_max)
        self.banned: dict[str, float] = {}
        self.revoked: frozenset[str] = frozenset()
        """Devices that it knows to be revoked, maybe itself among them."""
        self.agent: Agent = world.make_agent(self)
        self.started_s: float | None = None
        self.wan_down = 0
        self.wan_up = 0
        self.frames_wan = 0
        self.totals = Totals()
        self.meter = Meter(self)
        self.maker = Maker(self)
        self.fetcher = Fetcher(self, self.maker)
        self.server = PieceServer(self)
        self.deltas = Deltas(self)
        self._tick_at: float | None = None
        self._observer = world.observer
        self._heeds = world.observer.heeds if world.observer is not None else ()
        self._do: dict[type[Any], Callable[[Any], None]] = {
            e.Send: self._send,
            e.Disconnect: self._disconnect,
            e.Fetch: self.fetcher.fetch,
            e.CancelFetch: self.fetcher.cancel_fetch,
            e.FetchObject: self.fetcher.fetch_object,
            e.ObjectReady: self._object_ready,
            e.ObjectFailed: self._object_failed,
            e.NewsHeard: self._news_heard,
            e.MetadataArrived: self._metadata_arrived,
            e.ReportArrived: self._report_arrived,
            e.ReportReturned: self._report_returned,
            e.Route: self.maker.route,
            e.Store: self.maker.store,
            e.Serve: self.server.serve,
            e.ReadBack: self.maker.read_back,
            e.Recheck: self.maker.recheck,
            e.Recompute: self.maker.recompute,
            e.MakeDelta: self.deltas.make,
            e.UseDelta: self.deltas.use,
            e.GiveUp: self._give_up,
            e.PeerAddresses: self._peer_addresses,
            e.Fellows: self._fellows,
            e.WanShared: self.fetcher.divide,
        }

    # Running

    @property
    def up(self) -> bool:
        return self.node is not None

    @property
    def reaches_wan(self) -> bool:
        """Whether its node may think that it can reach the origin."""
        return self.has_wan and self.site.uplink is not None and self.site.uplink.open

    @property
    def may_have_wan(self) -> bool:
        """Whether it may come to a WAN of its own at all, as it is configured (`swarm.wan`)."""
        group = self.site.group
        return self.has_wan and (group.wan is not None or bool(group.timetable))

    @property
    def _price(self) -> int | None:
        """Of a MB of its own WAN, in millionths, if it tells one."""
        return round(self.klass.wan_price_per_mb * PRICE_UNIT) or None

    def start(self) -> None:
        """Start the agent's process, on what the device's media hold."""
        if self.node is not None or self.gone:
            return
        self.life += 1
        self.neighbours = Neighbours(self.name, self.site.lan.degree_max)
        world = self.world
        if self.started_s is None:
            self.started_s = self.kernel.now
        self.kernel.trace(f"{self.name} starts")
        self.node = world.seams.make_node(
            device=self.name, site=self.site.area.name, port=PORT,
            rng=self.kernel.rng(f"node/{self.name}/{self.life}"), policy=world.scenario.policy,
            wan=self.reaches_wan, carrier=self.klass.carrier, recomputes=self.klass.recompute_rate > 0,
            open_index=world.open_index, divides=self.site.budget > 0,
            weight=Conditions(metered=self.klass.metered).weight(WEIGHT),
            links_max=self.site.lan.degree_max,
            closed=self.meter.closed, price=self._price,
            quota=self.meter.quota if self.has_wan else None,
            isolated=not self.may_have_wan, visits=self.visits,
        )  # fmt: skip
        if world.observer is not None:
            world.observer.started(self)
        self.agent.started()
        self.meter.started()
        self.site.discover(self)

    def stop(self, why: str) -> None:
        """End the agent's process: `crash` loses what was not synced, and peers are not told."""
        node = self.node
        if node is None:
            return
        self.totals.add(node)
        self.node = None
        self.life += 1
        self.stopped_why = why
        self.kernel.trace(f"{self.name} stops: {why}")
        self.totals.wasted += self.fetcher.stop()
        for connection in list(self.connections.values()):
            connection.close(why, silently=why in ("crash", "leave"))
        self.connections.clear()
        if why == "crash":
            self.slot.crash()
        else:
            self.slot.checkpoint()
        self.images.clear()
        self._tick_at = None
        self.maker.stop()
        self.deltas.stop()
        self.agent.stopped()
        if self.world.observer is not None:
            self.world.observer.stopped(self, why)

    def feed(self, event: e.Event) -> None:
        """Give the node an event and carry out what it says."""
        node, kernel = self.node, self.kernel
        if node is None:
            return
        actions = node.handle(event, kernel.now)
        if self._observer is not None:
            what = type(event.message) if type(event) is e.Received else type(event)
            if self._heeds is None or what in self._heeds:
                self._observer.fed(self, event, actions)
        if actions:
            do = self._do
            for action in actions:
                do[type(action)](action)
        deadline, tick_at = node.deadline(), self._tick_at
        if deadline is not None and (tick_at is None or deadline < tick_at):
            self._tick_at = deadline
            kernel.at(deadline, self._tick, deadline, self.life)

    def _tick(self, due: float, life: int) -> None:
        if self._tick_at == due and self.life == life:
            self._tick_at = None
            self.feed(TICK)

    def later(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        """Call at `time` if the agent still runs in this life."""
        self.kernel.at(time, self._if_alive, self.life, call, arguments)

    def _if_alive(self, life: int, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if life == self.life:
            call(*arguments)

    def feed_later(self, time: float, event: e.Event) -> None:
        """Give the node an event at `time`, if it still runs in this life."""
        self.later(time, self.feed, event)

    # Power

    def halt(self, why: str) -> None:
        """Stop until `resume` was called as often."""
        self.absent += 1
        self.stop(why)

    def resume(self) -> None:
        self.absent -= 1
        if not self.absent:
            self.start()

    def reboot(self) -> None:
        """Stop, and start anew after the device's own time."""
        self.stop("reboot")
        self.start_again()

    def start_again(self) -> None:
        """Start after the device's own time; it was stopped."""
        self.kernel.after(self.klass.reboot_s, self._booted, self.life)

    def _booted(self, life: int) -> None:
        if self.life == life and not self.absent:
            self.start()

    def leave(self) -> None:
        """Go for good."""
        self.gone = True
        self.stop("leave")
        self.world.left(self)

    @property
    def fetching(self) -> bool:
        """Whether a fetch over the WAN is under way."""
        return self.fetcher.active

    def rot_base(self, start: int, stop: int) -> None:
        """A range of what it runs reads wrong from now on."""
        self.base_bad.add(start, stop)

    def speed_disk(self, factor: float) -> None:
        self.slot.factor *= factor

    def told(self) -> None:
        """Something was published, and devices at rest hear of it at once."""
        if self.node is not None:
            self.agent.told()

    # For the agent

    def pursue(self, material: Material) -> None:
        """Make an image in the spare slot, from what the slot holds of it. Raises `SlotFull`."""
        self.maker.pursue(material)

    def offer(self, material: Material) -> None:
        """Serve the image that this device runs."""
        self.maker.offer(material)

    def drop(self, image: Digest) -> None:
        """Neither make nor serve it any more."""
        self.maker.drop(image)

    def ask_origin(self, size: int, ended: Callable[[str | None], None], *, sent: int = 0) -> None:
        """Ask origin or coordinator for something small; `ended(None)` when its `size` bytes are there."""
        self.fetcher.ask(size, ended, sent=sent)

    def wan_changed(self) -> None:
        """The link to the origin opened, closed, came or went."""
        if self.node is not None:
            self.feed(e.WanChanged(self.reaches_wan, closed=self.meter.closed))

    # The network

    def peer_connected(self, connection: Connection, other: Node) -> None:
        self.connections[other.name] = connection
        self.feed(e.PeerConnected(other.name, other.name, other.visits))

    def peer_lost(self, connection: Connection, other: Node, why: str) -> None:
        if self.connections.get(other.name) is connection:
            del self.connections[other.name]
            begun = connection.begun_at(self.name)
            self.feed(e.PeerLost(other.name, other.name in self.revoked, begun))
            self.site.redial(self, other.name)

    def received(self, source: str, message: m.Message) -> None:
        what = type(message)
        if what is m.ObjectWant or what is m.Uplink:
            self._heard_by_agent(source, message)
        else:
            self.feed(e.Received(source, message))

    def _heard_by_agent(self, source: str, message: m.Message) -> None:
        """What the agent has a part in: it may hold an object itself, and minds its month."""
        if type(message) is m.ObjectWant:
            held = self.objects.get(message.digest)
            if held is not None:
                self.feed(e.HoldObject(message.digest, held))
        self.feed(e.Received(source, message))
        if type(message) is m.Uplink:
            self.meter.look()

    def admits(self, device: str) -> bool:
        """Whether a device is neither banned here nor known to be revoked."""
        if self.revoked and (device in self.revoked or self.name in self.revoked):
            return False
        return self.banned.get(device, float("-inf")) <= self.kernel.now

    def heed_revoked(self, devices: frozenset[str]) -> None:
        """Part with these at once and for good, or with everybody, if this device is one of them."""
        self.revoked = devices
        if devices:
            self.kernel.trace(f"{self.name} knows {len(devices)} revoked")
        if self._observer is not None:
            self._observer.barred(self, devices)
        self.feed(e.Barred(devices))
        for name, connection in list(self.connections.items()):
            if not self.admits(name):
                connection.close("revoked")

    def _send(self, action: e.Send) -> None:
        target, message = action
        connection = self.connections.get(target)
        if connection is not None:
            if type(message) is m.Want:
                if self.world.spans.active:
                    self.world.spans.wants(self, message)
            elif type(message) is m.Blob and self._observer is not None:
                self._observer.sent(self.name, target, message)
            connection.send(target, message)

    def give(
        self, connection: Connection, target: str, message: m.Message,
        sent: Callable[..., object], *arguments: object,
    ) -> None:  # fmt: skip
        """Answer a peer's request for a piece; `sent(*arguments)` when that has left."""
        if type(message) is m.Piece and self._observer is not None:
            self._observer.sent(self.name, target, message)
        connection.send(target, message, sent, *arguments)

    def _disconnect(self, action: e.Disconnect) -> None:
        self.kernel.trace(f"{self.name} parts with {action.device}: {action.reason}")
        if action.ban_s:
            self.banned[action.device] = self.kernel.now + action.ban_s
        connection = self.connections.get(action.device)
        if connection is not None:
            connection.send(action.device, m.Bye(action.reason))
            self.kernel.after(2 * self.local.spec.delay_s, connection.close, action.reason)

    def _peer_addresses(self, action: e.PeerAddresses) -> None:
        self.site.heard_of(self, [device for device, _, _ in action.peers])

    def _fellows(self, action: e.Fellows) -> None:
        self.neighbours.prefer(action.devices)
        self.site.heard_of(self, [d for d in action.devices if self.neighbours.knows(d)])

    # What the node says

    def _object_ready(self, action: e.ObjectReady) -> None:
        self.agent.object_arrived(action.digest, action.data)

    def _object_failed(self, action: e.ObjectFailed) -> None:
        self.agent.object_arrived(action.digest, None)

    def _news_heard(self, action: e.NewsHeard) -> None:
        self.agent.news_heard(action.device, action.root_version, action.timestamp_version)

    def _report_arrived(self, action: e.ReportArrived) -> None:
        self.agent.report_arrived(action)

    def _report_returned(self, action: e.ReportReturned) -> None:
        self.agent.report_returned(action)

    def _metadata_arrived(self, action: e.MetadataArrived) -> None:
        self.agent.metadata_arrived(action.device, action.name, action.data)

    # What is right

    def verifies(self, payload: Buffer, size: int) -> bool:
        """Whether a peer's payload has its signed digest."""
        return is_right(payload, size)

    def _give_up(self, action: e.GiveUp) -> None:
        self.agent.failed(action.image, "read-back")

    def answer(self, action: e.Serve) -> tuple[m.Message, bool]:
        """The message for a piece that a peer asked for, and whether the slot holds it."""
        return self.server.answer(action)
