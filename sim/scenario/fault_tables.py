"""The tables `[[fault]]` of a scenario: which keys each kind takes, and what they may be."""

from __future__ import annotations

from p2p.config.table import Table
from sim.scenario import quantities as q
from sim.scenario.model import Fault, FaultKind, Manner, Who
from sim.scenario.sections import choice, duration, moment, size

COUNT_MAX = 100_000

_DEVICES = ("who", "count")
_AGAIN = ("every", "until")
KEYS: dict[FaultKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    FaultKind.CRASH: (("length",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.RESTART: (("length",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.LEAVE: ((), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.LATE: (("at",), _DEVICES),
    FaultKind.PARTITION: (("length",), ("at", *_AGAIN)),
    FaultKind.ORIGIN_DOWN: (("length",), ("at", *_AGAIN)),
    FaultKind.WAN_DOWN: (("length",), ("at", *_AGAIN)),
    FaultKind.WAN_SLOW: (("length", "factor"), ("at", *_AGAIN)),
    FaultKind.CUT: ((), ("at", *_AGAIN)),
    FaultKind.BIT_ROT_BASE: (("size",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.BIT_ROT_SLOT: (("size",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.DISK_FULL: (("length",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.DISK_SLOW: (("length", "factor"), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.CLOCK: (("jump",), ("at", *_DEVICES, *_AGAIN)),
    FaultKind.HOSTILE: (("manner",), _DEVICES),
    FaultKind.REVOKED: ((), ("at", "manner", *_DEVICES)),
}
"""For each kind: the keys that it needs, and those that it may have besides `kind` and `where`."""

_ALL_KEYS = ("at", "length", "who", "count", "factor", "size", "jump", "manner", "every", "until")


def read_fault(table: Table, starts_of_day: float) -> Fault | None:
    """One `[[fault]]`; None for one whose kind is not known."""
    kind = choice(table, "kind", FaultKind)
    table.value("where")
    if kind is None:
        for key in _ALL_KEYS:
            table.value(key)  # what they may be depends on the kind
        return None
    needed, further = KEYS[kind]
    for key in _ALL_KEYS:
        if table.has(key) and key not in (*needed, *further):
            table.value(key)
            table.fault(key, f"is of no use to {kind} (it takes {', '.join((*needed, *further, 'where'))})")
    where = table.optional("where", lambda key: table.text(key, what="a site group, or one site: NAME/0"))

    def takes(key: str) -> bool:
        """Whether to read it: it is needed, or it is there and of use."""
        return key in needed or (key in further and table.has(key))

    who = choice(table, "who", Who, Who.ANY) if takes("who") else Who.ANY
    return Fault(
        kind=kind,
        at_s=moment(table, "at", starts_of_day) if takes("at") else 0.0,
        length_s=duration(table, "length", above_0=True) if takes("length") else 0.0,
        where=where,
        who=who or Who.ANY,
        count=table.integer("count", 1, COUNT_MAX, default=1) if takes("count") else 1,
        factor=_factor(table) if takes("factor") else 1.0,
        size=_size(table, kind) if takes("size") or takes("jump") else 0,
        manner=choice(table, "manner", Manner) if takes("manner") else None,
        every_s=_every(table) if takes("every") else 0.0,
        until_s=moment(table, "until", starts_of_day) if takes("until") else 0.0,
    )


def _factor(table: Table) -> float:
    what = "a share of the rate that is left, above 0 and below 1, such as '10 %'"
    return table.quantity(
        "factor", what, lambda value: s if (s := q.share(value)) is not None and 0 < s < 1 else None
    )


def _size(table: Table, kind: FaultKind) -> int:
    if kind is FaultKind.CLOCK:
        return int(table.quantity("jump", q.SIGNED_WHAT, q.signed_duration))
    return size(table, "size", low=1)


def _every(table: Table) -> float:
    if not table.has("until"):
        table.fault("every", "needs until: when it happens for the last time")
    return duration(table, "every", above_0=True)
