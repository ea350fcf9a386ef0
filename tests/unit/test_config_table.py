"""Tables of a TOML document: arrays, lines of faults, quantities."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from p2p.config.table import Problems, Table

TEXT = """\
[[site]]
name = "a"
wan = { rate = 1 }

[site.lan]
rate = 2
[[site.stop]]
at = 1
[[site.stop]]
at = 2

[[site]]
name = "b"
[site.lan]
rate = 3
[[site.stop]]
at = 4
"1.2-x" = 5
[alone]
x = 1
"""


def read(text: str) -> tuple[Table, Problems]:
    problems = Problems(text)
    return Table(tomllib.loads(text), (), problems, Path()), problems


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("site", 1), ("site[0]", 1), ("site[0].name", 2), ("site[0].wan", 3), ("site[0].lan.rate", 6),
        ("site[0].stop[0].at", 8), ("site[0].stop[1].at", 10), ("site[1]", 12), ("site[1].lan.rate", 15),
        ("site[1].stop", 16), ("site[1].stop[0].at", 17), ("site[1].stop[0].1.2-x", 18), ("alone.x", 20),
        ("site[0].wan.rate", 3), ("site[1].gone", 12), ("site[1].lan.gone.deeper", 14), ("site[7].name", 1),
    ],
)  # fmt: skip
def test_a_fault_has_the_line_of_its_key_or_of_what_is_around_it(path: str, line: int) -> None:
    problems = Problems(TEXT)
    problems.add((path,), "is wrong")
    assert problems.lines() == [f"line {line}: {path} is wrong"]


def test_what_is_nowhere_has_no_line() -> None:
    problems = Problems(TEXT)
    problems.add(("gone", "too"), "is missing")
    assert problems.lines() == ["gone.too is missing"]


def test_tables_of_an_array() -> None:
    root, problems = read(TEXT)
    sites = root.tables("site")
    assert [s.name("name") for s in sites] == ["a", "b"]
    assert [stop.integer("at", 0, 9, default=0) for s in sites for stop in s.tables("stop")] == [1, 2, 4]
    assert [t.integer("x", 0, 9, default=0) for t in root.tables("alone")] == [1]
    assert root.tables("none") == []
    sites[1].tables("stop")[0].finish()
    root.finish()
    assert problems.lines() == [
        "line 17: site[1].stop[0].at is unknown (allowed: )",
        "line 18: site[1].stop[0].1.2-x is unknown (allowed: )",
    ]


def test_what_is_no_array_of_tables_is_told() -> None:
    root, problems = read("site = 3\n[[a]]\nb = [1]\n")
    assert root.tables("site") == []
    assert root.tables("a")[0].tables("b") == []
    assert root.tables("needed", required=True) == []
    assert problems.lines() == [
        "needed is missing: at least one table [[needed]] is needed",
        "line 1: site must be tables: [[site]]",
        "line 3: a[0].b must be tables: [[a.b]]",
    ]


def test_a_quantity_is_parsed_defaulted_or_told() -> None:
    root, problems = read("x = 4\ny = 'no'\n")

    def even(value: object) -> float | None:
        return float(value) if isinstance(value, int) and value % 2 == 0 else None

    assert root.quantity("x", "even", even) == 4
    assert root.quantity("z", "even", even, default=6) == 6
    assert root.quantity("y", "even", even, stand_in=8) == 8
    assert root.quantity("w", "even", even) == 1
    root.finish()
    assert problems.lines() == ["w is missing: even", "line 2: y must be even, not 'no'"]


def test_values_and_keys_as_they_are_written() -> None:
    root, problems = read("b = 1\na = { c = 2 }\n")
    assert root.keys() == ["b", "a"]
    assert root.value("b") == 1
    assert root.value("none") is None
    assert root.table("a").value("c") == 2
    root.finish()
    assert problems.lines() == []
