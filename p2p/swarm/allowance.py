"""When a device may fetch frames over its WAN: at home, in daily windows, up to a quota of bytes a month.

Pure; the local time comes in with every call. What is counted is all that crosses the device's WAN, polls
and metadata included, but only frames and indexes wait: a device that asks nothing hears of nothing.
Not for rates (`p2p.agent.budget`), nor for how a site's quota is shared among its devices (`site_quota`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from p2p.swarm.site_quota import SiteQuota

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """From `start_s` until before `stop_s`, seconds since local midnight; over midnight if it is later."""

    start_s: float
    stop_s: float

    def holds(self, second: float) -> bool:
        """Whether a second of the day is within."""
        if self.start_s <= self.stop_s:
            return self.start_s <= second < self.stop_s
        return second >= self.start_s or second < self.stop_s


class Closed(StrEnum):
    """Why the WAN is closed for frames."""

    WINDOW = "window"
    QUOTA = "quota"
    SITE_QUOTA = "site-quota"
    ROAMING = "roaming"


class Verdict(NamedTuple):
    """`closed` None: open. `until`: when that may change by itself; None: never."""

    closed: Closed | None
    until: datetime | None


class Usage(NamedTuple):
    """Bytes in a calendar month, such as `2026-11`."""

    month: str
    size: int

    @property
    def number(self) -> int:
        """The month as a number, such as 202611."""
        return int(self.month.replace("-", ""))


class WanAllowance:
    """What one device may use. `windows` empty: at any time; `month_max` None: any number of bytes; `site`:
    of which the month's quota of its site leaves it a share."""

    def __init__(
        self,
        windows: Sequence[DailyWindow],
        month_max: int | None,
        usage: Usage | None,
        site: SiteQuota | None = None,
    ) -> None:
        self.month_max = month_max
        self.site = site
        self.roaming = False
        """Whether it is in another's network, where it is not to be used."""
        self._windows = tuple(windows)
        self._usage = usage

    def usage(self, now: datetime) -> Usage:
        """What was used in the month of `now`."""
        return self.spend(0, now)

    def spend(self, size: int, now: datetime) -> Usage:
        """So many bytes crossed the WAN. A new month begins at nothing.

        Where the clock has gone back to an earlier month, it was wrong before: what was counted stays, as it
        was paid for, and belongs to the month that it is.
        """
        month = f"{now.year:04}-{now.month:02}"
        before = self._usage or Usage(month, 0)
        self._usage = Usage(month, size if month > before.month else before.size + size)
        return self._usage

    def verdict(self, now: datetime) -> Verdict:
        """Whether frames may be fetched now."""
        if self.roaming:
            return Verdict(Closed.ROAMING, None)
        if self.month_max is not None and self.usage(now).size >= self.month_max:
            return Verdict(Closed.QUOTA, _next_month(now))
        if self.site is not None and self.usage(now).size >= self.site.share:
            return Verdict(Closed.SITE_QUOTA, _next_month(now))
        if not self._windows:
            return Verdict(None, None)
        second = 3600 * now.hour + 60 * now.minute + now.second
        is_open = self._within(second)
        borders = sorted({s for w in self._windows for s in (w.start_s, w.stop_s)})
        later = [*(s for s in borders if s > second), *(s + DAY_S for s in borders)]
        change = next((s for s in later if self._within(s % DAY_S) is not is_open), None)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        until = None if change is None else midnight + timedelta(seconds=change)  # on the wall clock
        return Verdict(None if is_open else Closed.WINDOW, until)

    def _within(self, second: float) -> bool:
        return any(window.holds(second) for window in self._windows)


def _next_month(now: datetime) -> datetime:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first.replace(year=now.year + now.month // 12, month=now.month % 12 + 1)
