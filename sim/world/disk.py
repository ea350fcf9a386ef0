"""A device's medium in virtual time: the `Files` that the real adapters write to, without real images.

Small files (records, journals, the boot environment, trusted metadata) are real bytes. Of an image in
a slot only is known which ranges hold the right bytes of which image; what is written from `content`
is right, or wrong on purpose. The disk promises what POSIX does: data is durable after the file's
fsync, names after the directory's; what was not may, after the power was lost, be there or not.

Operations take no time by themselves: their cost adds up and whoever called them goes on after
`take_s()` seconds. Not for what is written and when: that is `p2p.adapters`' and the life cycle's.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from p2p.adapters.durable import DirectoryBlobStore, DurableIo
from p2p.adapters.files import File, Files, Space
from p2p.adapters.slot_writer import FileSlotWriter
from p2p.adapters.slots import FileSlots
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.intervals import IntervalSet
from p2p.ports import Boot
from sim.world.medium import Inode, SlotFile, SmallFile

ROOM = 1 << 50
"""Free bytes of a file system without a limit."""

_TEXTS = {
    errno.ENOENT: "No such file or directory",
    errno.ENOSPC: "No space left on device",
    errno.EBADF: "Bad file descriptor",
}


class VirtualDisk:
    """One device's medium (`p2p.adapters.files.Files`). Rates are bytes per second.

    `factor` slows everything down (0.1: to a tenth). `room`: bytes by which files may still grow, None
    for no limit; a partition never grows. `step` is told of each operation before it is carried out,
    and may raise `PowerCut` or an `OSError` there.
    """

    def __init__(self, *, write_rate: float = 50e6, read_rate: float = 100e6, fsync_s: float = 0.01) -> None:
        self.write_rate = write_rate
        self.read_rate = read_rate
        self.fsync_s = fsync_s
        self.factor = 1.0
        self.room: int | None = None
        self.step: Callable[[str], None] | None = None
        self.starts = 0
        self._spent = 0.0
        self._names: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._pending: list[tuple[str, str, Inode | None]] = []  # old name, name, inode (None: removed)
        self._directories = {"/"}
        self._slots: set[str] = set()

    # The world's side

    def take_s(self) -> float:
        """Seconds of work of the operations since this was asked last."""
        spent, self._spent = self._spent, 0.0
        return spent / self.factor

    def add_slot(self, path: str, capacity: int = 0) -> None:
        """`path` will hold images: a partition of `capacity` bytes, or with 0 a file."""
        self._slots.add(path)
        if capacity:
            self._names[path] = self._durable[path] = SlotFile(capacity, device=True)

    def flash(self, path: str, image: Digest, size: int) -> None:
        """The factory's work: the slot holds this image, durably."""
        slot = self._names.get(path)
        if not isinstance(slot, SlotFile):
            slot = self._names[path] = self._durable[path] = SlotFile(size)
        slot.put(0, size, image)
        slot.sync()

    def writing(self, path: str, image: Digest) -> None:
        """What is written to the slot from now on are bytes of `image`."""
        self._slot(path, create=True).writing = image

    def right(self, path: str, image: Digest) -> IntervalSet:
        """The ranges of a slot that hold the right bytes of `image`. Not to be changed."""
        return self._slot(path).right.get(image) or IntervalSet()

    def rot(self, path: str, start: int, stop: int) -> None:
        """The medium forgets: a range of a slot reads wrong from now on."""
        slot = self._slot(path)
        slot.put(start, min(stop, slot.size), None)

    def lose_power(self, rng: random.Random) -> None:
        """What was not synced may be gone; open files are closed. The same `rng` loses the same."""
        self.starts += 1
        self._spent = 0.0
        before = sum(inode.size for inode in self._names.values())
        keep = rng.choice(("none", "all", "some"))
        names = self._durable
        for old, name, inode in self._pending:
            if keep == "none" or (keep == "some" and rng.random() < 0.5):
                continue
            names.pop(old or name, None)
            if inode is not None:
                names[name] = inode
        self._pending.clear()
        self._names = dict(names)
        for inode in {id(i): i for i in names.values()}.values():
            inode.lose_power(rng)
        self._grow(min(0, sum(inode.size for inode in self._names.values()) - before))

    def restart(self) -> None:
        """The agent is killed, the machine is not: open files are closed, nothing is lost."""
        self.starts += 1
        self._spent = 0.0

    def blobs(self, directory: str) -> DirectoryBlobStore:
        """The real store of small durable values, on this disk."""
        return DirectoryBlobStore(Path(directory), VirtualIo(self))

    def hash_image(self, file: File, size: int) -> Digest:
        """Read the first `size` bytes of a slot back (`p2p.adapters.slot_writer.HashImage`)."""
        assert isinstance(file, VirtualFile)
        self._spent += size / self.read_rate
        return file.image(size)

    # Files

    def open(self, path: str, *, write: bool = False, create: bool = False) -> VirtualFile:
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise _error(errno.ENOENT, path)
            self._step("create", path)
            inode = self._names[path] = SlotFile() if path in self._slots else SmallFile()
            self._pending.append(("", path, inode))
        return VirtualFile(self, path, inode)

    def exists(self, path: str) -> bool:
        return path in self._names or path in self._directories

    def rename(self, old: str, new: str) -> None:
        self._step("rename", new)
        if old not in self._names:
            raise _error(errno.ENOENT, old)
        replaced = self._names.get(new)
        if replaced is not None:
            self._grow(-replaced.size)
        inode = self._names[new] = self._names.pop(old)
        self._pending.append((old, new, inode))

    def remove(self, path: str) -> None:
        if path in self._names:
            self._step("remove", path)
            self._grow(-self._names.pop(path).size)
            self._pending.append(("", path, None))

    def make_directories(self, path: str) -> None:
        self._directories.add(path)

    def sync_directory(self, path: str) -> None:
        self._step("sync directory", path)
        left = []
        for change in self._pending:
            old, name, _ = change
            if _parent(name) != path:
                left.append(change)
                continue
            for touched in (old, name):
                inode = self._names.get(touched)
                if inode is not None:
                    self._durable[touched] = inode
                else:
                    self._durable.pop(touched, None)
        if len(left) != len(self._pending):
            self._pending = left
            self._spent += self.fsync_s

    def space(self, path: str) -> Space:
        inode = self._names.get(path)
        if isinstance(inode, SlotFile) and inode.device:
            return Space(2, 0, inode.size, True)
        free = ROOM if self.room is None else self.room
        return Space(1, free, 0 if inode is None else inode.size, False)

    def names_in(self, directory: str) -> Iterator[str]:
        """The names of files in a directory."""
        prefix = directory.rstrip("/") + "/"
        return (p[len(prefix) :] for p in self._names if p.startswith(prefix) and _parent(p) + "/" == prefix)

    # Inside

    def _step(self, what: str, path: str) -> None:
        if self.step is not None:
            self.step(f"{what} {path}")

    def _grow(self, size: int) -> None:
        if self.room is None:
            return
        if size > self.room:
            raise _error(errno.ENOSPC)
        self.room -= size

    def _slot(self, path: str, *, create: bool = False) -> SlotFile:
        inode = self._names.get(path)
        if inode is None and create:
            inode = self.open(path, write=True, create=True).inode
        if not isinstance(inode, SlotFile):
            raise _error(errno.ENOENT, path)
        return inode


