"""The one place where the coordinator reads the wall clock; everything else is handed it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since 1970."""


def wall_clock() -> float:
    return time.time()
