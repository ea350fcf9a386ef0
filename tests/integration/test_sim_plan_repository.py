"""`slipstream sim plan --repo`: from real images by the real commands to a bill, and what is in the way."""

from __future__ import annotations

import contextlib
import io
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coordinator.publishing.releases import list_releases
from coordinator.publishing.repository import Repository
from p2p.cli import run
from p2p.content.manifest import PackRef
from sim.fleet.model import on_the_wire
from sim.fleet.outcome import PlanOutcome, Way
from sim.fleet.packs import Pack
from sim.fleet.parameters import fitted
from tests.support.fleet_repository import Fleet

SITES = 20
FLEET = """
duration = "2 d"
[[class]]
name = "bus"
bases = { "BASE" = "100 %" }
[[site]]
name = "depot"
count = 20
devices = 6
classes = "bus"
[site.wan]
rate = "4 Mbit/s"
price_per_mb = 0.5
"""


class Done(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


def slipstream(directory: Path, *arguments: str) -> Done:
    """A command as it is typed in `directory`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(directory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


def made(directory: Path, *arguments: str) -> str:
    """What a command printed that did what it was asked."""
    done = slipstream(directory, *arguments)
    assert done.code == 0, (arguments, done)
    return done.stdout


def fleet_file(directory: Path, base: str) -> str:
    """A fleet whose devices all run `base`."""
    path = directory / f"fleet-{base}.toml"
    path.write_text(FLEET.replace("BASE", base))
    return path.name


def refused(directory: Path, *arguments: str) -> str:
    """What `sim plan` says when it does not plan; an operator's error, nothing printed but that."""
    done = slipstream(directory, "sim", "plan", *arguments)
    assert (done.code, done.stdout) == (2, "")
    return done.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the repository `fleet`: engine 1.0, and 1.1 with a delta pack, by the commands."""
    directory = tmp_path_factory.mktemp("published")
    rng = random.Random(5)
    image = bytearray(rng.randbytes(300_000))
    (directory / "old.img").write_bytes(image)
    for _ in range(5):
        start = rng.randrange(len(image) - 2000)
        image[start : start + 500] = rng.randbytes(500)
    (directory / "new.img").write_bytes(image)
    made(directory, "repo", "init", "fleet", "--insecure-plain-keys", "--product", "engine")
    common = ("--repo", "fleet", "--product", "engine", "--hardware", "board", "--workers", "1")
    made(directory, "release", "build", "old.img", *common, "--version", "1.0", "--out", "old.json")
    made(directory, "release", "publish", "old.json", "--repo", "fleet", "--sign")
    made(directory, "release", "build", "new.img", "--base", "old.img", *common, "--version", "1.1",
         "--out", "new.json")  # fmt: skip
    made(directory, "release", "sign", "new.json", "--repo", "fleet", "--yes")
    made(directory, "release", "publish", "new.json", "--repo", "fleet")
    made(directory, "order", "create", "--repo", "fleet", "--product", "engine", "--version", "1.1",
         "--all", "--out", "order.json")  # fmt: skip
    made(directory, "order", "publish", "order.json", "--repo", "fleet", "--sign")
    return directory


def plan(directory: Path, *arguments: str) -> tuple[PlanOutcome, dict[str, Any]]:
    document = json.loads(made(directory, "sim", "plan", "--repo", "fleet", *arguments, "--json"))
    return PlanOutcome.from_json(document), document


def wire(pack: PackRef) -> int:
    return on_the_wire(Pack(None, pack.index.size, pack.frames.size, 0))


def test_the_bill_is_that_of_the_published_packs(published: Path) -> None:
    repository = Repository.open(published / "fleet")
    (payload,) = list_releases(repository, repository.state(), "engine")[-1].payloads
    delta = next(pack for pack in payload.packs if pack.base is not None)
    assert wire(delta) < wire(payload.full_pack) / 10
    for base, pack in (("1.0", delta), ("none", payload.full_pack)):
        outcome, document = plan(published, "--fleet", fleet_file(published, base))
        assert (outcome.release, outcome.image_bytes) == ("1.1", 300_000)
        ours, alone = outcome.of(Way.SLIPSTREAM), outcome.of(Way.DELTA)
        assert ours.floor_bytes == SITES * (wire(pack) + fitted().metadata)
        assert ours.wan_down > SITES * wire(pack)
        assert alone.wan_down > SITES * 6 * wire(pack)
        assert ours.finished == 6 * SITES
        assert document["estimates"][-1]["asking"]["day_bytes"] > 0
        assert outcome.notes == ()


def test_a_plan_of_a_release_says_what_is_missing(published: Path) -> None:
    old, new = fleet_file(published, "1.0"), fleet_file(published, "1.1")
    assert "no product boat" in refused(published, "--repo", "fleet", "--fleet", old, "--product", "boat")
    unknown = refused(published, "--repo", "fleet", "--fleet", old, "--release", "9.9")
    assert "9.9 is not published" in unknown and "1.0, 1.1" in unknown
    same = refused(published, "--repo", "fleet", "--fleet", new)
    assert "the fleet runs 1.1, which is the release to be planned" in same
    other = refused(published, "retail-chain", "--repo", "fleet")
    assert "the fleet runs 2025.4, 2026.1" in other and "(1.0, 1.1)" in other


def test_what_is_built_is_not_planned_before_it_is_signed_and_published(tmp_path: Path) -> None:
    fleet = fleet_file(tmp_path, "none")
    made(tmp_path, "repo", "init", "fleet", "--insecure-plain-keys")
    nothing = refused(tmp_path, "--repo", "fleet", "--fleet", fleet)
    assert "no products" in nothing and "slipstream repo product add NAME --repo fleet" in nothing
    made(tmp_path, "repo", "product", "add", "engine", "--repo", "fleet")
    (tmp_path / "new.img").write_bytes(bytes(range(256)) * 100)
    made(tmp_path, "release", "build", "new.img", "--repo", "fleet", "--product", "engine", "--version",
         "1.0", "--hardware", "board", "--workers", "1", "--out", "new.json")  # fmt: skip
    unsigned = refused(tmp_path, "--repo", "fleet", "--fleet", fleet)
    assert "no release of engine is published" in unsigned and "slipstream release publish" in unsigned
    assert slipstream(tmp_path, "release", "publish", "new.json", "--repo", "fleet").code != 0
    assert "no release of engine" in refused(tmp_path, "--repo", "fleet", "--fleet", fleet)
    made(tmp_path, "release", "publish", "new.json", "--repo", "fleet", "--sign")
    assert plan(tmp_path, "--fleet", fleet)[0].release == "1.0"


def test_metadata_that_expired_is_told_and_metadata_that_does_not_verify_is_refused(tmp_path: Path) -> None:
    old = Fleet.make(tmp_path, now=datetime(2020, 1, 1, tzinfo=UTC))
    old.release("1.0")
    path = old.directory
    fleet = fleet_file(path.parent, "none")
    outcome = json.loads(made(path.parent, "sim", "plan", "--repo", path.name, "--fleet", fleet, "--json"))
    told = [note for note in outcome["notes"] if note.startswith("metadata timestamp")]
    assert len(told) == 1
    assert f"slipstream repo refresh {path.name}" in told[0]
    timestamp = path / "metadata" / "timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"2020', b'"2050'))
    done = slipstream(path.parent, "sim", "plan", "--repo", path.name, "--fleet", fleet)
    assert done.code != 0
    assert "does not verify" in done.stderr and "restore metadata/" in done.stderr
