"""The stored bytes of patches of one image, kept for peers while it is served or made: they are in no slot.

Files have no name, so they go with the process, however that ends. A full disk, or a quota that is used up,
only means that this node does not serve what was to be kept. Not for what was imported, which has a place.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from p2p.adapters.disk_quota import DiskQuota
from p2p.content.digests import Buffer, Digest


class Spool:
    """One file per pack, in `directory`. Calls block, and may come from several threads."""

    def __init__(self, directory: Path, quota: DiskQuota | None = None) -> None:
        self._directory = directory
        self._quota = quota
        self._files: dict[Digest, int] = {}
        self._kept: dict[tuple[Digest, int], int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def keep(self, pack: Digest, offset: int, stored: Buffer) -> bool:
        """Keep stored bytes where they are in the pack; whether that was possible."""
        size, key = len(stored), (pack, offset)
        with self._lock:
            if self._closed:
                return False
            fresh = self._kept.get(key) != size
            if fresh and self._quota is not None and not self._quota.take(size):
                return False
            written = False
            with contextlib.suppress(OSError):
                if pack not in self._files:
                    self._files[pack] = self._new_file(pack)
                written = os.pwrite(self._files[pack], stored, offset) == size
            if written:
                self._kept[key] = size
            elif fresh and self._quota is not None:
                self._quota.give(size)
            return written

    def read(self, pack: Digest, offset: int, size: int) -> bytes | None:
        """What was kept there; None once it is closed."""
        with self._lock:
            return os.pread(self._files[pack], size, offset) if pack in self._files else None

    def close(self) -> None:
        """Drop all of it."""
        with self._lock:  # a patch may still be under way in another thread
            self._closed = True
            for descriptor in self._files.values():
                os.close(descriptor)
            if self._quota is not None:
                self._quota.give(sum(self._kept.values()))
            self._files.clear()
            self._kept.clear()

    def _new_file(self, pack: Digest) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / pack.hex()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            path.unlink()  # nameless: it goes with the process, however that ends
        return descriptor
