"""What a node hears of devices that it is not connected to, and what it passes on of those it knows.

In a site that is larger than the connections of a node, who fetches is often further away than one
connection. So nodes tell a few of their peers which devices come first in the plan as they see it,
what those fetch, and how old that knowledge is. Such claims are hints: what a device says itself
counts instead as soon as it is connected, nobody is ever blamed for what others said of it, a
claim that is not renewed expires, and all of them are void for a while when nothing comes of them.
A site without far devices says all it has to say once. Not for whom to ask for pieces (`rider`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.neighbours import pair_order
from p2p.swarm.peer import Peer, RemoteImage
from p2p.swarm.plan import Participant
from p2p.swarm.policy import penalty_s

RELAYS = 3
"""To so many peers each node tells what it knows; they and those that chose it make a connected graph."""

TOLD = 6
"""How many devices a node tells of, the first of its plan: those that fetch and their successors."""

ROUND_S, FIRST_S = 0.5, 0.1
"""What changes is told no more often than this, and this soon when nothing was told for long."""

REFRESH_S = 8.0
"""What is known more freshly than it was told by this much is told again."""

EXPIRY_S = 24.0
"""A claim that is older than this counts no more: several refreshes of it were missed."""

QUIET_S = 2 * EXPIRY_S
"""Claims after so long without any have nothing to do with those before."""

PASSED_S = 5.0
"""Frames whose lease has ended are on their way from node to node for this long."""

DOUBTS_MAX = 3
"""After so many claims that nothing came of, only what is known at first hand counts for a while."""

FAR_MAX = 64
"""How many far devices are remembered; of one peer's word, as many as one message holds."""


@dataclass(slots=True)
class Far:
    """A device as others tell of it: `known_at` is when somebody last knew it at first hand.

    `complete_at`: when it was first heard that it is complete; meaningless while it is not. Whoever tells of
    such can tell of others as soon as that has passed.
    """

    participant: Participant
    pack: Digest | None
    leases: tuple[tuple[int, int], ...]
    known_at: float
    teller: str
    complete_at: float
    passed: dict[tuple[int, int], float] = field(default_factory=dict)


@dataclass(slots=True)
class _Line:
    """What one peer was told last, and what it told: claims by device, and when they were true."""

    begun: bool = False
    told: dict[str, tuple[m.Claim, float]] = field(default_factory=dict)
    heard: dict[str, tuple[m.Claim, float]] = field(default_factory=dict)

    def is_near(self, device: str) -> bool:
        """Whether the peer has said that it is connected to a device."""
        heard = self.heard.get(device)
        return heard is not None and heard[0].near


