"""`SwarmNode`: one pure machine that decides who fetches what and who asks whom.

Events in, actions out; it reads no clock, opens no socket and draws from the generator it was
given, so a driver (trio, or the simulator's event heap) and a seed determine all it does. This
module only dispatches: objects and metadata are in `objects`, the state of an image in `image`,
what crosses the WAN in `gateway`, what is asked of peers in `rider`, the rule of the site in `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context, Rng
from p2p.swarm.gateway import Gateway
from p2p.swarm.image import ImageSwarm
from p2p.swarm.ledger import Ledger
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.peer import Peer, RemoteImage
from p2p.swarm.plan import Participant
from p2p.swarm.policy import Policy
from p2p.swarm.rider import Rider
from p2p.swarm.wire import PROTOCOL, add_to_bitmap, unpack_bitmap

HOUSEKEEPING_S = 0.25
"""How often deadlines are looked at while anything is under way."""

ABANDONED_MAX = 64
"""A peer that leaves this many requests unanswered is disconnected."""


@dataclass(slots=True)
class _Pursuit:
    image: ImageSwarm
    gateway: Gateway
    rider: Rider


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """One image for people: `role` is gateway, rider, alone or complete; `left` in target bytes."""

    image: Digest
    role: str
    left: int
    size: int
    pack: PackRef | None
    gateways: tuple[str, ...]


class SwarmNode:
    """The swarm's side of one device.

    `weight` (0 to 1000) is how willing it is to be a gateway; `wan`: it can reach an origin now.
    """

    def __init__(
        self,
        *,
        device: str,
        site: str,
        port: int,
        rng: Rng,
        policy: Policy | None = None,
        wan: bool = True,
        weight: int = 100,
    ) -> None:
        self._context = Context(device, site, policy or Policy(), rng, wan=wan, weight=weight)
        self._objects = ObjectExchange(self._context)
        self._images: dict[Digest, _Pursuit] = {}
        self._fetch_numbers = count(1)
        self.port = port
        self._housekeeping_at: float | None = None
        self._settled = False

    @property
    def ledger(self) -> Ledger:
        return self._context.ledger

    @property
    def peers(self) -> tuple[str, ...]:
        """Greeted peers."""
        return tuple(d for d, p in self._context.peers.items() if p.hello is not None)

    @property
    def settled(self) -> bool:
        return self._context.settled

    def status(self, image: Digest) -> ImageStatus | None:
        """How far an image is, for people."""
        pursuit = self._images.get(image)
        if pursuit is None:
            return None
        state = pursuit.image
        if state.complete:
            role = "complete"
        elif pursuit.gateway.active or self._context.device in state.gateways:
            role = "gateway" if any(True for _ in self._context.remotes(image)) else "alone"
        else:
            role = "rider"
        return ImageStatus(image, role, state.left, state.task.size, state.plan.pack, state.gateways)

    def all_complete(self, image: Digest) -> bool:
        """Whether every peer that takes part in the image is done with it."""
        remotes = self._context.remotes(image)
        return all(r.participant is not None and r.participant.complete for _, r in remotes)

    def deadline(self) -> float | None:
        """When `Tick` is due at the latest; None while only events can change anything."""
        times = [p.image.announce_at for p in self._images.values() if p.image.announce_at is not None]
        if self._housekeeping_at is not None:
            times.append(self._housekeeping_at)
        context = self._context
        if (settles_at := context.settles_at) is not None and self._images:
            times.append(settles_at)
        return min(times, default=None)

    def handle(self, event: e.Event, now: float) -> list[e.Action]:
        """Take one event at time `now` (seconds, never going back); return what to do, in order."""
        context = self._context
        context.now = now
        context.actions = []
        if context.settle_until is None:
            context.settle_until = now + context.policy.settle_s
        self._dispatch(event)
        self._advance()
        return context.actions

    # Events

    def _dispatch(self, event: e.Event) -> None:
        context = self._context
        match event:
            case e.Tick():
                pass
            case e.Received():
                self._on_message(event.device, event.message)
            case e.Stored():
                if pursuit := self._images.get(event.image):
                    pursuit.image.stored(event)
                    if event.how is e.How.PEER:
                        pursuit.gateway.progressed_by_peer()
                    elif event.how is e.How.WAN:
                        pursuit.gateway.progressed_by_wan()
            case e.PieceSent():
                self._on_piece_sent(event)
            case e.FetchProgress():
                for pursuit in self._images.values():
                    pursuit.gateway.on_progress(event.fetch)
            case e.FetchEnded():
                self._on_fetch_ended(event)
            case e.PeerConnected():
                self._on_connected(event.device)
            case e.PeerLost():
                self._on_lost(event.device)
            case e.Expect():
                context.expected = dict(event.devices)
                context.expected.pop(context.device, None)
                self._changed()
            case e.WanChanged():
                context.wan = event.up
                for pursuit in self._images.values():
                    pursuit.gateway.dirty = True
                    pursuit.image.announce()
                    if not event.up:
                        pursuit.gateway.cancel_all()
            case e.WantObject():
                self._objects.want(event.digest, event.size, for_agent=True)
            case e.HoldObject():
                self._objects.hold(event.digest, event.data)
            case e.ObjectFetched():
                self._objects.fetched(event.digest, event.data)
            case e.HoldMetadata():
                self._objects.hold_metadata(event.name, event.version, event.data)
            case e.AskMetadata():
                self._objects.ask_metadata(event.device, event.name)
            case _:
                self._on_image_event(event)

    def _on_fetch_ended(self, event: e.FetchEnded) -> None:
        for pursuit in self._images.values():
            if pursuit.gateway.owns(event.fetch):
                pursuit.gateway.on_ended(event.fetch, event.error, event.wasted)
                return
        self._context.ledger.wan += event.wasted  # its image was dropped meanwhile
        self._context.ledger.wasted += event.wasted

    def _on_image_event(self, event: e.Event) -> None:
        match event:
            case e.Pursue():
                pursuit = self._take_up(event.task, complete=False)
                pursuit.image.resume(event.done)
                pursuit.image.announce()
            case e.Offer():
                self._take_up(event.task, complete=True).image.announce()
            case e.Drop():
                if event.image in self._images:
                    self._put_down(event.image)
                    self._context.broadcast(m.Leave(event.image))
            case e.Rejected():
                if found := self._images.get(event.image):
                    found.rider.on_rejected((event.pack, event.piece))
                self._context.ban(event.source, event.reason)
            case e.BaseDamaged():
                if found := self._images.get(event.image):
                    found.image.base_damaged(event.start, event.stop)
                    found.gateway.dirty = True
            case e.Damaged():
                if found := self._images.get(event.image):
                    found.image.damaged(event.ranges)
                    found.gateway.dirty = True
            case e.ImageVerified():
                if found := self._images.get(event.image):
                    found.image.verified()
            case e.ReadBackFailed():
                if found := self._images.get(event.image):
                    found.image.read_back_failed()
            case _:
                raise AssertionError(f"unhandled event {event!r}")

    def _take_up(self, task: e.ImageTask, *, complete: bool) -> _Pursuit:
        pursuit = self._images.get(task.image)
        if pursuit is None or pursuit.image.complete != complete:
            self._put_down(task.image)
            image = ImageSwarm(self._context, self._objects, task, complete=complete)
            pursuit = _Pursuit(image, Gateway(image, self._fetch_numbers), Rider(image))
            self._images[task.image] = pursuit
            for device, peer in self._context.peers.items():
                if (remote := peer.images.get(task.image)) is not None:
                    remote.conduct = image.conduct(device)
        return pursuit

    def _put_down(self, image: Digest) -> None:
        """What is under way for an image ends; late answers are of no use to a new start."""
        if (pursuit := self._images.pop(image, None)) is None:
            return
        pursuit.gateway.cancel_all()
        for peer in self._context.peers.values():
            pursuit.rider.peer_lost(peer)

    def _on_connected(self, device: str) -> None:
        context = self._context
        self._on_lost(device)
        context.peers[device] = Peer(device, context.now)
        context.members_changed()
        context.send(device, m.Hello(PROTOCOL, context.site, self.port, context.wan))
        context.send(device, self._objects.news())
        for pursuit in self._images.values():
            pursuit.gateway.greet(device)
            pursuit.image.greet(device)
        self._changed()

    def _on_lost(self, device: str) -> None:
        context = self._context
        peer = context.peers.pop(device, None)
        if peer is None:
            return
        context.members_changed()
        self._objects.peer_lost(peer)
        if device in context.closing:
            context.closing.remove(device)
        for pursuit in self._images.values():
            pursuit.rider.peer_lost(peer)
        self._changed()

    def _on_piece_sent(self, event: e.PieceSent) -> None:
        peer = self._context.peers.get(event.device)
        if peer is not None:
            peer.serving = max(0, peer.serving - 1)
        if event.size:
            self._context.ledger.to_peer(event.device, event.size)

    def _changed(self) -> None:
        for pursuit in self._images.values():
            pursuit.image.replan = pursuit.gateway.dirty = True

    # Messages

    def _on_message(self, device: str, message: m.Message) -> None:
        peer = self._context.peers.get(device)
        if peer is None:
            return  # parted with; what was under way still arrives
        if peer.hello is None and not isinstance(message, m.Hello | m.Bye):
            self._context.disconnect(device, "protocol")
            return
        match message:
            case m.Piece() | m.Blob() | m.Refuse():
                self._on_answer(peer, message)
            case m.Want():
                self._on_want(peer, message)
            case m.HaveMore() | m.Have():
                self._on_have(peer, message)
            case m.Lease():
                remote = self._remote(peer, message.image)
                if pursuit := self._images.get(message.image):
                    pursuit.gateway.on_lease(peer, remote, message)
            case m.Join():
                self._on_join(peer, message)
            case m.Leave():
                self._on_leave(peer, message.image)
            case m.Hello():
                self._on_hello(peer, message)
            case m.News():
                self._objects.on_news(peer, message)
            case m.ObjectWant():
                self._objects.on_object_want(peer, message)
                for pursuit in self._images.values():
                    pursuit.image.asked_for_index(message.digest)
            case m.MetadataWant():
                self._objects.on_metadata_want(peer, message)
            case m.Peers():
                self._context.actions.append(e.PeerAddresses(message.peers))
            case m.Bye():
                self._context.disconnect(device, "bye")

    def _on_hello(self, peer: Peer, message: m.Hello) -> None:
        if message.protocol != PROTOCOL:
            self._context.disconnect(peer.device, "protocol-version")
        elif message.site != self._context.site:
            self._context.disconnect(peer.device, "other-site")
        elif peer.hello is not None:
            self._context.disconnect(peer.device, "protocol")
        else:
            peer.hello = message
            self._changed()

    def _on_join(self, peer: Peer, message: m.Join) -> None:
        remote = self._remote(peer, message.image)
        joined = remote.participant is None
        remote.participant = Participant(
            peer.device, message.base, message.wan, message.weight, message.complete
        )
        self._context.members_changed()
        if message.complete and remote.conduct.complete_at is None:
            remote.conduct.complete_at = self._context.now
        if pursuit := self._images.get(message.image):
            pursuit.image.replan = pursuit.gateway.dirty = True
            if joined:  # until now it was not told what came after the greeting
                pursuit.gateway.greet(peer.device)
                pursuit.image.tell_haves(peer.device)
                pursuit.image.recompute()

    def _on_leave(self, peer: Peer, image: Digest) -> None:
        remote = peer.images.pop(image, None)
        if remote is None:
            return
        self._context.members_changed()
        for pack in list(remote.claims):
            peer.unclaim(remote, pack)
        if pursuit := self._images.get(image):
            pursuit.rider.peer_lost(peer)
        self._changed()

    def _remote(self, peer: Peer, image: Digest) -> RemoteImage:
        """What a peer says of an image; more images than a device can have are a flood."""
        found = peer.images.get(image)
        if found is None:
            found = peer.image(image)
            if pursuit := self._images.get(image):
                found.conduct = pursuit.image.conduct(peer.device)
            if len(peer.images) > limits.IMAGES_PER_PEER_MAX:
                self._context.disconnect(peer.device, "flood")
        return found

    def _on_have(self, peer: Peer, message: m.Have | m.HaveMore) -> None:
        remote = self._remote(peer, message.image)
        pursuit = self._images.get(message.image)
        if pursuit is not None and message.pack in pursuit.image.maps:
            self._on_known_have(remote, peer, pursuit, message)
        elif pursuit is None or any(p.index.sha256 == message.pack for p in pursuit.image.task.packs):
            if isinstance(message, m.Have):
                bitmap = bytearray(message.bitmap)
                remote.totals[message.pack] = message.total
            else:
                bitmap = bytearray(remote.claims.get(message.pack, b""))
                add_to_bitmap(bitmap, message.pieces)
            if not peer.claim(remote, message.pack, bitmap):
                self._context.disconnect(peer.device, "flood")
            if pursuit is not None:
                pursuit.gateway.renewed_by(remote, message.pack, set())

    def _on_known_have(
        self, remote: RemoteImage, peer: Peer, pursuit: _Pursuit, message: m.Have | m.HaveMore
    ) -> None:
        image = pursuit.image
        if isinstance(message, m.HaveMore):
            new = image.heard(peer, remote, message.pack, set(message.pieces), total=None)
        else:
            pieces = unpack_bitmap(message.bitmap, message.total)
            known = remote.haves.setdefault(message.pack, set())
            if known - pieces:
                image.tell_haves(peer.device)  # it lost some, and was told nothing of those while it had them
            known &= pieces
            remote.useful = {k: None for k in remote.useful if k[0] != message.pack or k[1] in pieces}
            new = image.heard(peer, remote, message.pack, pieces, total=message.total)
        pursuit.gateway.renewed_by(remote, message.pack, new)

    def _on_want(self, peer: Peer, message: m.Want) -> None:
        pursuit = self._images.get(message.image)
        if pursuit is None or message.piece not in pursuit.image.serves.get(message.pack, ()):
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
        elif peer.serving >= self._context.policy.serve_queue_max:
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.BUSY))
        else:
            peer.serving += 1
            self._context.actions.append(
                e.Serve(peer.device, message.request, message.image, message.pack, message.piece)
            )

    def _on_answer(self, peer: Peer, message: m.Piece | m.Blob | m.Refuse) -> None:
        asked = peer.answered(message.request)
        if asked is None:
            self._context.disconnect(peer.device, "protocol")
            return
        if asked.piece is None:
            if isinstance(message, m.Refuse):
                self._objects.on_refuse(peer, asked)
            elif isinstance(message, m.Piece) or not self._objects.on_blob(
                peer, asked, bytes(message.payload)
            ):
                self._context.ban(peer.device, "bad-object")
            return
        pursuit = self._images.get(asked.image) if asked.image is not None else None
        if isinstance(message, m.Blob):
            self._context.disconnect(peer.device, "protocol")
            if pursuit is not None and not asked.abandoned:
                pursuit.rider.on_wrong_answer(peer, asked.piece)
        elif pursuit is None or asked.abandoned:
            self._context.ledger.wasted += len(message.payload) if isinstance(message, m.Piece) else 0
        elif isinstance(message, m.Refuse):
            pursuit.rider.on_refuse(peer, asked, message.reason)
            pursuit.gateway.dirty = True
        else:
            pursuit.rider.on_piece(peer, asked, message)

    # After every event

    def _advance(self) -> None:
        context = self._context
        self._part()
        due = self._housekeeping_at is not None and context.now >= self._housekeeping_at
        if due:
            self._housekeep()
        if context.settled and not self._settled:
            self._settled = True
            self._changed()
        if self._objects.busy:
            self._objects.step()
        for pursuit in self._images.values():
            before = pursuit.image.gateways
            self._deliver_indexes()
            pursuit.image.step()
            if pursuit.image.gateways != before:
                pursuit.gateway.dirty = True
            pursuit.gateway.step()
            pursuit.rider.step()
            pursuit.image.flush()
        if self._objects.busy:
            self._objects.step()
        self._part()
        busy = (
            self._objects.busy
            or any(not p.image.complete for p in self._images.values())
            or any(p.asked for p in context.peers.values())
        )
        if not busy:
            self._housekeeping_at = None
        elif due or self._housekeeping_at is None:
            self._housekeeping_at = context.now + HOUSEKEEPING_S

    def _part(self) -> None:
        """Peers that we part with are gone at once, whenever their connection ends."""
        closing, self._context.closing = self._context.closing, []
        for device in closing:
            self._on_lost(device)

    def _deliver_indexes(self) -> None:
        ready, self._objects.ready = self._objects.ready, []
        for digest, data in ready:
            for pursuit in self._images.values():
                pursuit.image.index_ready(digest, data)
                pursuit.gateway.dirty = True

    def _housekeep(self) -> None:
        for pursuit in self._images.values():
            pursuit.image.replan = True
            pursuit.rider.housekeeping()
            pursuit.gateway.housekeeping()
            pursuit.gateway.dirty = True
        self._objects.housekeeping()
        for device, peer in self._context.peers.items():
            if peer.abandoned > ABANDONED_MAX:
                self._context.disconnect(device, "unresponsive")
