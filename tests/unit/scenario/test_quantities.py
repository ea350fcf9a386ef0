"""Quantities as people write them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time

import pytest

from sim.scenario import quantities as q

Parse = Callable[[object], object]


@pytest.mark.parametrize(
    ("parse", "written", "meant"),
    [
        (q.rate, "16 Mbit/s", 2e6),
        (q.rate, "200kbit/s", 25_000.0),
        (q.rate, "1.5 MB/s", 1.5e6),
        (q.rate, "2 MiB/s", 2 * 1048576.0),
        (q.rate, "1 Tbit/s", 125e9),
        (q.rate, 1000, 1000.0),
        (q.rate, 0.5, 0.5),
        (q.size, "64 MiB", 64 * 1048576.0),
        (q.size, "1.5 kB", 1500.0),
        (q.size, "0.3 B", 0.0),
        (q.size, 0, 0.0),
        (q.duration, "10 min", 600.0),
        (q.duration, "1 h 30 min", 5400.0),
        (q.duration, "1h30min", 5400.0),
        (q.duration, "250 ms", 0.25),
        (q.duration, "2 d", 172_800.0),
        (q.duration, 1.5, 1.5),
        (q.duration, 0, 0.0),
        (q.signed_duration, "-2 h", -7200.0),
        (q.signed_duration, -3, -3.0),
        (q.signed_duration, "2 h", 7200.0),
        (q.share, "5 %", 0.05),
        (q.share, "100%", 1.0),
        (q.share, 0, 0.0),
        (q.time_of_day, "22:30", 81_000.0),
        (q.time_of_day, "6:05", 21_900.0),
        (q.time_of_day, "23:59:59", 86_399.0),
        (q.time_of_day, time(22, 30), 81_000.0),
        (q.time_of_day, 60, 60.0),
        (q.window, "22:00-05:00", (79_200.0, 18_000.0)),
        (q.window, "22:00 – 05:00", (79_200.0, 18_000.0)),
        (q.window, [0, 3600], (0.0, 3600.0)),
        (q.money, 0.00008, 0.00008),
    ],
)
def test_a_quantity_is_understood(parse: Parse, written: object, meant: object) -> None:
    assert parse(written) == meant


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        (q.rate, 0),
        (q.rate, "0 Mbit/s"),
        (q.rate, -5),
        (q.rate, "1.1 Tbit/s"),
        (q.rate, "16 Mbit"),
        (q.rate, "16 Mbit/min"),
        (q.rate, "16"),
        (q.rate, True),
        (q.rate, float("inf")),
        (q.rate, float("nan")),
        (q.rate, None),
        (q.size, 1.5),
        (q.size, -1),
        (q.size, "64 Mi"),
        (q.size, "-1 MB"),
        (q.size, "2000 TiB"),
        (q.duration, "-1 s"),
        (q.duration, -1),
        (q.duration, "10"),
        (q.duration, "10 m"),
        (q.duration, "min"),
        (q.duration, "11 000 d"),
        (q.duration, False),
        (q.signed_duration, "--2 h"),
        (q.signed_duration, float("-inf")),
        (q.share, "101 %"),
        (q.share, 1.01),
        (q.share, -0.1),
        (q.share, "five"),
        (q.time_of_day, "24:00"),
        (q.time_of_day, "12:60"),
        (q.time_of_day, "noon"),
        (q.time_of_day, 86_400),
        (q.window, "22:00"),
        (q.window, "22:00-22:00"),
        (q.window, ["22:00"]),
        (q.window, 5),
        (q.money, -1),
        (q.money, "1 euro"),
    ],
)
def test_what_is_no_such_quantity_is_not_guessed(parse: Parse, written: object) -> None:
    assert parse(written) is None


def test_a_moment_is_a_time_after_the_start_or_the_next_such_time_of_day() -> None:
    ten_in_the_evening = 79_200.0
    assert q.moment("5 min", ten_in_the_evening) == 300
    assert q.moment("22:30", ten_in_the_evening) == 1800
    assert q.moment("21:00", ten_in_the_evening) == 23 * 3600
    assert q.moment(time(0, 0), ten_in_the_evening) == 7200
    assert q.moment("25:00", ten_in_the_evening) is None
