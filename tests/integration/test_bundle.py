"""Updates by stick: a real repository exported, inspected and imported, and what agents make of it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click import BadParameter
from click.testing import CliRunner

from coordinator.publishing.keys import Passphrases
from coordinator.publishing.setup import init_repository
from p2p.adapters.bundle_files import BundleReader, PartialObject
from p2p.adapters.directory_origin import RepositoryOrigin
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.files import SystemFile
from p2p.adapters.installer import Installer
from p2p.agent.imported import ImportedBundle
from p2p.bundles import importing, inspection, judging
from p2p.bundles.export import Gathering
from p2p.bundles.importing import Imported, import_bundle
from p2p.cli.bundle import bundle as bundle_command
from p2p.cli.bundle import progress_bar
from p2p.content.bundle import BundleObject, Kind, encode_table
from p2p.content.digests import sha256
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import ObjectRef
from p2p.content.order import Audience, Member, StaleException
from p2p.errors import (
    ContentError,
    LocalError,
    OperatorError,
    OriginError,
    SlipstreamError,
    StoreError,
    TrustError,
)
from p2p.install import State
from p2p.trust import Question, ReleaseFloors, TrustClient, release_for, run_async
from tests.support.fleet import (
    DIGESTS,
    HARDWARE,
    IMAGES,
    PRODUCT,
    Device,
    FleetRig,
    flip_file,
    until,
)
from tests.support.hostile_origin import Answer, HostileOrigin, Request

pytestmark = pytest.mark.usefixtures("quick")


def command(*arguments: object) -> dict[str, Any]:
    """Run `slipstream bundle ARGUMENTS --json` in a thread; gives its facts, raises its error."""
    line = [*map(str, arguments), "--json"]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(CliRunner().invoke, bundle_command, line, standalone_mode=False).result()
    if done.exception is not None:
        raise done.exception
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts | {"exit_code": done.return_value or 0}


async def run(*arguments: object) -> dict[str, Any]:
    """As `command`, beside agents of this loop."""
    return await trio.to_thread.run_sync(command, *arguments)


def refused(*arguments: object) -> SlipstreamError:
    with pytest.raises(SlipstreamError) as caught:
        command(*arguments)
    return caught.value


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return tmp_path / "stick"


def exported(fleet: FleetRig, stick: Path, *arguments: object) -> dict[str, Any]:
    return command("export", "--from", fleet.repository.directory, "--out", stick, *arguments)


@pytest.fixture
def loaded(fleet: FleetRig, stick: Path) -> Path:
    """A stick with all of release 2.0, which is ordered."""
    fleet.order("2.0")
    exported(fleet, stick)
    return stick


def fresh_news(fleet: FleetRig, tmp_path: Path) -> Path:
    """A stick with nothing but a timestamp that is newer than those before."""
    fleet.repository.refresh(fleet.repository.state())
    exported(fleet, tmp_path / "news", "--metadata-only")
    return tmp_path / "news"


def isolated(fleet: FleetRig, name: str, *peers: Device, **named: Any) -> Device:
    """A device that never sees a WAN."""
    return fleet.device(name, wan=False, peers=peers, **named)


@pytest.fixture
def alone(fleet: FleetRig) -> Device:
    """The one device of a site without a WAN."""
    return isolated(fleet, "d1")


def test_an_export_holds_what_its_audience_needs_and_inspect_says_so(fleet: FleetRig, stick: Path) -> None:
    fleet.order("2.0")
    done = exported(fleet, stick)
    assert done["releases"] == [{"product": "engine", "version": "2.0", "order": "1-2.0"}]
    assert [name.rpartition("/")[2] for name in done["packs"]] == [DIGESTS["1.0"].hex(), "full"]
    root = fleet.repository.directory / "root.json"
    facts = command("inspect", stick, "--root", root)
    assert facts["exit_code"] == 0
    assert facts["damaged"] == []
    assert facts["signatures"] == {"valid": True, "reason": None, "message": None}
    (release,) = facts["releases"]
    assert release["version"] == "2.0"
    assert {p["base"]: p["here"] for p in release["payloads"][0]["packs"]} == {
        None: True,
        DIGESTS["1.0"].hex(): True,
    }
    assert done["size"] == sum(p.stat().st_size for p in stick.rglob("*") if p.is_file())


async def test_one_stick_in_one_device_updates_a_site_without_wan(fleet: FleetRig, loaded: Path) -> None:
    first = isolated(fleet, "d1")
    same = isolated(fleet, "d2", first)
    other = isolated(fleet, "d3", first, holds="3.0")
    done = command("import", loaded, "--config", first.config_file)
    assert (done["release"], done["stale"], done["installed"], done["agent"]) == ("2.0", None, False, None)
    assert len(done["packs"]) == 1, "the smallest that this device can use"
    async with first.running() as one, same.running() as two, other.running() as three:
        for run_ in (one, two, three):
            await run_.committed("2.0")
        assert one.ledger.imported > 0
        assert one.ledger.imported <= fleet.pack("2.0", "1.0").frames.size
        assert one.ledger.wan == two.ledger.wan == three.ledger.wan == 0
        assert two.ledger.peers.get("d1", 0) > 0
        assert one.ledger.of_images == len(IMAGES["2.0"])
    for device in (first, same, other):
        assert device.running_version() == "2.0"
    table = BundleReader.open(str(first.config.imported_dir)).table
    assert list(table.of(Kind.FRAMES)) == [], "what was of use goes"


def test_what_the_table_of_a_stick_names_often_is_looked_at_once(
    loaded: Path, fleet: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever can write to a stick lets a device, or whoever looks at it, work on it for days."""
    table = BundleReader.open(str(loaded)).table
    frames = [o for o in table.objects if o.kind is Kind.FRAMES]
    often = [dataclasses.replace(o, name=f"{o.name}-{n}") for o in frames for n in range(50)]
    products = (*table.products * 50, *(f"other-{n}" for n in range(50)))
    changed = dataclasses.replace(table, objects=(*table.objects, *often), products=products)
    (loaded / "bundle.json").write_bytes(encode_table(changed))
    surveys: list[str] = []
    for module in (judging, inspection):

        def counted(client: TrustClient, product: str, real: Any = module.survey) -> Any:
            surveys.append(product)
            return real(client, product)

        monkeypatch.setattr(module, "survey", counted)
    read: list[BundleObject] = []
    parts = BundleReader.parts

    def counted_parts(reader: BundleReader, found: BundleObject, *arguments: Any, **named: Any) -> Any:
        read.append(found)
        return parts(reader, found, *arguments, **named)

    monkeypatch.setattr(BundleReader, "parts", counted_parts)
    facts = command("inspect", loaded, "--root", fleet.repository.directory / "root.json")
    assert (facts["damaged"], facts["signatures"]["valid"]) == ([], True)
    assert sum(o.kind is Kind.FRAMES for o in read) == len({o.ref.sha256 for o in frames})
    command("import", loaded, "--config", isolated(fleet, "d1").config_file)
    assert surveys == [PRODUCT, PRODUCT]


