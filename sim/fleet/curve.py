"""How much a link carries by when: a rate that changes in steps, summed up and inverted.

All sites of a group share one curve (same windows, outages and timetable), which is what makes a
hundred thousand sites cheap. Times are seconds since the start, work is bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2p.swarm.allowance import DailyWindow
from p2p.swarm.courtesy import SHARE_MIN
from sim.scenario.model import Outage, Stop, Traffic, Wan
from sim.world.uplink import MATHIS
from sim.world.wire import SEGMENT

Floats: TypeAlias = NDArray[np.float64]

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Curve:
    """`rates[i]` bytes per second in `[times[i], times[i + 1])`, the last one for ever; `times[0]` is 0."""

    times: Floats
    rates: Floats
    sums: Floats
    """Bytes carried by `times[i]`."""

    @classmethod
    def of_steps(cls, times: Iterable[float], rates: Iterable[float]) -> Curve:
        """A curve of rising `times` (the first is 0) and their rates."""
        at, rate = np.asarray(list(times), float), np.asarray(list(rates), float)
        sums = np.concatenate(([0.0], np.cumsum(rate[:-1] * np.diff(at))))
        return cls(at, rate, sums)

    @property
    def idle(self) -> bool:
        """Whether it never carries anything."""
        return not bool(np.any(self.rates > 0))

    @property
    def rate_max(self) -> float:
        """The highest of its rates."""
        return float(self.rates.max())

    def work(self, times: Floats) -> Floats:
        """Bytes carried by each of `times` (which may be infinite if the last rate is 0)."""
        i = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, None)
        gone = np.where(self.rates[i] > 0, np.maximum(times - self.times[i], 0.0), 0.0)
        return np.asarray(self.sums[i] + np.where(gone > 0, gone, 0.0) * self.rates[i])

    def when(self, work: Floats) -> Floats:
        """The first time by which each of `work` is carried; infinite if never."""
        i = np.clip(np.searchsorted(self.sums, work, side="left") - 1, 0, None)
        rate = self.rates[i]
        with np.errstate(divide="ignore", invalid="ignore"):
            late = np.where(rate > 0, self.times[i] + (work - self.sums[i]) / rate, np.inf)
        return np.asarray(np.where(work <= 0, 0.0, late))

    def finish(self, start: Floats, work: Floats) -> Floats:
        """When `work` bytes begun at `start` are carried."""
        return np.asarray(np.maximum(start, self.when(self.work(start) + work)))

    def open_at(self, times: Floats) -> NDArray[np.bool_]:
        """Whether it carries anything at each of `times`."""
        i = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, None)
        return np.asarray(self.rates[i] > 0)

    def scaled(self, factor: float) -> Curve:
        """The same with every rate times `factor`."""
        return Curve(self.times, self.rates * factor, self.sums * factor)


def of_wan(
    wan: Wan | None,
    *,
    starts_of_day: float,
    horizon_s: float,
    stops: Iterable[Stop] = (),
    every_s: float = 0.0,
    windows: tuple[DailyWindow, ...] | None = None,
    transfers: int = 1,
) -> Curve:
    """The curve of a site's WAN within the horizon, vehicles' stops with links of their own included.

    `windows`, if given, take the place of the WAN's own. `transfers`: how many are under way at once, which
    counts where packets are lost. After the horizon nothing is carried.
    """
    links: list[tuple[float, float, Wan]] = [] if wan is None else [(0.0, horizon_s, wan)]
    for start, stop, there in visits(stops, every_s, horizon_s):
        if there.wan is not None:
            links.append((start, stop, there.wan))
    edges = {0.0, horizon_s}
    open_spans: list[tuple[float, float, float]] = []
    for start, stop, link in links:
        rate = min(reached_rate(link, transfers), link.budget or math.inf)
        used = link.windows if windows is None else windows
        for a, b in _clip(_window_spans(used, starts_of_day, horizon_s), start, stop):
            for c, d in _without(a, b, link.outages, horizon_s):
                free = _without(c, d, link.traffic, horizon_s)
                beside = rate * (SHARE_MIN if link.gives_way else 0.5)
                open_spans += [(c, d, beside), *((x, y, rate) for x, y in free)]
                edges |= {c, d, *(edge for span in free for edge in span)}
    times = np.asarray(sorted(edges))
    rates = np.zeros(len(times))
    for c, d, rate in open_spans:
        i, j = np.searchsorted(times, [c, d])
        rates[i:j] = np.maximum(rates[i:j], rate)
    return Curve.of_steps(times, rates)


def reached_rate(wan: Wan, transfers: int) -> float:
    """What so many TCP transfers at once get of a link: all of it, unless packets are lost."""
    rate = wan.rate * (1.0 - wan.loss)
    if not wan.loss:
        return rate
    each = MATHIS * SEGMENT / (max(2 * wan.delay_s, 1e-3) * math.sqrt(wan.loss))
    return min(rate, max(1, transfers) * each)


def visits(stops: Iterable[Stop], every_s: float, horizon_s: float) -> list[tuple[float, float, Stop]]:
    """All stops of a timetable within the horizon, repeated as it says, as (from, until, stop)."""
    found = []
    for stop in stops:
        at = stop.at_s
        while at < horizon_s:
            found.append((at, min(at + stop.length_s, horizon_s), stop))
            if every_s <= 0:
                break
            at += every_s
    return sorted(found, key=lambda v: v[:2])


def _window_spans(
    windows: tuple[DailyWindow, ...], starts_of_day: float, horizon_s: float
) -> list[tuple[float, float]]:
    if not windows:
        return [(0.0, horizon_s)]
    spans = []
    for window in windows:
        length = (window.stop_s - window.start_s) % DAY_S or DAY_S
        at = (window.start_s - starts_of_day) % DAY_S - DAY_S
        while at < horizon_s:
            if at + length > 0:
                spans.append((max(0.0, at), min(horizon_s, at + length)))
            at += DAY_S
    return spans


def _clip(spans: list[tuple[float, float]], start: float, stop: float) -> list[tuple[float, float]]:
    return [(max(a, start), min(b, stop)) for a, b in spans if max(a, start) < min(b, stop)]


def _without(
    start: float, stop: float, busy: Iterable[Outage | Traffic], horizon_s: float
) -> list[tuple[float, float]]:
    spans = [(start, stop)]
    for outage in busy:
        at = outage.at_s
        while at < min(stop, horizon_s):
            end = at + outage.length_s
            spans = [
                (a, b)
                for x, y in spans
                for a, b in ((x, min(y, at)), (max(x, end), y))
                if a < b
            ]  # fmt: skip
            if outage.every_s <= 0:
                break
            at += outage.every_s
    return spans