class Hearsay:
    """The far devices of one image at one node.

    `changed_at`: when they last became others; `due_at`: when there is something to tell; `begun_at`: since
    when there have been claims again and again, whether or not there are any now.
    """

    def __init__(self, context: Context, image: Digest) -> None:
        self.changed_at = context.now
        self.void_until = 0.0
        self.begun_at = -math.inf
        self.doubts = 0
        self.maps: Mapping[Digest, PieceMap] = {}
        """The packs whose index is here."""
        self._context = context
        self._image = image
        self._far: dict[str, Far] = {}
        self._lines: dict[str, _Line] = {}
        self._plain: dict[str, tuple[Participant, m.Claim]] = {}
        self._relays: tuple[int, list[str]] | None = None
        self._passed_on: dict[str, float] = {}
        self._doubted: dict[str, float] = {}
        self._all_near = False  # whoever is told is connected to all that it would be told of
        self._since: float | None = None
        self._heard_at = -math.inf
        self._told_at = context.now - ROUND_S
        self.due_at: float | None = None

    def known(self) -> Iterator[Far]:
        """Devices that are believed to take part somewhere out of reach."""
        context = self._context
        if not self._far or context.now < self.void_until:
            return
        now, peers = context.now, context.peers
        for device, far in list(self._far.items()):
            if now - far.known_at > EXPIRY_S or device in peers:
                del self._far[device]
            else:
                yield far

    def fetching(self) -> dict[str, Digest | None]:
        """Far devices that fetch, or whose frames have just left them, and of which pack."""
        return {far.participant.device: far.pack for far in self.known() if far.leases or self._passed(far)}

    def leased(self, pack: Digest, frames: int) -> set[int]:
        """Frames that far devices fetch, or that have just left them."""
        found: set[int] = set()
        for far in self.known():
            if far.pack == pack:
                for start, stop in (*far.leases, *self._passed(far)):
                    found.update(range(start, min(stop, frames)))
        return found

    def _passed(self, far: Far) -> dict[tuple[int, int], float]:
        """Frames that are on their way, without those that have had the time for it."""
        for span, until in list(far.passed.items()):
            if self._context.now >= until:
                del far.passed[span]
        return far.passed

    def doubt(self, devices: Iterable[str]) -> None:
        """Nothing came of what was claimed of these: they do not count for a while, or nobody does."""
        context = self._context
        self.doubts += 1
        until = context.now + penalty_s(context.policy, self.doubts)
        if self.doubts > DOUBTS_MAX or len(self._doubted) > FAR_MAX:
            self.void_until = until
            self._doubted.clear()
            self._far.clear()
        for device in devices:
            self._doubted[device] = until
            self._far.pop(device, None)
        self._since = None
        self._heard_at = -math.inf

    @property
    def since(self) -> float | None:
        """Since when there have been claims without a pause; None: there are none."""
        if next(self.known(), None) is None:
            self._since = None
        return self._since

    def drop_barred(self) -> None:
        """What is known of devices that are out of the fleet counts no more."""
        for device in self._context.barred & self._far.keys():
            del self._far[device]
            self.changed_at = self._context.now

    # Hearing

    def heard(self, peer: Peer, message: m.Hearsay) -> bool:
        """Take what a peer tells; whether anything is new but its age."""
        context, now, peers = self._context, self._context.now, self._context.peers
        line = self._line(peer.device)
        line.heard = {c.device: (c, now - c.age / 10) for c in message.claims}
        self._all_near = False
        changed = False
        answer = not line.begun
        for device, (claim, known_at) in line.heard.items():
            if device == context.device or device in context.barred:
                continue
            if device in peers:
                answer |= device not in line.told  # then it need not tell us of that one again
                continue
            if now - known_at > EXPIRY_S or now < self._doubted.get(device, 0.0):
                continue
            old = self._far.get(device)
            if old is not None and known_at <= old.known_at + 0.05:
                continue
            if old is None and not self._room(peer.device):
                continue
            who = Participant(device, claim.base, claim.wan, claim.weight, claim.complete)
            pack, passed = claim.pack, {}
            if old is not None and claim.pack in (None, old.pack):
                pack, passed = old.pack, old.passed
                passed |= {x: now + PASSED_S for x in old.leases if x not in claim.leases}
            done_at = old.complete_at if old is not None and old.participant.complete else now
            self._far[device] = Far(who, pack, claim.leases, known_at, peer.device, done_at, passed)
            answer |= known_at - self._passed_on.get(device, math.inf) >= REFRESH_S
            changed |= old is None or (old.participant, old.leases) != (who, claim.leases)
            self._since = now if self._since is None else self._since
            if now - self._heard_at > QUIET_S:
                self.begun_at = now
            self._heard_at = now
        if changed:
            self.changed_at = now
        if changed or answer:
            self.touch()
        return changed and now >= self.void_until

    def _line(self, device: str) -> _Line:
        """What was said between a peer and this node."""
        found = self._lines.get(device)
        if found is None:
            found = self._lines[device] = _Line()
        return found

    def _room(self, teller: str) -> bool:
        """Whether another device may be remembered on this peer's word."""
        if sum(far.teller == teller for far in self._far.values()) >= limits.CLAIMS_MAX:
            return False
        return len(self._far) < FAR_MAX

    # Telling

    def touch(self, *, leases: bool = False) -> None:
        """Something that is told has changed; `leases`: no more than what somebody fetches."""
        if self.due_at is None and not (leases and self._all_near):
            self.due_at = max(self._told_at + ROUND_S, self._context.now + FIRST_S)

    def tell(self, first: Iterable[Participant]) -> None:
        """Tell the relays of the devices `first` in the plan (this one is known to them)."""
        context, now = self._context, self._context.now
        self.due_at, self._told_at = None, now
        self._all_near = True
        members = context.members(self._image)
        claims = [claim for who in first if (claim := self._claim(who)) is not None]
        known = {c.device: (c, now - c.age / 10) for c in claims}
        self._passed_on = {device: known_at for device, (_, known_at) in known.items()}
        for device in dict.fromkeys((*self._relays_now(), *self._lines)):
            if device not in members:
                continue
            line, mine = self._line(device), known
            if device in known or len(known) > limits.CLAIMS_MAX:
                others = [item for item in known.items() if item[0] != device]
                mine = dict(others[: limits.CLAIMS_MAX])
            self._all_near = self._all_near and all(map(line.is_near, mine))
            if self._is_news(line, mine):
                line.begun = True
                line.told = mine
                context.send(device, m.Hearsay(self._image, tuple([c for c, _ in mine.values()])))

    def refresh(self) -> None:
        """Now and then look whether what was told has grown old."""
        if self._all_near or self.due_at is not None:
            return
        if self._context.now - self._told_at >= REFRESH_S / 2:
            self.due_at = self._context.now

    def forget(self, device: str) -> None:
        """A peer is gone, and what was said between us."""
        self._lines.pop(device, None)
        self._plain.pop(device, None)

    def _claim(self, who: Participant) -> m.Claim | None:
        """What this node knows of a device, at first hand or by hearsay."""
        context = self._context
        found = context.members(self._image).get(who.device)
        if found is not None:
            pack, spans = self._on_the_way(*found)
            if pack is None:
                return self._plain_claim(who)
            return m.Claim(who.device, 0, who.base, who.wan, who.weight, who.complete, pack, spans)
        far = self._far.get(who.device)
        if far is None or who.device in context.peers:
            return None
        age = max(1, round(10 * (context.now - far.known_at)))
        pack = far.pack if far.leases else None
        return m.Claim(who.device, age, who.base, who.wan, who.weight, who.complete, pack, far.leases)

    def _on_the_way(
        self, peer: Peer, remote: RemoteImage
    ) -> tuple[Digest | None, tuple[tuple[int, int], ...]]:
        """What a peer fetches, and what it fetched and is just giving this node: on a slow network that takes
        long, and who is further away would take it for lost.
        """
        if not remote.leases and (not peer.in_flight or remote.brings is None):
            return None, ()
        pack = next((lease.pack for lease in remote.leases.values()), remote.brings)
        spans = [(lease.start, lease.stop) for lease in remote.leases.values() if lease.pack == pack]
        coming: set[int] = set()
        if peer.in_flight and pack is not None and pack == remote.brings and pack in self.maps:
            keys = [a.piece for _, a in peer.waiting() if a.image == self._image and a.piece is not None]
            coming = {self.maps[pack][n].frame for name, n in keys if name == pack}
        for frame in sorted(coming):
            if not any(start <= frame < stop for start, stop in spans):
                spans.append((frame, frame + 1))
        return (pack if spans else None), tuple(sorted(spans[: limits.CLAIM_LEASES_MAX]))

    def _plain_claim(self, who: Participant) -> m.Claim:
        """Of a peer that fetches nothing: the same each time, until it says something else of itself."""
        kept = self._plain.get(who.device)
        if kept is None or kept[0] is not who:
            claim = m.Claim(who.device, 0, who.base, who.wan, who.weight, who.complete, None, ())
            kept = self._plain[who.device] = who, claim
        return kept[1]

    def _is_news(self, line: _Line, claims: Mapping[str, tuple[m.Claim, float]]) -> bool:
        """Whether a peer would learn anything; who is connected to a device needs nobody's word on it."""
        if not line.begun:
            return True  # also with nothing to tell: who is told of anything tells what it knows
        peers, line_told, line_heard = self._context.peers, line.told, line.heard
        for device, (before, _) in line_told.items():
            if not before.age and device not in peers:
                return True  # it no longer has from us what it has of its own
        for device, (claim, known_at) in claims.items():
            told = line_told.get(device)
            if not claim.age and (told is None or told[0].age):
                return True  # it need not tell us of that one any more
            heard = line_heard.get(device)
            if heard is not None:
                if not heard[0].age:
                    continue
                if told is None or heard[1] > told[1]:
                    told = heard
            if told is None or known_at - told[1] >= REFRESH_S:
                return True
            if known_at > told[1] and told[0] is not claim and told[0].content != claim.content:
                return True
        return False

    def _relays_now(self) -> list[str]:
        """The peers that this node tells: first in the order of pairs, the same from both ends."""
        version = self._context.members_version
        if self._relays is None or self._relays[0] != version:
            me = self._context.device
            members = sorted(self._context.members(self._image), key=lambda d: pair_order(me, d, b"relay\0"))
            self._relays = version, members[:RELAYS]
        return self._relays[1]
