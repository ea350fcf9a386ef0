"""A device asks what is meant for it: the real trust client, stepped at the agent's pace.

As `p2p.agent.asking` and `p2p.agent.polling` do: at its start, when it is its turn, after trouble, and when a
peer has news. What follows from a decision is the `lifecycle`'s; where files come from is `metadata`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from p2p.adapters.installer import ReleaseBlockedError
from p2p.errors import SlipstreamError, StoreError, TrustError
from p2p.swarm.lookout import WORD_S
from p2p.trust import Decision, Doubts, Pace, Question, Revocations, TrustClient, release_for
from p2p.trust.documents import Reader
from p2p.trust.store import TrustStore
from sim.world.character import Character
from sim.world.metadata import MetadataAnswers, drive
from sim.world.trust import DeviceClock
from sim.world.witness import Swarm, Time

NEWS_PAUSE_S = 2.0
"""As in `p2p.agent.asking`: claims of news lead to no more than one question in this time."""

ROOTS_HELD = 8


class Life(Protocol):
    """Whose questions they are."""

    @property
    def settling(self) -> bool:
        """Whether something is on trial or armed: nothing is asked before that is done."""

    def floor_now(self) -> int:
        """The release-counter floor. Raises `TrustError` or `StoreError`."""

    def after_disk(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call in `seconds`, after what the disk has to do, if this life goes on till then."""

    def still(self, call: Callable[..., object], *first: Any) -> Callable[..., None]:
        """`call`, as long as this life goes on."""

    def decided(self, decision: Decision) -> None:
        """This is what the metadata says."""

    def undecided(self, error: SlipstreamError) -> None:
        """It could not be had, or is refused."""


