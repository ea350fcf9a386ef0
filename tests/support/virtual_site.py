"""A site in virtual time for tests: real `SwarmNode`s, an event heap, a shared WAN and a LAN.

Payload bytes are shared blocks of zeros (a byte of 1 marks a bad one); everything else is real,
the indexes included. Each driver keeps what was verified into its slot, and `Site.violations` collects
what must never happen: a piece served that is not in the slot, an image called right that is not
whole. One seed gives one run. `sim` will hold the full-grown version of this.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from p2p.content import index as pack_index
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Codec, Compression, Copy, Data, PackIndex, Patch, ViewRange
from p2p.content.intervals import IntervalSet
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.policy import Policy

GOOD = memoryview(bytes(8 * MIB))
BAD = memoryview(b"\1" * MIB)
SEGMENT = 64 * KIB
"""The WAN carries transfers in turn, this much of each at a time."""


@dataclass
class Release:
    """A synthetic image with its packs; `objects` are the indexes by digest."""

    task_image: Digest
    size: int
    packs: tuple[PackRef, ...]
    objects: dict[Digest, bytes]
    maps: dict[Digest, PieceMap]

    def task(self, base: Digest | None) -> e.ImageTask:
        return e.ImageTask(self.task_image, self.size, base, self.packs)

    def pack(self, base: Digest | None) -> PackRef:
        return next(p for p in self.packs if p.base == base)


def make_release(size: int, deltas: dict[Digest, int], *, chunk: int = 128 * KIB, seed: int = 0) -> Release:
    """An image of `size` bytes with a full pack and, per base, a delta pack of about that many bytes."""
    rng = random.Random(seed)
    image = Digest(rng.randbytes(32))
    indexes = [_full_index(image, size, chunk, rng)]
    indexes += [_delta_index(image, size, base, stored, rng) for base, stored in deltas.items()]
    packs, objects, maps = [], {}, {}
    for index in indexes:
        data = pack_index.encode(index)
        name = sha256(data)
        objects[name] = data
        maps[name] = PieceMap(index)
        frames = ObjectRef(Digest(rng.randbytes(32)), index.frames_size)
        packs.append(PackRef(index.base, ObjectRef(name, len(data)), frames))
    return Release(image, size, tuple(packs), objects, maps)


def _full_index(image: Digest, size: int, chunk: int, rng: random.Random) -> PackIndex:
    entries = []
    left = size
    while left:
        chunks = []
        for _ in range(8):
            length = min(left, chunk)
            if not length:
                break
            chunks.append(Chunk(length, Digest(rng.randbytes(32))))
            left -= length
        entries.append(Data(sum(c.length for c in chunks), Compression.NONE, tuple(chunks)))
    return PackIndex(image, size, None, 0, tuple(entries))


def _delta_index(image: Digest, size: int, base: Digest, stored: int, rng: random.Random) -> PackIndex:
    entries: list[Copy | Patch] = []
    segments = max(1, size // (8 * MIB))
    at = 0
    for n in range(segments):
        stop = size if n == segments - 1 else at + size // segments
        patched = min(4 * MIB, (stop - at) // 2)
        share = max(1, stored // segments)
        entries.append(
            Patch(
                Codec.HDIFFPATCH, patched, (ViewRange(at, patched),), share, Compression.ZSTD, share,
                Digest(rng.randbytes(32)), Digest(rng.randbytes(32)),
            )
        )  # fmt: skip
        entries.append(Copy(at + patched, stop - at - patched))
        at = stop
    return PackIndex(image, size, base, size, tuple(entries))


@dataclass
class Driver:
    """One node and what stands for its I/O. Hooks let a test make it lie or fail."""

    site: Site
    node: SwarmNode
    device: str
    release: Release
    base: Digest | None
    up: bool = True
    finished_at: float | None = None
    wan_bytes: int = 0
    serve: Callable[[e.Serve], m.Message] | None = None
    mute: Callable[[m.Message], bool] | None = None
    wan_wasted: int = 0
    wan_cut: int = 0
    origin_down: bool = False
    bad_base: list[tuple[int, int]] = field(default_factory=list)
    read_backs: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    banned: dict[str, str] = field(default_factory=dict)
    parted: list[tuple[str, str]] = field(default_factory=list)
    fetches: dict[int, bool] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    slot: IntervalSet = field(default_factory=IntervalSet)
    kept: set[tuple[Digest, int]] = field(default_factory=set)
    ready: dict[Digest, bytes] = field(default_factory=dict)
    failed: list[Digest] = field(default_factory=list)
    stored: list[e.Stored] = field(default_factory=list)
    given_up: list[e.GiveUp] = field(default_factory=list)
    _timer: float | None = None

    def feed(self, event: e.Event) -> None:
        if not self.up:
            return
        for action in self.node.handle(event, self.site.now):
            self._do(action)
        deadline = self.node.deadline()
        if deadline is not None and (self._timer is None or deadline < self._timer):
            self._timer = max(deadline, self.site.now)
            self.site.at(self._timer, self._tick)

    def _tick(self) -> None:
        if self._timer is not None and self.site.now >= self._timer:
            self._timer = None
            self.feed(e.Tick())

    def pursue(self) -> None:
        """Start, or start again, from what the slot holds."""
        self.feed(e.Pursue(self.release.task(self.base), tuple(self.slot)))

    def check_image(self) -> None:
        """The ledger says of each byte in the slot where it came from, once (where nothing was damaged)."""
        assert self.node.ledger.of_images == self.slot.total()

    def restart(self, *, policy: Policy | None = None, wan: bool = True) -> None:
        """A new process on the same slot: the node's memory and kept patches are gone."""
        rng = random.Random(f"{self.site.rng.random()}{self.device}")
        self.node = SwarmNode(device=self.device, site="site", port=1, rng=rng, policy=policy, wan=wan)
        self.fetches.clear()
        self.kept.clear()
        self.ready.clear()
        self._timer = None
        self.up = True
        self.pursue()

    def _do(self, action: e.Action) -> None:
        site = self.site
        match action:
            case e.Send():
                if self.mute is None or not self.mute(action.message):
                    site.deliver(self.device, action.device, action.message)
            case e.Disconnect():
                self.parted.append((action.device, action.reason))
                if action.ban_s:
                    self.banned[action.device] = action.reason
                site.disconnect(self.device, action.device)
            case e.Fetch():
                self.fetches[action.fetch] = True
                if site.tracing:
                    span = f"{action.start}..{action.stop}"
                    site.trace.append(f"{site.now:.6f} {self.device} fetches {span}")
                self._fetch(action, action.start)
            case e.CancelFetch():
                if action.fetch in self.fetches:
                    self._end_fetch(action.fetch, "cancelled")
            case e.FetchObject():
                self._fetch_object(action)
            case e.ObjectReady():
                self.ready[action.digest] = action.data
            case e.ObjectFailed():
                self.failed.append(action.digest)
            case e.Route():
                self._route(action)
            case e.Store():
                self._store(action)
            case e.Serve():
                self._serve(action)
            case e.ReadBack():
                self._read_back(action.image)
            case e.Recheck():
                damage = self.read_backs.pop(0) if self.read_backs else ()
                site.soon(lambda: self.feed(e.Damaged(action.image, damage)))
            case e.GiveUp():
                self.given_up.append(action)

    def _fetch(self, action: e.Fetch, frame: int) -> None:
        node = self.node
        if action.fetch not in self.fetches or not self.up:
            return
        if self.site.origin_down or self.origin_down:
            self._end_fetch(action.fetch, "unreachable")
            return
        if frame == action.stop:
            self._end_fetch(action.fetch, None)
            return
        pieces = self.release.maps[action.pack]
        target = pieces.index.frames[frame]

        def arrived(size: int, last: bool) -> bool:
            if action.fetch not in self.fetches or not self.up or self.node is not node:
                self.wan_cut += size
                return False
            self.received[action.fetch] = self.received.get(action.fetch, 0) + size
            self.feed(e.FetchProgress(action.fetch, size))
            if self.site.origin_down or self.origin_down:
                self._end_fetch(action.fetch, "truncated")
                return False
            if not last:
                return action.fetch in self.fetches
            stop = target.target_offset + target.target_length
            if self._damaged_base(action.pack, target.target_offset, stop):
                self.feed(e.BaseDamaged(action.image, target.target_offset, stop))
            else:
                self.received[action.fetch] -= target.stored_size
                numbers = tuple(pieces.of_frame(frame))
                self._stored(
                    e.Stored(
                        action.image, target.target_offset, stop, e.How.WAN, action.pack, numbers,
                        isinstance(target.entry, Patch),
                    )
                )  # fmt: skip
            self._fetch(action, frame + 1)
            return False

        self.site.over_wan(self, target.stored_size, arrived, first=frame == action.start)

    def _end_fetch(self, fetch: int, error: str | None) -> None:
        del self.fetches[fetch]
        wasted = self.received.pop(fetch, 0)
        self.wan_wasted += wasted
        self.site.soon(lambda: self.feed(e.FetchEnded(fetch, error, wasted)))

    def _damaged_base(self, pack: Digest, start: int, stop: int) -> bool:
        if self.release.maps[pack].index.base is None:
            return False
        return any(s < stop and start < t for s, t in self.bad_base)

    def _fetch_object(self, action: e.FetchObject) -> None:
        down = self.site.origin_down or self.origin_down
        data = None if down else self.site.objects.get(action.digest)
        if data is not None and len(data) != action.size:
            data = None  # the adapter stops at the size that it was given
        self.site.object_requests += 1
        node = self.node

        def arrived(size: int, last: bool) -> bool:
            if last and self.node is node:
                self.feed(e.ObjectFetched(action.digest, data))
            return not last

        self.site.over_wan(self, len(data) if data is not None else 0, arrived, first=True)

    def _route(self, action: e.Route) -> None:
        for local in action.index.local_entries:
            how = e.How.BASE if isinstance(local.entry, Copy) else e.How.ZERO
            if how is e.How.BASE and action.index.base != self.base:
                continue
            start = local.target_offset
            event = e.Stored(action.image, start, start + local.entry.length, how)
            self.site.soon(lambda event=event: self._stored(event))

    def _store(self, action: e.Store) -> None:
        piece = self.release.maps[action.pack][action.piece]
        start, stop = piece.target_offset, piece.target_stop
        if action.payload[0] != 0 or len(action.payload) != piece.wire_size:
            event: e.Event = e.Rejected(action.image, action.pack, action.piece, action.source, "bad-piece")
        elif piece.is_patch and self._damaged_base(action.pack, start, stop):
            event = e.BaseDamaged(action.image, start, stop)
        else:
            event = e.Stored(
                action.image, start, stop, e.How.PEER, action.pack, (action.piece,), piece.is_patch,
                action.source,
            )  # fmt: skip
        self.site.soon(lambda: self._stored(event) if isinstance(event, e.Stored) else self.feed(event))

    def _stored(self, event: e.Stored) -> None:
        if not self.up:
            return
        self.stored.append(event)
        self.slot.add(event.start, event.stop)
        if event.kept and event.pack is not None:
            self.kept |= {(event.pack, n) for n in event.pieces}
        self.feed(event)

    def _serve(self, action: e.Serve) -> None:
        piece = self.release.maps[action.pack][action.piece]
        whole = self.finished_at is not None or self.slot.covers(piece.target_offset, piece.target_stop)
        if not whole or (piece.is_patch and (action.pack, action.piece) not in self.kept):
            self.site.violations.append(f"{self.device} serves piece {action.piece} that it does not have")
        message: m.Message = m.Piece(action.request, GOOD[: piece.wire_size])
        if self.serve is not None:
            message = self.serve(action)
        self.site.deliver(self.device, action.device, message)
        size = len(message.payload) if isinstance(message, m.Piece) else 0
        self.site.after_sending(self.device, lambda: self.feed(e.PieceSent(action.device, size)))

    def _read_back(self, image: Digest) -> None:
        if self.read_backs:
            self.site.soon(lambda: self.feed(e.ReadBackFailed(image)))
            return
        if not self.slot.covers(0, self.release.size):
            self.site.violations.append(f"{self.device} reads back an image that is not whole")
        self.finished_at = self.site.now
        self.site.soon(lambda: self.feed(e.ImageVerified(image)))


