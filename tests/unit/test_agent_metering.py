"""A device's WAN bytes are counted, remembered over restarts, and close its WAN in time (virtual time)."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2p.adapters.durable import DirectoryBlobStore
from p2p.agent import metering
from p2p.agent.metering import LOOK_S, NAME, SITE_NAME, WanMeter, kept_usage, restore_site
from p2p.content import limits
from p2p.errors import StoreError
from p2p.ports import BlobStore
from p2p.swarm.allowance import Closed, DailyWindow, Usage, WanAllowance
from p2p.swarm.site_quota import SiteQuota
from tests.support.driven_site import inline_threads

START = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
MIB = 1 << 20


class Device:
    """A device whose WAN carries `rate` bytes a second while its meter says that it is open."""

    def __init__(
        self, store: BlobStore, *, windows: tuple[DailyWindow, ...] = (), month_max: int | None = None,
        site_max: int | None = None,
    ) -> None:  # fmt: skip
        self.crossed = 0
        self.changes: list[bool] = []
        self.began = trio.current_time()
        self.start = START
        self.site = SiteQuota(site_max, "d1") if site_max is not None else None
        if self.site is not None:
            restore_site(self.site, store)
        self.told: list[Usage] = []
        allowance = WanAllowance(windows, month_max, kept_usage(store), self.site)
        self.meter = WanMeter(
            allowance, store, lambda: self.crossed, self.now, self.changes.append, self.told.append
        )

    def now(self) -> datetime:
        return self.start + timedelta(seconds=trio.current_time() - self.began)

    @asynccontextmanager
    async def metered(self) -> AsyncIterator[None]:
        """While its meter runs; it ends in order."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.meter.run)
            yield
            nursery.cancel_scope.cancel()

    async def fetch(self, seconds: float, rate: int) -> None:
        """For so long, in steps of a tenth of a second."""
        for _ in range(round(seconds * 10)):
            if self.meter.open:
                self.crossed += rate // 10
                self.meter.wake()
            await trio.sleep(0.1)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_threads(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "budget")


async def test_a_quota_ends_a_fetch_within_one_look(
    autojump_clock: MockClock, store: DirectoryBlobStore
) -> None:
    device = Device(store, month_max=50 * MIB)
    async with device.metered():
        await device.fetch(120, MIB)
    assert device.changes == [False]
    assert 50 * MIB <= device.crossed <= 50 * MIB + (LOOK_S + 0.2) * MIB
    assert device.meter.facts() == {
        "open": False, "closed_by": "quota", "until": "2026-12-01T00:00+00:00",
        "month": "2026-11", "month_used": device.crossed, "month_max": 50 * MIB,
    }  # fmt: skip
    assert "closed for updates until 2026-12-01 00:00 UTC" in device.meter.explain()


async def test_whoever_is_killed_has_never_used_more_than_it_remembers(
    autojump_clock: MockClock, store: DirectoryBlobStore
) -> None:
    device = Device(store, month_max=100 * MIB)
    for _ in range(400):
        device.crossed += 100_000
        device.meter.look()
        kept = kept_usage(store)
        assert kept is None or device.crossed <= kept.size, "nor while it is being written"
        await device.meter.save()
        kept = kept_usage(store)
        assert kept is not None
        assert device.crossed <= kept.size <= device.crossed + MIB  # a kill at this moment costs no more


async def test_a_second_run_goes_on_counting(autojump_clock: MockClock, store: DirectoryBlobStore) -> None:
    for _ in range(2):
        device = Device(store, month_max=50 * MIB)
        async with device.metered():
            await device.fetch(20, MIB)
        assert not device.changes
    assert kept_usage(store) == Usage("2026-11", 2 * device.crossed)  # ended in order: nothing ahead
    third = Device(store, month_max=50 * MIB)
    async with third.metered():
        await third.fetch(20, MIB)
    assert third.changes == [False]


async def test_windows_open_and_close_on_time(autojump_clock: MockClock, store: DirectoryBlobStore) -> None:
    device = Device(store, windows=(DailyWindow(13 * 3600, 14 * 3600),))
    assert not device.meter.open
    assert device.meter.verdict.closed is Closed.WINDOW
    seen = []
    async with device.metered():
        for _ in range(4 * 360):
            await trio.sleep(10)
            if not seen or seen[-1][1] is not device.meter.open:
                seen.append((trio.current_time() - device.began, device.meter.open))
    assert device.changes == [True, False]
    assert [now for now, _ in seen[1:]] == pytest.approx([3600, 7200], abs=10.1)


async def test_a_clock_that_is_set_is_noticed(autojump_clock: MockClock, store: DirectoryBlobStore) -> None:
    device = Device(store, windows=(DailyWindow(13 * 3600, 14 * 3600),))
    async with device.metered():
        await trio.sleep(10)
        device.start += timedelta(hours=1)
        await trio.sleep(metering.REST_S + 1)
    assert device.changes == [True]


