"""Who asks the origin for the site: one device, the lookout, so that an idle site costs what one device does.

The lookout asks at its pace and tells its peers that the origin has answered; news themselves travel as
signed metadata, which each device verifies. The others put off their own question each time they hear so.
Their deadlines are later the further they are down a rendezvous order, so that the role moves by itself when
the lookout leaves, loses its link or goes quiet. Whoever takes it keeps it, whatever its place: it has a TLS
session, and peers bring it what is for the coordinator. Of two that are connected the first in the order goes
on; of two that are not, the one that is not overtaken again and again.

Word of others is never all: each device also asks by itself now and then, the more seldom the more there
are (up to `OTHERS`), so that somebody does about every `OWN` pauses, and a lookout that hides news is found
out by the first honest one. Not for when an answer is too old to be trusted (`p2p.trust`), nor for what is
asked (`agent.asking`).
"""

from __future__ import annotations

from p2p.content import limits
from p2p.content.digests import sha256
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.peer import Peer
from p2p.swarm.plan import rank

NEXT, STEP, STEPS = 1.5, 0.5, 3
"""Pauses after the last word at which the first in order asks, and how many more each further one waits, up
to so many steps; all jittered by half a pause. The lookout asks after half a pause to one and a half."""

OWN = 8
"""Pauses after which somebody of a site asks without regard to the word of others, on the average."""

OTHERS = 64
"""So many others at the most let a device ask more seldom: it relies on their word for `OWN` times as many
pauses on the average, and half as many again at the most."""

WORD_S = 30.0
"""So long a device that has just started with its own update waits, on the average, for a peer to tell when
the origin was asked: those that were not restarted, or before it, know."""

YIELDS = 3
"""So often in a row somebody elsewhere asks before the lookout does, until it leaves that to them."""

QUIET = 3.0
"""Pauses after which a device that has not asked is passed over in the order."""

RELAY = 5
"""Word is passed on to so many peers that may not have it: not all of a large site are connected. All but one
are those whose names follow: so each is told by those before it, and chance misses nobody."""

NEWER_S = 30.0
"""Word that is newer by less is no news, so that it goes round no more often than this."""