class Hostile:
    """A device with a certificate of the fleet and no `SwarmNode`: `say` and `answer` make its messages.

    `say(peer)` gives what it sends when a connection is up (after a right `Hello`, unless `hello` is
    False), `answer(peer, message)` what it sends back. Cut off, it reconnects after a second, unless
    banned.
    """

    def __init__(
        self,
        site: Site,
        device: str,
        say: Callable[[str], Iterable[m.Message]],
        answer: Callable[[str, m.Message], Iterable[m.Message]],
        *,
        hello: bool = True,
    ) -> None:
        self.site = site
        self.device = device
        self.up = True
        self.finished_at: float | None = 0.0
        self.banned: dict[str, str] = {}
        self.connections = 0
        self.peers: set[str] = set()
        self.heard: list[m.Message] = []
        self._say = say
        self._answer = answer
        self._hello = hello

    def feed(self, event: e.Event) -> None:
        """Only what a network shows."""
        match event:
            case e.PeerConnected(device):
                self.connections += 1
                self.peers.add(device)
                if self._hello:
                    self.send(device, m.Hello(1, "site", 1, True))
                for message in self._say(device):
                    self.send(device, message)
            case e.PeerLost(device):
                self.peers.discard(device)
                self.site.at(self.site.now + 1.0, lambda: self.site.connect(self.device, device))
            case e.Received(device, message):
                self.heard.append(message)
                for reply in self._answer(device, message):
                    self.send(device, reply)

    def send(self, device: str, message: m.Message) -> None:
        self.site.deliver(self.device, device, message)

    def every(self, seconds: float, messages: Callable[[], Iterable[m.Message]]) -> None:
        """Say this to all peers, again and again."""

        def say() -> None:
            for device in sorted(self.peers):
                for message in messages():
                    self.send(device, message)
            self.site.at(self.site.now + seconds, say)

        self.site.at(self.site.now + seconds, say)


