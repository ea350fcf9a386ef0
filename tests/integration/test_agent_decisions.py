"""What an agent installs, refuses, stops, rolls back, and says about it, over real files and sockets."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.adapters.channel import Channel
from p2p.adapters.device import boot_of
from p2p.adapters.installer import ReleaseBlockedError
from p2p.agent.updates import NothingMeantError, RebootPendingError, UpdateFailedError
from p2p.cli import run
from p2p.content.order import Audience, Phase, StaleException
from p2p.errors import OriginError, SlotError, TrustError
from tests.support.fleet import DIGESTS, HARDWARE, IMAGES, PATIENCE_S, SMALL, Device, FleetRig, until
from tests.support.hostile_origin import Answer, HostileOrigin, Request
from tests.support.scripted_http import Request as CheckIn
from tests.support.scripted_http import head, scripted

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def assert_untouched(device: Device, held: str = "1.0") -> None:
    """Nothing was installed nor begun."""
    assert (device.running_slot, device.running_version()) == ("a", held)
    assert not device.slot("b").exists()


async def assert_nothing_meant(device: Device, reason: str) -> None:
    outcome = await device.once()
    assert isinstance(outcome, NothingMeantError)
    assert outcome.exit_code == 8
    assert f"({reason})" in outcome.message
    assert_untouched(device)


async def assert_installs(device: Device, version: str = "2.0") -> None:
    assert await device.once() is None
    assert device.running_version() == version


async def test_a_manifest_without_an_order_installs_nothing(fleet: FleetRig, origin: HostileOrigin) -> None:
    device = fleet.device("d1", origin=origin.url)
    await assert_nothing_meant(device, "no-order")
    fleet.order("2.0")
    await assert_installs(device)


async def test_an_order_without_its_manifest_installs_nothing(
    fleet: FleetRig, origin: HostileOrigin, tmp_path: Path
) -> None:
    image = tmp_path / "four.img"
    image.write_bytes(b"four" * 1000)
    fleet.release("4.0", {"rootfs": (image, ())})
    fleet.order("4.0")
    fleet.release("5.0", {"rootfs": (image, ())}, retire=("4.0",))
    device = fleet.device("d1", origin=origin.url)
    await assert_nothing_meant(device, "no-manifest")
    fleet.order("5.0")
    assert await device.once() is None


async def test_an_order_for_others_is_not_for_this_device(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0", Audience(groups=frozenset({"trucks"})))
    await assert_nothing_meant(fleet.device("d1", origin=origin.url, groups=("ships",)), "no-order")
    await assert_installs(fleet.device("d2", origin=origin.url, groups=("trucks",)))


async def test_a_release_for_other_hardware_is_not_for_this_device(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    await assert_nothing_meant(fleet.device("d1", origin=origin.url, hardware="board-b"), "hardware")
    await assert_installs(fleet.device("d2", origin=origin.url, hardware=HARDWARE))


async def test_a_phase_that_is_not_open_installs_nothing(fleet: FleetRig, origin: HostileOrigin) -> None:
    phases = (Phase("canary", Audience(devices=frozenset({"other"}))), Phase("all", Audience(all=True)))
    order = fleet.order("2.0", phases=phases)
    device = fleet.device("d1", origin=origin.url)
    await assert_nothing_meant(device, "not-open")
    fleet.open(order, 2)
    await assert_installs(device)


@pytest.mark.parametrize("lost", ["nothing", "trust", "both floors but one"])
async def test_a_downgrade_is_refused_by_the_floor_whatever_else_is_lost(
    fleet: FleetRig, origin: HostileOrigin, lost: str
) -> None:
    device = fleet.device("d1", origin=origin.url, holds="2.0")
    fleet.order("3.0")
    await assert_installs(device, "3.0")
    fleet.order("2.0")
    state = device.config.device.state_dir
    if lost == "trust":
        shutil.rmtree(state / "trust")
    elif lost != "nothing":
        shutil.rmtree(state / "trust")
        shutil.rmtree(state / "floor")
    outcome = await device.once()
    assert isinstance(outcome, NothingMeantError)
    assert "(below-floor)" in outcome.message
    assert (device.running_slot, device.running_version()) == ("b", "3.0")
    fleet.order("2.0", allow_downgrade=("d1",))
    await assert_installs(device, "2.0")


async def test_a_floor_that_is_damaged_as_a_release_is_committed_stops_updates_until_it_is_restored(
    fleet: FleetRig, origin: HostileOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent itself goes on: its peers want what it has."""
    fleet.order("2.0")
    state = fleet.directory / "devices" / "d1" / "state"
    damage = "; ".join(
        f"open({str(state / name / 'floor-engine')!r}, 'w').write('torn')" for name in ("floor", "floor.2")
    )
    device = fleet.device("d1", origin=origin.url, health=(sys.executable, "-c", damage))
    await assert_installs(device, "2.0")
    assert "restore-floor" in caplog.text
    fleet.order("3.0")
    device.configure(origin=origin.url)
    outcome = await device.once()
    assert isinstance(outcome, TrustError)
    assert (outcome.reason, device.running_version()) == ("floor-damaged", "2.0")
    assert run(["agent", "restore-floor", "--config", str(device.config_file)]) == 0
    await assert_installs(device, "3.0")
    fleet.order("2.0")
    assert isinstance(await device.once(), NothingMeantError), "it is a floor again"


