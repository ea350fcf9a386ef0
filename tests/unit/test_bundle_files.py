"""A bundle's files: cuts at every operation while they are written, and hostile ones while they are read."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from p2p.adapters.bundle_files import BundleReader, BundleWriter, PartialObject
from p2p.adapters.directory_origin import stream_of
from p2p.bundles import copying
from p2p.bundles.copying import copy_object
from p2p.bundles.export import check_room
from p2p.content.bundle import PART_SIZE_MIN, BundleObject, Kind, Table, encode_table
from p2p.content.digests import Buffer, sha256
from p2p.content.index import Chunk, Compression, Data, PackIndex
from p2p.content.manifest import ObjectRef
from p2p.content.order import Audience
from p2p.errors import ContentError, LocalError, OperatorError, OriginError, SlipstreamError, StoreError
from tests.support.crash_disk import CrashDisk, explore

FRAME, PART = 700, 1500
RNG = random.Random(4)
FRAMES = [RNG.randbytes(FRAME) for _ in range(9)]
STORED = b"".join(FRAMES)
INDEX = PackIndex(
    sha256(STORED), len(STORED), None, 0,
    tuple(Data(FRAME, Compression.NONE, (Chunk(FRAME, sha256(frame)),)) for frame in FRAMES),
)  # fmt: skip


def object_of(kind: Kind, name: str, data: bytes) -> BundleObject:
    return BundleObject(kind, name, ObjectRef(sha256(data), len(data)))


SMALL = object_of(Kind.TIMESTAMP, "timestamp", b"{}")
EMPTY = object_of(Kind.DOCUMENT, "empty", b"")
LARGE = object_of(Kind.FRAMES, "p/1/rootfs/full", STORED)
TABLE = Table(0.0, ("p",), (), Audience(all=True), (SMALL, EMPTY, LARGE), PART)
CONTENT = {SMALL: b"{}", EMPTY: b"", LARGE: STORED}


def silent(size: int) -> None: ...


class Source:
    """Gives `data`, and counts what of it was asked for."""

    def __init__(self, data: bytes, *, breaks_at: int | None = None) -> None:
        self.data = data
        self.breaks_at = breaks_at
        self.given = 0

    @asynccontextmanager
    async def __call__(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        yield _Parts(self, start, stop)


class _Parts:
    def __init__(self, source: Source, start: int, stop: int) -> None:
        self.source, self.at, self.stop = source, start, stop

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        if self.at >= self.stop:
            raise StopAsyncIteration
        stop = min(self.at + 100, self.stop)
        if self.source.breaks_at is not None and stop > self.source.breaks_at:
            raise OriginError("unreachable", "the link is gone")
        data = self.source.data[self.at : stop]
        self.source.given += len(data)
        self.at = stop
        return data


async def _write_all(writer: BundleWriter, large: Source) -> None:
    for found in TABLE.objects:
        stream = large if found is LARGE else partial(stream_of, CONTENT[found])
        await copy_object(writer, found, stream, INDEX if found is LARGE else None, silent)
    writer.commit(TABLE)


def write_all(disk: CrashDisk, large: Source | None = None) -> int:
    """Export to `/b`; how many bytes of the large object had to come."""
    large = large or Source(STORED)
    trio.run(_write_all, BundleWriter("/b", PART, disk), large)
    return large.given


def assert_whole(disk: CrashDisk) -> None:
    reader = BundleReader("/b", TABLE, disk)
    assert disk.content("/b/bundle.json") == encode_table(TABLE)
    assert reader.lacks() == []
    for found in TABLE.objects:
        assert reader.whole(found) == CONTENT[found]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is verified is synced at every second frame."""
    monkeypatch.setattr(copying, "SYNC_BYTES", 2 * FRAME)


def test_a_cut_at_any_operation_is_gone_on_from(often: None) -> None:
    """Whatever is left: no bundle is believed that is not whole, and the same command completes it."""
    synced: dict[str, int] = {}
    for what, disk in explore(lambda disk: None, lambda disk: write_all(disk) and None, seeds=3):
        if disk.content("/b/bundle.json") is not None:
            assert_whole(disk)
        again = write_all(disk)
        assert_whole(disk)
        assert disk.names_in("/b/objects") == sorted(
            [SMALL.ref.sha256.hex(), EMPTY.ref.sha256.hex()]
            + [f"{LARGE.ref.sha256.hex()}.{n:04d}" for n in range(5)]
        )
        synced[what] = again
    assert min(synced.values()) == 0, "at the end everything is there"
    assert len(STORED) in synced.values(), "at the beginning nothing was"


