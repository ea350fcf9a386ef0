"""What a node fetches over the WAN for its site.

Gateways say what they fetch by leases; which frames those are is for `choice` to say. Correctness never
depends on any of this: a node that sees no progress for long serves itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.choice import CONFLICT_S, Choice, target_of
from p2p.swarm.context import Context
from p2p.swarm.events import CancelFetch, Fetch
from p2p.swarm.image import ImageSwarm
from p2p.swarm.leases import RENEWALS, Leases
from p2p.swarm.peer import Peer, PieceKey, RemoteImage
from p2p.swarm.plan import rank
from p2p.swarm.solitude import Solitude
from p2p.swarm.wan_rate import WanRate

CONFLICT_FAR_S, YIELDS_MAX = 3.0, 4
"""As `CONFLICT_S` for those that know each other by hearsay; so often are claims yielded to."""

UNJUDGED = 4
"""Leases on packs whose frames are unknown are given so many times the usual time to bring something."""

BACKOFF_S = (1.0, 60.0)
"""First and longest pause after a fetch that failed."""

SPARES_MAX = 8
"""How many more gateways than usual a site has where nothing comes of those that there are."""

BREAK_S, ALIVE_S = 0.5, 1.5
"""The pause after a fetch that broke off while bytes came: within the last few moments before."""


@dataclass(slots=True)
class _Running:
    """A fetch. `came`: bytes that are here of frames that are not whole; `told`: when, and `told_came` of how
    many, the others were told last."""

    pack: Digest
    start: int
    stop: int
    lease: int
    since: float
    alive: float
    told: float
    came: int
    told_came: int
    moved: bool = False
    cancelled: bool = False
    keys: list[PieceKey] = field(default_factory=list)


class Gateway:
    """The WAN side of one image at one node."""

    def __init__(self, image: ImageSwarm, numbers: Iterator[int]) -> None:
        self._image = image
        self._context: Context = image.context
        self._numbers = numbers
        self._rate = WanRate(image.context)
        self._leases = Leases(image, self._rate)
        self._running: dict[int, _Running] = {}
        self._failures = 0
        self._alone = Solitude(1 + image.context.rng.random())
        self._choice = Choice(image, self._leases, self._alone, self._running)
        self._frame_at = 0.0
        self._frame_s: float | None = None
        self._yielded = 0
        self._encouraged = False
        self._moved_at = -math.inf
        self._resume_at = -math.inf
        self._told_at = -math.inf
        self._broken = False
        self.dirty = True

    @property
    def active(self) -> bool:
        return bool(self._running)

    def owns(self, fetch: int) -> bool:
        return fetch in self._running

    def fetchers(self) -> Iterator[str]:
        """The other devices that fetch over the site's WAN, as they say and as others tell of them.

        A connected one has a certificate, and its leases end when nothing comes of them. Others may be
        invented by whoever tells of them: of those no more count than the plan has as gateways.
        """
        yield from self._leases.holders()
        yield from self._leases.beginning()
        gateways = self._image.site.gateways
        for far in self._image.hearsay.known():
            if far.leases and not far.participant.complete and far.participant.device in gateways:
                yield far.participant.device

    def step(self) -> None:
        """Start as many fetches as are due."""
        image, context = self._image, self._context
        if image.complete or not context.wan or not image.site.ready:
            return
        progress_at = max(image.last_progress, image.site.awaits_until)
        if context.now - progress_at > context.policy.fallback_s:
            self.dirty |= self._alone.is_due(context.now, progress_at, self._deadline_s())
        if not self.dirty or context.now < max(image.wan_blocked_until, self._resume_at):
            return
        self._give_way()
        while len(self._running) < self._fetches_max():
            run = self._choice.next_run()
            if run is None:
                self.dirty = False
                return
            self._start(*run)

    def _give_way(self) -> None:
        """End what is fetched of a pack that is not the site's any more; what came of it is kept."""
        late = self._passed_over()
        if not late:
            return
        news = [running for running in late.values() if running.came != running.told_came]
        if news:  # the plan is of what the others know as well
            for running in news:
                self._tell(running)
            self._image.plan_anew()
            late = self._passed_over()
        for number, running in late.items():
            self._cancel(number, running)

    def _passed_over(self) -> dict[int, _Running]:
        """What is fetched of another pack than the plan's, and for the site."""
        image, plan = self._image, self._image.site.plan.pack
        if plan is None or self._alone:
            return {}
        repaired = image.task.full_pack.index.sha256 if len(image.mending.ranges) else None
        site = plan.index.sha256, repaired
        return {n: r for n, r in self._running.items() if r.pack not in site and not r.cancelled}

    def progressed_by_peer(self) -> None:
        """A peer delivers again, so this node need not serve itself."""
        self._alone.over()

    def progressed_by_wan(self, pack: Digest | None, pieces: Collection[int]) -> None:
        """A frame of ours is whole: that is how long one takes, and who fetches for the site is not alone."""
        now = self._context.now
        maps = self._image.maps
        frame = maps[pack][min(pieces)].frame if pack in maps and pieces else -1
        for running in self._running.values():
            if running.pack == pack and running.start <= frame < running.stop:
                size = maps[pack].index.frames[frame].stored_size
                running.came, running.told_came = max(0, running.came - size), 0
        self._note_told()
        if self._context.device in self._image.site.gateways:
            self._alone.over()
        self._alone.wan_delivers()
        self._frame_s, self._frame_at = now - self._frame_at, now
        self._moved_at, self._broken = now, False
        self._encouraged = False
        self.dirty = True

    def _fetches_max(self) -> int:
        """One fetch until frames are known to come quickly: on a thin link, more only delay the first.

        And one after a fetch that failed, until bytes come again: one request is enough to find out.
        """
        policy = self._context.policy
        quick = self._frame_s is not None and self._frame_s <= policy.stall_s / 2
        return policy.fetches_max if quick and not self._broken else 1

    def _deadline_s(self) -> float:
        """How long this node goes without progress. A frame that somebody fetches may take its time.

        It cannot know how large the frames are of a pack for other bases.
        """
        maps, patience, fallback_s = self._image.maps, self._leases.patience, self._context.policy.fallback_s
        spans = [(x.pack, x.start, x.stop) for x in self._leases]
        for far in self._image.hearsay.known():
            spans += [(far.pack, *x) for x in far.leases if far.pack is not None]
        times = [patience(*x) if x[0] in maps else UNJUDGED * fallback_s for x in spans]
        return max([fallback_s, *times])

    def housekeeping(self) -> None:
        """End what stalls: others' leases and our own fetches."""
        context, policy = self._context, self._context.policy
        if self._leases.stalled():
            # Others take over, so there is no need yet to fetch alone: all would, and at the same moment.
            self._alone.lease_stalled(context.now, self._image.last_progress)
            self.dirty = self._image.replan = True
        for number, running in self._running.items():
            if context.now - running.alive > policy.stall_s and not running.cancelled:
                self._cancel(number, running)
        self._doubt_hearsay()
        self._call_spares()

    def _call_spares(self) -> None:
        """Who holds leases may be slow, or fetch nothing: what nobody holds is fetched by others meanwhile.

        Then it shows how quickly frames come here, and for how long the others are to be believed. Spares of
        whose fetches bytes come are enough: on a thin link each one more makes all of them slower.
        """
        site, now = self._image.site, self._context.now
        since = max(self._image.last_progress, self._leases.brought_at, site.ready_at or now)
        spare = min(SPARES_MAX, int((now - since) / self._context.policy.fallback_s))
        if spare and not (self._rate.unknown and self._leases.leave_some(site.plan.pack)):
            spare = 0
        moving = self._leases.moving() if spare else frozenset[str]()
        if (spare, moving) != (site.spare, site.moving):
            site.spare, site.moving = spare, moving
            self.dirty = self._image.replan = True

    def _doubt_hearsay(self) -> None:
        """What is told of far devices holds only while something comes of it."""
        image, policy = self._image, self._context.policy
        ready_at = image.site.ready_at
        if image.hearsay.since is None or ready_at is None or image.complete:
            return
        moved_at = max(image.hearsay.begun_at, ready_at, image.last_progress)
        idle_s, comes_s = self._context.now - moved_at, policy.stall_s + policy.object_s
        if idle_s <= comes_s:
            return
        patience = [self._leases.patience(x.pack, x.start, x.stop) for x in self._leases]
        most = policy.fallback_s if image.hearsay.doubts else math.inf
        held_up_by: dict[str, None] = {}
        for far in image.hearsay.known():
            who = far.participant
            leases = () if who.complete else (*far.leases, *far.passed)
            patience += [min(most, self._leases.patience(far.pack, *x)) for x in leases]
            if who.complete and not image.hearsay.doubts:  # what it was waited for may be on its way only now
                if self._told_at < moved_at:  # from the first who is told of; of others anyone can tell later
                    self._told_at = far.complete_at
                patience.append(self._told_at - moved_at + comes_s)
            if leases or who.complete or who.device in image.site.gateways:
                held_up_by[who.device] = None
        if held_up_by and idle_s <= max(patience, default=0.0):
            # Whatever is leased: whoever is complete is waited for no longer than if it were connected.
            late = self._context.now - max(moved_at, self._told_at) > 2 * policy.fallback_s
            far_off = [far.participant for far in image.hearsay.known()] if late else []
            held_up_by = {who.device: None for who in far_off if who.complete}
        if held_up_by:
            image.hearsay.doubt(held_up_by)
            self.dirty = image.replan = True

    # What others fetch

    def on_lease(self, peer: Peer, remote: RemoteImage, message: m.Lease) -> bool:
        """A peer says what it fetches; whether that is more than a sign of life."""
        if self._leases.renews(remote, message):
            return message.came > 0 and not remote.conduct.owes and self._others_move(message)
        self.dirty = True
        self._leases.end(peer, remote, message.slot)
        if self._leases.begin(peer, remote, message):
            self._settle_conflict(peer, message, greeting=remote.participant is None)
            if message.came and not remote.conduct.owes:
                self._others_move(message)
        return True

    def _others_move(self, lease: m.Lease) -> bool:
        """Bytes come to a peer; whether that changes what this node does."""
        was_alone = bool(self._alone)
        self._alone.others_move(self._context.now, self._image.last_progress)
        self._yield_to_more(lease)
        changed = self._has_more_than_moves(lease) or was_alone != bool(self._alone)
        self.dirty |= changed
        return changed

    def _has_more_than_moves(self, lease: m.Lease) -> bool:
        """Whether bytes come of a frame of which this node has kept more: it goes on with that itself."""
        if not self._choice.has_more(lease.pack, lease.start, lease.stop, lease.came):
            return False
        self._image.wan_blocked_until = min(self._image.wan_blocked_until, self._context.now)
        return True

    def _yield_to_more(self, lease: m.Lease) -> None:
        """A peer fetches the same frames, and has more of them by what each has told the other."""
        for number, running in self._running.items():
            same = lease.pack == running.pack and lease.start == running.start
            if same and lease.came > running.told_came and not (running.cancelled or self._alone):
                self._cancel(number, running)

    def renewed_by(self, device: str, remote: RemoteImage, pack: Digest, pieces: Collection[int]) -> None:
        """A peer serves pieces that it did not serve before."""
        brought = self._leases.renewed_by(device, remote, pack, pieces)
        if brought and self._choice.has_begun and not self._encouraged:
            # The WAN is there again: who has the beginning of a frame goes on with it before others do.
            self._encouraged = True
            soon = self._context.now + BACKOFF_S[0] * self._context.rng.random()
            self._image.wan_blocked_until = min(self._image.wan_blocked_until, soon)

    def greet(self, device: str) -> None:
        """Tell a newcomer what this node fetches, and as much of it as all others know."""
        for running in self._running.values():
            self._context.send(device, self._lease(running))

    def waited_in_vain(self) -> None:
        """This node held back from asking its peers, and does no more: they did not fail because of that."""
        self._alone.lease_stalled(self._context.now, self._image.last_progress)

    # Our own fetches

    def on_progress(self, fetch: int, size: int) -> None:
        running = self._running.get(fetch)
        if running is None:
            return
        now = self._context.now
        others_have_more = not running.moved and running.start in self._leases.begun(running.pack)
        running.alive, running.moved = now, True
        running.came += size
        self._rate.moved(size)
        self._moved_at, self._broken = now, False
        self._image.last_progress = now
        if others_have_more or now - running.told > self._context.policy.stall_s / RENEWALS:
            self._tell(running)

    def on_ended(self, fetch: int, error: str | None, wasted: int) -> None:
        running = self._running.pop(fetch)
        self._note_told()
        context, image = self._context, self._image
        context.ledger.in_vain(wasted)
        self.dirty = image.replan = True
        image.flush(at_once=True)  # what the lease brought must be known before it ends
        ended = m.Lease(image.task.image, running.pack, running.lease, 0, 0)
        self._broadcast(ended)
        unmade = [key for key in running.keys if image.wanted.fetching.pop(key, None) is not None]
        for key in unmade:
            image.wanted.again(key)
        if unmade and running.moved and error is not None:
            self._choice.note_begun(unmade[0], running.came)
        if error is None or (running.cancelled and context.now - running.alive <= context.policy.stall_s):
            if error is None:
                self._failures = 0
                frames = image.maps[running.pack].index.frames[running.start : running.stop]
                self._rate.fetched(sum(f.stored_size for f in frames), context.now - running.since)
            return
        self._broken = True
        if context.now - self._moved_at <= ALIVE_S:
            self._resume_at = context.now + BREAK_S * (0.5 + context.rng.random())
            return
        self._alone.wan_failed(context.now)
        self._failures += 1
        first, longest = BACKOFF_S
        pause = min(longest, first * 2 ** (self._failures - 1)) * (0.5 + context.rng.random())
        image.wan_blocked_until = context.now + pause
        image.announce()

    def object_failed(self, digest: Digest) -> None:
        """The origin does not give an object: if that is an index of ours, it is not the others who fail."""
        if any(pack.index.sha256 == digest for pack in self._image.task.packs):
            self._alone.wan_failed(self._context.now)

    def wan_changed(self, up: bool) -> None:
        """This node's link to the origin came or went, by its windows or where it is."""
        self.dirty = True
        self._alone.wan_changed(self._context.now)
        if not up:
            self.cancel_all()

    def _cancel(self, number: int, running: _Running) -> None:
        running.cancelled = True
        self._context.actions.append(CancelFetch(number))

    def cancel_all(self) -> None:
        for number, running in self._running.items():
            if not running.cancelled:
                self._cancel(number, running)

    def _start(self, pack: Digest, start: int, stop: int) -> None:
        context, image = self._context, self._image
        number = next(self._numbers)
        if not self._running:
            self._frame_at = context.now
            self._rate.began()
        used = {r.lease for r in self._running.values()}
        lease = next(n for n in range(16) if n not in used)
        now, came = context.now, self._choice.beginning(pack, start)
        running = _Running(pack, start, stop, lease, now, now, now, came, came)
        pieces = image.maps[pack]
        for frame in range(start, stop):
            for n in pieces.of_frame(frame):
                key = (pack, n)
                if not image.done.covers(*target_of(pieces, key)):
                    running.keys.append(key)
                    image.wanted.fetching[key] = number
                    image.wanted.open.pop(key, None)
        self._running[number] = running
        context.actions.append(Fetch(number, image.task.image, pack, start, stop))
        self._tell(running)

    def _settle_conflict(self, peer: Peer, message: m.Lease, *, greeting: bool) -> None:
        """Two leases on the same frames: both sides compute the same winner, the other yields.

        A lease that is part of a greeting was there before the two knew each other, so the newcomer yields.
        But who has more of a frame goes on with it (`_yield_to_more`).
        """
        now = self._context.now
        word_s = max(CONFLICT_S, peer.word_took(now, self._context.policy))
        for number, running in self._running.items():
            overlap = message.pack == running.pack and message.start < running.stop
            young = now - running.since <= word_s
            if running.cancelled or not overlap or message.stop <= running.start or not young:
                continue
            if message.start == running.start and message.came != running.told_came:
                continue
            if self._alone and not self._alone.defers_to(peer.device, now):
                continue
            key = running.pack + max(message.start, running.start).to_bytes(8, "big")
            if greeting or rank(key, {peer.device: 100, self._context.device: 100})[0] == peer.device:
                self._cancel(number, running)

    def yield_to_far(self) -> None:
        """A far device fetches the same: both find the same winner, the other cancels, now and then."""
        now, hearsay = self._context.now, self._image.hearsay
        for number, running in self._running.items():
            if (
                running.cancelled
                or self._alone
                or now - running.since > CONFLICT_FAR_S
                or self._yielded >= YIELDS_MAX
            ):
                continue
            for far in hearsay.known():
                if far.pack != running.pack:
                    continue
                for start, stop in far.leases:
                    key = running.pack + max(start, running.start).to_bytes(8, "big")
                    other = far.participant.device
                    if start < running.stop and running.start < stop and not running.cancelled and (
                        rank(key, {other: 100, self._context.device: 100})[0] == other
                    ):  # fmt: skip
                        self._cancel(number, running)
                        self._yielded += 1

    def _tell(self, running: _Running) -> None:
        """Everybody who is at the image hears what is fetched, and how much of it is here."""
        running.told, running.told_came = self._context.now, running.came
        self._note_told()
        self._broadcast(self._lease(running))

    def _broadcast(self, lease: m.Lease) -> None:
        """To those at the image; where the site's WAN is divided, to all: it is, whatever they fetch."""
        self._context.broadcast(lease, None if self._context.divides else lease.image)

    def _note_told(self) -> None:
        self._image.site.coming = [(r.pack, r.told_came) for r in self._running.values()]

    def _lease(self, running: _Running) -> m.Lease:
        came = min(running.told_came, limits.LEASE_BYTES_MAX)
        image = self._image.task.image
        return m.Lease(image, running.pack, running.lease, running.start, running.stop, came)
