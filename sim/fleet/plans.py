"""Plans to compare: when an order opens, and within which windows, quotas and capacity devices may fetch.

A plan is written as `NAME: key=value; …`, such as

    night: window=22:00-06:00; quota=500MB
    careful: phases=1%@0h,10%@24h,100%@72h; origin=100Mbit/s

What a plan does not name stays as the scenario has it. Quantities are as in scenarios
(`sim.scenario.quantities`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from p2p.errors import OperatorError
from p2p.swarm.allowance import DailyWindow
from sim.scenario import quantities as q
from sim.scenario.model import Phase, Scenario

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")
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
        phases = ", ".join(f"{100 * p.share:.6g} % from {_since(p.opens_s)}" for p in self.phases)
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
        plan = read_plan(text, plans[0], scenario.starts_of_day)
        if plan.name in {p.name for p in plans}:
            raise OperatorError(
                f"two plans are called {plan.name!r}", next_step="give each a name of its own"
            )
        plans.append(plan)
    return tuple(plans)


def read_plan(text: str, own: Plan, starts_of_day: float = 0.0) -> Plan:
    """One plan; raises `OperatorError`. `starts_of_day`: time of day of the scenario's start."""
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
                phases = _phases(text, value, starts_of_day)
            case "origin":
                origin = 0.0 if value == "none" else _amount(text, value, q.rate, "100Mbit/s")
            case "window":
                windows = tuple(_window(text, w.strip()) for w in value.split(",")) if value != "none" else ()
            case "quota":
                quota = 0.0 if value == "none" else _amount(text, value, q.size, "500MB")
            case _:
                raise _wrong(text, f"{key!r} is none of phases, origin, window, quota")
    return Plan(name.strip(), phases, origin, windows, quota)


def _phases(text: str, value: str, starts_of_day: float) -> tuple[Phase, ...]:
    found = []
    for part in value.split(","):
        share, at, opens = part.partition("@")
        share_of, opens_s = q.share(share.strip()), q.moment(opens.strip(), starts_of_day)
        if not at or share_of is None or opens_s is None:
            raise _wrong(text, f"{part.strip()!r} is not a phase such as 10%@24h or 10%@22:30")
        found.append(Phase(share_of, opens_s))
    shares, times = [p.share for p in found], [p.opens_s for p in found]
    if shares != sorted(shares) or times != sorted(times) or not 0 < shares[0] <= shares[-1] <= 1:
        raise _wrong(text, "phases rise in share and in time, and end at 100 % or less")
    return tuple(found)


def _window(text: str, value: str) -> DailyWindow:
    window = q.window(value)
    if window is None:
        raise _wrong(text, f"{value!r} is not {q.WINDOW_WHAT}")
    return DailyWindow(*window)


def _amount(text: str, value: str, read: Callable[[object], float | None], example: str) -> float:
    found = read(value)
    if not found:
        raise _wrong(text, f"{value!r} is not an amount such as {example}")
    return found


def _wrong(text: str, why: str) -> OperatorError:
    return OperatorError(
        f"plan {text!r}: {why}",
        next_step=f"write it as {EXAMPLE!r}",
    )


def _since(seconds: float) -> str:
    """A time since the start, as exact as it was written."""
    parts, left = [], seconds
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        whole, left = divmod(left, size)
        if whole:
            parts.append(f"{whole:.0f} {unit}")
    if left:
        parts.append(f"{left:.6g} s")
    return " ".join(parts) or "the start"


def _clock(seconds: float) -> str:
    minutes, left = divmod(seconds, 60)
    return f"{int(minutes // 60):02}:{int(minutes % 60):02}" + (f":{left:02.0f}" if left else "")
