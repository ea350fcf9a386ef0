"""How a device's report gets to the coordinator through a peer: whom it is given to, and what comes of it.

It goes to the one that asked the origin last (`lookout`): word of that went from peer to peer, and reports go
the same way back. A peer is first asked whether it takes reports, as older nodes know no such message. One
that is lost, refuses or is doubted is passed over for another; in the end the report comes back to the agent,
which goes to the coordinator itself. Where it has no WAN the report waits for a carrier, which takes it home.

What a peer says became of a report is a hint: the agent hears the truth when it next asks the coordinator
(`agent.handing_in`), and who said otherwise, or nothing, is doubted here for a while. Not for when to report,
nor for how the reports of others are gathered (`report_desk`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from p2p.content import limits
from p2p.content.report import UNSUPPORTED
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.lookout import Lookout
from p2p.swarm.peer import Asked, Peer

PROBE = "reports"
"""Asked for like metadata, which a node that takes no reports does not have."""

NOBODY, NO_WORD = "nobody", "no-word"
"""What became of a report that no peer takes, and of one that a peer has and says nothing of."""

TRIES_MAX = 3
"""Peers that a report is offered to before its device goes to the coordinator itself."""

PASSED_MAX, HELD_MAX = 512, 32
"""Reports of others on their way through this node, and that wait for each peer to say that it takes any.

