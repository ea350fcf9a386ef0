"""The agent as a service: `python -m p2p.agent [--config FILE]` is `slipstream agent run`, and nothing else.

What a command line needs stays out of a process that runs for months: it is 1.2 MiB of its memory. Errors and
exit codes are those of the command.
"""

from __future__ import annotations

import sys
from pathlib import Path

from p2p.adapters.lock import AgentLock
from p2p.agent.runtime import run
from p2p.config import CONFIG_FILE, read_config
from p2p.errors import EXIT_INTERRUPTED, OperatorError, SlipstreamError, known_errors


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until it is stopped; the exit code."""
    try:
        config = read_config(_config_file(sys.argv[1:] if arguments is None else arguments))
        with AgentLock(config.device.state_dir):
            return run(config)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SlipstreamError as error:
        return _failed([error])
    except BaseExceptionGroup as group:
        errors = known_errors(group)
        if errors is None:
            raise
        return _failed(errors)


def _config_file(arguments: list[str]) -> Path:
    match arguments:
        case []:
            return CONFIG_FILE
        case ["--config", path]:
            return Path(path)
    raise OperatorError(
        f"the agent's service does not know {' '.join(arguments)!r}",
        next_step="python -m p2p.agent [--config FILE], or `slipstream agent run --help`",
    )


def _failed(errors: list[SlipstreamError]) -> int:
    for error in errors:
        sys.stderr.write(f"error: {error.diagnostics()}\n")
    return errors[0].exit_code if errors else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
