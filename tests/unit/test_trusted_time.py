"""Trusted time: clocks at 1970, right, ahead, and absurdly ahead."""

from __future__ import annotations

import pytest

from p2p.trust import format_time, parse_time, trusted_time

BUILT = parse_time("2030-01-01T00:00:00Z")
SIGNED = parse_time("2031-01-01T00:00:00Z")
YEAR = 365.25 * 86_400


@pytest.mark.parametrize(
    ("system", "build_time", "signed_time", "expected"),
    [
        (0.0, BUILT, 0.0, BUILT),
        (0.0, BUILT, SIGNED, SIGNED),
        (0.0, SIGNED, BUILT, SIGNED),
        (SIGNED + 5, BUILT, SIGNED, SIGNED + 5),
        (SIGNED - 5, BUILT, SIGNED, SIGNED),
        (SIGNED + 19 * YEAR, BUILT, SIGNED, SIGNED + 19 * YEAR),
        (parse_time("2099-01-01T00:00:00Z"), BUILT, SIGNED, SIGNED),
        (float("inf"), BUILT, 0.0, BUILT),
        (float("nan"), BUILT, 0.0, BUILT),
        (12.0, 0.0, 0.0, 12.0),
    ],
)
def test_trusted_time(system: float, build_time: float, signed_time: float, expected: float) -> None:
    assert trusted_time(system, build_time=build_time, signed_time=signed_time) == expected


def test_the_text_form_is_that_of_expiry() -> None:
    assert format_time(BUILT + 0.9) == "2030-01-01T00:00:00Z"
    assert parse_time(format_time(SIGNED)) == SIGNED


@pytest.mark.parametrize(
    "text", [None, 5, "", "2030-01-01", "2030-01-01T00:00:00+00:00", "2030-13-01T00:00:00Z"]
)
def test_other_texts_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"date-time|does not match|unconverted"):
        parse_time(text)
