"""A `RunOutcome` as JSON values and back, nothing lost.

Devices, sites and spans are tables: the names of their fields once, then a row each. Floats are written
with all their digits (`repr`), so that a run that was kept is as good as one just made.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from p2p.errors import ContentError
from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome, Span, Violation

_T = TypeVar("_T", DeviceOutcome, SiteOutcome, Span, Violation)
_SCALARS: dict[str, tuple[type, ...]] = {
    "scenario": (str,), "seed": (int,), "virtual_s": (float, int), "events": (int,), "trace_digest": (str,),
}  # fmt: skip


def to_json(outcome: RunOutcome) -> dict[str, Any]:
    """Plain lists, dicts, texts and numbers for `json.dumps`."""
    return {
        **{name: getattr(outcome, name) for name in _SCALARS},
        "devices": _table(DeviceOutcome, outcome.devices),
        "sites": _table(SiteOutcome, outcome.sites),
        "origin_egress": _series(outcome.origin_egress),
        "completion": _series(outcome.completion),
        "timelines": {site: _table(Span, spans) for site, spans in outcome.timelines.items()},
        "violations": _table(Violation, outcome.violations),
    }


def from_json(value: object) -> RunOutcome:
    """The outcome that `to_json` wrote; raises `ContentError` for anything else."""
    document = _dict(value, "outcome")
    for name, kinds in _SCALARS.items():
        if type(document.get(name)) not in kinds:
            raise ContentError(f"outcome.{name} is missing or of the wrong type")
    return RunOutcome(
        scenario=document["scenario"],
        seed=document["seed"],
        virtual_s=document["virtual_s"],
        events=document["events"],
        trace_digest=document["trace_digest"],
        devices=_rows(DeviceOutcome, document.get("devices"), "devices"),
        sites=_rows(SiteOutcome, document.get("sites"), "sites"),
        origin_egress=_read_series(document.get("origin_egress"), "origin_egress"),
        completion=_read_series(document.get("completion"), "completion"),
        timelines={
            site: _rows(Span, spans, f"timelines.{site}")
            for site, spans in _dict(document.get("timelines"), "timelines").items()
        },
        violations=_rows(Violation, document.get("violations"), "violations"),
    )


def _table(kind: type[_T], items: Iterable[_T]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    return {"fields": names, "rows": [[getattr(item, name) for name in names] for item in items]}


def _rows(kind: type[_T], value: object, where: str) -> tuple[_T, ...]:
    document = _dict(value, where)
    names = [field.name for field in fields(kind)]
    if document.get("fields") != names:
        raise ContentError(f"{where}: the fields are not {', '.join(names)}")
    rows = document.get("rows")
    if not isinstance(rows, list):
        raise ContentError(f"{where}: no rows")
    checks = _checks(kind)
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise ContentError(f"{where}: row {number} has not {len(names)} values")
        for name, check, item in zip(names, checks, row, strict=True):
            if type(item) not in check:
                raise ContentError(f"{where}: row {number}: {name} cannot be {item!r}")
        found.append(kind(*row))
    return tuple(found)


def _checks(kind: type[_T]) -> list[frozenset[type]]:
    """The types that each field may have in JSON; a whole number is a float, too."""
    hints = get_type_hints(kind)
    return [_allowed(hints[field.name]) for field in fields(kind)]


def _allowed(hint: object) -> frozenset[type]:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    allowed = {part for part in parts if isinstance(part, type)}
    return frozenset(allowed | {int} if float in allowed else allowed)


def _series(series: Series) -> dict[str, list[float]]:
    return {"times": list(series.times), "values": list(series.values)}


def _read_series(value: object, where: str) -> Series:
    document = _dict(value, where)
    columns = [document.get("times"), document.get("values")]
    for column in columns:
        if not isinstance(column, list) or not all(type(item) in (int, float) for item in column):
            raise ContentError(f"{where}: needs times and values, lists of numbers")
    times, values = columns
    assert isinstance(times, list) and isinstance(values, list)
    if len(times) != len(values):
        raise ContentError(f"{where}: {len(times)} times, {len(values)} values")
    return Series(tuple(times), tuple(values))


def _dict(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ContentError(f"{where} is missing or no JSON object")
    return value
