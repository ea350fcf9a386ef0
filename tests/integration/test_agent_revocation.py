"""Real agents over TLS on loopback: a revoked peer is cut off and stays out, wherever the news came from.

Each refusal has its twin in the same test: the same peer before it was revoked, or another that is not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from coordinator.publishing.revocations import publish_revocations
from p2p.adapters.bundle_files import BundleReader
from p2p.adapters.device import revocations_of
from p2p.bundles.importing import import_bundle
from p2p.cli.agent import agent as agent_command
from p2p.cli.bundle import bundle as bundle_command
from p2p.cli.bundle import progress_bar
from p2p.content.bundle import Kind
from p2p.content.revocation import Reason, Revocation
from p2p.errors import PeerError, RevokedError, TrustError
from p2p.swarm import messages as m
from p2p.trust.revocations import NAME, RevocationList
from tests.support.fleet import PRODUCT, Device, FleetRig, RunningAgent, flip, until
from tests.support.hostile_origin import Answer, HostileOrigin, Request
from tests.support.puppet import Puppet

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def revoke(fleet: FleetRig, *devices: Device, reason: Reason = Reason.LOST) -> int:
    """Publish that the present certificates of these devices are revoked; the list's version."""
    return publish_revocations(
        fleet.repository,
        [
            Revocation(
                d.credentials.identity.certificate, d.name, reason, float(int(d.credentials.not_after))
            )
            for d in devices
        ],
    ).version


async def status(
    device: Device, *arguments: str, command: str = "status"
) -> subprocess.CompletedProcess[bytes]:
    """What `slipstream agent status` of a device comes to."""
    line = device.command(command, *arguments)
    return await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)


async def knows(run: RunningAgent, device: Device) -> None:
    """Until an agent believes that a device is revoked, and its event loop has heard of that."""
    certificate, revoking = device.credentials.identity.certificate, run.agent._revoking
    await until(
        lambda: (
            revoking.register.find(certificate) is not None and revoking._heeded == revoking.register.taken
        ),
        f"{run.device.name} knows that {device.name} is revoked",
    )


async def together(*runs: RunningAgent) -> None:
    """Until each is connected to all others."""
    names = {run.device.name for run in runs}
    for run in runs:
        await until(lambda run=run: set(run.links.devices) == names - {run.device.name}, "all are connected")