@pytest.mark.parametrize("source", ["repository", "coordinator", "bundle"])
def test_whatever_it_is_exported_from_the_bundle_is_the_same(
    fleet: FleetRig, loaded: Path, tmp_path: Path, source: str
) -> None:
    again = tmp_path / "again"
    root = fleet.repository.directory / "root.json"
    if source == "coordinator":
        with fleet.coordinator() as url:
            command("export", "--from", url, "--root", root, "--out", again)
    elif source == "bundle":
        command("export", "--from", loaded, "--out", again)
    else:
        exported(fleet, again, "--root", root)
    one, other = (BundleReader.open(str(place)).table for place in (loaded, again))
    assert one.objects == other.objects
    assert command("inspect", again, "--root", root)["exit_code"] == 0


async def test_a_fetch_of_frames_that_breaks_off_is_gone_on_with(fleet: FleetRig, stick: Path) -> None:
    fleet.order("2.0")
    frames = fleet.pack("2.0", None).frames
    path = f"objects/{frames.sha256.hex()}"
    broken = True

    def fault(request: Request, answer: Answer) -> Answer:
        if request.is_for(frames.sha256) and broken:
            answer.send_max = 3 * frames.size // 4
        return answer

    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        origin.fault = fault
        line = ("export", "--from", origin.url, "--out", stick)
        with pytest.raises(OriginError) as caught:
            await run(*line)
        assert "verified" in caught.value.kept
        assert refused("inspect", stick).message.endswith("whose export was not finished")
        first, broken = origin.sent[path], False
        done = await run(*line)
        assert done["exit_code"] == 0
        again = origin.sent[path] - first
    kept = frames.size - again
    assert kept > 0
    assert f"{kept} of {frames.size} bytes" in caught.value.kept
    assert command("inspect", stick)["damaged"] == []


@pytest.mark.parametrize("out", ["the repository", "a link to it", "a mirror of it"])
def test_an_export_onto_a_repository_is_refused_and_drops_none_of_its_objects(
    fleet: FleetRig, tmp_path: Path, out: str
) -> None:
    fleet.order("2.0")
    repository, place = fleet.repository.directory, tmp_path / "out"
    if out == "the repository":
        place = repository
    elif out == "a link to it":
        place.symlink_to(repository)
    else:
        shutil.copytree(repository, place)
    before = sorted(str(p.relative_to(place)) for p in place.rglob("*"))
    error = refused("export", "--from", repository, "--out", place)
    assert isinstance(error, OperatorError)
    assert error.exit_code == 2
    assert error.next_step
    assert sorted(str(p.relative_to(place)) for p in place.rglob("*")) == before
    assert exported(fleet, tmp_path / "elsewhere")["exit_code"] == 0


def test_an_export_onto_its_own_source_is_refused(fleet: FleetRig, loaded: Path) -> None:
    """A choice of less would drop what only this bundle has."""
    device = isolated(fleet, "d1")
    command("import", loaded, "--config", device.config_file, "--keep")
    state = device.config.device.state_dir
    for source, out in ((loaded, loaded), (state, device.config.imported_dir)):
        before = sorted(p.name for p in out.rglob("*"))
        error = refused("export", "--from", source, "--out", out, "--metadata-only")
        assert isinstance(error, OperatorError)
        assert "is what is exported from" in error.message
        assert sorted(p.name for p in out.rglob("*")) == before


def test_a_choice_of_bases_and_a_limit_of_size(fleet: FleetRig, stick: Path) -> None:
    fleet.order("2.0")
    delta, full = fleet.pack("2.0", "1.0"), fleet.pack("2.0", None)
    error = refused("export", "--from", fleet.repository.directory, "--out", stick, "--max-bytes", "1MB")
    assert error.exit_code == 2
    assert "does not fit: engine/2.0/rootfs/full" in error.message
    assert DIGESTS["1.0"].hex() not in error.message, "the delta would fit"
    assert not stick.exists()
    done = exported(fleet, stick, "--max-bytes", "1MB", "--no-full", "--base", DIGESTS["1.0"].hex())
    assert done["packs"] == [f"engine/2.0/rootfs/{DIGESTS['1.0'].hex()}"]
    table = BundleReader.open(str(stick)).table
    assert [o.ref for o in table.of(Kind.FRAMES)] == [delta.frames]
    assert {o.ref for o in table.of(Kind.INDEX)} == {delta.index, full.index}, "chunks can be served"
    error = refused(
        "export", "--from", fleet.repository.directory, "--out", stick, "--no-full", "--base", "3.0"
    )
    assert "no pack of rootfs starts from the chosen bases" in error.message
    error = refused("export", "--from", fleet.repository.directory, "--out", stick, "--release", "3.0")
    assert error.message == "engine 3.0 is not ordered (ordered: 2.0)"
    fleet.order("3.0")
    done = exported(fleet, stick, "--base", "2.0", "--no-full")
    assert done["packs"] == [f"engine/3.0/rootfs/{DIGESTS['2.0'].hex()}"], "by the release that installed it"
    error = refused("export", "--from", fleet.repository.directory, "--out", stick, "--base", "0.9")
    assert error.message == "--base 0.9: no such release is published"


