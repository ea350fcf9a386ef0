"""The installer between record, slots and boot environment, where nothing reboots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.boot import FileBoot
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.installer import Installer, Task
from p2p.adapters.slots import FileSlots
from p2p.content.digests import sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec
from p2p.errors import LocalError, SlotError, SlotFull
from p2p.install import Release, State

IMAGES = {"rootfs": b"root file system" * 100, "boot": b"kernel" * 50}


def manifest(size: int | None = None) -> Manifest:
    payloads = []
    for name, data in IMAGES.items():
        ref = ObjectRef(sha256(data), size or len(data))
        payloads.append(PayloadSpec(name, "rootfs-image", ref, (PackRef(None, ref, ref),)))
    return Manifest("gw", "2", 2, ("rev1",), tuple(payloads))


def release(version: str = "2") -> Release:
    return Release("gw", version, 2, sha256(version.encode()), f"order-{version}")


class Start:
    """The pieces of one device, opened anew at each start of its agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.floors: list[int] = []
        self.starts = 0
        for name in IMAGES:
            (directory / f"{name}-a").write_bytes(b"factory")

    def __call__(self, *, reboots: bool = False) -> Installer:
        self.starts += 1
        boot = FileBoot(str(self.directory / "boot.env"))
        slots = {}
        for name in IMAGES:
            places = {slot: str(self.directory / f"{name}-{slot}") for slot in ("a", "b")}
            slots[name] = FileSlots(name, places, str(self.directory / "slots" / name), boot)
        installer = Installer(
            DirectoryBlobStore(self.directory / "install"),
            slots,
            boot,
            attempts=2,
            boot_id=str(self.starts),
            reboots=reboots,
            raise_floor=lambda found: self.floors.append(found.counter),
        )
        installer.reconcile()
        return installer

    @property
    def boot(self) -> FileBoot:
        return FileBoot(str(self.directory / "boot.env"))


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def write(installer: Installer, wanted: Release | None = None) -> None:
    installer.begin(wanted or release(), manifest())
    for name, writer in installer.open_writers().items():
        writer.write(0, IMAGES[name])
    assert installer.read_back() == ()


def test_all_payloads_go_to_the_same_slot_and_are_committed_together(start: Start) -> None:
    installer = start()
    write(installer)
    assert installer.task is Task.ARM
    assert installer.arm() is Task.HEALTH
    assert start.boot.read().running == "b"
    installer.healthy()
    assert installer.task is Task.NOTHING
    assert start.boot.read().active == "b"
    assert set(start.floors) == {2}
    again = start()
    assert again.record.installed is not None
    assert again.record.installed.release == release()
    for name, data in IMAGES.items():
        assert again.slots[name].image_in("b") == (sha256(data), len(data))
    assert again.target() == "a"


def test_an_unhealthy_slot_is_left_and_its_release_blocked(start: Start) -> None:
    installer = start()
    write(installer)
    installer.arm()
    assert installer.unhealthy("no network") is Task.NOTHING
    assert start.boot.read().running == "a"
    assert start.floors == []
    with pytest.raises(
        SlotError, match=r"release 2 is blocked: it failed on this device before \(no network\)"
    ):
        start().begin(release(), manifest())
    assert start().begin(release("3"), manifest()).slot == "b"
    installer = start()
    installer.supersede()
    installer.unblock()
    assert installer.begin(release(), manifest()).slot == "b"


def test_each_start_during_a_trial_costs_an_attempt_where_nothing_reboots(start: Start) -> None:
    installer = start()
    write(installer)
    installer.arm()
    assert start.boot.read().attempts_left == 1
    assert start().task is Task.HEALTH
    assert start.boot.read().attempts_left == 0
    given_up = start()
    assert given_up.task is Task.NOTHING
    assert given_up.record.blocked == (release().manifest,)
    assert start.boot.read().active == "a"


