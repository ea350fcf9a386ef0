"""Power cuts in every operation of an update: never unbootable, never an unverified byte believed.

Safety first (whatever is found after the cut is true), then liveness (the next start finishes).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.boot import FileBoot
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.installer import Installer, Task
from p2p.adapters.slots import FileSlots
from p2p.content.digests import sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec
from p2p.install import Release, State
from sim.world.disk import VirtualIo
from tests.support.crash_disk import CrashDisk, explore

OLD = random.Random(1).randbytes(5000)
STALE = random.Random(2).randbytes(9000)
NEW = random.Random(3).randbytes(7777)
PIECE = 1000
DIGEST = sha256(NEW)
BOOT = "/boot.env"
PLACES = {"a": "/a.img", "b": "/b.img"}
REF = ObjectRef(DIGEST, len(NEW))
MANIFEST = Manifest(
    "gw", "2", 2, ("rev1",), (PayloadSpec("rootfs", "rootfs-image", REF, (PackRef(None, REF, REF),)),)
)
RELEASE = Release("gw", "2", 2, sha256(b"manifest"), "order-1")


def boot_of(disk: CrashDisk) -> FileBoot:
    return FileBoot(BOOT, files=disk)


def slots_of(disk: CrashDisk) -> FileSlots:
    return FileSlots("rootfs", PLACES, "/slots", boot_of(disk), files=disk)


def flashed(disk: CrashDisk) -> None:
    """A device that runs from a; b once held another image, whole."""
    disk.place(PLACES["a"], OLD)
    disk.place(PLACES["b"], STALE)
    slots_of(disk).adopt("a")
    slots_of(disk).adopt("b")


def fill(disk: CrashDisk, *, forget: bool = False) -> None:
    """Write the image to slot b in shuffled pieces, with a checkpoint now and then; then seal."""
    writer = slots_of(disk).open_writer("b", DIGEST, len(NEW))
    pieces = list(range(0, len(NEW), PIECE))
    random.Random(4).shuffle(pieces)
    for n, offset in enumerate(pieces):
        if not writer.done.covers(offset, min(offset + PIECE, len(NEW))):
            writer.write(offset, NEW[offset : offset + PIECE])
        if n % 3 == 2:
            writer.checkpoint()
        if forget and n == 5:
            writer.forget(pieces[2], min(pieces[2] + PIECE, len(NEW)))
            writer.write(pieces[2], NEW[pieces[2] : pieces[2] + PIECE])
    assert writer.digest() == DIGEST
    writer.seal()


def assert_true(disk: CrashDisk, found: str) -> None:
    """What the disk says of its slots is so."""
    slots = slots_of(disk)
    for slot in slots.names:
        held = slots.image_in(slot)
        if held is not None:
            assert sha256(disk.content(PLACES[slot]) or b"") == held[0], found
    assert slots.image_in("a") == (sha256(OLD), len(OLD)), found
    boot = boot_of(disk).read()
    assert slots.image_in(boot.active) is not None, found
    if boot.trial is not None:
        assert slots.image_in(boot.trial) is not None, found


def assert_done_is_true(disk: CrashDisk, found: str) -> None:
    """Every range that a resumed writer believes holds the bytes of the image."""
    slots = slots_of(disk)
    if slots.image_in("b") == (DIGEST, len(NEW)):
        return
    writer = slots.open_writer("b", DIGEST, len(NEW))
    content = disk.content(PLACES["b"]) or b""
    for start, stop in writer.done:
        assert content[start:stop] == NEW[start:stop], found
    writer.close()


@pytest.mark.parametrize("forget", [False, True])
def test_a_cut_while_a_slot_is_written_leaves_only_true_statements(forget: bool) -> None:
    states = 0
    for found, disk in explore(flashed, lambda d: fill(d, forget=forget), seeds=12):
        assert_true(disk, found)
        assert_done_is_true(disk, found)
        if slots_of(disk).image_in("b") != (DIGEST, len(NEW)):
            fill(disk)
        assert slots_of(disk).image_in("b") == (DIGEST, len(NEW)), found
        assert disk.content(PLACES["b"]) == NEW, found
        states += 1
    assert states > 300


def test_resuming_keeps_what_was_checkpointed() -> None:
    disk = CrashDisk()
    flashed(disk)
    writer = slots_of(disk).open_writer("b", DIGEST, len(NEW))
    writer.write(0, NEW[:3000])
    writer.checkpoint()
    writer.write(4000, NEW[4000:5000])
    for seed in range(20):
        again = slots_of(disk.survivors(seed)).open_writer("b", DIGEST, len(NEW))
        assert list(again.done) == [(0, 3000)]


def test_the_explorer_finds_a_missing_fsync() -> None:
    """The positive twin of the tests above: without the data's fsync they do find a lie."""

    def lying(disk: CrashDisk) -> None:
        flashed(disk)
        disk.lying_sync = lambda path: path == PLACES["b"]

    with pytest.raises(AssertionError, match=r"cut at \d+"):
        for found, disk in explore(lying, fill, seeds=12):
            assert_true(disk, found)
            assert_done_is_true(disk, found)