class Lookout:
    """What one node knows of when the origin was asked."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._key = sha256(b"lookout\0" + context.site.encode())
        self._version = 0
        self._heard_at = float("-inf")
        """When the origin was last asked, by whomever, and had nothing newer than what this node trusts."""
        self._own_at = self._own_before = float("-inf")
        """When this node itself did, and the time before."""
        self._teller: str | None = None
        self._leads = self._by_turn = False
        """This node asks for the site, since its turn came; its next question is not only its own check."""
        self._overtaken = 0
        """How often, since it asked, others did that it is not connected to."""
        self._ahead: dict[str, tuple[int, float]] = {}
        """By peer: such word about a timestamp that this node does not have yet. It may not exist."""
        self._knows: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        """By peer: up to when it is known to know, and when it asked itself."""
        self._before: dict[str, float] = {}
        """And when it did the time before."""

    def answered(self) -> None:
        """The origin has answered this device's own question, and what it has is trusted now."""
        context = self._context
        self._heard_at, self._overtaken = context.now, 0
        self._leads |= self._by_turn
        self._own_before, self._own_at = self._own_at, context.now
        word = m.OriginAsked(self._version, 0)
        for device, peer in context.peers.items():
            if peer.hello is not None:
                self._tell(device, word, context.now)

    def trusts(self, version: int) -> None:
        """The timestamp that the agent trusts now."""
        self._version = version
        borne_out = [at for claimed, at in self._ahead.values() if claimed <= version]
        self._ahead = {device: word for device, word in self._ahead.items() if word[0] > version}
        if borne_out:
            self._learn(max(borne_out))

    def greet(self, device: str) -> None:
        """Tell a newcomer what is known."""
        age = self._context.now - self._heard_at
        if age <= limits.ASKED_AGE_MAX:
            self._tell(device, m.OriginAsked(self._version, int(age)), self._heard_at)

    def heard(self, peer: Peer, word: m.OriginAsked) -> None:
        """A peer says that the origin was asked."""
        context = self._context
        context.stirred = False
        at = context.now - word.age
        self._knows[peer.device] = max(at, self._knows.get(peer.device, at))
        if not word.age:
            self._before[peer.device] = self._asked.get(peer.device, float("-inf"))
            self._asked[peer.device] = context.now
        if word.timestamp_version > self._version:
            self._ahead[peer.device] = word.timestamp_version, at
        elif word.timestamp_version == self._version:
            before = self._heard_at
            self._learn(at)
            if self._heard_at > before:
                self._teller = peer.device
                self._overtaken += word.age > 0
            elif not word.age and self._overtaken and at < before + NEWER_S:
                self._overtaken -= 1  # others had told of the same question first

    def lost(self, device: str) -> None:
        """A peer is gone."""
        self._knows.pop(device, None)
        self._asked.pop(device, None)
        self._before.pop(device, None)
        self._ahead.pop(device, None)

    @property
    def told(self) -> bool:
        """Whether this node knows when the origin was asked last."""
        return self._heard_at > float("-inf")

    def due(self, asked_at: float, pause_s: float, jitter: float, now: float) -> float:
        """When this device asks the origin, if it hears nothing until then.

        `asked_at`: when it last did; `jitter`: a uniform draw from 0 to 1, the same until it asks again.
        """
        ahead, others = self._order(pause_s, now)
        spread = 0.5 + jitter
        if not self._context.peers:
            return asked_at + pause_s * spread
        last = max(asked_at, self._heard_at)
        if self._leads and (self._overtaken >= YIELDS or ahead == STEPS or self._led(pause_s)):
            self._leads = False
        wait = NEXT + STEP * min(ahead, STEPS) + 0.5 * jitter
        if self._leads:
            wait = spread if not self._overtaken else NEXT - 0.25 + 0.25 * jitter
        turn, own = last + pause_s * wait, asked_at + pause_s * OWN * max(1, others) * spread
        self._by_turn = turn <= own
        return min(turn, own)

    @property
    def leads(self) -> bool:
        """Whether this node asks for its site."""
        return self._leads

    @property
    def spoke_last(self) -> bool:
        """Whether this node was the last to ask the origin, as far as it knows."""
        return self._own_at >= self._heard_at > float("-inf")

    @property
    def toward(self) -> str | None:
        """The peer that is nearer to whoever asked last: the one that told of it first."""
        return self._teller if self._teller in self._context.peers else None

    def speakers(self) -> list[str]:
        """Whom of its peers this node may give what is for the coordinator, the likeliest to reach it first.

        Nobody, if it was the last to ask itself.
        """
        if self.spoke_last:
            return []
        able = {d: 100 for d, p in self._context.peers.items() if p.hello is not None and p.hello.wan}
        toward, order = self.toward, rank(self._key, able)
        return order if toward is None else [toward, *(d for d in order if d != toward)]

    # Inside

    def _awake(self, pause_s: float, now: float) -> tuple[list[str], list[str]]:
        """Which peers could ask at all, and which of them do."""
        able = [
            p for d, p in self._context.peers.items()
            if p.hello is not None and (p.hello.wan or d in self._asked)
        ]  # fmt: skip  # a link may have come up since the hello
        return [p.device for p in able], [
            p.device
            for p in able
            if now - max(p.connected_at, self._asked.get(p.device, p.connected_at)) <= QUIET * pause_s
        ]

    def _led(self, pause_s: float) -> bool:
        """Whether a peer that comes before this node asks for the site, again and again."""
        context, often = self._context, 2 * QUIET * pause_s
        _, awake = self._awake(pause_s, context.now)
        ask = [d for d in awake if context.now - self._before.get(d, float("-inf")) <= often]
        return bool(ask) and rank(self._key, dict.fromkeys([*ask, context.device], 100))[0] != context.device

    def _order(self, pause_s: float, now: float) -> tuple[int, int]:
        """How many peers come before this device, and how many could ask at all, up to `OTHERS`."""
        able, awake = self._awake(pause_s, now)
        if awake and not self._context.weight:
            return STEPS, min(len(able), OTHERS)  # its link or its power is dear: whoever else can, asks
        order = rank(self._key, dict.fromkeys([*awake, self._context.device], 100))
        return order.index(self._context.device), min(len(able), OTHERS)

    def _learn(self, at: float) -> None:
        """The origin was asked then, and had nothing newer than what is trusted."""
        if at < self._heard_at + NEWER_S:
            return
        self._heard_at = at
        age = max(1, int(self._context.now - at))
        if age <= limits.ASKED_AGE_MAX:
            self._pass_on(m.OriginAsked(self._version, age), at)

    def _pass_on(self, word: m.OriginAsked, at: float) -> None:
        context = self._context
        waiting = [
            d for d, p in context.peers.items()
            if p.hello is not None and self._knows.get(d, float("-inf")) < at - NEWER_S
        ]  # fmt: skip
        following = sorted(waiting, key=lambda device: (device < context.device, device))
        told, waiting = following[: RELAY - 1], following[RELAY - 1 :]
        if waiting:
            told.append(waiting[int(context.rng.random() * len(waiting))])
        for device in told:
            self._tell(device, word, at)

    def _tell(self, device: str, word: m.OriginAsked, at: float) -> None:
        self._knows[device] = at
        self._context.send(device, word)
