"""Runs the health command that decides whether a new slot is kept.

Bounded in time and in output, in a process group of its own that is killed as a whole, whether it
passed, failed, hung or the agent is being stopped. A command that leaves its process group on purpose
(`setsid`) is out of reach. Not for update modules.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

OUTPUT_SIZE_MAX = 16 * 1024
DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthResult:
    """`reason`: empty when it passed, else what happened. `output`: the first of both its streams."""

    passed: bool
    reason: str
    output: str
    seconds: float


async def check_health(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> HealthResult:
    """Run `command` (no shell); exit status 0 within `timeout_s` passes. Never raises for its failure.

    `environment` is added to the agent's own; the commands' standard input is empty.
    """
    started = trio.current_time()

    def result(reason: str, output: bytes = b"") -> HealthResult:
        text = output.decode(errors="replace")
        return HealthResult(not reason, reason, text, trio.current_time() - started)

    try:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, ValueError) as error:
        return result(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}")
    output = bytearray()
    status: int | None = None
    try:
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                drained = trio.Event()
                nursery.start_soon(_read, process, output, drained)
                status = await process.wait()
                _kill_group(process)
                # What escaped from the group may hold the pipe open for ever; its words do not count.
                with trio.move_on_after(DRAIN_S):
                    await drained.wait()
                nursery.cancel_scope.cancel()
    finally:
        if status is None:
            _kill_group(process)
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    if status is None:
        return result(f"{command[0]} did not end within {timeout_s:g} s", bytes(output))
    return result("" if status == 0 else f"{command[0]} {_outcome(status)}", bytes(output))


async def _read(process: trio.Process, output: bytearray, drained: trio.Event) -> None:
    if process.stdout is not None:
        async for data in process.stdout:
            output += data[: OUTPUT_SIZE_MAX - len(output)]
    drained.set()


def _kill_group(process: trio.Process) -> None:
    # Once, right after the leader ended: a member keeps the group's id from being used anew, and a group
    # without members is not found.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _outcome(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
