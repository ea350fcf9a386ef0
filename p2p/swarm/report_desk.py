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
from p2p.swarm.ration import Ration

EVERY, EVERY_MAX_S = 48, 86_400.0
"""Pauses between two reports of a device of which nothing changes (about a day where a pause is half an
hour), and the most seconds that they may be."""

ROUTINE = 12
"""Pauses that such a report waits for others, at the desk."""

URGENT_S = 10.0
"""How long one waits that is urgent: the devices of a site end an update one shortly after the other."""

GRACE = 2
"""Pauses that a device waits longer than a report may lie at the desk, before it checks in itself."""

GRACE_S = 60.0
"""And seconds, where the report is urgent."""

RETRY_S = (15.0, 900.0)
"""First and longest pause after a coordinator that could not be reached."""

PER_PEER_MAX = 96
"""Reports that one peer may have at the desk, its own and those that it passes on."""

HASTENED_MAX = 16
"""Batches that one peer may hasten, by what it calls urgent or by filling the desk; it gets one back in each
pause. More are refused: anyone can call anything urgent, and each batch is a request over the WAN."""

RIVALS_MAX = 4
"""Reports said to be of one device that one peer may have at the desk, having been given them to pass on. A
fifth is refused, so that its device hears of that at once, and goes another way."""

REPORT_ROUGHLY = 1024
"""Bytes of a report that a batch may always count on, and a peer for all that it may have at the desk."""


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


@dataclass(frozen=True, slots=True)
class Brought:
    """A report at the desk: `device` wrote it, as its number `sequence`; `peer` brought it, as `message`.

    So says the report: only the coordinator can tell whether it is forged.
    """

    device: str
    sequence: int
    peer: str
    message: Report

    @property
    def place(self) -> tuple[str, str, int | None]:
        """Who brought it and wrote it, and as which message; None: its writer did, whose latest counts."""
        return self.peer, self.device, self.message.number if self.message.hops else None


_Place = tuple[str, str, int | None]


@dataclass(slots=True)
class _Waiting:
    brought: Brought
    due_at: float
    until: float
    soon_at: float
    """From when on it goes with a question to the origin, whose connection is open."""


class ReportDesk:
    """The desk of one device. What a peer brought goes also when it is gone: its last word may be the one.

    Times are in seconds; `pause_s`: between two questions of the site.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Place, _Waiting] = {}
        """By `Brought.place`: nobody takes another's place, nor does what a third forges and an honest peer
        passes on."""
        self._under_way: list[Brought] = []
        self._hastened = Ration(HASTENED_MAX)
        self._retry_at = -math.inf
        self._retry_s = RETRY_S[0]

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, brought: Brought, pause_s: float, now: float) -> bool:
        """A report; it replaces an older one of the same device and peer. False: no room, or no pace."""
        key, urgent = brought.place, brought.message.urgent
        held = self._waiting.get(key)
        if not self._has_room(key, len(brought.message.report)):
            return False
        if held is not None and held.brought.sequence > brought.sequence:
            return True
        leaving = {b.place for b in self._under_way}
        next_at = min((w.due_at for k, w in self._waiting.items() if k not in leaving), default=math.inf)
        fills = held is None and len(self._waiting) + 1 >= limits.REPORTS_PER_BATCH_MAX
        hastens = urgent and next_at > now + URGENT_S  # else it goes along, which costs nothing
        if (hastens or fills) and not self._hastened.take(brought.peer, pause_s, now):
            return False
        wait_s = URGENT_S if urgent else ROUTINE * pause_s
        due_at, soon_at = now + wait_s, now + wait_s / 2
        if urgent and not hastens:
            due_at = next_at
        if held is not None and key not in leaving:
            due_at, soon_at = min(due_at, held.due_at), min(soon_at, held.soon_at)
        until = now + waits_s(pause_s, urgent=urgent)
        self._waiting[key] = _Waiting(brought, due_at, until, soon_at)
        return True

    @property
    def due_at(self) -> float:
        """When the next batch goes."""
        if self._under_way or not self._waiting:
            return math.inf
        full = len(self._waiting) >= limits.REPORTS_PER_BATCH_MAX
        first = -math.inf if full else min(w.due_at for w in self._waiting.values())
        return max(first, self._retry_at)

    def with_question(self, now: float) -> bool:
        """Whether a batch goes now that the origin has answered, on the connection that is open."""
        return self.due_at < math.inf and any(now >= w.soon_at for w in self._waiting.values())

    def take(self, now: float) -> list[Brought]:
        """What goes now: all that wait and fit into one batch. `answered` or `failed` follows."""
        self._waiting = {key: w for key, w in self._waiting.items() if now < w.until}
        size = 0
        for waiting in sorted(self._waiting.values(), key=lambda w: w.due_at):
            size += max(len(waiting.brought.message.report), REPORT_ROUGHLY)
            if size > limits.REPORT_BATCH_CODED_MAX:
                break
            self._under_way.append(waiting.brought)
        return list(self._under_way)

    def answered(self) -> None:
        """The coordinator has said what became of each."""
        for brought in self._under_way:
            key = brought.place
            held = self._waiting.get(key)
            if held is not None and held.brought.sequence <= brought.sequence:
                del self._waiting[key]
        self._under_way.clear()
        self._retry_at, self._retry_s = -math.inf, RETRY_S[0]

    def failed(self, now: float, jitter: float) -> None:
        """It could not be reached: again later, while somebody waits for it."""
        self._under_way.clear()
        self._retry_at = now + self._retry_s * (0.5 + jitter)
        self._retry_s = min(RETRY_S[1], 2 * self._retry_s)

    def _has_room(self, key: _Place, size: int) -> bool:
        if key not in self._waiting and len(self._waiting) >= limits.REPORTS_PER_BATCH_MAX:
            return False
        if sum(k[:2] == key[:2] for k in self._waiting if k != key) >= RIVALS_MAX:
            return False
        sizes = [
            len(w.brought.message.report) for k, w in self._waiting.items() if k[0] == key[0] and k != key
        ]
        return len(sizes) < PER_PEER_MAX and sum(sizes) + size <= PER_PEER_MAX * REPORT_ROUGHLY
