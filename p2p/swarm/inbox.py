"""What a node makes of a message: who told what is kept, what was asked is answered or passed on.

Checks of form were the wire codec's; here is what only somebody who knows the conversation can judge:
order, answers that nobody asked for, claims beyond a pack, floods. What follows from it all (whom
to ask, what to fetch) is decided afterwards by the parts that `p2p.swarm.node` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm import uplinks
from p2p.swarm.context import Context
from p2p.swarm.fellows import Fellows
from p2p.swarm.lookout import Lookout
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.parts import PARTS, RESTS
from p2p.swarm.peer import Asked, Peer, RemoteImage
from p2p.swarm.plan import Participant
from p2p.swarm.pursuits import Pursuit, Pursuits
from p2p.swarm.relay import PROBE, Relay
from p2p.swarm.uplinks import Uplinks
from p2p.swarm.wire import PROTOCOL, add_to_bitmap, unpack_bitmap


class Inbox:
    """Takes the messages of one node's peers."""

    def __init__(
        self,
        context: Context,
        objects: ObjectExchange,
        pursuits: Pursuits,
        lookout: Lookout,
        relay: Relay,
        fellows: Fellows,
        uplinks: Uplinks,
    ) -> None:
        self._context = context
        self._fellows = fellows
        self._lookout = lookout
        self._relay = relay
        self._uplinks = uplinks
        self._objects = objects
        self._pursuits = pursuits
        self._takers: dict[type, Callable[[Peer, Any], None]] = {
            m.Hello: self._on_hello,
            m.News: objects.on_news,
            m.MetadataWant: self._on_metadata_want,
            m.ObjectWant: self._on_object_want,
            m.Blob: self._on_answer,
            m.Refuse: self._on_answer,
            m.Join: self._on_join,
            m.Leave: self._on_leave,
            m.Have: self._on_have,
            m.HaveMore: self._on_have_more,
            m.Want: self._on_want,
            m.WantRest: self._on_want_rest,
            m.Piece: self._on_answer,
            m.Part: self._on_part,
            m.Lease: self._on_lease,
            m.Peers: self._on_peers,
            m.Bye: self._on_bye,
            m.Hearsay: self._on_hearsay,
            m.OriginAsked: self._on_origin_asked,
            m.Report: relay.arrived,
            m.Reported: relay.told,
            m.Uplink: self._on_uplink,
        }

    def take(self, device: str, message: m.Message) -> None:
        """Act on one message; what it breaks the protocol with ends the connection, with the reason."""
        peer = self._context.peers.get(device)
        if peer is None:
            return  # parted with; what was under way still arrives
        kind = type(message)
        if peer.hello is None and kind is not m.Hello and kind is not m.Bye:
            self._context.disconnect(device, "protocol")
            return
        self._takers[kind](peer, message)

    def _on_lease(self, peer: Peer, message: m.Lease) -> None:
        remote = self._remote(peer, message.image)
        pursuit = self._pursuits.get(message.image)
        holds = pursuit is None and message.start < message.stop
        peer.leases_abroad(message.image, message.slot, self._context.now if holds else None)
        if pursuit is not None:
            self._context.stirred = pursuit.gateway.on_lease(peer, remote, message)

    def _on_hearsay(self, peer: Peer, message: m.Hearsay) -> None:
        pursuit = self._pursuits.get(message.image)
        if pursuit is None:
            return
        if not pursuit.image.complete:
            self._fellows.named(peer, message.image, [claim.device for claim in message.claims])
        if pursuit.image.heard_of(peer, message):
            pursuit.gateway.dirty = True
            pursuit.gateway.yield_to_far()

    def _on_object_want(self, peer: Peer, message: m.ObjectWant) -> None:
        self._objects.on_object_want(peer, message)
        for pursuit in self._pursuits:
            pursuit.image.index_of_use(message.digest)

    def _on_origin_asked(self, peer: Peer, message: m.OriginAsked) -> None:
        self._lookout.heard(peer, message)
        self._relay.moved()

    def _on_uplink(self, peer: Peer, message: m.Uplink) -> None:
        priced = self._uplinks.heard(peer, message)
        self._context.stirred = priced
        for pursuit in self._pursuits if priced else ():
            pursuit.image.about(peer.device, urgent=True)

    def _on_metadata_want(self, peer: Peer, message: m.MetadataWant) -> None:
        if message.name == PROBE:
            self._relay.wanted(peer, message)
        elif message.name == uplinks.PROBE:
            self._uplinks.wanted(peer, message)
        elif message.name == RESTS:
            self._context.send(peer.device, m.Blob(message.request, b""))
        else:
            self._objects.on_metadata_want(peer, message)

    def _on_peers(self, peer: Peer, message: m.Peers) -> None:
        self._context.stirred = False
        self._context.actions.append(e.PeerAddresses(message.peers))

    def _on_bye(self, peer: Peer, message: m.Bye) -> None:
        self._context.disconnect(peer.device, "bye")

    def _on_hello(self, peer: Peer, message: m.Hello) -> None:
        if message.protocol != PROTOCOL:
            self._context.disconnect(peer.device, "protocol-version")
        elif message.site != self._context.site and not (peer.is_carrier or self._context.visits):
            self._context.disconnect(peer.device, "other-site")
        elif peer.hello is not None:
            self._context.disconnect(peer.device, "protocol")
        else:
            peer.greeted(message)
            self._introduce(peer)
            self._uplinks.greet(peer.device)
            self._relay.met(peer.device)
            self._pursuits.changed()

    def _introduce(self, peer: Peer) -> None:
        """Tell a newcomer whom else of its site this node is connected to, the latest first.

        Devices of different sites part with each other; a carrier is told of those that it visits.
        """
        assert peer.hello is not None  # it has just come
        site, known = peer.hello.site, list[tuple[str, str, int]]()
        for other in reversed(self._context.peers.values()):
            if (address := other.address) is not None and other is not peer:
                if not peer.is_carrier and (other.hello is None or other.hello.site != site):
                    continue
                known.append(address)
                if len(known) == limits.PEER_EXCHANGE_MAX:
                    break
        if known:
            self._context.send(peer.device, m.Peers(tuple(known)))

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
            if pursuit.asking is not None:
                pursuit.asking.due = True
            pursuit.image.about(peer.device, urgent=not message.complete)
            if joined:  # until now it was not told what came after the greeting
                pursuit.gateway.greet(peer.device)
                if pursuit.making is not None:
                    pursuit.making.greet(peer.device)
                pursuit.image.tell_haves(peer.device)
                pursuit.image.entered(peer, remote)
        elif joined:
            self._fellows.joined(peer.device, message.image)

    def _on_leave(self, peer: Peer, message: m.Leave) -> None:
        image = message.image
        remote = peer.images.pop(image, None)
        if remote is None:
            return
        self._context.exit(image, peer.device)
        for pack in list(remote.claims):
            peer.unclaim(remote, pack)
        if pursuit := self._pursuits.get(image):
            pursuit.image.left_by(peer, remote)
            pursuit.rider.peer_lost(peer)
            if pursuit.asking is not None:
                pursuit.asking.peer_lost(peer.device)
            pursuit.image.about(peer.device)
        self._pursuits.changed()

    def _remote(self, peer: Peer, image: Digest) -> RemoteImage:
        """What a peer says of an image; more images than a device can have are a flood."""
        found = peer.images.get(image)
        if found is None:
            pursuit = self._pursuits.get(image)
            found = pursuit.image.remote(peer) if pursuit is not None else peer.image(image)
            if len(peer.images) > limits.IMAGES_PER_PEER_MAX:
                self._context.disconnect(peer.device, "flood")
        return found

    def _on_have_more(self, peer: Peer, message: m.HaveMore) -> None:
        pack, pieces = message.pack, message.pieces
        remote = self._remote(peer, message.image)
        pursuit = self._pursuits.get(message.image)
        if pursuit is not None and pack in pursuit.image.maps:
            new = pursuit.image.heard(peer, remote, pack, pieces, total=None)
            if remote.leases:
                pursuit.gateway.renewed_by(peer.device, remote, pack, new)
            else:
                self._context.stirred = False
        else:
            bitmap = bytearray(remote.claims.get(pack, b""))
            add_to_bitmap(bitmap, pieces)
            self._claimed(peer, remote, pursuit, pack, bitmap)

    def _on_have(self, peer: Peer, message: m.Have) -> None:
        pack, total = message.pack, message.total
        remote = self._remote(peer, message.image)
        pursuit = self._pursuits.get(message.image)
        if pursuit is None or pack not in pursuit.image.maps:
            self._claimed(peer, remote, pursuit, pack, bytearray(message.bitmap), total)
            return
        image = pursuit.image
        pieces = unpack_bitmap(message.bitmap, total)
        lost = [n for n, mark in enumerate(remote.haves.get(pack, b"")) if mark and n not in pieces]
        if lost:
            image.tell_haves(peer.device)  # it lost some, and was told nothing of those while it had them
            image.holders.lost(remote, pack, lost)
            pursuit.rider.on_taken_back(peer, remote, pack)
        remote.useful = {k: None for k in remote.useful if k[0] != pack or k[1] in pieces}
        new = image.heard(peer, remote, pack, pieces, total=total)
        pursuit.gateway.renewed_by(peer.device, remote, pack, new)

    def _claimed(
        self,
        peer: Peer,
        remote: RemoteImage,
        pursuit: Pursuit | None,
        pack: Digest,
        bitmap: bytearray,
        total: int | None = None,
    ) -> None:
        """What a peer says of a pack whose index is not here can be judged only later."""
        if pursuit is not None and all(p.index.sha256 != pack for p in pursuit.image.task.packs):
            if pursuit.asking is None or pack != pursuit.asking.name:
                return
            pursuit.asking.due = True
            pursuit = None  # no index of it exists
        if total is not None:
            remote.totals[pack] = total
        if not peer.claim(remote, pack, bitmap):
            self._context.disconnect(peer.device, "flood")
        if pursuit is not None:
            self._objects.held_by(pack, peer.device)
            if remote.participant is None or not remote.participant.complete:
                pursuit.image.index_of_use(pack)
            pursuit.gateway.renewed_by(peer.device, remote, pack, set())

    def _on_want_rest(self, peer: Peer, message: m.WantRest) -> None:
        self._context.stirred = False
        pursuit = self._pursuits.get(message.image)
        pieces = pursuit.image.maps.get(message.pack) if pursuit is not None else None
        known = pieces is not None and message.piece < len(pieces)
        if pieces is not None and known and message.start < pieces[message.piece].wire_size:
            self._on_want(peer, m.Want(*message[:4]), message.start)
        else:
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.DONT_HAVE))

    def _on_want(self, peer: Peer, message: m.Want, start: int = 0) -> None:
        self._context.stirred = False
        pursuit = self._pursuits.get(message.image)
        if pursuit is not None and pursuit.making is not None and message.pack == pursuit.making.name:
            pursuit.making.on_want(peer, message)
        elif pursuit is None or message.piece not in pursuit.image.serves.get(message.pack, ()):
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
        elif peer.serving >= self._context.policy.serve_queue_max:
            self._context.send(peer.device, m.Refuse(message.request, m.Refusal.BUSY))
        else:
            peer.serving += 1
            pursuit.image.news.asked(peer.device)
            pursuit.image.given.setdefault(message.pack, set()).add(message.piece)
            self._context.actions.append(
                e.Serve(peer.device, message.request, message.image, message.pack, message.piece, start)
            )

    def _on_answer(self, peer: Peer, message: m.Piece | m.Blob | m.Refuse) -> None:
        asked = peer.answered(message.request)
        if asked is None:
            self._context.disconnect(peer.device, "protocol")
            return
        if asked.delta is not None:
            self._on_delta(peer, asked, message)
            return
        if asked.metadata == PARTS:
            return  # it was said, not asked
        if asked.metadata == RESTS:
            peer.gives_rests = isinstance(message, m.Blob)
            peer.rests_asked_at = -math.inf
            for one in self._pursuits:
                one.image.wanted.due[peer.device] = None
            return
        if asked.metadata == PROBE:
            self._relay.answered(peer.device, isinstance(message, m.Blob))
            return
        if asked.metadata == uplinks.PROBE:
            self._uplinks.answered(peer.device, isinstance(message, m.Blob))
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

    def _on_part(self, peer: Peer, message: m.Part) -> None:
        """Of an answer that is on its way: that is no silence."""
        context = self._context
        context.stirred = False
        asked = peer.asked.get(message.request)
        if asked is None or (asked.piece is None and asked.delta is None):
            context.disconnect(peer.device, "protocol")
            return
        if asked.piece is not None and message.total != asked.size:
            context.disconnect(peer.device, "protocol")  # nor is more kept of an answer than it can have
            return
        pursuit = self._pursuits.get(asked.image) if asked.image is not None else None
        arriving = peer.arriving(message.request, len(message.payload), context.now, context.policy)
        if arriving and pursuit is not None:
            pursuit.image.arriving(message.total)

    def _on_delta(self, peer: Peer, asked: Asked, message: m.Piece | m.Blob | m.Refuse) -> None:
        """A peer's answer to a request for a delta."""
        pursuit = self._pursuits.get(asked.image) if asked.image is not None else None
        asking = pursuit.asking if pursuit is not None else None
        if isinstance(message, m.Blob):
            self._context.disconnect(peer.device, "protocol")
        elif asking is None:
            self._context.ledger.wasted += len(message.payload) if isinstance(message, m.Piece) else 0
        elif isinstance(message, m.Refuse):
            asking.on_refuse(peer, asked, message.reason)
        else:
            asking.on_piece(peer, asked, message)
