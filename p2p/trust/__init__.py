"""Trust: the TUF client workflow over any source, the downgrade floor and what a device should install.

Pure: no I/O, no clock. Start at `release_for`; `TrustClient` is the workflow below it, `run` and
`run_async` are the drivers.
"""

from p2p.trust.client import REVOCATIONS_ROLE, TrustClient
from p2p.trust.clock import ISSUED, format_time, parse_time, trusted_time
from p2p.trust.floors import FloorStore, ReleaseFloors
from p2p.trust.need import Need, NeedKind, Steps, run, run_async
from p2p.trust.pace import CheckInPace, Doubts, Pace
from p2p.trust.policy import Decision, Meant, Nothing, decide, open_orders
from p2p.trust.release import PHASES_ROLE, Question, orders_role, product_role, release_for
from p2p.trust.revocations import RevocationList, Revocations
from p2p.trust.staleness import excused, release_despite_expiry
from p2p.trust.store import EmptyStore, Overlay, TrustStore

__all__ = [
    "ISSUED",
    "PHASES_ROLE",
    "REVOCATIONS_ROLE",
    "CheckInPace",
    "Decision",
    "Doubts",
    "EmptyStore",
    "FloorStore",
    "Meant",
    "Need",
    "NeedKind",
    "Nothing",
    "Overlay",
    "Pace",
    "Question",
    "ReleaseFloors",
    "RevocationList",
    "Revocations",
    "Steps",
    "TrustClient",
    "TrustStore",
    "decide",
    "excused",
    "format_time",
    "open_orders",
    "orders_role",
    "parse_time",
    "product_role",
    "release_despite_expiry",
    "release_for",
    "run",
    "run_async",
    "trusted_time",
]
