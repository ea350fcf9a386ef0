"""A base that rotted, a slot that rots while it is written, a disk that is full: only the damage costs."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2p.adapters import slots as slots_module
from p2p.adapters.device import boot_of
from p2p.adapters.files import SystemFile
from p2p.agent import checkpoints
from p2p.agent.updates import UpdateFailedError
from p2p.cli import run
from p2p.content.index import Copy, PackIndex, Patch, Zero, decode
from p2p.content.limits import KIB, MIB
from p2p.errors import SlotFull, StoreError
from tests.support.fleet import DIGESTS, IMAGES, FleetRig, flip_file
from tests.support.hostile_origin import HostileOrigin

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def index_of(fleet: FleetRig, base: str | None) -> PackIndex:
    return decode(fleet.object_path(fleet.pack("2.0", base).index.sha256).read_bytes())


def frame_of_full_pack(fleet: FleetRig, at: int) -> int:
    """Stored size of the full pack's frame that makes target byte `at`."""
    index = index_of(fleet, None)
    return next(
        f.stored_size for f in index.frames if f.target_offset <= at < f.target_offset + f.target_length
    )


def in_copy(fleet: FleetRig) -> int:
    """A base offset that a COPY reads, far from the target of any patch."""
    copies = [x.entry for x in index_of(fleet, "1.0").local_entries if isinstance(x.entry, Copy)]
    longest = max(copies, key=lambda copy: copy.length)
    return longest.base_offset + longest.length // 2


def in_patch(fleet: FleetRig) -> int:
    index = index_of(fleet, "1.0")
    entry = next(f.entry for f in index.frames if isinstance(f.entry, Patch))
    return entry.view[0].offset + 200 * KIB


