"""What a node makes of a message: who told what is kept, what was asked is answered or passed on.

Checks of form were the wire codec's; here is what only somebody who knows the conversation can judge:
order, answers that nobody asked for, claims beyond a pack, floods. What follows from it all (whom
to ask, what to fetch) is decided afterwards by the parts that `p2p.swarm.node` steps.
"""

from __future__ import annotations

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.peer import Peer, RemoteImage
from p2p.swarm.plan import Participant
from p2p.swarm.pursuits import Pursuit, Pursuits
from p2p.swarm.wire import PROTOCOL, add_to_bitmap, unpack_bitmap


class Inbox:
    """Takes the messages of one node's peers."""

    def __init__(self, context: Context, objects: ObjectExchange, pursuits: Pursuits) -> None:
        self._context = context
        self._objects = objects
        self._pursuits = pursuits

    def take(self, device: str, message: m.Message) -> None:
        """Act on one message; what it breaks the protocol with ends the connection, with the reason."""
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
                if pursuit := self._pursuits.get(message.image):
                    pursuit.gateway.on_lease(peer, remote, message)
            case m.Hearsay():
                pursuit = self._pursuits.get(message.image)
                if pursuit is not None and pursuit.image.heard_of(peer, message):
                    pursuit.gateway.dirty = True
                    pursuit.gateway.yield_to_far()
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
                for pursuit in self._pursuits:
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
            self._introduce(peer)
            self._pursuits.changed()

    def _introduce(self, peer: Peer) -> None:
        """Tell a newcomer whom else this node is connected to, the latest first."""
        known = tuple(
            (other.device, other.host, other.hello.port)
            for other in reversed(self._context.peers.values())
            if other is not peer and other.hello is not None and other.hello.port and _is_global(other.host)
        )
        if known:
            self._context.send(peer.device, m.Peers(known[: limits.PEER_EXCHANGE_MAX]))

    def _on_join(self, peer: Peer, message: m.Join) -> None:
        remote = self._remote(peer, message.image)
        joined = remote.participant is None
        remote.participant = Participant(
            peer.device, message.base, message.wan, message.weight, message.complete
        )
        if message.complete and remote.conduct.complete_at is None:
            remote.conduct.complete_at = self._context.now
        if joined:
            self._context.enter(message.image, peer, remote)
        if pursuit := self._pursuits.get(message.image):
            pursuit.gateway.dirty = True
            pursuit.image.about(peer.device, urgent=not message.complete)
            if joined:  # until now it was not told what came after the greeting
                pursuit.gateway.greet(peer.device)
                pursuit.image.tell_haves(peer.device)
                pursuit.image.entered(peer, remote)

    def _on_leave(self, peer: Peer, image: Digest) -> None:
        remote = peer.images.pop(image, None)
        if remote is None:
            return
        self._context.exit(image, peer.device)
        for pack in list(remote.claims):
            peer.unclaim(remote, pack)
        if pursuit := self._pursuits.get(image):
            pursuit.image.left_by(peer, remote)
            pursuit.rider.peer_lost(peer)
            pursuit.image.about(peer.device)
        self._pursuits.changed()

    def _remote(self, peer: Peer, image: Digest) -> RemoteImage:
        """What a peer says of an image; more images than a device can have are a flood."""
        found = peer.images.get(image)
        if found is None:
            found = peer.image(image)
            if pursuit := self._pursuits.get(image):
                found.conduct = pursuit.image.site.conduct(peer.device)
            if len(peer.images) > limits.IMAGES_PER_PEER_MAX:
                self._context.disconnect(peer.device, "flood")
        return found

    def _on_have(self, peer: Peer, message: m.Have | m.HaveMore) -> None:
        remote = self._remote(peer, message.image)
        pursuit = self._pursuits.get(message.image)
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
                self._objects.held_by(message.pack, peer.device)
                pursuit.gateway.renewed_by(peer.device, remote, message.pack, set())

    def _on_known_have(
        self, remote: RemoteImage, peer: Peer, pursuit: Pursuit, message: m.Have | m.HaveMore
    ) -> None:
        image = pursuit.image
        if isinstance(message, m.HaveMore):
            new = image.heard(peer, remote, message.pack, message.pieces, total=None)
        else:
            pieces = unpack_bitmap(message.bitmap, message.total)
            lost = remote.haves.get(message.pack, set()) - pieces
            if lost:
                image.tell_haves(peer.device)  # it lost some, and was told nothing of those while it had them
                image.holders.lost(remote, message.pack, lost)
            remote.useful = {k: None for k in remote.useful if k[0] != message.pack or k[1] in pieces}
            new = image.heard(peer, remote, message.pack, pieces, total=message.total)
        pursuit.gateway.renewed_by(peer.device, remote, message.pack, new)

    def _on_want(self, peer: Peer, message: m.Want) -> None:
        pursuit = self._pursuits.get(message.image)
        if pursuit is None or message.piece not in pursuit.image.serves.get(message.pack, ()):
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
        elif peer.serving >= self._context.policy.serve_queue_max:
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.BUSY))
        else:
            peer.serving += 1
            pursuit.image.given.setdefault(message.pack, set()).add(message.piece)
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
        pursuit = self._pursuits.get(asked.image) if asked.image is not None else None
        if isinstance(message, m.Blob):
            self._context.disconnect(peer.device, "protocol")
            if pursuit is not None and not asked.abandoned:
                pursuit.rider.on_wrong_answer(peer, asked.piece)
        elif pursuit is None:
            self._context.ledger.wasted += len(message.payload) if isinstance(message, m.Piece) else 0
        elif isinstance(message, m.Refuse):
            if not asked.abandoned:
                pursuit.rider.on_refuse(peer, asked, message.reason)
                pursuit.gateway.dirty = True
        else:
            pursuit.rider.on_piece(peer, asked, message)


def _is_global(host: str) -> bool:
    """Whether an address means the same to another node (one with a zone, RFC 4007, does not)."""
    return bool(host) and "%" not in host
