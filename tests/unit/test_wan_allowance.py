"""When the WAN is open: daily windows on the wall clock, and what a month may use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.swarm.allowance import Closed, DailyWindow, Usage, WanAllowance

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
HOUR = 3600
NIGHT = DailyWindow(22 * HOUR, 5 * HOUR)
LUNCH = DailyWindow(12 * HOUR, 13 * HOUR)

seconds = st.integers(0, 86_399)
windows = st.lists(
    st.builds(DailyWindow, seconds, seconds).filter(lambda w: w.start_s != w.stop_s), min_size=1, max_size=4
)


def at(hour: int, minute: int = 0) -> datetime:
    return NOON.replace(hour=hour, minute=minute)


@pytest.mark.parametrize(
    ("now", "closed", "until"),
    [
        (at(4, 59), None, at(5)),
        (at(5), Closed.WINDOW, at(12)),
        (at(12), None, at(13)),
        (at(13), Closed.WINDOW, at(22)),
        (at(22), None, at(5) + timedelta(days=1)),
        (at(23, 59), None, at(5) + timedelta(days=1)),
    ],
)
def test_windows(now: datetime, closed: Closed | None, until: datetime) -> None:
    assert WanAllowance([NIGHT, LUNCH], None, None).verdict(now) == (closed, until)


def test_without_windows_and_quota_it_is_always_open() -> None:
    assert WanAllowance([], None, None).verdict(NOON) == (None, None)


def test_windows_that_cover_the_day_never_close() -> None:
    day, night = DailyWindow(6 * HOUR, 20 * HOUR), DailyWindow(20 * HOUR, 6 * HOUR)
    assert WanAllowance([day, night], None, None).verdict(NOON) == (None, None)


@given(windows, st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.integers(0, 86_399))
def test_it_changes_when_it_says_and_not_before(
    found: list[DailyWindow], moment: datetime, later_s: int
) -> None:
    allowance, now = WanAllowance(found, None, None), moment.replace(tzinfo=UTC)
    closed, until = allowance.verdict(now)
    meanwhile = now + timedelta(seconds=later_s)
    if until is None:
        assert allowance.verdict(meanwhile).closed == closed
        return
    assert now < until <= now + timedelta(days=1)
    assert allowance.verdict(until).closed != closed
    if meanwhile < until:
        assert allowance.verdict(meanwhile).closed == closed


def test_windows_are_of_the_wall_clock_also_when_that_is_set() -> None:
    """In Berlin clocks went back at 3:00 on 25 October 2026."""
    berlin = ZoneInfo("Europe/Berlin")
    evening = datetime(2026, 10, 24, 23, 0, tzinfo=berlin)
    closed, until = WanAllowance([NIGHT], None, None).verdict(evening)
    assert closed is None
    assert until == datetime(2026, 10, 25, 5, 0, tzinfo=berlin)
    assert (until.astimezone(UTC) - evening.astimezone(UTC)) == timedelta(hours=7)


def test_a_quota_closes_until_the_month_ends() -> None:
    allowance = WanAllowance([], 1000, None)
    allowance.spend(999, NOON)
    assert allowance.verdict(NOON) == (None, None)
    allowance.spend(1, NOON)
    december = datetime(2026, 12, 1, tzinfo=UTC)
    assert allowance.verdict(NOON) == (Closed.QUOTA, december)
    assert allowance.verdict(december - timedelta(seconds=1)).closed is Closed.QUOTA
    assert allowance.verdict(december) == (None, None)
    assert allowance.usage(december) == ("2026-12", 0)


def test_the_year_ends_too() -> None:
    allowance = WanAllowance([], 1, Usage("2026-12", 1))
    assert allowance.verdict(NOON.replace(month=12)).until == datetime(2027, 1, 1, tzinfo=UTC)


def test_what_an_earlier_run_used_counts() -> None:
    assert WanAllowance([], 1000, Usage("2026-11", 1000)).verdict(NOON).closed is Closed.QUOTA
    assert WanAllowance([], 1000, Usage("2026-11", 999)).verdict(NOON).closed is None
    assert WanAllowance([], 1000, Usage("2026-10", 1000)).verdict(NOON).closed is None


def test_a_clock_that_was_ahead_neither_forgets_nor_locks_for_years() -> None:
    allowance = WanAllowance([], 1000, Usage("2099-01", 600))
    assert allowance.usage(NOON) == ("2026-11", 600)
    allowance.spend(400, NOON)
    assert allowance.verdict(NOON).closed is Closed.QUOTA
    assert allowance.verdict(NOON.replace(year=2027, month=1)).closed is None


def test_a_used_up_quota_closes_an_open_window() -> None:
    allowance = WanAllowance([LUNCH], 1000, Usage("2026-11", 1000))
    assert allowance.verdict(NOON).closed is Closed.QUOTA
