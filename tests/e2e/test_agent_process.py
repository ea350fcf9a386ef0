"""The `slipstream agent` command as processes: enrolment to commit, exit codes, and being killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from click.testing import CliRunner

from coordinator.cli.voucher import voucher as voucher_command
from p2p.content.limits import MIB
from tests.support.fleet import IMAGES, FleetRig, Forks, until
from tests.support.hostile_origin import HostileOrigin


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def voucher(fleet: FleetRig, *arguments: str) -> str:
    done = CliRunner().invoke(
        voucher_command, ["create", "--repo", str(fleet.repository.directory), "--json", *arguments],
        catch_exceptions=False,
    )  # fmt: skip
    return str(json.loads(done.stdout)["vouchers"][0])


async def test_from_voucher_to_commit_over_a_real_coordinator(fleet: FleetRig, forks: Forks) -> None:
    fleet.order("2.0")
    with fleet.coordinator() as url:
        one = fleet.device("d1", coordinator=url, enrolled=False, holds="1.0", settle_s=0.5)
        two = fleet.device("d2", coordinator=url, enrolled=False, holds="1.0", settle_s=0.5)
        unenrolled = await forks.run(one, "run", "--once")
        assert unenrolled.code == 2
        assert "not enrolled" in unenrolled.messages
        assert "slipstream agent enroll" in unenrolled.messages
        for device in (one, two):
            code = await trio.to_thread.run_sync(voucher, fleet, "--site", "depot", "--group", "trucks")
            done = await forks.run(device, "enroll", "--voucher", code)
            assert done.code == 0, done.messages
            assert "site depot" in done.output
            again = await forks.run(device, "enroll", "--voucher", code)
            assert "already enrolled" in again.output
        first = await forks.run(one, "run", "--once")
        assert first.code == 0, first.messages
        lingering = trio.Event()

        async def linger() -> None:
            async with _open(one.command("run")) as running:
                await lingering.wait()
                running.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(linger)
            await until(lambda: one.status.get("state") == "current", "d1 serves")
            second = await forks.run(two, "run", "--once")
            assert second.code == 0, second.messages
            facts = json.loads((await forks.run(one, "status", "--json")).output)
            assert facts["running"] is True
            assert facts["agent"]["state"] == "current"
            lingering.set()
    assert one.running_version() == two.running_version() == "2.0"
    assert two.status["ledger"]["peers"].get("d1", 0) > 0  # found through the coordinator's roster
    facts = json.loads((await forks.run(two, "status", "--json")).output)
    assert facts["running"] is False
    assert facts["install"]["installed"] == "2.0"
    assert {slot["slot"]: slot["active"] for slot in facts["slots"]} == {"a": False, "b": True}
    human = await forks.run(two, "status")
    assert "2.0" in human.output


@asynccontextmanager
async def _open(command: list[str]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_exit_codes_name_what_happened(fleet: FleetRig, origin: HostileOrigin, forks: Forks) -> None:
    device = fleet.device("d1", origin=origin.url)
    done = await forks.run(device, "run", "--once")
    assert done.code == 8
    assert "nothing is meant for this device (no-order)" in done.messages
    fleet.order("2.0")
    done = await forks.run(fleet.device("d2", origin="http://127.0.0.1:9"), "run", "--once")
    assert done.code == 7
    assert "nobody can be asked" in done.messages
    device.configure(origin=origin.url, health=(sys.executable, "-c", "raise SystemExit(3)"))
    done = await forks.run(device, "run", "--once")
    assert done.code == 9
    assert "health check" in done.messages
    assert "kept: slot a runs as before" in done.messages
    assert "next: publish a corrected release" in done.messages
    done = await forks.run(device, "run", "--once")
    assert done.code == 9
    assert "release 2.0 is blocked" in done.messages
    facts = json.loads((await forks.run(device, "status", "--json")).output)
    assert facts["install"]["blocked"]
    assert facts["boot"]["running"] == "a"
    device.configure(origin=origin.url, reboot=("true",))
    fleet.order("3.0")
    done = await forks.run(device, "run", "--once")
    assert done.code == 10
    assert "tried when the device has started anew" in done.messages
    facts = json.loads((await forks.run(device, "status", "--json")).output)
    assert facts["install"]["state"] == "armed"
    assert facts["boot"]["trial"] == "b"


async def test_a_kill_at_any_durable_operation_converges(
    fleet: FleetRig, origin: HostileOrigin, forks: Forks
) -> None:
    """A whole update, killed at operations spread over all of it and at each of the last; then run again."""
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url, settle_s=0)
    pristine = fleet.directory / "pristine"
    shutil.copytree(device.directory, pristine)
    counted = fleet.directory / "count"
    done = await forks.run(device, "run", "--once", before=("--count", str(counted)))
    assert done.code == 0, done.messages
    total = int(counted.read_text())
    assert total > 30
    points = sorted({*range(1, total, max(1, total // 12)), *range(total - 7, total + 1)})
    killed = 0
    for point in points:
        shutil.rmtree(device.directory)
        shutil.copytree(pristine, device.directory)
        done = await forks.run(device, "run", "--once", before=("--kill-at", str(point)))
        killed += done.code == -9
        assert device.slot("a").read_bytes() == IMAGES["1.0"]
        assert device.running_version() == {"a": "1.0", "b": "2.0"}[device.running_slot]
        done = await forks.run(device, "run", "--once")
        assert done.code == 0, f"killed at {point} of {total}: {done.messages}"
        assert device.running_version() == "2.0"
    assert killed >= len(points) - 4  # how many operations there are varies a little


async def test_a_killed_agent_does_not_fetch_again_what_was_verified(
    fleet: FleetRig, origin: HostileOrigin, forks: Forks
) -> None:
    fleet.order("2.0")
    frames = fleet.pack("2.0", None).frames
    path = f"objects/{frames.sha256.hex()}"
    slow = True

    def paced(request, answer):
        if request.is_for(frames.sha256) and slow:
            answer.pause_s = 0.05
        return answer

    origin.fault = paced
    device = fleet.device("d1", origin=origin.url, holds=None, settle_s=0)
    async with _open(device.command("run", "--once")) as process:
        await until(lambda: origin.sent[path] > 2.2 * MIB, "most of a frame or two has come")
        journal = device.config.slots_dir / "rootfs" / "b.journal"
        await until(lambda: journal.exists() and journal.stat().st_size > 64, "something was checkpointed")
        process.kill()
        await process.wait()
    first = origin.sent[path]
    assert first < frames.size
    slow = False
    done = await forks.run(device, "run", "--once")
    assert done.code == 0, done.messages
    assert device.running_version() == "2.0"
    assert origin.sent[path] < frames.size + 2 * MIB
    again = origin.sent[path] - frames.size
    assert again < first  # something of the first run was not fetched again


async def test_an_agent_process_grows_little_while_it_applies_a_delta(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    """Peak resident size against that of the same agent with nothing to do."""
    fleet.order("2.0")
    probe = (
        "import atexit,re,sys;"
        "atexit.register(lambda: sys.stderr.write('HWM '+re.search(r'VmHWM:\\s+(\\d+)',"
        "open('/proc/self/status').read())[1]+'\\n'));"
        "from p2p.cli import main; main(sys.argv[1:])"
    )

    async def peak(holds: str) -> int:
        device = fleet.device(f"holds-{holds}", origin=origin.url, holds=holds, settle_s=0)
        command = [sys.executable, "-c", probe, "agent", "run", "--once", "--config", str(device.config_file)]
        done = await trio.run_process(command, capture_stderr=True, check=False)
        assert done.returncode == 0, done.stderr
        assert device.running_version() == "2.0"
        return int(done.stderr.decode().rsplit("HWM ", 1)[1]) * 1024

    idle, busy = await peak("2.0"), await peak("1.0")
    assert busy - idle < 64 * MIB, f"{(busy - idle) / MIB:.1f} MiB over idle"
