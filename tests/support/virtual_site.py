"""A site in virtual time for tests: real `SwarmNode`s, an event heap, a shared WAN and a LAN.

Payload bytes are shared blocks of zeros (a byte of 1 marks a bad one); everything else is real,
the indexes included. One seed gives one run. `sim` will hold the full-grown version of this.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from p2p.content import index as pack_index
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Codec, Compression, Copy, Data, PackIndex, Patch, ViewRange
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.policy import Policy

GOOD = memoryview(bytes(8 * MIB))
BAD = memoryview(b"\1" * MIB)


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
    bad_base: list[tuple[int, int]] = field(default_factory=list)
    read_backs: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    banned: dict[str, str] = field(default_factory=dict)
    fetches: dict[int, bool] = field(default_factory=dict)
    ready: dict[Digest, bytes] = field(default_factory=dict)
    failed: list[Digest] = field(default_factory=list)
    stored: list[e.Stored] = field(default_factory=list)
    bad_stored: int = 0
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
        self.feed(e.Pursue(self.release.task(self.base)))

    def _do(self, action: e.Action) -> None:
        site = self.site
        match action:
            case e.Send():
                if self.mute is None or not self.mute(action.message):
                    site.deliver(self.device, action.device, action.message)
            case e.Disconnect():
                if action.ban_s:
                    self.banned[action.device] = action.reason
                site.disconnect(self.device, action.device)
            case e.Fetch():
                self.fetches[action.fetch] = True
                self._fetch(action, action.start)
            case e.CancelFetch():
                if self.fetches.pop(action.fetch, None):
                    site.soon(lambda: self.feed(e.FetchEnded(action.fetch, "cancelled")))
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

    def _fetch(self, action: e.Fetch, frame: int) -> None:
        if not self.fetches.get(action.fetch) or not self.up:
            return
        if frame == action.stop:
            del self.fetches[action.fetch]
            self.feed(e.FetchEnded(action.fetch))
            return
        pieces = self.release.maps[action.pack]
        size = pieces.index.frames[frame].stored_size
        if self.site.origin_down:
            del self.fetches[action.fetch]
            self.site.soon(lambda: self.feed(e.FetchEnded(action.fetch, "unreachable")))
            return

        def arrived() -> None:
            if not self.fetches.get(action.fetch) or not self.up:
                return
            self.feed(e.FetchProgress(action.fetch, size))
            target = pieces.index.frames[frame]
            stop = target.target_offset + target.target_length
            if self._damaged_base(action.pack, target.target_offset, stop):
                self.feed(e.BaseDamaged(action.image, target.target_offset, stop))
            else:
                numbers = tuple(pieces.of_frame(frame))
                self._stored(
                    e.Stored(
                        action.image, target.target_offset, stop, e.How.WAN, action.pack, numbers,
                        isinstance(target.entry, Patch),
                    )
                )  # fmt: skip
            self._fetch(action, frame + 1)

        self.site.over_wan(self, size, arrived)

    def _damaged_base(self, pack: Digest, start: int, stop: int) -> bool:
        if self.release.maps[pack].index.base is None:
            return False
        return any(s < stop and start < t for s, t in self.bad_base)

    def _fetch_object(self, action: e.FetchObject) -> None:
        data = None if self.site.origin_down else self.site.objects.get(action.digest)
        size = 0 if data is None else len(data)
        self.site.over_wan(self, size, lambda: self.feed(e.ObjectFetched(action.digest, data)))

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
        self.stored.append(event)
        self.feed(event)

    def _serve(self, action: e.Serve) -> None:
        if self.serve is not None:
            message = self.serve(action)
        else:
            piece = self.release.maps[action.pack][action.piece]
            message = m.Piece(action.request, GOOD[: piece.wire_size])
        self.site.deliver(self.device, action.device, message)
        size = len(message.payload) if isinstance(message, m.Piece) else 0
        self.site.soon(lambda: self.feed(e.PieceSent(action.device, size)))

    def _read_back(self, image: Digest) -> None:
        if self.read_backs:
            self.site.soon(lambda: self.feed(e.ReadBackFailed(image)))
            return
        self.finished_at = self.site.now
        self.site.soon(lambda: self.feed(e.ImageVerified(image)))


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
        self.drivers: dict[str, Driver] = {}
        self.trace: list[str] = []
        self._links: set[tuple[str, str]] = set()
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

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time, next(self._order), call))

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
        self._links |= {(a, b), (b, a)}
        self.drivers[a].feed(e.PeerConnected(b))
        self.drivers[b].feed(e.PeerConnected(a))

    def disconnect(self, a: str, b: str) -> None:
        if (a, b) in self._links:
            self._links -= {(a, b), (b, a)}
            self.soon(lambda: self.drivers[a].feed(e.PeerLost(b)))
            self.soon(lambda: self.drivers[b].feed(e.PeerLost(a)))

    def kill(self, device: str) -> None:
        self.drivers[device].up = False
        for a, b in list(self._links):
            if a == device:
                self._links -= {(a, b), (b, a)}
                self.soon(lambda b=b: self.drivers[b].feed(e.PeerLost(device)))

    def deliver(self, source: str, target: str, message: m.Message) -> None:
        if (source, target) not in self._links:
            return
        size = 64 + (len(message.payload) if isinstance(message, m.Piece | m.Blob) else 0)
        self.lan_bytes += size
        start = max(self.now, self._lan_free.get(source, 0.0))
        self._lan_free[source] = start + size / self.lan_rate
        self.trace.append(f"{self.now:.6f} {source}>{target} {_label(message)}")

        def arrive() -> None:
            if (source, target) in self._links:
                self.drivers[target].feed(e.Received(source, message))

        self.at(start + size / self.lan_rate + self.delay_s, arrive)

    def over_wan(self, driver: Driver, size: int, arrived: Callable[[], None]) -> None:
        self.wan_bytes += size
        driver.wan_bytes += size
        self._wan_free = max(self.now, self._wan_free) + size / self.wan_rate
        self.at(self._wan_free + 0.02, arrived)

    def run(self, until: float, *, done: Callable[[], bool] | None = None) -> bool:
        """Step to `until`, or until `done`; whether it was done."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call = heapq.heappop(self._heap)
            call()
            if done is not None and done():
                return True
        return done is not None and done()

    def finished(self) -> bool:
        return all(d.finished_at is not None for d in self.drivers.values() if d.up)


def _label(message: m.Message) -> str:
    piece = f" {message.piece}" if isinstance(message, m.Want) else ""
    return type(message).__name__ + piece
