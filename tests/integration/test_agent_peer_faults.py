"""Peers that lie, stall, flood and poison: the image is right, bad bytes go nowhere, honest peers remain.

The bad peer has a true certificate of the fleet; each test has the same device with the same peer left
honest as its twin, or ends with the update done elsewhere.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from p2p.content.limits import MIB
from p2p.errors import OriginError, PeerError
from p2p.ports import PeerStream
from p2p.swarm import messages as m
from p2p.swarm import wire
from tests.support.certificates import Fleet as OtherFleet
from tests.support.fleet import DIGESTS, FleetRig, flip, until
from tests.support.hostile_origin import HostileOrigin
from tests.support.puppet import Puppet

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def frames_sent(fleet: FleetRig, origin: HostileOrigin, version: str = "2.0") -> int:
    """Frame bytes of the release that crossed the WAN."""
    packs = fleet.manifest(version).payloads[0].packs
    return sum(origin.sent[f"objects/{pack.frames.sha256.hex()}"] for pack in packs)


def poisons(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
    if isinstance(message, m.Want):
        return m.Piece(message.request, flip(puppet.payload(message.piece)))
    return puppet.honest(message)


def denies(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
    if isinstance(message, m.Want):
        return m.Refuse(message.request, m.Refusal.DONT_HAVE)
    return puppet.honest(message)


def ignores(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
    return None if isinstance(message, m.Want) else puppet.honest(message)


def overlong(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
    if isinstance(message, m.Want):
        return m.Piece(message.request, puppet.payload(message.piece) + b"x")
    return puppet.honest(message)


def half(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | bytes | None:
    if isinstance(message, m.Want):
        head, payload = wire.encode(m.Piece(message.request, puppet.payload(message.piece)))
        return bytes(head) + bytes(payload)[:1000] if puppet.got["Want"] == 1 else None
    return puppet.honest(message)


def absurd(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | bytes | None:
    if isinstance(message, m.Want):
        return wire.PREFIX.pack(2, 0xFFFFFFFF) + bytes(100)
    return puppet.honest(message)


def garbage(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | bytes | None:
    if isinstance(message, m.Want):
        return wire.PREFIX.pack(4, 0) + b"\xff\xff\xff\xff"
    return puppet.honest(message)


def unasked(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
    return m.Piece(777_777, b"nobody wanted this") if isinstance(message, m.Want) else puppet.honest(message)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (poisons, "closing the connection to bad: bad-piece"),
        (overlong, "closing the connection to bad: bad-piece"),
        (absurd, "bad breaks the protocol: message: payload of 4294967295 bytes"),
        (garbage, "bad breaks the protocol: message"),
        (unasked, "closing the connection to bad: protocol"),
        (denies, None),
        (ignores, None),
        (half, None),
    ],
)
async def test_a_bad_peer_costs_time_and_nothing_else(
    fleet: FleetRig, origin: HostileOrigin, caplog: pytest.LogCaptureFixture, fault: object, says: str | None
) -> None:
    caplog.set_level(logging.INFO)
    fleet.order("2.0")
    bad = Puppet(fleet.device("bad", origin=origin.url), answer=fault)
    device = fleet.device("d1", origin=origin.url, peers=(bad.device,), settle_s=0.4)
    behind = fleet.device("d2", origin=origin.url, peers=(device,), wan=False, holds=None)
    async with bad.serving(), device.running() as run, behind.running() as rider:
        await run.committed("2.0")
        await rider.committed("2.0")
        if says and "bad-piece" in says:
            assert "bad" not in run.links.devices
            assert not run.links.admits(bad.device.credentials.identity)
        assert rider.links.admits(device.credentials.identity)  # nothing bad was passed on
        assert rider.ledger.peers["d1"] > 0  # (it may have met the bad one itself, through d1's introduction)
    assert bad.got["Want"] > 0
    if says:
        assert says in caplog.text
    assert device.running_version() == behind.running_version() == "2.0"
    assert frames_sent(fleet, origin) > 0


async def test_the_same_peer_left_honest_gives_the_whole_image(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    good = Puppet(fleet.device("good", origin=origin.url))
    device = fleet.device("d1", origin=origin.url, peers=(good.device,), settle_s=0.4)
    async with good.serving(), device.running() as run:
        await run.committed("2.0")
        assert run.ledger.peers["good"] > 0
        assert run.links.devices == ("good",)
    assert device.running_version() == "2.0"
    assert frames_sent(fleet, origin) == 0


async def test_a_poisoned_piece_comes_from_another_peer(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0")
    bad = Puppet(fleet.device("bad"), answer=poisons)
    good = Puppet(fleet.device("good"))
    device = fleet.device("d1", peers=(bad.device, good.device), wan=False, holds=None)
    async with bad.serving(), good.serving(), device.running() as run:
        await run.committed("2.0")
        assert set(run.links.devices) == {"good"}
        assert not run.links.admits(bad.device.credentials.identity)
        assert run.links.admits(good.device.credentials.identity)
        assert run.ledger.peers["good"] > MIB
        assert "bad" not in {d for d, size in run.ledger.peers.items() if size > MIB}
    assert device.running_version() == "2.0"
    assert not origin.requests  # a site without WAN updates from its peers, metadata included


async def test_a_banned_peer_is_not_let_in_again(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0")
    bad = Puppet(fleet.device("bad"), answer=poisons)
    device = fleet.device("d1", origin=origin.url, peers=(bad.device,), settle_s=0.4)
    async with bad.serving(), device.running() as run:
        await run.committed("2.0")
        with pytest.raises(PeerError) as refusal:
            await bad.dial(device)
        assert refusal.value.reason == "refused"
        stranger = Puppet(fleet.device("stranger"))
        stream = await stranger.dial(device)
        await stream.aclose()


async def test_a_peer_with_another_fleets_certificate_gets_not_one_byte(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    spy = fleet.device("spy")
    other = OtherFleet("other")
    key = spy.credentials.key
    now = datetime.datetime.now(datetime.UTC).timestamp()
    forged = other.issue(key.public_key(), "spy", not_before=now - 1000, not_after=now + 1000)
    ours = spy.config.certificate_path.read_bytes()
    async with device.running() as run:
        await run.committed("2.0")
        stream = await Puppet(spy).dial(device)  # the twin: our own fleet's certificate
        await stream.aclose()
        puppet = Puppet(spy)
        spy.config.certificate_path.write_bytes(forged.public_bytes(serialization.Encoding.PEM))
        spy.config.fleet_ca_path.write_bytes(other.pem)
        with pytest.raises(PeerError) as refusal:
            await puppet.dial(device)
        assert refusal.value.reason == "not-of-fleet"
        assert run.ledger.sent == {}
        assert run.links.devices == ()
    spy.config.certificate_path.write_bytes(ours)


async def test_a_peer_of_another_site_is_parted_with(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0")
    far = Puppet(fleet.device("far", site="harbour"))
    device = fleet.device("d1", origin=origin.url, peers=(far.device,))
    async with far.serving(), device.running() as run:
        await run.committed("2.0")
        await until(lambda: far.streams and far.ended.is_set(), "the connection was closed")
        assert run.ledger.sent == {}
        assert "far" not in run.ledger.peers
    assert far.bye[:1] == ["other-site"]
    assert far.got["Want"] == far.got["Piece"] == 0
    assert frames_sent(fleet, origin) > 0


async def test_a_lie_about_ones_site_does_not_help(fleet: FleetRig, origin: HostileOrigin) -> None:
    """The certificate says which site a device is of; what its hello says is not enough."""
    fleet.order("2.0")
    far = Puppet(fleet.device("far", site="harbour"))
    far.site = "depot"
    device = fleet.device("d1", origin=origin.url, peers=(far.device,))
    async with far.serving(), device.running() as run:
        await run.committed("2.0")
        assert "far" not in run.ledger.peers
        assert "far" not in run.node.peers


async def test_a_peer_that_never_reads_is_cut_off(fleet: FleetRig, origin: HostileOrigin) -> None:
    """It asks for pieces without end and takes none: the queue stays bounded, others are served."""
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    glutton, honest = Puppet(fleet.device("glutton")), fleet.device("d2", peers=(device,), wan=False)
    async with device.running() as run:
        await run.committed("2.0")
        stream = await glutton.dial(device)
        for message in glutton.greet():
            await glutton.send(stream, message)
        with pytest.raises(PeerError), trio.fail_after(60):
            for start in range(
                0, 5_000_000, 100
            ):  # what the kernel's buffers hold of the answers comes first
                wants = (
                    m.Want(n, glutton.image, glutton.pack.index.sha256, n % 20)
                    for n in range(start, start + 100)
                )
                await glutton.send(stream, b"".join(bytes(part) for w in wants for part in wire.encode(w)))
        await until(lambda: "glutton" not in run.links.devices, "it was cut off")
        await stream.aclose()
        async with honest.running() as other:
            await other.committed("2.0")
        assert run.links.devices == () or "d2" in run.ledger.sent


@pytest.mark.parametrize("kind", ["news", "joins", "haves", "peers", "objects"])
async def test_a_flood_does_not_hold_an_update_up(fleet: FleetRig, origin: HostileOrigin, kind: str) -> None:
    fleet.order("2.0")
    device = fleet.device("d1", origin=origin.url)
    flood = Puppet(fleet.device("flood"))

    def message(n: int) -> m.Message:
        digest = DIGESTS["1.0"][:-4] + n.to_bytes(4, "big")
        match kind:
            case "news":
                return m.News(1, 1_000_000 + n)
            case "joins":
                return m.Join(digest, None, True, 100, False)
            case "haves":
                return m.HaveMore(flood.image, digest, tuple(range(4000)))
            case "peers":
                return m.Peers(tuple((f"d{n}-{i}", "127.0.0.1", 9) for i in range(32)))
            case _:
                return m.ObjectWant(n, digest, 1000)

    async def pour() -> None:
        stream = await flood.dial(device)
        try:
            await flood.send(stream, flood.greet()[0])
            for n in range(2_000 if kind in ("haves", "peers") else 6_000):
                await flood.send(stream, message(n))
        except PeerError:
            pass  # cut off
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async with device.running() as run, trio.open_nursery() as nursery:
        await until(lambda: run.agent._transport.port, "it listens")
        nursery.start_soon(pour)
        await run.committed("2.0")
        nursery.cancel_scope.cancel()
    assert device.running_version() == "2.0"
    polls = origin.asked["metadata/timestamp.json"]
    assert polls < 40, f"{polls} polls of the origin"
    assert origin.object_bytes() < fleet.pack("2.0", "1.0").wan_bytes + 100_000


async def test_stale_metadata_of_a_peer_masks_nothing(fleet: FleetRig, origin: HostileOrigin) -> None:
    """It says that it has newer metadata than everybody, and gives rubbish."""
    fleet.order("2.0")

    def rubbish(puppet: Puppet, _: PeerStream, message: m.Message) -> m.Message | None:
        return m.Blob(message.request, b"{}") if isinstance(message, m.MetadataWant) else None

    bad = Puppet(fleet.device("bad"), answer=rubbish)
    bad._timestamp_version = lambda: 10**9
    good = Puppet(fleet.device("good"))
    device = fleet.device("d1", peers=(bad.device, good.device), wan=False, holds=None)
    async with bad.serving(), good.serving(), device.running() as run:
        await run.committed("2.0")
    assert bad.got["MetadataWant"] > 0
    assert device.running_version() == "2.0"


async def test_an_old_timestamp_of_the_origin_is_refused_and_a_peers_newer_one_taken(
    fleet: FleetRig, origin: HostileOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fleet.order("2.0")
    old = (fleet.repository.metadata / "timestamp.json").read_bytes()
    device = fleet.device("d1", origin=origin.url)
    assert await device.once() is None
    fleet.order("3.0")
    good = Puppet(fleet.device("good"), "3.0")

    def replayed(request, answer):
        if request.path != "metadata/timestamp.json":
            return None
        return type(answer)("200 OK", {"Content-Length": str(len(old))}, old)

    origin.fault = replayed
    assert await device.once() is None  # what it runs is what was meant; the replay brings nothing
    assert device.running_version() == "2.0"
    device.configure(origin=origin.url, peers=(good.device,))
    async with good.serving(), device.running() as run:
        await run.committed("3.0")
    assert device.running_version() == "3.0"
    assert origin.faults > 0


async def test_an_update_ends_from_peers_while_the_origin_is_down(fleet: FleetRig) -> None:
    """The device believes that it has WAN; nothing of the origin answers."""
    fleet.order("2.0")
    good = Puppet(fleet.device("good"))
    device = fleet.device("d1", origin="http://127.0.0.1:9", peers=(good.device,), holds=None)
    alone = fleet.device("d2", origin="http://127.0.0.1:9")
    outcome = await alone.once()
    assert isinstance(outcome, OriginError)
    assert outcome.reason == "unreachable"
    async with good.serving(), device.running() as run:
        await run.committed("2.0")
    assert device.running_version() == "2.0"
