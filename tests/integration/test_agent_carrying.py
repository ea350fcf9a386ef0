"""A carrier brings what it does not run itself to a site without a WAN: real agents and coordinator."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.publishing.releases import PayloadInput, ReleaseRequest, build_release, publish_release
from coordinator.publishing.revocations import publish_revocations
from coordinator.publishing.setup import add_product
from p2p.adapters import files
from p2p.adapters.disk_quota import DiskQuota, quota_of
from p2p.agent import carrying
from p2p.agent.carrying import Carrying
from p2p.agent.hold import Hold
from p2p.agent.runtime import Agent
from p2p.content.digests import Digest, sha256
from p2p.content.limits import MIB
from p2p.content.manifest import Manifest, decode_manifest
from p2p.content.order import Order
from p2p.content.revocation import Reason, Revocation
from p2p.errors import SlotError, StoreError
from p2p.trust.cargo import Parcel
from tests.support.fleet import DIGESTS, HARDWARE, IMAGES, Device, FleetRig, RunningAgent, flip, until
from tests.support.hostile_origin import Answer, HostileOrigin, Request

pytestmark = pytest.mark.usefixtures("quick")

OTHER = "pump"
"""A product that the carrier does not run."""

CARRIES = 'carrier = true\n[carrier]\nproducts = ["pump"]\nquota = "64MiB"'
LEARNS = 'carrier = true\n[carrier]\nquota = "64MiB"'


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "LOOK_S", 0.2)
    monkeypatch.setattr(carrying, "RETRY_S", (0.5, 2.0))


@pytest.fixture
def pumps(fleet: FleetRig) -> FleetRig:
    """A fleet with a second product, that has a release 2.0. The carrier's own has no order."""
    with fleet.repository.locked() as state:
        add_product(fleet.repository, state, OTHER)
    payload = PayloadInput("rootfs", fleet.template / "2.0.img", ())
    request = ReleaseRequest(product=OTHER, version="2.0", hardware=(HARDWARE,), payloads=(payload,))
    repository = fleet.repository
    built = build_release(
        request, repository.state(), repository.objects, repository.expiry("release"), workers=1
    )
    publish_release(repository, [built.proposal], None, sign_here=True)
    return fleet


def pump(fleet: FleetRig, name: str, *peers: Device, **settings: Any) -> Device:
    return fleet.device(name, peers=peers, wan=False, product=OTHER, **settings)


def carried(device: Device) -> dict[str, str]:
    return {fact["name"]: fact["state"] for fact in device.status.get("carried", [])}


def ordered(fleet: FleetRig) -> Order:
    return fleet.order("2.0", product=OTHER)


async def whole(device: Device) -> None:
    await until(lambda: carried(device).get("pump 2.0 rootfs") == "whole", "the carrier has the image")


def manifest(fleet: FleetRig) -> Manifest:
    ref = fleet.repository.state().target(f"product-{OTHER}", f"manifests/{OTHER}/2.0.json")
    assert ref is not None
    return decode_manifest(fleet.repository.get(ref))


def left(run: RunningAgent) -> int:
    """Bytes that the carrier still lacks."""
    status = run.node.status(DIGESTS["2.0"])
    return len(IMAGES["2.0"]) if status is None else status.left


def cargo_of(run: RunningAgent) -> Carrying:
    found = run.agent._carrying
    assert found is not None
    return found


def looked(run: RunningAgent) -> bool:
    return cargo_of(run)._seen is not None


def hold(device: Device) -> Hold:
    return Hold(device.config.carrying_dir / "images")


async def test_a_carrier_brings_another_products_release_to_a_site_without_a_wan(
    pumps: FleetRig, stalls: list[str]
) -> None:
    ordered(pumps)
    with pumps.coordinator() as url:
        van = pumps.device("van", coordinator=url, extra=CARRIES)
        async with van.running():
            await whole(van)
    assert hold(van).is_whole(DIGESTS["2.0"])
    van.configure(extra=CARRIES)  # from now on its WAN leads nowhere, and it was switched off
    station = [pump(pumps, "p1", van), pump(pumps, "p2", van, holds=None)]
    async with van.running() as visit, station[0].running() as first, station[1].running() as second:
        await first.committed("2.0")
        await second.committed("2.0")
        assert visit.ledger.sent
    assert [device.running_version() for device in station] == ["2.0", "2.0"]
    assert van.running_version() == "1.0", "it never installs what it carries"
    assert van.record.installed is None
    assert stalls == [], "no event loop has waited for an fsync"


