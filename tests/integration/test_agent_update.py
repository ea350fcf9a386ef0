"""Agents of one process over real sockets, TLS and files: what an update does when nothing is wrong."""

from __future__ import annotations

import pytest

from p2p.content.index import Copy, Patch, Zero, decode
from p2p.content.limits import KIB, MIB
from p2p.swarm import recomputing
from tests.support.fleet import DIGESTS, IMAGES, FleetRig, flip_file, until
from tests.support.hostile_origin import HostileOrigin

pytestmark = pytest.mark.usefixtures("quick")


async def test_a_device_alone_takes_the_delta_from_a_static_origin(fleet: FleetRig) -> None:
    fleet.order("2.0")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        assert await device.once() is None
    assert (device.running_slot, device.running_version()) == ("b", "2.0")
    assert device.slot("a").read_bytes() == IMAGES["1.0"]
    pack = fleet.pack("2.0", "1.0")
    assert origin.sent[f"objects/{pack.frames.sha256.hex()}"] == pack.frames.size
    full = fleet.pack("2.0", None)
    assert origin.sent[f"objects/{full.frames.sha256.hex()}"] == 0
    assert device.valid_slots() == {"a": DIGESTS["1.0"].hex(), "b": DIGESTS["2.0"].hex()}
    assert device.status["state"] == "committed"
    ledger = device.status["ledger"]
    index = decode(fleet.object_path(pack.index.sha256).read_bytes())
    lengths = {
        kind: sum(x.length for x in index.entries if isinstance(x, kind)) for kind in (Copy, Patch, Zero)
    }
    assert (ledger["base"], ledger["patched"], ledger["zero"]) == tuple(lengths.values())
    assert sum(ledger[key] for key in ("base", "patched", "chunks", "zero")) == len(IMAGES["2.0"])


async def test_a_latecomer_takes_all_from_a_complete_peer(fleet: FleetRig) -> None:
    """Each base: the same one rides on patches, others on chunks."""
    fleet.order("2.0")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        first = fleet.device("d1", origin=origin.url)
        async with first.running() as run:
            await run.committed("2.0")
            spent = origin.object_bytes()
            for name, holds in (("same", "1.0"), ("none", None), ("other", "3.0")):
                device = fleet.device(name, peers=(first,), wan=False, holds=holds)
                assert await device.once() is None
                assert device.running_version() == "2.0"
            assert set(run.ledger.sent) == {"same", "none", "other"}
            assert run.ledger.sent["same"] < fleet.pack("2.0", "1.0").wan_bytes + 20_000
        assert origin.object_bytes() - spent <= fleet.pack("2.0", None).index.size


async def test_a_carrier_that_restarted_updates_a_site_without_wan(fleet: FleetRig) -> None:
    """All that it passes on, metadata and indexes too, comes from its own disk."""
    fleet.order("2.0")
    carrier = fleet.device("van", holds=None)
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        carrier.configure(origin=origin.url)
        assert await carrier.once() is None
    carrier.configure(wan=False)
    devices = [
        fleet.device("d1", peers=(carrier,), wan=False, holds=None),
        fleet.device("d2", peers=(carrier,), wan=False, holds="3.0"),
    ]
    async with carrier.running():
        for device in devices:
            assert await device.once() is None
            assert device.running_version() == "2.0"


async def test_a_carrier_makes_patches_anew_for_a_site_without_wan(
    fleet: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It updated by a delta and has started anew: all it has for others is in its two slots."""
    monkeypatch.setattr(recomputing, "PATIENCE_S", 0.1)
    fleet.order("2.0")
    carrier = fleet.device("van")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        carrier.configure(origin=origin.url)
        assert await carrier.once() is None
    carrier.configure(wan=False, extra='[budgets]\nrecompute_memory = "512MiB"')
    device = fleet.device("d1", peers=(carrier,), wan=False)
    async with carrier.running() as run, device.running() as late:
        await late.committed("2.0")
        pack = fleet.pack("2.0", "1.0")
        assert pack.frames.size <= run.ledger.sent["d1"] < pack.wan_bytes + 64 * KIB
    assert device.running_version() == "2.0"
    assert device.status["ledger"]["chunks"] == 0


def changed_by_hand(image: bytes) -> bytes:
    """Bytes were put in near the beginning, and all that follows has moved."""
    return image[: 300 * KIB] + b"put in by hand" * 99 + image[300 * KIB :]


async def test_a_device_with_content_that_nobody_knows_fetches_only_what_it_has_not(fleet: FleetRig) -> None:
    fleet.order("2.0")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        device.slot("a").write_bytes(changed_by_hand(IMAGES["2.0"]))
        assert await device.once() is None
    full = fleet.pack("2.0", None)
    fetched = origin.sent[f"objects/{full.frames.sha256.hex()}"]
    assert 0 < fetched < 0.75 * full.frames.size  # whole frames, for the few chunks that are not there
    assert device.running_version() == "2.0"
    assert device.slot("b").read_bytes()[: len(IMAGES["2.0"])] == IMAGES["2.0"]
    ledger = device.status["ledger"]
    assert ledger["base"] > 0.75 * full.frames.size
    assert sum(ledger[key] for key in ("base", "patched", "chunks", "zero")) == len(IMAGES["2.0"])


async def test_a_base_is_not_looked_through_where_processor_time_is_dear(fleet: FleetRig) -> None:
    fleet.order("2.0")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        device.slot("a").write_bytes(changed_by_hand(IMAGES["2.0"]))
        device.configure(origin=origin.url, extra="[cost]\ncpu_hour = 1e12")
        assert await device.once() is None
    full = fleet.pack("2.0", None)
    assert origin.sent[f"objects/{full.frames.sha256.hex()}"] == full.frames.size
    assert device.running_version() == "2.0"


async def test_a_damaged_base_without_wan_is_mended_by_peers(fleet: FleetRig) -> None:
    fleet.order("2.0")
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        sound = fleet.device("d1", origin=origin.url)
        damaged = fleet.device("d2", peers=(sound,), wan=False)
        damaged.adopt()
        flip_file(damaged.slot("a"), 200 * KIB, 1 * MIB)
        async with sound.running() as run:
            await run.committed("2.0")
            assert await damaged.once() is None
    assert damaged.running_version() == "2.0"


async def test_a_site_of_mixed_bases_pays_once(fleet: FleetRig) -> None:
    """Also when the order comes while all run, and one that has no use for the delta hears of it first."""
    async with HostileOrigin(fleet.repository.directory).serving() as origin:
        first = fleet.device("d1", origin=origin.url, holds="2.0", poll_s=5)
        second = fleet.device("d2", origin=origin.url, holds="1.0", poll_s=5, peers=(first,))
        third = fleet.device("d3", origin=origin.url, holds=None, poll_s=0.3, peers=(first, second))
        async with first.running() as one, second.running() as two, third.running() as three:
            await until(lambda: len(three.node.peers) == len(one.node.peers) == 2, "all are connected")
            fleet.order("3.0")
            for run in (one, two, three):
                await run.committed("3.0")
    delta, full = fleet.pack("3.0", "2.0"), fleet.pack("3.0", None)
    assert origin.sent[f"objects/{delta.frames.sha256.hex()}"] == delta.frames.size
    assert origin.sent[f"objects/{full.frames.sha256.hex()}"] == 0
