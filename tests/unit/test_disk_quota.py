"""What the agent's own files take up, and what is refused beyond a quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p.adapters import disk_quota
from p2p.adapters.disk_quota import DiskQuota
from p2p.agent.images import LocalImage
from p2p.agent.spool import Spool, SpoolMemory
from p2p.content.digests import sha256
from p2p.errors import StoreError
from tests.support.small_image import (
    BASE,
    DELTA,
    DELTA_FRAMES,
    DELTA_PACK,
    IMAGE,
    TASK,
    MemoryImage,
    MemoryWriter,
)

KIB, MIB = 1 << 10, 1 << 20
PACK, NAME = sha256(b"pack"), DELTA_PACK.index.sha256


@pytest.fixture(autouse=True)
def always_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_quota, "RECOUNT_S", 0.0)


def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    (directory / "imported" / "objects").mkdir(parents=True)
    (directory / "imported" / "objects" / "frames").write_bytes(os.urandom(256 * KIB))
    (directory / "slots").mkdir()
    (directory / "slots" / "a.img").write_bytes(os.urandom(512 * KIB))
    (tmp_path / "somebody-elses").write_bytes(os.urandom(512 * KIB))
    (directory / "link").symlink_to(tmp_path / "somebody-elses")
    return directory


def test_only_the_agents_own_files_count(tmp_path: Path) -> None:
    directory = state(tmp_path)
    assert DiskQuota(directory, [directory / "slots" / "a.img"], None).used() == 256 * KIB
    assert DiskQuota(directory, [], None).used() == 768 * KIB
    assert DiskQuota(tmp_path / "nothing", [], None).used() == 0


def test_holes_take_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
    assert DiskQuota(tmp_path, [], None).used() < MIB


def test_files_without_a_name_are_taken_and_given_back(tmp_path: Path) -> None:
    directory = state(tmp_path)
    quota = DiskQuota(directory, [directory / "slots" / "a.img"], MIB)
    assert quota.take(768 * KIB)
    assert quota.used() == MIB
    assert not quota.take(1)
    assert quota.used() == MIB, "what was refused does not count"
    quota.give(1)
    assert quota.take(1)
    (directory / "imported" / "objects" / "frames").unlink()
    assert quota.take(256 * KIB), "what others of ours gave up is free"


def test_too_much_is_told_with_the_key_and_the_numbers(tmp_path: Path) -> None:
    directory = state(tmp_path)
    quota = DiskQuota(directory, [directory / "slots" / "a.img"], 300 * KIB)
    quota.check(44 * KIB, "a bundle")
    with pytest.raises(StoreError) as caught:
        quota.check(44 * KIB + 1, "a bundle")
    assert caught.value.message == (
        "budgets.disk_max: a bundle needs 45057 bytes more, and of 307200 the agent's files take up 262144"
    )
    assert "307201" in caught.value.next_step
    DiskQuota(directory, [], None).check(1 << 60, "a bundle")


# The spool


def test_a_spool_keeps_within_the_quota_and_gives_back_what_it_had(tmp_path: Path) -> None:
    quota = DiskQuota(tmp_path, [], 10_000)
    spool = Spool(tmp_path / "spool", quota, SpoolMemory(0))
    assert spool.keep(PACK, 1000, bytes(6000))
    assert not spool.keep(PACK, 7000, bytes(6000))
    assert spool.keep(PACK, 1000, b"\1" * 6000), "again: it takes no more"
    assert spool.keep(PACK, 7000, bytes(4000))
    assert spool.read(PACK, 1000, 6000) == b"\1" * 6000
    assert quota.used() == 10_000
    spool.close()
    assert quota.used() == 0
    assert spool.read(PACK, 1000, 6000) is None
    assert not spool.keep(PACK, 1000, bytes(10)), "it is closed"


def test_what_memory_has_room_for_is_not_written_to_the_disk(tmp_path: Path) -> None:
    quota, memory = DiskQuota(tmp_path, [], 10_000), SpoolMemory(10_000)
    spool, other = (Spool(tmp_path / name, quota, memory) for name in ("one", "other"))
    assert spool.keep(PACK, 1000, bytes(6000))
    assert spool.keep(PACK, 1000, b"\1" * 6000), "again: it takes no more"
    assert other.keep(PACK, 0, b"\2" * 4000)
    assert (quota.used(), list(tmp_path.iterdir())) == (0, [])
    assert spool.keep(PACK, 7000, b"\3" * 2000), "there is the disk"
    assert quota.used() == 2000
    assert spool.read(PACK, 1000, 6000) == b"\1" * 6000
    assert spool.read(PACK, 7000, 2000) == b"\3" * 2000
    spool.close()
    assert spool.read(PACK, 1000, 6000) is None
    assert memory.take(6000)
    assert not memory.take(1), "what the other keeps is still there"
    assert other.read(PACK, 0, 4000) == b"\2" * 4000


def test_what_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()  # no directory
    quota = DiskQuota(tmp_path, [], MIB)
    assert not Spool(tmp_path / "spool", quota, SpoolMemory(0)).keep(PACK, 0, bytes(10_000))
    assert quota.used() == 0


@pytest.mark.parametrize(("most", "served"), [(MIB, True), (10, False)])
def test_a_device_whose_quota_is_used_up_makes_its_image_and_serves_no_patches(
    tmp_path: Path, most: int, *, served: bool
) -> None:
    writer, quota = MemoryWriter(), DiskQuota(tmp_path, [], most)
    image = LocalImage(
        TASK,
        tmp_path / "spool",
        writer=writer,
        base=MemoryImage(BASE),
        quota=quota,
        memory=SpoolMemory(0),
    )
    image.use(NAME, DELTA)
    list(image.local_steps(NAME))
    for number, frame in enumerate(DELTA_FRAMES):
        assert image.store_frame(NAME, number, frame).kept is served
    assert bytes(writer.data) == IMAGE
    assert image.piece_bytes(NAME, 0) == (DELTA_FRAMES[0] if served else None)
    image.close()
    assert quota.take(most)
