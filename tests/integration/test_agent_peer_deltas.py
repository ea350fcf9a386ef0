"""Peer deltas between real agents: a base that nothing was published for, real slots, real child
processes."""

from __future__ import annotations

import hdiffpatch
import pytest

from p2p.content.limits import KIB
from tests.support.fleet import IMAGES, Device, FleetRig, flip_file
from tests.support.hostile_origin import HostileOrigin

pytestmark = pytest.mark.usefixtures("quick")

MAKES = '[budgets]\nrecompute_memory = "512MiB"'


async def come_from_unpublished(fleet: FleetRig) -> tuple[Device, HostileOrigin]:
    """A device that went from 1.0 to 3.0, for which there is a delta from 2.0 only."""
    fleet.order("3.0")
    origin = HostileOrigin(fleet.repository.directory)
    maker = fleet.device("d0")
    async with origin.serving() as served:
        maker.configure(origin=served.url)
        assert await maker.once() is None
    assert origin.sent[f"objects/{fleet.pack('3.0', None).frames.sha256.hex()}"] > 0
    maker.configure(wan=False, extra=MAKES)
    return maker, origin


async def test_a_base_without_a_pack_costs_its_peer_little_more_than_a_delta(fleet: FleetRig) -> None:
    """No WAN byte, and LAN bytes within 1.2 times what HDiffPatch makes of the two images."""
    maker, _ = await come_from_unpublished(fleet)
    device = fleet.device("d1", peers=(maker,), wan=False, fallback_s=30)
    async with maker.running() as run, device.running() as late:
        await late.committed("3.0")
        given, ledger = run.ledger.sent["d1"], late.ledger
    best = len(hdiffpatch.diff(IMAGES["1.0"], IMAGES["3.0"], "lzma2"))
    assert given <= 1.2 * best
    assert ledger.chunks == ledger.wasted == ledger.wan == 0
    assert 0 < ledger.from_peers <= given, "metadata and the index, beside the deltas"
    assert device.slot("b").read_bytes() == IMAGES["3.0"]


async def test_who_may_not_spend_the_memory_gives_chunks(fleet: FleetRig) -> None:
    maker, _ = await come_from_unpublished(fleet)
    maker.configure(wan=False)
    device = fleet.device("d1", peers=(maker,), wan=False, fallback_s=30)
    async with maker.running(), device.running() as late:
        await late.committed("3.0")
        assert late.ledger.patched == 0 < late.ledger.chunks


@pytest.mark.parametrize("who", ["d0", "d1"])
async def test_off_is_off(fleet: FleetRig, who: str) -> None:
    maker, _ = await come_from_unpublished(fleet)
    device = fleet.device("d1", peers=(maker,), wan=False, fallback_s=30)
    off = 'peer_deltas = "off"\n'
    if who == "d0":
        maker.configure(wan=False, extra=off + MAKES)
    else:
        device.configure(peers=(maker,), wan=False, extra=off)
    async with maker.running(), device.running() as late:
        await late.committed("3.0")
        assert late.ledger.patched == 0 < late.ledger.chunks


async def test_a_damaged_base_is_nobody_elses_fault(fleet: FleetRig) -> None:
    """The delta names other base bytes than this device has: it takes chunks, and bans nobody."""
    maker, _ = await come_from_unpublished(fleet)
    device = fleet.device("d1", peers=(maker,), wan=False, fallback_s=30)
    device.adopt()
    flip_file(device.slot("a"), 200 * KIB, 300 * KIB)
    async with maker.running() as run, device.running() as late:
        await late.committed("3.0")
        assert "d1" in run.ledger.sent
    ledger = device.status["ledger"]
    assert ledger["patched"] == 0 < ledger["chunks"]
    assert ledger["wasted"] > 0
