"""The `slipstream` command: finds its subcommands through entry points and maps errors to exit codes.

`p2p`, `coordinator` and `sim` each register commands in the entry point group `slipstream.commands`.
The name of an entry is the command's path: `agent` is a command of its own, `pack.build` is `build`
below `pack`. A command's module is imported only when it is used, so that a device neither needs nor
loads what only a server has. The agent's commands are found without asking what is installed: nobody
adds to them, and to ask would load what an agent does not need. Exit codes are in `docs/cli.md`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from p2p.cli.output import print_error
from p2p.errors import EXIT_INTERRUPTED, OperatorError, SlipstreamError, known_errors

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["LazyGroup", "MissingExtra", "command", "main"]

COMMANDS = "slipstream.commands"
OWN_PACKAGES = ("p2p", "coordinator", "sim")
EXTRAS = ("coordinator", "sim")
EXIT_BROKEN_PIPE = 141


class MissingExtra(OperatorError):  # noqa: N818 (a state, as in trio.Cancelled)
    """The command belongs to a part of Slipstream whose dependencies are not installed."""

    def __init__(self, path: str, extra: str, missing: str) -> None:
        super().__init__(
            f"`slipstream {path}` needs slipstream[{extra}] (no module {missing!r}): "
            f"pip install 'slipstream[{extra}]'"
        )


class LazyGroup(click.Group):
    """A group whose further commands are entry points, imported when they are asked for.

    `entries` maps command paths below this group (`build`, `build.fast`) to entry points, or is asked
    for that when it is first needed.
    """

    def __init__(
        self,
        *args: Any,
        path: str = "",
        entries: Mapping[str, EntryPoint] | Callable[[], Mapping[str, EntryPoint]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._path = path
        self._find = entries

    @cached_property
    def _entries(self) -> Mapping[str, EntryPoint]:
        return self._find() if callable(self._find) else self._find

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(name.split(".")[0] for name in self._entries)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        below = {k.partition(".")[2]: v for k, v in self._entries.items() if k.startswith(f"{cmd_name}.")}
        path = f"{self._path} {cmd_name}".strip()
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in self._entries:
            found = _load(self._entries[cmd_name], path)
        if not below:
            return found
        if found is None:
            return LazyGroup(name=cmd_name, path=path, entries=below)
        if not isinstance(found, click.Group):
            raise OperatorError(f"`slipstream {path}` is no group, yet there are commands below it")
        return _extended(found, path, below)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's own, but a command that cannot be loaded says why instead of ending the help."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                found = self.get_command(ctx, name)
            except OperatorError as error:
                rows.append((name, f"({error.message})"))
                continue
            if found is not None and not found.hidden:
                rows.append((name, found.get_short_help_str(limit=70)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class _Root(LazyGroup):
    """The root command: looks for what is installed when it is asked for anything but the agent."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "agent":
            return super().get_command(ctx, cmd_name)
        from p2p.cli.agent import agent

        return agent


def entry_points(group: str) -> Iterable[EntryPoint]:
    """What the installed distributions register in a group."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def command() -> LazyGroup:
    """The root command, with every installed subcommand."""
    root = _Root(
        name="slipstream",
        entries=lambda: {entry.name: entry for entry in entry_points(group=COMMANDS)},
        help="Updates for fleets behind thin links: each release crosses a site's WAN once.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(package_name="slipstream", prog_name="slipstream")(root)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: the console script."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command; every error becomes a message on standard error and an exit code."""
    as_json = "--json" in arguments
    try:
        result = command().main(arguments, prog_name="slipstream", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        return _broken_pipe()
    except SlipstreamError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except BaseExceptionGroup as group:
        ours = known_errors(group)
        if ours is None:
            raise
        for leaf in ours:
            print_error(leaf, as_json=as_json)
        return ours[0].exit_code if ours else _interrupted()
    return result if isinstance(result, int) else 0


def _load(entry: EntryPoint, path: str) -> click.Command:
    try:
        found = entry.load()
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        package = entry.value.split(".")[0]
        if package in EXTRAS and missing.split(".")[0] not in OWN_PACKAGES:
            raise MissingExtra(path, package, missing) from error
        raise OperatorError(
            f"`slipstream {path}` is not part of this installation (no module {missing!r})",
            next_step="reinstall slipstream",
        ) from error
    if not isinstance(found, click.Command):
        raise OperatorError(f"the entry point {entry.name} = {entry.value} is no command")
    return found


def _extended(group: click.Group, path: str, below: Mapping[str, EntryPoint]) -> LazyGroup:
    return LazyGroup(
        path=path,
        entries=below,
        name=group.name,
        commands=group.commands,
        callback=group.callback,
        params=group.params,
        help=group.help,
        epilog=group.epilog,
        short_help=group.short_help,
        context_settings=group.context_settings,
        invoke_without_command=group.invoke_without_command,
        no_args_is_help=group.no_args_is_help,
        hidden=group.hidden,
    )


def _interrupted() -> int:
    click.echo("interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _broken_pipe() -> int:
    # Whoever read the output went away. The interpreter would flush, and complain, once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
