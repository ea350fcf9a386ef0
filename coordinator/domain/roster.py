"""Which devices of a site are handed to one of them as peers.

Pure. Small sites get everybody; in larger ones each caller gets its own pseudo-random part, so that the
graph of connections stays connected without any device being in every list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ROSTER_MAX", "Presence", "choose_roster"]

ROSTER_MAX = 64


@dataclass(frozen=True, slots=True)
class Presence:
    """A device's last check-in: where it listens, when it was seen (seconds since 1970), what it has.

    One that was enrolled but never seen has no host, port 0 and the time of its enrolment.
    """

    device: str
    host: str
    port: int
    seen_at: float
    image: str | None = None


def choose_roster(
    present: Iterable[Presence], caller: str, now: float, age_max_s: float, count_max: int = ROSTER_MAX
) -> list[Presence]:
    """At most `count_max` others that were seen within `age_max_s`, the most recently seen first.

    Those that were just enrolled are among them: they cannot be dialled yet, but a site that starts
    for the first time then knows for whom to wait.
    """
    fresh = [p for p in present if p.device != caller and now - p.seen_at <= age_max_s]
    if len(fresh) > count_max:
        fresh = sorted(fresh, key=lambda p: _distance(caller, p.device))[:count_max]
    return sorted(fresh, key=lambda p: (-p.seen_at, p.device))


def _distance(one: str, other: str) -> bytes:
    return hashlib.sha256("\0".join(sorted((one, other))).encode()).digest()
