"""A device's connections to origin and coordinator (here one server), as `p2p.adapters.http` keeps them.

A request takes a kept-alive connection, or opens one, and resumes a TLS session where there is a ticket.
Small requests wait for each other's connection. Not for what crosses a connection (`uplink`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from p2p.adapters.http import TURN_S
from p2p.content import limits
from sim.world.kernel import Kernel

KEEP_ALIVE_S = 100.0
"""How long the coordinator keeps an idle connection (`coordinator.app.KEEP_ALIVE_S`)."""

SESSION_S = 7200.0
"""How long it knows a session (OpenSSL's lifetime of tickets where nothing else is set)."""


class Opening(Enum):
    """How a request comes by its connection."""

    KEPT = "kept"
    RESUMED = "resumed"
    FULL = "full"


class Pool:
    """One device's. `turn` says when a small request may begin; `take` and `give` a connection."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._idle: list[float] = []
        self._ticket_at = float("-inf")
        self._turn_taken = False
        self._waiting: deque[Callable[[bool], None]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a small request is under way or waits."""
        return self._turn_taken

    def forget(self) -> None:
        """The agent ends."""
        self._idle.clear()
        self._ticket_at = float("-inf")
        self._turn_taken = False
        self._waiting.clear()

    def take(self) -> Opening:
        """A connection for a request: the one that was used last, if the server still keeps it."""
        now = self._kernel.now
        while self._idle:
            if now - self._idle.pop() <= KEEP_ALIVE_S:
                return Opening.KEPT
        ticket_at, self._ticket_at = self._ticket_at, float("-inf")
        return Opening.RESUMED if now - ticket_at <= SESSION_S else Opening.FULL

    def give(self) -> None:
        """The answer came whole: the connection is kept, and with it came a ticket."""
        self._ticket_at = self._kernel.now
        if len(self._idle) < limits.ORIGIN_IDLE_CONNECTIONS_MAX:
            self._idle.append(self._kernel.now)

    def turn(self, begin: Callable[[bool], None]) -> None:
        """Call `begin(True)` when it is this small request's turn, to be ended by `end_turn`.

        If that takes too long, `begin(False)`: it goes ahead beside the other.
        """
        if not self._turn_taken:
            self._turn_taken = True
            begin(True)
            return
        self._waiting.append(begin)
        self._kernel.after(TURN_S, self._waited, begin)

    def end_turn(self) -> None:
        """The small request whose turn it was is over."""
        if self._waiting:
            self._waiting.popleft()(True)
        else:
            self._turn_taken = False

    def _waited(self, begin: Callable[[bool], None]) -> None:
        if begin in self._waiting:
            self._waiting.remove(begin)
            begin(False)
