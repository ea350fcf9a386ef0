"""Amounts as text for people, and one unit per axis. Decimal prefixes: links and bills are counted so."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60.0
HOUR = 3600.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Unit:
    """An axis shows `value / size`, followed by `name`."""

    name: str
    size: float


_BYTES = tuple(Unit(name, 1000.0**n) for n, name in enumerate(("B", "kB", "MB", "GB", "TB", "PB")))
_TIMES = (Unit("s", 1.0), Unit("min", MINUTE), Unit("h", HOUR), Unit("days", DAY))
_TIME_FROM = (0.0, 3 * MINUTE, 3 * HOUR, 4 * DAY)


def size_unit(largest: float) -> Unit:
    """For an axis of bytes up to `largest`."""
    return next((u for u in reversed(_BYTES) if largest >= u.size), _BYTES[0])


def rate_unit(largest: float) -> Unit:
    """For an axis of bytes per second up to `largest`."""
    unit = size_unit(largest)
    return Unit(f"{unit.name}/s", unit.size)


def time_unit(longest: float) -> Unit:
    """For an axis of seconds up to `longest`: s, min, h or days."""
    return next(
        u for u, start in zip(reversed(_TIMES), reversed(_TIME_FROM), strict=True) if longest >= start
    )


def size_text(size: float) -> str:
    """Bytes: `1.42 MB`."""
    unit = size_unit(abs(size))
    return f"{_three(size / unit.size)} {unit.name}" if unit.size > 1 else f"{size:.0f} B"


def rate_text(rate: float) -> str:
    """Bytes per second: `1.42 MB/s`."""
    return f"{size_text(rate)}/s"


def time_text(seconds: float) -> str:
    """Seconds: `0.02 s`, `0.8 s`, `42 s`, `42.5 s`, `12 min 30 s`, `5 h 03 min`, `4 d 2 h`."""
    if seconds < 0:
        return f"-{time_text(-seconds)}"
    if 0 < seconds < 0.095:
        return f"{seconds:.1g} s"
    if seconds < 59.95:
        return f"{f'{seconds:.1f}'.removesuffix('.0')} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24} h"


def share_text(share: float) -> str:
    """Between 0 and 1: `50 %`, `99.5 %`; never rounded up to all or down to nothing."""
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f} %"
    text = f"{percent:.1f}"
    if text in ("100.0", "0.0"):
        return "> 99.9 %" if percent > 50 else "< 0.1 %"
    return f"{text.removesuffix('.0')} %"


def ratio_text(ratio: float) -> str:
    """A quotient near 1: three decimals up to 10, then fewer."""
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 1000 else f"{ratio:,.0f}"


def money_text(money: float) -> str:
    """Money, in the currency of the scenario's prices: `< 0.0001`, `0.004`, `12.30`, `1,200`."""
    if money == 0:
        return "0"
    if abs(money) < 0.0001:
        return "< 0.0001"
    if abs(money) < 0.1:
        return f"{money:.2g}"
    return f"{money:,.2f}" if abs(money) < 1000 else f"{money:,.0f}"


def count_text(count: int, noun: str) -> str:
    """`1 device`, `1,000 devices`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _three(value: float) -> str:
    """Three significant digits, none lost before the point."""
    for limit, digits in ((9.995, 2), (99.95, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"
