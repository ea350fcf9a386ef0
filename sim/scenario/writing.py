"""A `Scenario` as TOML that `sim.scenario.reading` makes the same scenario of, in plain numbers.

For kept runs, for what a shrinker found and for `slipstream sim show`. Defaults are left out. Not for
keeping a person's comments and units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from p2p.swarm.cost import Weights
from p2p.swarm.policy import Policy
from sim.scenario.model import (
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    Order,
    Release,
    RepositoryRelease,
    Scenario,
    SiteGroup,
    SiteSize,
    SizeKind,
    Stop,
    Storage,
    SyntheticRelease,
    Uptime,
    Wan,
)

Value = object
"""What TOML can say: text, truth, number, list of such, mapping of such."""

_QUOTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_LAN = {"kind": "kind", "rate": "rate", "delay_s": "delay", "loss": "loss", "segments": "segments",
        "degree_max": "degree_max"}  # fmt: skip
_STORAGE = {"write_rate": "write", "read_rate": "read", "capacity": "capacity", "fsync_s": "fsync"}
_UPTIME = {"on_mean_s": "on", "off_mean_s": "off", "start_spread_s": "start_spread"}
_CLASS = {"patch_rate": "patch_rate", "recompute_rate": "recompute_rate", "has_wan": "has_wan",
          "metered": "metered", "wan_price_per_mb": "wan_price_per_mb",
          "clock_error_s": "clock_error", "healthy": "healthy", "reboot_s": "reboot",
          "carrier": "carrier", "cargo": "cargo"}  # fmt: skip
_POLICY = {f.name: f.name for f in dataclasses.fields(Policy) if f.name != "cost"}
_COST = {f.name: f.name for f in dataclasses.fields(Weights)}
_FAULT = {"kind": "kind", "where": "where", "at_s": "at", "length_s": "length",
          "who": "who", "count": "count", "factor": "factor", "manner": "manner",
          "every_s": "every", "until_s": "until"}  # fmt: skip


def scenario_text(scenario: Scenario) -> str:
    """The whole document."""
    head: dict[str, Value] = {"name": scenario.name}
    if scenario.description.strip():
        head["description"] = scenario.description
    head["duration"] = scenario.duration_s
    if scenario.starts_of_day:
        head["starts"] = scenario.starts_of_day
    lines = _pairs(head)
    for release in scenario.releases:
        lines += ["", "[[release]]", *_pairs(_release(release))]
    for device_class in scenario.classes:
        lines += ["", "[[class]]", *_pairs(_class(device_class))]
    for site in scenario.sites:
        lines += ["", "[[site]]", *_pairs(_site(site))]
    for order in scenario.orders:
        lines += ["", "[[order]]", *_pairs(_order(order))]
    for fault in scenario.faults:
        lines += ["", "[[fault]]", *_pairs(_fault(fault))]
    tables = {
        "origin": _changed(scenario.origin, {"capacity": "capacity", "price_per_mb": "price_per_mb"}),
        "polling": _changed(
            scenario.polling,
            {"every_s": "every", "jitter": "jitter", "at_rest": "at_rest", "lookout": "lookout"},
        ),
        "policy": _changed(scenario.policy, _POLICY),
        "cost": _changed(scenario.policy.cost, _COST),
        "expect": _changed(
            scenario.expect,
            {
                "amplification_max": "amplification",
                "finished_by_s": "finished_by",
                "finished_share": "finished",
            },
        ),
    }
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _release(release: Release) -> dict[str, Value]:
    if isinstance(release, RepositoryRelease):
        return {
            "name": release.name,
            "repository": str(release.repository),
            "product": release.product,
            "version": release.version,
            "bases": dict(release.bases),
        }
    found: dict[str, Value] = {"name": release.name, "size": release.size, "full": release.full_stored}
    if release.chunk != SyntheticRelease("", 0, 0).chunk:
        found["chunk"] = release.chunk
    if release.deltas:
        found["delta"] = [
            {
                "base": d.base,
                "stored": d.stored,
                "patched": d.patched_share,
                **({} if d.published else {"published": False}),
            }
            for d in release.deltas
        ]
    return found


def _class(device_class: DeviceClass) -> dict[str, Value]:
    found: dict[str, Value] = {"name": device_class.name, "bases": dict(device_class.bases)}
    found |= _changed(device_class, _CLASS, DeviceClass("", {}))
    uptime = _changed(device_class.uptime, _UPTIME, Uptime())
    storage = _changed(device_class.storage, _STORAGE, Storage())
    return found | ({"uptime": uptime} if uptime else {}) | ({"storage": storage} if storage else {})


def _site(site: SiteGroup) -> dict[str, Value]:
    found: dict[str, Value] = {
        "name": site.name,
        "count": site.count,
        "devices": _size(site.size),
        "classes": dict(site.classes),
    }
    lan = _changed(site.lan, _LAN, Lan())
    if lan:
        found["lan"] = lan
    if site.wan is not None:
        found["wan"] = _wan(site.wan)
    if site.timetable_every_s:
        found["timetable_every"] = site.timetable_every_s
    if site.timetable:
        found["stop"] = [_stop(stop) for stop in site.timetable]
    return found


def _size(size: SiteSize) -> Value:
    match size.kind:
        case SizeKind.FIXED:
            return size.low
        case SizeKind.UNIFORM:
            return {"low": size.low, "high": size.high}
        case SizeKind.LOGNORMAL:
            return {"median": size.median, "sigma": size.sigma, "low": size.low, "high": size.high}


def _wan(wan: Wan) -> dict[str, Value]:
    found: dict[str, Value] = {"rate": wan.rate}
    if wan.up_rate:
        found["up_rate"] = wan.up_rate
    names = {"delay_s": "delay", "loss": "loss", "price_per_mb": "price_per_mb",
             "budget": "budget", "month_max": "month_max",
             "queue_s": "queue", "gives_way": "gives_way"}  # fmt: skip
    found |= _changed(wan, names, Wan(1.0))
    if wan.windows:
        found["windows"] = [[w.start_s, w.stop_s] for w in wan.windows]
    if wan.outages:
        found["outage"] = [{"at": o.at_s, "length": o.length_s, "every": o.every_s} for o in wan.outages]
    if wan.traffic:
        found["traffic"] = [{"at": t.at_s, "length": t.length_s, "every": t.every_s} for t in wan.traffic]
    return found


def _stop(stop: Stop) -> dict[str, Value]:
    found: dict[str, Value] = {"at": stop.at_s, "length": stop.length_s}
    if stop.site is not None:
        found["site"] = stop.site
    if stop.wan is not None:
        found["wan"] = _wan(stop.wan)
    return found


def _order(order: Order) -> dict[str, Value]:
    return {
        "release": order.release,
        "phase": [{"share": phase.share, "opens": phase.opens_s} for phase in order.phases],
    }


def _fault(fault: Fault) -> dict[str, Value]:
    found = _changed(fault, _FAULT, Fault(FaultKind.CRASH))
    found = {"kind": str(fault.kind)} | found
    if fault.kind is FaultKind.LATE:
        found.setdefault("at", 0.0)
    if fault.kind is FaultKind.CLOCK:
        found["jump"] = fault.size
    elif fault.size:
        found["size"] = fault.size
    return found


def _changed(value: object, names: Mapping[str, str], standard: object = None) -> dict[str, Value]:
    """The fields of a dataclass that are not as by default, under the names of the format."""
    standard = type(value)() if standard is None else standard
    found: dict[str, Value] = {}
    for field, name in names.items():
        item = getattr(value, field)
        if item != getattr(standard, field):
            found[name] = str(item) if isinstance(item, str) else item
    return found


def _pairs(table: Mapping[str, Value]) -> list[str]:
    return [f"{_key(key)} = {_literal(value)}" for key, value in table.items()]


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return (
            '"'
            + "".join(_QUOTED.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in value)
            + '"'
        )
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_literal(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    assert isinstance(value, list)
    return "[" + ", ".join(_literal(item) for item in value) + "]"


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _literal(key)
