"""The pack indexes of one image that a node holds, and how it gets those that it lacks."""

from __future__ import annotations

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

INDEX_RETRY_S = 5.0
"""An index that did not come is asked for again after this long."""


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
        self._asked: dict[Digest, float] = {}

    def need(self, pack: PackRef) -> None:
        """Look for a pack's index; in a site of many hops it comes from node to node."""
        name, now = pack.index.sha256, self._context.now
        asked = self._asked.get(name)
        if name in self.maps or (asked is not None and now - asked < INDEX_RETRY_S):
            return
        self._asked[name] = now
        self._objects.want(name, pack.index.size, for_agent=False)
        if self._hearsay.since is not None and self._context.device != self._site.keeper:
            policy = self._context.policy  # whose turn is first fetches it
            longest = policy.object_s if pack == self._site.plan.pack else policy.stall_s
            self._objects.wait_for_holder(name, longest * (1 + self._context.rng.random()))
        for peer, remote in self._context.remotes(self._task.image):
            if name in remote.totals:
                self._objects.held_by(name, peer.device)

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
