"""Plans to compare: when an order opens, and within which windows, quotas and capacity devices may fetch.

A plan is written as `NAME: key=value; …`, such as

    night: window=22:00-06:00; quota=500MB
    careful: phases=1%@0h,10%@24h,100%@72h; origin=100Mbit/s

What a plan does not name stays as the scenario has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.errors import OperatorError
from p2p.swarm.allowance import DailyWindow
from sim.scenario.model import Phase, Scenario

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")
_PHASE = re.compile(r"([0-9.]+)\s*%\s*@\s*([0-9.]+)\s*(s|min|m|h|d)")
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")
_AMOUNT = re.compile(r"([0-9.]+)\s*(kB|MB|GB|TB)")
_RATE = re.compile(r"([0-9.]+)\s*(k|M|G)bit/s")
_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_BITS = {"k": 1e3, "M": 1e6, "G": 1e9}
EXAMPLE = "night: phases=10%@0h,100%@24h; window=22:00-06:00; origin=100Mbit/s; quota=500MB"
OWN = "as written"
"""The name of the scenario's own plan."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`windows` None: those of the links. `origin` bytes per second, 0: no limit. `quota`: WAN bytes of a
    site in each 30 days, 0: no limit."""

    name: str
    phases: tuple[Phase, ...]
    origin: float
    windows: tuple[DailyWindow, ...] | None = None
    quota: float = 0.0

    def describe(self) -> str:
        """The plan in words."""
        phases = ", ".join(f"{100 * p.share:.3g} % from {_hours(p.opens_s)}" for p in self.phases)
        parts = [f"open to {phases}"]
        if self.windows is not None:
            spans = (f"{_clock(w.start_s)}-{_clock(w.stop_s)}" for w in self.windows)
            parts.append("windows " + (", ".join(spans) or "none: the WAN may be used at any time"))
        if self.origin:
            parts.append(f"origin {self.origin * 8 / 1e6:.4g} Mbit/s")
        if self.quota:
            parts.append(f"quota {self.quota / 1e6:.4g} MB per site and 30 days")
        return "; ".join(parts)


def own_plan(scenario: Scenario) -> Plan:
    """What the scenario itself says."""
    return Plan(OWN, scenario.orders[-1].phases, scenario.origin.capacity)


def read_plans(texts: Iterable[str], scenario: Scenario) -> tuple[Plan, ...]:
    """The scenario's own plan and those written in `texts`; raises `OperatorError` naming what is wrong."""
    plans = [own_plan(scenario)]
    for text in texts:
        plan = read_plan(text, plans[0])
        if plan.name in {p.name for p in plans}:
            raise OperatorError(
                f"two plans are called {plan.name!r}", next_step="give each a name of its own"
            )
        plans.append(plan)
    return tuple(plans)


def read_plan(text: str, own: Plan) -> Plan:
    """One plan; raises `OperatorError`."""
    name, colon, rest = text.partition(":")
    if not colon or not _NAME.fullmatch(name.strip()):
        raise _wrong(text, "it begins with a name and a colon")
    phases, origin, windows, quota = own.phases, own.origin, own.windows, own.quota
    seen: set[str] = set()
    for part in filter(None, (p.strip() for p in rest.split(";"))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals or key in seen:
            raise _wrong(
                text, f"{part!r} is not one `key=value`" if not equals else f"{key} stands there twice"
            )
        seen.add(key)
        match key:
            case "phases":
                phases = _phases(text, value)
            case "origin":
                origin = 0.0 if value == "none" else _scaled(text, value, _RATE, _BITS, "100Mbit/s") / 8
            case "window":
                windows = tuple(_window(text, w.strip()) for w in value.split(",")) if value != "none" else ()
            case "quota":
                quota = 0.0 if value == "none" else _scaled(text, value, _AMOUNT, _BYTES, "500MB")
            case _:
                raise _wrong(text, f"{key!r} is none of phases, origin, window, quota")
    return Plan(name.strip(), phases, origin, windows, quota)


def _phases(text: str, value: str) -> tuple[Phase, ...]:
    found = []
    for part in value.split(","):
        match = _PHASE.fullmatch(part.strip())
        if match is None:
            raise _wrong(text, f"{part.strip()!r} is not a phase such as 10%@24h")
        found.append(Phase(float(match[1]) / 100, float(match[2]) * _SECONDS[match[3]]))
    shares, times = [p.share for p in found], [p.opens_s for p in found]
    if shares != sorted(shares) or times != sorted(times) or not 0 < shares[0] <= shares[-1] <= 1:
        raise _wrong(text, "phases rise in share and in time, and end at 100 % or less")
    return tuple(found)


def _window(text: str, value: str) -> DailyWindow:
    match = _WINDOW.fullmatch(value)
    if match is None:
        raise _wrong(text, f"{value!r} is not a window such as 22:00-06:00")
    start, stop = (int(match[n]) * 3600 + int(match[n + 1]) * 60 for n in (1, 3))
    if max(start, stop) > 86_400 or start == stop:
        raise _wrong(text, f"{value!r} is no span of a day")
    return DailyWindow(float(start), float(stop % 86_400))


def _scaled(text: str, value: str, pattern: re.Pattern[str], units: dict[str, float], example: str) -> float:
    match = pattern.fullmatch(value)
    if match is None or float(match[1]) <= 0:
        raise _wrong(text, f"{value!r} is not an amount such as {example}")
    return float(match[1]) * units[match[2]]


def _wrong(text: str, why: str) -> OperatorError:
    return OperatorError(
        f"plan {text!r}: {why}",
        next_step=f"write it as {EXAMPLE!r}",
    )


def _hours(seconds: float) -> str:
    return "the start" if seconds == 0 else f"{seconds / 3600:.4g} h"


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600):02}:{int(seconds % 3600 // 60):02}"
