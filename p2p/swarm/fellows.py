"""Devices that are at one image and not connected with each other, where few of a larger site are at it.

A phase may be open to a few devices of a site that is larger than the connections of a node. Those between
them that are not at the image, its bystanders, pass on neither plans nor pieces of it. So a bystander
introduces those that it knows to each other, with what peers tell each other anyway (`Peers`, `Hearsay`), and
whom one names so is a fellow: to be connected with before others. Like all that is told of others these
are hints, and bounded. Not for whom else to keep connections to (`neighbours`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.actions import Fellows as FellowsChanged
from p2p.swarm.context import Context
from p2p.swarm.peer import Peer, RemoteImage
from p2p.swarm.plan import Participant

NAMED_MAX = 3
"""A bystander names so many to each, those that joined last; more of one teller's are not heeded."""

WAIT_S = 0.3
"""Who is not at an image so long after a peer has joined it is a bystander; plans are made a little later."""

FELLOWS_MAX = 8
"""So many are remembered, of all images."""


class Fellows:
    """Those of one node, and whom it introduces. `links_max`: how many connections a node keeps."""

    def __init__(self, context: Context, links_max: int) -> None:
        self._context = context
        self._crowd = max(1, links_max // 2)
        self._fellows: dict[str, tuple[Digest, str]] = {}
        """By device: the image, and who named it."""
        self._joined: dict[tuple[str, Digest], float] = {}
        """Whom to introduce to those at which image, and when; the first comes first."""
        self.due_at = math.inf
        """When somebody is to be introduced."""

    # Who is not at an image

    def joined(self, device: str, image: Digest) -> None:
        """A peer is at an image that this node is not at: it and others there may not know each other.

        With few peers a node is connected with everybody, and so are they.
        """
        if len(self._context.peers) >= self._crowd:
            self._joined.setdefault((device, image), self._context.now + WAIT_S)
            self._note_due()

    def _note_due(self) -> None:
        self.due_at = next(iter(self._joined.values()), math.inf)

    def step(self, pursuit: Callable[[Digest], object]) -> None:
        """Introduce those whose time has come, where this node is still a bystander (without a `pursuit`)."""
        while self.due_at <= self._context.now:
            device, image = next(iter(self._joined))
            del self._joined[device, image]
            self._note_due()
            found = self._context.members(image).get(device)
            if found is not None and pursuit(image) is None:
                self._introduce(*found, image)

    def _introduce(self, peer: Peer, remote: RemoteImage, image: Digest) -> None:
        members = [(p, r.participant) for p, r in self._context.remotes(image) if r.participant is not None]
        others = [(p, who) for p, who in reversed(members) if p is not peer and p.address][:NAMED_MAX]
        me = remote.participant
        if me is None or not others:
            return
        if not me.complete:
            self._name(peer, image, others)
        for other, who in others:
            if not who.complete and peer.address is not None:
                self._name(other, image, [(peer, me)])

    def _name(self, to: Peer, image: Digest, others: Iterable[tuple[Peer, Participant]]) -> None:
        """The addresses come first, so that whoever hears who they are can reach them."""
        claims, addresses = [], []
        for peer, who in others:
            assert peer.address is not None
            addresses.append(peer.address)
            claims.append(m.Claim(who.device, 0, who.base, who.wan, who.weight, who.complete, None, ()))
        self._context.send(to.device, m.Peers(tuple(addresses)))
        self._context.send(to.device, m.Hearsay(image, tuple(claims)))

    # Who is at one

    def named(self, teller: Peer, image: Digest, devices: Iterable[str]) -> None:
        """A peer that is not at an image of this node's tells who is."""
        context, changed = self._context, False
        if teller.device in context.members(image):
            return
        for device in devices:
            if device in self._fellows or device == context.device or device in context.barred:
                continue
            if not self._room(teller.device):
                break
            self._fellows[device] = image, teller.device
            changed = True
        if changed:
            self._tell()

    def _room(self, teller: str) -> bool:
        """Whether another may be remembered on this peer's word.

        If there is no place, it takes that of one to whom this node is not connected, and that was named by
        a peer that named more: so a few peers cannot keep all others out with what they invent.
        """
        told = Counter(who for _, who in self._fellows.values())
        if told[teller] >= NAMED_MAX:
            return False
        if len(self._fellows) < FELLOWS_MAX:
            return True
        for device, (_, who) in self._fellows.items():
            if told[who] > told[teller] + 1 and device not in self._context.peers:
                del self._fellows[device]
                return True
        return False

    def over(self, image: Digest) -> None:
        """This node is not at an image any more."""
        left = {device: why for device, why in self._fellows.items() if why[0] != image}
        if len(left) < len(self._fellows):
            self._fellows = left
            self._tell()

    def _tell(self) -> None:
        self._context.actions.append(FellowsChanged(tuple(self._fellows)))
