"""What the tables of a scenario share: quantities with their texts, lists of shares, names told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from p2p.config.table import Table
from sim.scenario import quantities as q

_T = TypeVar("_T")
SHARES_SLACK = 0.002
"""How far shares may be from adding up: '33.3 %' three times is meant well."""


def rate(table: Table, key: str, default: float | None = None) -> float:
    return table.quantity(key, q.RATE_WHAT, q.rate, default=default)


def size(table: Table, key: str, default: int | None = None, *, low: int = 0) -> int:
    what = q.SIZE_WHAT if low == 0 else f"{q.SIZE_WHAT}; at least {low}"
    found = table.quantity(
        key,
        what,
        lambda value: n if (n := q.size(value)) is not None and n >= low else None,
        default=default,
        stand_in=max(1, low),
    )
    return int(found)


def duration(table: Table, key: str, default: float | None = None, *, above_0: bool = False) -> float:
    what = q.DURATION_WHAT.replace("0 or more", "more than 0") if above_0 else q.DURATION_WHAT
    return table.quantity(
        key,
        what,
        lambda value: s if (s := q.duration(value)) is not None and (s > 0 or not above_0) else None,
        default=default,
    )


def moment(table: Table, key: str, starts_of_day: float, default: float | None = None) -> float:
    """Seconds since the start; a time of day means the first such after the start."""
    what = f"{q.DURATION_WHAT}; or {q.CLOCK_WHAT}"
    return table.quantity(key, what, lambda value: q.moment(value, starts_of_day), default=default)


def share(table: Table, key: str, default: float | None = None, *, above_0: bool = False) -> float:
    what = f"{q.SHARE_WHAT}, above 0" if above_0 else q.SHARE_WHAT
    return table.quantity(
        key,
        what,
        lambda value: s if (s := q.share(value)) is not None and (s > 0 or not above_0) else None,
        default=default,
    )


def loss(table: Table, key: str) -> float:
    what = "a share of lost packets below 1, such as '0.5 %'"
    return table.quantity(
        key, what, lambda value: s if (s := q.share(value)) is not None and s < 1 else None, default=0.0
    )


def choice(table: Table, key: str, kinds: Iterable[_T], default: _T | None = None) -> _T | None:
    """One of an enumeration of texts; None is a fault that was noted."""
    allowed = {str(kind): kind for kind in kinds}
    what = "one of " + ", ".join(allowed)
    if default is not None and not table.has(key):
        table.value(key)
        return default
    value = table.text(key, what=what)
    if value is None:
        return default
    if value not in allowed:
        table.fault(key, f"must be {what}, not {value!r}")
        return default
    return allowed[value]


def shares(table: Table, key: str, what: str) -> dict[str, float]:
    """A table of names to shares that add up to 1; one name as a text has all of it."""
    single = table.value(key)
    if isinstance(single, str):
        return {single: 1.0}
    if not table.has(key):
        table.fault(key, f"is missing: {what}")
        return {}
    inside = table.table(key)
    found = {name: share(inside, name) for name in inside.keys()}  # noqa: SIM118 (a Table is no mapping)
    total = sum(found.values())
    if not isinstance(single, dict) or any(q.share(part) is None for part in single.values()):
        return {}  # noted already
    if abs(total - 1) > SHARES_SLACK:
        table.fault(key, f"has shares that add up to {total * 100:.4g} %, not to 100 %")
        return found
    # A share that was rounded to be written is mended; one that adds up stays as it is, to the bit.
    return found if abs(total - 1) < 1e-9 else {name: part / total for name, part in found.items()}


def tell_apart(tables: Iterable[Table], names: Iterable[str], noun: str) -> None:
    """Note names that are used twice."""
    seen: set[str] = set()
    for table, name in zip(tables, names, strict=True):
        if name and name in seen:
            table.fault("name", f"is used twice: there is another {noun} {name!r}")
        seen.add(name)


def each(table: Table, key: str, read: Callable[[Table], _T]) -> tuple[_T, ...]:
    """An array of tables, each read to its end."""
    found = []
    for inside in table.tables(key):
        found.append(read(inside))
        inside.finish()
    return tuple(found)
