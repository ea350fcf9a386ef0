"""The health command: bounded in time and output, killed as a whole; one agent per state directory."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2p.adapters.health import OUTPUT_SIZE_MAX, check_health
from p2p.adapters.lock import AgentLock, lock_holder
from p2p.adapters.status import read_status, write_status
from p2p.errors import LocalError, StoreError


def is_running(pid: int) -> bool:
    """Whether a process does anything; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(pid: int) -> None:
    with trio.fail_after(10):
        while is_running(pid):
            await trio.sleep(0.005)


async def test_status_zero_passes() -> None:
    result = await check_health(["/bin/sh", "-c", "echo fine; echo really >&2"], 10)
    assert result.passed
    assert result.reason == ""
    assert result.output == "fine\nreally\n"
    assert result.seconds < 10


async def test_any_other_status_fails_and_is_named() -> None:
    result = await check_health(["/bin/sh", "-c", "echo no route; exit 3"], 10)
    assert not result.passed
    assert result.reason == "/bin/sh ended with status 3"
    assert result.output == "no route\n"


async def test_a_signal_fails_and_is_named() -> None:
    result = await check_health(["/bin/sh", "-c", "kill -SEGV $$"], 10)
    assert (result.passed, result.reason) == (False, "/bin/sh was killed by SIGSEGV")


@pytest.mark.parametrize("command", [["/no/such/program"], ["/etc"], ["a\0b"]])
async def test_a_command_that_cannot_run_fails(command: list[str]) -> None:
    result = await check_health(command, 10)
    assert not result.passed
    assert result.reason.startswith(f"cannot run {command[0]}: ")


async def test_a_hanging_command_is_killed_with_all_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; echo started; sleep 600"
    result = await check_health(["/bin/sh", "-c", command], 0.5)
    assert (result.passed, result.reason) == (False, "/bin/sh did not end within 0.5 s")
    assert result.output == "started\n"
    for pid in pids.read_text().split():
        await until_gone(int(pid))


async def test_what_it_leaves_running_is_killed_and_does_not_hold_it_up(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    result = await check_health(["/bin/sh", "-c", f"sleep 600 & echo $! > {pids}"], 10)
    assert result.passed
    assert result.seconds < 5
    await until_gone(int(pids.read_text()))


async def test_endless_output_is_cut() -> None:
    result = await check_health(["/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 1"], 10)
    assert result.reason == "/bin/sh ended with status 1"
    assert len(result.output) == OUTPUT_SIZE_MAX


async def test_it_is_killed_when_the_agent_stops(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_health, ["/bin/sh", "-c", f"echo $$ > {pids}; sleep 600"], 600)
            with trio.fail_after(10):
                while not pids.exists() or not pids.read_text().strip():
                    await trio.sleep(0.005)
            scope.cancel()
    assert scope.cancelled_caught
    await until_gone(int(pids.read_text()))


async def test_it_sees_what_it_is_told_and_no_input() -> None:
    result = await check_health(["/bin/sh", "-c", "cat; echo $SLOT"], 10, {"SLOT": "b"})
    assert result.output == "b\n"


# The lock


def test_a_second_agent_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with AgentLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
        with pytest.raises(LocalError, match=f"another agent \\(pid {os.getpid()}\\) uses") as caught:
            AgentLock(tmp_path).__enter__()
        assert "device.state_dir" in caught.value.next_step
        assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) is None
    with AgentLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()


def test_a_hangup_while_the_lock_is_held_and_after_it_ends_nobody(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from p2p.adapters.lock import AgentLock\n"
        f"with AgentLock(Path({str(tmp_path)!r})):\n    print('held', flush=True); input()\n"
        "print('given back', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for state in ("held", "given back"):
            assert process.stdout.readline().strip() == state
            process.send_signal(signal.SIGHUP)
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(10) == 0


def test_the_lock_of_a_killed_agent_is_free(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from p2p.adapters.lock import AgentLock; import time;"
        f"AgentLock(Path({str(tmp_path)!r})).__enter__(); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert lock_holder(tmp_path) == child.pid
        with pytest.raises(LocalError, match=f"pid {child.pid}"):
            AgentLock(tmp_path).__enter__()
        child.kill()
    with AgentLock(tmp_path):
        pass


@pytest.mark.parametrize("started", [" 1", "", " -", " later"])
def test_a_pid_of_an_earlier_holder_is_not_given_to_be_signalled(tmp_path: Path, started: str) -> None:
    """The next holder has the lock and has not written its pid yet; the old pid is somebody else's by now."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        path = tmp_path / "agent.lock"
        path.write_text(f"{stranger.pid}{started}\n")
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert lock_holder(tmp_path) == 0, "held, by nobody knows whom"
            with pytest.raises(LocalError, match="another agent uses"):
                AgentLock(tmp_path).__enter__()
        assert lock_holder(tmp_path) is None
        stranger.communicate(b"\n", timeout=10)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot open"):
        AgentLock(tmp_path / "file" / "state").__enter__()
    with AgentLock(tmp_path / "new" / "state"):
        assert (tmp_path / "new" / "state" / "agent.lock").exists()


# The status file


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read_status(path) is None
    write_status(path, {"state": "writing", "ledger": {"wan": 3}})
    assert read_status(path) == {"state": "writing", "ledger": {"wan": 3}}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_status_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(data)
    assert read_status(path) is None


def test_a_status_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write the status"):
        write_status(tmp_path / "no" / "status.json", {})
