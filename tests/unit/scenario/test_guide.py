"""docs/sim.md describes the format as it is: its example is valid, and every key is in it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from p2p.errors import ConfigError
from sim.scenario import library
from sim.scenario.fault_tables import KEYS
from sim.scenario.model import Manner, RepositoryRelease, Who
from tests.support.scenario_documents import read

GUIDE = (Path(__file__).parents[3] / "docs" / "sim.md").read_text()
EXAMPLE = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.S)[0]


def test_the_example_is_valid() -> None:
    scenario = read(EXAMPLE)
    assert scenario.sites[1].timetable
    assert scenario.orders[0].phases[1].opens_s == 3 * 3600
    assert scenario.expect.finished_by_s == 7 * 3600


def test_what_is_commented_out_in_the_example_is_valid_too() -> None:
    def versions(directory: Path, product: str) -> Collection[str]:
        return {"1.9", "2.0"}

    head, _, rest = EXAMPLE.partition("[[release]]")
    real, _, tail = rest.partition("# [[release]]")[2].partition("[[class]]")
    document = head + "[[release]]" + real.replace("\n# ", "\n") + "[[class]]" + tail
    assert isinstance(read(document, versions).releases[0], RepositoryRelease)


TABLES = [
    "", "[[release]]", "[[release]]\n[[release.delta]]", "[[release]]\nrepository = 'x'", "[[class]]",
    "[[class]]\n[class.uptime]", "[[class]]\n[class.storage]", "[[site]]", "[[site]]\n[site.lan]",
    "[[site]]\n[site.wan]", "[[site]]\n[[site.wan.outage]]", "[[site]]\n[[site.wan.traffic]]",
    "[[site]]\n[[site.stop]]", "[[order]]", "[[order]]\n[[order.phase]]", "[origin]", "[polling]", "[cost]",
    "[expect]",
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.rpartition("\n")[2] or "top")
def test_every_key_is_in_the_example(table: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"{table}\n_ = 1\n")
    allowed = re.findall(
        r"\._ is unknown \(allowed: (.*)\)|: _ is unknown \(allowed: (.*)\)", caught.value.message
    )
    keys = next(a or b for a, b in allowed).split(", ")
    for key in keys:
        assert re.search(rf"\b{key} = |\[{key}\]|\.{key}\]", EXAMPLE) or key in ("name", "fault"), key


def test_every_fault_and_manner_is_described() -> None:
    section = GUIDE.partition("### Faults")[2].partition("### Timetables")[0]
    for kind, (needed, _) in KEYS.items():
        row = next(line for line in section.splitlines() if f"`{kind}`" in line and line.startswith("|"))
        assert [key for key in needed if f"`{key}`" not in row] == [], kind
    for word in (*Manner, *Who):
        assert f"`{word}`" in section


def test_every_ready_scenario_is_named() -> None:
    section = GUIDE.partition("## Ready scenarios")[2]
    assert set(re.findall(r"`([a-z]+-[a-z0-9]+)`", section)) == set(library.names())