@pytest.mark.parametrize(
    ("script", "says"),
    [("import sys; sys.exit(3)", "ended with status 3"), ("import time; time.sleep(60)", "within 1.5 s")],
)
async def test_a_health_check_that_fails_rolls_back_and_blocks(
    fleet: FleetRig, origin: HostileOrigin, script: str, says: str
) -> None:
    fleet.order("2.0")
    health = (sys.executable, "-c", script)
    device = fleet.device("d1", origin=origin.url, health=health, health_s=1.5)
    outcome = await device.once()
    assert isinstance(outcome, UpdateFailedError)
    assert outcome.exit_code == 9
    assert says in outcome.message
    assert (device.running_slot, device.running_version()) == ("a", "1.0")
    blocked = device.record.blocked
    assert len(blocked) == 1
    spent = origin.object_bytes()
    again = await device.once()
    assert isinstance(again, ReleaseBlockedError)
    assert "is blocked" in again.message
    assert says in again.message
    assert again.exit_code == outcome.exit_code
    assert "slipstream agent unblock" in again.next_step
    assert origin.object_bytes() == spent  # not fetched for nothing once more
    assert (device.running_slot, device.record.blocked) == ("a", blocked)
    device.configure(origin=origin.url, health=(sys.executable, "-c", "pass"))
    fleet.order("3.0")
    await assert_installs(device, "3.0")