def test_what_was_synced_before_a_cut_does_not_come_again() -> None:
    disk = CrashDisk()
    source = Source(STORED, breaks_at=6 * FRAME + 50)
    with pytest.raises(OriginError) as caught:
        write_all(disk, source)
    assert caught.value.kept == f"{6 * FRAME} of {len(STORED)} bytes of it, verified"
    assert "again" in caught.value.next_step
    survivor = disk.survivors(seed=1)
    assert write_all(survivor) == len(STORED) - 6 * FRAME
    assert_whole(survivor)


def test_what_a_killed_command_left_unsynced_is_durable_once_another_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed, not cut: all that was written is there to be verified, and nothing of it was synced."""
    monkeypatch.setattr(copying, "SYNC_BYTES", 1 << 30)
    disk = CrashDisk()
    finish = PartialObject.finish

    def killed(self: PartialObject) -> None:
        if self.ref == LARGE.ref:
            raise KeyboardInterrupt
        finish(self)

    with monkeypatch.context() as patched, pytest.raises(BaseException) as caught:
        patched.setattr(PartialObject, "finish", killed)
        write_all(disk)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert write_all(disk) == 0
    for seed in range(20):
        assert_whole(disk.survivors(seed))


@pytest.mark.parametrize("frame", [0, 3, 8])
def test_a_frame_that_rotted_on_the_stick_is_written_again_and_what_is_before_it_stays(frame: int) -> None:
    disk = CrashDisk()
    write_all(disk)
    at = frame * FRAME + 5
    name = f"/b/objects/{LARGE.ref.sha256.hex()}.{at // PART:04d}"
    data = bytearray(disk.content(name) or b"")
    data[at % PART] ^= 1
    disk.place(name, bytes(data))
    assert write_all(disk) == len(STORED) - frame * FRAME
    assert_whole(disk)


@pytest.mark.parametrize("part", [None, 0, 2, 4])
def test_a_file_that_became_too_long_is_mended(part: int | None) -> None:
    disk = CrashDisk()
    write_all(disk)
    found, end = (SMALL, "") if part is None else (LARGE, f".{part:04d}")
    name = f"/b/objects/{found.ref.sha256.hex()}{end}"
    disk.place(name, (disk.content(name) or b"") + bytes(10))
    assert BundleReader("/b", TABLE, disk).lacks() == [found]
    write_all(disk)
    assert_whole(disk)


@pytest.mark.parametrize("at", [0, 10, len(STORED) - 1])
def test_a_wrong_byte_of_a_source_is_named_and_not_kept(at: int) -> None:
    bad = bytearray(STORED)
    bad[at] ^= 1
    disk = CrashDisk()
    with pytest.raises(ContentError, match=f"frame {at // FRAME} ") as caught:
        write_all(disk, Source(bytes(bad)))
    assert caught.value.kept == f"{at // FRAME * FRAME} of {len(STORED)} bytes of it, verified"
    assert disk.content("/b/bundle.json") is None
    assert write_all(disk) == len(STORED) - at // FRAME * FRAME
    assert_whole(disk)


def test_an_object_whose_frames_are_right_and_whose_digest_is_not_is_dropped_whole() -> None:
    other = replace(LARGE, ref=ObjectRef(sha256(b"other"), len(STORED)))
    disk = CrashDisk()
    writer = BundleWriter("/b", PART, disk)
    with pytest.raises(ContentError, match="wrong digest"):
        trio.run(copy_object, writer, other, Source(STORED), INDEX, silent)
    assert disk.names_in("/b/objects") == []


def test_a_source_that_ends_early_is_to_blame() -> None:
    with pytest.raises(OriginError, match="ended early"):
        write_all(CrashDisk(), Source(STORED[:-1]))


def test_a_renewed_bundle_copies_only_what_is_new_and_drops_the_rest() -> None:
    disk = CrashDisk()
    write_all(disk)
    disk.place("/b/objects/README", b"somebody else's")
    newer = object_of(Kind.TIMESTAMP, "timestamp", b"{ }")
    table = replace(TABLE, objects=(newer, LARGE))
    writer, large = BundleWriter("/b", PART, disk), Source(STORED)

    async def renew() -> None:
        await copy_object(writer, newer, partial(stream_of, b"{ }"), None, silent)
        await copy_object(writer, LARGE, large, INDEX, silent)
        writer.commit(table)

    trio.run(renew)
    assert large.given == 0
    assert SMALL.ref.sha256.hex() not in disk.names_in("/b/objects")
    assert "README" in disk.names_in("/b/objects"), "only what a bundle could have written is dropped"


def test_progress_adds_up_to_the_object_whatever_was_there() -> None:
    disk = CrashDisk()
    for breaks_at in (3 * FRAME, None, None):
        seen: list[int] = []
        writer = BundleWriter("/b", PART, disk)
        try:
            trio.run(copy_object, writer, LARGE, Source(STORED, breaks_at=breaks_at), INDEX, seen.append)
        except OriginError:
            assert sum(seen) == 2 * FRAME or sum(seen) == 3 * FRAME
        else:
            assert sum(seen) == len(STORED)


# Real files


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle on a real file system, its large object in one file."""
    directory = tmp_path / "b"

    async def write() -> None:
        writer = BundleWriter(str(directory), PART_SIZE_MIN)
        with writer.locked():
            for found in TABLE.objects:
                stream = partial(stream_of, CONTENT[found])
                await copy_object(writer, found, stream, INDEX if found is LARGE else None, silent)
            writer.commit(replace(TABLE, part_size=PART_SIZE_MIN))

    trio.run(write)
    return directory


