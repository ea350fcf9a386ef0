"""The tables `[[class]]` and `[[site]]` of a scenario: devices, where they stand, and their links."""

from __future__ import annotations

import math

from p2p.config.table import Table
from p2p.swarm.allowance import DailyWindow
from sim.scenario import quantities as q
from sim.scenario.model import (
    DeviceClass,
    Lan,
    LanKind,
    Outage,
    SiteGroup,
    SiteSize,
    SizeKind,
    Stop,
    Storage,
    Traffic,
    Uptime,
    Wan,
)
from sim.scenario.sections import choice, duration, each, loss, moment, rate, share, shares, size

SITES_MAX = 10_000_000
DEVICES_MAX = 100_000

_LAN = Lan()
_WAN = Wan(1.0)
_STORAGE = Storage()
_CLASS = DeviceClass("", {})


def read_class(table: Table) -> DeviceClass:
    """One `[[class]]`."""
    uptime = table.table("uptime")
    storage = table.table("storage")
    found = DeviceClass(
        name=table.name("name"),
        bases=shares(table, "bases", "a table of base names to shares, such as { none = 1.0 }"),
        uptime=Uptime(
            on_mean_s=duration(uptime, "on", 0.0),
            off_mean_s=duration(uptime, "off", 0.0),
            start_spread_s=duration(uptime, "start_spread", 0.0),
        ),
        storage=Storage(
            write_rate=rate(storage, "write", _STORAGE.write_rate),
            read_rate=rate(storage, "read", _STORAGE.read_rate),
            capacity=size(storage, "capacity", 0),
            fsync_s=duration(storage, "fsync", _STORAGE.fsync_s),
        ),
        patch_rate=rate(table, "patch_rate", _CLASS.patch_rate),
        recompute_rate=rate(table, "recompute_rate", 0.0),
        has_wan=share(table, "has_wan", 1.0),
        wan_price_per_mb=table.quantity("wan_price_per_mb", q.MONEY_WHAT, q.money, default=0.0),
        metered=table.boolean("metered", default=False),
        clock_error_s=duration(table, "clock_error", 0.0),
        healthy=share(table, "healthy", 1.0),
        reboot_s=duration(table, "reboot", _CLASS.reboot_s),
        carrier=table.boolean("carrier", default=False),
        cargo=size(table, "cargo", 0),
    )
    if found.cargo and not found.carrier:
        table.fault("cargo", "is of no use without carrier = true")
    if (found.uptime.on_mean_s > 0) != (found.uptime.off_mean_s > 0):
        given, other = ("on", "off") if found.uptime.on_mean_s > 0 else ("off", "on")
        uptime.fault(given, f"needs {other} beside it: a device is on for some time and off for some time")
    uptime.finish()
    storage.finish()
    return found


def read_site(table: Table, starts_of_day: float) -> SiteGroup:
    """One `[[site]]`: sites alike."""
    lan = table.table("lan")
    found = SiteGroup(
        name=table.name("name"),
        count=table.integer("count", 1, SITES_MAX, default=1),
        size=_site_size(table),
        classes=shares(table, "classes", "a table of device classes to shares, or one class"),
        lan=_read_lan(lan),
        wan=_wan(table),
        timetable=each(table, "stop", lambda stop: _read_stop(stop, starts_of_day)),
        timetable_every_s=duration(table, "timetable_every", 0.0),
    )
    lan.finish()
    return found


