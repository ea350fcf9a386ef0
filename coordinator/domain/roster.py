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

    One that announced to be quiet for a time counts as seen until that is over. One that was enrolled but
    never seen has no host, port 0 and the time of its enrolment.
    """

    device: str
    host: str
    port: int
    seen_at: float
    image: str | None = None


def choose_roster(present: Iterable[Presence], caller: str, count_max: int = ROSTER_MAX) -> list[Presence]:
    """At most `count_max` others, the most recently seen first.

    Those that were never seen, or not for long, are among them: a site that starts for the first time,
    or after a power cut, then knows for whom to wait, and fewer than `count_max` are all there are.
    """
    others = [p for p in present if p.device != caller]
    if len(others) > count_max:
        others = sorted(others, key=lambda p: _distance(caller, p.device))[:count_max]
    return sorted(others, key=lambda p: (-p.seen_at, p.device))


def _distance(one: str, other: str) -> bytes:
    return hashlib.sha256("\0".join(sorted((one, other))).encode()).digest()
