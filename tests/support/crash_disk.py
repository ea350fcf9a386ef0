"""A disk in memory whose power can be cut between, or in the middle of, any two operations.

It promises what POSIX does and nothing more: data is durable after the file's fsync, names after the
directory's. What was not synced may after a cut be there, be missing, be torn at a sector or be zero,
each file and each name for itself. `explore` runs a scenario once per operation and way to lose.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator

from p2p.adapters.files import Space
from p2p.content.digests import Buffer
from sim.world.medium import PowerCut, SmallFile


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
        self._names: dict[str, SmallFile] = {}
        self._durable_names: dict[str, SmallFile] = {}
        self._pending_names: list[
            tuple[str, str, SmallFile | None]
        ] = []  # source, name, inode (None: removed)
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
            data = contents.setdefault(id(inode), bytes(inode.survivor(rng).data))
            after.place(name, data)
        after.directories = set(self.directories)
        return after

    def place(self, path: str, data: bytes) -> None:
        """Put a durable file there."""
        self._names[path] = self._durable_names[path] = SmallFile(data)

    def content(self, path: str) -> bytes | None:
        inode = self._names.get(path)
        return None if inode is None else bytes(inode.data)

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
            inode = self._names[path] = SmallFile()
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

    def names_in(self, directory: str) -> list[str]:
        """The names of files in a directory."""
        prefix = directory.rstrip("/") + "/"
        return [p[len(prefix) :] for p in self.paths() if p.rpartition("/")[0] + "/" == prefix]

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
        return Space(1, 1 << 40, inode.size if inode else 0, False)


class CrashFile:
    """Implements `p2p.adapters.files.File`."""

    is_device = False

    def __init__(self, disk: CrashDisk, path: str, inode: SmallFile) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def size(self) -> int:
        return self._inode.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._inode.read(offset, length)

    def write_at(self, offset: int, data: Buffer) -> None:
        cut = self._disk.step(f"write {self._path} {offset}+{len(data)}")
        if cut:
            self._inode.write(offset, bytes(data)[: self._disk._rng.randrange(len(data) + 1)])
            raise PowerCut
        self._inode.write(offset, bytes(data))
        self._disk.bytes_written += len(data)

    def resize(self, size: int) -> None:
        if size == self._inode.size:
            return
        cut = self._disk.step(f"resize {self._path} {size}")
        self._inode.resize(size)
        if cut:
            raise PowerCut

    def reserve(self, size: int) -> None:
        self.resize(max(size, self._inode.size))

    def sync(self) -> None:
        if self._disk.step(f"sync {self._path}"):
            raise PowerCut
        if self._disk.lying_sync(self._path):
            return
        self._inode.sync()

    def drop_cache(self) -> None:
        pass

    def close(self) -> None:
        pass


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