async def test_a_flashed_slot_that_cannot_be_read_keeps_no_device_from_updating(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which image it runs is then not known, and so the whole of the next one comes."""
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    bad = device.slot("a").stat().st_ino
    read_at = SystemFile.read_at

    def failing(file: SystemFile, offset: int, length: int) -> bytes:
        if os.fstat(file._fd).st_ino == bad and offset >= len(IMAGES["1.0"]) // 2:
            raise OSError(errno.EIO, "Input/output error")
        return read_at(file, offset, length)

    monkeypatch.setattr(SystemFile, "read_at", failing)
    assert await device.once() is None
    assert device.running_version() == "2.0"
    assert origin.sent[f"objects/{fleet.pack('2.0', None).frames.sha256.hex()}"]
    assert "it is not known which image runs" in caplog.text


@pytest.mark.parametrize("where", [in_copy, in_patch])
async def test_a_bit_that_rotted_in_the_base_costs_one_frame(
    fleet: FleetRig, origin: HostileOrigin, where: object
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    device.adopt()
    at = where(fleet)
    flip_file(device.slot("a"), at)
    rotten = device.slot("a").read_bytes()
    assert await device.once() is None
    assert device.running_version() == "2.0"
    assert device.slot("a").read_bytes() == rotten  # not ours to change
    delta, full = fleet.pack("2.0", "1.0"), fleet.pack("2.0", None)
    assert origin.sent[f"objects/{delta.frames.sha256.hex()}"] == delta.frames.size
    repair = origin.sent[f"objects/{full.frames.sha256.hex()}"]
    assert 0 < repair <= 2 * MIB
    assert repair < full.frames.size
    if where is in_copy:
        assert repair == frame_of_full_pack(fleet, at)


async def test_a_base_that_is_not_what_its_record_says_still_ends_right(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    device.adopt()
    device.slot("a").write_bytes(bytes(len(IMAGES["1.0"])))
    assert await device.once() is None
    assert device.running_version() == "2.0"


async def test_a_slot_that_rots_while_it_is_written_is_mended(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, holds=None)
    rotted: list[int] = []
    real = SystemFile.drop_cache

    def rot(self: SystemFile) -> None:
        real(self)
        if not rotted and device.slot("b").exists():  # just before the first read-back
            rotted.append(3 * MIB + 17)
            flip_file(device.slot("b"), *rotted)

    monkeypatch.setattr(SystemFile, "drop_cache", rot)
    assert await device.once() is None
    assert rotted
    assert device.running_version() == "2.0"
    full = fleet.pack("2.0", None).frames
    again = origin.sent[f"objects/{full.sha256.hex()}"] - full.size
    assert again == frame_of_full_pack(fleet, rotted[0])


async def test_a_slot_that_never_reads_back_right_is_given_up_and_not_tried_again_by_itself(
    fleet: FleetRig,
    origin: HostileOrigin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, holds=None)
    device.slot("a").write_bytes(IMAGES["1.0"])
    real = SystemFile.drop_cache
    at = 3 * MIB + 17

    def rot(self: SystemFile) -> None:
        real(self)
        if device.slot("b").exists():  # the same place, before each read-back
            data = bytearray(device.slot("b").read_bytes())
            if data[at] == IMAGES["2.0"][at]:
                flip_file(device.slot("b"), at)

    with monkeypatch.context() as patch:
        patch.setattr(SystemFile, "drop_cache", rot)
        outcome = await device.once()
        assert isinstance(outcome, UpdateFailedError)
        assert "was read back wrong 3 times" in outcome.message
        assert "bytes of it were made anew" in outcome.message
        assert outcome.exit_code == 9
        assert "slot a runs as before" in outcome.kept
        assert "slipstream agent unblock" in outcome.next_step
        assert (device.running_slot, device.record.state.value) == ("a", "idle")
        assert DIGESTS["2.0"].hex() not in device.valid_slots().values()
        assert boot_of(device.config).read().trial is None
        delta, full = fleet.pack("2.0", "1.0"), fleet.pack("2.0", None)
        repairs = origin.sent[f"objects/{full.frames.sha256.hex()}"]
        assert origin.sent[f"objects/{delta.frames.sha256.hex()}"] == delta.frames.size
        assert repairs == 2 * frame_of_full_pack(fleet, at)
        spent = origin.object_bytes()
        again = await device.once()
        assert again is not None
        assert again.exit_code == 9
        assert "is blocked" in again.message
        assert origin.object_bytes() == spent
    assert run(["agent", "unblock", "--config", str(device.config_file)]) == 0
    assert "unblocked: 1 release" in capsys.readouterr().out
    assert await device.once() is None
    assert device.running_version() == "2.0"


async def test_zeros_that_rot_are_mended_without_wan(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, holds=None)
    zero = next(x for x in index_of(fleet, None).local_entries if isinstance(x.entry, Zero))
    rotted: list[int] = []
    real = SystemFile.drop_cache

    def rot(self: SystemFile) -> None:
        real(self)
        if not rotted and device.slot("b").exists():
            rotted.append(zero.target_offset + zero.entry.length // 2)
            flip_file(device.slot("b"), *rotted)

    monkeypatch.setattr(SystemFile, "drop_cache", rot)
    assert await device.once() is None
    assert rotted
    assert device.running_version() == "2.0"
    full = fleet.pack("2.0", None).frames
    assert origin.sent[f"objects/{full.sha256.hex()}"] == full.size


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "tiny"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_is_found_before_anything_changes(
    fleet: FleetRig, origin: HostileOrigin, tiny: Path
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, slot_directory=tiny)
    (tiny / "rootfs-a.img").write_bytes(IMAGES["1.0"])
    ballast = tiny / "ballast"
    ballast.write_bytes(bytes(5 * MIB))
    before = origin.object_bytes()
    outcome = await device.once()
    assert isinstance(outcome, SlotFull)
    assert outcome.exit_code == 5
    assert "does not fit into slot b" in outcome.message
    assert outcome.kept == "nothing was changed"
    assert "free space" in outcome.next_step
    assert not (tiny / "rootfs-b.img").exists()
    frames = fleet.pack("2.0", "1.0").frames.sha256
    assert origin.sent[f"objects/{frames.hex()}"] == 0
    assert before == 0
    ballast.unlink()
    assert await device.once() is None
    assert (tiny / "rootfs-b.img").read_bytes() == IMAGES["2.0"]
    assert (tiny / "rootfs-a.img").read_bytes() == IMAGES["1.0"]


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, SlotFull), (errno.EIO, slots_module.SlotError)])
async def test_a_disk_that_fails_in_mid_update_keeps_what_was_verified(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch, code: int, kind: type
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, holds=None)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 0.05)
    origin.fault = lambda _, answer: dataclasses.replace(answer, pause_s=0.01)
    real = SystemFile.write_at
    written = 0

    def fails(self: SystemFile, offset: int, data: bytes) -> None:
        nonlocal written
        if len(data) > 8 * KIB:
            written += len(data)
            if written > 3 * MIB:
                raise OSError(code, os.strerror(code))
        real(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(SystemFile, "write_at", fails)
        outcome = await device.once()
    assert type(outcome) is kind
    assert os.strerror(code) in outcome.message
    assert (device.running_slot, device.valid_slots()) == ("a", {})
    assert device.record.state.value == "idle"
    assert await device.once() is None
    assert device.running_version() == "2.0"
    full = fleet.pack("2.0", None).frames
    spent = origin.sent[f"objects/{full.sha256.hex()}"]
    assert full.size < spent < 1.5 * full.size  # most of what came first was kept


async def test_a_state_directory_that_is_full_is_named(
    fleet: FleetRig, origin: HostileOrigin, tiny: Path
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    state = device.config.device.state_dir
    (tiny / "state").mkdir()
    for path in state.iterdir():
        (tiny / "state" / path.name).write_bytes(path.read_bytes())
        (tiny / "state" / path.name).chmod(0o600)
        path.unlink()
    state.rmdir()
    state.symlink_to(tiny / "state")
    ballast = tiny / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space"):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    outcome = await device.once()
    assert isinstance(outcome, StoreError | SlotFull), outcome
    assert "No space left" in outcome.message
    assert device.running_version() == "1.0"
    ballast.unlink()
    assert await device.once() is None
    assert device.running_version() == "2.0"
    assert DIGESTS["2.0"].hex() in device.valid_slots().values()
