"""The one seam for file I/O whose order and durability matter: slots, journals, the boot environment.

`SystemFiles` is the real one; the crash explorer of the tests is another, which cuts the power
between any two calls. Methods raise `OSError`: only the caller knows what was lost and what to say.
Not for small named values (`BlobStore`) nor for anything that needs no fsync.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2p.content.digests import Buffer

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class File(Protocol):
    """One open file or block device. Offsets and sizes are bytes."""

    @property
    def is_device(self) -> bool:
        """Whether the size is fixed (a block device)."""

    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer only at the end."""

    def write_at(self, offset: int, data: Buffer) -> None:
        """All of `data`, or `OSError`."""

    def resize(self, size: int) -> None: ...

    def reserve(self, size: int) -> None:
        """Grow to `size` with the space allocated, so that `ENOSPC` comes now and not half-way."""

    def sync(self) -> None:
        """fsync. After a failure nothing is known of what was written: never retry."""

    def drop_cache(self) -> None:
        """Let the next reads come from the medium."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Space:
    """Where a file lies and what it can grow to. `held`: bytes allocated to it or, for a device, its size."""

    filesystem: int
    free: int
    held: int
    is_device: bool


class Files(Protocol):
    """A file system, seen through the calls that crash safety is made of. Paths are absolute."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        """Open an existing file, or make it with `create`. A device is claimed when written to."""

    def exists(self, path: str) -> bool: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None:
        """No error when absent."""

    def make_directories(self, path: str) -> None:
        """Make `path` and its parents, durably."""

    def sync_directory(self, path: str) -> None:
        """Make the names in `path` durable."""

    def space(self, path: str) -> Space:
        """Of an existing file or device, or of the file that could be made there."""


class SystemFile:
    """A file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self.is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)

    def size(self) -> int:
        if self.is_device:
            return os.lseek(self._fd, 0, os.SEEK_END)
        return os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (data := os.pread(self._fd, length - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def write_at(self, offset: int, data: Buffer) -> None:
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        rest = memoryview(data).cast("B")
        while written < len(rest):
            written += os.pwrite(self._fd, rest[written:], offset + written)

    def resize(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def reserve(self, size: int) -> None:
        _fallocate(self._fd, size)
        if self.size() < size:
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fsync(self._fd)

    def drop_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class SystemFiles:
    """The machine's own file system."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SystemFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT
        if write and _is_device(path):
            # Linux refuses O_EXCL on a block device that is mounted: never write under a file system.
            flags = (flags | os.O_EXCL) & ~os.O_CREAT
        return SystemFile(os.open(path, flags, 0o600))

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def rename(self, old: str, new: str) -> None:
        Path(old).rename(new)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def make_directories(self, path: str) -> None:
        directory = Path(path)
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            self.sync_directory(str(directory.parent))

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def space(self, path: str) -> Space:
        place = Path(path)
        try:
            found = place.stat()
        except FileNotFoundError:
            parent = place.parent.stat()
            volume = os.statvfs(place.parent)
            return Space(parent.st_dev, volume.f_bavail * volume.f_frsize, 0, False)
        if stat.S_ISBLK(found.st_mode):
            device = self.open(path)
            try:
                return Space(found.st_rdev, 0, device.size(), True)
            finally:
                device.close()
        volume = os.statvfs(path)
        return Space(found.st_dev, volume.f_bavail * volume.f_frsize, found.st_blocks * 512, False)


SYSTEM_FILES = SystemFiles()


def replace_durably(files: Files, path: str, data: bytes) -> None:
    """Put `data` under the name `path`: after a power cut either the old value or the new one is there."""
    temporary = path + ".new"
    file = files.open(temporary, write=True, create=True)
    try:
        file.resize(0)
        file.write_at(0, data)
        file.sync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(parent_of(path))


def read_whole(files: Files, path: str, size_max: int) -> bytes | None:
    """The bytes of a small file; None when absent. A file over `size_max` is cut there."""
    try:
        file = files.open(path)
    except FileNotFoundError:
        return None
    try:
        return file.read_at(0, min(file.size(), size_max))
    finally:
        file.close()


def parent_of(path: str) -> str:
    """The directory that holds the name `path`."""
    return os.path.dirname(path) or "."  # noqa: PTH120 (paths are text at this seam)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except FileNotFoundError:
        return False


def _fallocate(fd: int, size: int) -> None:
    # os.posix_fallocate writes a byte to every block where the file system cannot allocate (UBIFS, JFFS2):
    # that would cost the flash the whole image a second time. The system call says no instead.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while size and call(fd, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
