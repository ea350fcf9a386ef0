"""One image at one node: what is done, what is served, and along which route.

This is the state that `gateway` (what to fetch over the WAN) and `rider` (what to ask peers for)
decide from; who else is at the image, and the plan that follows, is in `site_view`. A node works along
one **route** at a time, a pack whose index it holds: its own delta pack where the site's plan or a peer
provides that, else the full pack. Progress is kept in target bytes, so a change of route loses nothing.
What turned out to be wrong is `mending`'s: it comes from the full pack, whatever the route.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm import messages as m
from p2p.swarm.announcements import Announcements
from p2p.swarm.context import Context
from p2p.swarm.cost import patches_pay
from p2p.swarm.events import How, ImageTask, Route, Stored
from p2p.swarm.hearsay import Hearsay
from p2p.swarm.holders import Holders
from p2p.swarm.indexes import Indexes
from p2p.swarm.mending import Mending
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.peer import TRICKLE, Peer, RemoteImage
from p2p.swarm.plan import Participant
from p2p.swarm.site_view import SiteView
from p2p.swarm.wanted import Wanted
from p2p.swarm.wire import unpack_bitmap

REPLAN_S = 8.0
"""The plan is made anew this often, for what follows from time alone."""

INCUMBENT_S = 1.0
"""In a large site others take a gateway for one for a while after its fetch; so long it does so itself."""


class ImageSwarm:
    """State of one image; `step` keeps plan, route and announcements up to date."""

    def __init__(
        self, context: Context, objects: ObjectExchange, task: ImageTask, *, complete: bool = False
    ) -> None:
        self.context = context
        self.task = task
        self.complete = complete
        self.fetched = False
        self.done = IntervalSet([(0, task.size)] if complete else [])
        self.left = 0 if complete else task.size
        self.mending = Mending(self)
        self.serves: dict[Digest, set[int]] = {}
        self.given: dict[Digest, set[int]] = {}
        self.troubled: dict[str, None] = {}
        self.lessors: dict[str, Peer] = {}
        self.last_progress = context.now
        self._arriving_since: float | None = None
        self.hearsay = Hearsay(context, task.image)
        self.site = SiteView(context, task, self.hearsay, known=complete)
        self.indexes = Indexes(context, objects, task, self.site, self.hearsay)
        self.maps = self.hearsay.maps = self.indexes.maps
        self.holders = Holders(self.maps)
        self.wanted = Wanted(
            context, task, maps=self.maps, done=self.done, repair=self.mending.ranges, holders=self.holders
        )
        self.replan = True
        self.stale = False
        self.planned_at = context.now
        self.wan_blocked_until = 0.0
        self.news = Announcements(context, task.image, self.holders)
        self._announced_wan = self.wan
        self._brought: Digest | None = None
        self._brought_at = -math.inf
        self._forsaken = False

    # What others should know

    @property
    def wan(self) -> bool:
        """Whether this node offers itself as a gateway for this image."""
        return self.context.wan and self.context.now >= self.wan_blocked_until

    @property
    def route(self) -> Digest | None:
        """The pack along which this node works, by its index; None before the first."""
        return self.wanted.route

    @property
    def participant(self) -> Participant:
        """This node, as it takes part."""
        context = self.context
        return Participant(context.device, self.task.base, self.wan, context.weight, self.complete)

    def join_message(self) -> m.Join:
        return m.Join(self.task.image, self.task.base, self.wan, self.context.weight, self.complete)

    def greet(self, device: str) -> None:
        """Tell one peer all about this image; the `Join` comes last, so that it knows the rest by then."""
        self.tell_haves(device)
        self.context.send(device, self.join_message())

    def tell_haves(self, device: str) -> None:
        """All that this node serves, to one peer (only news of it is told from then on).

        Also of packs of which it serves nothing yet: who holds an index can be asked for it, and who does
        not is told of how many pieces the pack is, to know how far the site is with it.
        """
        peer = self.context.peers.get(device)
        if peer is not None:
            for pack, pieces in self.serves.items():
                told = [(peer, self.remote(peer))]
                self.news.tell_all(pack, pieces, len(self.maps[pack]), told)

    def announce(self) -> None:
        """Tell everybody that something of the `Join` changed."""
        self.replan = True
        self._announced_wan = self.wan
        if self.fetched:  # whoever is a gateway in this node's place knows first what need not be fetched
            self.news.tell_now(p.device for p in self.site.first)
        self.context.broadcast(self.join_message())

    def flush(self, *, at_once: bool = False) -> None:
        """Send gathered news of pieces when it is due."""
        self.news.step(self.site.gateways, at_once=at_once)

    def tell_all(self, pack: Digest) -> None:
        """What this node serves of a pack changed by more than news."""
        everybody = self.context.remotes(self.task.image)
        self.news.tell_all(pack, self.serves[pack], len(self.maps[pack]), everybody)

    @property
    def sole_holder(self) -> bool:
        """Whether somebody who is not done may want a piece that no peer is known to have or was given."""
        lacking = [p for _, r in self.context.remotes(self.task.image) if (p := r.participant) is not None]
        full = self.task.full_pack
        wanted = {(self.task.pack_for(p.base) or full).index.sha256 for p in lacking if not p.complete}
        if any(not self.serves.get(name) for name in wanted):
            wanted.add(full.index.sha256)
        return any(
            not self.holders.count((name, n))
            for name in wanted
            for n in self.serves.get(name, set()) - self.given.get(name, set())
        )

    # Plan and route

    def step(self) -> None:
        """Bring plan, indexes and the list of wanted pieces up to date."""
        now = self.context.now
        if self.wan_blocked_until and self.wan != self._announced_wan and not self.complete:
            self.announce()
        if self.hearsay.due_at is not None and now >= self.hearsay.due_at:
            if not self.site.ready:
                self._make_plan()
            self.hearsay.tell(self.site.first)
        if self.site.waits and now >= self.site.waits_until:
            self.replan = True
        if self.replan and self.site.ready:
            self.plan_anew()
        if not (self.left or self.complete):
            self.mending.read_back()

    def plan_anew(self) -> None:
        """Who fetches what for the site, and along which pack this node works."""
        self.replan = self.stale = False
        self.planned_at = self.context.now
        self._make_plan()
        if not (self.complete or self.site.waits or self.wanted.filling):
            self._follow(self._choose_route())
        if self._full_index_needed():
            self.indexes.need(self.task.full_pack)

    def _make_plan(self) -> None:
        busy = self.hearsay.fetching()
        busy |= {peer.device: lease.pack for peer, r in self.leasing() for lease in r.leases.values()}
        if self.wanted.fetching:
            busy[self.context.device] = self.wanted.fetched_pack
        elif self.hearsay.since is not None and self.context.now - self._brought_at < INCUMBENT_S:
            busy[self.context.device] = self._brought
        before = self.site.first
        asking = bool(self.wanted.in_flight)
        self.site.renew(
            self.participant, self.maps, self.serves, busy, self.last_progress,
            asking=asking, left_alone=self.wanted.left_alone,
        )  # fmt: skip
        if self.site.first != before:
            self.hearsay.touch()

    def heard_of(self, peer: Peer, message: m.Hearsay) -> bool:
        """Others are told of; whether that may change what this node does."""
        if not self.hearsay.heard(peer, message):
            self.context.stirred = False
            return False
        self.about(self.context.device)
        return self.replan

    def about(self, device: str, *, urgent: bool = False) -> None:
        """A device is not what it was: if it fetches for the site, a new plan cannot wait."""
        self.stale = True
        self.replan |= urgent or device in self.site.gateways

    def housekeeping(self) -> None:
        """Plan anew if something has changed, and now and then because time passes."""
        self.hearsay.refresh()
        old = self.context.now - self.planned_at >= REPLAN_S
        if self.stale or self.route is None or self.site.waits or old:
            self.replan = True

    def _choose_route(self) -> PackRef:
        task = self.task
        own = task.pack_for(task.base) if task.base is not None else None
        planned = self.site.plan.pack
        if planned is not None:
            usable = planned.base is None or planned.base == task.base
            return planned if usable else task.full_pack
        chunks = task.full_pack.index.sha256 in self.maps
        pays = own is not None and patches_pay(own.frames.size, task.size, self.context.policy.cost)
        if own is not None and (pays or not chunks):
            name = own.index.sha256
            remotes = [r for _, r in self.context.remotes(task.image)]
            others = any(r.participant and r.participant.complete and not r.count(name) for r in remotes)
            claimed = any(r.count(name) for r in remotes)
            if claimed and others and self.context.now - self.last_progress > self.context.policy.fallback_s:
                self._forsaken = True  # those who say that they have patches give none; others have the image
            if self._forsaken:
                self.indexes.need(task.full_pack)
                if chunks:
                    return task.full_pack
            if any(r.has_all(name) for r in remotes):
                return own
            if name in self.maps and all(self.holders.count(k) for k in self.wanted.missing(name)):
                return own
            if any(r.participant is not None and r.participant.complete and r.count(name) for r in remotes):
                self.indexes.need(own)  # patches are being made anew, by more than one perhaps
        return task.full_pack

    def _follow(self, pack: PackRef) -> None:
        name = pack.index.sha256
        if name not in self.maps:
            if self.site.plan.pack is not None or self.context.remotes(self.task.image):
                self.indexes.need(pack)  # while nobody is here to give pieces of it, it is of no use
            if self.route is not None:
                return  # keep to the route that we have until the index is here
        elif self.route != name:
            self.wanted.follow(name)

    @property
    def carries(self) -> bool:
        """Whether this node will serve sites without a WAN, and can get now what it lacks for that."""
        context = self.context
        return context.carrier and context.wan and self.task.full_pack.index.sha256 not in self.maps

    def _full_index_needed(self) -> bool:
        """Whether somebody (or our own repair) can only be served by chunks of the full pack."""
        if self.task.full_pack.index.sha256 in self.maps:
            return False
        if len(self.mending.ranges) or self.mending.rechecking or self.carries:
            return True
        mine = {self.task.base} if self._serves_own_kind() else set()
        if self.left == self.task.size:
            return False
        return any(
            r.participant is not None and not r.participant.complete and r.participant.base not in mine
            for _, r in self.context.remotes(self.task.image)
        )

    def index_of_use(self, name: Digest) -> None:
        """A peer wants (or has) the full pack's index: if patches do not do for it, it asks for chunks."""
        full = self.task.full_pack
        if name == full.index.sha256 and self.left != self.task.size:
            self.indexes.need(full)

    def _serves_own_kind(self) -> bool:
        """Whether nodes of the same base get, or will get, all that they need as patches."""
        if self.route is None or self.route == self.task.full_pack.index.sha256:
            return False
        return not self.complete or len(self.serves[self.route]) == len(self.maps[self.route])

    def index_ready(self, name: Digest, data: bytes) -> None:
        """An index arrived. One that does not fit its manifest is as good as absent."""
        pieces = self.indexes.opened(name, data)
        if pieces is None:
            return
        self.serves[name] = set(self.chunks_done(pieces)) if self.done else set()
        self._check_claims(name, pieces)
        self.context.actions.append(Route(self.task.image, name, pieces.index))
        self.tell_all(name)
        if pieces.index.base is None:
            self.mending.full_index_ready()
        self.replan = True
        self.wanted.renew()

    def chunks_done(self, pieces: PieceMap) -> Iterator[int]:
        return (p.number for p in pieces.pieces if not p.is_patch and self.wanted.is_done(p))

    def _check_claims(self, name: Digest, pieces: PieceMap) -> None:
        """What peers said of a pack before its index was known can be judged now."""
        for peer in list(self.context.peers.values()):
            remote = peer.images.get(self.task.image)
            if remote is None:
                continue
            bitmap = peer.unclaim(remote, name)
            if bitmap is not None:
                claimed = unpack_bitmap(bitmap, 8 * len(bitmap))
                self.heard(peer, remote, name, claimed, total=remote.totals.get(name))
            for lease in remote.leases.values():
                if lease.pack != name:
                    continue
                if not self.indexes.lease_fits(name, lease.start, lease.stop):
                    self.context.ban(peer.device, "bad-lease")
                lease.stop = self.indexes.run_stop(name, lease.start, lease.stop)

    # Peers

    def entered(self, peer: Peer, remote: RemoteImage) -> None:
        """A peer takes part from now on."""
        self.site.entered_by(peer.device)
        if remote.distrusted or remote.late:
            self.troubled[peer.device] = None
        if not remote.distrusted:
            self.holders.admit(remote)
        self.hearsay.touch()
        self.wanted.find_useful(peer, remote)

    def leasing(self) -> Iterator[tuple[Peer, RemoteImage]]:
        """Peers that hold leases."""
        members = self.context.members(self.task.image)
        for device, peer in list(self.lessors.items()):
            found = members.get(device)
            if self.context.peers.get(device) is not peer or (found is not None and not found[1].leases):
                del self.lessors[device]
            elif found is not None:
                yield found

    def remote(self, peer: Peer) -> RemoteImage:
        """The record of a peer, with how the device kept its promises over earlier connections."""
        found = peer.images.get(self.task.image)
        if found is None:
            found = peer.image(self.task.image)
            found.conduct = self.site.conduct(peer.device)
        return found

    def left_by(self, peer: Peer, remote: RemoteImage) -> None:
        """A peer is gone, or takes part no more."""
        self.site.left_by(peer, remote)
        self.holders.dismiss(remote)

    def heard(
        self, peer: Peer, remote: RemoteImage, pack: Digest, pieces: Collection[int], total: int | None
    ) -> Sequence[int]:
        """A peer serves pieces (of `total`, if it said so); returns those that are new."""
        count = len(self.maps[pack].pieces)
        if (total is not None and total != count) or (pieces and max(pieces) >= count):
            self.context.ban(peer.device, "bad-have")
            return ()
        marks = remote.haves.get(pack)
        new = [n for n in pieces if not marks[n]] if marks is not None else list(pieces)
        if remote.late:
            new = [n for n in new if (pack, n) not in remote.late]
        remote.totals[pack] = count
        self.holders.gained(remote, pack, new)
        if new and self.wanted.open:
            self.wanted.offered(peer, remote, [(pack, n) for n in new])
        return new

    # Progress

    def resume(self, ranges: tuple[tuple[int, int], ...]) -> None:
        """Ranges that an earlier run verified."""
        for start, stop in ranges:
            new = self.done.add(start, stop)
            self.left -= new
            self.context.ledger.resumed += new

    def stored(self, event: Stored) -> None:
        """Verified bytes are in the slot; of a pack whose index is not here (yet), they are no pieces."""
        now, wanted, start, stop = self.context.now, self.wanted, event.start, event.stop
        self.last_progress = now
        self._arriving_since = None
        if event.how is How.WAN:
            self.fetched = True
            self._brought, self._brought_at = event.pack, now
        if event.device is not None:
            conduct = self.site.conduct(event.device)
            conduct.complete_at = conduct.gave_at = now
        new = self.done.add(start, stop)
        self.left -= new
        pieces = self.maps.get(event.pack) if event.pack is not None else None
        received = 0
        if event.pack is not None:
            received = wanted.stored(event.pack, event.pieces)
            if event.kept and pieces is not None:
                for n in event.pieces:
                    self.serve(event.pack, n)
        self.context.ledger.made(event, new, pieces, received)
        for name, pieces in self.maps.items():
            for n in pieces.overlapping(start, stop):
                piece = pieces.pieces[n]
                inside = start <= piece.target_offset and piece.target_stop <= stop
                if inside or wanted.is_done(piece):
                    wanted.open.pop((name, n), None)
                    if not piece.is_patch:
                        self.serve(name, n)

    def arriving(self, size: int) -> None:
        """Parts of `size` bytes have come. That is progress for as long as one piece may take, whoever sends
        them: what begins again and again, and never is whole, is none.
        """
        if self._arriving_since is None:
            self._arriving_since = self.context.now
        if not self.is_overdue(size):
            self.last_progress = self.context.now

    def is_overdue(self, size: int) -> bool:
        """Whether parts have come for longer than a piece of `size` may take, and no piece."""
        since = self._arriving_since
        return since is not None and self.context.now - since > self.context.policy.request_s + size / TRICKLE

    def serve(self, pack: Digest, number: int) -> None:
        """A piece is at hand for peers."""
        serves = self.serves.get(pack)
        if serves is None:
            serves = self.serves[pack] = set()
        if number not in serves:
            serves.add(number)
            self.news.add(pack, number)

    def verified(self) -> None:
        """The whole image is right."""
        self.complete, self.mending.reading_back = True, False
        self.wanted.open.clear()
        self.flush(at_once=True)  # who hears that it is complete must know that it has all patches too
        self.announce()
