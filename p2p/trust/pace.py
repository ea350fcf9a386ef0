"""When a device asks again what is meant for it: at its pace, and sooner after trouble that may pass."""

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
