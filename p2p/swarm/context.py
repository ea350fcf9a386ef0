"""What the parts of one node share: who it is, its policy, its peers, the time and the actions so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.swarm.departure import Departed
from p2p.swarm.events import Action, Disconnect, Send
from p2p.swarm.ledger import Ledger
from p2p.swarm.messages import Message, MetadataWant
from p2p.swarm.peer import Asked, Peer, RemoteImage
from p2p.swarm.policy import Policy
from p2p.swarm.window import Window

ABANDONED_MAX = 64
"""A peer that leaves this many requests unanswered is disconnected."""

BAN_S = 3600.0
"""How long a peer that sent bad bytes or numbers stays out."""

_NOBODY: Mapping[str, tuple[Peer, RemoteImage]] = MappingProxyType({})


class Rng(Protocol):
    """The one method of `random.Random` that decisions use."""

    def random(self) -> float: ...


class Context:
    """Shared by `SwarmNode` and its parts; `now`, `actions` and `stirred` are set anew for every event.

    `stirred`: the event may change anything that this node does; whoever knows better takes it back, and
    then at most more pieces are asked for. What follows from time alone waits for the next deadline.
    `wan`: this node may fetch for its site; `reachable`: and where not, signed documents for itself at least;
    `isolated`: nor will it ever. `visits`: it may be at any site, not only its own.
    `carrier`: it takes what it has to sites that have no WAN. `carriers`: peers that may be at any site.
    `prices`: what uplinks cost, this device's and its peers', where they say so (`uplinks`).
    `recomputes`: it may spend processor time on patches for its peers.
    `divides`: the devices of its site divide the WAN among those that fetch.
    """

    def __init__(
        self,
        device: str,
        site: str,
        policy: Policy,
        rng: Rng,
        *,
        wan: bool,
        weight: int,
        carrier: bool = False,
        recomputes: bool = False,
        divides: bool = False,
        open_index: Callable[[bytes], PieceMap],
    ) -> None:
        self.device = device
        self.open_index = open_index
        self.site = site
        self.policy = policy
        self.rng = rng
        self.wan = self.reachable = wan
        self.isolated = self.visits = False
        self.weight = weight
        self.carrier = carrier
        self.recomputes = recomputes
        self.divides = divides
        self.ledger = Ledger()
        self.window = Window(policy)
        self.peers: dict[str, Peer] = {}
        self.carriers: dict[str, Peer] = {}
        self.expected: dict[str, Digest | None] = {}
        self.barred: frozenset[str] = frozenset()
        self.whole = False
        self.departed = Departed()
        self.prices: dict[str, int] = {}
        self.now = 0.0
        self.settle_until: float | None = None
        self._settled = False
        self.actions: list[Action] = []
        self.stirred = True
        self.closing: list[str] = []
        self.members_version = 0
        self._members: dict[Digest, dict[str, tuple[Peer, RemoteImage]]] = {}

    def send(self, device: str, message: Message) -> None:
        self.actions.append(Send(device, message))

    def broadcast(self, message: Message, image: Digest | None = None) -> None:
        """To every peer (all were sent our hello before), or to those that take part in `image`."""
        if image is None:
            for device in self.peers:
                self.send(device, message)
        else:
            for peer, _ in self.remotes(image):
                self.send(peer.device, message)

    def take_parts(self, peer: Peer, parts: str) -> None:
        """Let a peer send what is large in parts, of a size that a name in `p2p.swarm.parts` stands for."""
        if peer.parts != parts:
            peer.parts = parts
            request = peer.ask(Asked(self.now, metadata=parts))
            self.send(peer.device, MetadataWant(request, parts))

    def bar(self, devices: frozenset[str]) -> None:
        """These devices are out of the fleet: nobody waits for them or heeds what is told of them."""
        self.barred = devices
        self.expected = {d: image for d, image in self.expected.items() if d not in devices}
        self.departed.forget(devices)

    def disconnect(self, device: str, reason: str, ban_s: float = 0.0) -> None:
        """Part with a peer: from the end of this event on, nothing that it said counts."""
        if device not in self.closing:
            self.actions.append(Disconnect(device, reason, ban_s))
            self.closing.append(device)
            if (peer := self.peers.get(device)) is not None:
                peer.parted_for = reason

    def ban(self, device: str, reason: str) -> None:
        """Part with a peer that lied provably."""
        self.disconnect(device, reason, BAN_S)

    def abandon(self, peer: Peer, number: int) -> None:
        """Give up a request of ours; who leaves too many of them unanswered is parted with."""
        peer.abandon(number)
        if peer.abandoned > ABANDONED_MAX:
            self.disconnect(peer.device, "unresponsive")

    @property
    def settled(self) -> bool:
        """Whether nodes that woke together have had the time to see each other.

        The window is longer while devices of the roster are silent: starting up takes its time.
        """
        if not self._settled and self.settle_until is not None and self.now >= self.settle_until:
            over = self.now >= self.settle_until + self.policy.settle_silent_s
            self._settled = over or self.expected.keys() <= self.peers.keys()
        return self._settled

    @property
    def settles_at(self) -> float | None:
        """When the window closes if nothing else happens; None when it is closed or not yet open."""
        if self.settled or self.settle_until is None:
            return None
        late = self.now >= self.settle_until
        return self.settle_until + (self.policy.settle_silent_s if late else 0.0)

    @property
    def roster_known(self) -> bool:
        """Whether the roster tells all that the plan needs, so that nothing has to be waited for."""
        return self.whole and bool(self.expected) and all(image is not None for _, image in self._silent())

    def absent(self) -> Iterator[tuple[str, Digest | None]]:
        """Devices of the roster that may still be waking up: counted in until the window closes."""
        if not self.settled:
            yield from self._silent()

    def _silent(self) -> list[tuple[str, Digest | None]]:
        return [(d, image) for d, image in self.expected.items() if d not in self.peers]

    def remotes(self, image: Digest) -> Collection[tuple[Peer, RemoteImage]]:
        """Peers that take part in an image, in the order in which they joined."""
        return self._members.get(image, _NOBODY).values()

    def members(self, image: Digest) -> Mapping[str, tuple[Peer, RemoteImage]]:
        """Peers that take part in an image, by device."""
        return self._members.get(image, _NOBODY)

    def enter(self, image: Digest, peer: Peer, remote: RemoteImage) -> None:
        """A peer takes part in an image."""
        self.members_version += 1
        self._members.setdefault(image, {})[peer.device] = (peer, remote)

    def exit(self, image: Digest, device: str) -> None:
        """A peer takes part in an image no more."""
        members = self._members.get(image)
        if members is not None and members.pop(device, None) is not None:
            self.members_version += 1
            if not members:
                del self._members[image]
