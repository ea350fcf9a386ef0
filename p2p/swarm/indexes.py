"""The pack indexes of one image that a node holds, and how it gets those that it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap
from p2p.errors import ContentError
from p2p.swarm.context import Context
from p2p.swarm.events import ImageTask
from p2p.swarm.hearsay import Hearsay
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.site_view import SiteView

INDEX_RETRY_S, INDEX_RETRY_MAX_S = 5.0, 80.0
"""An index that did not come is asked for again after this long; where nobody has a WAN, after twice as long
each time, up to the second, unless somebody came or said that it holds it."""


@dataclass(slots=True)
class _Question:
    """When an index was looked for first and last, how often in vain, who was there and who had it."""

    first_at: float
    at: float
    vain: int
    peers: frozenset[str]
    holders: frozenset[str]


class Indexes:
    """`maps`: the pieces of each pack whose index is here, by the index's digest."""

    def __init__(
        self, context: Context, objects: ObjectExchange, task: ImageTask, site: SiteView, hearsay: Hearsay
    ) -> None:
        self.maps: dict[Digest, PieceMap] = {}
        self._context = context
        self._objects = objects
        self._task = task
        self._site = site
        self._hearsay = hearsay
        self._asked: dict[Digest, _Question] = {}

    def need(self, pack: PackRef) -> None:
        """Look for a pack's index; in a site of many hops it comes from node to node.

        Not for longer than a node is patient with its site: whose turn it is may be nobody, or fetch nothing.
        """
        name = pack.index.sha256
        if name in self.maps or not self._may_ask(name):
            return
        self._objects.want(name, pack.index.size, for_agent=False)
        policy, asked = self._context.policy, self._asked[name]
        others = self._hearsay.since is not None and self._context.device != self._site.keeper
        if others and self._context.now - asked.first_at < 2 * policy.fallback_s:
            longest = policy.object_s if pack == self._site.plan.pack else policy.stall_s
            self._objects.wait_for_holder(name, longest * (1 + self._context.rng.random()))
        for device in asked.holders:
            self._objects.held_by(name, device)

    def _may_ask(self, name: Digest) -> bool:
        """Whether it is time to look for an index (again); who may have it is noted."""
        context, before = self._context, self._asked.get(name)
        remotes = context.remotes(self._task.image)
        peers = frozenset(context.peers)
        holders = frozenset(peer.device for peer, remote in remotes if name in remote.totals)
        vain, first_at = 0, context.now
        if before is not None:
            first_at = before.first_at
            retry_s = INDEX_RETRY_S
            if peers <= before.peers and holders <= before.holders and not self._reachable:
                vain = before.vain + 1
                retry_s = min(INDEX_RETRY_MAX_S, INDEX_RETRY_S * 2 ** min(before.vain, 16))
            if context.now - before.at < retry_s:
                return False
        self._asked[name] = _Question(first_at, context.now, vain, peers, holders)
        return True

    @property
    def _reachable(self) -> bool:
        """Whether anybody here has a WAN, so that what nobody holds may be there soon."""
        context = self._context
        if context.wan:
            return True
        members = context.members(self._task.image)
        for device, peer in context.peers.items():
            said = members[device][1].participant if device in members else peer.hello
            if said is not None and said.wan:
                return True
        return False

    def take_held(self, pack: PackRef) -> None:
        """Open a pack's index if this device itself has it; nobody is asked for it."""
        if self._objects.holds(pack.index.sha256):
            self._objects.want(pack.index.sha256, pack.index.size, for_agent=False)

    def opened(self, name: Digest, data: bytes) -> PieceMap | None:
        """The pieces of an index that arrived; None if it is here, or does not fit the manifest."""
        pack = next((p for p in self._task.packs if p.index.sha256 == name), None)
        if pack is None or name in self.maps:
            return None
        try:
            pieces = self._context.open_index(data)
        except ContentError:
            return None
        index = pieces.index
        fits = (index.image, index.image_size, index.base) == (self._task.image, self._task.size, pack.base)
        if not fits or index.frames_size != pack.frames.size:
            return None
        self.maps[name] = pieces
        return pieces

    def lease_fits(self, pack: Digest, start: int, stop: int) -> bool:
        """Whether frames `[start, stop)` are few enough, and in the pack (as far as it is known)."""
        pieces = self.maps.get(pack)
        if pieces is None:
            return True
        frames = pieces.index.frames[start:stop]
        if stop > len(pieces.index.frames):
            return False
        return len(frames) < 2 or sum(f.stored_size for f in frames) <= limits.LEASE_BYTES_MAX

    def run_stop(self, pack: Digest, start: int, stop: int) -> int:
        """Where a fetch of frames `[start, stop)` ends at the latest: one frame, or what one may bring."""
        pieces = self.maps.get(pack)
        if pieces is None:
            return stop
        size = 0
        for frame in pieces.index.frames[start:stop]:
            size += frame.stored_size
            if size > self._context.policy.run_bytes and frame.number > start:
                return frame.number
        return stop
