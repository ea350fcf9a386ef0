"""A bundle's files: reading them as the hostile's, writing them so that a cut at any moment loses little.

Reading opens nothing but regular files whose names are made from digests, and believes nothing before its
digest was checked. Writing puts each object under a temporary name, renames it when it is whole and
verified, and the table of contents, which makes a bundle of it, comes last. What was verified before is gone
on from. A bundle on a stick and what a device has imported are the same thing, written by the same code.

Not for what belongs into a bundle (`p2p.trust.bundling`), nor for where objects come from (`p2p.bundles`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from p2p.adapters.files import Files, SystemFile, SystemFiles, replace_durably
from p2p.content import limits
from p2p.content.bundle import (
    OBJECTS,
    TABLE_NAME,
    BundleObject,
    Table,
    decode_table,
    encode_table,
    file_names,
)
from p2p.content.digests import Buffer, Digest, verify
from p2p.content.manifest import ObjectRef
from p2p.errors import ContentError, LimitExceeded, LocalError, OperatorError, StoreError

PARTIAL = ".partial"
KEEP_NAME = "keep"
"""A file of this name in an imported bundle: its frames stay when their release is committed."""

_OWN_NAME = re.compile(r"[0-9a-f]{64}(\.\d{4})?(\.partial)?")


class ListedFiles(Files, Protocol):
    """A file system that can also list a directory."""

    def names_in(self, directory: str) -> list[str]:
        """The names of files in a directory."""


class StickFiles(SystemFiles):
    """The machine's file system where others may have put anything: links and special files are refused."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SystemFile:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_RDWR if write else os.O_RDONLY)
        descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{path} is no regular file")
        return SystemFile(descriptor)

    def sync_directory(self, path: str) -> None:
        """Some file systems of sticks have nothing to sync a directory by."""
        try:
            super().sync_directory(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise

    def names_in(self, directory: str) -> list[str]:
        """The names of what is in a directory; raises `OSError` for a link to one."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.listdir(descriptor)  # noqa: PTH208 (of what was opened, not of a name)
        finally:
            os.close(descriptor)


STICK_FILES = StickFiles()


class BundleReader:
    """An existing bundle. Opening it reads the table alone. Calls block."""

    def __init__(self, directory: str, table: Table, files: ListedFiles = STICK_FILES) -> None:
        self.directory = directory
        self.table = table
        self._files = files
        self._by_digest = {o.ref.sha256: o for o in table.objects}

    @classmethod
    def open(cls, directory: str, files: ListedFiles = STICK_FILES) -> BundleReader:
        """Raises `OperatorError` where there is none, `ContentError` for a bad table, `StoreError`."""
        path = f"{directory}/{TABLE_NAME}"
        try:
            file = files.open(path)
        except FileNotFoundError:
            raise _no_bundle(directory, files) from None
        except OSError as error:
            raise medium_error("read", path, error) from error
        try:
            size = file.size()
            if size > limits.BUNDLE_TABLE_MAX:
                raise LimitExceeded(f"{path}: {size} bytes are over {limits.BUNDLE_TABLE_MAX}")
            table = decode_table(file.read_at(0, size))
        except OSError as error:
            raise medium_error("read", path, error) from error
        except ContentError as error:
            raise type(error)(
                f"{path}: {error.message}", next_step="export it again: what is whole of it is kept"
            ) from error
        finally:
            file.close()
        return cls(directory, table, files)

    def find(self, digest: Digest) -> BundleObject | None:
        """An object by its digest, if the table has it."""
        return self._by_digest.get(digest)

    def whole(self, found: BundleObject) -> bytes:
        """A small object, its digest checked. Raises `ContentError` naming it."""
        data = b"".join(self.parts(found, 0, found.ref.size))
        try:
            verify(data, found.ref.sha256, _named(found))
        except ContentError as error:
            raise ContentError(
                error.message, next_step="export the bundle again: this object will be replaced"
            ) from error
        return data

    def parts(self, found: BundleObject, start: int, stop: int, *, step: int = limits.MIB) -> Iterator[bytes]:
        """Bytes `[start, stop)` of an object, unverified, in parts. Raises `ContentError`, `StoreError`."""
        at = 0
        for name, size in file_names(found.ref, self.table.part_size):
            if at + size > start and at < stop:
                yield from self._file_parts(found, name, size, max(0, start - at), min(size, stop - at), step)
            at += size

    def lacks(self) -> list[BundleObject]:
        """Objects whose files are missing or of another size: seen without reading any."""
        return [found for found in self.table.objects if not self._is_there(found)]

    def _is_there(self, found: BundleObject) -> bool:
        for name, size in file_names(found.ref, self.table.part_size):
            try:
                file = self._files.open(self._path(name))
            except OSError:
                return False
            try:
                if file.size() != size:
                    return False
            finally:
                file.close()
        return True

    def _file_parts(
        self, found: BundleObject, name: str, size: int, start: int, stop: int, step: int
    ) -> Iterator[bytes]:
        path = self._path(name)
        try:
            file = self._files.open(path)
        except FileNotFoundError:
            raise ContentError(
                f"{_named(found)}: its file {name} is missing", next_step="export the bundle again"
            ) from None
        except OSError as error:
            raise medium_error("read", path, error) from error
        try:
            if file.size() != size:
                raise ContentError(
                    f"{_named(found)}: its file {name} has {file.size()} bytes instead of {size}",
                    next_step="export the bundle again: this object will be replaced",
                )
            for at in range(start, stop, step):
                length = min(step, stop - at)
                data = file.read_at(at, length)
                if len(data) != length:
                    raise ContentError(f"{_named(found)}: its file {name} ends early")
                yield data
        except OSError as error:
            raise medium_error("read", path, error) from error
        finally:
            file.close()

    def _path(self, name: str) -> str:
        return f"{self.directory}/{OBJECTS}/{name}"


class PartialObject:
    """One object while it is written: what is there of it, more at its end, and its final names.

    `present`: bytes from its beginning that are there, unverified. Raises `OSError`; the writer's user
    says what that means.
    """

    def __init__(self, directory: str, ref: ObjectRef, part_size: int, files: Files) -> None:
        self.ref = ref
        self._files = files
        self._directory = directory
        self._parts = [(f"{directory}/{name}", size) for name, size in file_names(ref, part_size)]
        self._starts = [min(n * part_size, ref.size) for n in range(len(self._parts))]
        self._unsynced: set[str] = set()
        self._unnamed = False
        self.complete, self.present = self._look()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of what is present, fewer only at its end."""
        data = bytearray()
        for n, at, size in self._spans(offset, length):
            file = self._files.open(self._place(n))
            try:
                data += file.read_at(at, size)
            finally:
                file.close()
        return bytes(data)

    def truncate(self, size: int) -> None:
        """Keep the first `size` bytes only; from then on the object has temporary names again."""
        for n, (path, _) in enumerate(self._parts):
            stays = min(max(0, size - self._starts[n]), self._parts[n][1])
            whole = stays == self._parts[n][1] and size > 0
            if whole and self._size(self._place(n)) <= stays:
                continue
            if self._files.exists(path):
                self._files.remove(path + PARTIAL)
                self._files.rename(path, path + PARTIAL)
            if self._files.exists(path + PARTIAL):
                if stays:
                    self._resize(path + PARTIAL, stays)
                else:
                    self._files.remove(path + PARTIAL)
        self.complete, self.present = False, size

    def append(self, data: Buffer) -> None:
        """Write verified bytes at the end of what is present."""
        view, written = memoryview(data), 0
        for n, at, size in self._spans(self.present, len(view)):
            path = self._parts[n][0] + PARTIAL
            self._unnamed |= not self._files.exists(path)
            file = self._files.open(path, write=True, create=True)
            try:
                file.write_at(at, view[written : written + size])
            finally:
                file.close()
            self._unsynced.add(path)
            written += size
        self.present += len(view)

    def sync(self) -> None:
        """Make what is present durable."""
        for path in sorted(self._unsynced):
            file = self._files.open(path, write=True)
            try:
                file.sync()
            finally:
                file.close()
        self._unsynced.clear()
        if self._unnamed:
            self._files.sync_directory(self._directory)
            self._unnamed = False

    def finish(self) -> None:
        """It is whole and verified: durable, and then under its final names."""
        if self.ref.size == 0:
            self._resize(self._parts[0][0] + PARTIAL, 0, create=True)
        # Also what an earlier try wrote, which may have been killed before it synced.
        left = [path + PARTIAL for path, _ in self._parts if self._files.exists(path + PARTIAL)]
        self._unsynced.update(left)
        self.sync()
        for path in left:
            self._files.rename(path, path.removesuffix(PARTIAL))
        self._files.sync_directory(self._directory)
        self.complete = True

    def _look(self) -> tuple[bool, int]:
        present, complete = 0, True
        for n, (path, size) in enumerate(self._parts):
            final = self._files.exists(path)
            found = self._size(self._place(n)) if final or self._files.exists(path + PARTIAL) else -1
            complete = complete and final and found == size
            present += min(max(found, 0), size)
            if found != size:
                break
        return complete, present

    def _size(self, path: str) -> int:
        try:
            file = self._files.open(path)
        except OSError:
            return -1
        try:
            return file.size()
        finally:
            file.close()

    def _resize(self, path: str, size: int, *, create: bool = False) -> None:
        file = self._files.open(path, write=True, create=create)
        try:
            file.resize(size)
        finally:
            file.close()
        self._unsynced.add(path)

    def _place(self, n: int) -> str:
        path = self._parts[n][0]
        return path if self._files.exists(path) else path + PARTIAL

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Part, offset in it and size, for each part that `[offset, offset + length)` touches."""
        stop = offset + length
        for n, (_, size) in enumerate(self._parts):
            low, high = max(offset, self._starts[n]), min(stop, self._starts[n] + size)
            if low < high:
                yield n, low - self._starts[n], high - low


class BundleWriter:
    """Makes or renews the bundle in `directory`, which need not exist. Calls block.

    One writer at a time (`locked`). Objects come first, `commit` makes a bundle of them. Raises
    `OperatorError` for the directory of a repository, whose objects have the same names and would be dropped.
    """

    def __init__(self, directory: str, part_size: int, files: ListedFiles = STICK_FILES) -> None:
        self.directory = directory
        self._objects = f"{directory}/{OBJECTS}"
        self._part_size = part_size
        self._files = files
        self._refuse_repository()
        try:
            files.make_directories(self._objects)
            files.names_in(self._objects)
        except OSError as error:
            raise medium_error("write to", directory, error) from error

    def object(self, ref: ObjectRef) -> PartialObject:
        """What is there of an object, to go on with."""
        try:
            return PartialObject(self._objects, ref, self._part_size, self._files)
        except OSError as error:
            raise medium_error("write", self._objects, error) from error

    def free(self) -> int:
        """Bytes that fit on the file system."""
        try:
            return self._files.space(f"{self._objects}/new").free
        except OSError as error:
            raise medium_error("look at", self._objects, error) from error

    def commit(self, table: Table) -> None:
        """All objects of the table are there: make it the bundle's, durably, and drop what it lacks."""
        self._refuse_repository()
        kept = _names_of(table)
        try:
            self._files.sync_directory(self._objects)
            replace_durably(self._files, f"{self.directory}/{TABLE_NAME}", encode_table(table))
            for name in self._files.names_in(self._objects):
                if name not in kept and _OWN_NAME.fullmatch(name):
                    self._files.remove(f"{self._objects}/{name}")
            self._files.sync_directory(self._objects)
        except OSError as error:
            raise medium_error("write", self.directory, error) from error

    def left_over(self, table: Table | None) -> list[str]:
        """Paths of what imports or exports that were cut have left and no table names."""
        kept = set() if table is None else _names_of(table)
        try:
            found = self._files.names_in(self._objects)
        except OSError as error:
            raise medium_error("look at", self._objects, error) from error
        return [f"{self._objects}/{name}" for name in found if name not in kept and _OWN_NAME.fullmatch(name)]

    def _refuse_repository(self) -> None:
        try:
            found = self._files.exists(f"{self.directory}/metadata")
        except OSError as error:
            raise medium_error("look at", self.directory, error) from error
        if found:
            raise OperatorError(
                f"{self.directory} is a repository, or a mirror of one (there is {self.directory}/metadata)",
                kept="all its objects",
                next_step="name an empty directory for the bundle, or one that holds a bundle",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing to the same bundle. Raises `LocalError` when somebody does."""
        try:
            descriptor = os.open(self._objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise medium_error("open", self._objects, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise LocalError(
                f"another command writes to {self.directory}",
                kept="its work, which goes on",
                next_step="wait for it, or end it: what it has verified is kept",
            ) from error
        except OSError:
            pass  # a file system without locks: whoever starts two exports to one stick pays twice
        try:
            yield
        finally:
            with suppress(OSError):
                os.close(descriptor)


def _names_of(table: Table) -> set[str]:
    """The files of all objects."""
    return {name for o in table.objects for name, _ in file_names(o.ref, table.part_size)}


def _named(found: BundleObject) -> str:
    return f"{found.kind} {found.name} ({found.ref.sha256.hex()[:12]})"


def _no_bundle(directory: str, files: ListedFiles) -> OperatorError:
    if files.exists(f"{directory}/{OBJECTS}"):
        return OperatorError(
            f"{directory} holds a bundle whose export was not finished",
            next_step="run the same export again: it goes on where it stopped",
        )
    return OperatorError(
        f"{directory} is no bundle (there is no {TABLE_NAME})",
        next_step="name the directory that `slipstream bundle export --out` wrote",
    )


def medium_error(action: str, path: str, error: OSError) -> StoreError:
    """What a failing or full medium means for whoever reads a message."""
    return StoreError(
        f"cannot {action} {path}: {error.strerror or error}",
        kept="what was verified before",
        next_step="check the medium and its free space, then run the command again: it goes on",
    )