def test_where_slots_need_a_reboot_a_restarted_agent_waits_for_it(start: Start) -> None:
    installer = start(reboots=True)
    write(installer)
    assert installer.arm() is Task.REBOOT
    start.starts -= 1  # the same boot
    assert start(reboots=True).task is Task.REBOOT
    assert start.boot.read().tried == 0
    assert start(reboots=True).task is Task.HEALTH
    assert start.boot.read().tried == 1
    start.starts -= 1
    installer = start(reboots=True)
    assert installer.task is Task.HEALTH
    assert start.boot.read().tried == 1
    assert installer.unhealthy("bad") is Task.REBOOT
    start.starts -= 1
    assert start(reboots=True).task is Task.REBOOT  # it still runs from the slot that failed
    assert start(reboots=True).task is Task.NOTHING


def test_another_release_takes_the_place_of_an_unfinished_one(start: Start) -> None:
    installer = start()
    installer.begin(release("1"), manifest())
    installer.open_writers()["rootfs"].write(0, IMAGES["rootfs"])
    write(installer, release("2"))
    assert installer.record.release == release("2")
    assert installer.record.state is State.WRITTEN


def test_what_is_whole_already_is_not_written_again(start: Start) -> None:
    installer = start()
    write(installer)
    installer.supersede()
    plan = installer.begin(release("3"), manifest())
    assert plan.to_write == ()
    assert installer.open_writers() == {}
    assert installer.read_back() == ()
    assert installer.arm() is Task.HEALTH


def test_a_plan_that_does_not_fit_changes_nothing(start: Start) -> None:
    installer = start()
    with pytest.raises(SlotFull, match="does not fit"):
        installer.begin(release(), manifest(size=1 << 43))
    assert installer.task is Task.NOTHING
    assert "does not fit" in installer.record.reason
    assert sorted(p.name for p in start.directory.iterdir()) == ["boot-a", "install", "rootfs-a"]
    assert installer.begin(release(), manifest()).slot == "b"


def test_a_failed_try_keeps_what_was_verified(start: Start) -> None:
    installer = start()
    installer.begin(release(), manifest())
    writer = installer.open_writers()["rootfs"]
    writer.write(0, IMAGES["rootfs"][:500])
    writer.checkpoint()
    installer.fail("the disk is full")
    assert installer.task is Task.NOTHING
    assert installer.record.blocked == ()
    again = start()
    assert again.record.reason == "the disk is full"
    again.begin(release(), manifest())
    assert list(again.open_writers()["rootfs"].done) == [(0, 500)]


def test_a_damaged_image_is_named_and_not_sealed(start: Start) -> None:
    installer = start()
    installer.begin(release(), manifest())
    writers = installer.open_writers()
    writers["rootfs"].write(0, IMAGES["rootfs"])
    writers["boot"].write(0, IMAGES["boot"][:-1] + b"?")
    assert installer.read_back() == ("boot",)
    assert installer.record.state is State.WRITING
    writers["boot"].write(0, IMAGES["boot"])
    assert installer.read_back() == ()


def test_a_slot_that_rotted_before_it_was_armed_is_written_again(start: Start) -> None:
    installer = start()
    write(installer)
    (start.directory / "boot-b").write_bytes(b"short")
    again = start()
    assert again.task is Task.FETCH
    again.begin(release(), manifest())
    assert set(again.open_writers()) == {"boot"}


def test_a_damaged_record_is_a_lost_hint_and_no_more(start: Start) -> None:
    installer = start()
    write(installer)
    installer.arm()
    (start.directory / "install" / "install.json").write_bytes(b"{")
    again = start()
    assert again.task is Task.HEALTH  # the boot environment knows that something is on trial
    again.healthy()
    assert start.boot.read().active == "b"
    assert start().task is Task.NOTHING


@pytest.mark.parametrize(
    "act",
    [
        Installer.arm,
        Installer.healthy,
        Installer.open_writers,
        lambda i: i.unhealthy("x"),
        lambda i: i.fail("x"),
    ],
)
def test_steps_out_of_order_are_refused(start: Start, act: Callable[[Installer], object]) -> None:
    installer = start()
    with pytest.raises(LocalError, match="while idle"):
        act(installer)
    assert installer.task is Task.NOTHING
    assert start.boot.read().trial is None