class VirtualFile:
    """An open file (`p2p.adapters.files.File`)."""

    __slots__ = ("_disk", "_path", "_start", "inode")

    def __init__(self, disk: VirtualDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._start = disk.starts
        self.inode = inode

    @property
    def is_device(self) -> bool:
        return isinstance(self.inode, SlotFile) and self.inode.device

    def size(self) -> int:
        return self.inode.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Of a slot: zeros, with a 1 in front where they are not all right."""
        self._check()
        if isinstance(self.inode, SmallFile):
            return self.inode.read(offset, length)
        length = max(0, min(length, self.inode.size - offset))
        self._disk._spent += length / self._disk.read_rate
        right = any(ranges.covers(offset, offset + length) for ranges in self.inode.right.values())
        return bytes(length) if right else b"\1" + bytes(length - 1)

    def write_at(self, offset: int, data: Buffer) -> None:
        self._check()
        disk, inode, size = self._disk, self.inode, len(data)
        if disk.step is not None:
            disk.step(f"write {self._path}")
        stop = offset + size
        grows = stop > inode.size
        if grows:
            if self.is_device:
                raise _error(errno.ENOSPC)
            disk._grow(stop - inode.size)
        disk._spent += size / disk.write_rate
        if type(inode) is SmallFile:
            inode.write(offset, _bytes(data))
            return
        assert type(inode) is SlotFile
        if grows:
            inode.size = stop
        inode.put(offset, stop, inode.writing if size and not data[0] else None)

    def resize(self, size: int) -> None:
        self._check()
        inode = self.inode
        if size == inode.size:
            return
        self._disk._step("resize", self._path)
        self._disk._grow(size - inode.size)
        if isinstance(inode, SmallFile):
            inode.resize(size)
            return
        for ranges in inode.right.values():
            ranges.remove(size, inode.size)
        inode.size = size

    def reserve(self, size: int) -> None:
        if size > self.inode.size:
            self.resize(size)

    def sync(self) -> None:
        self._check()
        self._disk._step("sync", self._path)
        if self.inode.sync():
            self._disk._spent += self._disk.fsync_s

    def drop_cache(self) -> None:
        pass

    def close(self) -> None:
        pass

    def image(self, size: int) -> Digest:
        """Digest of the first `size` bytes of a slot."""
        self._check()
        if isinstance(self.inode, SmallFile):
            return sha256(self.inode.read(0, size))
        for image, ranges in self.inode.right.items():
            if ranges.covers(0, size):
                return image
        state = [(image.hex(), list(ranges)) for image, ranges in self.inode.right.items()]
        return sha256(f"damaged {size} {state}".encode())

    def _check(self) -> None:
        if self._start != self._disk.starts:
            raise _error(errno.EBADF, self._path)


class VirtualSlots(FileSlots):
    """The real slots of one payload on a virtual disk."""

    def __init__(self, disk: VirtualDisk, payload: str, places: dict[str, str], directory: str, boot: Boot):
        super().__init__(payload, places, directory, boot, files=disk, hash_image=disk.hash_image)
        self._disk = disk

    def open_writer(self, slot: str, image: Digest, size: int) -> FileSlotWriter:
        writer = super().open_writer(slot, image, size)
        self._disk.writing(self.path(slot), image)
        return writer


class ListedFiles(Files, Protocol):
    """A file system that can tell the names in a directory."""

    def names_in(self, directory: str) -> Iterable[str]: ...


class VirtualIo(DurableIo):
    """The real blob store's system calls on a virtual disk, or any other file system."""

    def __init__(self, disk: ListedFiles) -> None:
        self._disk = disk
        self._open: dict[int, tuple[File, int]] = {}

    def read(self, path: Path) -> bytes:
        file = self._disk.open(str(path))
        return file.read_at(0, file.size())

    def create(self, path: Path) -> int:
        file = self._disk.open(str(path), write=True, create=True)
        file.resize(0)
        self._open[0] = (file, 0)  # the store writes one at a time
        return 0

    def write(self, fd: int, data: memoryview) -> int:
        file, at = self._open[fd]
        file.write_at(at, data)
        self._open[fd] = (file, at + len(data))
        return len(data)

    def sync(self, fd: int) -> None:
        self._open[fd][0].sync()

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def rename(self, source: Path, target: Path) -> None:
        self._disk.rename(str(source), str(target))

    def unlink(self, path: Path) -> None:
        if not self._disk.exists(str(path)):
            raise _error(errno.ENOENT, str(path))
        self._disk.remove(str(path))

    def sync_directory(self, path: Path) -> None:
        self._disk.sync_directory(str(path))

    def make_directory(self, path: Path) -> None:
        self._disk.make_directories(str(path))

    def names(self, path: Path) -> list[str]:
        return sorted(self._disk.names_in(str(path)))


def _bytes(data: Buffer) -> bytes:
    """As bytes of its own, or those that a view shows whole."""
    if isinstance(data, memoryview) and type(data.obj) is bytes and len(data.obj) == len(data):
        return data.obj
    return bytes(data)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _error(code: int, path: str | None = None) -> OSError:
    return OSError(code, _TEXTS[code], path)  # a `FileNotFoundError`, where the code says so
