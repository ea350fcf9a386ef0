"""Patches that a complete node makes anew for its peers, out of the two images that it holds.

What its image was made from is still in its other slot, but patches are kept only while an agent runs.
Where the local network is thin or a contact short, a peer of the same base needs a patch much more than
the many chunks that it stands for. So a node that may spend processor time on it (`Context.recomputes`)
has its driver recompute them, one after the other, while somebody who could use them is not done. Those who
can do so share the work in rendezvous order. Not for devices that have no pack from their base: they take
chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from p2p.content.digests import Digest
from p2p.swarm.context import Context
from p2p.swarm.cost import patches_pay
from p2p.swarm.events import Recompute, Recomputed
from p2p.swarm.image import ImageSwarm
from p2p.swarm.peer import PieceKey
from p2p.swarm.plan import rank

PATIENCE_S = 5.0
"""Peers that are done within this time are on a quick network and have no need of patches."""

HELP_S = 15.0
"""After this long, what those whose turn it is have not made is made by others too."""

FAILURES_MAX = 2
"""After so many patches that came out otherwise, this node's codec or base is not the publisher's."""


class Recomputing:
    """Of one image at one node. `due_at`: when `step` has something to do, whatever happens; inf: never."""

    def __init__(self, image: ImageSwarm) -> None:
        self._image = image
        self._context: Context = image.context
        self._pack = image.task.pack_for(image.task.base) if image.task.base is not None else None
        self._began_at = math.inf
        self._under_way: PieceKey | None = None
        self._failed: dict[PieceKey, None] = {}
        self.due_at = math.inf

    def step(self) -> None:
        """Have the next patch made, if there is somebody to make it for."""
        image, now = self._image, self._context.now
        if self._pack is None or self._under_way is not None:
            return
        if not image.complete:
            self.due_at = math.inf
            return
        if len(self._failed) >= FAILURES_MAX or not self._wanted():
            self._began_at = self.due_at = math.inf
            return
        if self._began_at == math.inf:
            self._began_at = now
            self.due_at = now + PATIENCE_S
        if now < self.due_at:
            return
        name = self._pack.index.sha256
        if name not in image.maps:
            image.indexes.take_held(self._pack)
            self.due_at = now + PATIENCE_S
            return
        key = self._next(name)
        if key is None:
            self.due_at = now + HELP_S  # who has them now may leave
            return
        self._under_way, self.due_at = key, math.inf
        self._context.actions.append(Recompute(image.task.image, *key))

    def ended(self, event: Recomputed) -> None:
        """A patch is at hand, or came out otherwise."""
        key = (event.pack, event.piece)
        if self._under_way != key:
            return
        self._under_way, self.due_at = None, self._context.now
        if event.right:
            self._image.serve(*key)
        else:
            self._failed[key] = None

    # Inside

    def _wanted(self) -> bool:
        """Whether a peer of the same base is not done."""
        said = (r.participant for _, r in self._context.remotes(self._image.task.image))
        return any(p is not None and not p.complete and p.base == self._image.task.base for p in said)

    def _lacking(self, name: Digest) -> Iterator[PieceKey]:
        """Patches that nobody here serves, and that are worth the time, or all where chunks cannot be had."""
        serves, count = self._image.serves.get(name, ()), self._image.holders.count
        weights = self._context.policy.cost
        chunks = self._image.task.full_pack.index.sha256 in self._image.maps
        for piece in self._image.maps[name].pieces:
            key = (name, piece.number)
            if not piece.is_patch or piece.number in serves or key in self._failed or count(key):
                continue
            if not chunks or patches_pay(piece.wire_size, piece.target_length, weights, anew=True):
                yield key

    def _next(self, name: Digest) -> PieceKey | None:
        """The first patch that is this node's turn; where there is none, one that others left for long."""
        base, me = self._image.task.base, self._context.device
        makers = {me: 100}
        for peer, remote in self._context.remotes(self._image.task.image):
            said = remote.participant
            if said is not None and said.complete and said.base == base and not remote.distrusted:
                makers[peer.device] = 100
        others: list[PieceKey] = []
        for key in self._lacking(name):
            if rank(name + key[1].to_bytes(8, "big"), makers)[0] == me:
                return key
            others.append(key)
        if not others or self._context.now - self._began_at <= PATIENCE_S + HELP_S:
            return None
        place = sorted(makers).index(
            me
        )  # whose turn it is goes on from the front, each who helps from the back
        return others[-1 - place % len(others)]
