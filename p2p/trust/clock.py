"""Trusted time: what expiry is judged against on devices whose clock may be at 1970 or 2099.

TUF metadata says when it ends, not when it was made, so Slipstream's timestamp role carries one
more signed field, `issued` (same format as `expires`). Not for measuring durations.
"""

from __future__ import annotations

from datetime import UTC, datetime

PLAUSIBLE_AHEAD_S = 20 * 365.25 * 86_400
"""A clock further than this past everything that was signed is taken for a broken one."""

ISSUED = "issued"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def trusted_time(system: float, *, build_time: float = 0.0, signed_time: float = 0.0) -> float:
    """The time to judge expiry by: POSIX seconds.

    `system`: the device's wall clock. `build_time`: when the running image was built. `signed_time`:
    when the last trusted timestamp was issued. It is never before the last two, and it is the
    system's as soon as that is plausible: not before them, nor more than `PLAUSIBLE_AHEAD_S` after.
    A clock that is ignored gives whoever can set it no more than a clock that is set back does.
    With neither known, the system's is all there is.
    """
    floor = max(build_time, signed_time)
    if floor <= 0 or floor <= system <= floor + PLAUSIBLE_AHEAD_S:
        return system
    return floor


def parse_time(text: object) -> float:
    """POSIX seconds of a TUF date-time (`2030-01-02T03:04:05Z`); raises `ValueError`."""
    if not isinstance(text, str):
        raise ValueError("not a date-time")
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC).timestamp()


def format_time(seconds: float) -> str:
    """A TUF date-time, to the second, of POSIX `seconds`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime(TIME_FORMAT)
