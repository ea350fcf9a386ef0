"""What an agent at rest keeps in memory: nothing that it needs only in the course of an update."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "zoneinfo", "bsdiff4", "hdiffpatch", "backports.zstd"
"""Each half a MiB and more, resident for as long as the agent runs (`benchmarks.agent_weight`)."""

SCRIPT = """
import sys, p2p.cli.agent, p2p.agent.runtime, p2p.adapters.mdns
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", HEAVY)
def test_an_agent_at_rest_goes_without(loaded: set[str], module: str) -> None:
    assert module not in loaded


def test_what_it_consists_of_is_there(loaded: set[str]) -> None:
    assert {"p2p.agent.driver", "p2p.swarm.node", "trio", "ssl"} <= loaded
