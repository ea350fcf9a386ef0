"""The `slipstream` command itself: lazy subcommands, errors to exit codes, quiet ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

import p2p.cli
from p2p.cli import LazyGroup, MissingExtra, run
from p2p.errors import ConfigError, PeerError, SlipstreamError, TrustError

SCRIPT = Path(sys.executable).with_name("slipstream")
HEAVY = ("fastapi", "sqlalchemy", "uvicorn", "alembic", "rich", "pyfastcdc", "coordinator")
NEEDLESS = ("importlib.metadata", "zeroconf", "ifaddr", "asyncio", "httpx", "requests", "numpy", "sqlite3",
            "tuf.ngclient", "hdiffpatch", "multiprocessing", "unittest", "sim", "zoneinfo", "bsdiff4",
            "backports.zstd")  # fmt: skip
"""What an agent starts without: to find commands, to talk HTTP or TUF in other ways, to use deltas."""


class FailingEntry(EntryPoint):
    """An entry point whose module lacks a dependency."""

    def load(self) -> object:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")


@click.command()
def child() -> None:
    """A command below a group."""
    click.echo("child ran")


@click.group()
@click.pass_context
def parent(ctx: click.Context) -> None:
    """A group."""
    ctx.obj = "from the parent"


@parent.command()
@click.pass_obj
def own(obj: str) -> None:
    """Of the group's own."""
    click.echo(obj)


def entry(name: str, function: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{function}", p2p.cli.COMMANDS)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, EntryPoint]:
    """The entry points that `run` finds, to be filled by the test."""
    found: dict[str, EntryPoint] = {}
    monkeypatch.setattr(p2p.cli, "entry_points", lambda group: list(found.values()))
    return found


def script(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **kwargs,
    )


def test_the_installed_command_says_its_version() -> None:
    done = script("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("slipstream, version ")


def test_the_installed_command_lists_what_is_installed() -> None:
    done = script("--help")
    assert done.returncode == 0
    for name in ("agent", "coordinator", "order", "pack", "release", "repo", "sim", "voucher"):
        assert f"\n  {name} " in done.stdout
    assert "\n  build" in script("pack", "--help").stdout
    assert "\n  apply" in script("pack", "--help").stdout


def test_an_error_is_told_with_its_code_and_what_to_do() -> None:
    done = script("agent", "status", "--config", "/no/such/file")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read the configuration /no/such/file: No such file")
    assert "\nnext: " in done.stderr
    told = json.loads(script("agent", "status", "--json", "--config", "/no/such/file").stderr)
    assert told["error"] == "ConfigError"
    assert told["exit_code"] == 2


def test_an_agent_loads_nothing_of_the_server_nor_what_its_start_can_do_without() -> None:
    code = (
        "import sys; from p2p.cli import run; run(['agent', 'run', '--help']); import p2p.agent;"
        f"print([m for m in {HEAVY + NEEDLESS!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_agents_service_does_without_the_command_line_too() -> None:
    code = (
        "import sys; from p2p.agent.__main__ import main; code = main(['--config', '/no/such/file']);"
        f"import p2p.adapters.mdns; without = {('click', *HEAVY, *NEEDLESS)!r};"
        "print(code, [m for m in without if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith("error: cannot read the configuration /no/such/file")


def test_the_agents_service_takes_a_configuration_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "p2p.agent", "--once"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the agent's service does not know '--once'\nnext: ")


def test_output_that_nobody_reads_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [str(SCRIPT), "--version"], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (1, 141)


def test_a_missing_extra_is_named(
    commands: dict[str, EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    commands["serve"] = FailingEntry("serve", "coordinator.cli.serve:serve", p2p.cli.COMMANDS)
    commands["child"] = entry("child", "child")
    assert run(["serve"]) == MissingExtra.exit_code == 2
    told = capsys.readouterr().err
    assert "needs slipstream[coordinator]" in told
    assert "pip install 'slipstream[coordinator]'" in told
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert "slipstream[coordinator]" in out
    assert "A command below a group." in out
    assert run(["child"]) == 0


def test_a_part_of_our_own_that_is_missing_is_no_missing_extra(
    commands: dict[str, EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    commands["gone"] = EntryPoint("gone", "coordinator.cli.no_such:gone", p2p.cli.COMMANDS)
    assert run(["gone"]) == 2
    assert "is not part of this installation (no module 'coordinator.cli.no_such')" in capsys.readouterr().err


def test_a_command_path_joins_a_group(
    commands: dict[str, EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    commands["parent"] = entry("parent", "parent")
    commands["parent.child"] = entry("parent.child", "child")
    commands["alone.child"] = entry("alone.child", "child")
    for arguments in (["parent", "child"], ["alone", "child"]):
        assert run(arguments) == 0
        assert capsys.readouterr().out == "child ran\n"
    assert run(["parent", "own"]) == 0
    assert capsys.readouterr().out == "from the parent\n"
    assert run(["parent", "none"]) == 2
    assert "No such command 'none'" in capsys.readouterr().err
    assert sorted(LazyGroup(entries=commands).list_commands(click.Context(click.Command("x")))) == [
        "alone", "parent",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("no"), 2, "error: no\n"),
        (TrustError("expired", "too old", kept="all"), 4, "error: too old\nkept: all\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (ExceptionGroup("g", [PeerError("lost"), PeerError("lied")]), 6, "error: lost\nerror: lied\n"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), 130, "interrupted\n"),
        (BaseExceptionGroup("g", [BaseExceptionGroup("h", [ConfigError("x")])]), 2, "error: x\n"),
    ],
)
def test_every_end_has_its_exit_code(
    commands: dict[str, EntryPoint],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def fail() -> None:
        raise error

    commands["child"] = entry("child", "child")
    assert run(["child"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(child, "callback", fail)
    assert run(["child"]) == code
    assert capsys.readouterr().err.lstrip("\n") == told  # click ends the line of a ^C


def test_what_nobody_expected_keeps_its_traceback(
    commands: dict[str, EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ExceptionGroup("g", [ConfigError("x"), ZeroDivisionError()])

    commands["child"] = entry("child", "child")
    monkeypatch.setattr(child, "callback", fail)
    with pytest.raises(ExceptionGroup):
        run(["child"])


def test_a_number_that_a_command_returns_is_its_exit_code(
    commands: dict[str, EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands["child"] = entry("child", "child")
    monkeypatch.setattr(child, "callback", lambda: 9)
    assert run(["child"]) == 9


def test_exit_codes_are_the_documented_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()

    def below(kind: type[SlipstreamError]) -> set[type[SlipstreamError]]:
        return {kind}.union(*(below(k) for k in kind.__subclasses__()))

    import coordinator.errors
    import p2p.agent

    assert coordinator.errors and p2p.agent  # their errors count, too
    for kind in below(SlipstreamError):
        assert f"| {kind.exit_code} |" in text, kind