async def test_a_revoked_peer_is_cut_off_and_named_to_a_device_without_wan(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost = fleet.device("lost", peers=(one,), wan=False, holds="2.0")
    far = fleet.device("far", peers=(one, lost), wan=False, holds="2.0")
    async with one.running() as a, lost.running() as b, far.running() as c:
        await together(a, b, c)
        version = revoke(fleet, lost)
        await knows(a, lost)
        await knows(c, lost)
        await until(lambda: a.links.devices == ("far",) and c.links.devices == ("one",), "it is cut off")
        assert a.node.peers == ("far",)
        assert c.node.peers == ("one",)
        for run in (a, c):
            assert run.agent._revocations.version == version
            assert not run.links.admits(lost.credentials.identity)
        await trio.sleep(0.5)
        assert b.links.devices == ()
        await until(lambda: one.status.get("revocations", {}).get("known") == 1, "the status says so")


async def test_a_revoked_peer_is_cut_off_before_the_rest_of_what_is_meant_has_come(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    """Else who is out could hold its own end up by giving what it is asked for late."""
    fleet.order("2.0")
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost = fleet.device("lost", peers=(one,), wan=False, holds="2.0")
    published, asked, held = trio.Event(), trio.Event(), trio.Event()

    def late(request: Request, answer: Answer) -> Answer | None:
        if request.path.endswith("timestamp.json") and not published.is_set():
            return replace(answer, hold=published)  # both are news at once
        if not request.path.endswith(f".orders-{PRODUCT}.json"):
            return None
        asked.set()
        return replace(answer, hold=held)

    async with one.running() as a, lost.running() as b:
        await together(a, b)
        await until(lambda: a.agent._updates.progress.state == "current", "its first question is answered")
        origin.fault = late
        revoke(fleet, lost)
        fleet.order("2.0")
        published.set()
        await asked.wait()
        assert not held.is_set() and a.links.devices == ()
        held.set()
        await until(lambda: a.agent._revoking.register.version > 0 and not b.links.devices, "both parted")


async def test_a_revoked_device_that_hears_of_it_is_alone_and_still_updates(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url)
    lost = fleet.device("lost", origin=origin.url, peers=(one,))
    async with one.running() as a, lost.running() as b:
        await together(a, b)
        revoke(fleet, lost)
        await knows(b, lost)
        await until(lambda: not b.links.devices and not a.links.devices, "both parted")
        before = dict(a.ledger.peers), dict(b.ledger.peers)
        fleet.order("2.0")
        await b.committed("2.0")
        await a.committed("2.0")
        assert (a.ledger.peers, b.ledger.peers) == before
        await until(lambda: lost.status["revocations"]["own"] is not None, "the status says so")
        assert lost.status["revocations"]["own"]["reason"] == "lost"
        assert one.status["revocations"]["own"] is None
    check = await status(lost, "--json", command="check")
    assert check.returncode == 2
    (fault,) = [c for c in json.loads(check.stdout)["checks"] if c["fault"]]
    assert (fault["check"], "is revoked" in fault["fault"]) == ("membership", True)
    assert (await status(one, command="check")).returncode == 0
    done = await status(lost, "--json")
    facts, error = json.loads(done.stdout), json.loads(done.stderr)
    assert done.returncode == error["exit_code"] == RevokedError.exit_code == 14
    assert facts["revocations"]["own"]["reason"] == "lost"
    assert error["error"] == "RevokedError"
    assert "voucher" in error["next_step"]
    assert (await status(one)).returncode == 0
    assert lost.running_version() == "2.0"


async def test_a_van_brings_the_news_to_a_site_without_wan(fleet: FleetRig, origin: HostileOrigin) -> None:
    van = fleet.device("van", origin=origin.url, holds="2.0")
    one = fleet.device("one", peers=(van,), wan=False, holds="2.0")
    lost = fleet.device("lost", peers=(one,), wan=False, holds="2.0")
    async with one.running() as a, lost.running() as b:
        await together(a, b)
        revoke(fleet, lost)
        async with van.running() as visitor:
            await knows(visitor, lost)
            await knows(a, lost)
        await until(lambda: a.links.devices == (), "it is cut off")
        assert not a.links.admits(lost.credentials.identity)
    assert {r.path for r in origin.requests}


async def test_what_a_device_knows_it_knows_after_a_restart_without_any_source(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost, good = fleet.device("lost"), fleet.device("good")
    revoke(fleet, lost)
    async with one.running() as a:
        await knows(a, lost)
    one.configure(wan=False)
    shutil.rmtree(one.config.device.state_dir / "trust")
    async with one.running():
        with pytest.raises(PeerError) as caught:
            await Puppet(lost).dial(one)
        assert caught.value.reason == "revoked"
        await (await Puppet(good).dial(one)).aclose()


async def test_one_damaged_copy_costs_nothing_and_two_are_made_good_by_the_held_metadata(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost = fleet.device("lost")
    revoke(fleet, lost)
    async with one.running() as a:
        await knows(a, lost)
    state = one.config.device.state_dir
    copies = [state / "revoked" / NAME, state / "revoked.2" / NAME]
    whole = copies[0].read_bytes()
    copies[0].write_bytes(flip(whole))
    assert len(revocations_of(one.config, read_only=True)) == 1
    copies[1].write_bytes(b"")
    assert revocations_of(one.config, read_only=True).damaged
    one.configure(wan=False)
    async with one.running() as a:
        await knows(a, lost)
    assert [path.read_bytes() for path in copies] == [whole, whole]


async def test_a_revoked_peer_in_mid_update_gives_nothing_more_and_its_image_comes_from_elsewhere(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    asked, given_at = trio.Event(), []

    def slowly(puppet: Puppet, _: Any, message: m.Message) -> m.Message | None:
        if isinstance(message, m.Want):
            asked.set()
            if len(given_at) >= 2:
                return None
            given_at.append(trio.current_time())
        return puppet.honest(message)

    lost = Puppet(fleet.device("lost"), answer=slowly)
    device = fleet.device("one", origin=origin.url, peers=(lost.device,), settle_s=0.4, holds=None)
    async with lost.serving(), device.running() as run:
        await asked.wait()
        revoke(fleet, lost.device)
        run.agent.ask_now()
        await knows(run, lost.device)
        taken, wants = run.ledger.peers.get("lost", 0), lost.got["Want"]
        assert run.links.devices == ()
        await run.committed("2.0")
        assert run.ledger.peers.get("lost", 0) == taken
        assert lost.got["Want"] == wants
    assert device.running_version() == "2.0"


async def test_a_hostile_revoked_device_gets_not_one_byte_however_often_it_dials(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    hostile = Puppet(fleet.device("hostile"))
    async with one.running() as a:
        stream = await hostile.dial(one)
        assert isinstance(await hostile.receive(stream), m.Hello)
        revoke(fleet, hostile.device)
        await knows(a, hostile.device)
        with trio.fail_after(60):
            try:
                while await hostile.receive(stream) is not None:
                    pass
            except PeerError:
                pass
        await stream.aclose()
        for _ in range(3):
            with pytest.raises(PeerError) as caught:
                await hostile.dial(one)
            assert caught.value.reason == "revoked"
        assert a.node.peers == ()


async def test_a_device_that_was_enrolled_again_is_a_peer_again(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost = fleet.device("lost", peers=(one,), wan=False, holds="2.0")
    revoke(fleet, lost)
    async with one.running() as a:
        await knows(a, lost)
        old = lost.credentials.identity
        revoke(fleet, lost, reason=Reason.SUPERSEDED)
        config = lost.config
        for path in (config.key_path, config.certificate_path):
            path.unlink()
        fleet.enrol(lost, "depot")
        async with lost.running() as b:
            await together(a, b)
            assert not a.links.admits(old)
            assert b.agent._revoking.own is None


async def test_a_device_whose_revocation_the_offline_keys_took_back_has_peers_again_without_a_restart(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    wronged = fleet.device("wronged", origin=origin.url, peers=(one,), holds="2.0")
    revoke(fleet, wronged)
    async with one.running() as a, wronged.running() as b:
        await knows(a, wronged)
        await knows(b, wronged)
        await until(lambda: not b.links.devices, "it is alone")
        for run in (a, b):
            agent, root = run.agent, run.agent._trust.versions["root"]
            taken_back = RevocationList(1, root + 1, frozenset({"ab" * 32}), ())
            assert agent._revocations.learn(taken_back, 0.0)
            agent._revoking.heed()
        await together(a, b)


@pytest.mark.parametrize("fault", ["flipped-part", "flipped-role", "absent-part"])
async def test_a_list_that_comes_wrong_changes_nothing_and_holds_no_update_up(
    fleet: FleetRig, origin: HostileOrigin, fault: str
) -> None:
    one = fleet.device("one", origin=origin.url)
    first, second = fleet.device("first"), fleet.device("second")
    version = revoke(fleet, first)
    async with one.running() as a:
        await knows(a, first)
        revoke(fleet, second)
        state = fleet.repository.state()
        bad = f"metadata/{state.roles['revocations'].signed.version}.revocations.json"
        if fault.endswith("part"):
            bad = f"objects/{next(ref for _, ref in state.targets_of('revocations')).sha256.hex()}"

        def spoil(request: Request, answer: Answer) -> Answer | None:
            if request.path != bad:
                return None
            if fault == "absent-part":
                return Answer("404 Not Found", {"Content-Length": "0"}, b"")
            answer.body = flip(answer.body)
            return answer

        origin.fault = spoil
        fleet.order("2.0")
        await a.committed("2.0")
        assert a.agent._revocations.trouble
        assert a.agent._revocations.version == version
        assert a.links.admits(second.credentials.identity)
        assert not a.links.admits(first.credentials.identity)
        origin.fault = None
        a.agent.ask_now()
        await knows(a, second)
        await until(lambda: not a.agent._revocations.trouble, "the trouble is over")


async def test_a_list_of_before_that_is_replayed_lets_nobody_in_again(
    fleet: FleetRig, origin: HostileOrigin, tmp_path: Path
) -> None:
    one = fleet.device("one", origin=origin.url, holds="2.0")
    lost = fleet.device("lost")
    before = tmp_path / "before"
    shutil.copytree(fleet.repository.metadata, before / "metadata")
    shutil.copytree(fleet.repository.objects, before / "objects")
    revoke(fleet, lost)
    async with one.running() as a:
        await knows(a, lost)
    async with HostileOrigin(before).serving() as replaying:
        one.configure(origin=replaying.url)
        async with one.running() as a:
            await until(lambda: replaying.asked["metadata/timestamp.json"] >= 2, "it was asked")
            assert not a.links.admits(lost.credentials.identity)
        shutil.rmtree(one.config.device.state_dir / "trust")  # nor when all TUF state is lost with it
        async with one.running() as a:
            await until(lambda: replaying.asked["metadata/timestamp.json"] >= 4, "it was asked")
            assert not a.links.admits(lost.credentials.identity)


async def test_a_stick_brings_the_list_and_the_site_learns_from_the_device_that_has_it(
    fleet: FleetRig, tmp_path: Path
) -> None:
    one = fleet.device("one", wan=False, holds="2.0")
    two = fleet.device("two", peers=(one,), wan=False, holds="2.0")
    lost = fleet.device("lost")
    revoke(fleet, lost)
    stick = tmp_path / "stick"
    arguments = ["export", "--from", str(fleet.repository.directory), "--out", str(stick), "--metadata-only"]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(CliRunner().invoke, bundle_command, arguments, standalone_mode=False).result()
    assert done.exception is None
    with ThreadPoolExecutor(1) as pool:
        looked = ["inspect", str(stick), "--root", str(one.directory / "root.json"), "--json"]
        done = pool.submit(CliRunner().invoke, bundle_command, looked, standalone_mode=False).result()
    facts = json.loads(done.stdout)
    assert [r["device"] for r in facts["revoked"]] == ["lost"]
    assert facts["signatures"]["valid"]
    imported = await import_bundle(one.config, str(stick), time.time(), partial(progress_bar, "importing"))
    assert imported.release is None
    async with one.running() as a, two.running() as b:
        await knows(a, lost)
        await knows(b, lost)


def test_the_status_of_a_device_that_is_not_enrolled_says_nothing_of_revocations(fleet: FleetRig) -> None:
    device = fleet.device("new", enrolled=False)
    done = CliRunner().invoke(agent_command, ["status", "--config", str(device.config_file), "--json"])
    assert json.loads(done.stdout)["revocations"] is None


def _expire(fleet: FleetRig) -> None:
    """Sign what is published as of seventy days ago."""
    past = replace(fleet.repository, clock=lambda: datetime.now(UTC) - timedelta(days=70))
    with past.locked() as state:
        past.refresh(state, snapshot=True)


@pytest.mark.parametrize("revoked", [False, True], ids=["nobody", "revoked"])
async def test_a_stick_that_is_refused_as_stale_names_the_revoked_all_the_same(
    fleet: FleetRig, tmp_path: Path, revoked: bool
) -> None:
    stick = tmp_path / "stick"
    lost, other = fleet.device("lost", wan=False), fleet.device("d1", wan=False)
    other.adopt()
    fleet.order("2.0")
    if revoked:
        revoke(fleet, lost)
    _expire(fleet)
    arguments = ["export", "--from", str(fleet.repository.directory), "--out", str(stick), "--expired"]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(CliRunner().invoke, bundle_command, arguments, standalone_mode=False).result()
    assert done.exception is None
    async with other.running() as run:
        with pytest.raises(TrustError) as refusal:
            await import_bundle(other.config, str(stick), time.time(), partial(progress_bar, "importing"))
        assert (refusal.value.reason, refusal.value.exit_code) == ("expired", 4)
        assert ("who is revoked was imported" in refusal.value.kept) is revoked
        if revoked:
            await knows(run, lost)
    assert other.running_version() == "1.0"
    imported = other.config.imported_dir
    assert imported.exists() is revoked
    if revoked:
        assert not list(BundleReader.open(str(imported)).table.of(Kind.FRAMES))
        certificate = lost.credentials.identity.certificate
        assert revocations_of(other.config, read_only=True).find(certificate) is not None