@pytest.mark.parametrize("size", ["a lot", "9" * 400, "17000TB"])
def test_a_size_that_is_none_is_named(fleet: FleetRig, stick: Path, size: str) -> None:
    with pytest.raises(BadParameter, match="is not a size like 4GB"):
        exported(fleet, stick, "--max-bytes", size)
    assert not stick.exists()


def test_an_audience_that_no_order_means_gets_nothing_but_what_is_signed(
    fleet: FleetRig, stick: Path
) -> None:
    fleet.order("2.0", Audience(sites=("depot",)))
    line = ("export", "--from", fleet.repository.directory, "--out", stick, "--site", "harbour")
    assert "no open order means this audience" in refused(*line).message
    assert command(*line, "--metadata-only")["packs"] == []
    assert exported(fleet, stick, "--site", "depot")["packs"]


def test_inspect_names_what_is_damaged_and_what_a_device_would_refuse(
    fleet: FleetRig, loaded: Path, tmp_path: Path
) -> None:
    frames = fleet.pack("2.0", None).frames
    other = tmp_path / "other.json"
    root = fleet.repository.directory / "root.json"
    document = json.loads(root.read_bytes())
    document["signed"]["expires"] = "2999-01-01T00:00:00Z"
    other.write_text(json.dumps(document))
    facts = command("inspect", loaded, "--root", other)
    assert facts["exit_code"] == 4
    assert facts["signatures"]["reason"] == "signature"
    flip_file(loaded / "objects" / frames.sha256.hex(), 1000)
    facts = command("inspect", loaded, "--root", root)
    assert facts["exit_code"] == 3
    (damage,) = facts["damaged"]
    assert damage["kind"] == "frames"
    assert damage["reason"].startswith("frame 0 (image bytes from ")
    assert facts["signatures"]["valid"], "what is signed is right"
    assert command("inspect", loaded, "--quick")["exit_code"] == 0, "sizes alone tell nothing"
    (loaded / "objects" / frames.sha256.hex()).unlink()
    assert command("inspect", loaded, "--quick")["exit_code"] == 3
    exported(fleet, loaded)
    assert command("inspect", loaded)["exit_code"] == 0, "the same export again mends it"


def test_a_document_that_the_table_names_often_is_read_and_shown_once(fleet: FleetRig, loaded: Path) -> None:
    table = BundleReader.open(str(loaded)).table
    documents = list(table.of(Kind.DOCUMENT))
    again = [dataclasses.replace(o, name=f"{o.name}-{n}") for o in documents for n in range(100)]
    objects = sorted((*table.objects, *again), key=lambda o: list(Kind).index(o.kind))
    before = command("inspect", loaded)
    (loaded / "bundle.json").write_bytes(encode_table(dataclasses.replace(table, objects=tuple(objects))))
    after = command("inspect", loaded)
    assert len(after["orders"]) == len(after["releases"]) == 1
    assert {key for key in after if after[key] != before[key]} == {"objects"}


# Refusals, and the exceptions to them


def state_of(device: Device) -> dict[str, bytes]:
    """All files of a device's state but the lock."""
    state = device.config.device.state_dir
    return {
        str(path.relative_to(state)): path.read_bytes()
        for path in sorted(state.rglob("*"))
        if path.is_file() and path.name != "agent.lock"
    }


def assert_refused(device: Device, stick: Path, reason: str) -> TrustError:
    """Not imported, for this reason, and nothing changed."""
    before = state_of(device)
    error = refused("import", stick, "--config", device.config_file)
    assert isinstance(error, TrustError)
    assert (error.exit_code, error.reason) == (4, reason)
    assert error.next_step
    assert state_of(device) == before
    return error


def in_an_hour() -> float:
    return (datetime.now(UTC) + timedelta(hours=1)).timestamp()


def _resign(fleet: FleetRig, days_ago: float) -> None:
    past = dataclasses.replace(fleet.repository, clock=lambda: datetime.now(UTC) - timedelta(days=days_ago))
    with past.locked() as state:
        past.refresh(state, snapshot=True)


async def test_an_expired_bundle_is_refused_but_for_devices_that_its_order_excepts(
    fleet: FleetRig, stick: Path
) -> None:
    fleet.order("2.0", allow_stale=StaleException(("d1", "d2"), in_an_hour()))
    _resign(fleet, days_ago=70)
    assert refused("export", "--from", fleet.repository.directory, "--out", stick).exit_code == 4
    exported(fleet, stick, "--expired")
    root = fleet.repository.directory / "root.json"
    assert command("inspect", stick, "--root", root)["signatures"]["reason"] == "expired"
    first = isolated(fleet, "d1")
    second = isolated(fleet, "d2", first)
    other = isolated(fleet, "d3", first)
    for device in (first, second, other):
        device.adopt()
    error = assert_refused(other, stick, "expired")
    assert "stale" in error.message
    assert "--allow-stale" in error.next_step
    done = command("import", stick, "--config", first.config_file)
    assert (done["release"], done["stale"]) == ("2.0", "expired")
    async with first.running() as one, second.running() as two:
        await one.committed("2.0")
        await two.committed("2.0")
        refusal = await other.once()
        assert isinstance(refusal, TrustError)
        assert refusal.reason == "expired", "its peers have brought it, and it is not excepted"
    assert other.running_version() == "1.0"


