"""The virtual medium: what is promised after a power cut, what a full one says, what its work takes."""

from __future__ import annotations

import random

import pytest

from p2p.adapters.boot import FileBoot
from p2p.content.digests import sha256
from p2p.errors import SlotError, SlotFull, StoreError
from sim.world.boot import PAYLOAD, Machine, slot_to_start, start
from sim.world.disk import VirtualDisk
from sim.world.medium import content
from tests.simulation.lifecycle.solo import BASE, SIZE

IMAGE = sha256(b"image 2")
PATH = "/slots/rootfs-b.img"


def machine(**options: int) -> Machine:
    found = Machine(VirtualDisk(), **options)
    found.factory({PAYLOAD: (BASE, SIZE)})
    return found


def test_what_was_written_durably_outlives_every_cut() -> None:
    for seed in range(200):
        disk = VirtualDisk()
        store = disk.blobs("/state")
        store.write("name", b"old")
        store.write("name", b"new" * 1000)
        disk.open("/loose", write=True, create=True).write_at(0, b"unsynced")
        disk.lose_power(random.Random(seed))
        assert disk.blobs("/state").read("name") == b"new" * 1000


def test_what_was_not_synced_is_lost_whole_or_in_part_and_sometimes_not_at_all() -> None:
    found = set()
    for seed in range(100):
        disk = VirtualDisk()
        file = disk.open("/file", write=True, create=True)
        file.write_at(0, b"a" * 1024)
        file.sync()
        disk.sync_directory("/")
        file.write_at(512, b"b" * 512)
        disk.lose_power(random.Random(seed))
        data = disk.open("/file").read_at(0, 2000)
        assert data[:512] == b"a" * 512
        found.add(data[512:])
    assert {b"a" * 512, b"b" * 512, bytes(512)} <= found


def test_a_killed_agent_loses_nothing() -> None:
    disk = VirtualDisk()
    disk.open("/file", write=True, create=True).write_at(0, b"data")
    disk.restart()
    assert disk.open("/file").read_at(0, 9) == b"data"


def test_a_file_of_the_life_before_is_closed() -> None:
    disk = VirtualDisk()
    file = disk.open("/file", write=True, create=True)
    disk.lose_power(random.Random(1))
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write_at(0, b"data")


def test_a_slot_holds_an_image_when_all_of_it_was_written_right() -> None:
    one = machine()
    writer = one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
    writer.write(0, content(SIZE // 2))
    writer.write(SIZE // 2, content(SIZE // 2, right=False))
    assert writer.digest() != IMAGE
    with pytest.raises(SlotError, match="not sealed"):
        writer.seal()
    assert list(one.disk.right(PATH, IMAGE)) == [(0, SIZE // 2)]
    writer.write(SIZE // 2, content(SIZE // 2))
    assert writer.digest() == IMAGE
    writer.seal()
    assert one.slots()[PAYLOAD].image_in("b") == (IMAGE, SIZE)
    assert one.holds(PAYLOAD, "b", IMAGE, SIZE)
    one.disk.rot(PATH, 7, 8)
    assert not one.holds(PAYLOAD, "b", IMAGE, SIZE)
    assert one.slots()[PAYLOAD].image_in("b") == (IMAGE, SIZE)  # which is what the record says


def test_another_image_over_it_leaves_nothing_of_the_first_where_it_was_written() -> None:
    one = machine()
    other = sha256(b"image 3")
    for image, size in ((IMAGE, SIZE), (other, SIZE // 2)):
        writer = one.slots()[PAYLOAD].open_writer("b", image, size)
        writer.write(0, content(size))
        assert writer.digest() == image
        writer.seal()
    assert one.holds(PAYLOAD, "b", other, SIZE // 2)
    assert one.disk.right(PATH, IMAGE).total() == 0  # the file was cut to the smaller image


def test_a_cut_takes_slot_ranges_that_were_not_checkpointed() -> None:
    lost = 0
    for seed in range(40):
        one = machine()
        writer = one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
        writer.write(0, content(1000))
        writer.checkpoint()
        writer.write(1000, content(1000))
        one.disk.lose_power(random.Random(seed))
        again = one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
        assert list(again.done) == [(0, 1000)]
        assert one.disk.right(PATH, IMAGE).covers(0, 1000)
        lost += not one.disk.right(PATH, IMAGE).covers(1000, 2000)
    assert 5 < lost < 35


def test_a_full_medium_says_so_as_the_real_one_does() -> None:
    one = machine()
    store = one.disk.blobs("/state/x")
    store.write("name", b"old")
    one.disk.room = 2
    with pytest.raises(StoreError, match="No space left on device"):
        store.write("name", b"value")
    assert store.read("name") == b"old"
    with pytest.raises(SlotFull):
        one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
    one.disk.room = None
    store.write("name", b"value")
    one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)


def test_a_journal_that_cannot_grow_stops_a_resumed_writing_before_it_costs_anything() -> None:
    one = machine()
    writer = one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
    writer.write(0, content(1000, right=IMAGE))
    writer.checkpoint()
    one.disk.restart()
    one.disk.room = 0
    with pytest.raises(SlotFull):
        one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)
    one.disk.room = None
    assert list(one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE).done) == [(0, 1000)]


def test_room_is_counted() -> None:
    disk = VirtualDisk()
    disk.room = 1000
    file = disk.open("/file", write=True, create=True)
    file.write_at(0, bytes(600))
    assert disk.space("/file").free == 400
    file.write_at(0, bytes(600))
    assert disk.space("/file").free == 400
    disk.remove("/file")
    assert disk.space("/file").free == 1000


def test_a_partition_takes_no_more_than_its_size() -> None:
    one = machine(capacity=SIZE)
    with pytest.raises(SlotFull):
        one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE + 1)
    one.slots()[PAYLOAD].open_writer("b", IMAGE, SIZE)


def test_work_takes_time() -> None:
    disk = VirtualDisk(write_rate=1000.0, read_rate=4000.0, fsync_s=0.5)
    disk.add_slot("/slot")
    file = disk.open("/slot", write=True, create=True)
    disk.writing("/slot", IMAGE)
    file.write_at(0, content(2000))
    assert disk.take_s() == pytest.approx(2.0)
    file.sync()
    file.sync()  # nothing is left to do
    assert disk.take_s() == pytest.approx(0.5)
    disk.factor = 0.1
    assert disk.hash_image(file, 2000) == IMAGE
    assert disk.take_s() == pytest.approx(5.0)
    assert disk.take_s() == 0.0


def test_the_boot_loader_counts_starts_that_come_to_nothing() -> None:
    boot = FileBoot("/boot.env", files=VirtualDisk())
    boot.arm("b", 2)
    assert slot_to_start(boot.read()) == "b"
    assert start(boot, lambda slot: slot == "a").slot == "a"
    assert boot.read().failed == "b"
    boot.rollback()
    boot.arm("b", 2)
    found = start(boot, lambda slot: True)
    assert (found.slot, found.failed) == ("b", 0)
    assert start(boot, lambda slot: False).slot is None
