"""Trusted time: what expiry is judged against on devices whose clock may be at 1970 or 2099.

TUF metadata says when it ends, not when it was made, so Slipstream's timestamp role carries one
more signed field, `issued` (same format as `expires`). Not for measuring durations.
"""

from __future__ import annotations

from p2p.content.times import format_time, parse_time

__all__ = ["ISSUED", "PLAUSIBLE_AHEAD_S", "format_time", "parse_time", "trusted_time"]

PLAUSIBLE_AHEAD_S = 20 * 365.25 * 86_400
"""A clock further than this past everything that was signed is taken for a broken one."""

ISSUED = "issued"


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
