"""Slots as files: records, journals, room, errors of the disk, and what an update costs the flash."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.boot import FileBoot
from p2p.adapters.files import SYSTEM_FILES, SystemFile, SystemFiles
from p2p.adapters.slots import FileSlots
from p2p.content.digests import sha256
from p2p.errors import SlotError, SlotFull
from tests.support.crash_disk import CrashDisk

NEW = random.Random(1).randbytes(300_000)
DIGEST = sha256(NEW)


def slots_in(directory: Path, files: SystemFiles = SYSTEM_FILES) -> FileSlots:
    places = {name: str(directory / f"{name}.img") for name in ("a", "b")}
    boot = FileBoot(str(directory / "boot.env"))
    return FileSlots("rootfs", places, str(directory / "state" / "slots"), boot, files=files)


def on_disk(disk: CrashDisk) -> FileSlots:
    return FileSlots("rootfs", {"a": "/a", "b": "/b"}, "/slots", FileBoot("/boot", files=disk), files=disk)


def install(slots: FileSlots, data: bytes, step: int = 100_000) -> None:
    writer = slots.open_writer("b", sha256(data), len(data))
    for at in range(0, len(data), step):
        writer.write(at, data[at : at + step])
        writer.checkpoint()
    assert writer.digest() == sha256(data)
    writer.seal()


class Interrupted(SystemFiles):
    """Calls `meanwhile` once, when the record of slot b was just read or is just about to be replaced."""

    def __init__(self) -> None:
        self.when = ""
        self.meanwhile: Callable[[], object] = lambda: None
        self.failing = False

    def _now(self, when: str) -> None:
        if self.when == when:
            self.when = ""
            self.meanwhile()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SystemFile:
        file = super().open(path, write=write, create=create)
        if path.endswith("b.json") and self.when == "read":
            close = file.close

            def closing() -> None:
                close()
                self._now("read")

            file.close = closing
        return file

    def rename(self, old: str, new: str) -> None:
        if new.endswith("b.json"):
            self._now("replaced")
        super().rename(old, new)

    def sync_directory(self, path: str) -> None:
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_directory(path)


def test_a_record_that_changes_while_it_is_read_is_not_remembered_as_it_was(tmp_path: Path) -> None:
    install(slots_in(tmp_path), NEW)
    files = Interrupted()
    slots = slots_in(tmp_path, files)
    files.when, files.meanwhile = "read", lambda: slots.open_writer("b", sha256(b"x"), len(NEW))
    assert slots.image_in("b") in (None, (DIGEST, len(NEW)))  # as it was at one moment or the other
    assert files.when == ""
    assert slots.image_in("b") is None


def test_a_record_that_was_read_while_its_change_failed_is_read_again(tmp_path: Path) -> None:
    install(slots_in(tmp_path), NEW)
    files = Interrupted()
    slots = slots_in(tmp_path, files)

    def fail() -> None:
        assert slots.image_in("b") == (DIGEST, len(NEW))
        files.failing = True

    files.when, files.meanwhile = "replaced", fail
    with pytest.raises(SlotError, match="record the state"):
        slots.open_writer("b", sha256(b"x"), len(NEW))
    assert slots.image_in("b") is None
    assert slots_in(tmp_path).image_in("b") is None


def test_a_smaller_image_leaves_nothing_of_the_larger_one(tmp_path: Path) -> None:
    (tmp_path / "b.img").write_bytes(b"x" * 400_000)
    install(slots_in(tmp_path), NEW)
    assert (tmp_path / "b.img").read_bytes() == NEW


def test_zeros_overwrite_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "b.img").write_bytes(b"x" * 50_000)
    install(slots_in(tmp_path), bytes(50_000))
    assert (tmp_path / "b.img").read_bytes() == bytes(50_000)


def test_offsets_beyond_four_gib_are_kept_apart(tmp_path: Path) -> None:
    size = (5 << 30) + 3
    if SYSTEM_FILES.space(str(tmp_path / "b.img")).free < size + (1 << 30):
        pytest.skip("needs 6 GiB of free space")
    slots = slots_in(tmp_path)
    writer = slots.open_writer("b", DIGEST, size)
    try:
        high = (4 << 30) + 7
        writer.write(7, b"low")
        writer.write(high, b"high")
        writer.checkpoint()
        assert writer.read(7, 3) == b"low"
        writer.close()
        again = slots_in(tmp_path).open_writer("b", DIGEST, size)
        assert list(again.done) == [(7, 10), (high, high + 4)]
        assert again.read(high, 4) == b"high"
        again.close()
    finally:
        (tmp_path / "b.img").unlink()


def test_an_update_writes_barely_more_than_its_image() -> None:
    disk = CrashDisk()
    image = random.Random(2).randbytes(8 << 20)
    slots = on_disk(disk)
    writer = slots.open_writer("b", sha256(image), len(image))
    pieces = list(range(0, len(image), 128 << 10))
    random.Random(3).shuffle(pieces)
    for n, at in enumerate(pieces):
        writer.write(at, image[at : at + (128 << 10)])
        if n % 8 == 7:
            writer.checkpoint()
    assert writer.digest() == sha256(image)
    writer.seal()
    assert disk.bytes_written <= 1.05 * len(image)
    # Counted as a flash does, where even a few bytes that are synced cost a block of 4 KiB:
    syncs = [line for line in disk.log if line.startswith("sync") and not line.startswith("sync /b")]
    assert len(image) + 4096 * len(syncs) <= 1.05 * len(image)


def test_the_journal_stays_small_however_often_it_is_written() -> None:
    disk = CrashDisk()
    size = 40_000
    writer = on_disk(disk).open_writer("b", DIGEST, size)
    for at in range(0, size, 4):
        writer.write(at, b"x")
        writer.checkpoint()
    longest = len(disk.content("/slots/b.journal") or b"")
    assert longest < 4 * (size // 4) * 16
    again = on_disk(disk).open_writer("b", DIGEST, size)
    assert again.done == writer.done
    assert len(again.done) == size // 4


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "absent", "foreign"])
def test_a_damaged_journal_starts_over_cleanly(tmp_path: Path, spoil: str) -> None:
    writer = slots_in(tmp_path).open_writer("b", DIGEST, len(NEW))
    for at in range(0, 100_000, 10_000):
        writer.write(at, NEW[at : at + 1000])
        writer.checkpoint()
    writer.close()
    journal = tmp_path / "state" / "slots" / "b.journal"
    data = bytearray(journal.read_bytes())
    if spoil == "flip":
        data[len(data) // 2] ^= 1
    elif spoil == "cut":
        del data[30:]
    elif spoil == "empty":
        data.clear()
    elif spoil == "foreign":
        data[8] ^= 1
    journal.unlink()
    if spoil != "absent":
        journal.write_bytes(data)
    slots = slots_in(tmp_path)
    again = slots.open_writer("b", DIGEST, len(NEW))
    assert list(again.done) == []
    again.close()
    install(slots, NEW)
    assert (tmp_path / "b.img").read_bytes() == NEW


def test_an_intact_journal_is_resumed(tmp_path: Path) -> None:
    writer = slots_in(tmp_path).open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW[:1000])
    writer.checkpoint()
    writer.close()
    assert list(slots_in(tmp_path).open_writer("b", DIGEST, len(NEW)).done) == [(0, 1000)]


def test_a_slot_that_lost_bytes_since_is_not_resumed(tmp_path: Path) -> None:
    writer = slots_in(tmp_path).open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW[:1000])
    writer.checkpoint()
    writer.close()
    os.truncate(tmp_path / "b.img", 500)
    assert list(slots_in(tmp_path).open_writer("b", DIGEST, len(NEW)).done) == []


def test_a_valid_slot_whose_file_changed_its_size_is_not_believed(tmp_path: Path) -> None:
    install(slots_in(tmp_path), NEW)
    assert slots_in(tmp_path).image_in("b") == (DIGEST, len(NEW))
    os.truncate(tmp_path / "b.img", len(NEW) - 1)
    assert slots_in(tmp_path).image_in("b") is None


@pytest.mark.parametrize("at", [0, 5, 30, 60, -2])
def test_a_damaged_record_makes_a_slot_unknown(tmp_path: Path, at: int) -> None:
    install(slots_in(tmp_path), NEW)
    record = tmp_path / "state" / "slots" / "b.json"
    data = bytearray(record.read_bytes())
    data[at] ^= 4
    record.write_bytes(data)
    assert slots_in(tmp_path).image_in("b") is None
    install(slots_in(tmp_path), NEW)
    assert slots_in(tmp_path).image_in("b") == (DIGEST, len(NEW))


def test_an_image_flipped_on_the_medium_is_read_back_as_such(tmp_path: Path) -> None:
    writer = slots_in(tmp_path).open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    writer.checkpoint()
    with (tmp_path / "b.img").open("r+b") as file:
        file.seek(1234)
        file.write(bytes([NEW[1234] ^ 1]))
    assert writer.digest() != DIGEST
    with pytest.raises(SlotError, match="not sealed"):
        writer.seal()
    writer.forget(1000, 2000)
    writer.write(1000, NEW[1000:2000])
    assert writer.digest() == DIGEST
    writer.seal()
    assert slots_in(tmp_path).image_in("b") == (DIGEST, len(NEW))


def test_a_flashed_slot_is_adopted_once(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(NEW)
    slots = slots_in(tmp_path)
    assert slots.image_in("a") is None
    assert slots.adopt_active() == (DIGEST, len(NEW))
    assert slots.image_in("a") == (DIGEST, len(NEW))
    assert slots_in(tmp_path).adopt_active() is None


def test_nothing_is_adopted_where_there_is_nothing(tmp_path: Path) -> None:
    assert slots_in(tmp_path).adopt_active() is None
    (tmp_path / "a.img").touch()
    assert slots_in(tmp_path).adopt_active() is None
    with pytest.raises(SlotError, match="no image of 0 bytes"):
        slots_in(tmp_path).adopt("a")


def test_a_part_of_a_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(NEW)
    with pytest.raises(SlotError, match="must be all of it"):
        slots_in(tmp_path).adopt("a", 1000)
    with pytest.raises(SlotError, match="no image of 300001 bytes"):
        slots_in(tmp_path).adopt("a", len(NEW) + 1)
    assert slots_in(tmp_path).adopt("a", len(NEW)) == (DIGEST, len(NEW))


def test_an_unknown_slot_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match="there is no slot 'c'"):
        slots_in(tmp_path).open_writer("c", DIGEST, 1)


def test_a_full_disk_is_found_before_anything_changes(tmp_path: Path) -> None:
    slots = slots_in(tmp_path)
    install(slots, NEW)
    with pytest.raises(SlotFull, match="does not fit") as caught:
        slots.open_writer("b", sha256(b""), 1 << 43)
    assert caught.value.kept == "nothing was changed"
    assert slots.image_in("b") == (DIGEST, len(NEW))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_failing_operation_is_a_slot_error_and_the_next_start_finishes(code: int) -> None:
    image = NEW[:5000]

    def start() -> CrashDisk:
        disk = CrashDisk()
        disk.place("/a", b"running")
        on_disk(disk).adopt("a")
        return disk

    whole = start()
    first = whole.operations + 1
    install(on_disk(whole), image, 1000)
    for at in range(first, whole.operations + 1):
        disk = start()
        disk.fail_at = {at: code}
        with pytest.raises(SlotError) as caught:
            install(on_disk(disk), image, 1000)
        assert isinstance(caught.value, SlotFull) == (code == errno.ENOSPC)
        assert caught.value.kept
        assert disk.content("/a") == b"running"
        install(on_disk(disk), image, 1000)
        assert on_disk(disk).image_in("b") == (sha256(image), len(image))


def test_after_a_failed_fsync_the_writer_claims_nothing_more() -> None:
    disk = CrashDisk()
    writer = on_disk(disk).open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW)
    disk.fail_at = {disk.operations + 1: errno.EIO}
    with pytest.raises(SlotError, match="cannot make durable it"):
        writer.checkpoint()
    operations = disk.operations
    for act in (writer.checkpoint, writer.digest, lambda: writer.write(0, b"x"), lambda: writer.read(0, 1)):
        with pytest.raises(SlotError, match="not usable after an earlier error"):
            act()
    assert disk.operations == operations  # a failed fsync is never retried
    writer.close()
    assert list(on_disk(disk).open_writer("b", DIGEST, len(NEW)).done) == []


def test_writes_go_on_while_a_checkpoint_runs(tmp_path: Path) -> None:
    slots = slots_in(tmp_path)
    writer = slots.open_writer("b", DIGEST, len(NEW))
    stop = threading.Event()

    def checkpoints() -> None:
        while not stop.is_set():
            writer.checkpoint()
            assert writer.done.total() <= len(NEW)

    thread = threading.Thread(target=checkpoints)
    thread.start()
    order = list(range(0, len(NEW), 500))
    random.Random(5).shuffle(order)
    for at in order:
        writer.write(at, NEW[at : at + 500])
    stop.set()
    thread.join()
    assert writer.digest() == DIGEST
    writer.seal()
    assert slots.image_in("b") == (DIGEST, len(NEW))


def test_a_file_size_limit_is_told_as_a_full_slot(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk where no file system can be mounted."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.unit.test_file_slots import DIGEST, NEW, SlotFull, slots_in
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
slots = slots_in(Path({str(tmp_path)!r}))
try:
    slots.open_writer("b", DIGEST, len(NEW))
except SlotFull as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(list(slots.open_writer("b", DIGEST, len(NEW)).done))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot prepare it: File too large" in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.fixture
def small_disk(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mount.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_file_system_leaves_the_slots_as_they_were(small_disk: Path) -> None:
    old = NEW[:60_000]
    (small_disk / "a.img").write_bytes(old)
    slots = slots_in(small_disk)
    slots.adopt("a")
    install(slots, old[:50_000])
    with pytest.raises(SlotFull, match="does not fit"):
        slots.open_writer("b", DIGEST, len(NEW))
    assert slots.image_in("b") == (sha256(old[:50_000]), 50_000)
    assert slots.image_in("a") == (sha256(old), len(old))
    fits = NEW[:120_000]
    install(slots, fits)
    assert slots.image_in("b") == (sha256(fits), len(fits))


def test_a_file_system_that_fills_up_meanwhile_fails_at_the_reservation(small_disk: Path) -> None:
    old = NEW[:60_000]
    (small_disk / "a.img").write_bytes(old)
    slots = slots_in(small_disk)
    slots.adopt("a")
    check = slots._check_space

    def fill_up(slot: str, size: int) -> None:
        check(slot, size)
        (small_disk / "other").write_bytes(bytes(100_000))

    slots._check_space = fill_up
    with pytest.raises(SlotFull, match="No space left"):
        slots.open_writer("b", sha256(NEW[:150_000]), 150_000)
    assert (small_disk / "a.img").read_bytes() == old
    (small_disk / "other").unlink()
    slots._check_space = check
    install(slots, NEW[:150_000])


FORKS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.test_file_slots import DIGEST, NEW, slots_in

RUNS_ON = 20  # pieces that a child goes on writing after it said that it may be killed

def write(say, told):
    writer = slots_in(Path({place!r})).open_writer("b", DIGEST, len(NEW))
    pieces = [
        (at, min(at + 512, stop))
        for start, stop in writer.done.gaps(0, len(NEW))
        for at in range(start, stop, 512)
    ]
    for number, (at, stop) in enumerate(pieces):
        if number == told:
            os.write(say, b".")
        if number == told + RUNS_ON:
            signal.pause()
        writer.write(at, NEW[at:stop])
        writer.checkpoint()
    assert writer.digest() == DIGEST
    writer.seal()

for told in map(int, iter(sys.stdin.readline, "")):
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hear)
        write(say, told)
        os._exit(0)
    os.close(say)
    os.read(hear, 1)  # nothing: it finished before
    os.close(hear)
    print(pid, flush=True)
    sys.stdin.readline()  # not reaped before the parent is done with the pid
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def test_a_killed_writer_resumes_until_it_is_done(tmp_path: Path) -> None:
    rng = random.Random(6)
    (tmp_path / "a.img").write_bytes(b"running")
    slots_in(tmp_path).adopt("a")
    code = FORKS.format(root=str(Path.cwd()), place=str(tmp_path))
    kills = progress = 0
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forks:
        assert forks.stdin is not None and forks.stdout is not None
        while slots_in(tmp_path).image_in("b") is None:
            # Some of its work, then dead in the middle of whatever it does: it runs on until the
            # signal comes, for 50 of 586 pieces at the most, so that it is killed eleven times.
            forks.stdin.write(f"{rng.randint(1, 30)}\n")
            forks.stdin.flush()
            os.kill(int(forks.stdout.readline()), signal.SIGKILL)
            forks.stdin.write("wait\n")
            forks.stdin.flush()
            status = int(forks.stdout.readline())
            assert status in (0, signal.SIGKILL)
            kills += status == signal.SIGKILL
            slots = slots_in(tmp_path)
            if slots.image_in("b") is not None:
                break
            writer = slots.open_writer("b", DIGEST, len(NEW))
            content = (tmp_path / "b.img").read_bytes()
            for start, stop in writer.done:
                assert content[start:stop] == NEW[start:stop]
            assert writer.done.total() >= progress
            progress = writer.done.total()
            writer.close()
        forks.stdin.close()
    assert kills >= 10
    assert progress > 0
    assert (tmp_path / "b.img").read_bytes() == NEW
    assert (tmp_path / "a.img").read_bytes() == b"running"


def test_a_device_cannot_be_larger_than_its_partition(tmp_path: Path) -> None:
    device = loop_device(tmp_path, 256 * 1024)
    try:
        boot = FileBoot(str(tmp_path / "boot.env"))
        slots = FileSlots("rootfs", {"a": str(tmp_path / "a"), "b": device}, str(tmp_path / "s"), boot)
        with pytest.raises(SlotFull, match="does not fit into 262144"):
            slots.open_writer("b", DIGEST, len(NEW))
        image = NEW[:200_001]
        install(slots, image)
        assert slots.image_in("b") == (sha256(image), len(image))
        assert slots.open_reader("b").read(200_000, 1) == image[-1:]
        assert slots.adopt("b", len(image)) == (sha256(image), len(image))
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_mounted_partition_is_never_written(tmp_path: Path) -> None:
    if shutil.which("mke2fs") is None:
        pytest.skip("there is no mke2fs")
    device = loop_device(tmp_path, 8 << 20)
    place = tmp_path / "mounted"
    place.mkdir()
    try:
        subprocess.run(["mke2fs", "-q", "-F", device], check=True, capture_output=True)
        boot = FileBoot(str(tmp_path / "boot.env"))
        slots = FileSlots("rootfs", {"a": str(tmp_path / "a"), "b": device}, str(tmp_path / "s"), boot)
        slots.adopt("b")
        held = slots.image_in("b")
        subprocess.run(["mount", "-o", "ro", device, str(place)], check=True, capture_output=True)
        try:
            with pytest.raises(SlotError, match="mounted or in use"):
                slots.open_writer("b", DIGEST, len(NEW))
            assert slots.image_in("b") == held
        finally:
            subprocess.run(["umount", str(place)], check=True)
        install(slots, NEW)
        assert slots.image_in("b") == (DIGEST, len(NEW))
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def loop_device(tmp_path: Path, size: int) -> str:
    if os.geteuid() != 0:
        pytest.skip("needs root for a loop device")
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * size)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no losetup")
    if made.returncode:
        pytest.skip(f"no loop device can be made: {made.stderr.strip()}")
    return made.stdout.strip()
