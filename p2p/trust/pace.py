"""When a device asks again what is meant for it, and when it checks in.

It asks at its pace, and sooner after trouble that may pass. It checks in with its polls: their connection is
open then, and a TLS handshake of its own would weigh more than the check-in.
"""

from __future__ import annotations

RETRY_S = (1.0, 60.0)
"""First and longest pause after trouble that may pass by itself."""


class Pace:
    """Pauses between questions, in seconds. `jitter` is a uniform draw from 0 to 1."""

    def __init__(self, retry_s: tuple[float, float] = RETRY_S) -> None:
        self._first, self._longest = retry_s
        self._pause = self._first

    def answered(self) -> None:
        """All went well: the next trouble begins with the shortest pause."""
        self._pause = self._first

    def after_trouble(self, poll_s: float, jitter: float, *, lasting: bool) -> float:
        """How long to wait after an error: longer each time.

        `lasting`: only something newly published can end it (metadata that expired, a release that is
        blocked on this device), so in the end it is asked no more often than without trouble, every
        `poll_s`. Anything else (a link, a disk) is tried once a minute at the least.
        """
        wait = self._pause * (0.5 + jitter)
        self._pause = min(max(self._longest, poll_s) if lasting else self._longest, self._pause * 2)
        return wait


WITH_POLL = 0.4
"""A poll takes a check-in with it once the last is as old as this part of the pause between two polls, which
are jittered by up to half: each at its time does, one soon after it (peers have news) does not."""

ALONE = (1.6, 0.4)
"""A device whose polls reach nobody checks in by itself after so many pauses, and up to so many later."""


ROSTER, PEERS_ENOUGH = 8, 8
"""Pauses for which a roster is good, and connected peers that make it needless after the first: who is new to
a site finds the others, and peers tell of each other."""


class CheckInPace:
    """When the next check-in is due, in seconds since the last. `jitter` is a uniform draw from 0 to 1."""

    def __init__(self, retry_s: tuple[float, float] = RETRY_S) -> None:
        self._first, self._longest = retry_s
        self._pause = self._first

    def with_poll(self, since_s: float, poll_s: float) -> bool:
        """Whether a poll that the origin has just answered takes a check-in with it."""
        return since_s >= WITH_POLL * poll_s

    def with_roster(self, since_s: float, poll_s: float, *, peers: int) -> bool:
        """Whether a check-in asks who is on the site, `since_s` after it last heard that (or infinity)."""
        return not peers or since_s == float("inf") or (peers < PEERS_ENOUGH and since_s >= ROSTER * poll_s)

    def alone(self, poll_s: float, jitter: float, *, ok: bool) -> float:
        """How long to wait for such a poll. Not `ok`: the last check-in failed and is soon tried again."""
        if ok:
            self._pause = self._first
            return poll_s * (ALONE[0] + ALONE[1] * jitter)
        wait = self._pause * (0.5 + jitter)
        self._pause = min(self._longest, self._pause * 2)
        return wait


DOUBTED_MAX, DOUBT_PAUSES_MAX = 256, 32
"""Peers that are doubted at a time, and for how many pauses between two polls at the longest."""


class Doubts:
    """Peers that claimed newer metadata which neither they nor the origin gave. In seconds.

    Their claims lead to no question for a pause, for two if they do so again, and so on: a claim costs the
    WAN a question, and anyone can claim anything. They may still be asked with the others.
    """

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}

    def heeds(self, device: str, now: float) -> bool:
        """Whether a claim of this peer is reason to ask."""
        return now >= self._until.get(device, (now, 0.0))[0]

    def doubt(self, device: str, now: float, pause_s: float) -> None:
        """It did not give what it claimed. Who has kept to the truth for as long again begins anew."""
        until, last = self._until.pop(device, (now, 0.0))
        wait = min(2 * last, DOUBT_PAUSES_MAX * pause_s) if now <= until + last else 0.0
        wait = max(wait, pause_s)
        if len(self._until) >= DOUBTED_MAX:
            del self._until[next(iter(self._until))]
        self._until[device] = now + wait, wait
