"""What a node fetches over the WAN for its site, and the leases by which others know.

Gateways split the missing frames of the plan's pack into stripes by rendezvous, walk their own in
order and help with the others' at the end. A lease covers one fetch; it is renewed only by
progress, ends with its holder's connection, and a holder that stalls is not a gateway for a while.
Correctness never depends on any of this: a node that sees no progress for long serves itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.index import Frame
from p2p.content.pieces import PieceMap
from p2p.swarm import messages as m
from p2p.swarm.announcements import CROWD
from p2p.swarm.context import Context
from p2p.swarm.events import CancelFetch, Fetch
from p2p.swarm.image import ImageSwarm
from p2p.swarm.peer import LeaseState, Peer, PieceKey, RemoteImage
from p2p.swarm.plan import rank, stripe_key
from p2p.swarm.policy import penalty_s
from p2p.swarm.solitude import Solitude

RATE_MIN = 4096
"""Bytes per second below which a lease is not kept alive by promises alone."""

RENEWALS, GIVES_UP_S = 4, 1.0
"""A lease is renewed so often within `stall_s`; who stalls is given so long to find out and say so itself."""

PASSED_S = 1.5
"""In a crowd, frames whose lease has ended are on their way from node to node for this long."""

CONFLICT_FAR_S, YIELDS_MAX = 3.0, 4
"""The same for those that know each other by hearsay only; so often, then claims are no longer yielded to."""

CONFLICT_S = 0.25
"""A fetch older than this no longer yields: two that began without knowing of each other find out sooner."""

BACKOFF_S = (1.0, 60.0)
"""First and longest pause after a fetch that failed."""


@dataclass(slots=True)
class _Running:
    pack: Digest
    start: int
    stop: int
    lease: int
    since: float
    alive: float
    told: float
    cancelled: bool = False
    keys: list[PieceKey] = field(default_factory=list)


class Gateway:
    """The WAN side of one image at one node."""

    def __init__(self, image: ImageSwarm, numbers: Iterator[int]) -> None:
        self._image = image
        self._context: Context = image.context
        self._numbers = numbers
        self._running: dict[int, _Running] = {}
        self._failures = 0
        self._alone = Solitude(1 + image.context.rng.random())
        self._idle_since: float | None = None
        self._frame_at = 0.0
        self._frame_s: float | None = None
        self._yielded = 0
        self._passed: dict[tuple[Digest, int, int], float] = {}
        self._ended_at = -CONFLICT_S
        self.dirty = True

    @property
    def active(self) -> bool:
        return bool(self._running)

    def owns(self, fetch: int) -> bool:
        return fetch in self._running

    def step(self) -> None:
        """Start as many fetches as are due."""
        image, context = self._image, self._context
        if image.complete or not context.wan or not image.site.ready:
            return
        progress_at = max(image.last_progress, image.site.awaits_until)
        if context.now - progress_at > context.policy.fallback_s:
            self.dirty |= self._alone.is_due(context.now, progress_at, self._deadline_s())
        if not self.dirty or context.now < image.wan_blocked_until:
            return
        while len(self._running) < self._fetches_max():
            run = self._next_run()
            if run is None:
                self.dirty = False
                return
            self._start(*run)

    def progressed_by_peer(self) -> None:
        """A peer delivers again, so this node need not serve itself."""
        self._alone.over()

    def progressed_by_wan(self) -> None:
        """A frame of ours is whole: that is how long one takes, and who fetches for the site is not alone."""
        now = self._context.now
        if self._context.device in self._image.site.gateways:
            self._alone.over()
        self._frame_s, self._frame_at = now - self._frame_at, now
        self.dirty = True

    def _fetches_max(self) -> int:
        """One fetch until frames are known to come quickly: on a thin link, more only delay the first."""
        policy = self._context.policy
        quick = self._frame_s is not None and self._frame_s <= policy.stall_s / 2
        return policy.fetches_max if quick else 1

    def _deadline_s(self) -> float:
        """How long this node goes without progress. A frame that somebody fetches may take its time."""
        context = self._context
        leases = (x for _, r in self._image.leasing() for x in r.leases.values())
        patience = [self._patience(x.pack, x.start, x.stop) for x in leases if x.pack in self._image.maps]
        for far in self._image.hearsay.known():
            patience += [self._patience(far.pack, *x) for x in far.leases if far.pack in self._image.maps]
        return max([context.policy.fallback_s, *patience])

    def housekeeping(self) -> None:
        """End what stalls: others' leases and our own fetches."""
        context, policy = self._context, self._context.policy
        for peer, remote in self._image.leasing():
            if any(self._is_late(peer, lease) for lease in remote.leases.values()):
                self._stalled(remote)
        for number, running in self._running.items():
            if context.now - running.alive > policy.stall_s and not running.cancelled:
                running.cancelled = True
                context.actions.append(CancelFetch(number))
        self._doubt_hearsay()

    def _doubt_hearsay(self) -> None:
        """What is told of far devices holds only while something comes of it."""
        image, policy = self._image, self._context.policy
        since, ready_at = image.hearsay.since, image.site.ready_at
        if since is None or ready_at is None or image.complete:
            return
        idle_s = self._context.now - max(since, ready_at, image.last_progress)
        if idle_s <= policy.stall_s + policy.object_s:
            return
        patience = [
            self._patience(x.pack, x.start, x.stop) for _, r in image.leasing() for x in r.leases.values()
        ]
        most = policy.fallback_s if image.hearsay.doubts else math.inf
        held_up_by: dict[str, None] = {}
        for far in image.hearsay.known():
            who = far.participant
            leases = () if who.complete else (*far.leases, *far.passed)
            patience += [min(most, self._patience(far.pack, *x)) for x in leases]
            if leases or who.complete or who.device in image.site.gateways:
                held_up_by[who.device] = None
        if held_up_by and idle_s > max(patience, default=0.0):
            image.hearsay.doubt(held_up_by)
            self.dirty = image.replan = True

    # Others' leases

    def on_lease(self, peer: Peer, remote: RemoteImage, message: m.Lease) -> None:
        now, image = self._context.now, self._image
        old = remote.leases.get(message.slot)
        believed = not remote.distrusted and now >= remote.conduct.stalled_until
        if old is not None and believed and message[3:] == (old.start, old.stop) and message.pack == old.pack:
            old.renewed = now
            return
        self.dirty = True
        remote.leases.pop(message.slot, None)
        if old is not None:
            image.hearsay.touch(leases=True)
            self._ended_at = now
            if len(self._context.remotes(image.task.image)) > CROWD:
                self._passed[old.pack, old.start, old.stop] = now + PASSED_S
        if not any(p.index.sha256 == message.pack for p in image.task.packs):
            return
        if not image.lease_fits(message.pack, message.start, message.stop):
            self._context.ban(peer.device, "bad-lease")
            return
        if message.start >= message.stop or not believed:
            return
        image.lessors[peer.device] = peer
        remote.leases[message.slot] = LeaseState(message.pack, message.start, message.stop, now, now, now)
        image.hearsay.touch(leases=True)
        image.stale |= peer.device not in image.site.gateways
        self._settle_conflict(peer, message, greeting=remote.participant is None)

    def renewed_by(self, remote: RemoteImage, pack: Digest, pieces: Collection[int]) -> None:
        """A peer serves pieces that it did not serve before: the leases that they belong to made progress."""
        pieces_of = self._image.maps.get(pack)
        for lease in remote.leases.values():
            if lease.pack == pack and (
                pieces_of is None
                or any(n < len(pieces_of) and lease.start <= pieces_of[n].frame < lease.stop for n in pieces)
            ):
                lease.renewed = lease.progressed = self._context.now

    def greet(self, device: str) -> None:
        """Tell a newcomer what this node fetches."""
        for running in self._running.values():
            self._context.send(device, self._lease(running))

    # Our own fetches

    def on_progress(self, fetch: int) -> None:
        running = self._running.get(fetch)
        if running is None:
            return
        now = self._context.now
        running.alive = now
        self._image.last_progress = now
        if now - running.told > self._context.policy.stall_s / RENEWALS:
            running.told = now
            self._context.broadcast(self._lease(running), self._image.task.image)

    def on_ended(self, fetch: int, error: str | None, wasted: int) -> None:
        running = self._running.pop(fetch)
        context, image = self._context, self._image
        context.ledger.in_vain(wasted)
        self.dirty = image.replan = True
        image.flush(at_once=True)  # what the lease brought must be known before it ends
        ended = m.Lease(image.task.image, running.pack, running.lease, 0, 0)
        context.broadcast(ended, image.task.image)
        for key in running.keys:
            if image.fetching.pop(key, None) is not None:
                image.want_again(key)
        if error is None or (running.cancelled and context.now - running.alive <= context.policy.stall_s):
            if error is None:
                self._failures = 0
            return
        self._alone.wan_failed(context.now)
        self._failures += 1
        first, longest = BACKOFF_S
        pause = min(longest, first * 2 ** (self._failures - 1)) * (0.5 + context.rng.random())
        image.wan_blocked_until = context.now + pause
        image.announce()

    def cancel_all(self) -> None:
        for number, running in self._running.items():
            if not running.cancelled:
                running.cancelled = True
                self._context.actions.append(CancelFetch(number))

    # Choosing

    def _next_run(self) -> tuple[Digest, int, int] | None:
        image = self._image
        run = self._shared_run()
        if run is not None or not self._alone or image.route is None:
            return run
        if self._context.now - image.last_progress < self._context.policy.help_s:
            return None  # what others have or fetch may be arriving
        return self._run_of(image.route, image.maps[image.route], selfish=True)

    def _shared_run(self) -> tuple[Digest, int, int] | None:
        """What is for this node to fetch for the site."""
        image = self._image
        full = image.task.full_pack.index.sha256
        if len(image.repair) and full in image.maps and image.route != full:
            run = self._run_of(full, image.maps[full], selfish=False, repair=True)
            if run is not None:
                return run
        pack = image.site.plan.pack
        if pack is None or self._context.device not in image.site.gateways:
            return None
        name = pack.index.sha256
        if name not in image.maps or image.route != name:
            return None
        return self._run_of(name, image.maps[name], selfish=False)

    def _run_of(
        self, name: Digest, pieces: PieceMap, *, selfish: bool, repair: bool = False
    ) -> tuple[Digest, int, int] | None:
        frames = pieces.index.frames
        policy = self._context.policy
        leased = self._leased(name, len(frames), selfish)
        open_frames = [f for f in frames if self._is_open(name, pieces, f, leased, selfish, repair)]
        if not open_frames:
            return None
        if selfish or repair or len(self._image.site.gateways) < 2:
            first, mine = open_frames[0], None
        else:
            weights = dict.fromkeys(self._image.site.gateways, 100)
            stripes = dict.fromkeys(f.stored_offset // policy.stripe_bytes for f in open_frames)
            owners = {s: rank(stripe_key(self._image.task.image, s), weights)[0] for s in stripes}
            own = [s for s in stripes if owners[s] == self._context.device]
            if not own and not self._may_help():
                return None
            mine = own[0] if own else next(reversed(stripes))
            first = next(f for f in open_frames if f.stored_offset // policy.stripe_bytes == mine)
        stop, size = first.number, 0
        for frame in open_frames[open_frames.index(first) :]:
            other_stripe = mine is not None and frame.stored_offset // policy.stripe_bytes != mine
            if frame.number != stop or other_stripe:
                break
            if size and size + frame.stored_size > min(policy.run_bytes, limits.LEASE_BYTES_MAX):
                break
            size += frame.stored_size
            stop = frame.number + 1
        return name, first.number, stop

    def _may_help(self) -> bool:
        """Whether this gateway has had nothing of its own to fetch for long enough to take another's."""
        now = self._context.now
        if self._running or self._idle_since is None:
            self._idle_since = None if self._running else now
            return False
        if now - self._ended_at < CONFLICT_S:
            return False  # whose lease has just ended is about to begin the next
        return now - self._idle_since >= self._context.policy.help_s

    def _is_open(
        self, name: Digest, pieces: PieceMap, frame: Frame, leased: set[int], selfish: bool, repair: bool
    ) -> bool:
        """Whether a frame has to be fetched by somebody and nobody is at it."""
        image = self._image
        stop = frame.target_offset + frame.target_length
        if image.done.covers(frame.target_offset, stop):
            return False
        keys = [(name, n) for n in pieces.of_frame(frame.number)]
        if any(key in image.fetching for key in keys):
            return False
        if all(key in image.storing or image.done.covers(*_target(pieces, key)) for key in keys):
            return False
        broken = list(image.repair.gaps(frame.target_offset, stop)) != [(frame.target_offset, stop)]
        if broken != repair and name != image.task.full_pack.index.sha256:
            return False
        if repair and not broken:
            return False
        if frame.number in leased:
            return False
        if selfish:
            return True
        return not all(image.holders.count(key) or image.done.covers(*_target(pieces, key)) for key in keys)

    def _leased(self, pack: Digest, frames: int, selfish: bool) -> set[int]:
        """Which of the `frames` frames of a pack others fetch, and are left to them."""
        known = set() if selfish else self._image.hearsay.leased(pack, frames)
        for span, until in list(self._passed.items()):
            if self._context.now >= until:
                del self._passed[span]
            elif span[0] == pack and not selfish:
                known.update(range(span[1], min(span[2], frames)))
        return known | {
            frame
            for peer, remote in self._image.leasing()
            if not remote.distrusted
            for lease in remote.leases.values()
            if lease.pack == pack and (not selfish or self._alone.defers_to(peer.device, lease.began))
            for frame in range(lease.start, min(lease.stop, frames))
        }

    def _start(self, pack: Digest, start: int, stop: int) -> None:
        context, image = self._context, self._image
        number = next(self._numbers)
        if not self._running:
            self._frame_at = context.now
        used = {r.lease for r in self._running.values()}
        lease = next(n for n in range(16) if n not in used)
        running = _Running(pack, start, stop, lease, context.now, context.now, context.now)
        pieces = image.maps[pack]
        for frame in range(start, stop):
            for n in pieces.of_frame(frame):
                key = (pack, n)
                if not image.done.covers(*_target(pieces, key)):
                    running.keys.append(key)
                    image.fetching[key] = number
                    image.wanted.pop(key, None)
        self._running[number] = running
        context.actions.append(Fetch(number, image.task.image, pack, start, stop))
        context.broadcast(self._lease(running), image.task.image)

    def _settle_conflict(self, peer: Peer, message: m.Lease, *, greeting: bool) -> None:
        """Two leases on the same frames: both sides compute the same winner, the other yields.

        A lease that is part of a greeting was there before the two knew each other, so the newcomer yields.
        """
        for number, running in self._running.items():
            overlap = message.pack == running.pack and message.start < running.stop
            young = self._context.now - running.since <= CONFLICT_S
            if running.cancelled or not overlap or message.stop <= running.start or self._alone or not young:
                continue
            key = running.pack + max(message.start, running.start).to_bytes(8, "big")
            if greeting or rank(key, {peer.device: 100, self._context.device: 100})[0] == peer.device:
                running.cancelled = True
                self._context.actions.append(CancelFetch(number))

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
                        running.cancelled = True
                        self._yielded += 1
                        self._context.actions.append(CancelFetch(number))

    def _stalled(self, remote: RemoteImage) -> None:
        """Its leases count for nothing for a while, longer each time, whatever becomes of its connection.

        Others take over, so there is no need yet to fetch alone (all would, and at the same moment).
        """
        self._alone.lease_stalled(self._context.now, self._image.last_progress)
        conduct = remote.conduct
        conduct.stalls += 1
        conduct.stalled_until = self._context.now + penalty_s(self._context.policy, conduct.stalls)
        remote.leases.clear()
        self.dirty = self._image.replan = True

    def _is_late(self, peer: Peer, lease: LeaseState) -> bool:
        """Whether it is kept up no more, or nothing comes of it. News waits behind pieces on its way."""
        now, context = self._context.now, self._context
        behind_s = 2 * context.window.answer_s if peer.in_flight else 0.0
        allowed_s = context.policy.stall_s * (1 + 1 / RENEWALS) + GIVES_UP_S + behind_s
        silent = now - max(lease.renewed, peer.answered_at) > allowed_s
        return silent or now - lease.progressed > self._patience(lease.pack, lease.start, lease.stop)

    def _patience(self, pack: Digest | None, start: int, stop: int) -> float:
        """How long a lease may live on promises: its largest frame at the least rate, the link shared."""
        pieces = self._image.maps.get(pack) if pack is not None else None
        frames = pieces.index.frames[start:stop] if pieces is not None else ()
        largest = max((f.stored_size for f in frames), default=limits.STORED_FRAME_MAX)
        return self._context.policy.stall_s + largest * max(1, len(self._image.site.gateways)) / RATE_MIN

    def _lease(self, running: _Running) -> m.Lease:
        return m.Lease(self._image.task.image, running.pack, running.lease, running.start, running.stop)


def _target(pieces: PieceMap, key: PieceKey) -> tuple[int, int]:
    piece = pieces[key[1]]
    return piece.target_offset, piece.target_stop
