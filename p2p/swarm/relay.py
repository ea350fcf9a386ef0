"""How a device's report gets to the coordinator through a peer: whom it is given to, and what comes of it.

It is given to the one that asks the origin for the site (`lookout`), the first of those that come before this
device; one before which nobody comes hands in itself. A peer is first asked whether it takes reports: older
nodes know no such message. One that is lost, refuses or is doubted is passed over for the next; in the end
the report comes back to the agent, which goes to the coordinator itself.

What a peer says became of a report is a hint: the agent hears the truth when it next asks the coordinator
(`agent.handing_in`), and who said otherwise is doubted here for a while. Not for when to report, nor for how
the reports of others are gathered (`report_desk`).
"""

from __future__ import annotations

from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.lookout import Lookout
from p2p.swarm.peer import Asked, Peer

PROBE = "reports"
"""Asked for like metadata, which a node that takes no reports does not have."""

NOBODY = "nobody"
"""What became of a report that no peer takes."""

TRIES_MAX = 3
"""Peers that a report is offered to before its device goes to the coordinator itself."""

DOUBT_S = 86_400.0
"""How long a peer gets no report that did not hand one in, though it said so; twice as long each time."""

DOUBTS_MAX = 256


class Relay:
    """The reports of one node: its own, and those of peers on their way through it."""

    def __init__(self, context: Context, lookout: Lookout) -> None:
        self._context = context
        self._lookout = lookout
        self._hands_in = False
        self._takes: dict[str, bool] = {}
        """By connected peer, as it said; None of those that were not asked."""
        self._own: e.ReportMade | None = None
        self._with: str | None = None
        """The peer that was asked whether it takes our report, or has it."""
        self._given = False
        self._tried: set[str] = set()
        self._doubts: dict[str, tuple[float, float]] = {}

    # The local agent

    def hands_in(self, able: bool) -> None:
        """Whether this node's agent hands reports of peers in."""
        self._hands_in = able

    def made(self, report: e.ReportMade) -> None:
        """Have a peer hand this in."""
        self._own, self._with, self._tried = report, None, set()
        self._offer()

    def withdrawn(self, event: e.ReportWithdrawn) -> None:
        """The agent does without, or did not get what it was told."""
        if self._own is not None and self._own.sequence == event.sequence:
            self._own = self._with = None
        if event.doubted is not None:
            self._doubt(event.doubted)

    def handed_in(self, event: e.ReportHandedIn) -> None:
        """Tell a peer what became of its report."""
        if event.device in self._context.peers:
            self._context.send(event.device, m.Reported(event.sequence, event.result))

    # Peers

    def wanted(self, peer: Peer, message: m.MetadataWant) -> None:
        """A peer asks whether this node takes reports."""
        answer = m.Blob(message.request, b"") if self._hands_in else None
        self._context.send(peer.device, answer or m.Refuse(message.request, m.Refusal.DONT_HAVE))

    def answered(self, device: str, takes: bool) -> None:
        """A peer's answer to that; False also for one that is lost before it came."""
        self._takes[device] = takes
        if self._own is not None and self._with == device and not self._given:
            self._with = None
            self._offer()

    def arrived(self, peer: Peer, message: m.Report) -> None:
        """A peer's report: the agent hands it in, if it said that it does."""
        self._context.stirred = False
        if self._hands_in:
            self._context.actions.append(e.ReportArrived(peer.device, message))
        else:
            self._context.send(peer.device, m.Reported(message.sequence, NOBODY))

    def told(self, peer: Peer, message: m.Reported) -> None:
        """A peer's word of our report; of one that it does not have, it is ignored."""
        self._context.stirred = False
        own = self._own
        if own is None or self._with != peer.device or not self._given or own.sequence != message.sequence:
            return
        if message.result == NOBODY:
            self._takes[peer.device] = False
            self._with = None
            self._offer()
        else:
            self._return(peer.device, message.result)

    def lost(self, device: str) -> None:
        """A peer is gone, perhaps with our report: which the coordinator takes but once."""
        self._takes.pop(device, None)
        if self._own is not None and self._with == device:
            self._with = None
            self._offer()

    # Inside

    def _offer(self) -> None:
        """Give our report to the next peer that may take it, or back to the agent."""
        context, own = self._context, self._own
        if own is None:
            return
        for device in self._lookout.before(own.pause_s, context.now):
            if device in self._tried or self._takes.get(device) is False or self._doubted(device):
                continue
            if len(self._tried) >= TRIES_MAX:
                break
            self._with = device
            self._given = device in self._takes
            if self._given:
                self._tried.add(device)
                context.send(device, m.Report(own.sequence, own.urgent, own.report))
            else:
                request = context.peers[device].ask(Asked(context.now, metadata=PROBE))
                context.send(device, m.MetadataWant(request, PROBE))
            return
        self._return(None, NOBODY)

    def _return(self, device: str | None, result: str) -> None:
        own, self._own, self._with = self._own, None, None
        if own is not None:
            self._context.actions.append(e.ReportReturned(own.sequence, device, result))

    def _doubted(self, device: str) -> bool:
        return self._context.now < self._doubts.get(device, (0.0, 0.0))[0]

    def _doubt(self, device: str) -> None:
        _, last = self._doubts.pop(device, (0.0, DOUBT_S / 2))
        while len(self._doubts) >= DOUBTS_MAX:
            del self._doubts[next(iter(self._doubts))]
        self._doubts[device] = self._context.now + 2 * last, 2 * last