async def test_it_visits_sites_other_than_its_own_if_its_certificate_says_so(pumps: FleetRig) -> None:
    """The twin is `test_agent_peer_faults.test_a_peer_of_another_site_is_parted_with`."""
    ordered(pumps)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", site="road", groups=("carrier",), origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
    van.configure(extra=CARRIES)
    station = [pump(pumps, f"p{n}", van, site=f"station-{n}") for n in (1, 2)]
    async with van.running(), station[0].running() as first, station[1].running() as second:
        await first.committed("2.0")
        await second.committed("2.0")
        assert set(first.node.peers) | set(second.node.peers) == {"van"}


async def test_without_the_product_on_its_list_it_brings_nothing(pumps: FleetRig) -> None:
    """And what it did not ask anybody about it does not have; the twin of the test before."""
    ordered(pumps)
    extra = CARRIES.replace('"pump"', "")
    with pumps.coordinator() as url:
        van = pumps.device("van", coordinator=url, extra=extra)
        async with van.running() as run:
            await until(lambda: looked(run), "it has looked")
    assert hold(van).names() == []


async def test_what_was_asked_for_at_one_visit_comes_with_the_next(pumps: FleetRig) -> None:
    ordered(pumps)
    with pumps.coordinator() as url:
        van = pumps.device("van", coordinator=url, extra=LEARNS)
        async with van.running() as run:
            await until(lambda: looked(run), "it has looked")
        assert hold(van).names() == []
        van.configure(extra=LEARNS)
        station = pump(pumps, "p1", van)
        async with van.running() as run, station.running():
            asked = van.config.carrying_dir / "asked" / "interest"
            await until(lambda: asked.exists() and b"pump" in asked.read_bytes(), "it has heard of it")
        assert hold(van).names() == []
        van.configure(coordinator=url, extra=LEARNS)
        async with van.running():
            await whole(van)
    van.configure(extra=LEARNS)
    async with van.running(), station.running() as late:
        await late.committed("2.0")


async def test_of_two_kinds_of_hardware_that_which_was_met_goes_first(pumps: FleetRig) -> None:
    """There is room for one, and the newest order is for pumps that are nowhere on its way."""
    payload = PayloadInput("rootfs", pumps.template / "3.0.img", ())
    request = ReleaseRequest(product=OTHER, version="3.0", hardware=("elsewhere",), payloads=(payload,))
    repository = pumps.repository
    built = build_release(
        request, repository.state(), repository.objects, repository.expiry("release"), workers=1
    )
    publish_release(repository, [built.proposal], None, sign_here=True)
    ordered(pumps)
    pumps.order("3.0", product=OTHER)
    extra = CARRIES.replace("64MiB", "6MiB")
    async with HostileOrigin(repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=extra)
        async with van.running():
            at_first = {"pump 3.0 rootfs": "whole", "pump 2.0 rootfs": "no-room"}
            await until(lambda: carried(van) == at_first, "it carries the newest")
        van.configure(extra=extra)
        station = pump(pumps, "p1", van)
        asked = van.config.carrying_dir / "asked" / "interest"
        async with van.running(), station.running():
            await until(
                lambda: asked.exists() and HARDWARE.encode() in asked.read_bytes(), "it knows whom it met"
            )
        van.configure(origin=origin.url, extra=extra)
        van.config.status_path.unlink()
        async with van.running():
            then = {"pump 2.0 rootfs": "whole", "pump 3.0 rootfs": "no-room"}
            await until(lambda: carried(van) == then, "it carries what is needed")
    van.configure(extra=extra)
    async with van.running(), station.running() as late:
        await late.committed("2.0")


