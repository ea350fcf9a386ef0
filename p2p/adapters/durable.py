"""A `BlobStore` on a directory: small values that are whole and durable, or not there.

A write goes to a temporary file, is fsynced, renamed over the old value, and the directory is
fsynced. Every system call goes through one object (`DurableIo`), so that tests can cut, tear and
fail any of them. Not for images or frames, and not for several processes at once: whoever opens the
directory owns it (the agent's lock sees to that).
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

from p2p.errors import StoreError

_NAME = re.compile(r"[A-Za-z0-9_%~+-][A-Za-z0-9._%~+-]*")
_NAME_LENGTH_MAX = 240
_TEMPORARY = ".new-"


class DurableIo:
    """The system calls of a durable write, one method each. Raises `OSError`."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """Open an empty file for writing; returns its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def names(self, path: Path) -> list[str]:
        return os.listdir(path)  # noqa: PTH208 (names, not paths)


class DirectoryBlobStore:
    """Values as files of `directory`, which is made if need be.

    Names are at most 240 of `A-Za-z0-9._%~+-`, not beginning with a dot. A failed fsync is never
    retried: the file that it was for is dropped, and after a failed fsync of the directory, when
    nobody can know which of its entries are durable, the store only reads until it is opened anew.
    May be used from several threads; writes take turns, since two of one name share a temporary file.
    """

    def __init__(self, directory: Path, io: DurableIo | None = None) -> None:
        self._directory = directory
        self._io = io or DurableIo()
        self._failed: str | None = None
        self._turn = threading.Lock()
        try:
            self._make(directory)
            for name in self._io.names(directory):
                if name.startswith(_TEMPORARY):
                    self._io.unlink(directory / name)
        except OSError as error:
            raise _store_error("open", directory, error) from error

    def read(self, name: str) -> bytes | None:
        """The value, or None if it was never written. Raises `StoreError` (EIO, for instance)."""
        path = self._path(name)
        try:
            return self._io.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _store_error("read", path, error) from error

    def write(self, name: str, value: bytes) -> None:
        """Durable when it returns. On `StoreError` the old value is kept, or, if it was the
        directory's fsync that failed, after a power cut either value is there, whole."""
        path = self._path(name)
        temporary = self._directory / f"{_TEMPORARY}{name}"
        with self._turn:
            self._check_usable()
            try:
                self._fill(temporary, value)
                self._io.rename(temporary, path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._io.unlink(temporary)
                raise _store_error("write", path, error) from error
            self._sync_directory()

    def delete(self, name: str) -> None:
        """Durable when it returns; no error when absent."""
        path = self._path(name)
        with self._turn:
            self._check_usable()
            try:
                self._io.unlink(path)
            except FileNotFoundError:
                return
            except OSError as error:
                raise _store_error("delete", path, error) from error
            self._sync_directory()

    def names(self) -> list[str]:
        """The names that hold a value, sorted."""
        try:
            return sorted(name for name in self._io.names(self._directory) if _NAME.fullmatch(name))
        except OSError as error:
            raise _store_error("list", self._directory, error) from error

    def _fill(self, path: Path, value: bytes) -> None:
        fd = self._io.create(path)
        try:
            rest = memoryview(value)
            while rest:
                rest = rest[self._io.write(fd, rest) :]
            self._io.sync(fd)
        finally:
            self._io.close(fd)

    def _make(self, directory: Path) -> None:
        try:
            self._io.make_directory(directory)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make(directory.parent)
            self._io.make_directory(directory)
        # Also when it was there: a cut may have come between its making and this.
        self._io.sync_directory(directory.parent)

    def _sync_directory(self) -> None:
        try:
            self._io.sync_directory(self._directory)
        except OSError as error:
            self._failed = str(error)
            raise _store_error("sync", self._directory, error) from error

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StoreError(
                f"{self._directory}: an earlier sync failed ({self._failed})",
                kept="what was durable before",
                next_step="check the disk, then start again",
            )

    def _path(self, name: str) -> Path:
        if len(name) > _NAME_LENGTH_MAX or not _NAME.fullmatch(name):
            raise StoreError(f"{name[:40]!r} is not a name for a stored value")
        return self._directory / name


class ReadOnlyBlobStore:
    """The values of a directory that another process may own: nothing is made, changed or cleaned up.

    Each value is whole, as it is renamed into place; what two of them say together may be of two moments.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> bytes | None:
        """As `DirectoryBlobStore.read`."""
        try:
            return (self._directory / name).read_bytes() if _NAME.fullmatch(name) else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _store_error("read", self._directory / name, error) from error

    def write(self, name: str, value: bytes) -> None:
        """Refused."""
        raise StoreError(f"{self._directory / name}: belongs to the agent")

    def delete(self, name: str) -> None:
        """Refused."""
        raise StoreError(f"{self._directory / name}: belongs to the agent")

    def names(self) -> list[str]:
        """The names that hold a value, sorted; none where there is no directory."""
        try:
            return sorted(p.name for p in self._directory.iterdir() if _NAME.fullmatch(p.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _store_error("list", self._directory, error) from error


def _store_error(action: str, path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot {action} {path}: {error.strerror or error}",
        kept="what was stored before",
        next_step="check the disk's free space and health",
    )