class Site:
    """Virtual time, one WAN of `wan_rate` bytes/s that all share in turn, a LAN of `lan_rate` per link."""

    def __init__(
        self, *, seed: int = 1, wan_rate: float = 2e6, lan_rate: float = 100e6, delay_s: float = 0.001
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.wan_rate, self.lan_rate, self.delay_s = wan_rate, lan_rate, delay_s
        self.wan_bytes = 0
        self.lan_bytes = 0
        self.origin_down = False
        self.objects: dict[Digest, bytes] = {}
        self.drivers: dict[str, Driver | Hostile] = {}
        self.violations: list[str] = []
        self.object_requests = 0
        self.release: Release | None = None
        self.apart: set[frozenset[str]] = set()
        self.trace: list[str] = []
        self.tracing = True
        self._links: dict[tuple[str, str], int] = {}
        self._wan_free = 0.0
        self._lan_free: dict[str, float] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def add(
        self, device: str, release: Release, base: Digest | None = None, *, wan: bool = True,
        policy: Policy | None = None, weight: int = 100,
    ) -> Driver:  # fmt: skip
        rng = random.Random(f"{self.rng.random()}{device}")
        node = SwarmNode(device=device, site="site", port=1, rng=rng, policy=policy, wan=wan, weight=weight)
        driver = Driver(self, node, device, release, base)
        self.drivers[device] = driver
        self.objects.update(release.objects)
        return driver

    @property
    def honest(self) -> list[Driver]:
        return [d for d in self.drivers.values() if isinstance(d, Driver)]

    def add_hostile(
        self,
        device: str,
        say: Callable[[str], Iterable[m.Message]],
        answer: Callable[[str, m.Message], Iterable[m.Message]] = lambda peer, message: (),
        *,
        hello: bool = True,
    ) -> Hostile:
        hostile = self.drivers[device] = Hostile(self, device, say, answer, hello=hello)
        return hostile

    def partition(self, left: Iterable[str], right: Iterable[str]) -> None:
        """No connection between the two until `heal`."""
        self.apart |= {frozenset((a, b)) for a in left for b in right}
        for pair in self.apart:
            self.disconnect(*sorted(pair))

    def heal(self) -> None:
        """All connections may be made again, and are."""
        self.apart.clear()
        self.connect_all()

    def check_ledgers(self) -> None:
        """All bytes that moved are in the ledgers, once, and so are those of the images.

        When nothing is under way, nothing was damaged and nobody restarted.
        """
        ledgers = [d.node.ledger for d in self.honest]
        for driver in self.honest:
            assert driver.node.ledger.wan == driver.wan_bytes - driver.wan_cut
            driver.check_image()
        wan_wasted = sum(d.wan_wasted for d in self.honest)
        lan_wasted = sum(x.wasted for x in ledgers) - wan_wasted
        assert lan_wasted >= 0
        assert sum(sum(x.sent.values()) for x in ledgers) == sum(x.from_peers for x in ledgers) + lan_wasted

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time, next(self._order), call))

    def after_sending(self, device: str, call: Callable[[], None]) -> None:
        self.at(max(self.now + 1e-6, self._lan_free.get(device, 0.0)), call)

    def soon(self, call: Callable[[], None]) -> None:
        self.at(self.now + 1e-6, call)

    def connect_all(self) -> None:
        names = [n for n, d in self.drivers.items() if d.up]
        for i, a in enumerate(names):
            for b in names[:i]:
                self.connect(a, b)

    def connect(self, a: str, b: str) -> None:
        if (a, b) in self._links or not (self.drivers[a].up and self.drivers[b].up):
            return
        if frozenset((a, b)) in self.apart or b in self.drivers[a].banned or a in self.drivers[b].banned:
            return
        self._links[a, b] = self._links[b, a] = next(self._order)
        self.drivers[a].feed(e.PeerConnected(b))
        self.drivers[b].feed(e.PeerConnected(a))

    def disconnect(self, a: str, b: str) -> None:
        if (a, b) in self._links:
            del self._links[a, b], self._links[b, a]
            self.soon(lambda: self.drivers[a].feed(e.PeerLost(b)))
            self.soon(lambda: self.drivers[b].feed(e.PeerLost(a)))

    def kill(self, device: str) -> None:
        self.drivers[device].up = False
        for a, b in list(self._links):
            if a == device:
                del self._links[a, b], self._links[b, a]
                self.soon(lambda b=b: self.drivers[b].feed(e.PeerLost(device)))

    def deliver(self, source: str, target: str, message: m.Message) -> None:
        if (source, target) not in self._links:
            return
        link = self._links[source, target]
        size = 64 + (len(message.payload) if isinstance(message, m.Piece | m.Blob) else 0)
        self.lan_bytes += size
        start = max(self.now, self._lan_free.get(source, 0.0))
        self._lan_free[source] = start + size / self.lan_rate
        if self.tracing:
            self.trace.append(f"{self.now:.6f} {source}>{target} {_label(message)}")

        def arrive() -> None:
            if self._links.get((source, target)) == link:
                self.drivers[target].feed(e.Received(source, message))

        self.at(start + size / self.lan_rate + self.delay_s, arrive)

    def over_wan(
        self, driver: Driver, size: int, arrived: Callable[[int, bool], bool], *, first: bool
    ) -> None:
        """Carry `size` bytes; `arrived(segment, last)` says whether to go on."""
        segment = min(size, SEGMENT, int(self.wan_rate / 4))
        delay = 0.02 if first else 0.0

        def begin() -> None:
            self._wan_free = max(self.now, self._wan_free) + segment / self.wan_rate
            self.at(self._wan_free, end)

        def end() -> None:
            self.wan_bytes += segment
            driver.wan_bytes += segment
            if arrived(segment, segment == size):
                self.over_wan(driver, size - segment, arrived, first=False)

        self.at(self.now + delay, begin)

    def run(self, until: float, *, done: Callable[[], bool] | None = None) -> bool:
        """Step to `until`, or until `done`; whether it was done."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call = heapq.heappop(self._heap)
            call()
            if done is not None and done():
                return True
        return done is not None and done()

    def finished(self) -> bool:
        return all(d.finished_at is not None for d in self.drivers.values() if d.up) and not self.violations


def _label(message: m.Message) -> str:
    piece = f" {message.piece}" if isinstance(message, m.Want) else ""
    return type(message).__name__ + piece
