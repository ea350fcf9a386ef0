"""Which frames a node fetches over the WAN next: for its site, to mend its own image, or as it is alone.

The missing frames of the plan's pack are split into stripes by rendezvous; a gateway walks its own in order,
and helps with the others' when it has had nothing to do for a while. What others fetch (`leases`), or have
the beginning of, is left to them. Not for fetching (`gateway`).
"""

from __future__ import annotations

import math
from collections.abc import Sized

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.index import Frame
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm.context import Context
from p2p.swarm.cost import cost, fetched
from p2p.swarm.image import ImageSwarm
from p2p.swarm.leases import Leases
from p2p.swarm.peer import PieceKey
from p2p.swarm.plan import rank, stripe_key
from p2p.swarm.remnants import REMNANTS_MAX
from p2p.swarm.solitude import Solitude

CONFLICT_S = 0.25
"""A fetch older than this no longer yields: two that began without knowing of each other find out sooner,
unless word waits behind pieces."""

BEGUN_S = 3.0
"""So long after a lease brought something, what others have begun is left to them."""

Run = tuple[Digest, int, int]
"""Frames `[start, stop)` of a pack (by index digest), for one fetch."""


class Choice:
    """Of one image at one node. `running`: what it fetches already, if anything."""

    def __init__(self, image: ImageSwarm, leases: Leases, alone: Solitude, running: Sized) -> None:
        self._image = image
        self._context: Context = image.context
        self._leases = leases
        self._alone = alone
        self._running = running
        self._idle_since: float | None = None
        self._begun: dict[tuple[Digest, int], int] = {}
        self._awaited: dict[Digest, float] = {}
        """Indexes that were not here when this node was to fetch alone, and since when."""

    @property
    def has_begun(self) -> bool:
        """Whether this node may have the beginning of a frame."""
        return bool(self._begun)

    def note_begun(self, first: PieceKey, came: int) -> None:
        """The first piece that a fetch did not bring: the beginning of its frame, `came` bytes, is kept."""
        pieces = self._image.maps[first[0]]
        frame = pieces[first[1]].frame
        self._begun.pop((first[0], frame), None)
        self._begun[first[0], frame] = came
        if len(self._begun) > REMNANTS_MAX:
            del self._begun[next(iter(self._begun))]

    def beginning(self, pack: Digest, frame: int) -> int:
        """How many bytes of a frame were kept of a fetch that broke off."""
        return self._begun.get((pack, frame), 0)

    def has_more(self, pack: Digest, start: int, stop: int, came: int) -> bool:
        """Whether a fetch of frames `[start, stop)` moves that has brought less of one than was kept here."""
        held = (size for (name, n), size in self._begun.items() if name == pack and start <= n < stop)
        return 0 < came < max(held, default=0)

    def next_run(self) -> Run | None:
        """The next run that is for this node, if any."""
        image = self._image
        if image.wanted.filling:
            return None
        run = self._shared_run()
        if run is not None or not self._alone or image.route is None:
            return run
        moved_at = max(image.last_progress, self._leases.brought_at)
        if self._context.now - moved_at < self._context.policy.help_s:
            return None  # what others have or fetch may be arriving
        pack = self._own_pack()
        name = pack.index.sha256
        if name not in image.maps:
            image.indexes.need(pack)
            self._awaited.setdefault(name, self._context.now)
            if self._context.now - self._alone.alone_at < self._context.policy.fallback_s:
                return None  # the index of a smaller pack is on its way
            name = image.route
        else:
            since = max(self._awaited.pop(name, math.inf), self._alone.alone_at)
            if self._context.now - since > self._context.policy.stall_s:
                self._alone.wan_failed(self._context.now)  # and not the others: they may come further now
                return None
        return self._run_of(name, image.maps[name], selfish=True)

    def _own_pack(self) -> PackRef:
        """What this node fetches if it counts on nobody: of the packs for it, what costs least from here on.

        Of its own pack there may be nothing left that the base can make, and the rest is the full pack's.
        """
        task = self._image.task
        own = task.pack_for(task.base) if task.base is not None else None
        if own is None or not (left := self._left_of(own)):
            return task.full_pack
        weights, made = self._context.policy.cost, self._image.left
        patches = cost(fetched(left, made, patches=True), weights)
        whole = cost(fetched(self._left_of(task.full_pack), made, patches=False), weights)
        return own if patches < whole else task.full_pack

    def _left_of(self, pack: PackRef) -> int:
        """Stored bytes of a pack that are still to come, were nothing taken from peers."""
        pieces = self._image.maps.get(pack.index.sha256)
        if pieces is None:
            return pack.wan_bytes
        full = pack.base is None
        spans = ((f, f.target_offset, f.target_offset + f.target_length) for f in pieces.index.frames)
        return sum(
            f.stored_size
            for f, start, stop in spans
            if not self._image.done.covers(start, stop) and (full or not self._is_broken(start, stop))
        )

    def _is_broken(self, start: int, stop: int) -> bool:
        """Whether the base cannot make a range."""
        return list(self._image.mending.ranges.gaps(start, stop)) != [(start, stop)]

    def _shared_run(self) -> Run | None:
        """What is for this node to fetch for the site."""
        image = self._image
        full = image.task.full_pack.index.sha256
        if len(image.mending.ranges) and full in image.maps and image.route != full and self._may_repair():
            run = self._run_of(full, image.maps[full], selfish=False, repair=True)
            if run is not None:
                return run
        pack = image.site.plan.pack
        if pack is None:
            return None
        name = pack.index.sha256
        if name not in image.maps or image.route != name:
            return None
        begun = self._begun_run(name)
        if begun is not None or self._context.device not in image.site.gateways:
            return begun
        if self._leases.news_behind_pieces:
            return None
        return self._run_of(name, image.maps[name], selfish=False)

    def _may_repair(self) -> bool:
        """Whether peers with a sound base have had the time to say what they have of the full pack."""
        image, context = self._image, self._context
        others = context.remotes(image.task.image)
        return not others or context.now - image.mending.since >= context.policy.object_s

    def _begun_run(self, name: Digest) -> Run | None:
        """A frame of which this node has the beginning, whoever fetches for the site now."""
        if not self._begun:
            return None
        pieces = self._image.maps[name]
        leased = self._leases.covered(name, len(pieces.index.frames))
        for (pack, number), came in self._begun.items():
            left = leased - {number} if self._leases.behind(name, number, came) else leased
            if pack == name and self._is_open(
                name, pieces, pieces.index.frames[number], left, selfish=False, repair=False
            ):
                return name, number, number + 1
        return None

    def _run_of(self, name: Digest, pieces: PieceMap, *, selfish: bool, repair: bool = False) -> Run | None:
        frames = pieces.index.frames
        policy = self._context.policy
        leased = self._leases.covered(name, len(frames), self._alone.defers_to if selfish else None)
        open_frames = [f for f in frames if self._is_open(name, pieces, f, leased, selfish, repair)]
        begun = self._leases.begun(name)
        fresh = [f for f in open_frames if f.number not in begun]
        if fresh or self._others_may_go_on(leased):
            open_frames = fresh
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

    def _others_may_go_on(self, leased: set[int]) -> bool:
        """Whether those who have the beginnings of frames may still come: it shows by what others bring."""
        under_way = bool(leased or self._running)
        return under_way or self._context.now - self._leases.brought_at < BEGUN_S

    def _may_help(self) -> bool:
        """Whether this gateway has had nothing of its own to fetch for long enough to take another's."""
        now = self._context.now
        if self._running or self._idle_since is None:
            self._idle_since = None if self._running else now
            return False
        if now - self._leases.ended_at < CONFLICT_S:
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
        if any(key in image.wanted.fetching for key in keys):
            return False
        if all(key in image.wanted.storing or image.done.covers(*target_of(pieces, key)) for key in keys):
            return False
        broken = self._is_broken(frame.target_offset, stop)
        if broken != repair and name != image.task.full_pack.index.sha256:
            return False
        if repair and not broken:
            return False
        if frame.number in leased:
            return False
        if selfish:
            return True
        return not all(image.holders.count(key) or image.done.covers(*target_of(pieces, key)) for key in keys)


def target_of(pieces: PieceMap, key: PieceKey) -> tuple[int, int]:
    piece = pieces[key[1]]
    return piece.target_offset, piece.target_stop