Where there are as many, the oldest goes of whoever brought the most: nobody pushes out what others brought.
"""

DOUBT_S = 86_400.0
"""How long a peer gets no report that did not hand one in, though it said so; twice as long each time."""

DOUBTS_MAX = 256

REFUSED_S = 86_400.0
"""How long a peer that said that it takes no reports is not asked again: its coordinator may get to."""


class Relay:
    """The reports of one node: its own, and those of peers on their way through it."""

    def __init__(self, context: Context, lookout: Lookout) -> None:
        self._context = context
        self._lookout = lookout
        self._hands_in = False
        self._takes: dict[str, bool] = {}
        """By connected peer, as it said; None of those that were not asked."""
        self._refused: dict[str, float] = {}
        """And when it last said that it takes none."""
        self._own: e.ReportMade | None = None
        self._with: str | None = None
        """The peer that was asked whether it takes our report, or has it."""
        self._number: int | None = None
        """By which number it has it."""
        self._last = 0
        self._tried: set[str] = set()
        self._unsupported = False
        """One of them said that the coordinator takes no reports of others."""
        self._passed: dict[tuple[str, int], tuple[str, int]] = {}
        """By peer and number: whose report that is, and by which number of theirs."""
        self._held: dict[str, list[tuple[str, m.Report]]] = {}
        """By peer that was asked whether it takes reports: whose are for it, if it does."""
        self._parked: list[tuple[str, m.Report]] = []
        """What came while this node had asked, out of turn: the lookout will soon be heard of again."""
        self._doubts: dict[str, tuple[float, float]] = {}

    # The local agent

    def hands_in(self, event: e.HandsIn) -> None:
        """Whether this node's agent hands reports of peers in."""
        self._hands_in = event.able

    def made(self, report: e.ReportMade) -> None:
        """Have a peer hand this in."""
        self._own, self._with, self._number, self._tried = report, None, None, set()
        self._unsupported = False
        for device in [d for d, at in self._refused.items() if self._context.now - at >= REFUSED_S]:
            del self._refused[device]
            self._takes.pop(device, None)
        self._offer()

    def withdrawn(self, event: e.ReportWithdrawn) -> None:
        """The agent does without, or did not get what it was told."""
        if self._own is not None and self._own.sequence == event.sequence:
            if event.overdue and self._number is not None:
                self._return(self._with, NO_WORD)
            self._own = self._with = self._number = None
        if event.doubted is not None:
            self._doubt(event.doubted)

    def handed_in(self, event: e.ReportHandedIn) -> None:
        """Tell a peer what became of its report."""
        if event.device in self._context.peers:
            self._context.send(event.device, m.Reported(event.number, event.result, event.certificate))

    # Peers

    def wanted(self, peer: Peer, message: m.MetadataWant) -> None:
        """A peer asks whether this node takes reports."""
        takes = self._hands_in or self._carries_for(peer)
        answer = m.Blob(message.request, b"") if takes else None
        self._context.send(peer.device, answer or m.Refuse(message.request, m.Refusal.DONT_HAVE))

    def answered(self, device: str, takes: bool) -> None:
        """A peer's answer to that."""
        self._takes[device] = takes
        if not takes:
            self._refused[device] = self._context.now
        if self._own is not None and self._with == device and self._number is None:
            self._with = None
            self._offer()
        for whose, message in self._held.pop(device, ()):
            if (peer := self._context.peers.get(whose)) is not None:
                self.arrived(peer, message)

    def arrived(self, peer: Peer, message: m.Report) -> None:
        """A report: the agent hands it in if it asks the origin, else a peer that does gets it."""
        context, lookout = self._context, self._lookout
        context.stirred = False
        if not message.hops and self._carries_for(peer):
            context.actions.append(e.ReportArrived(peer.device, message, homebound=True))
            return
        further = None
        if self._hands_in and not message.urgent and lookout.spoke_last and not lookout.leads:
            self._parked.append((peer.device, message))
            if len(self._parked) > PASSED_MAX:
                self._refuse(*self._parked.pop(_excess(whose for whose, _ in self._parked)))
            return
        if not lookout.spoke_last and message.hops < limits.REPORT_HOPS_MAX:
            further = self._further(peer.device)
        if further is None:
            # What is urgent also where the way ends at one that forgot: all may have started anew.
            if self._hands_in and (message.urgent or lookout.spoke_last):
                context.actions.append(e.ReportArrived(peer.device, message))
            else:
                context.send(peer.device, m.Reported(message.number, NOBODY))
            return
        while len(self._passed) >= PASSED_MAX:
            oldest = _excess(whose for whose, _ in self._passed.values())
            del self._passed[list(self._passed)[oldest]]  # whose device has waited for it in vain
        if further not in self._takes:
            held = self._held.setdefault(further, [])
            held.append((peer.device, message))
            if len(held) == 1:
                self._ask(further)
            elif len(held) > HELD_MAX:
                self._refuse(*held.pop(_excess(whose for whose, _ in held)))
            return
        number = self._next()
        self._passed[further, number] = peer.device, message.number
        context.send(further, m.Report(number, message.urgent, message.hops + 1, message.report))

    def moved(self) -> None:
        """The origin was asked again: what was to go to whoever does so goes on."""
        parked, self._parked = self._parked, []
        for whose, message in parked:
            if (peer := self._context.peers.get(whose)) is not None:
                self.arrived(peer, message)

    def told(self, peer: Peer, message: m.Reported) -> None:
        """A peer's word of a report that it was given; of any other, it is ignored."""
        context, own = self._context, self._own
        context.stirred = False
        whose = self._passed.pop((peer.device, message.number), None)
        if whose is not None:
            if whose[0] in context.peers:
                context.send(whose[0], message._replace(number=whose[1]))
        elif own is not None and self._with == peer.device and self._number == message.number:
            if message.result == UNSUPPORTED:  # or so it says: others may know better
                self._unsupported = True
                self._takes[peer.device], self._refused[peer.device] = False, context.now
            if message.result in (NOBODY, UNSUPPORTED):
                self._offer()
            else:
                self._return(peer.device, message.result, message.certificate)

    def lost(self, device: str) -> None:
        """A peer is gone, perhaps with our report: which the coordinator takes but once."""
        self._takes.pop(device, None)
        self._refused.pop(device, None)
        for waiting in self._held.pop(device, ()):
            self._refuse(*waiting)
        for key, (whose, number) in list(self._passed.items()):
            if device in (key[0], whose):
                del self._passed[key]
                if whose in self._context.peers:
                    self._context.send(whose, m.Reported(number, NOBODY))
        if self._own is not None and self._with == device:
            self._offer()

    # Inside

    def _offer(self) -> None:
        """Give our report to the next peer that may take it, or back to the agent."""
        context, own = self._context, self._own
        if own is None:
            return
        self._with = self._number = None
        for device in self._candidates():
            if device in self._tried or self._takes.get(device) is False or self._doubted(device):
                continue
            if len(self._tried) >= TRIES_MAX and not context.isolated:
                break
            self._with = device
            if device in self._takes:
                self._tried.add(device)
                self._number = self._next()
                context.send(device, m.Report(self._number, own.urgent, 0, own.report))
            else:
                self._ask(device)
            return
        if not context.isolated or self._unsupported:
            self._return(None, UNSUPPORTED if self._unsupported else NOBODY)
        # Else there is no other way than by who is still to come.

    def _carries_for(self, peer: Peer) -> bool:
        """Whether this node takes the report of a peer home: of one that has no WAN, as this one at times."""
        carries = self._context.carrier and not self._context.isolated
        return carries and peer.hello is not None and not peer.hello.wan

    def _candidates(self) -> list[str]:
        """Whom a report may be given to: who asks the origin, or where this device has no WAN, who
        carries."""
        speakers = self._lookout.speakers()
        if not self._context.isolated:
            return speakers
        others = [d for d, p in self._context.peers.items() if p.hello is not None and d not in speakers]
        return speakers + others

    def met(self, device: str) -> None:
        """A peer has said hello: it may carry the report of a device that has no WAN."""
        if self._own is not None and self._with is None and self._context.isolated:
            self._tried.discard(device)
            self._offer()

    def _refuse(self, device: str, message: m.Report) -> None:
        if device in self._context.peers:
            self._context.send(device, m.Reported(message.number, NOBODY))

    def _ask(self, device: str) -> None:
        """Whether it takes reports."""
        request = self._context.peers[device].ask(Asked(self._context.now, metadata=PROBE))
        self._context.send(device, m.MetadataWant(request, PROBE))

    def _further(self, sender: str) -> str | None:
        """The peer that gets what `sender` brought: it is nearer to the one that asks, and takes reports."""
        device = self._lookout.toward
        if device is None or device == sender or self._doubted(device):
            return None
        return device if self._takes.get(device, True) else None

    def _next(self) -> int:
        self._last = (self._last + 1) & 0xFFFFFFFF
        return self._last

    def _return(self, device: str | None, result: str, certificate: bytes = b"") -> None:
        own, self._own, self._with, self._number = self._own, None, None, None
        if own is not None:
            self._context.actions.append(e.ReportReturned(own.sequence, device, result, certificate))

    def _doubted(self, device: str) -> bool:
        return self._context.now < self._doubts.get(device, (0.0, 0.0))[0]

    def _doubt(self, device: str) -> None:
        _, last = self._doubts.pop(device, (0.0, DOUBT_S / 2))
        while len(self._doubts) >= DOUBTS_MAX:
            del self._doubts[next(iter(self._doubts))]
        self._doubts[device] = self._context.now + 2 * last, 2 * last


def _excess(owners: Iterable[str]) -> int:
    """Which of these goes, the oldest being the first: the oldest of whoever has the most."""
    listed = list(owners)
    (most, _), *_ = Counter(listed).most_common(1)
    return listed.index(most)
