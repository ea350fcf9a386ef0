"""A disk in memory whose power can be cut between, or in the middle of, any two operations.

It promises what POSIX does and nothing more: data is durable after the file's fsync, names after the
directory's. What was not synced may after a cut be there, be missing, be torn at a sector or be zero,
each file and each name for itself. `explore` runs a scenario once per operation and way to lose.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from p2p.adapters.durable import DurableIo
from p2p.adapters.files import Space
from p2p.content.digests import Buffer

SECTOR = 512


class PowerCut(BaseException):
    """The power is gone; not an `Exception`, so that nothing handles it."""


@dataclass
class Inode:
    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        if len(self.now) < offset:
            self.now.extend(bytes(offset - len(self.now)))
        self.now[offset : offset + len(data)] = data
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))
        self.pending.append(size)

    def survive(self, rng: random.Random) -> bytes:
        if not self.pending:
            return self.durable
        how = rng.choice(["none", "all", "some", "zeros"])
        if how == "none":
            return self.durable
        if how == "all":
            return bytes(self.now)
        survivor = Inode(now=bytearray(self.durable))
        for change in self.pending:
            if isinstance(change, int):
                if rng.random() < 0.7:
                    survivor.resize(change)
                continue
            offset, data = change
            for at in range(0, len(data), SECTOR):
                part = data[at : at + SECTOR]
                luck = rng.random()
                if how == "zeros" and luck < 0.4:
                    part = bytes(len(part))
                elif luck < 0.3:
                    continue
                elif luck < 0.4:
                    part = part[: rng.randrange(len(part) + 1)]
                survivor.write(offset + at, part)
        return bytes(survivor.now)


class CrashDisk:
    """Implements `p2p.adapters.files.Files`. `cut_at`: the operation that the power is cut in."""

    def __init__(self, *, cut_at: int | None = None, seed: int = 0) -> None:
        self.operations = 0
        self.cut_at = cut_at
        self.fail_at: dict[int, int] = {}
        self.lying_sync: Callable[[str], bool] = lambda path: False
        self.log: list[str] = []
        self.bytes_written = 0
        self._rng = random.Random(seed)
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending_names: list[tuple[str, str, Inode | None]] = []  # source, name, inode (None: removed)
        self.directories = {"/"}

    def step(self, what: str) -> bool:
        """Count an operation. True when the power is cut in it (after part of it)."""
        self.operations += 1
        self.log.append(what)
        if self.operations in self.fail_at:
            raise OSError(self.fail_at[self.operations], "injected")
        return self.operations == self.cut_at

    def survivors(self, seed: int) -> CrashDisk:
        """The disk after the cut; the same seed gives the same one."""
        rng = random.Random(seed)
        after = CrashDisk(seed=seed)
        names = dict(self._durable_names)
        keep = rng.choice(["none", "all", "some"])
        for source, name, inode in self._pending_names:
            if keep == "none" or (keep == "some" and rng.random() < 0.5):
                continue
            names.pop(source or name, None)
            if inode is not None:
                names[name] = inode
        contents: dict[int, bytes] = {}
        for name, inode in names.items():
            data = contents.setdefault(id(inode), inode.survive(rng))
            after.place(name, data)
        after.directories = set(self.directories)
        return after

    def place(self, path: str, data: bytes) -> None:
        """Put a durable file there."""
        inode = Inode(durable=data, now=bytearray(data))
        self._names[path] = self._durable_names[path] = inode

    def content(self, path: str) -> bytes | None:
        inode = self._names.get(path)
        return None if inode is None else bytes(inode.now)

    def paths(self) -> list[str]:
        return sorted(self._names)

    # Files

    def open(self, path: str, *, write: bool = False, create: bool = False) -> CrashFile:
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            if self.step(f"create {path}"):
                raise PowerCut
            inode = self._names[path] = Inode()
            self._pending_names.append(("", path, inode))
        return CrashFile(self, path, inode)

    def exists(self, path: str) -> bool:
        return path in self._names or path in self.directories

    def rename(self, old: str, new: str) -> None:
        cut = self.step(f"rename {old} {new}")
        inode = self._names.pop(old)
        self._names[new] = inode
        self._pending_names.append((old, new, inode))
        if cut:
            raise PowerCut

    def remove(self, path: str) -> None:
        if path not in self._names:
            return
        cut = self.step(f"remove {path}")
        del self._names[path]
        self._pending_names.append(("", path, None))
        if cut:
            raise PowerCut

    def make_directories(self, path: str) -> None:
        self.directories.add(path)

    def sync_directory(self, path: str) -> None:
        cut = self.step(f"sync directory {path}")
        if cut:
            raise PowerCut
        prefix = path.rstrip("/") + "/"
        inside = {
            name for name in {*self._names, *self._durable_names} if name.rpartition("/")[0] + "/" == prefix
        }
        for name in inside:
            if name in self._names:
                self._durable_names[name] = self._names[name]
            else:
                self._durable_names.pop(name, None)
        self._pending_names = [p for p in self._pending_names if p[1].rpartition("/")[0] + "/" != prefix]

    def space(self, path: str) -> Space:
        inode = self._names.get(path)
        return Space(1, 1 << 40, len(inode.now) if inode else 0, False)


class CrashFile:
    """Implements `p2p.adapters.files.File`."""

    is_device = False

    def __init__(self, disk: CrashDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def size(self) -> int:
        return len(self._inode.now)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._inode.now[offset : offset + length])

    def write_at(self, offset: int, data: Buffer) -> None:
        cut = self._disk.step(f"write {self._path} {offset}+{len(data)}")
        if cut:
            self._inode.write(offset, bytes(data)[: self._disk._rng.randrange(len(data) + 1)])
            raise PowerCut
        self._inode.write(offset, bytes(data))
        self._disk.bytes_written += len(data)

    def resize(self, size: int) -> None:
        if size == len(self._inode.now):
            return
        cut = self._disk.step(f"resize {self._path} {size}")
        self._inode.resize(size)
        if cut:
            raise PowerCut

    def reserve(self, size: int) -> None:
        self.resize(max(size, len(self._inode.now)))

    def sync(self) -> None:
        if self._disk.step(f"sync {self._path}"):
            raise PowerCut
        if self._disk.lying_sync(self._path):
            return
        self._inode.durable = bytes(self._inode.now)
        self._inode.pending.clear()

    def drop_cache(self) -> None:
        pass

    def close(self) -> None:
        pass


class CrashIo(DurableIo):
    """The blob store's system calls on a `CrashDisk`; directories must exist for real (use `/`)."""

    def __init__(self, disk: CrashDisk) -> None:
        self._disk = disk
        self._open: dict[int, tuple[CrashFile, int]] = {}

    def read(self, path: Path) -> bytes:
        file = self._disk.open(str(path))
        return file.read_at(0, file.size())

    def create(self, path: Path) -> int:
        file = self._disk.open(str(path), write=True, create=True)
        file.resize(0)
        number = 1000 + len(self._open)
        self._open[number] = (file, 0)
        return number

    def write(self, fd: int, data: memoryview) -> int:
        file, at = self._open[fd]
        file.write_at(at, bytes(data))
        self._open[fd] = (file, at + len(data))
        return len(data)

    def sync(self, fd: int) -> None:
        self._open[fd][0].sync()

    def close(self, fd: int) -> None:
        pass

    def rename(self, source: Path, target: Path) -> None:
        self._disk.rename(str(source), str(target))

    def unlink(self, path: Path) -> None:
        if not self._disk.exists(str(path)):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._disk.remove(str(path))

    def sync_directory(self, path: Path) -> None:
        self._disk.sync_directory(str(path))

    def make_directory(self, path: Path) -> None:
        self._disk.make_directories(str(path))

    def names(self, path: Path) -> list[str]:
        prefix = str(path).rstrip("/") + "/"
        return [p[len(prefix) :] for p in self._disk.paths() if p.rpartition("/")[0] + "/" == prefix]


def explore(
    prepare: Callable[[CrashDisk], None], scenario: Callable[[CrashDisk], None], *, seeds: int
) -> Iterator[tuple[str, CrashDisk]]:
    """Every state that a cut in any operation of `scenario` can leave, `seeds` ways each.

    Yields the name of the operation and seed, and the disk as it is found at the next start.
    """
    whole = CrashDisk()
    prepare(whole)
    before = whole.operations
    scenario(whole)
    total = whole.operations
    for cut_at in range(before + 1, total + 1):
        disk = CrashDisk(cut_at=cut_at, seed=cut_at)
        prepare(disk)
        try:
            scenario(disk)
        except PowerCut:
            pass
        else:
            raise AssertionError(f"operation {cut_at} was not reached")
        for seed in range(seeds):
            yield f"cut at {cut_at} ({disk.log[-1]}), seed {seed}", disk.survivors(seed)
    yield "not cut", whole
