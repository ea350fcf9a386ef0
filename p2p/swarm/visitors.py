"""What a visiting carrier is asked for: what nobody else here has, each piece by one of the site, and first.

A vehicle that brings an image stays for minutes, and its connection carries less in that time than the
site can pass on afterwards. So while it is new here, a device asks it only for pieces that nobody else has,
asks for these before it asks anybody for others, and leaves to each of the other devices a part of them.
What is another's part is asked for only when nothing else is left, and the other has had the time for it.
Who stays long is a peer like others; and a carrier itself goes by none of this, as in a yard all may be
carriers. Pure.
"""

from __future__ import annotations

from p2p.swarm.image import ImageSwarm
from p2p.swarm.peer import Peer, PieceKey, RemoteImage

VISIT_S = 600.0
"""Who is connected for longer is in no hurry: sharing meanwhile what it gave ends sooner."""

BUSY_WITH = 2
"""So many pieces are on their way from carriers whatever else is: one that comes, one that waits for that."""

SILENT_S = 20.0
"""So long whoever visits may be silent before others are asked instead: on a slow network it answers all of
the site at once, and the first pieces take their time."""

TURN_S = 5.0
"""So long another device has at the least to get a piece of its part: the carrier may have to make it."""

QUICK_S = 0.5
"""Where answers take less, there is room for what the devices give each other meanwhile."""

LOOK_S = 1.0
"""What a carrier can be asked for is looked through anew no more often than this."""


class _Load:
    """What one carrier may still be asked for: `mine` is this device's part, the next one last.

    `others`: what the others should ask for, what they come to last at the end. `idle_since`: when this
    device had nothing more of its own to ask for.
    """

    __slots__ = ("idle_since", "looked_at", "mine", "others", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.mine: list[PieceKey] = []
        self.others: list[PieceKey] = []
        self.looked_at = float("-inf")
        self.idle_since: float | None = None


class Visitors:
    """The carriers at the site, for one image at one node."""

    def __init__(self, image: ImageSwarm) -> None:
        self._image = image
        self._context = image.context
        self._loads: dict[str, _Load] = {}

    def of(self, hungry: dict[str, None]) -> list[tuple[Peer, RemoteImage]]:
        """Those of `hungry` that are visiting carriers."""
        carriers = self._context.carriers
        if not carriers or self._context.visits:
            return []
        members = self._context.members(self._image.task.image)
        return [members[device] for device in carriers if device in hungry and self.is_new(device)]

    def is_new(self, device: str) -> bool:
        """Whether a peer is a carrier that has not been here for long."""
        peer = self._context.carriers.get(device)
        if peer is None or self._context.visits or self._context.now - peer.connected_at > VISIT_S:
            return False
        return device in self._context.members(self._image.task.image)

    def come_first(self) -> bool:
        """Whether others are not asked for anything just now: a carrier is giving, on a slow network."""
        context = self._context
        if not context.carriers or context.visits or 0 < context.window.answer_s < QUICK_S:
            return False
        patience_s = SILENT_S + 2 * context.window.answer_s
        return any(
            peer.in_flight and context.now - max(peer.answered_at, peer.connected_at) <= patience_s
            for device, peer in context.carriers.items()
            if self.is_new(device)
        )

    def silence_s(self, device: str) -> float:
        """After how long a silence what a peer was asked for does not keep its place in the window."""
        hedge_s = self._context.policy.hedge_s
        return max(hedge_s, SILENT_S) if self.is_new(device) else hedge_s

    def room_beyond(self) -> bool:
        """Whether a carrier may be asked although as much as a moment brings is on its way already."""
        return sum(peer.in_flight for peer in self._context.carriers.values()) < BUSY_WITH

    def next(self, peer: Peer, remote: RemoteImage) -> PieceKey | None:
        """What to ask a carrier for now."""
        load = self._loads.get(peer.device)
        if load is None or load.peer is not peer:
            load = self._loads[peer.device] = _Load(peer)
        now = self._context.now
        key = self._take(load.mine, remote)
        if key is None and now - load.looked_at >= LOOK_S:
            self._look(load, remote)
            key = self._take(load.mine, remote)
        if key is not None:
            load.idle_since = None
            return key
        if load.idle_since is None:
            load.idle_since = now
        if not load.others or now - load.idle_since < self._patience(peer, load.others[-1]):
            return None
        return self._take(load.others, remote)

    def _patience(self, peer: Peer, key: PieceKey) -> float:
        """How long another device may take to come to a piece of its part."""
        size = self._image.maps[key[0]].pieces[key[1]].wire_size
        return max(TURN_S, 2 * peer.answers_in(size))

    def _take(self, queue: list[PieceKey], remote: RemoteImage) -> PieceKey | None:
        wanted = self._image.wanted.open
        while queue:
            key = queue.pop()
            if key in wanted and remote.has(key) and self._only_brought(key):
                return key
        return None

    def _look(self, load: _Load, remote: RemoteImage) -> None:
        context, image = self._context, self._image.task.image
        load.looked_at = context.now
        fellows = [
            peer.device
            for peer, r in context.remotes(image)
            if peer.device not in context.carriers and r.participant is not None
            and not (r.participant.complete or r.distrusted)
        ]  # fmt: skip
        places = sorted([context.device, *fellows])
        place, count = places.index(context.device), len(places)
        mine: list[PieceKey] = []
        others: list[PieceKey] = []
        wanted = self._image.wanted.open
        for key in remote.useful:
            if key in wanted and self._only_brought(key):
                (mine if key[1] % count == place else others).append(key)
        mine.reverse()
        load.mine, load.others = mine, others

    def _only_brought(self, key: PieceKey) -> bool:
        """Whether nobody but carriers has a piece."""
        members = self._context.members(self._image.task.image)
        brought = sum(d in members and members[d][1].has(key) for d in self._context.carriers)
        return self._image.holders.count(key) <= brought