async def test_a_new_month_opens_again(autojump_clock: MockClock, store: DirectoryBlobStore) -> None:
    store.write(NAME, metering._encode(Usage("2026-11", 1000)))
    device = Device(store, month_max=1000)
    assert not device.meter.open
    async with device.metered():
        await trio.sleep(2.5 * 86_400 + 1)
    assert device.changes == [True]
    assert kept_usage(store) == Usage("2026-12", 0)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"null", b'{"_type":"slipstream-wan-usage","spec":1,"month":"2026-13","size":1}\n',
     b'{"_type":"slipstream-wan-usage","spec":1,"month":"2026-11","size":-1}\n',
     b'{"_type":"slipstream-wan-usage","spec":2,"month":"2026-11","size":1}\n'],
)  # fmt: skip
async def test_a_count_that_cannot_be_read_is_begun_anew_and_told(
    damaged: bytes, store: DirectoryBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(NAME, damaged)
    assert kept_usage(store) is None
    assert "counted anew" in caplog.text
    store.write(NAME, metering._encode(Usage("2026-11", 7)))
    assert kept_usage(store) == Usage("2026-11", 7)


class FullStore:
    """A state directory without room, for as long as it is `full`."""

    def __init__(self) -> None:
        self.full = True
        self.tries = 0

    def read(self, name: str) -> bytes | None:
        return None

    def write(self, name: str, value: bytes) -> None:
        self.tries += 1
        if self.full:
            raise StoreError("no room")

    def delete(self, name: str) -> None:
        raise StoreError("no room")


async def test_a_disk_without_room_is_told_and_the_quota_still_holds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = FullStore()
    device = Device(store, month_max=5 * MIB, site_max=500 * MIB)
    async with device.metered():
        await device.fetch(20, MIB)
        assert device.changes == [False]
        told = [record.message for record in caplog.records if "kept" in record.message]
        assert len(told) == 2 < store.tries, "each once, however often it is tried"
        assert all("are not kept: no room" in message for message in told)
        store.full = False
        await trio.sleep(metering.REST_S + 1)
        told = [record.message for record in caplog.records if "kept" in record.message]
        assert [message.partition(" are ")[2] for message in told[2:]] == ["kept again"] * 2


async def test_the_event_loop_waits_for_no_file(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # real threads
    loop, threads = threading.get_ident(), set[int]()
    write = DirectoryBlobStore.write

    def watched(self: DirectoryBlobStore, name: str, value: bytes) -> None:
        threads.add(threading.get_ident())
        write(self, name, value)

    monkeypatch.setattr(DirectoryBlobStore, "write", watched)
    device = Device(store, month_max=50 * MIB, site_max=50 * MIB)
    async with device.metered():
        await trio.testing.wait_all_tasks_blocked()
        device.crossed += 5 * MIB
        device.meter.roam(True)
        await trio.testing.wait_all_tasks_blocked()
        device.crossed += MIB
    kept = kept_usage(store)
    assert kept is not None and kept.size == 6 * MIB
    assert threads and loop not in threads


# A quota of the site

OTHER = 40 * MIB


async def test_what_peers_have_used_is_missing_here_and_survives_restarts(
    autojump_clock: MockClock, store: DirectoryBlobStore
) -> None:
    """Half of a quarter of the quota is the other's own part, and counts for it alone."""
    device = Device(store, site_max=64 * MIB)
    assert device.site is not None
    async with device.metered():
        device.site.heard("d2", OTHER, met=True)
        await device.fetch(10, MIB)
    assert {usage.month for usage in device.told} == {"2026-11"}
    assert len(device.told) > 10
    assert device.meter.facts()["site_used"] == pytest.approx(OTHER + 10 * MIB, rel=0.05)
    again = Device(store, site_max=64 * MIB)
    async with again.metered():
        await again.fetch(60, MIB)
    assert again.changes == [False]
    used = again.meter.facts()["month_used"]
    assert 24 * MIB <= used <= 26.5 * MIB
    assert again.meter.facts()["closed_by"] == "site-quota"
    assert "closed for updates until 2026-12-01 00:00 UTC: what the quota" in again.meter.explain()
    third = Device(store, site_max=64 * MIB)
    assert not third.meter.open  # before it has met anybody
    third.start = START + timedelta(days=3)
    async with third.metered():
        await third.fetch(1, 1000)
    assert third.meter.open
    assert third.told[-1].month == "2026-12"


async def test_what_was_heard_and_cannot_be_read_is_heard_anew(
    autojump_clock: MockClock, store: DirectoryBlobStore
) -> None:
    for damaged in (b"", b"[]", b'{"_type":"slipstream-site-usage","spec":1,"month":1,"used":[{}]}'):
        store.write(SITE_NAME, damaged)
        device = Device(store, site_max=64 * MIB)
        assert device.site is not None
        assert device.site.share == 64 * MIB


async def test_the_most_that_can_be_kept_of_a_site_can_be_read_again(store: DirectoryBlobStore) -> None:
    """As many devices as are remembered, with the longest names and the largest sums that peers can tell."""
    device = Device(store, site_max=64 * MIB)
    site = device.site
    assert site is not None
    size = (1 << 60) - 2 * limits.UPLINKS_MAX
    for n in range(2 * limits.UPLINKS_MAX):
        met = n >= limits.UPLINKS_MAX  # and of those nothing else is known
        site.heard(f"{n:05d}".ljust(limits.NAME_LENGTH_MAX, "x"), 0 if met else size + n, met=met)
    await device.meter.save()
    again = SiteQuota(64 * MIB, "d1")
    restore_site(again, store)
    assert len(site.entries()) == 2 * limits.UPLINKS_MAX - 1  # this device has its own place
    assert sorted(again.entries()) == sorted(site.entries())
