"""`docs/faults.md` names tests that exist."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/faults.md").read_text())


def functions_by_file() -> dict[str, set[str]]:
    """Names of test functions, by the name of their file."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[path.name].add(node.name)
    return found


THERE = functions_by_file()


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_a_named_test_exists(file: str, test: str) -> None:
    assert test in THERE.get(file, ()), f"docs/faults.md names {file}::{test}, which is not there"


def test_every_part_of_the_page_names_tests() -> None:
    parts = (ROOT / "docs/faults.md").read_text().split("\n## ")[1:]
    assert parts
    for part in parts:
        rows = [line for line in part.splitlines() if line.startswith("| ")][1:]
        assert rows
        assert all("::" in row for row in rows)
