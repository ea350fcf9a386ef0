"""`SwarmNode`: one pure machine that decides who fetches what and who asks whom.

Events in, actions out; it reads no clock, opens no socket and draws from the generator it was given, so a
driver (trio, or the simulator's event heap) and a seed determine all it does. This module only dispatches
events and steps the parts: messages go to `inbox`, objects and metadata are in `objects`, the images in
`pursuits`, each with its state in `image` and its site in `site_view`, what crosses the WAN in `gateway`,
what is asked of peers in `rider`, what is made anew for them in `recomputing`, what is computed for peers
and asked of them beside that in `delta_making` and `delta_asking`, the rule of the site in `plan`, and how
often deadlines are looked at in `pace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap, open_index
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context, Rng
from p2p.swarm.division import Division
from p2p.swarm.fellows import Fellows
from p2p.swarm.inbox import Inbox
from p2p.swarm.ledger import Ledger
from p2p.swarm.lookout import Lookout
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.pace import Pace
from p2p.swarm.parts import Begun
from p2p.swarm.peer import Peer
from p2p.swarm.policy import Policy
from p2p.swarm.pursuits import Pursuits
from p2p.swarm.relay import Relay
from p2p.swarm.site_quota import SiteQuota
from p2p.swarm.uplinks import Uplinks
from p2p.swarm.wire import PROTOCOL


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

    `weight` (0 to 1000) is how willing it is to be a gateway; `wan`: it can reach an origin now; `closed`:
    as `WanChanged` has it. `carrier`: it takes images to sites without a WAN, so that it also gets what only
    those need of them while there is a WAN: the full pack's index, without which nobody can be served.
    `recomputes`: it may make patches anew for peers (`recomputing`). `divides`: it says among how many the
    site's WAN is divided (`WanShared`), for a budget that the devices of the site have together. `price`: of
    its WAN, in millionths per MB; `quota`: what the site's devices may use of their WANs in a month; it is
    kept up to date with what they have (`uplinks`). `open_index`: many nodes of one process may share what
    they open. `links_max`: so many peers its driver keeps. `isolated`: it never has a WAN of its own, so that
    its reports wait for a carrier. `visits`: by its certificate it may be at any site.
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
        closed: bool = False,
        weight: int = 100,
        carrier: bool = False,
        recomputes: bool = False,
        open_index: Callable[[bytes], PieceMap] = open_index,
        divides: bool = False,
        links_max: int = limits.PEERS_MAX,
        price: int | None = None,
        quota: SiteQuota | None = None,
        isolated: bool = False,
        visits: bool = False,
    ) -> None:
        self._context = Context(
            device,
            site,
            policy or Policy(),
            rng,
            wan=wan and not closed,
            weight=weight,
            carrier=carrier,
            recomputes=recomputes,
            divides=divides,
            open_index=open_index,
        )
        self._context.reachable = wan
        self._context.isolated, self._context.visits = isolated, visits
        self._objects = ObjectExchange(self._context)
        self._pursuits = Pursuits(self._context, self._objects)
        self._lookout = Lookout(self._context)
        self._relay = Relay(self._context, self._lookout)
        self._fellows = Fellows(self._context, links_max)
        self._uplinks = Uplinks(self._context, price, quota)
        self._inbox = Inbox(
            self._context, self._objects, self._pursuits, self._lookout, self._relay, self._fellows,
            self._uplinks,
        )  # fmt: skip
        self.port = port
        self._pace = Pace(self._context, self._objects, self._pursuits)
        self._settled = False
        self._division = Division(self._context, self._pursuits)

    @property
    def ledger(self) -> Ledger:
        return self._context.ledger

    @property
    def peers(self) -> tuple[str, ...]:
        """Greeted peers."""
        return tuple(d for d, p in self._context.peers.items() if p.hello is not None)

    def lacks_wan(self, device: str) -> bool:
        """Whether a peer has said that it has no WAN just now."""
        peer = self._context.peers.get(device)
        return peer is not None and peer.hello is not None and not peer.hello.wan

    @property
    def settled(self) -> bool:
        return self._context.settled

    def status(self, image: Digest) -> ImageStatus | None:
        """How far an image is, for people."""
        pursuit = self._pursuits.get(image)
        if pursuit is None:
            return None
        state = pursuit.image
        if state.complete:
            role = "complete"
        elif pursuit.gateway.active or self._context.device in state.site.gateways:
            role = "gateway" if any(True for _ in self._context.remotes(image)) else "alone"
        else:
            role = "rider"
        site = state.site
        return ImageStatus(image, role, state.left, state.task.size, site.plan.pack, site.gateways)

    def all_complete(self, image: Digest) -> bool:
        """Whether every peer that takes part in the image is done with it."""
        remotes = self._context.remotes(image)
        return all(r.participant is not None and r.participant.complete for _, r in remotes)

    def all_begun(self, image: Digest) -> bool:
        """Whether every peer takes part in the image; one that does not may be about to."""
        return len(self._context.remotes(image)) == len(self._context.peers)

    def fetched(self, image: Digest) -> bool:
        """Whether any of it came over this node's WAN."""
        pursuit = self._pursuits.get(image)
        return pursuit is not None and pursuit.image.fetched

    def needed(self, image: Digest) -> bool:
        """Whether a peer is being answered, or lacks a piece that nobody else is known to have."""
        if any(peer.serving for peer in self._context.peers.values()):
            return True
        pursuit = self._pursuits.get(image)
        return pursuit is not None and pursuit.image.sole_holder

    def asks_at(self, asked_at: float, pause_s: float, jitter: float, now: float) -> float:
        """When this device asks the origin itself, as far as is known `now` (`Lookout.due`)."""
        return self._lookout.due(asked_at, pause_s, jitter, now)

    @property
    def told_of_origin(self) -> bool:
        """Whether this node knows when the origin was asked last, by itself or by a peer."""
        return self._lookout.told

    @property
    def speaks_for_itself(self) -> bool:
        """Whether this device has nobody who could hand in its reports, or is the one that does so.

        One without a WAN never does: its reports wait for a carrier.
        """
        return not (self._context.isolated or self._lookout.speakers())

    def holds(self, digest: Digest) -> bool:
        """Whether a small object is at hand, so that a peer that asks gets it at once."""
        return self._objects.holds(digest)

    def deadline(self) -> float | None:
        """When `Tick` is due at the latest; None while only events can change anything."""
        earliest = math.inf if (at := self._pace.due_at) is None else at
        for pursuit in self._pursuits.all:
            image = pursuit.image
            if (due := image.news.due_at) is not None and due < earliest:
                earliest = due
            if (due := image.hearsay.due_at) is not None and due < earliest:
                earliest = due
            site = image.site
            if (site.ready_at is None or site.waits) and (due := site.due_at) is not None and due < earliest:
                earliest = due
            if (making := pursuit.recomputing) is not None and making.due_at < earliest:
                earliest = making.due_at
        if self._fellows.due_at < earliest:
            earliest = self._fellows.due_at
        if not self._settled and self._pursuits.all and (due := self._context.settles_at) is not None:
            return min(due, earliest)
        return earliest if earliest < math.inf else None

    def handle(self, event: e.Event, now: float) -> list[e.Action]:
        """Take one event at time `now` (seconds, never going back); return what to do, in order."""
        context = self._context
        context.now = now
        actions: list[e.Action] = []
        context.actions = actions
        context.stirred = True
        if context.settle_until is None:
            context.settle_until = now + context.policy.settle_s
        if type(event) is e.Received:
            self._inbox.take(*event)
        else:
            self._dispatch(event)
        if context.stirred or context.closing:
            self._advance()
        else:  # more may be asked for, if there is more and somebody may be asked
            for pursuit in self._pursuits.all:
                if pursuit.image.wanted.due or pursuit.rider.hungry:
                    pursuit.rider.step()
        return actions

    # Events

    def _dispatch(self, event: e.Event) -> None:
        context = self._context
        match event:
            case e.Tick():
                pass
            case e.Stored():
                if pursuit := self._pursuits.get(event.image):
                    pursuit.image.stored(event)
                    if event.how in (e.How.PEER, e.How.DELTA):
                        pursuit.gateway.progressed_by_peer()
                        context.stirred = not pursuit.image.left
                    elif event.how is e.How.WAN:
                        pursuit.gateway.progressed_by_wan(event.pack, event.pieces)
            case e.PieceSent():
                self._on_piece_sent(event)
            case e.FetchProgress():
                for pursuit in self._pursuits:
                    pursuit.gateway.on_progress(event.fetch, event.size)
            case e.FetchEnded():
                self._on_fetch_ended(event)
            case e.RemnantsLost():
                context.ledger.in_vain(event.size)
            case e.PeerConnected():
                self._on_connected(event)
            case e.PeerLost():
                if event.banned and (peer := context.peers.get(event.device)) is not None:
                    peer.parted_for = "protocol"
                self._on_lost(event.device, event.begun)
            case e.Expect():
                out = context.barred | {context.device}
                context.expected = {d: image for d, image in event.devices.items() if d not in out}
                context.whole = event.whole
                self._pursuits.changed()
            case e.Barred():
                context.bar(event.devices)
                self._uplinks.barred(event.devices)
                for pursuit in self._pursuits:
                    pursuit.image.hearsay.drop_barred()
                    pursuit.image.site.await_no_more(event.devices)
                self._pursuits.changed()
            case e.WanChanged():
                context.wan, context.reachable = event.up and not event.closed, event.up
                for pursuit in self._pursuits:
                    pursuit.image.announce()
                    pursuit.gateway.wan_changed(context.wan)
            case e.WanUsed():
                self._uplinks.used(event)
            case e.WeightChanged():
                context.weight = event.weight
                for pursuit in self._pursuits:
                    pursuit.image.announce()
                    pursuit.gateway.dirty = True
            case e.WantObject():
                self._objects.want(event.digest, event.size, for_agent=True)
            case e.HoldObject():
                self._objects.hold(event.digest, event.data)
            case e.ObjectFetched():
                self._objects.fetched(event.digest, event.data)
                if event.data is None:
                    for pursuit in self._pursuits:
                        pursuit.gateway.object_failed(event.digest)
            case e.HoldMetadata():
                self._objects.hold_metadata(event.name, event.version, event.data)
                if event.name == "timestamp.json":
                    self._lookout.trusts(event.version)
            case e.OriginAnswered():
                self._lookout.answered()
                self._relay.moved()
            case e.HandsIn():
                self._relay.hands_in(event)
            case e.ReportMade():
                self._relay.made(event)
            case e.ReportWithdrawn():
                self._relay.withdrawn(event)
            case e.ReportHandedIn():
                self._relay.handed_in(event)
            case e.AskMetadata():
                self._objects.ask_metadata(event.device, event.name)
            case e.Received():
                raise AssertionError("messages are the inbox's")
            case _:
                self._on_image_event(event)

    def _on_fetch_ended(self, event: e.FetchEnded) -> None:
        for pursuit in self._pursuits:
            if pursuit.gateway.owns(event.fetch):
                pursuit.gateway.on_ended(event.fetch, event.error, event.wasted)
                return
        self._context.ledger.in_vain(event.wasted)  # its image was dropped meanwhile

    def _on_image_event(self, event: e.Pursue | e.Offer | e.Drop | e.Rejected | e.ImageEvent) -> None:
        match event:
            case e.Pursue():
                pursuit = self._pursuits.take_up(event.task, complete=False)
                pursuit.image.resume(event.done)
                pursuit.image.announce()
            case e.Offer():
                offered = self._pursuits.take_up(event.task, complete=True)
                offered.image.announce()
                if offered.making is not None:
                    offered.making.tell()
            case e.Drop():
                if event.image in self._pursuits:
                    self._fellows.over(event.image)
                    self._pursuits.put_down(event.image)
                    self._context.broadcast(m.Leave(event.image))
            case e.Rejected():
                found = self._pursuits.get(event.image)
                if found is None or not found.rider.on_rejected((event.pack, event.piece)):
                    self._context.ban(event.source, event.reason)
            case _:
                if found := self._pursuits.get(event.image):
                    found.happened(event)

    def _on_connected(self, event: e.PeerConnected) -> None:
        context, device = self._context, event.device
        self._on_lost(device)
        context.peers[device] = peer = Peer(device, context.now, event.host, event.carrier)
        if event.carrier:
            context.carriers[device] = peer
        context.send(device, m.Hello(PROTOCOL, context.site, self.port, context.wan))
        context.send(device, self._objects.news())
        self._lookout.greet(device)
        for pursuit in self._pursuits:
            pursuit.greet(device)
        self._pursuits.changed()

    def _on_lost(self, device: str, begun: Begun | None = None) -> None:
        context = self._context
        peer = context.peers.pop(device, None)
        if peer is None:
            return
        context.carriers.pop(device, None)
        for image, remote in peer.images.items():
            context.exit(image, device)
            if pursuit := self._pursuits.get(image):
                pursuit.image.left_by(peer, remote)
            elif remote.participant is not None and remote.participant.complete and not peer.at_fault:
                context.departed.note(image, device, context.now)
        self._objects.peer_lost(peer)
        self._lookout.lost(device)
        self._relay.lost(device)
        self._uplinks.lost(device)
        if device in context.closing:
            context.closing.remove(device)
        for pursuit in self._pursuits:
            pursuit.rider.peer_lost(peer, begun)
            if pursuit.asking is not None:
                pursuit.asking.peer_lost(device)
            pursuit.image.hearsay.forget(device)
            pursuit.gateway.dirty = True
            pursuit.image.about(device)
            pursuit.image.replan |= not context.peers

    def _on_piece_sent(self, event: e.PieceSent) -> None:
        self._context.stirred = False
        peer = self._context.peers.get(event.device)
        if peer is not None:
            peer.serving = max(0, peer.serving - 1)
            peer.served_at = self._context.now
        if event.size:
            self._context.ledger.to_peer(event.device, event.size)

    # After every event that may change what this node does

    def _advance(self) -> None:
        context, objects, now = self._context, self._objects, self._context.now
        if context.closing:
            self._part()
        if due := self._pace.is_due:
            self._housekeep()
        if not self._settled and context.settled:
            self._settled = True
            self._pursuits.changed()
        if now >= self._fellows.due_at:
            self._fellows.step(self._pursuits.get)
        if objects.busy:
            objects.step()
        for pursuit in self._pursuits.all:
            if objects.ready:
                self._deliver_indexes()
            image, gateway, rider = pursuit.image, pursuit.gateway, pursuit.rider
            before = image.site.gateways
            image.step()
            if objects.ready:  # this device had the index itself
                self._deliver_indexes()
            if image.site.gateways is not before:
                gateway.dirty = True
            if gateway.dirty:
                gateway.step()
            asking = pursuit.asking
            if asking is not None and (asking.due or asking.route != image.route) and asking.step():
                gateway.waited_in_vain()
            if image.wanted.due or rider.hungry:
                rider.step()
            if pursuit.recomputing is not None:
                pursuit.recomputing.step()
            if (told_at := image.news.due_at) is not None and now >= told_at:
                image.flush()
        if objects.busy:
            objects.step()
        if context.closing:
            self._part()
        if context.divides:
            self._division.step()
        if due or self._pace.due_at is None:
            self._pace.go_on()

    def _part(self) -> None:
        """Peers that we part with are gone at once, whenever their connection ends."""
        closing, self._context.closing = self._context.closing, []
        for device in closing:
            self._on_lost(device)

    def _deliver_indexes(self) -> None:
        ready, self._objects.ready = self._objects.ready, []
        for digest, data in ready:
            for pursuit in self._pursuits:
                pursuit.image.index_ready(digest, data)
                pursuit.gateway.dirty = True

    def _housekeep(self) -> None:
        for pursuit in self._pursuits:
            pursuit.image.housekeeping()
            pursuit.rider.housekeeping()
            if pursuit.asking is not None:
                pursuit.asking.housekeeping()
            pursuit.gateway.housekeeping()
            pursuit.gateway.dirty = True
        self._objects.housekeeping()
