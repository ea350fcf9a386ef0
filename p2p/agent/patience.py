"""How long each of many messages of a connection may take: see `Patience`."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import trio

from p2p.content import limits


class Patience:
    """A time for each of many things that follow each other (`PEER_IDLE_S`), as `trio.fail_after` is for one.

    To begin and to end is only noted; whoever calls `look` when it says ends what takes too long, at that
    very time. Setting a deadline for each message would cost more than encoding it. Raises `TooSlowError`.
    """

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._due = math.inf

    def begin(self) -> None:
        self._due = trio.current_time() + limits.PEER_IDLE_S

    def end(self) -> None:
        self._due = math.inf

    def look(self) -> float:
        """End it if it is over; when to look again, so that what begins meanwhile is not missed."""
        now = trio.current_time()
        if now >= self._due:
            self._scope.cancel()
        return min(self._due if self._due > now else math.inf, now + limits.PEER_IDLE_S)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._due = math.inf
        self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise trio.TooSlowError
