"""Quantities as people write them: `16 Mbit/s`, `64 MiB`, `10 min`, `22:30`, `5 %`, or a plain number.

Each parser takes a TOML value and returns bytes, bytes per second, seconds or a share; None for what is
none of these or outside of what can be. Plain numbers are in those units. `..._WHAT` says what is allowed.
"""

from __future__ import annotations

import math
import re
from datetime import time

__all__ = [
    "duration",
    "moment",
    "money",
    "rate",
    "share",
    "signed_duration",
    "size",
    "time_of_day",
    "window",
]  # fmt: skip

RATE_MAX = 1e12 / 8
DURATION_MAX = 10 * 366 * 86_400.0
SIZE_MAX = 1 << 50
MONEY_MAX = 1e9

RATE_WHAT = "above 0 and at most 1 Tbit/s: bytes per second, or text such as '16 Mbit/s', '250 kB/s'"
SIZE_WHAT = "a size: bytes, or text such as '64 MiB', '1.5 GB'"
DURATION_WHAT = "a time of 0 or more: seconds, or text such as '90 s', '10 min', '8 h', '1 h 30 min', '2 d'"
SIGNED_WHAT = "a time, which may be negative: seconds, or text such as '-2 h'"
SHARE_WHAT = "a share: 0..1, or text such as '5 %'"
CLOCK_WHAT = "a time of day such as '22:30'"
WINDOW_WHAT = "a daily window of two different times such as '22:00-05:00'"
MONEY_WHAT = "a price of 0 or more per MB (10^6 bytes)"

_NUMBER = r"(\d+(?:\.\d+)?)"
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def rate(value: object) -> float | None:
    """Bytes per second, above 0 and at most 1 Tbit/s."""
    found = _plain(value)
    if isinstance(value, str):
        amount, slash, per = value.strip().partition("/")
        if not slash or per.strip() != "s":
            return None
        bits = _with_unit(amount, _BITS)
        found = bits / 8 if bits is not None else _with_unit(amount, _SIZES)
    return found if found is not None and 0 < found <= RATE_MAX else None


def size(value: object) -> float | None:
    """Whole bytes, 0 or more."""
    found = _plain(value) if type(value) is int else None
    if isinstance(value, str):
        found = _with_unit(value, _SIZES)
        found = None if found is None else float(round(found))
    return found if found is not None and 0 <= found <= SIZE_MAX else None


def duration(value: object) -> float | None:
    """Seconds, 0 or more, at most ten years."""
    found = _plain(value)
    if isinstance(value, str):
        found = _seconds(value)
    return found if found is not None and 0 <= found <= DURATION_MAX else None


def signed_duration(value: object) -> float | None:
    """Seconds, either way."""
    if isinstance(value, str) and value.strip().startswith("-"):
        found = duration(value.strip()[1:].lstrip())
        return None if found is None else -found
    found = _plain(value) if not isinstance(value, str) else duration(value)
    return found if found is not None and abs(found) <= DURATION_MAX else None


def moment(value: object, starts_of_day: float) -> float | None:
    """Seconds since the start: a duration, or a time of day: the first such after the start."""
    if (isinstance(value, str) and ":" in value) or isinstance(value, time):
        clock = time_of_day(value)
        return None if clock is None else (clock - starts_of_day) % 86_400
    return duration(value)


def share(value: object) -> float | None:
    """Between 0 and 1."""
    found = _plain(value)
    if isinstance(value, str):
        match = re.fullmatch(_NUMBER + r"\s*%", value.strip())
        found = float(match[1]) / 100 if match else None
    return found if found is not None and 0 <= found <= 1 else None


def time_of_day(value: object) -> float | None:
    """Seconds since midnight, of `22:30`, `22:30:15` (as text or TOML's own local time) or of a number."""
    if isinstance(value, time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    if not isinstance(value, str):
        found = _plain(value)
        return found if found is not None and 0 <= found < 86_400 else None
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", value.strip())
    return float(int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)) if match else None


def window(value: object) -> tuple[float, float] | None:
    """Start and stop of day of `22:00-05:00`, or of two numbers."""
    parts: list[object]
    if isinstance(value, str):
        parts = list(re.split(r"\s*[-–]\s*", value.strip()))
    elif isinstance(value, list):
        parts = value
    else:
        return None
    found = [time_of_day(part) for part in parts]
    if len(found) != 2 or found[0] is None or found[1] is None or found[0] == found[1]:
        return None
    return found[0], found[1]


def money(value: object) -> float | None:
    """A price; the currency is the reader's own."""
    found = _plain(value)
    return found if found is not None and 0 <= found <= MONEY_MAX else None


def _plain(value: object) -> float | None:
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    return float(value) if math.isfinite(value) else None


def _with_unit(text: str, units: dict[str, int]) -> float | None:
    match = re.fullmatch(_NUMBER + r"\s*([A-Za-z]+)", text.strip())
    unit = units.get(match[2].lower()) if match else None
    return float(match[1]) * unit if match and unit else None


def _seconds(text: str) -> float | None:
    part = _NUMBER + r"\s*(ms|s|min|h|d|w)"
    if not re.fullmatch(rf"{part}(\s*{part})*", text.strip()):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(part, text))
