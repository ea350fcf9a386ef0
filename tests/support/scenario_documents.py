"""Small scenario documents for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.errors import ConfigError
from sim.scenario.model import Scenario
from sim.scenario.reading import Versions, parse_scenario

SMALL = """\
duration = "8 h"
starts = "22:00"

[[release]]
name = "2.0"
size = "64 MiB"
full = "40 MiB"
[[release.delta]]
base = "1.9"
stored = "6 MiB"

[[class]]
name = "box"
bases = { "1.9" = "60 %", none = 0.4 }

[[site]]
name = "depot"
count = 2
devices = 8
classes = "box"

[[site]]
name = "van"
devices = 1
classes = "box"
"""
LINES = len(SMALL.splitlines())


def read(text: str, versions: Versions | None = None, directory: Path = Path("/here")) -> Scenario:
    return parse_scenario(text.encode(), source="test.toml", directory=directory, versions=versions)


def faults(text: str, versions: Versions | None = None) -> list[str]:
    """The lines of what is wrong."""
    with pytest.raises(ConfigError) as caught:
        read(text, versions)
    assert caught.value.exit_code == 2
    head, *lines = caught.value.message.splitlines()
    assert head == f"test.toml: {len(lines)} fault{'s' if len(lines) > 1 else ''}"
    return [line.strip() for line in lines]
