"""The site as one node sees it for one image: who takes part, whom it believes, and the plan that follows.

What others told of themselves is not all: the roster names devices that are still waking up, a peer that
has yet to hear of the image may need less of the WAN than those that have, a node that calls itself complete
but gives nothing must not keep the site from the WAN, and how a device kept its promises outlives its
connections. `SiteView` turns all that into the arguments of the pure
rule in `plan`, and holds its result. Not for the image itself (`image`) nor for what is fetched or
asked for (`gateway`, `rider`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.swarm.context import Context
from p2p.swarm.events import ImageTask
from p2p.swarm.hearsay import TOLD, Hearsay
from p2p.swarm.peer import Conduct, Peer, RemoteImage
from p2p.swarm.plan import Participant, SitePlan, gateway_count, make_plan, rank, uplink_prices
from p2p.swarm.stock import stock

CONDUCTS_MAX = 256

CROWD, GATHER_MAX = 12, 4
"""With more peers than this a site may be larger than what one node sees: it gathers up to so much longer."""

GREET_S = 0.25
"""In about this time a peer answers a `Join` with its leases."""

COMPLETE_TOLD = 2
"""How many complete devices are told of: one is enough, two outlive the loss of one."""


class SiteView:
    """`plan` and `gateways` (devices, the responsible one first) as of the last `renew`.

    `first`: others who are told of to those that may not know them, the most important first.
    `keeper`: who fetches indexes for those that only hear of each other. `known`: nobody has to be
    waited for, as this node needs nothing of the image. `spare`: so many gateways more than usual, as
    nothing has come: those of the `moving`, of whose fetches bytes come, that were called before, and others
    that do not fetch yet. `waits`: nothing is planned yet, as a peer that does not take part yet may make a
    smaller pack possible; until `waits_until`. `coming`: packs of which this node fetches frames, with the
    bytes of those that are not whole that the others were told of.
    """

    def __init__(self, context: Context, task: ImageTask, hearsay: Hearsay, *, known: bool) -> None:
        self.plan = SitePlan(None)
        self.gateways: tuple[str, ...] = ()
        self.first: tuple[Participant, ...] = ()
        self.keeper: str | None = None
        self.spare = 0
        self.moving: AbstractSet[str] = frozenset()
        self.waits = False
        self.waits_until = math.inf
        self.coming: list[tuple[Digest, int]] = []
        self.ready_at: float | None = None
        self._hearsay = hearsay
        self._context = context
        self._task = task
        self._started = self._told_at = context.now
        self._asked_at = -math.inf
        self._gathered = known
        self._begun = known
        told = ((device, peer.images.get(task.image)) for device, peer in context.peers.items())
        said = {device: remote.conduct.complete_at for device, remote in told if remote is not None}
        self._conducts = {device: Conduct(complete_at=at) for device, at in said.items()}
        self._returning: dict[str, float] = {}
        self._awaits_until = -math.inf
        self._trusted_at: float | None = None
        self._disbelieved: set[str] = set()
        self._basis: tuple[list[Participant], list[Participant], dict[Digest, int], set[str]] | None = None
        self._ranked: list[str] = []
        self._dear: list[str] = []
        departed = context.departed.take(task.image)
        for device, left_at in () if known else departed.items():
            self._await(device, left_at)

    @property
    def ready(self) -> bool:
        """Whether those who start together have been heard, so that the plan counts them."""
        context = self._context
        if not self._gathered and self._greeted:
            # By the roster alone, the plan counts those in who are still to join.
            self._gathered = self._over() if context.settled else self._roster_known
        ready = self._gathered and (context.settled or self._roster_known)
        if ready and self.ready_at is None:
            self.ready_at = context.now
        return ready

    @property
    def due_at(self) -> float | None:
        """When time alone brings this further: it is ready then, or waits no more for a peer."""
        if self.ready_at is not None:
            return self.waits_until if self.waits and self.ready else None
        if self._gathered:
            return None
        if not self._greeted:
            return self._started + GREET_S
        return self._over_at if self._context.settled else None

    @property
    def _greeted(self) -> bool:
        """Whether those who were at the image before this node have told it what they fetch."""
        context = self._context
        return context.now >= self._started + GREET_S or not context.remotes(self._task.image)

    @property
    def _roster_known(self) -> bool:
        """Whether the roster tells all that the plan needs: of all who are still to join, what they hold."""
        context, members = self._context, self._context.members(self._task.image)
        expected = context.expected
        return context.whole and bool(expected) and all(h or d in members for d, h in expected.items())

    @property
    def _over_at(self) -> float:
        """When nobody is waited for any more, whoever has not joined; in a crowd, no news from far away."""
        started, gather_s = self._started, self._context.policy.gather_s
        if len(self._context.peers) > CROWD or self._hearsay.since is not None:
            quiet_at = max(started, self._hearsay.changed_at) + gather_s
            return min(started + GATHER_MAX * gather_s, quiet_at)
        return started + gather_s

    def _over(self) -> bool:
        """Whether nobody has to be waited for any more."""
        context = self._context
        if context.now >= self._over_at:
            return True
        if len(context.peers) > CROWD or self._hearsay.since is not None:
            return False
        joined = len(context.remotes(self._task.image)) == len(context.peers)
        return joined and all(d in context.peers for d in context.expected)

    def renew(
        self,
        own: Participant,
        packs: Mapping[Digest, PieceMap],
        serves: Mapping[Digest, AbstractSet[int]],
        busy: Mapping[str, Digest | None],
        progress_at: float,
        *,
        asking: bool,
        left_alone: Callable[[Digest], int],
    ) -> None:
        """Make the plan anew.

        `own` is this node, `packs` those whose index it has, `serves` the pieces of them that it
        serves (by index digest), `busy` the devices that fetch already, and of which pack; `progress_at`:
        when this node last came further; `asking`: whether peers were asked for pieces that have not come;
        `left_alone`: stored bytes that this device lacks along a pack of which it has the index.
        """
        context, image = self._context, self._task.image
        told_at = (c.complete_at or 0.0 for c in self._conducts.values())
        first_at = min((at for at in told_at if at > progress_at), default=0.0)
        self._told_at = max(self._started, progress_at, first_at)
        if asking and context.now - self._told_at <= 2 * context.policy.fallback_s:
            self._asked_at = context.now
        if own.complete:
            self._basis = None
            self.plan, self.gateways, self.first, self.keeper = SitePlan(None), (), (), None
            self.waits = False
            return
        ways = self._task.packs
        self._disbelieved.clear()
        participants = list(self._participants(own, packs))
        if prices := context.prices:
            participants = [replace(p, price=prices.get(p.device)) for p in participants]
        alone = len(participants) <= 1 + len(self._disbelieved)  # nobody else has, or needs, anything of it
        held = self._held(packs, serves, busy.values(), left_alone if alone else None)
        self._begun |= bool(busy) or any(held.get(p.index.sha256, 0) > p.index.size for p in ways)
        self.waits_until = math.inf
        outsiders = [] if self._begun else list(self._outsiders())
        conducts = [(p.device, r.conduct) for p, r in context.remotes(image)]
        stalled = {device for device, c in conducts if c.owes or c.stalled_until > context.now}
        if (participants, outsiders, held, stalled) != self._basis:
            self._basis = participants, outsiders, held, stalled
            rule = held, self._task.size, context.policy.cost
            self.plan = make_plan(ways, participants, *rule)
            best = make_plan(ways, participants + outsiders, *rule) if outsiders else self.plan
            self.waits = best.pack != self.plan.pack
            if self.waits:
                self.plan = SitePlan(None)
            self._ranked = self._rank(participants, stalled)
        order = self._ranked
        self.keeper = order[0] if order else None
        if busy:  # incumbents first: a newcomer never displaces one
            order = sorted(order, key=lambda d: d not in busy)
        count = gateway_count(len(participants), context.policy.gateways_max)
        others = (*order[count:], *self._dear)
        called = sum(device in self.moving for device in others)
        spares = [d for d in others if d not in busy][: max(0, self.spare - called)]
        self.gateways = (*order[:count], *spares)
        complete = [p for p in participants if p.complete and p is not own]
        self.first = (*complete[:COMPLETE_TOLD], *self._told_of(own, participants, order[:TOLD]))

    def _told_of(
        self, own: Participant, participants: Collection[Participant], foremost: Sequence[str]
    ) -> Iterator[Participant]:
        """Of those that are not complete, whom others are told of: the foremost of the plan.

        Those that only the roster knows may never come. Where all of them are such, far devices must know of
        each other for that case, so they are told of the first of those that are here.
        """
        context, who = self._context, {p.device: p for p in participants}
        if foremost and not any(d in context.peers or d == own.device for d in foremost):
            known = {far.participant.device for far in self._hearsay.known()}
            absent = {device for device, _ in context.absent()} - known
            if absent.issuperset(foremost):
                near = {p.device: p.weight or 1 for p in participants if p.wan and p.device in context.peers}
                foremost = rank(self._task.image, near)[:TOLD]
        return (who[d] for d in foremost if d != own.device)

    def _rank(self, participants: Collection[Participant], stalled: Collection[str]) -> list[str]:
        """The plan's candidates in rendezvous order, without those that stalled if there are others; of the
        rest, those whose WAN costs least; the others are called where nothing comes of these."""
        candidates = set(self.plan.candidates)
        # Where all are 0, chance decides as elsewhere, not the name.
        weights = {p.device: p.weight or 1 for p in participants if p.device in candidates}
        sound = {d: w for d, w in weights.items() if d not in stalled} or weights
        prices = uplink_prices(p for p in participants if p.device in sound) if self._context.prices else {}
        if prices:
            least = min(prices.values())
            sound = {d: w for d, w in sound.items() if prices[d] == least}
        dear = {d: weights[d] for d in prices if d not in sound}
        self._dear = rank(self._task.image, dear) if dear else []
        return rank(self._task.image, sound)

    def conduct(self, device: str) -> Conduct:
        """What this node remembers of a device, whatever becomes of its connections."""
        found = self._conducts.get(device)
        if found is None:
            if len(self._conducts) >= CONDUCTS_MAX:
                gone = [d for d in self._conducts if d not in self._context.peers]
                self._conducts.pop(next(iter(gone), next(iter(self._conducts))))
            found = self._conducts[device] = Conduct()
        return found

    def left_by(self, peer: Peer, remote: RemoteImage) -> None:
        """A peer is gone; if it was complete, it will be again. Each wait is paid for with a piece.

        But for the first of those who have given nothing, which all of them share.
        """
        said, conduct, now = remote.participant, remote.conduct, self._context.now
        if said is None or not said.complete or conduct.distrusted or peer.at_fault:
            return
        if conduct.gave_at > conduct.awaited_at:
            self._await(peer.device, now)
        elif conduct.awaited_at == -math.inf:
            if self._trusted_at is None or any(c.gave_at > self._trusted_at for c in self._conducts.values()):
                self._trusted_at = now
            self._await(peer.device, self._trusted_at)

    def _await(self, device: str, left_at: float) -> None:
        """A device that left with the image will be back."""
        self.conduct(device).awaited_at = left_at
        self._returning[device] = until = left_at + self._context.policy.return_s
        self._awaits_until = max(self._awaits_until, until)

    def entered_by(self, device: str) -> None:
        """A peer takes part, and need not be waited for."""
        if self._returning.pop(device, None) is not None and not self._returning:
            self._awaits_until = min(self._awaits_until, self._context.now)

    def await_no_more(self, devices: AbstractSet[str]) -> None:
        """These will not be back."""
        for device in devices & self._returning.keys():
            self.entered_by(device)

    @property
    def awaits_until(self) -> float:
        """Until when somebody who has the image is waited for, or was; -inf: nobody ever."""
        longest = self._started + self._context.policy.return_s
        if self._context.now < longest > self._awaits_until and any(True for _ in self._resting()):
            self._awaits_until = longest
        return self._awaits_until

    def _resting(self) -> Iterator[str]:
        """Devices that have the image by the roster's account and do not offer it yet.

        Who is connected may still be trying what it has started from.
        """
        context, image = self._context, self._task.image
        if context.now - self._started < context.policy.return_s:
            members = context.members(image)
            for device, held in context.expected.items():
                if held == image and device not in members:
                    yield device

    def _participants(self, own: Participant, packs: Collection[Digest]) -> Iterator[Participant]:
        """Everybody who counts for the plan, this node included."""
        context, image = self._context, self._task.image
        yield own
        for _, remote in context.remotes(image):
            if remote.participant is not None and not remote.distrusted:
                said = remote.participant
                yield self._believed(remote, said, packs) if said.complete else said
        for far in self._hearsay.known():
            yield far.participant
        for device, held in context.absent():
            yield self._expected(device, held)
        for device, until in list(self._returning.items()):
            if context.now < until:
                yield Participant(device, None, False, complete=True)
            else:
                del self._returning[device]
        for device in self._resting() if context.settled else ():
            yield Participant(device, None, False, complete=True)
        if not context.settled and self._roster_known:
            for device, peer in context.peers.items():
                known = peer.images.get(image)
                if (known is None or known.participant is None) and device in context.expected:
                    yield self._expected(device, context.expected[device])

    def _outsiders(self) -> Iterator[Participant]:
        """Peers that do not take part, as they may be soon: those of the roster with what they held.

        Others might hold anything. Each is waited for once, and no longer than news take to be heard.
        """
        context, join_s = self._context, self._context.policy.join_s
        members = context.members(self._task.image)
        smallest = min(self._task.packs, key=lambda pack: pack.wan_bytes)
        for device, peer in context.peers.items():
            since = max(self._started, peer.connected_at)
            if device in members or context.now >= since + join_s or since > self._started + join_s:
                continue
            held = context.expected.get(device)
            if held != self._task.image:
                self.waits_until = min(self.waits_until, since + join_s)
                wan = peer.hello is None or peer.hello.wan
                yield Participant(device, held or smallest.base, wan)

    def _believed(self, remote: RemoteImage, said: Participant, packs: Collection[Digest]) -> Participant:
        """A node that says it is complete but gives nothing does not keep the site from the WAN for long.

        With pieces to ask of it, no longer than until each node would have lost patience with its site: from
        the first who said so since anything came, however many follow. Without, it has its time after others
        were asked, who may have been the ones that lied.
        """
        policy = self._context.policy
        since = max(remote.conduct.complete_at or 0.0, self._started, self._asked_at)
        patience_s = policy.stall_s + policy.object_s
        if remote.useful or any(remote.has_all(pack) for pack in packs):
            since, patience_s = self._told_at, 2 * policy.fallback_s
        if self._context.now - since <= patience_s:
            return said
        self._disbelieved.add(said.device)
        return replace(said, complete=False, wan=False)

    def _expected(self, device: str, held: Digest | None) -> Participant:
        """A device that is only known by the roster, which also says which image it holds."""
        return Participant(device, held, True, complete=held == self._task.image)

    def _held(
        self,
        packs: Mapping[Digest, PieceMap],
        serves: Mapping[Digest, AbstractSet[int]],
        fetched: Collection[Digest | None],
        left_alone: Callable[[Digest], int] | None,
    ) -> dict[Digest, int]:
        """Stored bytes of each pack that the site already has.

        Who says that it is complete and is not believed has nothing. Of a pack that is being fetched the
        beginnings of frames count, and half of the rest. So much of it may be on its way, and all nodes
        change their mind together: only for what is much less.
        """
        if len(self._task.packs) == 1:
            return {}  # nothing to compare it with
        remotes = self._context.remotes(self._task.image)
        believed = [r for p, r in remotes if not r.distrusted and p.device not in self._disbelieved]
        held = stock(self._task.packs, packs, serves, believed)
        for pack in self._task.packs:
            name = pack.index.sha256
            if left_alone is not None and name in packs:
                held[name] = pack.wan_bytes - left_alone(name)
            if name in fetched:
                here = min(pack.wan_bytes, held.get(name, 0) + self._coming_of(name))
                held[name] = (here + pack.wan_bytes) // 2
        return held

    def _coming_of(self, pack: Digest) -> int:
        """Bytes that devices of the site have of a pack's frames that are not whole, by their account."""
        remotes = self._context.remotes(self._task.image)
        leases = (x for _, r in remotes if not r.distrusted for x in r.leases.values() if x.pack == pack)
        return sum(lease.came for lease in leases) + sum(came for name, came in self.coming if name == pack)
