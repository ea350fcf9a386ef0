"""What a run takes of this machine: processor time and memory, measured around it."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "Meter"]

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Cost:
    """`wall_s`: seconds that passed; `cpu_s`: of processor time of this process, both kinds.

    `memory_bytes`: by how much this process grew, at its most (from the peak of its whole life, so that only
    the first run of a process is told well); 0: not known.
    """

    wall_s: float
    cpu_s: float = 0.0
    memory_bytes: int = 0


class Meter:
    """Begins to measure when it is made."""

    def __init__(self) -> None:
        self._held = _resident()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self) -> Cost:
        """What was taken since."""
        wall_s, cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return Cost(wall_s, cpu_s, max(0, peak - self._held) if self._held else 0)


def _resident() -> int:
    """Bytes of memory that this process has now; 0: not known."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
