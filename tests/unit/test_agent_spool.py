"""What is kept for peers beside the slots: who reads never waits for who writes, and the quota adds up."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2p.adapters.disk_quota import DiskQuota
from p2p.agent.spool import Spool, SpoolMemory, usual_memory
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.limits import MIB

PACK, OTHER = sha256(b"pack"), sha256(b"other")


class SlowDisk:
    """`os.pwrite` that waits until it is let go on; `began`: it is at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self._write = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, descriptor: int, data: Buffer, offset: int) -> int:
        self.began.set()
        assert self.go_on.wait(10)
        return self._write(descriptor, data, offset)


@pytest.mark.parametrize("of_it", [PACK, OTHER], ids=["the-same-pack", "another"])
def test_who_reads_does_not_wait_for_who_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_it: Digest
) -> None:
    spool = Spool(tmp_path / "spool", memory=SpoolMemory(0))
    assert spool.keep(PACK, 0, b"before")
    disk = SlowDisk(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(spool.keep, of_it, 6, b"after")
        assert disk.began.wait(10)
        try:
            assert pool.submit(spool.read, PACK, 0, 6).result(5) == b"before"
        finally:
            disk.go_on.set()
        assert writing.result(5)
    assert spool.read(of_it, 6, 5) == b"after"


@pytest.mark.parametrize("closes", [False, True])
def test_what_is_written_as_the_spool_is_closed_is_not_kept_and_costs_no_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    quota = DiskQuota(tmp_path, (), 100)
    spool = Spool(tmp_path / "spool", quota, SpoolMemory(0))
    disk = SlowDisk(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(spool.keep, PACK, 0, bytes(60))
        assert disk.began.wait(10)
        if closes:
            spool.close()
        disk.go_on.set()
        assert writing.result(5) is not closes
    assert spool.read(PACK, 0, 60) == (None if closes else bytes(60))
    assert quota.take(60) is closes


def test_what_the_medium_does_not_give_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peer is refused, and takes chunks: no error of a disk ends the agent."""

    def fails(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    spool = Spool(tmp_path / "spool", memory=SpoolMemory(0))
    assert spool.keep(PACK, 0, b"a delta")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        assert spool.read(PACK, 0, 7) is None
    assert spool.read(PACK, 0, 7) == b"a delta"


def test_the_same_twice_counts_once(tmp_path: Path) -> None:
    quota = DiskQuota(tmp_path, (), 100)
    spool = Spool(tmp_path / "spool", quota, SpoolMemory(0))
    assert spool.keep(PACK, 0, bytes(60))
    assert spool.keep(PACK, 0, bytes(60))
    assert not spool.keep(PACK, 60, bytes(60))
    spool.close()
    assert quota.take(100)


@pytest.mark.parametrize(("machine", "fills"), [(64, 8), (128, 8), (256, 16), (512, 32), (8192, 32)])
def test_a_small_device_gives_less_memory_to_its_peers(
    monkeypatch: pytest.MonkeyPatch, machine: int, fills: int
) -> None:
    """Both in MiB."""
    of = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": machine * MIB // 4096}
    monkeypatch.setattr(os, "sysconf", of.__getitem__)
    assert usual_memory() == fills * MIB