def _aborted_since(fleet: FleetRig, stick: Path, tmp_path: Path, *, lagging: Path | None = None) -> Path:
    """An excepted order on an expired stick, and a later one, expired too, that says it is aborted.

    `lagging`: where to put a copy of the repository as it was before that.
    """
    order = fleet.order("2.0", allow_stale=StaleException(("d1",), in_an_hour()))
    _resign(fleet, days_ago=70)
    exported(fleet, stick, "--expired")
    if lagging is not None:
        shutil.copytree(fleet.repository.directory, lagging)
    fleet.abort(order)
    _resign(fleet, days_ago=65)
    later = tmp_path / "later"
    exported(fleet, later, "--expired", "--metadata-only")
    return later


def _import_then(device: Device, stick: Path, days_ago: float) -> Imported:
    """Import as a command did some days ago."""
    at = (datetime.now(UTC) - timedelta(days=days_ago)).timestamp()

    async def work() -> Imported:
        return await import_bundle(device.config, str(stick), at, partial(progress_bar, "importing"))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(trio.run, work).result()


async def test_an_excepted_bundle_does_not_bring_back_what_was_aborted_on_a_stick_that_has_expired_since(
    fleet: FleetRig, stick: Path, tmp_path: Path
) -> None:
    later = _aborted_since(fleet, stick, tmp_path)
    device = isolated(fleet, "d1")
    device.adopt()
    done = _import_then(device, later, days_ago=64.9)
    assert done.nothing is not None
    assert_refused(device, stick, "older")
    refusal = await device.once()
    assert refusal is not None
    assert device.running_version() == "1.0"
    shutil.rmtree(device.config.imported_dir)
    assert command("import", stick, "--config", device.config_file)["stale"] == "expired", "else it counts"


async def test_an_origin_that_lags_behind_does_not_bring_back_what_an_expired_stick_says_is_aborted(
    fleet: FleetRig, stick: Path, tmp_path: Path
) -> None:
    """The origin's metadata has expired as well, and the order that it has still excepts the device."""
    lagging = tmp_path / "lagging"
    later = _aborted_since(fleet, stick, tmp_path, lagging=lagging)
    async with HostileOrigin(lagging).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        device.adopt()
        await trio.to_thread.run_sync(_import_then, device, later, 64.9)
        refusal = await device.once()
        assert isinstance(refusal, TrustError)
        assert refusal.reason == "expired"
        assert device.running_version() == "1.0"
        shutil.rmtree(device.config.imported_dir)
        assert await device.once() is None, "by what the origin knows alone"
        assert device.running_version() == "2.0"


async def test_an_exception_that_ends_while_frames_are_awaited_ends_the_update(
    fleet: FleetRig, stick: Path
) -> None:
    end = int(time.time()) + 8
    fleet.order("2.0", allow_stale=StaleException(("d1",), end))
    _resign(fleet, days_ago=70)
    exported(fleet, stick, "--expired", "--metadata-only")
    device = isolated(fleet, "d1")
    device.adopt()
    assert refused("import", stick, "--config", device.config_file).exit_code == 8
    async with device.running() as agent:
        await until(lambda: agent.state == "fetching", "it knows what is meant")
        await until(lambda: agent.state == "failed", "the exception is over")
        assert time.time() >= end
        await until(lambda: "expired" in (device.status.get("reason") or ""), "its status says why")
        assert device.record.state is State.IDLE
    assert device.running_version() == "1.0"


@pytest.mark.parametrize("ended", [True, False])
async def test_an_exception_must_hold_until_the_slot_is_armed_and_no_longer(
    fleet: FleetRig, stick: Path, monkeypatch: pytest.MonkeyPatch, *, ended: bool
) -> None:
    """Nobody asks between the last frame and the switch: it is the arming that needs the exception."""
    end = time.time() + 3600
    fleet.order("2.0", allow_stale=StaleException(("d1",), end))
    _resign(fleet, days_ago=70)
    exported(fleet, stick, "--expired")
    device = isolated(fleet, "d1")
    command("import", stick, "--config", device.config_file)
    moment = "read_back" if ended else "arm"
    real, real_time = getattr(Installer, moment), time.time

    def at_the_moment(installer: Installer) -> Any:
        monkeypatch.setattr("p2p.agent.asking.time.time", lambda: real_time() + 3601)
        return real(installer)

    monkeypatch.setattr(Installer, moment, at_the_moment)
    outcome = await device.once()
    if not ended:
        assert (outcome, device.running_version()) == (None, "2.0")
        return
    assert isinstance(outcome, TrustError)
    assert (outcome.reason, device.running_version()) == ("expired", "1.0")
    assert device.record.state is State.IDLE
    monkeypatch.undo()
    shutil.rmtree(device.config.imported_dir / "objects")
    assert await device.once() is None, "all of it was in the slot"
    assert device.running_version() == "2.0"


async def test_a_bundle_that_is_older_than_what_the_device_knows_gives_frames_by_exception_only(
    fleet: FleetRig, stick: Path
) -> None:
    fleet.order("2.0", allow_stale=StaleException(("d1",), in_an_hour()))
    exported(fleet, stick)
    fleet.repository.refresh(fleet.repository.state())
    excepted, other = isolated(fleet, "d1"), isolated(fleet, "d2")
    for device in (excepted, other):
        device.adopt()
        command("import", stick, "--config", device.config_file)  # not older yet: nothing newer is known
        shutil.rmtree(device.config.imported_dir)
        _learn(device, fleet)
    error = assert_refused(other, stick, "older")
    assert "older than what this device knows" in error.message
    done = command("import", stick, "--config", excepted.config_file)
    assert (done["release"], done["stale"]) == ("2.0", "older")
    assert await excepted.once() is None
    assert excepted.running_version() == "2.0"


