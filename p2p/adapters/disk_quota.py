"""How much of the disk the agent's own files may take: what was imported, patches kept for peers, its state.

Counted is what they take up on the medium, and nothing of others: neither the slots, which are what they are
for, nor what else lies on the same file system. So a quota holds whoever else fills the disk, and a full disk
is still found by whoever writes. Not for bytes that cross a link (`p2p.swarm.allowance`).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

from p2p.config import AgentConfig
from p2p.errors import StoreError

BLOCK = 512
"""What `st_blocks` counts in (stat(2))."""

RECOUNT_S = 5.0
"""While bytes are taken, directories are read no more often than this."""


class DiskQuota:
    """`most` bytes for all below `directory` but `slots`; None: no quota. May be used by several threads.

    Files without a name are not found there: who keeps such takes and gives back their bytes.
    """

    def __init__(self, directory: Path, slots: Collection[Path], most: int | None) -> None:
        self._directory = directory
        self._slots = frozenset(os.path.abspath(slot) for slot in slots)  # noqa: PTH100 (links stay)
        self.most = most
        self._nameless = 0
        self._counted = 0
        self._counted_at = -math.inf
        self._lock = threading.Lock()

    def used(self) -> int:
        """Bytes that the agent's own files take up now. Reads directories."""
        return self._named() + self._nameless

    def take(self, size: int) -> bool:
        """Count `size` bytes of a file without a name in; False, and nothing, if they are too many."""
        with self._lock:
            now = time.monotonic()
            if self.most is not None and now - self._counted_at >= RECOUNT_S:
                self._counted, self._counted_at = self._named(), now
            if self.most is not None and self._counted + self._nameless + size > self.most:
                return False
            self._nameless += size
            return True

    def give(self, size: int) -> None:
        """They are gone."""
        with self._lock:
            self._nameless -= size

    def check(self, size: int, what: str) -> None:
        """Raise `StoreError` naming the key if `size` more bytes are too many for `what`."""
        if self.most is None:
            return
        used = self.used()
        if used + size > self.most:
            raise StoreError(
                f"budgets.disk_max: {what} needs {size} bytes more, and of {self.most} the agent's files take"
                f" up {used}",
                kept="what was there before",
                next_step=f"allow {used + size} bytes, or take less along",
            )

    def _is_slot(self, path: str) -> bool:
        return os.path.abspath(path) in self._slots  # noqa: PTH100 (links stay)

    def _named(self) -> int:
        total, left = 0, [str(self._directory)]
        while left:
            try:
                with os.scandir(left.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        elif entry.is_file(follow_symlinks=False) and not self._is_slot(entry.path):
                            total += entry.stat(follow_symlinks=False).st_blocks * BLOCK
            except OSError:
                continue  # gone meanwhile, or not ours to read
        return total


def quota_of(config: AgentConfig) -> DiskQuota:
    """The quota of a device."""
    slots = [place for slot in config.slots.values() for place in (slot.a, slot.b)]
    return DiskQuota(config.device.state_dir, slots, config.budgets.disk_max)