class Device:
    """One start of the agent of a device whose slots need a reboot."""

    def __init__(self, disk: CrashDisk, boot_number: int) -> None:
        self.disk = disk
        self.store = DirectoryBlobStore(Path("/"), VirtualIo(disk))
        self.installer = Installer(
            self.store,
            {"rootfs": slots_of(disk)},
            boot_of(disk),
            attempts=2,
            boot_id=f"boot-{boot_number}",
            reboots=True,
            raise_floor=lambda release: self.store.write("floor", str(release.counter).encode()),
        )

    def run(self, *, healthy: bool) -> bool:
        """Do what is to be done until a reboot is needed (False) or nothing is left (True)."""
        installer = self.installer
        task = installer.reconcile()
        while True:
            installed = installer.record.installed
            if task is Task.NOTHING and (
                (installed is not None and installed.release == RELEASE)
                or RELEASE.manifest in installer.record.blocked
            ):
                return True
            match task:
                case Task.NOTHING | Task.FETCH:
                    installer.begin(RELEASE, MANIFEST)
                    for writer in installer.open_writers().values():
                        for start, stop in list(writer.done.gaps(0, len(NEW))):
                            writer.write(start, NEW[start:stop])
                        writer.checkpoint()
                    assert installer.read_back() == ()
                    task = installer.task
                case Task.ARM:
                    task = installer.arm()
                case Task.REBOOT:
                    return False
                case Task.HEALTH:
                    if healthy:
                        installer.healthy()
                        task = installer.task
                    else:
                        task = installer.unhealthy("does not start")


@pytest.mark.parametrize("healthy", [True, False])
def test_a_cut_anywhere_in_an_update_never_bricks_and_converges(healthy: bool) -> None:
    def update(disk: CrashDisk) -> None:
        for boot_number in range(3):
            if Device(disk, boot_number).run(healthy=healthy):
                return
        raise AssertionError("three boots are enough")

    states = 0
    for found, disk in explore(flashed, update, seeds=6):
        assert_true(disk, found)
        reboots = 0
        device = Device(disk, 100)
        while not device.run(healthy=healthy):
            reboots += 1
            assert reboots <= 3, found
            assert_true(disk, found)
            device = Device(disk, 100 + reboots)
        record = device.installer.record
        assert record.state is State.IDLE, found
        boot = boot_of(disk).read()
        assert boot.trial is None and boot.failed is None, found
        if record.installed is not None:
            assert healthy, found
            assert boot.active == "b", found
            assert device.store.read("floor") == b"2", found
            assert slots_of(disk).image_in("b") == (DIGEST, len(NEW)), found
        else:
            # A trial whose attempts the cuts used up is given up, too: the old slot is the safe one.
            assert boot.active == "a", found
            assert device.store.read("floor") is None, found
            assert record.blocked == (RELEASE.manifest,), found
        states += 1
    assert states > 200


LIFE: tuple[Callable[[FileBoot], None], ...] = (
    lambda boot: boot.arm("b", 2),
    FileBoot.started,
    FileBoot.commit,
    lambda boot: boot.arm("a", 1),
    FileBoot.started,
    FileBoot.started,
    FileBoot.rollback,
)


def test_a_boot_environment_survives_every_cut() -> None:
    def life(disk: CrashDisk) -> None:
        for act in LIFE:
            act(boot_of(disk))

    disk = CrashDisk()
    legal = {boot_of(disk).read()}
    for act in LIFE:
        act(boot_of(disk))
        legal.add(boot_of(disk).read())
    assert len(legal) == 7  # the last is the one after the commit once more
    for found, survivor in explore(lambda d: None, life, seeds=10):
        boot = boot_of(survivor)
        assert boot.read() in legal, found
        boot.rollback()
        boot.arm("b" if boot.read().active == "a" else "a", 1)
        assert boot.read().trial is not None, found