def _learn(device: Device, fleet: FleetRig) -> None:
    """The device hears of what is published now, as from a peer, without any frames."""
    config = device.config
    client = TrustClient(
        DirectoryBlobStore(config.device.state_dir / "trust"), config.trust.root.read_bytes()
    )
    origin = RepositoryOrigin(str(fleet.repository.directory))
    member = Member(device.name, "depot", frozenset(), HARDWARE)
    steps = release_for(client, Question(member, PRODUCT, HARDWARE, 0), datetime.now(UTC).timestamp())

    async def learn() -> None:
        await run_async(steps, Gathering(origin).answer)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(trio.run, learn).result()


async def test_a_release_below_the_floor_is_refused_but_for_devices_that_may_downgrade(
    fleet: FleetRig, stick: Path
) -> None:
    fleet.order("2.0", allow_downgrade=("d1",))
    exported(fleet, stick)
    allowed, other = isolated(fleet, "d1", holds="3.0"), isolated(fleet, "d2", holds="3.0")
    for device in (allowed, other):
        device.adopt()
        for name in ("floor", "floor.2"):
            store = DirectoryBlobStore(device.config.device.state_dir / name)
            ReleaseFloors(store, store).raise_to(PRODUCT, fleet.manifest("3.0").counter)
    error = assert_refused(other, stick, "below-floor")
    assert "--allow-downgrade" in error.next_step
    command("import", stick, "--config", allowed.config_file)
    assert await allowed.once() is None
    assert allowed.running_version() == "2.0"


def test_another_fleets_bundle_is_refused(
    fleet: FleetRig, loaded: Path, tmp_path: Path, alone: Device
) -> None:
    alone.adopt()
    stranger = init_repository(
        tmp_path / "stranger", Passphrases(plain=True, environment={}, prompt=False), products=(PRODUCT,)
    )
    (alone.directory / "root.json").write_bytes((stranger.directory / "root.json").read_bytes())
    assert_refused(alone, loaded, "signature")


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.METADATA, Kind.DOCUMENT, Kind.INDEX, Kind.FRAMES])
@pytest.mark.parametrize("how", ["flipped", "absent", "short"])
def test_a_damaged_bundle_is_refused_and_gone_on_with_once_it_is_mended(
    fleet: FleetRig, stick: Path, kind: Kind, how: str
) -> None:
    fleet.order("2.0")
    exported(fleet, stick, "--no-full")
    device = isolated(fleet, "d1")
    table = BundleReader.open(str(stick)).table
    victim = stick / "objects" / next(iter(table.of(kind))).ref.sha256.hex()
    right = victim.read_bytes()
    if how == "flipped":
        flip_file(victim, len(right) // 2)
    elif how == "short":
        victim.write_bytes(right[:-1])
    else:
        victim.unlink()
    error = refused("import", stick, "--config", device.config_file)
    assert isinstance(error, ContentError)
    assert error.exit_code == 3
    assert error.next_step
    assert not (device.config.imported_dir / "bundle.json").exists()
    victim.write_bytes(right)
    done = command("import", stick, "--config", device.config_file)
    assert done["release"] == "2.0"
    if kind is Kind.FRAMES and how == "flipped":
        assert done["copied"] < done["size"], "what was verified before did not come again"


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.TIMESTAMP])
def test_a_table_that_calls_something_signed_another_kind_is_imported_as_what_it_is_or_refused(
    fleet: FleetRig, loaded: Path, kind: Kind
) -> None:
    table = BundleReader.open(str(loaded)).table
    name = "2" if kind is Kind.ROOT else "x"
    wrong = BundleObject(kind, name, table.timestamp.ref)
    objects = sorted((*table.objects, wrong), key=lambda o: list(Kind).index(o.kind))
    (loaded / "bundle.json").write_bytes(
        encode_table(dataclasses.replace(table, objects=tuple(objects), products=table.products * 2))
    )
    device = isolated(fleet, "d1")
    device.adopt()
    if kind is Kind.ROOT:
        assert_refused(device, loaded, "type")
        return
    assert command("import", loaded, "--config", device.config_file)["release"] == "2.0"
    imported = BundleReader.open(str(device.config.imported_dir)).table
    assert [o for o in imported.objects if o.ref == table.timestamp.ref] == [table.timestamp]
    assert imported.products == (PRODUCT,)


def test_the_imported_table_can_be_read_whenever_the_bundle_claims_to_have_been_made(
    fleet: FleetRig, loaded: Path
) -> None:
    facts = json.loads((loaded / "bundle.json").read_bytes())
    facts["created"] = "0001-01-01T00:00:00Z"
    (loaded / "bundle.json").write_text(json.dumps(facts))
    device = isolated(fleet, "d1")
    command("import", loaded, "--config", device.config_file)
    created = BundleReader.open(str(device.config.imported_dir)).table.created
    assert abs(created - time.time()) < 600


def test_an_import_whose_table_nobody_could_read_is_refused_before_anything_is_written(
    fleet: FleetRig, loaded: Path
) -> None:
    """Signed files under the names of roots, and between them one that is none: no chain is left of it."""
    table = BundleReader.open(str(loaded)).table
    one, other = list(table.of(Kind.METADATA))[:2]
    named = {"5": one.ref, "6": ObjectRef(sha256(b"none"), 4), "7": other.ref}
    roots = [BundleObject(Kind.ROOT, version, ref) for version, ref in named.items()]
    rest = [o for o in table.objects if o.kind is not Kind.ROOT]
    changed = dataclasses.replace(table, objects=(*roots, *rest))
    (loaded / "bundle.json").write_bytes(encode_table(changed))
    device = isolated(fleet, "d1")
    device.adopt()
    before = state_of(device)
    error = refused("import", loaded, "--config", device.config_file)
    assert isinstance(error, ContentError)
    assert "the roots are no chain" in error.message
    assert error.kept
    assert error.next_step
    assert state_of(device) == before
    (loaded / "bundle.json").write_bytes(encode_table(dataclasses.replace(table, objects=tuple(rest))))
    assert command("import", loaded, "--config", device.config_file)["release"] == "2.0", "no root is needed"