async def _after(seconds: float, call: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    call()


async def test_a_device_whose_release_is_blocked_goes_on_asking_the_origin(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, health=(sys.executable, "-c", "import sys; sys.exit(3)"))

    def far(request: Request, answer: Answer) -> Answer | None:
        if not request.path.startswith("metadata/"):
            return None
        answer.hold = trio.Event()
        nursery.start_soon(_after, 0.15, answer.hold.set)  # longer than it takes to refuse the release
        return answer

    async with trio.open_nursery() as nursery, device.running() as run:
        origin.fault = far
        await until(lambda: bool(device.record.blocked), "the release is blocked")
        asked = origin.asked["metadata/timestamp.json"]
        await until(lambda: origin.asked["metadata/timestamp.json"] >= asked + 2, "the origin is asked again")
        assert run.agent._updates.progress.release == "2.0"
        fleet.order("3.0")
        await until(lambda: len(device.record.blocked) == 2, "the next release is installed")
        assert run.agent._updates.progress.release == "3.0"


async def test_a_device_that_reboots_waits_for_it(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, reboot=("true",))
    outcome = await device.once()
    assert isinstance(outcome, RebootPendingError)
    assert outcome.exit_code == 10
    assert (device.running_slot, device.record.state.value) == ("a", "armed")
    boot_of(device.config).started()  # the boot loader's part
    assert await device.once() is None
    assert (device.running_slot, device.running_version()) == ("b", "2.0")
    assert device.record.installed is not None


async def test_a_coordinator_that_wanted_to_hear_more_often_for_a_while_is_heeded_for_that_while(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    wanted = iter([1])

    async def coordinator(request: CheckIn, channel: Channel) -> None:
        answer = json.dumps({"roster": [], "poll_s": next(wanted, 60)}).encode()
        await channel.send(head(200, content_length=len(answer)), answer)

    async with scripted(coordinator) as server:
        device = fleet.device("d1", origin=origin.url, coordinator=server.url, poll_s=5)
        async with device.running() as run:
            pace: list[float] = []

            def heard() -> bool:
                pace.append(run.agent._reporting.poll_s)
                return len(server.requests) >= 2 and pace[-1] == 5

            await until(heard, "it is content with its own pace again")
            assert 1 in pace


async def test_who_fetched_for_its_site_tells_before_it_reboots_and_who_did_not_is_silent(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    reports: dict[str, list[dict[str, Any]]] = {}

    async def coordinator(request: CheckIn, channel: Channel) -> None:
        device = request.headers["signature-input"].split('keyid="')[1].split('"')[0]
        reports.setdefault(device, []).append(json.loads(request.body))
        answer = b'{"roster": [], "poll_s": 60}'
        await channel.send(head(200, content_length=len(answer)), answer)

    async with scripted(coordinator) as server:
        d1 = fleet.device("d1", origin=origin.url, coordinator=server.url, reboot=("true",), poll_s=60.0)
        d2 = fleet.device(
            "d2",
            origin=origin.url,
            coordinator=server.url,
            reboot=("true",),
            peers=(d1,),
            weight=0,
            poll_s=60.0,
        )
        with trio.fail_after(PATIENCE_S):
            async with d1.running() as one, d2.running() as two:
                await one.ended.wait()
                await two.ended.wait()
    assert [d.record.state.value for d in (d1, d2)] == ["armed", "armed"]
    told = {name: [r for r in found if "armed" in r] for name, found in reports.items()}
    assert [r["armed"] for r in told["d1"]] == [{"rootfs": DIGESTS["2.0"].hex()}]
    assert told["d1"][0]["images"] == {"rootfs": DIGESTS["1.0"].hex()}
    assert told["d2"] == []


async def test_two_payloads_of_one_release_are_switched_together(
    fleet: FleetRig, origin: HostileOrigin, tmp_path: Path
) -> None:
    new = tmp_path / "new.img"
    new.write_bytes(bytes(range(256)) * 1000)
    fleet.release(
        "4.0",
        {
            "rootfs": (new, ()),
            "config": (fleet.template / "small.img", ()),
        },
    )
    fleet.order("4.0")
    lacking = fleet.device("d0", origin=origin.url)
    outcome = await lacking.once()
    assert isinstance(outcome, SlotError)
    assert "no slot for payload config" in outcome.message
    assert_untouched(lacking)
    device = fleet.device("d1", origin=origin.url, payloads=("rootfs", "config"))
    assert await device.once() is None
    assert device.slot("b").read_bytes() == new.read_bytes()
    assert device.slot("b", "config").read_bytes() == SMALL


def _held_back(frames: bytes, gate: trio.Event):
    """The frames arrive only half until the gate is opened."""

    def fault(request: Request, answer: Answer) -> Answer | None:
        if not request.is_for(frames) or gate.is_set():
            return None
        answer.block, answer.pause_s = max(1, len(answer.body) // 40), 0.05
        return answer

    return fault


@pytest.mark.parametrize("end", ["pause", "abort"])
async def test_an_order_stopped_in_mid_update_stops_it(
    fleet: FleetRig, origin: HostileOrigin, stalls: list[str], end: str
) -> None:
    order = fleet.order("2.0")
    gate = trio.Event()
    frames = fleet.pack("2.0", "1.0").frames.sha256
    origin.fault = _held_back(frames, gate)
    device = fleet.device("d1", origin=origin.url)
    async with device.running() as run:
        await until(lambda: origin.sent[f"objects/{frames.hex()}"] > 100_000, "the fetch is under way")
        fleet.pause(order) if end == "pause" else fleet.abort(order)
        await until(lambda: device.record.state.value == "idle", "the update was stopped")
        assert origin.sent[f"objects/{frames.hex()}"] < fleet.pack("2.0", "1.0").frames.size
        assert device.running_slot == "a"
        assert device.valid_slots() == {"a": DIGESTS["1.0"].hex()}
        gate.set()
        if end == "pause":
            fleet.resume(order)
            await run.committed("2.0")
        else:
            fleet.order("2.0")
            await run.committed("2.0")
    assert device.slot("a").read_bytes() == IMAGES["1.0"]
    assert stalls == [], "no event loop has waited for an fsync"


async def test_a_superseding_release_in_mid_update_is_what_ends_installed(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    frames = fleet.pack("2.0", "1.0").frames.sha256
    origin.fault = _held_back(frames, trio.Event())
    device = fleet.device("d1", origin=origin.url)
    async with device.running() as run:
        await until(lambda: origin.sent[f"objects/{frames.hex()}"] > 100_000, "the fetch is under way")
        fleet.order("3.0")
        await run.committed("3.0")
    assert device.running_version() == "3.0"
    assert device.slot("a").read_bytes() == IMAGES["1.0"]
    assert origin.sent[f"objects/{frames.hex()}"] < fleet.pack("2.0", "1.0").frames.size


def _resign(fleet: FleetRig, days_ago: float) -> None:
    """Publish snapshot and timestamp as if it were `days_ago`."""
    past = dataclasses.replace(fleet.repository, clock=lambda: datetime.now(UTC) - timedelta(days=days_ago))
    with past.locked() as state:
        past.refresh(state, snapshot=True)


async def test_expired_metadata_installs_nothing_and_changes_nothing(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    device = fleet.device("d1", origin=origin.url)
    fleet.order("2.0")
    await assert_installs(device)
    fleet.order("3.0")
    _resign(fleet, days_ago=3650)
    outcome = await device.once()
    assert isinstance(outcome, TrustError)
    assert (outcome.exit_code, outcome.reason) == (4, "expired")
    assert (device.running_slot, device.running_version()) == ("b", "2.0")
    assert set(device.valid_slots()) == {"a", "b"}
    _resign(fleet, days_ago=0)
    await assert_installs(device, "3.0")


@pytest.mark.parametrize("by_peer", [False, True], ids=["from the origin", "from a peer"])
async def test_a_device_that_its_order_excepts_installs_from_expired_metadata(
    fleet: FleetRig, origin: HostileOrigin, by_peer: bool
) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).timestamp()
    fleet.order("2.0", allow_stale=StaleException(("d1", "d2"), until))
    _resign(fleet, days_ago=70)
    first = fleet.device("d1", origin=origin.url)
    await assert_installs(first)
    named = fleet.device("d2", origin=origin.url)
    other = fleet.device("d3", origin=origin.url)
    if by_peer:
        for device in (named, other):
            device.configure(origin=origin.url, wan=False, peers=(first,))
        async with first.running():
            await assert_installs(named)
            refused = await other.once()
    else:
        await assert_installs(named)
        refused = await other.once()
    assert isinstance(refused, TrustError)
    assert refused.reason == "expired"
    assert_untouched(other)


@pytest.mark.parametrize("role", ["snapshot", "product-engine", "orders-engine", "phases"])
async def test_metadata_of_two_releases_is_not_mixed(
    fleet: FleetRig, origin: HostileOrigin, role: str
) -> None:
    """The origin gives an older, rightly signed file under the newer one's name."""

    def newest() -> Path:
        found = fleet.repository.metadata.glob(f"*.{role}.json")
        return max(found, key=lambda path: int(path.name.split(".")[0]))

    old = newest().read_bytes()
    fleet.order("2.0")
    if role == "product-engine":
        image = fleet.template / "small.img"
        fleet.release("4.0", {"rootfs": (image, ())})
    name = f"metadata/{newest().name}"
    assert newest().read_bytes() != old

    def mixed(request: Request, answer: Answer) -> Answer | None:
        if request.path != name:
            return None
        return Answer("200 OK", {"Content-Length": str(len(old))}, old)

    origin.fault = mixed
    device = fleet.device("d1", origin=origin.url)
    outcome = await device.once()
    assert isinstance(outcome, OriginError | TrustError)
    assert origin.faults > 0
    assert_untouched(device)
    origin.fault = None
    await assert_installs(device)


async def test_a_replayed_older_timestamp_is_refused(
    fleet: FleetRig, origin: HostileOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    old = (fleet.repository.metadata / "timestamp.json").read_bytes()
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    await assert_installs(device)

    def replayed(request: Request, _: Answer) -> Answer | None:
        if request.path != "metadata/timestamp.json":
            return None
        return Answer("200 OK", {"Content-Length": str(len(old))}, old)

    origin.fault = replayed
    outcome = await device.once()
    assert isinstance(outcome, TrustError)
    assert outcome.reason == "rollback"
    assert "metadata/timestamp.json from the origin is refused" in caplog.text
    assert device.running_version() == "2.0"
    origin.fault = None
    await assert_installs(device)


async def test_what_is_found_again_at_each_poll_is_logged_once(
    fleet: FleetRig, origin: HostileOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="p2p.agent")
    device = fleet.device("d1", origin=origin.url, poll_s=0.1)

    async def polls(count: int) -> None:
        timestamps = origin.asked["metadata/timestamp.json"] + count
        await until(lambda: origin.asked["metadata/timestamp.json"] >= timestamps, f"{count} polls")

    def said(words: str) -> int:
        return sum(record.getMessage().startswith(words) for record in caplog.records)

    async with device.running():
        await polls(4)
    assert said("nothing to install: no-order") == 1
    fleet.order("2.0")
    async with device.running() as run:
        await run.committed("2.0")
        await polls(4)
    assert (said("committed"), said("current")) == (1, 0)
    async with device.running() as run:
        await until(lambda: run.state == "current", "the release found to run")
        await polls(4)
    assert (said("committed"), said("current")) == (1, 1)
    fleet.order("3.0")
    async with device.running() as run:
        await run.committed("3.0")
    assert said("committed") == 2
