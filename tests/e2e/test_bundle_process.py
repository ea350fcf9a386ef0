"""Updates by stick with processes: exports and imports killed at any operation, agents that are told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p.adapters.bundle_files import BundleReader
from p2p.adapters.lock import lock_holder
from p2p.content.bundle import Kind
from tests.support.fleet import IMAGES, Device, Done, FleetRig, Forks, until


async def bundle(forks: Forks, *arguments: object, before: tuple[str, ...] = ()) -> Done:
    """`slipstream bundle ARGUMENTS` in a fork."""
    return await forks.command("bundle", *map(str, arguments), before=before)


async def export(forks: Forks, fleet: FleetRig, stick: Path, *, before: tuple[str, ...] = ()) -> Done:
    return await bundle(
        forks, "export", "--from", fleet.repository.directory, "--out", stick, before=before
    )  # fmt: skip


def points_of(total: int, count: int) -> list[int]:
    """Operations spread over all of them, and each of the last."""
    return sorted({*range(1, total, max(1, total // count)), *range(total - 6, total + 1)})


def begin_again(device: Device, pristine: Path) -> None:
    """A device as it was."""
    shutil.rmtree(device.directory)
    shutil.copytree(pristine, device.directory)


async def test_an_export_killed_at_any_operation_is_gone_on_with(
    fleet: FleetRig, forks: Forks, tmp_path: Path
) -> None:
    fleet.order("2.0")
    counted = tmp_path / "count"
    whole = tmp_path / "whole"
    done = await export(forks, fleet, whole, before=("--count", str(counted)))
    assert done.code == 0, done.messages
    killed = 0
    for point in points_of(int(counted.read_text()), 10):
        stick = tmp_path / f"stick-{point}"
        killed += (await export(forks, fleet, stick, before=("--kill-at", str(point)))).code == -9
        if not (stick / "bundle.json").exists():
            assert (await bundle(forks, "inspect", stick)).code == 2
        done = await export(forks, fleet, stick)
        assert done.code == 0, f"killed at {point}: {done.messages}"
        assert (await bundle(forks, "inspect", stick, "--json")).code == 0
        assert names(stick) == names(whole)
        shutil.rmtree(stick)
    assert killed > 10


def names(stick: Path) -> list[str]:
    return sorted(str(p.relative_to(stick)) for p in stick.rglob("*"))


async def test_an_import_killed_at_any_operation_is_gone_on_with_and_installs(
    fleet: FleetRig, forks: Forks, tmp_path: Path
) -> None:
    fleet.order("2.0")
    stick = tmp_path / "stick"
    assert (await export(forks, fleet, stick)).code == 0
    device = fleet.device("d1", wan=False)
    pristine = tmp_path / "pristine"
    shutil.copytree(device.directory, pristine)
    line = ("import", stick, "--config", device.config_file)
    counted = tmp_path / "count"
    done = await bundle(forks, *line, before=("--count", str(counted)))
    assert done.code == 0, done.messages
    killed = 0
    for point in points_of(int(counted.read_text()), 6):
        begin_again(device, pristine)
        killed += (await bundle(forks, *line, before=("--kill-at", str(point)))).code == -9
        assert device.slot("a").read_bytes() == IMAGES["1.0"]
        done = await bundle(forks, *line)
        assert done.code == 0, f"killed at {point}: {done.messages}"
        done = await forks.run(device, "run", "--once")
        assert done.code == 0, f"killed at {point}: {done.messages}"
        assert device.running_version() == "2.0"
    assert killed > 6


async def test_an_agent_killed_while_it_installs_from_a_stick_converges(
    fleet: FleetRig, forks: Forks, tmp_path: Path
) -> None:
    fleet.order("2.0")
    stick = tmp_path / "stick"
    assert (await export(forks, fleet, stick)).code == 0
    device = fleet.device("d1", wan=False)
    assert (await bundle(forks, "import", stick, "--config", device.config_file)).code == 0
    pristine = tmp_path / "pristine"
    shutil.copytree(device.directory, pristine)
    counted = tmp_path / "count"
    assert (await forks.run(device, "run", "--once", before=("--count", str(counted)))).code == 0
    for point in points_of(int(counted.read_text()), 5):
        begin_again(device, pristine)
        await forks.run(device, "run", "--once", before=("--kill-at", str(point)))
        assert device.slot("a").read_bytes() == IMAGES["1.0"]
        done = await forks.run(device, "run", "--once")
        assert done.code == 0, f"killed at {point}: {done.messages}"
        assert device.running_version() == "2.0"


async def test_a_running_agent_is_told_and_serves_another_one_without_wan(
    fleet: FleetRig, forks: Forks, tmp_path: Path
) -> None:
    fleet.order("2.0")
    stick = tmp_path / "stick"
    assert (await export(forks, fleet, stick)).code == 0
    first = fleet.device("d1", wan=False, poll_s=600)
    second = fleet.device("d2", wan=False, peers=(first,), poll_s=600)
    async with running(first) as one, running(second):
        await until(lambda: first.status and second.status, "both run")
        done = await bundle(forks, "import", stick, "--config", first.config_file, "--json")
        assert done.code == 0, done.messages
        assert json.loads(done.output)["agent"] == one.pid
        for device in (first, second):
            await until(lambda d=device: d.status.get("state") == "committed", f"{device.name} is done")
    assert first.running_version() == second.running_version() == "2.0"
    assert second.status["ledger"]["wan"] == 0
    assert second.status["ledger"]["peers"]["d1"] > 0
    assert "imported" not in second.status["ledger"]
    assert first.status["ledger"]["imported"] > 0
    shown = await forks.run(first, "status")
    assert "from a bundle" in shown.output


async def test_an_agent_that_is_told_while_it_starts_goes_on_starting(fleet: FleetRig) -> None:
    """From when it holds its lock: as while it reads a large slot at its first start."""
    device = fleet.device("d1", wan=False, poll_s=600)
    async with running(device) as process:
        await until(lambda: lock_holder(device.config.device.state_dir) == process.pid, "it starts")
        while not device.status and process.poll() is None:
            process.send_signal(signal.SIGHUP)
            await trio.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            assert await process.wait() == 0


@asynccontextmanager
async def running(device: Device) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        device.command("run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True), trio.move_on_after(10):
            await process.wait()
        process.kill()


async def test_errors_are_for_people_and_for_scripts(fleet: FleetRig, forks: Forks, tmp_path: Path) -> None:
    fleet.order("2.0")
    stick = tmp_path / "stick"
    await export(forks, fleet, stick)
    device = fleet.device("d1", wan=False)
    table = BundleReader.open(str(stick)).table
    frames = max(table.of(Kind.FRAMES), key=lambda o: o.ref.size)
    delta = min(table.of(Kind.FRAMES), key=lambda o: o.ref.size)
    path = stick / "objects" / delta.ref.sha256.hex()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    done = await bundle(forks, "import", stick, "--config", device.config_file)
    assert done.code == 3
    assert done.messages.startswith("error: frame ")
    assert "bytes of it, verified" in done.messages
    assert "next: " in done.messages
    done = await bundle(forks, "import", stick, "--config", device.config_file, "--json")
    error = json.loads(done.messages)
    assert (error["error"], error["exit_code"]) == ("ContentError", 3)
    assert {"message", "kept", "next_step"} <= set(error)
    done = await bundle(forks, "inspect", stick)
    assert done.code == 3
    assert f"DAMAGED frames {delta.name}: frame " in done.output
    assert frames.name not in [line.split(":")[0] for line in done.output.splitlines()]
    done = await bundle(forks, "inspect", tmp_path)
    assert done.code == 2
    assert "is no bundle" in done.messages


@pytest.mark.parametrize("name", ["export", "inspect", "import"])
def test_help_has_examples_and_needs_nothing_of_a_server(name: str) -> None:
    """Whatever only a server has cannot be imported, as on a device."""
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('coordinator', 'sim', 'fastapi', 'sqlalchemy', 'rich'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import p2p.bundles.export, p2p.bundles.inspection, p2p.bundles.importing\n"
        "from p2p.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "bundle", name, "--help"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"slipstream bundle {name}" in done.stdout.split("Options:")[0].partition("Examples:")[2]
