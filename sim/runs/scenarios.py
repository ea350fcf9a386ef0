"""Finding a scenario by the name of a ready one or by its file."""

from __future__ import annotations

from pathlib import Path

from p2p.errors import OperatorError
from sim.runs.repositories import versions
from sim.scenario import library
from sim.scenario.model import Release, Scenario
from sim.scenario.reading import SCENARIO_SIZE_MAX, parse_scenario

__all__ = ["named", "read_scenario", "source_text"]


def named(name: str) -> Scenario:
    """A ready scenario, or that of a file; what has a dot or a slash, or exists, is a file.

    Raises `ConfigError` (what is wrong with it, line by line) and `OperatorError` (there is none).
    """
    return read_scenario(Path(name)) if _is_file(name) else library.load(name)


def source_text(name: str) -> str:
    """The document behind `named`, as it was written."""
    return _read(Path(name)).decode(errors="replace") if _is_file(name) else library.text(name)


def read_scenario(path: Path, releases: tuple[Release, ...] = ()) -> Scenario:
    """The scenario of a file; repositories that it names are looked into. `releases`: further ones."""
    return parse_scenario(
        _read(path),
        source=str(path),
        directory=path.absolute().parent,
        versions=versions,
        releases=releases,
    )


def _is_file(name: str) -> bool:
    return name not in library.names() and ("/" in name or "." in name or Path(name).is_file())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SCENARIO_SIZE_MAX + 1)
    except OSError as error:
        raise OperatorError(
            f"cannot read the scenario {path}: {error.strerror or error}",
            next_step="`slipstream sim list` names the ready ones; docs/sim.md describes the format",
        ) from error