async def test_what_came_before_it_was_switched_off_does_not_come_again(pumps: FleetRig) -> None:
    """And is of use on the way: the station has it when the rest comes."""
    ordered(pumps)
    frames = manifest(pumps).payloads[0].full_pack.frames
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES, wan_rate="1MB/s")
        async with van.running() as run:
            await until(lambda: left(run) < len(IMAGES["2.0"]) // 2, "half of it has come")
        assert not hold(van).is_whole(DIGESTS["2.0"])
        van.configure(extra=CARRIES)
        station = pump(pumps, "p1", van, holds=None)
        async with van.running(), station.running() as late:
            await until(lambda: late.ledger.peers.get("van", 0) > len(IMAGES["2.0"]) // 4, "it has a part")
        van.configure(origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
        assert origin.sent[f"objects/{frames.sha256.hex()}"] < 1.2 * frames.size
        van.configure(extra=CARRIES)
        async with van.running() as visit, station.running() as late:
            await late.committed("2.0")
            assert visit.ledger.sent["p1"] < 0.8 * len(IMAGES["2.0"])


async def test_what_has_expired_meanwhile_stays_in_the_hold(
    pumps: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is of use is for the devices to say: their orders may except them."""
    ordered(pumps)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
    van.configure(extra=CARRIES)
    monkeypatch.setattr(Agent, "_now", lambda agent: time.time() + 70 * 86_400)
    van.config.status_path.unlink()
    async with van.running():
        await whole(van)
    assert hold(van).is_whole(DIGESTS["2.0"])


async def test_its_status_says_when_it_lacks_what_it_needs_to_give_an_image_away(pumps: FleetRig) -> None:
    ordered(pumps)
    pumps.order("3.0")

    def lacks(key: str) -> list[str | None]:
        return [fact.get("lacks", "?") for fact in van.status.get(key, [])]

    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await until(lambda: (lacks("given"), lacks("carried")) == ([None], [None]), "nothing is lacking")
    for index in (van.directory / "state" / "indexes").iterdir():
        index.unlink()
    van.configure(extra=CARRIES)
    van.config.status_path.unlink()
    async with van.running():
        await until(lambda: lacks("given") == lacks("carried") == ["index"], "indexes are lacking")
        assert carried(van) == {"pump 2.0 rootfs": "whole"}


async def test_what_was_stale_when_it_came_is_not_carried(pumps: FleetRig) -> None:
    ordered(pumps)
    past = replace(pumps.repository, clock=lambda: datetime.now(UTC) - timedelta(days=70))
    with past.locked() as state:
        past.refresh(state, snapshot=True)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await until(lambda: origin.asked["metadata/timestamp.json"] > 2, "it has asked")
        assert origin.object_bytes() == 0
    assert hold(van).names() == []


async def test_who_is_revoked_is_given_nothing(pumps: FleetRig) -> None:
    """The list came along; the twin is the other device of the station."""
    ordered(pumps)
    stolen, honest = pump(pumps, "p1"), pump(pumps, "p2")
    revocation = Revocation(
        stolen.credentials.identity.certificate, "p1", Reason.LOST, float(int(stolen.credentials.not_after))
    )
    publish_revocations(pumps.repository, [revocation])
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
    van.configure(extra=CARRIES)
    for device in (stolen, honest):
        device.configure(peers=(van,), wan=False, product=OTHER)
    async with van.running() as visit, stolen.running(), honest.running() as late:
        await late.committed("2.0")
        assert set(visit.ledger.sent) == {"p2"}
    assert stolen.running_version() == "1.0"


async def test_who_has_a_wan_of_its_own_is_nobody_to_carry_for(pumps: FleetRig) -> None:
    ordered(pumps)
    van = pumps.device("van", extra=LEARNS)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van.configure(origin=origin.url, extra=LEARNS)
        other = pumps.device("p1", peers=(van,), product=OTHER, origin=origin.url)
        async with van.running() as run, other.running() as updated:
            await updated.committed("2.0")
            await until(lambda: looked(run), "it has looked")
        assert cargo_of(run)._interest.products(0.0) == ()


async def test_an_order_that_is_aborted_empties_the_hold(pumps: FleetRig) -> None:
    order = ordered(pumps)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
            pumps.abort(order)
            await until(lambda: not hold(van).names(), "nothing is carried")


async def test_what_does_not_fit_is_told_and_not_fetched(pumps: FleetRig) -> None:
    ordered(pumps)
    extra = CARRIES.replace("64MiB", "3MiB")
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=extra)
        async with van.running():
            await until(lambda: carried(van) == {"pump 2.0 rootfs": "no-room"}, "it says so")
        assert origin.object_bytes() < 100_000
    assert hold(van).names() == []


async def test_what_is_there_of_an_image_counts_once_against_the_disk_quota(pumps: FleetRig) -> None:
    """Else a carrier that was switched off half-way could not go on with what it has room for."""
    ordered(pumps)
    extra = 'carrier = true\n[carrier]\nproducts = ["pump"]\nquota = "6MiB"\n[budgets]\ndisk_max = "16MiB"\n'
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=extra + 'wan_rate_max = "1MB/s"')
        async with van.running() as run:
            await until(lambda: left(run) < len(IMAGES["2.0"]) // 2, "half of it has come")
        free = quota_of(van.config).most or 0
        free -= quota_of(van.config).used()
        other = van.config.device.state_dir / "imported"
        other.mkdir()
        (other / "other").write_bytes(bytes(free - len(IMAGES["2.0"]) // 2))
        van.configure(origin=origin.url, extra=extra)
        van.config.status_path.unlink()
        async with van.running() as run:
            assert run.agent._updates._quota is cargo_of(run)._quota, "what has no name counts for both"
            await whole(van)


def publish_delta(fleet: FleetRig) -> Manifest:
    """A pump release 3.0 with a delta from 2.0, ordered."""
    payload = PayloadInput("rootfs", fleet.template / "3.0.img", (fleet.template / "2.0.img",))
    request = ReleaseRequest(product=OTHER, version="3.0", hardware=(HARDWARE,), payloads=(payload,))
    repository = fleet.repository
    built = build_release(
        request, repository.state(), repository.objects, repository.expiry("release"), workers=1
    )
    publish_release(repository, [built.proposal], None, sign_here=True)
    fleet.order("3.0", product=OTHER)
    ref = repository.state().target(f"product-{OTHER}", f"manifests/{OTHER}/3.0.json")
    assert ref is not None
    return decode_manifest(repository.get(ref))


@pytest.mark.parametrize(("quota", "kept"), [("64MiB", True), ("6MiB", False)])
async def test_what_it_brought_before_makes_the_next_a_delta_and_gives_patches(
    pumps: FleetRig, quota: str, kept: bool
) -> None:
    """If there is room for both; else the whole of the new one comes."""
    ordered(pumps)
    extra = CARRIES.replace("64MiB", quota)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=extra)
        async with van.running():
            await whole(van)
        packs = {pack.base: pack.frames for pack in publish_delta(pumps).payloads[0].packs}
        full, delta = packs[None], packs[DIGESTS["2.0"]]
        station = pump(pumps, "p1", van, holds="2.0")
        van.config.status_path.unlink()
        async with van.running():
            await until(lambda: carried(van) == {"pump 3.0 rootfs": "whole"}, "it has the newer one")
            async with station.running() as late:
                await late.committed("3.0")
                assert (late.ledger.chunks == 0) is kept
    sent = {ref: origin.sent[f"objects/{ref.sha256.hex()}"] for ref in (full, delta)}
    assert (sent[full] == 0) is kept
    assert (sent[delta] > 0) is kept
    assert hold(van).is_whole(DIGESTS["2.0"]) is kept
    assert station.running_version() == "3.0"


def rot(device: Device) -> None:
    """One byte in the middle of what it carries is another."""
    (place,) = (device.config.carrying_dir / "images").glob("*/image")
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0xFF
    place.write_bytes(data)


async def test_what_rots_in_the_hold_is_found_when_it_is_asked_for_and_comes_again(pumps: FleetRig) -> None:
    """Only that: the rest is kept, and given meanwhile."""
    ordered(pumps)
    frames = manifest(pumps).payloads[0].full_pack.frames
    name = f"objects/{frames.sha256.hex()}"
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
        rot(van)
        van.configure(extra=CARRIES)
        van.config.status_path.unlink()
        station = pump(pumps, "p1", van, holds=None)
        async with van.running() as visit, station.running() as late:
            await until(lambda: carried(van) == {"pump 2.0 rootfs": "coming"}, "it was found")
            lacks = left(visit)
            given = 3 * len(IMAGES["2.0"]) // 4
            await until(lambda: late.ledger.peers.get("van", 0) > given, "the rest is given")
        assert 0 < lacks < len(IMAGES["2.0"]) // 8
        assert not hold(van).is_whole(DIGESTS["2.0"])
        before = origin.sent[name]
        van.configure(origin=origin.url, extra=CARRIES)
        van.config.status_path.unlink()
        async with van.running(), station.running() as late:
            await whole(van)
            await late.committed("2.0")
        assert 0 < origin.sent[name] - before < frames.size // 4
    assert hold(van).is_whole(DIGESTS["2.0"])


async def test_an_image_that_cannot_be_dropped_holds_up_no_other(
    pumps: FleetRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, tries, drop = sha256(b"of an order that is over"), [], Hold.drop

    def fails(held: Hold, image: Digest) -> None:
        tries.append(image)
        if broken:
            raise SlotError("carried image: cannot drop it: Input/output error")
        drop(held, image)

    monkeypatch.setattr(Hold, "drop", fails)
    broken = True
    ordered(pumps)
    with pumps.coordinator() as url:
        van = pumps.device("van", coordinator=url, extra=CARRIES)
        place = van.config.carrying_dir / "images" / stuck.hex()
        place.mkdir(parents=True)
        async with van.running():
            await whole(van)
            await until(lambda: len(tries) > 2, "it is tried again")
            assert caplog.text.count("cannot drop it") == 1
            broken = False
            await until(lambda: not place.exists(), "it goes once it can")
    assert set(tries) == {stuck}


async def test_an_image_that_cannot_be_looked_at_is_told_and_tried_again(
    pumps: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others of the cargo are looked at as ever."""
    is_whole = Hold.is_whole

    def fails(held: Hold, image: Digest) -> bool:
        if broken:
            raise SlotError("carried image: cannot open it: Input/output error")
        return is_whole(held, image)

    monkeypatch.setattr(Hold, "is_whole", fails)
    broken = True
    ordered(pumps)
    with pumps.coordinator() as url:
        van = pumps.device("van", coordinator=url, extra=CARRIES)
        async with van.running():
            await until(lambda: carried(van).get("pump 2.0 rootfs") == "failed", "it says so")
            (fact,) = van.status["carried"]
            assert "cannot open it" in fact["reason"]
            broken = False
            await whole(van)


def test_images_that_come_together_fit_the_disk_quota_also_where_nothing_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on UBIFS: what an image lacks takes up nothing yet, and each alone would fit."""
    monkeypatch.setattr(files, "_fallocate", lambda fd, size: None)
    size = 6 * MIB
    at: Any = SimpleNamespace(_hold=Hold(tmp_path / "images"), _quota=DiskQuota(tmp_path, (), 13 * MIB))
    first, second, third = (
        cast(Parcel, SimpleNamespace(
            image=sha256(name), size=size, name=name.decode(),
            payload=SimpleNamespace(image=SimpleNamespace(size=size)),
        )) for name in (b"one", b"two", b"three")
    )  # fmt: skip
    writer = Carrying._begin(at, first, {})
    Carrying._begin(at, second, {first.image: size}).close()
    both = {first.image: size, second.image: size}
    with pytest.raises(StoreError, match="disk_max: three needs"):
        Carrying._begin(at, third, both)
    writer.write(0, bytes(size))  # it counts once, whether it is written or has yet to be
    writer.close()
    with pytest.raises(StoreError, match="disk_max: three needs"):
        Carrying._begin(at, third, both)
    at._quota.most = 20 * MIB
    Carrying._begin(at, third, both).close()


def wrong_frames(request: Request, answer: Answer) -> Answer | None:
    """Whatever is large is wrong."""
    if request.start is None or len(answer.body) < 100_000:
        return None
    return replace(answer, body=flip(answer.body))


async def test_a_product_of_which_nothing_can_be_had_for_a_while_comes_later(pumps: FleetRig) -> None:
    """And until then nothing that lies in the hold is dropped."""
    ordered(pumps)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await whole(van)
        shutil.rmtree(van.config.carrying_dir / "trust")
        origin.fault = lambda request, answer: (
            replace(answer, status="503 Busy", body=b"") if "orders-pump" in request.path else None
        )
        van.config.status_path.unlink()
        async with van.running() as run:
            await until(lambda: origin.faults and cargo_of(run)._seen, "it has looked, and was refused")
            assert hold(van).is_whole(DIGESTS["2.0"])
            origin.fault = None
            await whole(van)


async def test_bytes_of_a_lying_origin_are_neither_kept_nor_given_away(pumps: FleetRig) -> None:
    ordered(pumps)
    async with HostileOrigin(pumps.repository.directory).serving() as origin:
        origin.fault = wrong_frames
        van = pumps.device("van", origin=origin.url, extra=CARRIES)
        async with van.running():
            await until(lambda: origin.object_bytes() > len(IMAGES["2.0"]), "it was given wrong bytes")
            assert carried(van) != {"pump 2.0 rootfs": "whole"}
    assert not hold(van).is_whole(sha256(IMAGES["2.0"]))