def read_all(directory: Path) -> None:
    reader = BundleReader.open(str(directory))
    for found in reader.table.objects:
        assert reader.whole(found) == CONTENT[found]


def replace_by(path: Path, make: str) -> None:
    path.unlink()
    if make == "fifo":
        os.mkfifo(path)
    elif make == "link":
        path.symlink_to("/dev/zero")
    elif make == "directory":
        path.mkdir()
    elif make == "device link":
        path.symlink_to("/dev/tty")
    elif make == "short":
        path.write_bytes(b"{")
    elif make == "long":
        path.write_bytes(b"{}" * 1000)


HOSTILE = ["fifo", "link", "directory", "device link", "short", "long", "absent"]


@pytest.mark.parametrize("what", HOSTILE)
def test_an_object_that_is_no_plain_file_of_its_size_is_refused_at_once(made: Path, what: str) -> None:
    read_all(made)
    replace_by(made / "objects" / SMALL.ref.sha256.hex(), what)
    with pytest.raises((ContentError, StoreError)) as caught:
        read_all(made)
    assert caught.value.next_step
    assert [found.kind for found in BundleReader.open(str(made)).lacks()] == [Kind.TIMESTAMP]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_table_that_is_no_plain_file_is_refused_at_once(made: Path, what: str) -> None:
    replace_by(made / "bundle.json", what)
    with pytest.raises(SlipstreamError):
        BundleReader.open(str(made))


def test_an_unfinished_export_is_told_from_what_is_no_bundle(made: Path, tmp_path: Path) -> None:
    (made / "bundle.json").unlink()
    with pytest.raises(OperatorError, match="not finished"):
        BundleReader.open(str(made))
    with pytest.raises(OperatorError, match="is no bundle"):
        BundleReader.open(str(tmp_path))


def test_nothing_is_written_through_a_link(made: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ("0" * 64)).write_bytes(b"not ours to drop")
    target = tmp_path / "stick"
    target.mkdir()
    (target / "objects").symlink_to(elsewhere)
    with pytest.raises(StoreError):
        BundleWriter(str(target), PART_SIZE_MIN)
    assert [p.name for p in elsewhere.iterdir()] == ["0" * 64]


def test_what_has_become_a_repository_meanwhile_loses_nothing(made: Path) -> None:
    writer = BundleWriter(str(made), PART_SIZE_MIN)
    (made / "metadata").mkdir()
    before = sorted(p.name for p in (made / "objects").iterdir())
    with pytest.raises(OperatorError, match="is a repository"):
        writer.commit(replace(TABLE, objects=(SMALL,)))
    with pytest.raises(OperatorError, match="is a repository"):
        BundleWriter(str(made), PART_SIZE_MIN)
    assert sorted(p.name for p in (made / "objects").iterdir()) == before
    (made / "metadata").rmdir()
    writer.commit(replace(TABLE, objects=(SMALL,)))


def test_two_commands_do_not_write_to_one_bundle(made: Path) -> None:
    first = BundleWriter(str(made), PART_SIZE_MIN)
    with first.locked(), pytest.raises(LocalError, match="another command"), first.locked():
        raise AssertionError("locked twice")
    with BundleWriter(str(made), PART_SIZE_MIN).locked():
        pass


def test_what_cannot_fit_is_told_before_anything_is_written(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = BundleWriter(str(made), PART_SIZE_MIN)
    more = object_of(Kind.DOCUMENT, "more", b"x" * 1000)
    monkeypatch.setattr(writer, "free", lambda: 999)
    check_room(writer, TABLE)
    with pytest.raises(StoreError, match="1000 bytes are to be written, 999 are free"):
        check_room(writer, replace(TABLE, objects=(*TABLE.objects, more)))
