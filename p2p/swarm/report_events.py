"""Events and actions of a `SwarmNode` about reports (`p2p.swarm.relay`); part of `p2p.swarm.events`."""

from __future__ import annotations

from typing import NamedTuple

from p2p.swarm.messages import Report

# Events


class HandsIn(NamedTuple):
    """Whether this device hands in reports of its peers from now on: its coordinator takes them."""

    able: bool


class ReportMade(NamedTuple):
    """The local agent's signed report, to be handed in by a peer; replaces an earlier one.

    `ReportReturned` follows, unless it is
    replaced or withdrawn.
    """

    sequence: int
    urgent: bool
    report: bytes


class ReportWithdrawn(NamedTuple):
    """The local agent waits no more for this report of its own.

    `doubted`: the peer that it was given to did not do what it said, and gets none for a while. `overdue`:
    there was no word of it in all the time that there is for that; `ReportReturned` says who has it.
    """

    sequence: int
    doubted: str | None = None
    overdue: bool = False


class ReportHandedIn(NamedTuple):
    """What the coordinator said of a peer's report (`ReportArrived`); a new certificate for its writer."""

    device: str
    number: int
    result: str
    certificate: bytes = b""


# Actions


class ReportArrived(NamedTuple):
    """A signed report of a peer, or passed on by it, unverified: hand it in; `ReportHandedIn` follows.

    `homebound`: this node is a carrier, and the peer has no WAN: it is to be kept and handed in at home.
    """

    device: str
    report: Report
    homebound: bool = False


class ReportReturned(NamedTuple):
    """What became of the local agent's report: the word of the peer that was to hand it in, unverified.

    `device`: that peer; None: there is nobody to hand it in, so the agent does that itself. `certificate`: a
    new one for this device (PEM, unverified), or nothing.
    """

    sequence: int
    device: str | None
    result: str
    certificate: bytes = b""
