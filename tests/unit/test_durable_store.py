"""The blob store on a directory, over a model of a disk that loses whatever was not synced."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.durable import DirectoryBlobStore, DurableIo
from p2p.errors import StoreError

DATA_FATES = ("kept", "dropped", "torn", "zeroed")
ENTRY_FATES = ("kept", "undone")


class PowerCut(BaseException):
    """Nothing after this happens."""


class Inode:
    def __init__(self, synced: bytes = b"") -> None:
        self.data = bytearray(synced)
        self.synced = synced

    def after_cut(self, fate: str) -> bytes:
        if bytes(self.data) == self.synced or fate == "kept":
            return bytes(self.data)
        return {
            "dropped": self.synced,
            "torn": bytes(self.data[: len(self.data) // 2]),
            "zeroed": bytes(len(self.data)),
        }[fate]


class ModelDisk(DurableIo):
    """One directory. Each operation counts; the one numbered `cut_at` does not happen any more."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.entries = {name: Inode(data) for name, data in (files or {}).items()}
        self.synced_entries = dict(self.entries)
        self.open: dict[int, Inode] = {}
        self.descriptors = itertools.count(3)
        self.operations: list[str] = []
        self.cut_at: int | None = None
        self.failing: Callable[[str], OSError | None] = lambda operation: None

    def _step(self, operation: str) -> None:
        if len(self.operations) == self.cut_at:
            raise PowerCut
        self.operations.append(operation)
        error = self.failing(operation)
        if error is not None:
            raise error

    def read(self, path: Path) -> bytes:
        try:
            return bytes(self.entries[path.name].data)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "none") from None

    def create(self, path: Path) -> int:
        self._step("create")
        fd = next(self.descriptors)
        self.entries[path.name] = self.open[fd] = Inode()
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self._step("write")
        part = data[:7]  # short writes, as a disk may make them
        self.open[fd].data += part
        return len(part)

    def sync(self, fd: int) -> None:
        self._step("sync")
        self.open[fd].synced = bytes(self.open[fd].data)

    def close(self, fd: int) -> None:
        del self.open[fd]

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        self.entries[target.name] = self.entries.pop(source.name)

    def unlink(self, path: Path) -> None:
        if path.name not in self.entries:
            raise FileNotFoundError(errno.ENOENT, "none")
        self._step("unlink")
        del self.entries[path.name]

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory")
        self.synced_entries = dict(self.entries)

    def make_directory(self, path: Path) -> None:
        raise FileExistsError(errno.EEXIST, "it is there")

    def names(self, path: Path) -> list[str]:
        return list(self.entries)

    def after_cut(self, data_fate: str, entry_fate: str) -> ModelDisk:
        entries = self.entries if entry_fate == "kept" else self.synced_entries
        return ModelDisk({name: inode.after_cut(data_fate) for name, inode in entries.items()})


def fail(operation: str, code: int) -> Callable[[str], OSError | None]:
    return lambda name: OSError(code, os.strerror(code)) if name == operation else None


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


OLD, NEW, OTHER = b"the old value", b"a new and longer value than that", b"other"


@pytest.mark.parametrize("value", [NEW, None], ids=["write", "delete"])
def test_a_cut_anywhere_leaves_the_old_or_the_new_value_whole(directory: Path, value: bytes | None) -> None:
    def change(disk: ModelDisk) -> None:
        store = DirectoryBlobStore(directory, disk)
        if value is None:
            store.delete("a")
        else:
            store.write("a", value)

    whole = ModelDisk({"a": OLD, "b": OTHER})
    change(whole)
    assert len(whole.operations) >= 3
    seen = set()
    for cut_at in range(1, len(whole.operations)):
        for fates in itertools.product(DATA_FATES, ENTRY_FATES):
            disk = ModelDisk({"a": OLD, "b": OTHER})
            disk.cut_at = cut_at
            with pytest.raises(PowerCut):
                change(disk)
            after = DirectoryBlobStore(directory, disk.after_cut(*fates))
            assert after.read("a") in (OLD, value), (cut_at, fates)
            assert after.read("b") == OTHER
            assert after.names() == (["a", "b"] if after.read("a") is not None else ["b"])
            seen.add(after.read("a"))
    assert seen == {OLD, value}


