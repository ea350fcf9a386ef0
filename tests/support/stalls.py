"""What the event loop waited for: every fsync that its own thread made while an agent's driver ran."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from p2p.agent.driver import SwarmDriver

STARTS, STARTING = "agent/runtime.py:__init__", ("agent/runtime.py:run", "agent/updates.py:adopt")
"""What another agent of the same loop does before its own driver runs."""


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where that was, the innermost first; what a test itself writes does not count."""
    found: list[str] = []
    running, loop = 0, threading.get_ident()

    def watched(real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            if running and threading.get_ident() == loop:
                frames = reversed(traceback.extract_stack())
                names = [
                    f"{frame.filename.rpartition('/p2p/')[2]}:{frame.name}"
                    for frame in frames
                    if "/p2p/" in frame.filename
                ]
                inner = next((name for name in names if name.startswith("agent/")), STARTS)
                if STARTS not in names and inner not in (STARTS, *STARTING):
                    found.append(" < ".join(names))
            real(descriptor)

        return call

    run = SwarmDriver.run

    async def counted(driver: SwarmDriver, **named: Any) -> None:
        nonlocal running
        running += 1
        try:
            await run(driver, **named)
        finally:
            running -= 1

    monkeypatch.setattr(SwarmDriver, "run", counted)
    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    return found
