"""One honest device: the real `SwarmNode`, and everything around it in virtual time.

`Device` is the counterpart of `p2p.agent.driver`: it carries out the node's actions over the virtual
network and feeds it what happens. Bytes do not exist: a payload is a slice of one block of zeros, and
one whose first byte is 1 is wrong. What is installed when is the agent's business (`agent`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from p2p.content.digests import Buffer, Digest
from p2p.content.index import Copy, Patch
from p2p.content.intervals import IntervalSet
from p2p.content.limits import MIB
from p2p.errors import SlotFull
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from sim.scenario.model import DeviceClass
from sim.world.network import Connection, LocalNet, Node
from sim.world.slot import VirtualSlot
from sim.world.synthetic import Material
from sim.world.uplink import KEEP_ALIVE_S, Request

if TYPE_CHECKING:
    from sim.world.run import World
    from sim.world.site import Site

GOOD = memoryview(bytes(8 * MIB))
BAD = memoryview(b"\1" + bytes(8 * MIB))
COPY_STEP = 4 * MIB
CHECKPOINT_S = 3.0
"""As `p2p.agent.driver.CHECKPOINT_S`."""

PROGRESS_S = 1.0
"""How often a node is told that a fetch goes on; the real driver does it five times as often."""

PORT = 7711


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


class Holding:
    """An image that is being made or is held: its material, kept patches and checked pieces."""

    __slots__ = ("checked", "complete", "kept", "material", "slot", "used")

    def __init__(self, material: Material, slot: VirtualSlot, *, complete: bool) -> None:
        self.material = material
        self.slot = slot
        self.complete = complete
        self.kept: set[tuple[Digest, int]] = set()
        self.checked: set[tuple[Digest, int]] = set()
        self.used: dict[Digest, None] = {}
        """Packs whose index the node has."""


class _Fetch:
    __slots__ = ("action", "error", "over", "pending", "request", "since", "stored", "told")

    def __init__(self, action: e.Fetch, since: float) -> None:
        self.action = action
        self.since = since
        self.request: Request | None = None
        self.pending = 0
        self.stored = 0
        self.told = 0
        self.error: str | None = None
        self.over = False


class Device:
    """One device. `life` counts the starts of its agent: what was asked for in an earlier one is void."""

    honest = True

    def __init__(
        self, world: World, site: Site, name: str, klass: DeviceClass, base: str, *, segment: int
    ) -> None:
        self.world = world
        self.site = site
        self.name = name
        self.klass = klass
        self.segment = segment
        self.local: LocalNet = site.local
        self.kernel = world.kernel
        self.base_name = base
        self.first_base = base
        self.base: Digest | None = world.base_digest(base)
        self.base_bad = IntervalSet()
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
        self.banned: dict[str, float] = {}
        self.agent: Agent = world.make_agent(self)
        self.started_s: float | None = None
        self.wan_down = 0
        self.wan_up = 0
        self.frames_wan = 0
        self.served_at = float("-inf")
        """When a peer was last given a piece."""
        self.totals = _Totals()
        self._fetches: dict[int, _Fetch] = {}
        self._requests: dict[Request, None] = {}
        self._cpu_free = float("-inf")
        self._tick_at: float | None = None
        self._checkpoint_due = False
        self._requested_at = float("-inf")
        self._do: dict[type[Any], Callable[[Any], None]] = {
            e.Send: self._send,
            e.Disconnect: self._disconnect,
            e.Fetch: self._fetch,
            e.CancelFetch: self._cancel_fetch,
            e.FetchObject: self._fetch_object,
            e.ObjectReady: self._object_ready,
            e.ObjectFailed: self._object_failed,
            e.NewsHeard: self._news_heard,
            e.MetadataArrived: self._metadata_arrived,
            e.Route: self._route,
            e.Store: self._store,
            e.Serve: self._serve,
            e.ReadBack: self._read_back,
            e.Recheck: self._recheck,
            e.GiveUp: self._give_up,
            e.PeerAddresses: self._peer_addresses,
        }

    # Running

    @property
    def up(self) -> bool:
        return self.node is not None

    @property
    def reaches_wan(self) -> bool:
        """Whether its node may think that it can reach the origin."""
        return self.has_wan and self.site.uplink is not None and self.site.uplink.open

    def start(self) -> None:
        """Start the agent's process, on what the device's media hold."""
        if self.node is not None or self.gone:
            return
        self.life += 1
        world = self.world
        if self.started_s is None:
            self.started_s = self.kernel.now
        self.kernel.trace(f"{self.name} starts")
        self.node = world.seams.make_node(
            device=self.name, site=self.site.area.name, port=PORT,
            rng=self.kernel.rng(f"node/{self.name}/{self.life}"), policy=world.scenario.policy,
            wan=self.reaches_wan,
        )  # fmt: skip
        if world.observer is not None:
            world.observer.started(self)
        self.agent.started()
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
        for fetch in list(self._fetches.values()):
            if fetch.request is not None:
                came = fetch.request.cancel()
                self.frames_wan += came
                self.totals.wasted += max(0, came - fetch.stored)
        self._fetches.clear()
        for request in list(self._requests):
            request.cancel()
        self._requests.clear()
        for connection in list(self.connections.values()):
            connection.close(why, silently=why in ("crash", "leave"))
        self.connections.clear()
        if why == "crash":
            self.slot.crash()
        else:
            self.slot.checkpoint()
        self.images.clear()
        self._tick_at = None
        self._cpu_free = float("-inf")
        self._checkpoint_due = False
        self._requested_at = float("-inf")
        self.agent.stopped()
        if self.world.observer is not None:
            self.world.observer.stopped(self, why)

    def feed(self, event: e.Event) -> None:
        """Give the node an event and carry out what it says."""
        node = self.node
        if node is None:
            return
        actions = node.handle(event, self.kernel.now)
        observer = self.world.observer
        if observer is not None:
            observer.fed(self, event, actions)
        if actions:
            do = self._do
            for action in actions:
                do[type(action)](action)
        deadline = node.deadline()
        if deadline is not None and (self._tick_at is None or deadline < self._tick_at):
            self._tick_at = deadline
            self.kernel.at(deadline, self._tick, deadline, self.life)

    def _tick(self, due: float, life: int) -> None:
        if self._tick_at == due and self.life == life:
            self._tick_at = None
            self.feed(e.Tick())

    def later(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        """Call at `time` if the agent still runs in this life."""
        self.kernel.at(time, self._if_alive, self.life, call, arguments)

    def _if_alive(self, life: int, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if life == self.life:
            call(*arguments)

    def _feed_later(self, time: float, event: e.Event) -> None:
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
        return bool(self._fetches)

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
        """Make an image in the spare slot, from what the slot holds of it."""
        self.slot.check_room(material.size)
        self.world.note_pursuit(self, material)
        self.images[material.image] = Holding(material, self.slot, complete=False)
        self._hold_indexes(material)
        self.feed(e.Pursue(material.task(self.base), tuple(self.slot.written)))

    def offer(self, material: Material) -> None:
        """Serve the image that this device runs."""
        slot = self.active_slot
        if slot is None:
            slot = VirtualSlot(self.klass.storage)
            slot.put(0, material.size)
        self.images[material.image] = Holding(material, slot, complete=True)
        self._hold_indexes(material)
        self.feed(e.Offer(material.task(None)))

    def _hold_indexes(self, material: Material) -> None:
        for pack in material.packs:
            held = self.objects.get(pack.index.sha256)
            if held is not None:
                self.feed(e.HoldObject(pack.index.sha256, held))

    def drop(self, image: Digest) -> None:
        """Neither make nor serve it any more."""
        if self.images.pop(image, None) is not None:
            self.feed(e.Drop(image))

    def switch(self, material: Material) -> None:
        """Run what the spare slot holds; what ran is now in the spare slot, of no more use."""
        self.base, self.base_name = material.image, material.name
        self.base_bad = self.slot.bad
        self.active_slot = self.slot
        self.slot = VirtualSlot(self.klass.storage)
        self.slot.factor, self.slot.full = self.active_slot.factor, self.active_slot.full

    def ask_origin(self, size: int, ended: Callable[[str | None], None], *, sent: int = 0) -> None:
        """Ask origin or coordinator for something small; `ended(None)` when its `size` bytes are there."""
        if self.site.uplink is None or not self.reaches_wan:
            self.later(self.kernel.now, ended, "unreachable")
            return
        self._request((size,) if size else (), None, ended, sent=sent)

    def _request(
        self,
        parts: tuple[int, ...],
        arrived: Callable[[int], object] | None,
        ended: Callable[[str | None], object],
        *,
        sent: int = 0,
    ) -> Request:
        uplink = self.site.uplink
        assert uplink is not None
        now = self.kernel.now
        busy = len(self._requests)
        fresh = now - self._requested_at > KEEP_ALIVE_S or busy > 1
        self._requested_at = now

        def over(error: str | None) -> None:
            self._requests.pop(request, None)
            self._requested_at = self.kernel.now if error is None else float("-inf")
            ended(error)

        request = Request(
            uplink, parts, medium=self.local.medium, fresh=fresh, sent=sent, arrived=arrived, ended=over,
            count=self._count_wan,
        )  # fmt: skip
        self._requests[request] = None
        return request

    def _count_wan(self, down: int, up: int) -> None:
        self.wan_down += down
        self.wan_up += up

    def wan_changed(self) -> None:
        """The link to the origin opened, closed, came or went."""
        if self.node is not None:
            self.feed(e.WanChanged(self.reaches_wan))

    # The network

    def peer_connected(self, connection: Connection, other: Node) -> None:
        self.connections[other.name] = connection
        self.feed(e.PeerConnected(other.name, other.name))

    def peer_lost(self, connection: Connection, other: Node, why: str) -> None:
        if self.connections.get(other.name) is connection:
            del self.connections[other.name]
            self.feed(e.PeerLost(other.name))
            self.site.redial(self, other.name)

    def received(self, source: str, message: m.Message) -> None:
        if self.node is None:
            return
        if type(message) is m.ObjectWant:
            held = self.objects.get(message.digest)
            if held is not None:
                self.feed(e.HoldObject(message.digest, held))
        self.feed(e.Received(source, message))

    def admits(self, device: str) -> bool:
        """Whether a device is not banned here."""
        return self.banned.get(device, float("-inf")) <= self.kernel.now

    def _send(self, action: e.Send) -> None:
        connection = self.connections.get(action.device)
        if connection is not None:
            self.transmit(connection, action.device, action.message)

    def transmit(
        self, connection: Connection, target: str, message: m.Message,
        sent: Callable[..., object] | None = None, *arguments: object,
    ) -> None:  # fmt: skip
        """Send a message on a connection."""
        world = self.world
        self.kernel.trace(f"{self.name}>{target} {label(message)}")
        if world.spans.active and type(message) is m.Want:
            world.spans.wants(self, message)
        if world.observer is not None:
            world.observer.sent(self.name, target, message)
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
        for device, _, _ in action.peers:
            self.site.heard_of(self, device)

    # The WAN

    def _fetch(self, action: e.Fetch) -> None:
        fetch = _Fetch(action, self.kernel.now)
        self._fetches[action.fetch] = fetch
        self.kernel.trace(f"{self.name} fetches {action.start}..{action.stop}")
        if self.world.observer is not None:
            self.world.observer.fetch_started(self, action)
        self.world.spans.fetching(self)
        holding = self.images.get(action.image)
        if holding is None or not self.reaches_wan:
            fetch.error = "dropped" if holding is None else "unreachable"
            self.later(self.kernel.now, self._fetch_over, fetch)
            return
        frames = holding.material.maps[action.pack].index.frames[action.start : action.stop]
        fetch.request = self._request(
            tuple(f.stored_size for f in frames),
            lambda n: self._frame_arrived(fetch, holding, action.start + n),
            lambda error: self._request_ended(fetch, error),
        )
        self.later(self.kernel.now + PROGRESS_S, self._progress, fetch)

    def _progress(self, fetch: _Fetch) -> None:
        if fetch.over or fetch.request is None:
            return
        came = fetch.request.partial
        if came > fetch.told:
            size, fetch.told = came - fetch.told, came
            self.feed(e.FetchProgress(fetch.action.fetch, size))
        self.later(self.kernel.now + PROGRESS_S, self._progress, fetch)

    def _frame_arrived(self, fetch: _Fetch, holding: Holding, number: int) -> None:
        pieces = holding.material.maps[fetch.action.pack]
        frame = pieces.index.frames[number]
        fetch.pending += 1
        when = self.kernel.now
        if isinstance(frame.entry, Patch):
            when = self._patch_at(frame.target_length)
        self.later(
            max(when, self.slot.write_at(when, frame.target_length)),
            self._frame_stored,
            fetch,
            holding,
            number,
        )

    def _frame_stored(self, fetch: _Fetch, holding: Holding, number: int) -> None:
        action = fetch.action
        pieces = holding.material.maps[action.pack]
        frame = pieces.index.frames[number]
        start, stop = frame.target_offset, frame.target_offset + frame.target_length
        patch = isinstance(frame.entry, Patch)
        fetch.pending -= 1
        if self.images.get(action.image) is holding:
            if patch and self._base_is_bad(action.pack, holding, number):
                self.feed(e.BaseDamaged(action.image, start, stop))
            else:
                numbers = tuple(pieces.of_frame(number))
                fetch.stored += frame.stored_size
                self._put(
                    holding, e.Stored(action.image, start, stop, e.How.WAN, action.pack, numbers, patch)
                )
        if fetch.over and not fetch.pending:
            self._fetch_over(fetch)

    def _request_ended(self, fetch: _Fetch, error: str | None) -> None:
        fetch.error = fetch.error or error
        fetch.over = True
        if not fetch.pending:
            self._fetch_over(fetch)

    def _cancel_fetch(self, action: e.CancelFetch) -> None:
        fetch = self._fetches.get(action.fetch)
        if fetch is None or fetch.over or fetch.request is None:
            return
        fetch.request.received = fetch.request.cancel()
        self._requests.pop(fetch.request, None)
        self._requested_at = float("-inf")
        fetch.over = True
        fetch.error = fetch.error or "cancelled"
        if not fetch.pending:
            self.later(self.kernel.now, self._fetch_over, fetch)

    def _fetch_over(self, fetch: _Fetch) -> None:
        if self._fetches.pop(fetch.action.fetch, None) is None:
            return
        came = fetch.request.received if fetch.request is not None else 0
        fetch.over = True
        wasted = max(0, came - fetch.stored)
        self.kernel.trace(
            f"{self.name} fetched {fetch.action.start}..{fetch.action.stop}: {fetch.error} {wasted}"
        )
        if self.world.observer is not None:
            self.world.observer.fetch_ended(self, fetch.action, fetch.error, came, wasted)
        self.frames_wan += came
        if wasted:
            self.world.spans.wasted(self, fetch.since, *self.world.target_of(fetch.action))
        self.feed(e.FetchEnded(fetch.action.fetch, fetch.error, wasted))

    def _fetch_object(self, action: e.FetchObject) -> None:
        held = self.objects.get(action.digest)
        if held is not None:
            self._feed_later(self.kernel.now, e.HoldObject(action.digest, held))
            return
        data = self.world.origin_objects.get(action.digest)
        if data is not None and len(data) != action.size:
            data = None
        self.kernel.trace(f"{self.name} fetches object {action.digest[:4].hex()}")

        def ended(error: str | None) -> None:
            self.feed(e.ObjectFetched(action.digest, None if error else data))

        self.ask_origin(len(data) if data is not None else 0, ended)

    def _object_ready(self, action: e.ObjectReady) -> None:
        self.agent.object_arrived(action.digest, action.data)

    def _object_failed(self, action: e.ObjectFailed) -> None:
        self.agent.object_arrived(action.digest, None)

    def _news_heard(self, action: e.NewsHeard) -> None:
        self.agent.news_heard(action.device, action.root_version, action.timestamp_version)

    def _metadata_arrived(self, action: e.MetadataArrived) -> None:
        self.agent.metadata_arrived(action.device, action.name, action.data)

    # The slot

    def verifies(self, payload: Buffer, size: int) -> bool:
        """Whether a peer's payload has its signed digest."""
        return len(payload) == size and payload[0] == 0

    def _store(self, action: e.Store) -> None:
        holding = self.images.get(action.image)
        if holding is None:
            return
        piece = holding.material.maps[action.pack][action.piece]
        good = self.verifies(action.payload, piece.wire_size)
        when = self.kernel.now
        if not good:
            rejected = e.Rejected(action.image, action.pack, action.piece, action.source, "bad-piece")
            if self.world.observer is not None:
                self.world.observer.rejected(self, rejected)
            self._feed_later(when, rejected)
            return
        if piece.is_patch:
            when = self._patch_at(piece.target_length)
        self.later(self.slot.write_at(when, piece.target_length), self._piece_stored, action, holding)

    def _piece_stored(self, action: e.Store, holding: Holding) -> None:
        if self.images.get(action.image) is not holding:
            return
        piece = holding.material.maps[action.pack][action.piece]
        start, stop = piece.target_offset, piece.target_stop
        if piece.is_patch and self._base_is_bad(action.pack, holding, piece.frame):
            self.feed(e.BaseDamaged(action.image, start, stop))
            return
        good = action.payload[0] == 0 and len(action.payload) == piece.wire_size
        stored = e.Stored(
            action.image, start, stop, e.How.PEER, action.pack, (action.piece,), piece.is_patch, action.source
        )
        self._put(holding, stored, good=good)

    def _put(self, holding: Holding, event: e.Stored, *, good: bool = True) -> None:
        try:
            holding.slot.put(event.start, event.stop, good=good)
        except SlotFull:
            self.agent.failed(event.image, "disk-full")
            return
        if event.pack is not None:
            keys = [(event.pack, n) for n in event.pieces]
            (holding.kept if event.kept else holding.checked).update(keys)
        if not self._checkpoint_due:
            self._checkpoint_due = True
            self.later(self.kernel.now + CHECKPOINT_S, self._checkpoint)
        if self.world.observer is not None:
            self.world.observer.stored(self, event, good)
        self.world.spans.stored(self, event)
        self.feed(event)

    def _checkpoint(self) -> None:
        self._checkpoint_due = False
        self.slot.checkpoint()

    def _patch_at(self, length: int) -> float:
        """When the one CPU that applies patches is done with `length` target bytes more."""
        self._cpu_free = max(self.kernel.now, self._cpu_free) + length / self.klass.patch_rate
        return self._cpu_free

    def _base_is_bad(self, pack: Digest, holding: Holding, frame: int) -> bool:
        if not len(self.base_bad):
            return holding.material.maps[pack].index.base != self.base
        index = holding.material.maps[pack].index
        entry = index.frames[frame].entry
        return index.base != self.base or (
            isinstance(entry, Patch) and any(self._rotten(r.offset, r.length) for r in entry.view)
        )

    def _rotten(self, offset: int, length: int) -> bool:
        whole = (offset, offset + length)
        return list(self.base_bad.gaps(*whole)) != [whole]

    def _route(self, action: e.Route) -> None:
        holding = self.images.get(action.image)
        if holding is None:
            return
        holding.used[action.pack] = None
        self.objects.setdefault(action.pack, holding.material.indexes[action.pack])
        self._local_steps(holding, action.pack, 0, 0)

    def _local_steps(self, holding: Holding, pack: Digest, number: int, done: int) -> None:
        """Copy and zero what the index says, a step at a time; skips what is there."""
        index = holding.material.maps[pack].index
        usable = index.base is not None and index.base == self.base
        for n in range(number, len(index.local_entries)):
            local = index.local_entries[n]
            copy = isinstance(local.entry, Copy)
            if copy and not usable:
                continue
            end = local.target_offset + local.entry.length
            start = local.target_offset + (done if n == number else 0)
            while start < end:
                stop = min(start + COPY_STEP, end)
                if not holding.slot.written.covers(start, stop):
                    when = self.slot.write_at(self.kernel.now, stop - start)
                    self.later(when, self._local_done, holding, pack, n, start, stop)
                    return
                start = stop

    def _local_done(self, holding: Holding, pack: Digest, number: int, start: int, stop: int) -> None:
        if self.images.get(holding.material.image) is not holding:
            return
        local = holding.material.maps[pack].index.local_entries[number]
        good, how = True, e.How.ZERO
        if isinstance(local.entry, Copy):
            how = e.How.BASE
            good = not self._rotten(local.entry.base_offset + start - local.target_offset, stop - start)
        if not holding.slot.written.covers(start, stop):
            self._put(holding, e.Stored(holding.material.image, start, stop, how), good=good)
        self._local_steps(holding, pack, number, stop - local.target_offset)

    def _read_back(self, action: e.ReadBack) -> None:
        holding = self.images.get(action.image)
        if holding is not None:
            self.later(self.slot.read_at(self.kernel.now, holding.material.size), self._read, action, holding)

    def _read(self, action: e.ReadBack, holding: Holding) -> None:
        if self.images.get(action.image) is not holding:
            return
        slot = holding.slot
        good = right = slot.is_good(0, holding.material.size)
        self.kernel.trace(f"{self.name} read back {right}")
        if self.world.observer is not None:
            self.world.observer.read_back(self, action.image, right, good)
        if not right:
            self.feed(e.ReadBackFailed(action.image))
            return
        slot.checkpoint()
        holding.complete = True
        self.feed(e.ImageVerified(action.image))
        self.agent.verified(action.image)

    def _recheck(self, action: e.Recheck) -> None:
        holding = self.images.get(action.image)
        if holding is not None:
            self.later(
                self.slot.read_at(self.kernel.now, holding.material.size), self._rechecked, action, holding
            )

    def _rechecked(self, action: e.Recheck, holding: Holding) -> None:
        if self.images.get(action.image) is not holding:
            return
        damaged = IntervalSet()
        pieces = holding.material.maps[action.pack]
        for start, stop in list(holding.slot.bad):
            for n in pieces.overlapping(start, stop):
                piece = pieces[n]
                if holding.slot.written.covers(piece.target_offset, piece.target_stop):
                    damaged.add(piece.target_offset, piece.target_stop)
                    holding.checked.discard((action.pack, n))
        for start, stop in damaged:
            holding.slot.forget(start, stop)
        self.feed(e.Damaged(action.image, tuple(damaged)))
        if len(damaged):
            self._local_steps(holding, action.pack, 0, 0)

    def _give_up(self, action: e.GiveUp) -> None:
        self.agent.failed(action.image, "read-back")

    # Serving

    def _serve(self, action: e.Serve) -> None:
        connection = self.connections.get(action.device)
        if connection is None:
            return
        message, held = self.answer(action)
        payload = message.payload if type(message) is m.Piece else b""
        if self.world.observer is not None and payload:
            self.world.observer.served(self, action, payload[0] == 0, held)
        self.transmit(
            connection, action.device, message, self._piece_sent, self.life, action.device, len(payload)
        )

    def answer(self, action: e.Serve) -> tuple[m.Message, bool]:
        """The message for a piece that a peer asked for, and whether the slot holds it."""
        holding = self.images.get(action.image)
        refusal = m.Refuse(action.request, m.Refusal.FAILED)
        if holding is None or action.pack not in holding.material.maps:
            return refusal, False
        piece = holding.material.maps[action.pack][action.piece]
        key = (action.pack, action.piece)
        if piece.is_patch:
            return (
                (m.Piece(action.request, GOOD[: piece.wire_size]), True)
                if key in holding.kept
                else (refusal, False)
            )
        held = holding.slot.written.covers(piece.target_offset, piece.target_stop)
        good = held and not holding.slot.is_bad(piece.target_offset, piece.target_stop)
        if not good and key not in holding.checked:
            return refusal, held
        if good:
            holding.checked.add(key)
        block = GOOD if good else BAD
        return m.Piece(action.request, block[: piece.wire_size]), held

    def _piece_sent(self, life: int, device: str, size: int) -> None:
        if life == self.life:
            self.served_at = self.kernel.now
            self.feed(e.PieceSent(device, size))


class _Totals:
    """What the ledgers of a device's earlier lives say, and what nobody lived to count."""

    __slots__ = ("from_peers", "sent", "wan", "wasted")

    def __init__(self) -> None:
        self.wan = self.from_peers = self.sent = self.wasted = 0

    def with_node(self, node: SwarmNode | None) -> _Totals:
        """These and the ledger of the life that is under way."""
        total = _Totals()
        total.wan, total.from_peers, total.sent, total.wasted = (
            self.wan,
            self.from_peers,
            self.sent,
            self.wasted,
        )
        if node is not None:
            total.add(node)
        return total

    def add(self, node: SwarmNode) -> None:
        ledger = node.ledger
        self.wan += ledger.wan
        self.from_peers += ledger.from_peers
        self.sent += sum(ledger.sent.values())
        self.wasted += ledger.wasted


def label(message: m.Message) -> str:
    """A message in the trace."""
    kind = type(message)
    if kind is m.HaveMore:
        return f"have {message.pieces}"  # type: ignore[union-attr]
    if kind is m.Want:
        return f"want {message.request} {message.piece}"  # type: ignore[union-attr]
    if kind is m.Piece:
        return f"piece {message.request}"  # type: ignore[union-attr]
    return kind.__name__
