"""The `slipstream` command with an impatient agent, and one that kills itself, for tests with processes.

`python impatient_agent.py ARGUMENTS...` runs the command. `python impatient_agent.py --kill-at N ...`
sends itself SIGKILL at its Nth durable operation (fsync, rename, write to an open file);
`--count FILE` writes how many there were. `--serve` reads such command lines (JSON lists, the first two
elements being where output and messages go) from standard input, runs each in a fork of its own, which
saves the imports, and writes the exit code of each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2p.agent import checkpoints, polling
from p2p.cli import main
from p2p.swarm import gateway, indexes

polling.ONCE_PATIENCE_S = 1.0
polling.RETRY_S = (0.1, 0.5)
checkpoints.CHECKPOINT_S = 0.1
gateway.BACKOFF_S = (0.1, 0.5)
indexes.INDEX_RETRY_S = 0.3


def _count(kill_at: int) -> Callable[[], int]:
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    os.fsync = counted(os.fsync)
    os.pwrite = counted(os.pwrite)
    os.rename = counted(os.rename)
    os.replace = counted(os.replace)
    Path.rename = counted(Path.rename)
    Path.replace = counted(Path.replace)
    return lambda: done


def _run(arguments: list[str]) -> None:
    if arguments[0] == "--kill-at":
        _count(int(arguments[1]))
        arguments = arguments[2:]
    elif arguments[0] == "--count":
        total, place = _count(0), Path(arguments[1])
        try:
            main(arguments[2:])
        finally:
            place.write_text(str(total()))
    main(arguments)


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                output, messages, *arguments = json.loads(line)
                for descriptor, path in ((1, output), (2, messages)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                sys.argv[1:] = arguments
                _run(arguments)
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code if isinstance(end.code, int) else 0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(120)
        _, status = os.waitpid(child, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


if sys.argv[1] == "--serve":
    _serve()
else:
    _run(sys.argv[1:])
