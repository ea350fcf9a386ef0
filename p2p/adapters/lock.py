"""One agent per state directory: two would write the same slot.

The lock is an flock, so it ends with its process whatever kills that; the pid in the file is only for
the message, and for whoever tells the agent by SIGHUP that there is news. It is written once the lock is
held, so for a moment the file names an earlier holder, whose pid may belong to anybody by now: beside it
stands when that process started, and a pid whose process started at another time is not given. Not for
coordinators (several may share a database).
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from p2p.errors import LocalError, StoreError

LOCK_NAME = "agent.lock"


class AgentLock:
    """Holds `directory/agent.lock`; a context manager. Raises `LocalError` naming who holds it.

    Whoever holds it may be sent SIGHUP by an import, also a command or an agent that is only starting; so the
    signal, where nothing handles it, is ignored from before the lock is held until the process ends.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._fd = -1

    def __enter__(self) -> Self:
        _ignore_hangup()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {self._path}: {error.strerror or error}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _pid(fd)
            os.close(fd)
            raise LocalError(
                f"another agent{f' (pid {pid})' if pid else ''} uses {self._path.parent}",
                kept="that agent, which goes on",
                next_step="stop it first, or give this one a device.state_dir of its own",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {_started(os.getpid())}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._fd = -1


def lock_holder(directory: Path) -> int | None:
    """The pid of the agent that runs with `directory` (0 if it is not known yet); None if none runs."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared and at once given back: it can make an agent that starts at this very moment fail,
        # but never two run.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid(fd) or 0
    else:
        return None
    finally:
        os.close(fd)


def _ignore_hangup() -> None:
    # Not undone with the lock: the signal may come just after it was given back.
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _pid(fd: int) -> int | None:
    """The pid in the file, if it is that of the process that wrote it."""
    words = os.pread(fd, 64, 0).decode("ascii", "replace").split()
    if len(words) != 2 or not words[0].isdecimal():
        return None
    pid = int(words[0])
    return pid if _started(pid) == words[1] else None


def _started(pid: int) -> str:
    """When a process started, in ticks since the system did (proc(5)); `-` without it, or without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (not a path of ours)
            return file.read(4096).rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return "-"
