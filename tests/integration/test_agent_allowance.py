"""Budgets of real agents: windows and quotas close the WAN for images, and for nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import trio

from p2p.adapters.slots import FileSlots, SlotImage
from p2p.content.limits import KIB
from p2p.errors import OriginError, SlotError
from tests.support.fleet import DIGESTS, Device, FleetRig, until
from tests.support.hostile_origin import HostileOrigin
from tests.support.puppet import Puppet

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def origin(fleet: FleetRig) -> AsyncIterator[HostileOrigin]:
    async with HostileOrigin(fleet.repository.directory).serving() as serving:
        yield serving


def window(*, is_open: bool) -> str:
    """Two hours around now, or beginning in two hours, in UTC."""
    start = datetime.now(UTC) + timedelta(hours=-1 if is_open else 2)
    return f'[budgets]\nwan_windows = ["{start:%H:%M}-{start + timedelta(hours=2):%H:%M}"]'


def objects_sent(fleet: FleetRig, origin: HostileOrigin) -> int:
    """Bytes of frames and indexes that crossed the WAN."""
    packs = fleet.manifest("2.0").payloads[0].packs
    names = [ref.sha256.hex() for pack in packs for ref in (pack.frames, pack.index)]
    return sum(origin.sent[f"objects/{name}"] for name in names)


def alone(fleet: FleetRig, origin: HostileOrigin, budgets: str) -> Device:
    fleet.order("2.0")
    return fleet.device("d1", origin=origin.url, extra=budgets)


async def test_outside_its_windows_a_device_says_so_and_fetches_nothing(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    device = alone(fleet, origin, window(is_open=False))
    outcome = await device.once()
    assert isinstance(outcome, OriginError)
    assert "closed for updates by budgets.wan_windows until" in outcome.message
    assert objects_sent(fleet, origin) == 0
    assert device.running_version() == "1.0"
    assert device.status["wan"]["closed_by"] == "window"


async def test_within_them_it_updates(fleet: FleetRig, origin: HostileOrigin) -> None:
    device = alone(fleet, origin, window(is_open=True))
    assert await device.once() is None
    assert device.running_version() == "2.0"
    assert device.status["wan"]["open"] is True


async def test_peers_give_at_any_time(fleet: FleetRig, origin: HostileOrigin) -> None:
    fleet.order("2.0")
    good = Puppet(fleet.device("good"))
    device = fleet.device("d1", origin=origin.url, peers=(good.device,), extra=window(is_open=False))
    async with good.serving(), device.running() as run:
        await run.committed("2.0")
    assert objects_sent(fleet, origin) == 0
    assert device.running_version() == "2.0"


async def test_a_quota_that_is_used_up_ends_what_is_fetched_and_keeps_it(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    """What was verified stays; when there is room again the device goes on from it."""
    frames = fleet.pack("2.0", None).frames.size
    fleet.order("2.0")
    small = f'[budgets]\nwan_month_max = {frames // 2}\nwan_rate_max = "{frames // 3}B/s"'
    device = fleet.device("d1", origin=origin.url, holds=None, extra=small)
    async with device.running():
        await until(lambda: device.status.get("wan", {}).get("closed_by") == "quota", "quota used up")
        kept = device.status["progress"]["done"]
    assert device.valid_slots() == {}
    sent = objects_sent(fleet, origin)
    assert sent < frames
    again = device.config_file.read_text().replace(
        f"wan_month_max = {frames // 2}", f"wan_month_max = {3 * frames}"
    )
    device.config_file.write_text(again)
    async with device.running() as run:
        await run.committed("2.0")
    assert device.running_version() == "2.0"
    assert device.status["wan"]["month_used"] >= frames  # of both runs
    assert kept > 0
    assert objects_sent(fleet, origin) - sent < frames


async def test_what_one_device_has_used_of_its_sites_quota_another_knows_also_after_a_restart(
    fleet: FleetRig, origin: HostileOrigin
) -> None:
    """The first pays for the delta; what is left does not do for the second's full image."""
    fleet.order("2.0")
    delta, full = fleet.pack("2.0", "1.0").frames.size, fleet.pack("2.0", None).frames.size
    quota = f"[budgets]\nsite_wan_month_max = {full + delta // 2}"
    first = fleet.device("d1", origin=origin.url, extra=quota)
    second = fleet.device("d2", peers=(first,), origin=origin.url, extra=quota)
    async with first.running() as run, second.running():
        await run.committed("2.0")
        await until(
            lambda: second.status.get("wan", {}).get("site_used", 0) > delta, "what the first has used"
        )
    used = second.status["wan"]["site_used"]
    async with second.running():
        await until(lambda: second.status.get("wan", {}).get("site_used", 0) >= used, "the same")
        assert second.status["wan"]["site_max"] == full + delta // 2
    assert used >= first.status["wan"]["month_used"] * 0.9


@pytest.mark.parametrize("dear_first", [True, False])
async def test_the_device_with_the_cheaper_uplink_fetches(
    fleet: FleetRig, origin: HostileOrigin, dear_first: bool
) -> None:
    """Whichever of the two chance would have taken."""
    fleet.order("2.0")
    prices = {"d1": 4.0 if dear_first else 0.01, "d2": 0.01 if dear_first else 4.0}
    one = fleet.device("d1", origin=origin.url, extra=f"[budgets]\nwan_price_per_mb = {prices['d1']}")
    other = fleet.device(
        "d2", peers=(one,), origin=origin.url, extra=f"[budgets]\nwan_price_per_mb = {prices['d2']}"
    )
    async with one.running() as run, other.running() as late:
        await run.committed("2.0")
        await late.committed("2.0")
        wan = {d: r.ledger.wan for d, r in (("d1", run), ("d2", late))}
    cheap = min(prices, key=prices.__getitem__)
    assert wan[cheap] >= fleet.pack("2.0", "1.0").frames.size
    assert sum(size for d, size in wan.items() if d != cheap) < 8 * KIB  # signed files, but no frames


