"""How commands speak: facts on standard output (plain or JSON), everything else on standard error.

Scripts get one JSON document from `--json`; people get aligned lines. Not for progress of long work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from p2p.errors import SlipstreamError

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """`--json`, passed to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print facts as one JSON document.")(function)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_facts(facts: Iterable[tuple[str, object]], *, indent: str = "") -> None:
    """Lines of `name  value`, the values aligned; None is shown as a dash."""
    rows = [(name, "-" if value is None else str(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{indent}{name.ljust(width)}  {value}".rstrip())


def size_text(count: int) -> str:
    """Bytes for people: `12.3 MB (12345678)`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit} ({count})"


def print_error(error: SlipstreamError, *, as_json: bool) -> None:
    """What happened, what was kept and what to do next, on standard error."""
    if as_json:
        body: dict[str, object] = {"error": type(error).__name__, "message": error.message}
        reason = getattr(error, "reason", None)
        body |= {"reason": reason} if reason else {}
        body |= {"kept": error.kept} if error.kept else {}
        body |= {"next_step": error.next_step} if error.next_step else {}
        body["exit_code"] = error.exit_code
        click.echo(json.dumps(body, sort_keys=True), file=sys.stderr)
        return
    click.echo(f"error: {error.diagnostics()}", file=sys.stderr)
