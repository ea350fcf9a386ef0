"""The reports that a device hands in for its peers: how long they wait for each other, and when they go.

One request for many is what makes them cheap, so what is not urgent waits for hours; what operators wait for
(an update that ended) for seconds. A report that the coordinator could not be given is tried again for as
long as its device waits (`waits_s`), which then goes there itself. Nothing is kept over a restart.

Not for whom a report is given to (`relay`), nor for what is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from p2p.content import limits
from p2p.swarm.messages import Report

EVERY, EVERY_MAX_S = 48, 86_400.0
"""Pauses between two reports of a device of which nothing changes (about a day where a pause is half an
hour), and the most seconds that they may be."""

ROUTINE = 6
"""Pauses that such a report waits for others, at the desk."""

URGENT_S = 10.0
"""How long one waits that is urgent: the devices of a site end an update one shortly after the other."""

GRACE = 2
"""Pauses that a device waits longer than a report may lie at the desk, before it checks in itself."""

GRACE_S = 60.0
"""And seconds, where the report is urgent."""

RETRY_S = (15.0, 900.0)
"""First and longest pause after a coordinator that could not be reached."""

REPORT_ROUGHLY = 1024
"""Bytes of a report that a batch may always count on."""


def every_s(pause_s: float, jitter: float = 1.0) -> float:
    """When a device reports again though nothing changed; `jitter` is a uniform draw from 0 to 1."""
    return min(EVERY * pause_s, EVERY_MAX_S) * (0.8 + 0.2 * jitter)


def waits_s(pause_s: float, *, urgent: bool) -> float:
    """How long a device waits for word of a report that a peer has."""
    return URGENT_S + GRACE_S if urgent else (ROUTINE + GRACE) * pause_s


def quiet_s(pause_s: float) -> int:
    """For how long a device whose peers hand in may not be heard of: until its next report is there."""
    return min(math.ceil(every_s(pause_s) + waits_s(pause_s, urgent=False)), limits.REPORT_QUIET_MAX_S)


def first_quiet_s(pause_s: float) -> int:
    """The same for one that has just started: it does not know yet whether they do."""
    return min(math.ceil(GRACE * pause_s + waits_s(pause_s, urgent=False)), limits.REPORT_QUIET_MAX_S)


@dataclass(slots=True)
class _Waiting:
    report: Report
    since: float
    due_at: float
    until: float


class ReportDesk:
    """The desk of one device. What a peer brought goes also when it is gone: its last word may be the one.

    Times are in seconds; `pause_s`: between two questions of the site.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._under_way: dict[str, Report] = {}
        self._retry_at = -math.inf
        self._retry_s = RETRY_S[0]

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, device: str, report: Report, pause_s: float, now: float) -> bool:
        """A peer's report; it replaces an older one of the same peer. False: there is no room."""
        held = self._waiting.get(device)
        if held is None and len(self._waiting) >= limits.REPORTS_PER_BATCH_MAX:
            return False
        if held is not None and held.report.sequence > report.sequence:
            return True
        due_at = now + (URGENT_S if report.urgent else ROUTINE * pause_s)
        if held is not None:
            due_at = min(due_at, held.due_at)
        self._waiting[device] = _Waiting(report, now, due_at, now + waits_s(pause_s, urgent=report.urgent))
        return True

    @property
    def due_at(self) -> float:
        """When the next batch goes."""
        if self._under_way or not self._waiting:
            return math.inf
        full = len(self._waiting) >= limits.REPORTS_PER_BATCH_MAX
        first = -math.inf if full else min(w.due_at for w in self._waiting.values())
        return max(first, self._retry_at)

    def take(self, now: float) -> list[tuple[str, Report]]:
        """What goes now: all that wait and fit into one batch. `answered` or `failed` follows."""
        self._waiting = {d: w for d, w in self._waiting.items() if now < w.until}
        size = 0
        for device, waiting in sorted(self._waiting.items(), key=lambda item: item[1].due_at):
            size += max(len(waiting.report.report), REPORT_ROUGHLY)
            if size > limits.REPORT_BATCH_CODED_MAX:
                break
            self._under_way[device] = waiting.report
        return list(self._under_way.items())

    def answered(self) -> None:
        """The coordinator has said what became of each."""
        for device, report in self._under_way.items():
            held = self._waiting.get(device)
            if held is not None and held.report.sequence <= report.sequence:
                del self._waiting[device]
        self._under_way.clear()
        self._retry_at, self._retry_s = -math.inf, RETRY_S[0]

    def failed(self, now: float, jitter: float) -> None:
        """It could not be reached: again later, while somebody waits for it."""
        self._under_way.clear()
        self._retry_at = now + self._retry_s * (0.5 + jitter)
        self._retry_s = min(RETRY_S[1], 2 * self._retry_s)
