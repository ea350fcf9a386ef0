"""Files that survive a power cut, and the lock that keeps two operators apart.

A repository is a directory that a crash may interrupt between any two writes. Every file is therefore
written under a temporary name, fsynced, renamed and its directory fsynced, and is complete or absent.
Not for images or packs while they are built; those are only moved in (`import_object`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator.errors import RepositoryInUse
from p2p.content.digests import Digest
from p2p.content.manifest import ObjectRef
from p2p.errors import ContentError, LocalError, OperatorError

LOCK_WAIT_S = 10.0
_BLOCK = 1 << 20


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably; raises `LocalError` and keeps the old file when it cannot."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise LocalError(
            f"cannot write {path}: {error.strerror or error}",
            kept="the file as it was before",
            next_step="free space or mend permissions, then run the command again",
        ) from error


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory and its parents if need be; raises `LocalError`."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise LocalError(f"cannot make {path}: {error.strerror or error}") from error


def read_file(path: Path, size_max: int) -> bytes:
    """All of a small file; `OperatorError` when it cannot be read or is over `size_max` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > size_max:
        raise OperatorError(f"{path} is over {size_max} bytes")
    return data


def hash_file(path: Path) -> ObjectRef:
    """Digest and size of a file, read in blocks."""
    state = hashlib.sha256()
    size = 0
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                state.update(block)
                size += len(block)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror or error}") from error
    return ObjectRef(Digest(state.digest()), size)


def check_object(path: Path, expected: ObjectRef) -> None:
    """Raise `ContentError` unless the file has exactly the expected size and digest."""
    if not path.is_file():
        raise ContentError(f"object {expected.sha256.hex()} is missing")
    found = hash_file(path)
    if found != expected:
        raise ContentError(
            f"object {expected.sha256.hex()} is damaged: {found.size} bytes with digest {found.sha256.hex()}"
        )


def import_object(source: Path, directory: Path, expected: ObjectRef) -> bool:
    """Copy an object into `directory`, hashing what is written; False if it was there already.

    Raises `ContentError` when the bytes are not what `expected` says; nothing is left behind then.
    """
    target = directory / expected.sha256.hex()
    if target.exists():
        check_object(target, expected)
        return False
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    state = hashlib.sha256()
    size = 0
    try:
        with source.open("rb", buffering=0) as reader, temporary.open("xb") as writer:
            while block := reader.read(_BLOCK):
                size += len(block)
                if size > expected.size:
                    break
                state.update(block)
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())
        if size != expected.size or state.digest() != expected.sha256:
            raise ContentError(f"object {expected.sha256.hex()} is damaged in {source.parent}")
        temporary.replace(target)
        sync_directory(directory)
    except FileNotFoundError as error:
        raise ContentError(f"object {expected.sha256.hex()} is missing in {source.parent}") from error
    except OSError as error:
        raise LocalError(f"cannot copy {source}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def locked(directory: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the repository's lock; raises `RepositoryInUse` naming the holder after `wait_s` seconds."""
    path = directory / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LocalError(f"cannot lock {path}: {error.strerror or error}") from error
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise LocalError(f"cannot lock {path}: {error.strerror or error}") from error
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
                raise RepositoryInUse(
                    f"{directory} is in use by process {holder}",
                    kept="the repository as it is",
                    next_step="let that command finish, then run this one again",
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
