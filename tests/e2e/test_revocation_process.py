"""A device that is stolen: coordinator, commands and three agents as processes of their own, over TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.fleet import IMPATIENT, Device, FleetRig, free_port, until


@asynccontextmanager
async def running(command: list[str], log: Path) -> AsyncIterator[trio.Process]:
    with log.open("ab") as messages:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=messages)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def command(*arguments: str, code: int = 0) -> Any:
    """Facts of one `slipstream` command; its error where it has to fail."""
    line = [sys.executable, str(IMPATIENT), *arguments, "--json"]
    environment = {**os.environ, "SLIPSTREAM_PASSPHRASE": ""}
    done = await trio.run_process(
        line, capture_stdout=True, capture_stderr=True, check=False, env=environment
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return json.loads(done.stderr if code else done.stdout)


async def enrolled(fleet: FleetRig, device: Device) -> None:
    repo = str(fleet.repository.directory)
    made = await command("voucher", "create", "--repo", repo, "--site", "depot", "--device", device.name)
    config = ("--config", str(device.config_file))
    await command("agent", "enroll", *config, "--voucher", made["vouchers"][0])


def peers(device: Device) -> set[str]:
    return {p["device"] for p in device.status.get("peers", [])}


async def test_a_stolen_device_is_out_as_soon_as_its_site_hears_and_stays_out_over_restarts(
    fleet: FleetRig, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    repo = str(fleet.repository.directory)
    log = tmp_path / "messages"
    serve = [sys.executable, str(IMPATIENT), "coordinator", "serve", repo, "--listen", url.partition("//")[2]]
    ready = tmp_path / "ready"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running([*serve, "--ready-file", str(ready)], log))
        await until(ready.exists, "the coordinator serves", 30)
        one = fleet.device("one", coordinator=url, enrolled=False, holds="2.0")
        two = fleet.device("two", coordinator=url, enrolled=False, holds="2.0", wan=False, peers=(one,))
        stolen = fleet.device("stolen", coordinator=url, enrolled=False, holds="2.0", peers=(one, two))
        for device in (one, two, stolen):
            await enrolled(fleet, device)
        for device in (one, two):
            await stack.enter_async_context(running(device.command("run"), log))
        async with running(stolen.command("run"), log):
            for device in (one, two):
                await until(lambda d=device: "stolen" in peers(d), f"{device.name} has it as a peer", 30)
            done = await command(
                "coordinator", "revoke", "stolen", "--reason", "lost", "--repo", repo, "--yes"
            )
            await until(lambda: peers(one) == {"two"}, "one has parted with it", 30)
            await until(lambda: peers(two) == {"one"}, "two has, which has no WAN", 30)
            await until(lambda: (stolen.status.get("revocations") or {}).get("own"), "it knows itself", 30)
            assert peers(stolen) == set()
        error = await command("agent", "status", "--config", str(stolen.config_file), code=14)
        assert error["error"] == "RevokedError"
        for device in (one, two):
            assert device.status["revocations"]["version"] == done["version"]

        def ignorant() -> None:
            """It is in other hands now, and forgets what it knows."""
            for name in ("revoked", "revoked.2", "trust"):
                path = stolen.config.device.state_dir / name
                path.rename(tmp_path / f"old-{name}")

        def refusals() -> int:
            return log.read_text().count("refused: revoked")

        ignorant()
        before = refusals()
        stolen.configure(coordinator=url, wan=False, peers=(one, two))
        async with running(stolen.command("run"), log):
            await until(lambda: stolen.status.get("revocations", {}).get("version") == 0, "it runs", 30)
            await until(lambda: refusals() >= before + 3, "it is refused each time that it dials", 30)
            assert peers(stolen) == set()
            assert peers(one) == {"two"}
        shown = await command("coordinator", "revocations", "--repo", repo)
        assert [r["device"] for r in shown["revoked"]] == ["stolen"]

        with trio.fail_after(30):
            while "one" in {b["device"] for b in shown["behind"]}:
                shown = await command("coordinator", "revocations", "--repo", repo)
