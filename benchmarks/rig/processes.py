"""Child processes of a rig: started with a log each, waited for with a deadline, ended for certain.

Children die with the rig: on leaving the context, when the rig fails, and, through the kernel's parent-death
signal, even when the rig itself is killed. Only processes that were started here are ever signalled.
Not for what runs inside a network namespace in particular: a namespace is only a prefix of the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Child", "Children", "RigError", "until", "wait_all"]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_STOP_S = 5.0


class RigError(Exception):
    """The rig could not do what was asked; the message says what and where its log is."""


class Child:
    """One process, the leader of its own process group."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative signal number when a signal ended it."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the process and what it started, and reap it."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM; use `wait` or leave the context for its end."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """Its exit code; `RigError` when it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise RigError(f"{self.name} still runs after {seconds:g} s; its log: {self.log}") from error

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in text[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Children:
    """A context in which processes run; leaving it ends those that are left."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(self._children)

    def start(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start `command` behind `prefix` (such as that of a namespace); its output goes to `<name>.log`."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*prefix, *map(os.fspath, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # As after an ordinary installation: bytecode is kept.
                env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | (env or {}),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self, children: Iterable[Child], seconds: float = _STOP_S) -> None:
        """SIGTERM, and after `seconds` SIGKILL, to those that still run."""
        left = [child for child in children if child.exit_code is None]
        for child in left:
            child.terminate()
        deadline = time.monotonic() + seconds
        for child in left:
            with contextlib.suppress(RigError):
                child.wait(max(0.0, deadline - time.monotonic()))
        for child in children:
            # The leader may have ended and left others of its group behind.
            child._signal(signal.SIGKILL)
            child._process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_all(
    children: Iterable[Child],
    seconds: float,
    *,
    ended: Callable[[Child], None] | None = None,
    tick: Callable[[], None] | None = None,
    tick_s: float = 0.2,
) -> None:
    """Wait until all `children` have ended; `RigError` names those that have not after `seconds`.

    `ended` is called as soon as a child has; `tick` every `tick_s` seconds, and once more at the end.
    """
    deadline = time.monotonic() + seconds
    waiting: dict[int, Child] = {}
    poller = select.poll()
    try:
        for child in children:
            descriptor = os.pidfd_open(child.pid) if child.exit_code is None else -1
            if descriptor < 0:
                if ended:
                    ended(child)
                continue
            waiting[descriptor] = child
            poller.register(descriptor, select.POLLIN)
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                names = ", ".join(child.name for child in waiting.values())
                logs = ", ".join(str(child.log) for child in waiting.values())
                raise RigError(f"still running after {seconds:g} s: {names}; logs: {logs}")
            for descriptor, _ in poller.poll(min(left, tick_s if tick else left) * 1000):
                poller.unregister(descriptor)
                os.close(descriptor)
                child = waiting.pop(descriptor)
                child.wait(_STOP_S)
                if ended:
                    ended(child)
            if tick:
                tick()
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def until(
    what: str,
    happened: Callable[[], bool],
    seconds: float,
    *,
    alive: Iterable[Child] = (),
    interval_s: float = 0.02,
) -> None:
    """Wait until `happened()`; `RigError` after `seconds`, or at once when one of `alive` has ended."""
    deadline = time.monotonic() + seconds
    children = list(alive)
    while not happened():
        for child in children:
            if child.exit_code is not None and not happened():
                raise RigError(
                    f"{child.name} ended with {child.exit_code} before {what}; log {child.log}:\n"
                    f"{child.tail()}"
                )
        if time.monotonic() >= deadline:
            logs = "".join(f"\n{child.name}, log {child.log}:\n{child.tail()}" for child in children[:3])
            raise RigError(f"no {what} within {seconds:g} s{logs}")
        time.sleep(interval_s)