async def test_nothing_that_is_meant_brings_the_news_all_the_same(fleet: FleetRig, stick: Path) -> None:
    fleet.order("2.0", Audience(devices=("d2",)))
    exported(fleet, stick)
    first = isolated(fleet, "d1")
    second = isolated(fleet, "d2", first)
    error = refused("import", stick, "--config", first.config_file)
    assert error.exit_code == 8
    assert "no-order" in error.message
    assert "metadata was imported" in error.kept
    async with first.running(), second.running() as two:
        await until(lambda: two.state == "fetching", "d2 has heard what is meant for it")


async def test_news_alone_are_imported_beside_the_frames_that_are_there(
    fleet: FleetRig, loaded: Path, tmp_path: Path
) -> None:
    news = fresh_news(fleet, tmp_path)
    first, second = isolated(fleet, "d1"), isolated(fleet, "d2")
    error = refused("import", news, "--config", first.config_file)
    assert error.exit_code == 8
    assert "no pack of rootfs 2.0 that this device can use" in error.message
    assert DIGESTS["1.0"].hex() in error.message
    command("import", loaded, "--config", second.config_file)
    done = command("import", news, "--config", second.config_file)
    assert len(done["packs"]) == 1, "of the first stick"
    assert_refused(second, loaded, "older")
    table = BundleReader.open(str(second.config.imported_dir)).table
    assert table.timestamp.ref == BundleReader.open(str(news)).table.timestamp.ref
    assert await second.once() is None
    assert second.running_version() == "2.0"


def packs_here(device: Device) -> list[str]:
    """What is imported of packs: `base/kind`."""
    table = BundleReader.open(str(device.config.imported_dir)).table
    return sorted(f"{o.name.rpartition('/')[2]}/{o.kind}" for o in table.objects if o.name.count("/") > 2)


