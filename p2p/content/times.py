"""Date-times of signed documents: text, to the second, in UTC (as TUF's `expires`)."""

from __future__ import annotations

from datetime import UTC, datetime

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def parse_time(text: object) -> float:
    """POSIX seconds of a date-time (`2030-01-02T03:04:05Z`); raises `ValueError`."""
    if not isinstance(text, str):
        raise ValueError("not a date-time")
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC).timestamp()


def format_time(seconds: float) -> str:
    """The date-time, to the second, of POSIX `seconds`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime(TIME_FORMAT)