def test_what_was_written_survives_whatever_fate_of_the_rest(directory: Path) -> None:
    for fates in itertools.product(DATA_FATES, ENTRY_FATES):
        disk = ModelDisk({"a": OLD})
        DirectoryBlobStore(directory, disk).write("a", NEW)
        assert DirectoryBlobStore(directory, disk.after_cut(*fates)).read("a") == NEW


def test_what_a_cut_left_behind_is_cleared_away(directory: Path) -> None:
    disk = ModelDisk({"a": OLD})
    disk.cut_at = 3
    with pytest.raises(PowerCut):
        DirectoryBlobStore(directory, disk).write("a", NEW)
    after = disk.after_cut("torn", "kept")
    assert len(after.entries) == 2
    DirectoryBlobStore(directory, after)
    assert list(after.entries) == ["a"]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_keeps_the_old_value_and_is_not_retried(
    directory: Path, operation: str, code: int
) -> None:
    disk = ModelDisk({"a": OLD})
    store = DirectoryBlobStore(directory, disk)
    disk.failing = fail(operation, code)
    with pytest.raises(StoreError) as caught:
        store.write("a", NEW)
    assert os.strerror(code) in caught.value.message
    assert caught.value.kept
    assert disk.operations.count(operation) == 1
    assert disk.operations[-1] == "unlink" or operation == "create"
    assert (store.read("a"), store.names()) == (OLD, ["a"])
    assert disk.open == {}
    disk.failing = lambda name: None
    store.write("a", NEW)  # a new file and a new fsync, not the failed one again
    assert store.read("a") == NEW


@pytest.mark.parametrize("change", ["write", "delete"])
def test_after_a_failed_directory_sync_the_store_only_reads(directory: Path, change: str) -> None:
    disk = ModelDisk({"a": OLD})
    store = DirectoryBlobStore(directory, disk)
    disk.failing = fail("sync_directory", errno.EIO)
    with pytest.raises(StoreError):
        store.write("a", NEW) if change == "write" else store.delete("a")
    disk.failing = lambda name: None
    before = len(disk.operations)
    for again in (lambda: store.write("a", NEW), lambda: store.delete("a")):
        with pytest.raises(StoreError) as caught:
            again()
        assert caught.value.next_step
    assert len(disk.operations) == before
    assert store.read("a") == (NEW if change == "write" else None)
    DirectoryBlobStore(directory, disk).write("a", NEW)


def test_a_bad_sector_is_this_devices_fault(directory: Path) -> None:
    class BadSector(DurableIo):
        def read(self, path: Path) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StoreError):
        DirectoryBlobStore(directory, BadSector()).read("a")


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "../a", "a\0", "ä", "x" * 241])
def test_names_that_could_be_paths_are_refused(directory: Path, name: str) -> None:
    store = DirectoryBlobStore(directory / "store")
    for attempt in (lambda: store.write(name, b""), lambda: store.read(name), lambda: store.delete(name)):
        with pytest.raises(StoreError):
            attempt()
    assert [path.name for path in directory.iterdir()] == ["store"]
    store.write("a", b"")


def test_on_a_real_disk(directory: Path) -> None:
    store = DirectoryBlobStore(directory / "state" / "trust")
    store.write("a", NEW)
    (directory / "state" / "trust" / ".new-b").write_bytes(b"left behind")
    again = DirectoryBlobStore(directory / "state" / "trust")
    assert (again.read("a"), again.names()) == (NEW, ["a"])
    assert not (directory / "state" / "trust" / ".new-b").exists()
    assert (directory / "state" / "trust" / "a").stat().st_mode & 0o077 == 0


def test_a_directory_that_cannot_be_made_is_said_so(directory: Path) -> None:
    (directory / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        DirectoryBlobStore(directory / "file" / "store")


def test_two_threads_that_write_one_name_take_turns(directory: Path) -> None:
    """The second begins when the first is about to rename; without turns it would take its file away."""

    class Meeting(DurableIo):
        second: threading.Thread | None = None

        def rename(self, source: Path, target: Path) -> None:
            if self.second is None:
                self.second = threading.Thread(target=store.write, args=("a", b"second"))
                self.second.start()
                self.second.join(0.2)  # with turns it waits for us, so this only bounds the test
            super().rename(source, target)

    meeting = Meeting()
    store = DirectoryBlobStore(directory / "store", meeting)
    store.write("a", b"first")
    assert meeting.second is not None
    meeting.second.join()
    assert store.read("a") == b"second"