def test_an_index_that_cannot_be_read_again_after_it_was_written_is_told(
    fleet: FleetRig, loaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = isolated(fleet, "d1")
    read = PartialObject.read

    def fails(partial: PartialObject, offset: int, length: int) -> bytes:
        if partial.complete:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(partial, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(PartialObject, "read", fails)
        error = refused("import", loaded, "--config", device.config_file)
    assert isinstance(error, StoreError)
    assert "the index of " in error.message and os.strerror(errno.EIO) in error.message
    assert command("import", loaded, "--config", device.config_file)["packs"]


def test_an_import_beside_which_what_was_imported_before_changes_changes_nothing(
    fleet: FleetRig, loaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent commits the release and drops its frames, which the new table would take over."""
    news = fresh_news(fleet, tmp_path)
    device = isolated(fleet, "d1")
    directory = device.config.imported_dir
    command("import", loaded, "--config", device.config_file)
    judge = importing.judge

    def meanwhile(*arguments: Any) -> judging.Verdict:
        verdict = judge(*arguments)
        imported = ImportedBundle(directory)
        imported.look()
        imported.drop(PRODUCT, "2.0")
        return verdict

    monkeypatch.setattr(importing, "judge", meanwhile)
    error = refused("import", news, "--config", device.config_file)
    monkeypatch.undo()
    assert isinstance(error, LocalError) and "has changed meanwhile" in error.message
    reader = BundleReader.open(str(directory))
    assert not list(reader.table.of(Kind.FRAMES)) and not reader.lacks()
    assert refused("import", news, "--config", device.config_file).exit_code == 8, "its frames are gone"
    assert not BundleReader.open(str(directory)).lacks()


async def test_news_come_in_although_a_frame_that_was_imported_before_has_rotted(
    fleet: FleetRig, loaded: Path, tmp_path: Path
) -> None:
    """The new bundle has no copy of it. It stays: all but the bad frame are of use."""
    news = fresh_news(fleet, tmp_path)
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        await run("import", loaded, "--config", device.config_file)
        before = packs_here(device)
        (frames,) = BundleReader.open(str(device.config.imported_dir)).table.of(Kind.FRAMES)
        flip_file(device.config.imported_dir / "objects" / frames.ref.sha256.hex(), 100)
        await run("import", news, "--config", device.config_file)
        assert packs_here(device) == before
        async with device.running() as agent:
            await agent.committed("2.0")
            assert agent.ledger.imported > 0
    assert device.running_version() == "2.0"


def test_a_damaged_index_of_before_is_left_out_and_mended_by_the_next_stick(
    fleet: FleetRig, loaded: Path, tmp_path: Path
) -> None:
    news = fresh_news(fleet, tmp_path)
    device = isolated(fleet, "d1")
    command("import", loaded, "--config", device.config_file)
    before = packs_here(device)
    for index in BundleReader.open(str(device.config.imported_dir)).table.of(Kind.INDEX):
        flip_file(device.config.imported_dir / "objects" / index.ref.sha256.hex(), 20)
    error = refused("import", news, "--config", device.config_file)
    assert (error.exit_code, packs_here(device)) == (8, [])
    exported(fleet, loaded)
    command("import", loaded, "--config", device.config_file)
    assert packs_here(device) == before


def test_a_stick_that_calls_something_else_by_the_same_name_hides_nothing(
    fleet: FleetRig, loaded: Path, tmp_path: Path
) -> None:
    news = fresh_news(fleet, tmp_path)
    device = isolated(fleet, "d1")
    command("import", loaded, "--config", device.config_file)
    before = packs_here(device)
    junk = b"no frames"
    (news / "objects" / sha256(junk).hex()).write_bytes(junk)
    table = BundleReader.open(str(news)).table
    masks = tuple(
        dataclasses.replace(o, ref=ObjectRef(sha256(junk), len(junk)))
        for o in BundleReader.open(str(loaded)).table.objects
        if o.kind is Kind.FRAMES
    )
    assert masks
    news_table = dataclasses.replace(table, objects=(*table.objects, *masks))
    (news / "bundle.json").write_bytes(encode_table(news_table))
    command("import", news, "--config", device.config_file)
    assert packs_here(device) == before


def test_a_paused_order_does_not_cost_the_frames_that_are_there(
    fleet: FleetRig, stick: Path, tmp_path: Path
) -> None:
    order = fleet.order("2.0")
    exported(fleet, stick)
    device = isolated(fleet, "d1")
    command("import", stick, "--config", device.config_file)
    before = packs_here(device)
    fleet.pause(order)
    news = tmp_path / "news"
    exported(fleet, news, "--metadata-only")
    assert refused("import", news, "--config", device.config_file).exit_code == 8
    assert packs_here(device) == before
    fleet.resume(order)
    exported(fleet, news, "--metadata-only")
    assert command("import", news, "--config", device.config_file)["release"] == "2.0"
    assert packs_here(device) == before


def test_a_pack_that_is_here_is_not_dropped_for_a_smaller_one(
    fleet: FleetRig, loaded: Path, tmp_path: Path, alone: Device
) -> None:
    command("import", loaded, "--config", alone.config_file, "--all")
    before = packs_here(alone)
    assert len(before) == 4
    command("import", loaded, "--config", alone.config_file)
    assert packs_here(alone) == before


async def test_what_is_to_be_kept_is_not_dropped_by_the_same_stick_once_it_is_installed(
    fleet: FleetRig, loaded: Path, alone: Device
) -> None:
    command("import", loaded, "--config", alone.config_file, "--keep")
    before = packs_here(alone)
    assert await alone.once() is None
    await run("import", loaded, "--config", alone.config_file, "--keep")
    assert packs_here(alone) == before
    await run("import", loaded, "--config", alone.config_file)
    assert packs_here(alone) == []


def test_a_timestamp_that_rots_after_the_import_does_not_hide_the_frames(
    fleet: FleetRig, loaded: Path, alone: Device
) -> None:
    command("import", loaded, "--config", alone.config_file)
    timestamp = BundleReader.open(str(alone.config.imported_dir)).table.timestamp
    flip_file(alone.config.imported_dir / "objects" / timestamp.ref.sha256.hex(), 100)
    imported = ImportedBundle(alone.config.imported_dir)
    assert imported.look()
    assert (imported.timestamp(), imported.timestamp_version) == (None, 0)
    assert imported.frames(fleet.pack("2.0", "1.0")) is not None


def test_a_bundle_that_could_not_be_read_at_one_look_is_of_use_at_the_next(
    fleet: FleetRig,
    loaded: Path,
    alone: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command("import", loaded, "--config", alone.config_file)
    imported = ImportedBundle(alone.config.imported_dir)

    def failing(file: SystemFile, offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(SystemFile, "read_at", failing)
        assert [imported.look() for _ in range(3)] == [False] * 3
    assert caplog.text.count("of no use") == 1, "told once"
    assert imported.look()
    assert imported.timestamp_version
    assert not imported.look()


def test_a_stick_that_comes_as_the_last_one_is_done_with_is_still_news(
    fleet: FleetRig, loaded: Path, alone: Device
) -> None:
    command("import", loaded, "--config", alone.config_file)
    imported = ImportedBundle(alone.config.imported_dir)
    assert imported.look()
    command("import", loaded, "--config", alone.config_file)
    imported.drop(PRODUCT, "2.0")
    assert imported.look()
    assert imported.frames(fleet.pack("2.0", "1.0")) is not None, "it was not to be dropped"
    imported.drop(PRODUCT, "2.0")
    assert imported.look()
    assert imported.frames(fleet.pack("2.0", "1.0")) is None


async def test_what_an_import_left_that_was_cut_long_ago_is_removed_and_nothing_else(
    fleet: FleetRig, loaded: Path, alone: Device
) -> None:
    """Nobody may come back with the stick, and the quota counts what lies there."""
    await run("import", loaded, "--config", alone.config_file, "--keep")
    objects = alone.config.imported_dir / "objects"
    before = {path.name for path in objects.iterdir()}
    now = time.time()

    def leave(*ages_s: float) -> list[Path]:
        left = [objects / ("0" * 63 + f"{n}{suffix}") for n, suffix in enumerate(("", ".partial"))]
        for path, age_s in zip(left, ages_s, strict=True):
            path.write_bytes(b"some of it")
            os.utime(path, (now - age_s, now - age_s))
        return left

    imported = ImportedBundle(alone.config.imported_dir)
    left = leave(40 * 86_400, 29 * 86_400)
    imported.tidy(now)
    assert all(path.exists() for path in left), "it may be gone on with"
    imported.tidy(0.0)
    assert all(path.exists() for path in left), "the clock may stand anywhere"
    leave(40 * 86_400, 31 * 86_400)
    (objects / "of somebody else").write_bytes(b"")
    async with alone.running() as agent:
        await agent.committed("2.0")
        assert not any(path.exists() for path in left)
    assert {path.name for path in objects.iterdir()} == before | {"of somebody else"}
    (alone.config.imported_dir / "bundle.json").unlink()
    imported.tidy(now + 31 * 86_400)
    assert [path.name for path in objects.iterdir()] == ["of somebody else"]


def test_an_import_that_would_pass_the_disk_quota_is_refused_before_anything_is_written(
    fleet: FleetRig, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.config.reading.DISK_MIN", 1)
    fleet.order("2.0")
    exported(fleet, stick)
    device = isolated(fleet, "d1", extra="[budgets]\ndisk_max = 400_000")
    device.adopt()
    before = state_of(device)
    error = refused("import", stick, "--config", device.config_file, "--all")
    assert isinstance(error, StoreError)
    assert error.message.startswith("budgets.disk_max: what is to be imported needs ")
    assert state_of(device) == before
    larger = isolated(fleet, "d2", extra='[budgets]\ndisk_max = "20MiB"')
    assert len(command("import", stick, "--config", larger.config_file, "--all")["packs"]) == 2


# What a running agent makes of it


async def test_an_agent_that_waits_for_frames_takes_them_from_a_stick_as_it_comes(
    fleet: FleetRig, loaded: Path, tmp_path: Path, alone: Device
) -> None:
    alone.adopt()
    _learn(alone, fleet)
    async with alone.running() as agent:
        await until(lambda: agent.state == "fetching", "it knows what is meant and has nobody to ask")
        await run("import", loaded, "--config", alone.config_file)
        agent.agent.ask_now()
        await agent.committed("2.0")
    assert alone.running_version() == "2.0"


async def test_with_a_wan_no_frame_comes_over_it(fleet: FleetRig, loaded: Path) -> None:
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        await run("import", loaded, "--config", device.config_file)
        async with device.running() as agent:
            await agent.committed("2.0")
            assert agent.ledger.imported > 0
        for base in ("1.0", None):
            assert origin.sent[f"objects/{fleet.pack('2.0', base).frames.sha256.hex()}"] == 0


@pytest.mark.parametrize("way", ["wan", "peer"])
async def test_a_frame_that_rots_after_the_import_comes_from_elsewhere(
    fleet: FleetRig, loaded: Path, way: str
) -> None:
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        holder = fleet.device("d2", origin=origin.url, holds="2.0")
        device = fleet.device("d1", origin=origin.url, wan=way == "wan", peers=(holder,) * (way == "peer"))
        await run("import", loaded, "--config", device.config_file)
        (frames,) = BundleReader.open(str(device.config.imported_dir)).table.of(Kind.FRAMES)
        flip_file(device.config.imported_dir / "objects" / frames.ref.sha256.hex(), 100)
        async with holder.running(), device.running() as agent:
            await agent.committed("2.0")
            assert agent.ledger.imported > 0
            assert (agent.ledger.wan if way == "wan" else agent.ledger.from_peers) > 0
    assert device.running_version() == "2.0"


async def test_a_damaged_base_is_mended_by_the_full_pack_where_it_was_imported_too(
    fleet: FleetRig, loaded: Path, alone: Device
) -> None:
    alone.adopt()
    flip_file(alone.slot("a"), 3 * MIB, 200 * KIB)
    done = command("import", loaded, "--config", alone.config_file, "--all")
    assert len(done["packs"]) == 2
    assert await alone.once() is None
    assert alone.running_version() == "2.0"


async def test_what_was_imported_to_be_kept_can_be_taken_further(
    fleet: FleetRig, loaded: Path, tmp_path: Path, alone: Device
) -> None:
    command("import", loaded, "--config", alone.config_file, "--keep", "--all")
    assert await alone.once() is None
    assert await alone.once() is None
    next_stick = tmp_path / "next"
    command("export", "--from", alone.config.device.state_dir, "--out", next_stick)
    root = fleet.repository.directory / "root.json"
    assert command("inspect", next_stick, "--root", root)["exit_code"] == 0
    other = isolated(fleet, "d2", holds=None)
    command("import", next_stick, "--config", other.config_file)
    assert await other.once() is None
    assert other.running_version() == "2.0"


def test_a_device_that_runs_it_already_is_told_so(fleet: FleetRig, loaded: Path) -> None:
    device = isolated(fleet, "d1", holds="2.0")
    done = command("import", loaded, "--config", device.config_file)
    assert done["installed"]
    assert done["packs"] == []


async def test_an_origin_that_lags_behind_the_stick_holds_nothing_up(
    fleet: FleetRig, stick: Path, tmp_path: Path
) -> None:
    lagging = tmp_path / "lagging"
    shutil.copytree(fleet.repository.directory, lagging)
    fleet.order("2.0")
    exported(fleet, stick)
    async with HostileOrigin(lagging).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        await run("import", stick, "--config", device.config_file)
        async with device.running() as agent:
            await agent.committed("2.0")
    assert device.running_version() == "2.0"


def _change(rng: random.Random, stick: Path) -> str:
    """Change one thing of a bundle; says what."""
    path = rng.choice(sorted(p for p in stick.rglob("*") if p.is_file()))
    data = bytearray(path.read_bytes())
    what = rng.choice(["flip", "flip", "cut", "grow", "remove", "swap", "link", "directory"])
    if what == "flip" and data:
        for _ in range(rng.choice([1, 1, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
    elif what == "cut":
        path.write_bytes(bytes(data[: rng.randrange(len(data) + 1)]))
    elif what == "grow":
        path.write_bytes(bytes(data) + rng.randbytes(rng.randrange(1, 5000)))
    elif what == "swap":
        other = rng.choice(sorted((stick / "objects").iterdir()))
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        if what == "link":
            path.symlink_to("/dev/zero")
        elif what == "directory":
            path.mkdir()
    return f"{what} {path.name}"


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_bundle_is_refused_for_a_named_reason_or_means_the_same(
    fleet: FleetRig, loaded: Path, seed: int, alone: Device
) -> None:
    alone.adopt()
    before = state_of(alone)
    what = _change(random.Random(seed), loaded)
    try:
        done = command("import", loaded, "--config", alone.config_file)
    except SlipstreamError as error:
        assert error.message, what
        assert error.exit_code in (2, 3, 4, 5), what
        assert not (alone.config.imported_dir / "bundle.json").exists(), what
    else:
        assert done["release"] == "2.0", what
        reader = BundleReader.open(str(alone.config.imported_dir))
        for found in reader.table.objects:
            reader.whole(found)
    after = {name: data for name, data in state_of(alone).items() if not name.startswith("imported/")}
    assert after == before, "the agent's own state is only read"