class Asking:
    """The questions of one device. `trust` is its trust client, new with every start (`open`)."""

    trust: TrustClient
    revocations: Revocations | None = None

    def __init__(
        self,
        life: Life,
        character: Character,
        swarm: Swarm,
        time: Time,
        rng: random.Random,
        reader: Reader,
        clock: DeviceClock,
    ) -> None:
        self._life = life
        self._character = character
        self._swarm = swarm
        self._time = time
        self._rng = rng
        self._reader = reader
        self._clock = clock
        self._pace = Pace()
        self._doubts = Doubts()
        self._before: dict[str, int] = {}
        self._poll = 0
        self._heeded = -1
        self._asked_at = float("-inf")
        self._own_at = float("-inf")
        self._turn = True
        self._anew_at: float | None = None
        self._asking = False
        self._asked_for = self._heard = False
        """While a question is under way: an operator says that there is news, or a peer does."""
        self._told = False
        """An operator has said so since the last question."""

    def open(self, store: TrustStore, revocations: Revocations | None = None) -> None:
        """The agent starts: trust what was kept."""
        self.revocations = revocations
        self._heeded = -1
        self._heed()
        character = self._character
        self.trust = TrustClient(store, character.root, build_time=character.build_time, reader=self._reader)

    def stop(self) -> None:
        """The agent ends."""
        self._asking = self._asked_for = self._heard = False
        self._own_at = float("-inf")
        self._turn = True
        self._anew_at = None
        self._doubts = Doubts()
        self._pace.answered()

    def began_anew(self) -> None:
        """This start is part of an update: what is meant is held, and peers may say whether there is more."""
        if self._character.lookout:
            self._turn, self._anew_at = False, self._time.now
            self._own_at = self._anew_at

    def now(self) -> None:
        """Refresh the metadata and decide what this device should run."""
        if self._asking or self._life.settling:
            return
        self._asking = True
        wan = self._character.has_wan
        first = wan and (self._asked_for or self._told or self._turn or not self._character.lookout)
        self._asked_for = self._heard = self._told = False
        self._asked_at = self._time.now
        self._before = self._claims

        def failed(error: SlipstreamError) -> None:
            self._turn = first
            if first or not wan:
                self._undecided(error)
            else:  # peers are of no help
                self._decide(True, lambda decision: self._check_news(decision, wan=False), self._undecided)

        self._decide(first, lambda decision: self._check_news(decision, wan=wan and not first), failed)

    def soon(self, *, claimed: str = "") -> None:
        """There is news: ask, but not more often than once in `NEWS_PAUSE_S`. `claimed`: by this peer.

        A question that is under way may have missed it, and is followed by another if so.
        """
        if claimed and not self._doubts.heeds(claimed, self._time.now):
            return
        if self._asking:
            self._heard |= bool(claimed)
            self._asked_for |= not claimed
        else:
            self._told |= not claimed
        self._in(max(0.0, self._asked_at + NEWS_PAUSE_S - self._time.now))

    def later(self, *, well: bool = True) -> None:
        """Ask again when it is time. `well`: what was decided is done, so trouble begins anew."""
        if well:
            self._pace.answered()
        jitter = self._character.poll_jitter
        self._wait_for_turn(0.5 - jitter + 2 * jitter * self._rng.random())

    def again(self, error: SlipstreamError) -> None:
        """Ask again after trouble."""
        lasting = isinstance(error, TrustError | ReleaseBlockedError)
        pause_s, jitter = self._character.poll_s, self._rng.random()
        wait = self._pace.after_trouble(pause_s, jitter, lasting=lasting)
        if not self._turn:  # else the last question failed, and is tried again at the pace of trouble
            wait = max(0.0, min(wait, self._turn_at(pause_s, jitter) - self._time.now))
        self._poll += 1
        self._life.after_disk(wait, self._trouble_over, self._poll, jitter)

    # Inside

    def _wait_for_turn(self, jitter: float) -> None:
        pause_s, now = self._character.poll_s, self._time.now
        left = self._turn_at(pause_s, jitter) - now
        self._poll += 1  # who comes first may have left meanwhile, so it is looked again
        self._life.after_disk(min(max(0.0, left), pause_s / 2), self._waited, self._poll, jitter)

    def _waited(self, poll: int, jitter: float) -> None:
        if poll != self._poll:
            return
        if self._turn_at(self._character.poll_s, jitter) > self._time.now + 1e-6:
            self._wait_for_turn(jitter)
            return
        self._turn = True
        self.now()

    def _trouble_over(self, poll: int, jitter: float) -> None:
        if poll == self._poll:
            self._turn |= self._turn_at(self._character.poll_s, jitter) <= self._time.now + 1e-6
            self.now()

    def _turn_at(self, pause_s: float, jitter: float) -> float:
        """When this device asks the origin, as far as is known now."""
        if not (self._character.has_wan and self._character.lookout):
            return self._asked_at + pause_s * (0.5 + jitter)
        if self._anew_at is not None:
            if not self._swarm.told_of_origin:
                return self._anew_at + min(WORD_S, pause_s) * (0.5 + jitter)
            self._anew_at = None
        now, own = self._time.now, self._own_at + pause_s * (0.5 + jitter)
        turn = self._swarm.asks_at(self._own_at, pause_s, jitter)
        content_s = self.trust.content_until - max(self.trust.time, self._clock.read(now))
        return min(turn, max(own, now + content_s))

    def _in(self, seconds: float) -> None:
        self._poll += 1
        self._life.after_disk(seconds, self._due, self._poll)

    def _due(self, poll: int) -> None:
        if poll == self._poll:
            self.now()

    def _decide(
        self, wan: bool, done: Callable[[Decision], None], failed: Callable[[SlipstreamError], None]
    ) -> None:
        character = self._character
        if wan:
            self._own_at, self._turn, self._anew_at = self._time.now, False, None
        try:
            floor = self._life.floor_now()
        except (TrustError, StoreError) as error:
            failed(error)
            return
        answers = MetadataAnswers(self._swarm, wan=wan)

        def answer(need: Any, then: Callable[[Any], None]) -> None:
            answers.answer(need, self._life.still(then))

        member = character.member
        question = Question(member, character.product, member.hardware, floor, revocations=self.revocations)
        steps = release_for(self.trust, question, self._clock.read(self._time.now))

        def decided(decision: Decision) -> None:
            self._heed()
            if answers.origin_reached:
                self._swarm.polled()
            if answers.origin_told:
                self._pass_on()
                self._swarm.answered()
            done(decision)

        def undecided(error: SlipstreamError) -> None:
            self._heed()
            if answers.origin_reached:
                self._swarm.polled()
            failed(error)

        drive(steps, answer, decided, undecided)

    def _heed(self) -> None:
        """What the list says takes effect, as `p2p.agent.revoking` has it."""
        register = self.revocations
        if register is not None and register.taken != self._heeded:
            self._heeded = register.taken
            self._swarm.revoked(register.devices)

    def _check_news(self, decision: Decision, *, wan: bool) -> None:
        """An origin that lags behind (a stale cache, a replay): peers can bring forward, never back. Or peers
        that do not give what they claim (`wan`): the origin has it, if there is any."""
        if not self._claims:
            self._decided(decision)
            return

        def looked(decision: Decision) -> None:
            version = self.trust.versions.get("timestamp", 0)
            for device in self._claims:
                if self._before.get(device, 0) > version:  # not what was claimed meanwhile
                    self._doubts.doubt(device, self._time.now, self._character.poll_s)
            self._decided(decision)

        self._decide(wan, looked, lambda error: looked(decision))

    @property
    def _claims(self) -> dict[str, int]:
        """What peers that are not doubted claim to know, beyond what is trusted: timestamp versions."""
        version, now = self.trust.versions.get("timestamp", 0), self._time.now
        claims = {d: claimed for d, (_, claimed) in self._swarm.news.items() if claimed > version}
        return {device: claimed for device, claimed in claims.items() if self._doubts.heeds(device, now)}

    def _undecided(self, error: SlipstreamError) -> None:
        self._asking = False
        self._life.undecided(error)
        self._ask_again()

    def _ask_again(self) -> None:
        """What came while the question was under way, and was not answered by it, counts."""
        if not self._asking and (self._asked_for or (self._heard and self._claims)):
            self.soon()

    def _decided(self, decision: Decision) -> None:
        self._asking = False
        self._pass_on()
        self._life.decided(decision)
        self._ask_again()

    def _pass_on(self) -> None:
        versions = self.trust.versions
        newest = versions.get("root", 1)
        for version in range(max(2, newest - ROOTS_HELD), newest + 1):
            root = self.trust.held_root(version)
            if root is not None:
                self._swarm.hold(f"{version}.root.json", version, root)
        timestamp = self.trust.held_timestamp()
        if timestamp is not None:
            self._swarm.hold("timestamp.json", versions["timestamp"], timestamp)
