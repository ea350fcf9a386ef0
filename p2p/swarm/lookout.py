"""Who asks the origin for the site: one device, the lookout, so that an idle site costs what one device does.

The lookout is the first in rendezvous order of those that can reach the origin. It asks at its pace and tells
its peers that the origin has answered; news themselves travel as signed metadata, which each device verifies.
The others put off their own question each time they hear so. Their deadlines are later the further they are
down the order, so that the role moves by itself to the next when the lookout leaves, loses its link or goes
quiet, and in sites where not all are connected more than one may have it.

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
"""Pauses after the last word at which the second in order asks, and how many more each further one waits, up
to so many steps; all jittered by half a pause. The lookout asks after half a pause to one and a half."""

OWN = 8
"""Pauses after which somebody of a site asks without regard to the word of others, on the average."""

OTHERS = 16
"""So many others at the most let a device ask more seldom: it relies on their word for `OWN` times as many
pauses on the average, and half as many again at the most."""

QUIET = 3.0
"""Pauses after which a device that has not asked is passed over in the order."""

RELAY = 4
"""Word is passed on to so many peers that may not have it: not all of a large site are connected."""

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
        self._ahead: dict[str, tuple[int, float]] = {}
        """By peer: such word about a timestamp that this node does not have yet. It may not exist."""
        self._knows: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        """By peer: up to when it is known to know, and when it asked itself."""

    def answered(self) -> None:
        """The origin has answered this device's own question, and what it has is trusted now."""
        context = self._context
        self._heard_at = context.now
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
            self._asked[peer.device] = context.now
        if word.timestamp_version > self._version:
            self._ahead[peer.device] = word.timestamp_version, at
        elif word.timestamp_version == self._version:
            self._learn(at)

    def lost(self, device: str) -> None:
        """A peer is gone."""
        self._knows.pop(device, None)
        self._asked.pop(device, None)
        self._ahead.pop(device, None)

    def due(self, asked_at: float, pause_s: float, jitter: float, now: float) -> float:
        """When this device asks the origin, if it hears nothing until then.

        `asked_at`: when it last did; `jitter`: a uniform draw from 0 to 1, the same until it asks again.
        """
        ahead, others = self._order(pause_s, now)
        spread = 0.5 + jitter
        if not self._context.peers:
            return asked_at + pause_s * spread
        last = max(asked_at, self._heard_at)
        wait = spread if not ahead else NEXT + STEP * min(ahead, STEPS) + 0.5 * jitter
        return min(last + pause_s * wait, asked_at + pause_s * OWN * max(1, others) * spread)

    def before(self, pause_s: float, now: float) -> list[str]:
        """The connected peers that come before this device, in order: who asks in its stead."""
        context = self._context
        _, awake = self._awake(pause_s, now)
        if not (context.weight and context.reachable):
            return rank(self._key, dict.fromkeys(awake, 100))
        order = rank(self._key, dict.fromkeys([*awake, context.device], 100))
        return order[: order.index(context.device)]

    # Inside

    def _awake(self, pause_s: float, now: float) -> tuple[int, list[str]]:
        """How many peers could ask at all, and which of them do."""
        able = [
            p for d, p in self._context.peers.items()
            if p.hello is not None and (p.hello.wan or d in self._asked)
        ]  # fmt: skip  # a link may have come up since the hello
        return len(able), [
            p.device
            for p in able
            if now - max(p.connected_at, self._asked.get(p.device, p.connected_at)) <= QUIET * pause_s
        ]

    def _order(self, pause_s: float, now: float) -> tuple[int, int]:
        """How many peers come before this device, and how many could ask at all, up to `OTHERS`."""
        able, awake = self._awake(pause_s, now)
        if awake and not self._context.weight:
            return STEPS, min(able, OTHERS)  # its link or its power is dear: whoever else can, asks
        order = rank(self._key, dict.fromkeys([*awake, self._context.device], 100))
        return order.index(self._context.device), min(able, OTHERS)

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
        for _ in range(min(RELAY, len(waiting))):
            self._tell(waiting.pop(int(context.rng.random() * len(waiting))), word, at)

    def _tell(self, device: str, word: m.OriginAsked, at: float) -> None:
        self._knows[device] = at
        self._context.send(device, word)
