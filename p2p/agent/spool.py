"""The stored bytes of patches of one image, kept for peers while it is served or made: they are in no slot.

They go with the process, so flash need not carry them: they stay in memory as long as there is room for
them (`SpoolMemory`), and what comes beyond that goes to files without a name. A full disk, or a quota that is
used up, only means that this node does not serve what was to be kept. Not for what was imported, which has a
place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

from p2p.adapters.disk_quota import DiskQuota
from p2p.content import limits
from p2p.content.digests import Buffer, Digest

log = logging.getLogger(__name__)

PLENTY = 4 * limits.MIB
"""So little may be filled without looking how it could be less; half, where there is less than twice that."""

PART = 16
"""One part in so many of a machine's memory, within limits, is for what is kept for peers."""


def usual_memory() -> int:
    """Bytes that spools may fill unless told otherwise: 8 MiB on a small device, 32 MiB from 512 MiB on."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(limits.SPOOL_MEMORY_MAX, max(limits.SPOOL_MEMORY_MIN, machine // PART))


class SpoolMemory:
    """How much of an agent's memory its spools may fill, all of them together. For any thread."""

    def __init__(self, most: int = limits.SPOOL_MEMORY_MIN) -> None:
        self._plenty = min(PLENTY, most // 2)
        self._most = self._free = most
        self._lock = threading.Lock()

    def has_plenty(self, size: int) -> bool:
        """Whether it is nearly empty still with so many bytes more: nothing is gained by fewer."""
        return self._most - self._free + size <= self._plenty

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes, which are then taken."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._free += size


class Spool:
    """Memory first, then one file per pack, in `directory`. Calls block, and may come from any thread.

    None waits for what another reads or writes: the event loop's thread reads here while others write.
    """

    def __init__(
        self, directory: Path, quota: DiskQuota | None = None, memory: SpoolMemory | None = None
    ) -> None:
        self._directory = directory
        self._quota = quota
        self.memory = memory or SpoolMemory()
        self._held: dict[tuple[Digest, int], bytes] = {}
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
            self._let_go(key)
            if self.memory.take(size):
                self._held[key] = bytes(stored)
                return True
            taken = self._kept.get(key) != size
            if taken and self._quota is not None and not self._quota.take(size):
                return False
            descriptor = self._own(pack, new=True)
        written = False
        if descriptor is not None:
            with contextlib.suppress(OSError):
                written = os.pwrite(descriptor, stored, offset) == size
            os.close(descriptor)
        with self._lock:
            written = written and not self._closed
            counts = written and self._kept.get(key) != size
            if written:
                self._kept[key] = size
            if taken and not counts and self._quota is not None:
                self._quota.give(size)
        return written

    def read(self, pack: Digest, offset: int, size: int) -> bytes | None:
        """What was kept there; None once it is closed, or if the medium does not give it."""
        with self._lock:
            held = self._held.get((pack, offset))
            if held is not None:
                return held[:size]
            descriptor = self._own(pack, new=False)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            log.warning("what was kept for peers cannot be read: %s", error.strerror or error)
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Drop all of it."""
        with self._lock:  # whoever is reading or writing has a descriptor of its own
            self._closed = True
            for key in list(self._held):
                self._let_go(key)
            for descriptor in self._files.values():
                os.close(descriptor)
            if self._quota is not None:
                self._quota.give(sum(self._kept.values()))
            self._files.clear()
            self._kept.clear()

    def _let_go(self, key: tuple[Digest, int]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.memory.give(len(held))

    def _own(self, pack: Digest, *, new: bool) -> int | None:
        """A descriptor of a pack's file for one caller, which `close` leaves alone."""
        try:
            if new and pack not in self._files:
                self._files[pack] = self._new_file(pack)
            return os.dup(self._files[pack]) if pack in self._files else None
        except OSError:
            return None

    def _new_file(self, pack: Digest) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / pack.hex()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            path.unlink()  # nameless: it goes with the process, however that ends
        return descriptor
