"""Small objects and mutable metadata, passed on among peers so that each crosses the WAN once.

A missing object has one responsible node: the first, in rendezvous order of its digest, of those
that can reach the origin. The others ask it; it fetches on their behalf and never asks a peer in
turn, so that nobody waits in a circle. Whoever does not answer in time is passed over, and a node
that has been through all of them uses the origin itself. Objects are checked against their digest
here; mutable metadata is opaque and goes to the agent's trust client.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.swarm import messages as m
from p2p.swarm import relay, uplinks
from p2p.swarm.context import Context
from p2p.swarm.events import FetchObject, MetadataArrived, NewsHeard, ObjectFailed, ObjectReady
from p2p.swarm.parts import PARTS, RESTS
from p2p.swarm.peer import Asked, Peer
from p2p.swarm.plan import rank

ORIGIN = ""
"""Stands for the origin in a list of sources."""


RATE_MIN = 4096
"""Bytes per second at which the slowest link that is waited for brings an object."""

LATE_MAX = 2
"""After so many peers that were late with an object, this node uses its own WAN."""

REQUEST_COST = 4096
"""What a request to the origin costs at least, with headers and a refusal."""

SPENDERS_MAX = 1024


@dataclass(slots=True)
class _Wanted:
    size: int
    for_agent: bool = False
    for_image: bool = False
    waiters: list[tuple[str, int]] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    source: str | None = None
    request: int = -1
    since: float = 0.0
    late: int = 0
    again: bool = False
    holders: list[str] = field(default_factory=list)
    wait_until: float = float("-inf")

    @property
    def own(self) -> bool:
        """Whether this device itself needs it."""
        return self.for_agent or self.for_image


class ObjectExchange:
    """The objects of one node. `ready` collects those that an image waits for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cache: OrderedDict[Digest, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._wanted: dict[Digest, _Wanted] = {}
        self._metadata: dict[str, tuple[int, bytes]] = {}
        self._asked: dict[tuple[str, int], tuple[Peer, Asked]] = {}
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.ready: list[tuple[Digest, bytes]] = []

    @property
    def busy(self) -> bool:
        return bool(self._wanted or self._asked)

    def hold(self, digest: Digest, data: bytes) -> None:
        """Keep an object that is known to be right; the oldest go when the cache is full."""
        if digest in self._cache:
            self._cache.move_to_end(digest)
        elif len(data) <= limits.OBJECT_SIZE_MAX:
            self._cache[digest] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > self._context.policy.object_cache_bytes and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        self._arrived(digest, data)

    def holds(self, digest: Digest) -> bool:
        """Whether an object is at hand."""
        return digest in self._cache

    def want(self, digest: Digest, size: int, *, for_agent: bool) -> None:
        """Somebody on this device needs the object."""
        cached = self._cache.get(digest)
        if cached is not None:
            if for_agent:
                self._context.actions.append(ObjectReady(digest, cached))
            else:
                self.ready.append((digest, cached))
            return
        wanted = self._wanted.setdefault(digest, _Wanted(size))
        if wanted.size != size:  # a peer that asked before was wrong (or lied) about it
            self._refuse_waiters(wanted)
            wanted.size, wanted.again = size, wanted.source == ORIGIN
        wanted.for_agent |= for_agent
        wanted.for_image |= not for_agent

    def wait_for_holder(self, digest: Digest, seconds: float) -> None:
        """Rather than making somebody fetch it, wait this long for a peer that has it."""
        if (wanted := self._wanted.get(digest)) is not None:
            wanted.wait_until = self._context.now + seconds

    def held_by(self, digest: Digest, device: str) -> None:
        """A peer is known to have an object."""
        wanted = self._wanted.get(digest)
        if wanted is not None and device not in wanted.holders:
            wanted.holders.append(device)

    def step(self) -> None:
        """Give every object that nobody is fetching a source, and pass over those that are late."""
        context = self._context
        for digest, wanted in list(self._wanted.items()):
            if wanted.source not in (None, ORIGIN):
                peer = context.peers.get(wanted.source or "")
                if peer is not None and context.now - wanted.since < self._patience(wanted.size):
                    continue
                if peer is not None and wanted.request in peer.asked:
                    context.abandon(peer, wanted.request)
                    peer.objects_late = True
                    wanted.late += 1
                wanted.source = None
            if wanted.source is None:
                self._assign(digest, wanted)

    def fetched(self, digest: Digest, data: bytes | None) -> None:
        """The origin's answer."""
        wanted = self._wanted.get(digest)
        size = len(data) if data is not None else 0
        self._context.ledger.wan += size
        if data is not None and sha256(data) == digest:
            if wanted is None:
                self._context.ledger.wasted += size
            self.hold(digest, data)
            return
        self._context.ledger.wasted += size
        if wanted is None or wanted.source != ORIGIN:
            return
        if wanted.again:
            wanted.again = False
            self._from_origin(digest, wanted)
            return
        wanted.tried.append(ORIGIN)
        wanted.source = None
        self._refuse_waiters(wanted)
        self._assign(digest, wanted)

    def housekeeping(self) -> None:
        """Whoever waits for a peer's metadata does not wait for ever."""
        context = self._context
        for request, (peer, asked) in list(self._asked.items()):
            if peer.asked.get(request[1]) is not asked or asked.metadata is None:
                del self._asked[request]
            elif context.now - asked.at > context.policy.request_s:
                del self._asked[request]
                context.abandon(peer, request[1])
                context.actions.append(MetadataArrived(peer.device, asked.metadata, None))

    # Messages

    def on_object_want(self, peer: Peer, message: m.ObjectWant) -> None:
        context = self._context
        cached = self._cache.get(message.digest)
        if cached is not None:
            self._answer(peer.device, message.request, cached)
            return
        wanted = self._wanted.get(message.digest)
        if not context.wan:
            refusal = m.Refusal.DONT_HAVE
        elif not self._may_cost(peer.device, message, wanted):
            refusal = m.Refusal.BUSY
        else:
            if wanted is None:
                wanted = self._wanted[message.digest] = _Wanted(message.size)
            wanted.waiters.append((peer.device, message.request))
            if wanted.source != ORIGIN:
                self._from_origin(message.digest, wanted)
            return
        context.send(peer.device, m.Refuse(message.request, refusal))

    def on_blob(self, peer: Peer, asked: Asked, payload: bytes) -> bool:
        """Take a peer's answer; False if it is not the object that was asked for."""
        context = self._context
        if asked.metadata is not None:
            if len(payload) > limits.ROOT_SIZE_MAX:
                return False
            if not asked.abandoned:
                context.actions.append(MetadataArrived(peer.device, asked.metadata, payload))
            return True
        digest = asked.object
        if digest is None:
            return False
        if sha256(payload) != digest:
            self._give_up(digest, peer.device)
            return False
        if digest in self._wanted:
            context.ledger.from_peer(peer.device, len(payload))
            self.hold(digest, payload)
        else:
            context.ledger.wasted += len(payload)
        return True

    def on_refuse(self, peer: Peer, asked: Asked) -> None:
        if asked.metadata is not None:
            if not asked.abandoned:
                self._context.actions.append(MetadataArrived(peer.device, asked.metadata, None))
        elif asked.object is not None and not asked.abandoned:
            self._give_up(asked.object, peer.device)

    def peer_lost(self, peer: Peer) -> None:
        for wanted in self._wanted.values():
            wanted.waiters = [w for w in wanted.waiters if w[0] != peer.device]
        for asked in list(peer.asked.values()):
            if asked.metadata not in (relay.PROBE, uplinks.PROBE, PARTS, RESTS):
                self.on_refuse(peer, asked)

    # Mutable metadata

    def hold_metadata(self, name: str, version: int, data: bytes) -> None:
        """The agent trusts this; peers are told when it is news."""
        before = self._metadata.get(name)
        self._metadata[name] = (version, data)
        if name == "timestamp.json" and (before is None or before[0] < version):
            self._context.broadcast(self.news())

    def news(self) -> m.News:
        roots = [v for n, (v, _) in self._metadata.items() if n.endswith(".root.json")]
        return m.News(max(roots, default=0), self._metadata.get("timestamp.json", (0, b""))[0])

    def on_news(self, peer: Peer, message: m.News) -> None:
        self._context.stirred = self.busy  # it may tell whom to ask for what is sought
        if (message.root_version, message.timestamp_version) == peer.news:
            return
        peer.news = message.root_version, message.timestamp_version
        mine = self.news()
        if message.timestamp_version > mine.timestamp_version or message.root_version > mine.root_version:
            self._context.actions.append(
                NewsHeard(peer.device, message.root_version, message.timestamp_version)
            )

    def ask_metadata(self, device: str, name: str) -> None:
        peer = self._context.peers.get(device)
        if peer is None or peer.hello is None:
            self._context.actions.append(MetadataArrived(device, name, None))
            return
        asked = Asked(self._context.now, metadata=name)
        request = peer.ask(asked)
        self._asked[device, request] = peer, asked
        self._context.send(device, m.MetadataWant(request, name))

    def on_metadata_want(self, peer: Peer, message: m.MetadataWant) -> None:
        held = self._metadata.get(message.name)
        if held is None:
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
        else:
            self._answer(peer.device, message.request, held[1])

    # Inside

    def _assign(self, digest: Digest, wanted: _Wanted) -> None:
        context = self._context
        if wanted.waiters and context.wan and ORIGIN not in wanted.tried:
            self._from_origin(digest, wanted)  # never asks a peer to answer another
            return
        self._refuse_waiters(wanted)
        if not wanted.own:
            del self._wanted[digest]
            return
        if not context.settled and not context.roster_known:
            return
        greeted = {d: 100 for d, p in context.peers.items() if p.hello is not None}
        able = {d: w for d, w in greeted.items() if (hello := context.peers[d].hello) and hello.wan}
        order = rank(digest, {**able, context.device: 100} if context.wan else able)
        if not context.wan and context.reachable and wanted.for_agent:
            order.append(context.device)
        if wanted.late >= LATE_MAX:
            order.sort(key=lambda d: d != context.device)
        order += [d for d in greeted if d not in able]  # they may have it, but cannot fetch it
        if wanted.for_agent:
            # Who is through with newer metadata has what it names: those that start later ask them.
            mine = self.news()
            order.sort(key=lambda d: d == context.device or not _is_ahead(context.peers[d].news, mine))
        order.sort(key=lambda d: d in greeted and context.peers[d].objects_late)
        order.sort(key=lambda d: d not in wanted.holders)
        if context.now < wanted.wait_until:
            order = [d for d in order if d in wanted.holders]
            if all(d in wanted.tried for d in order):
                return
        for device in order:
            if device == context.device:
                if ORIGIN not in wanted.tried:
                    self._from_origin(digest, wanted)
                    return
            elif device not in wanted.tried:
                self._from_peer(digest, wanted, device)
                return
        self._failed(digest, wanted)

    def _from_origin(self, digest: Digest, wanted: _Wanted) -> None:
        wanted.source = ORIGIN
        wanted.since = self._context.now
        self._context.actions.append(FetchObject(digest, wanted.size))

    def _from_peer(self, digest: Digest, wanted: _Wanted, device: str) -> None:
        context = self._context
        wanted.tried.append(device)
        wanted.source = device
        wanted.since = context.now
        wanted.request = context.peers[device].ask(Asked(context.now, wanted.size, object=digest))
        context.send(device, m.ObjectWant(wanted.request, digest, wanted.size))

    def _give_up(self, digest: Digest, device: str) -> None:
        wanted = self._wanted.get(digest)
        if wanted is not None and wanted.source == device:
            wanted.source = None
            self._assign(digest, wanted)

    def _failed(self, digest: Digest, wanted: _Wanted) -> None:
        del self._wanted[digest]
        if wanted.for_agent:
            self._context.actions.append(ObjectFailed(digest))

    def _refuse_waiters(self, wanted: _Wanted) -> None:
        for device, request in wanted.waiters:
            self._context.send(device, m.Refuse(request, m.Refusal.FAILED))
        wanted.waiters.clear()

    def _patience(self, size: int) -> float:
        """How long a peer may take: it may have to fetch the object over a thin link first."""
        return self._context.policy.object_s + size / RATE_MIN

    def _may_cost(self, device: str, message: m.ObjectWant, wanted: _Wanted | None) -> bool:
        """Whether a peer may make this node fetch an object: never many at once, nor much for long."""
        policy, now = self._context.policy, self._context.now
        if wanted is None and len(self._wanted) >= policy.object_pending_max:
            return False
        if wanted is not None and wanted.size != message.size:
            return False
        pending = sum(w[0] == device for other in self._wanted.values() for w in other.waiters)
        if pending >= policy.object_per_peer_max:
            return False
        spent, at = self._spent.pop(device, (0.0, now))
        spent = max(0.0, spent - (now - at) * policy.object_peer_rate)
        cost = max(message.size, REQUEST_COST) if wanted is None else 0
        allowed = spent + cost <= policy.object_peer_bytes
        self._spent[device] = (spent + cost if allowed else spent, now)
        if len(self._spent) > SPENDERS_MAX:
            self._spent.popitem(last=False)
        return allowed

    def _arrived(self, digest: Digest, data: bytes) -> None:
        wanted = self._wanted.pop(digest, None)
        if wanted is None:
            return
        for device, request in wanted.waiters:
            self._answer(device, request, data)
        if wanted.for_agent:
            self._context.actions.append(ObjectReady(digest, data))
        if wanted.for_image:
            self.ready.append((digest, data))

    def _answer(self, device: str, request: int, data: bytes) -> None:
        if device in self._context.peers:
            self._context.ledger.to_peer(device, len(data))
            self._context.send(device, m.Blob(request, data))


def _is_ahead(news: tuple[int, int] | None, mine: m.News) -> bool:
    """Whether a peer trusts newer metadata. Those that know as much as we do may all be about to ask."""
    return news is not None and news[1] > mine.timestamp_version
