"""A progress bar for long work in virtual time, on standard error; nothing where nobody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Report", "bar", "run_progress", "time_text"]

Report = Callable[[float, int], None]
"""Takes the virtual time and the number of events so far."""


def bar(*columns: str) -> Progress:
    """A bar as all commands of the simulator have it; `columns` are format texts after the bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextlib.contextmanager
def run_progress(name: str, duration_s: float) -> Iterator[Report]:
    """A bar over virtual time. A run ends before its bar does when all have finished."""
    with bar("{task.fields[at]} of {task.fields[until]} virtual", "{task.fields[events]:,} events") as shown:
        task: TaskID = shown.add_task(
            name, total=duration_s, at=time_text(0.0), until=time_text(duration_s), events=0
        )

        def report(now: float, events: int) -> None:
            shown.update(task, completed=now, at=time_text(now), events=events)

        yield report


def time_text(seconds: float | None) -> str:
    """A time for people: `12.3 s`, `4 min 05 s`, `7 h 12 min`, `3 d 04 h`; `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
