"""Changing single values of a scenario: `site.depot.wan.rate=2 Mbit/s`, `policy.settle_s=4`, or lists.

A key is a path of field names of `sim.scenario.model` (or as in a scenario's file, without the `_s` of
seconds); sites, classes and releases go by their names (`class.box.reboot`), orders, phases and stops by
number, and `*` stands for all of them. The changed scenario is checked as any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from p2p.errors import OperatorError
from sim.scenario import quantities as q
from sim.scenario.model import Scenario
from sim.scenario.reading import parse_scenario
from sim.scenario.writing import scenario_text

__all__ = ["Override", "overridden", "read_override"]

_SHORT = {"site": "sites", "class": "classes", "release": "releases", "order": "orders", "fault": "faults"}


@dataclass(frozen=True, slots=True)
class Override:
    """One value for one key."""

    path: tuple[str, ...]
    value: str

    @property
    def text(self) -> str:
        return f"{'.'.join(self.path)}={self.value}"


def read_override(text: str) -> list[Override]:
    """`KEY=VALUE[,VALUE…]` as one override per value; raises `OperatorError`."""
    key, equals, values = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    found = [value.strip() for value in values.split(",")]
    if not equals or not all(path) or not all(found):
        raise OperatorError(
            f"{text!r} is not KEY=VALUE[,VALUE…]",
            next_step="for example site.depot.wan.rate=1 Mbit/s,4 Mbit/s",
        )
    return [Override(path, value) for value in found]


def overridden(scenario: Scenario, overrides: Sequence[Override]) -> Scenario:
    """The scenario with every override in it; raises `OperatorError` and `ConfigError`."""
    changed: Any = scenario
    for override in overrides:
        path = (_SHORT.get(override.path[0], override.path[0]), *override.path[1:])
        changed = _changed(changed, path, override)
    if not overrides:
        return scenario
    return parse_scenario(
        scenario_text(changed).encode(),
        source=f"{scenario.name} with {', '.join(o.text for o in overrides)}",
        directory=Path("/"),
    )


def _changed(value: Any, path: tuple[str, ...], override: Override) -> Any:
    if not path:
        return _like(value, override)
    name, rest = path[0], path[1:]
    if isinstance(value, tuple):
        matches = [
            n for n, x in enumerate(value) if name in ("*", str(n)) or getattr(x, "name", None) == name
        ]
        if not matches:
            known = ", ".join(str(getattr(x, "name", n)) for n, x in enumerate(value)) or "none"
            raise OperatorError(f"{override.text}: there is no {name!r} (there are: {known})")
        return tuple(_changed(x, rest, override) if n in matches else x for n, x in enumerate(value))
    if isinstance(value, dict):
        if name not in value:
            raise OperatorError(f"{override.text}: there is no {name!r} (there are: {', '.join(value)})")
        return value | {name: _changed(value[name], rest, override)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        name = f"{name}_s" if name not in names and f"{name}_s" in names else name
        if name not in names:
            singular = {plural: short for short, plural in _SHORT.items()}
            known = ", ".join(singular.get(n, n).removesuffix("_s") for n in names)
            raise OperatorError(f"{override.text}: there is no {name!r} (there are: {known})")
        return dataclasses.replace(value, **{name: _changed(getattr(value, name), rest, override)})
    raise OperatorError(f"{override.text}: nothing is below {'.'.join(override.path)!r} at {name!r}")


def _like(old: Any, override: Override) -> Any:
    """The value in the type of the one it replaces."""
    text = override.value
    if isinstance(old, bool):
        if text in ("true", "false"):
            return text == "true"
    elif isinstance(old, StrEnum):
        if text in [str(x) for x in type(old)]:
            return type(old)(text)
    elif isinstance(old, int | float):
        number = _number(text)
        if number is not None and (isinstance(old, float) or number == int(number)):
            return float(number) if isinstance(old, float) else int(number)
    elif isinstance(old, str):
        return text
    raise OperatorError(f"{override.text}: {text!r} cannot take the place of {old!r}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    for read in (q.rate, q.size, q.duration, q.share):
        found = read(text)
        if found is not None:
            return float(found)
    return None
