"""News of the pieces that this node serves: gathered for a moment, told where it may matter.

In a small site everybody is told at once. In a large one that would be most of what the site says, so
each piece of news goes at once to a part of the peers only (gateways, and the first in the rendezvous
order of pairs, which is the same from both ends), and pieces spread through those from node to node.
All others are told in turn, a few each second, so that nobody depends on the part that chance gave it.
Whoever is known to have a piece is not told of it.

Most of what is told in a large site is no news where it arrives, as it came by another way, and costs each
device a wake-up. So, as in the Trickle algorithm (RFC 6206), each gathers for a time that differs, says
nothing at once of what enough of its peers have said meanwhile that they have, and goes round more slowly
while nobody asks for what it was told in turn.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.holders import Holders
from p2p.swarm.neighbours import pair_order
from p2p.swarm.peer import Peer, PieceKey, RemoteImage
from p2p.swarm.wire import pack_bitmap

CROWD = 12
"""With more peers than this in an image, news goes to `EAGER` of them at once, gathered for longer."""

GATHERED = (2, 10)
"""So many times as long, by chance, is news gathered in a large site."""

EAGER = 8
"""How many peers are told at once in a large site, gateways not counted."""

KNOWN = 4
"""What so many peers say that they have, nobody has to be told at once (RFC 6206's redundancy constant)."""

TURN_S, TURN_PEERS = (2.0, 8.0), 3
"""So often, so many of the others are told all that they were not told yet: the first time while somebody
asks for what it was told so, twice as long each time that nobody does, up to the second."""


class Announcements:
    """What one node tells of one image; `due_at` is when `step` has something to do."""

    def __init__(self, context: Context, image: Digest, holders: Holders) -> None:
        self._context = context
        self._image = image
        self._holders = holders
        self._log: dict[Digest, list[int]] = {}
        self.due_at: float | None = None
        self._fresh: list[PieceKey] = []
        self._fresh_at: float | None = None
        self._turn_at: float | None = None
        self._turn = 0
        self._turn_s = TURN_S[0]
        self._told_in_turn: set[str] = set()
        """In the last turn: nobody else may have told them."""
        self._eager: tuple[int, list[str]] | None = None

    def add(self, pack: Digest, number: int) -> None:
        """This node has begun to serve a piece."""
        self._log.setdefault(pack, []).append(number)
        self._fresh.append((pack, number))
        if self._fresh_at is None:
            context, times = self._context, 1.0
            if len(context.members(self._image)) > CROWD:
                least, most = GATHERED
                times = least + (most - least) * context.rng.random()
            self._fresh_at = context.now + times * context.policy.have_batch_s
            self._set_due()

    def asked(self, device: str) -> None:
        """A peer asks for a piece: if it was told in turn, it may depend on that."""
        if device in self._told_in_turn:
            self._told_in_turn.clear()
            self._turn_s = TURN_S[0]
            if self._turn_at is not None:
                self._turn_at = min(self._turn_at, self._context.now + self._turn_s)
                self._set_due()

    def tell_all(
        self, pack: Digest, pieces: set[int], total: int, to: Iterable[tuple[Peer, RemoteImage]]
    ) -> None:
        """Tell these peers all that is served of a pack of `total` pieces; only news of it from then on."""
        have = m.Have(self._image, pack, total, pack_bitmap(pieces, total))
        for peer, remote in to:
            self._context.send(peer.device, have)
            remote.told[pack] = len(self._log.get(pack, ()))

    def step(self, gateways: Iterable[str], *, at_once: bool = False) -> None:
        """Tell what is due; `at_once`: what is gathered, to those who are told first."""
        now = self._context.now
        if self.due_at is None or (now < self.due_at and not at_once):
            return
        if self._fresh_at is not None and (at_once or now >= self._fresh_at):
            self._fresh_at = None
            self._tell_first(gateways, at_once=at_once)
        if self._turn_at is not None and now >= self._turn_at:
            self._turn_at = None
            self._tell_in_turn()
        self._set_due()

    def tell_now(self, devices: Iterable[str]) -> None:
        """All that these were not told yet, also if it is not their turn."""
        members = self._context.members(self._image)
        for device in devices:
            if (found := members.get(device)) is not None:
                self._tell(device, found[1])

    def _set_due(self) -> None:
        times = [at for at in (self._fresh_at, self._turn_at) if at is not None]
        self.due_at = min(times, default=None)

    def _tell_first(self, gateways: Iterable[str], *, at_once: bool) -> None:
        members, count = self._context.members(self._image), self._holders.count
        fresh, self._fresh = self._fresh, []
        if len(members) <= CROWD:
            for device, (_, remote) in members.items():
                self._tell(device, remote)
            return
        first = self._first() if at_once or any(count(key) < KNOWN for key in fresh) else []
        for device in dict.fromkeys([*first, *gateways]):
            if (found := members.get(device)) is not None:
                self._tell(device, found[1])
        if self._turn_at is None:
            self._turn_at = self._context.now + self._turn_s

    def _tell_in_turn(self) -> None:
        """The next few that lack something, going round."""
        members = list(self._context.members(self._image).items())
        told = 0
        self._told_in_turn.clear()
        for n in range(len(members)):
            device, (_, remote) = members[(self._turn + n) % len(members)]
            if not self._tell(device, remote):
                continue
            self._told_in_turn.add(device)
            told += 1
            if told == TURN_PEERS:
                self._turn = (self._turn + n + 1) % len(members)
                self._turn_s = min(TURN_S[1], 2 * self._turn_s)
                self._turn_at = self._context.now + self._turn_s
                return

    def _tell(self, device: str, remote: RemoteImage) -> bool:
        """Tell one peer what it was not told and is not known to have; whether there was anything."""
        sent, before = False, remote.told
        for pack, log in self._log.items():
            told, length = before.get(pack, 0), len(log)
            if told >= length:
                continue
            before[pack] = length
            who = remote.participant
            if who is not None and who.complete and not self._shares(remote):
                continue
            marks = remote.haves.get(pack)
            if marks is None:
                news = log[told:]
            elif told == length - 1:  # one at a time is what is told most
                if marks[log[told]]:
                    continue
                news = log[told:]
            elif not (news := [n for n in log[told:] if not marks[n]]):
                continue
            for at in range(0, len(news), limits.HAVE_MORE_MAX):
                part = tuple(news[at : at + limits.HAVE_MORE_MAX])
                self._context.send(device, m.HaveMore(self._image, pack, part))
                sent = True
        return sent

    def _shares(self, remote: RemoteImage) -> bool:
        """Whether a complete peer may make patches anew, as this node does: they share the work."""
        who = remote.participant
        return self._context.recomputes and who is not None and who.base is not None

    def _first(self) -> list[str]:
        """The peers that are told at once: both ends of a connection find the same hash for it."""
        version = self._context.members_version
        if self._eager is None or self._eager[0] != version:
            me = self._context.device
            devices = sorted(self._context.members(self._image), key=lambda d: pair_order(me, d))
            self._eager = version, devices[:EAGER]
        return self._eager[1]
