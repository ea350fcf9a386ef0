"""Amounts as text: units change where they should, and nothing is rounded to what it is not."""

from __future__ import annotations

import pytest

from sim.report.units import (
    money_text,
    rate_text,
    ratio_text,
    share_text,
    size_text,
    size_unit,
    time_text,
    time_unit,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_420_000, "1.42 MB"), (14_200_000, "14.2 MB"),
        (142_000_000_000, "142 GB"), (5e15, "5.00 PB"), (5e18, "5000 PB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits_and_decimal_prefixes(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"), (0.0171, "0.02 s"), (9.94, "9.9 s"),
        (59.4, "59.4 s"), (59.96, "1 min 00 s"), (754, "12 min 34 s"),
        (3599.7, "1 h 00 min"), (18_180, "5 h 03 min"), (353_000, "4 d 2 h"), (-5, "-5 s"),
    ],
)  # fmt: skip
def test_times_read_as_people_say_them(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100 %"), (0, "0 %"), (0.5, "50 %"), (0.9949, "99.5 %"), (0.99999, "> 99.9 %"), (1e-6, "< 0.1 %")],
)
def test_a_share_is_all_or_nothing_only_if_it_is(share: float, text: str) -> None:
    assert share_text(share) == text


def test_money_ratios_and_rates() -> None:
    texts = ["0", "< 0.0001", "0.0042", "12.30", "5,222,773"]
    assert [money_text(m) for m in (0, 0.00003, 0.0042, 12.3, 5_222_773)] == texts
    assert [ratio_text(r) for r in (1.0049, 12.34, 12_345)] == ["1.005", "12.3", "12,345"]
    assert rate_text(74_500_000) == "74.5 MB/s"


@pytest.mark.parametrize(
    ("longest", "name"), [(0, "s"), (179, "s"), (181, "min"), (10_801, "h"), (4 * 86_400, "days")]
)
def test_an_axis_of_time_has_the_unit_of_its_length(longest: float, name: str) -> None:
    assert time_unit(longest).name == name


def test_an_axis_of_bytes_has_the_unit_of_its_largest() -> None:
    assert (size_unit(999).name, size_unit(1000).name, size_unit(2.5e9).size) == ("B", "kB", 1e9)
