"""Peer deltas at the node that makes them: it holds an image and the base that somebody else starts from.

Where no published pack fits a device's base, it takes the image's chunks from its site. A node that has
come from the same base can do better: it has its driver compute what lies between the two
(`p2p.delta.peer_delta`), a group of chunks at a time, for whoever asks. It says that it will by a `Have` of
a pack that no manifest names (`delta_name`), so that nodes that do not know of this ignore it, and answers
a `Want` of that pack.

Processor time is what a peer could take without end. So only peers are answered that start from this base and
are not done, a few requests of each at a time, and of each device no more than a healthy one can need.
Not for who asks (`delta_asking`).
"""

from __future__ import annotations

from p2p.content.digests import Digest, sha256
from p2p.content.limits import PEER_DELTAS_PER_PEER_MAX, PEER_DELTAS_WAITING_MAX
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.events import DeltaMade, ImageTask, MakeDelta
from p2p.swarm.image import ImageSwarm
from p2p.swarm.peer import Peer
from p2p.swarm.policy import PeerDeltas, Policy

SPARE = 8
"""A device may ask for each group twice, and for so many more (its connection may break, its disk fail)."""


def delta_name(full: Digest, base: Digest) -> Digest:
    """What stands for a pack's digest where peer deltas from `base` to the image of a full pack are meant."""
    return sha256(b"slipstream-peer-delta-1\0" + full + base)


def delta_pack(policy: Policy, task: ImageTask) -> Digest | None:
    """The name of the peer deltas that may serve a task; None where policy or the manifest rule them out."""
    if policy.peer_deltas is PeerDeltas.OFF or task.base is None or task.base == task.image:
        return None
    if policy.peer_deltas is PeerDeltas.UNPUBLISHED and task.pack_for(task.base) is not None:
        return None
    return delta_name(task.full_pack.index.sha256, task.base)


class DeltaMaking:
    """Of one image at one node. `name`: under which it offers them.

    `_waiting`: groups that are being made, by who asked; one that several ask for is made once. `_asked`: how
    often each device has.
    """

    def __init__(self, image: ImageSwarm, name: Digest) -> None:
        self.name = name
        self._image = image
        self._context: Context = image.context
        self._lost = False
        self._waiting: dict[str, list[int]] = {}
        self._asked: dict[str, int] = {}

    @property
    def _able(self) -> bool:
        return self._image.complete and not self._lost

    def greet(self, device: str) -> None:
        """Tell one peer, if this node makes deltas now."""
        if self._able:
            self._context.send(device, self._offer())

    def tell(self) -> None:
        """It has become able to."""
        if self._able:
            self._context.broadcast(self._offer(), self._image.task.image)

    def base_lost(self) -> None:
        """Another image is about to be written where the base is."""
        if self._able:
            self._lost = True
            self._context.broadcast(self._offer(), self._image.task.image)

    def _offer(self) -> m.Have:
        return m.Have(self._image.task.image, self.name, 1, b"\1" if self._able else b"\0")

    def on_want(self, peer: Peer, message: m.Want) -> None:
        """A peer asks for a group of chunks: have it made, or say why not."""
        context, image, device = self._context, self._image, peer.device
        pieces = image.maps.get(image.task.full_pack.index.sha256)
        if not image.complete or self._lost or not self._entitled(peer):
            context.send(device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
            return
        if pieces is None:
            image.indexes.need(image.task.full_pack)
            context.send(device, m.Refuse(message.request, m.Refusal.BUSY))
            return
        asked = self._asked.get(device, 0)
        if message.piece >= len(pieces.groups) or asked >= 2 * len(pieces.groups) + SPARE:
            context.send(device, m.Refuse(message.request, m.Refusal.DONT_HAVE))
            return
        mine = self._waiting.get(device, [])
        groups = {group for waiting in self._waiting.values() for group in waiting} | {message.piece}
        if len(mine) >= PEER_DELTAS_PER_PEER_MAX or len(groups) > PEER_DELTAS_WAITING_MAX:
            context.send(device, m.Refuse(message.request, m.Refusal.BUSY))
            return
        self._asked[device] = asked + 1
        self._waiting[device] = [*mine, message.piece]
        peer.serving += 1
        group = pieces.groups[message.piece]
        context.actions.append(
            MakeDelta(
                device, message.request, image.task.image, image.task.full_pack.index.sha256, self.name,
                message.piece, group.start, group.stop,
            )
        )  # fmt: skip

    def made(self, event: DeltaMade) -> None:
        """One is made, or cannot be; the driver answers."""
        waiting = self._waiting.get(event.device, [])
        if event.group in waiting:
            waiting.remove(event.group)
        if not waiting:
            self._waiting.pop(event.device, None)

    def _entitled(self, peer: Peer) -> bool:
        """Whether a peer can have a use for it, by its own word."""
        found = self._context.members(self._image.task.image).get(peer.device)
        said = found[1].participant if found is not None else None
        return said is not None and not said.complete and said.base == self._image.task.base