def conditions(device: Device, text: str) -> None:
    """As a modem manager writes it."""
    (device.config_file.parent / "now.toml").write_text(text)


NOW = '[budgets]\nconditions = "now.toml"\n'


async def test_a_device_that_roams_fetches_nothing(fleet: FleetRig, origin: HostileOrigin) -> None:
    device = alone(fleet, origin, NOW)
    conditions(device, "roaming = true")
    outcome = await device.once()
    assert isinstance(outcome, OriginError)
    assert "closed for updates while the device roams (budgets.wan_roaming)" in outcome.message
    assert objects_sent(fleet, origin) == 0
    assert device.status["wan"]["closed_by"] == "roaming"


@pytest.mark.parametrize(
    ("text", "budgets"), [("roaming = true", "wan_roaming = true\n"), ("metered = true\nbattery = true", "")]
)
async def test_one_that_may_roam_or_is_alone_on_a_metered_link_updates(
    fleet: FleetRig, origin: HostileOrigin, text: str, budgets: str
) -> None:
    device = alone(fleet, origin, NOW + budgets)
    conditions(device, text)
    assert await device.once() is None
    assert device.running_version() == "2.0"


async def test_a_device_that_is_back_home_goes_on(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.agent.conditions.LOOK_S", 0.05)
    device = alone(fleet, origin, NOW)
    conditions(device, "roaming = true")
    async with device.running() as run:
        await until(lambda: device.status.get("wan", {}).get("closed_by") == "roaming", "roaming noticed")
        assert objects_sent(fleet, origin) == 0
        conditions(device, "roaming = false")
        await run.committed("2.0")


async def test_a_device_on_its_battery_does_not_serve_what_it_runs(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peer takes all from the origin; the same device on mains gives all of it."""
    monkeypatch.setattr("p2p.agent.conditions.LOOK_S", 0.05)
    full = fleet.device("full", holds="2.0", origin=origin.url, extra=NOW)
    conditions(full, "battery = true")
    first = fleet.device("d1", origin=origin.url, peers=(full,), extra=window(is_open=False))
    fleet.order("2.0")
    async with full.running(), first.running() as run:
        await until(lambda: bool(first.status.get("peers")), "connected")
        await until(lambda: first.status.get("state") == "fetching", "fetching")
        await trio.sleep(1.0)
        ledger = first.status["ledger"]
        assert (ledger["patched"], ledger["chunks"]) == (0, 0)  # signed documents it is given even so
        conditions(full, "battery = false")
        await run.committed("2.0")
    frames = [pack.frames.sha256.hex() for pack in fleet.manifest("2.0").payloads[0].packs]
    assert not any(origin.sent[f"objects/{name}"] for name in frames)


# For how long a device serves


@pytest.mark.parametrize(("serve_s", "served"), [("0", False), ("3600", True)])
async def test_a_device_serves_what_it_runs_for_a_time(
    fleet: FleetRig, origin: HostileOrigin, serve_s: str, *, served: bool
) -> None:
    full = fleet.device("full", holds="2.0", origin=origin.url, extra=f"serve_s = {serve_s}\n")
    first = fleet.device("d1", origin=origin.url, peers=(full,))
    fleet.order("2.0")
    async with full.running():
        await until(lambda: full.status.get("state") == "current", "found to run it")
        async with first.running() as run:
            await run.committed("2.0")
            ledger = first.status["ledger"]
    frames = [pack.frames.sha256.hex() for pack in fleet.manifest("2.0").payloads[0].packs]
    assert any(origin.sent[f"objects/{name}"] for name in frames) is not served
    assert bool(ledger["sent"]) is False


async def test_when_the_time_is_over_it_serves_no_more(fleet: FleetRig, origin: HostileOrigin) -> None:
    full = fleet.device("full", holds="2.0", origin=origin.url, extra="serve_s = 2\n")
    fleet.order("2.0")
    async with full.running() as run:
        await until(lambda: full.status.get("state") == "current", "found to run it")
        updates = run.agent._updates
        assert updates._served
        await until(lambda: not updates._served, "time over")


async def test_a_slot_that_cannot_be_read_just_then_does_not_end_the_agent(
    fleet: FleetRig, origin: HostileOrigin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The battery is charged, and the slot cannot be opened: what changes next is heard all the same."""
    monkeypatch.setattr("p2p.agent.conditions.LOOK_S", 0.05)
    fleet.order("2.0")
    device = fleet.device("d1", holds="2.0", origin=origin.url, extra=NOW)
    conditions(device, "battery = true")
    async with device.running() as agent:
        await until(lambda: agent.state == "current", "it found what it runs")
        with monkeypatch.context() as broken:

            def cannot(_slots: FileSlots, slot: str) -> SlotImage:
                raise SlotError(f"slot {slot}: Input/output error")

            broken.setattr(FileSlots, "open_reader", cannot)
            conditions(device, "battery = false")
            await until(lambda: "Input/output error" in caplog.text, "it tried to serve")
        conditions(device, "battery = true")
        await until(lambda: agent.node.status(DIGESTS["2.0"]) is None, "not served")
        conditions(device, "battery = false")
        await until(lambda: agent.node.status(DIGESTS["2.0"]) is not None, "served again")
