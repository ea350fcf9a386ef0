"""Who of a site is there when a device starts while others already update.

Devices that have the image restart into it, and are away for that long. Who starts meanwhile, and finds
nobody, gets the signed files anew and waits for those to come back (`Policy.return_s` at most: then it
fetches for itself). Not for devices that run when the order comes: they are all there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.fleet.curve import Floats
from sim.fleet.draw import Devices, Flags
from sim.scenario.model import Polling
from sim.world.orders import EXPECTED_AGE_S

CLOSE = 1e-3
"""Devices that start within so many seconds start together."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Per device: whether it starts while all others of its site are away, and when it can first be served.

    `served_s` is when the first of those is back, or its own start where somebody is there.
    """

    alone: Flags
    served_s: Floats


def presence(devices: Devices, gone_s: Floats, back_s: Floats) -> Presence:
    """`gone_s` and `back_s`: when each device leaves for its restart, and is back; infinite if never."""
    first = devices.least(devices.start_s)[devices.site]
    start = devices.start_s - first
    later = start > CLOSE
    if not later.any():
        return Presence(later, devices.start_s)
    away_s = (back_s - gone_s)[np.isfinite(gone_s) & np.isfinite(back_s)]
    line = _Line(devices, float(start.max() + away_s.max(initial=0.0)) + 1.0)
    gone, back = line.laid(gone_s - first), line.laid(back_s - first)
    before = line.counted(start - CLOSE, line.laid(start))
    away = line.counted(start, gone) - line.counted(start, back)
    alone = later & (before > 0) & (before == away)
    return Presence(alone, np.where(alone, first + line.next(start, back), devices.start_s))


def expected(devices: Devices, polling: Polling, start_s: Floats, settle_s: float) -> Floats:
    """How likely it is that those who start at `start_s` wait for others that start later, per site.

    They do if the roster names one that was heard of in the last `EXPECTED_AGE_S`: before all began, devices
    asked every `polling.every_s`.
    """
    first = start_s[devices.site]
    absent = devices.wan & (devices.start_s > first + settle_s) & np.isfinite(first)
    if polling.at_rest or not absent.any():
        return np.zeros(devices.sites)
    lately = np.clip((EXPECTED_AGE_S - np.maximum(start_s, 0.0)) / polling.every_s, 0.0, 1.0)
    return np.asarray(1.0 - (1.0 - np.where(np.isfinite(start_s), lately, 0.0)) ** devices.total(absent))


class _Line:
    """Times of all sites on one line, each site on a stretch of its own, so that one search finds all."""

    def __init__(self, devices: Devices, span: float) -> None:
        self._devices = devices
        self._span = span
        self._base = devices.site * (span + 2.0)

    def laid(self, times: Floats) -> Floats:
        """Times of the devices, sorted; what is later than the span is at its end."""
        return np.sort(self._base + np.minimum(times, self._span))

    def counted(self, until: Floats, laid: Floats) -> Floats:
        """Per device: how many of its site's times are at most its `until`."""
        found = np.searchsorted(laid, self._base + until, side="right")
        return np.asarray(found - self._devices.offsets[:-1][self._devices.site], float)

    def next(self, after: Floats, laid: Floats) -> Floats:
        """Per device: the first of its site's times that is later than its `after`; infinite if none is."""
        found = np.searchsorted(laid, self._base + after, side="right")
        inside = found < self._devices.offsets[1:][self._devices.site]
        value = laid[np.minimum(found, len(laid) - 1)] - self._base
        return np.asarray(np.where(inside & (value < self._span), value, np.inf))