def _site_size(table: Table) -> SiteSize:
    what = f"a number of devices (1..{DEVICES_MAX}), or a table: low and high, or median, sigma, low and high"
    value = table.value("devices")
    if not isinstance(value, dict):
        if type(value) is not int or not 1 <= value <= DEVICES_MAX:
            problem = "is missing: " if value is None else "must be "
            table.fault("devices", problem + what + ("" if value is None else f", not {value!r}"))
            value = 1
        return SiteSize(SizeKind.FIXED, value, value)
    inside = table.table("devices")
    low = inside.integer("low", 1, DEVICES_MAX, default=1)
    high = inside.integer("high", 1, DEVICES_MAX, default=DEVICES_MAX)
    if low > high:
        inside.fault("high", f"must be {low} or more: low is {low}")
    if inside.has("median") or inside.has("sigma"):
        number = "a number above 0"
        median = inside.quantity("median", number, _above_0)
        sigma = inside.quantity("sigma", f"{number}, such as 0.5", _above_0, default=0.5)
        found = SiteSize(SizeKind.LOGNORMAL, low, high, median, sigma)
    else:
        if not inside.has("high"):
            inside.fault("high", "is missing: the most devices that a site has")
        found = SiteSize(SizeKind.UNIFORM, low, high)
    inside.finish()
    return found


def _above_0(value: object) -> float | None:
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    return float(value) if 0 < value <= DEVICES_MAX and math.isfinite(value) else None


def _read_lan(table: Table) -> Lan:
    kind = choice(table, "kind", LanKind, _LAN.kind)
    assert kind is not None
    return Lan(
        kind=kind,
        rate=rate(table, "rate", _LAN.rate),
        delay_s=duration(table, "delay", _LAN.delay_s),
        loss=loss(table, "loss"),
        segments=table.integer("segments", 1, 1000, default=_LAN.segments),
        degree_max=table.integer("degree_max", 2, 10_000, default=_LAN.degree_max),
    )


def _wan(table: Table) -> Wan | None:
    if table.value("wan") is None:
        return None
    inside = table.table("wan")
    return _read_wan(inside) if isinstance(table.value("wan"), dict) else None


def _read_wan(table: Table) -> Wan:
    found = Wan(
        rate=rate(table, "rate"),
        up_rate=rate(table, "up_rate", 0.0),
        delay_s=duration(table, "delay", _WAN.delay_s),
        loss=loss(table, "loss"),
        price_per_mb=table.quantity("price_per_mb", q.MONEY_WHAT, q.money, default=0.0),
        windows=_windows(table),
        outages=each(table, "outage", _read_outage),
        budget=rate(table, "budget", 0.0),
        month_max=size(table, "month_max", 0),
        queue_s=duration(table, "queue", _WAN.queue_s),
        traffic=each(table, "traffic", _read_traffic),
        gives_way=table.boolean("gives_way", default=False),
    )
    table.finish()
    return found


def _windows(table: Table) -> tuple[DailyWindow, ...]:
    value = table.value("windows")
    if value is None:
        return ()
    if not isinstance(value, list):
        table.fault("windows", f"must be a list, each {q.WINDOW_WHAT}; not {value!r}")
        return ()
    found = []
    for item in value:
        window = q.window(item)
        if window is None:
            table.fault("windows", f"must each be {q.WINDOW_WHAT}; {item!r} is not")
        else:
            found.append(DailyWindow(*window))
    return tuple(found)


def _read_outage(table: Table) -> Outage:
    found = Outage(
        at_s=duration(table, "at"),
        length_s=duration(table, "length", above_0=True),
        every_s=duration(table, "every", 0.0),
    )
    if 0 < found.every_s <= found.length_s:
        table.fault("every", "must be longer than length: the link would never carry anything again")
    return found


def _read_traffic(table: Table) -> Traffic:
    found = Traffic(
        at_s=duration(table, "at", 0.0),
        length_s=duration(table, "length", above_0=True),
        every_s=duration(table, "every", 0.0),
    )
    if 0 < found.every_s < found.length_s:
        table.fault("every", "must not be shorter than length: it would begin again before it has ended")
    return found


def _read_stop(table: Table, starts_of_day: float) -> Stop:
    found = Stop(
        at_s=moment(table, "at", starts_of_day),
        length_s=duration(table, "length", above_0=True),
        site=table.optional("site", lambda key: table.text(key, what="the name of a site group, or NAME/0")),
        wan=_wan(table),
    )
    if not table.has("site") and not table.has("wan"):
        table.fault(
            "site", "is missing: a stop needs a site, a wan table or both, else nothing happens there"
        )
    return found
