"""Agents whose reports go by way of one of them, to the real coordinator; and what a false one achieves."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter

from coordinator.api.device import DeviceApi as CoordinatorsApi
from coordinator.api.renewing import Renewing
from coordinator.api.reports import Reports
from coordinator.app import Coordinator
from coordinator.clock import wall_clock
from coordinator.db.models import Device as Record
from coordinator.db.models import LatestReport
from p2p.adapters.device_api import DeviceApi, HandedIn
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.reports import STEP, ReportCount, compact
from p2p.adapters.tls import TlsTransport
from p2p.agent import homebound
from p2p.agent.handing_in import HandingIn
from p2p.content.report import OK, SEQUENCE_MAX
from p2p.errors import StoreError
from p2p.ports import PeerAddress
from p2p.swarm import lookout, report_desk
from p2p.trust import pace
from tests.support.fleet import Device, FleetRig, RunningAgent, until
from tests.support.serving import serving

POLL_S = 3.0


@pytest.fixture(autouse=True)
def impatient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes hours at a site takes tenths of a second here."""
    monkeypatch.setattr(report_desk, "ROUTINE", 0.1)
    monkeypatch.setattr(report_desk, "URGENT_S", 0.3)
    monkeypatch.setattr(report_desk, "GRACE", 0.4)
    monkeypatch.setattr(report_desk, "GRACE_S", 2.0)
    monkeypatch.setattr(lookout, "NEWER_S", 0.1)
    monkeypatch.setattr(pace, "ALONE", (0.3, 0.1))


@dataclass
class Depot:
    """Three running agents, of which one was the last to ask: it hands in for the others."""

    coordinator: Coordinator
    runs: dict[str, RunningAgent]

    @property
    def lookout(self) -> RunningAgent:
        return next(run for run in self.runs.values() if run.node.speaks_for_itself)

    @property
    def riders(self) -> list[RunningAgent]:
        return [run for run in self.runs.values() if run is not self.lookout]

    def heard(self, run: RunningAgent) -> LatestReport | None:
        """The last that the coordinator heard of a device."""
        with self.coordinator.database.read() as session:
            return session.get(LatestReport, run.device.name)

    async def met(self) -> None:
        others = len(self.runs) - 1
        runs = self.runs.values()
        await until(lambda: all(len(run.node.peers) == others for run in runs), "all have met")
        await until(lambda: sum(run.node.speaks_for_itself for run in runs) == 1, "one asked last")


@pytest.fixture
def served(fleet: FleetRig) -> Iterator[tuple[Coordinator, str]]:
    with serving(fleet.repository, wall_clock) as found:
        yield found


@asynccontextmanager
async def depot(
    fleet: FleetRig, served: tuple[Coordinator, str], *, certificate_days_ago: int = 0
) -> AsyncIterator[Depot]:
    coordinator, url = served
    devices: list[Device] = []
    for name in ("d1", "d2", "d3"):
        devices.append(fleet.device(name, coordinator=url, peers=tuple(devices), poll_s=POLL_S))
        if certificate_days_ago:
            age(devices[-1], certificate_days_ago)
        register(coordinator, devices[-1])
    async with AsyncExitStack() as stack:
        runs = {d.name: await stack.enter_async_context(d.running()) for d in devices}
        found = Depot(coordinator, runs)
        await found.met()
        yield found


def age(device: Device, days: int) -> None:
    """Its certificate of 30 days is from so long ago."""
    key, when = device.credentials.key.public_key(), datetime.now(UTC) - timedelta(days=days)
    aged = device.fleet.authority.issue(key, device.name, "depot", (), when, days=30)
    device.config.certificate_path.write_bytes(aged.public_bytes(serialization.Encoding.PEM))


def register(coordinator: Coordinator, device: Device) -> None:
    """What the device API keeps of an enrolment."""
    encoding = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    key = device.credentials.key.public_key().public_bytes(*encoding).decode()
    with coordinator.database.write() as session:
        session.add(
            Record(
                id=device.name, site="depot", groups=[], hardware="board-a", key=key, certificate="",
                enrolled_at=int(time.time()), not_after=int(time.time()) + 86_400,
            )
        )  # fmt: skip


async def test_riders_report_by_way_of_the_one_that_asks_for_all(
    fleet: FleetRig, served: tuple[Coordinator, str]
) -> None:
    fleet.order("2.0")
    async with depot(fleet, served) as site:

        def told(run: RunningAgent) -> bool:
            heard = site.heard(run)
            return heard is not None and heard.via in site.runs and heard.release == "2.0"

        for run in site.runs.values():
            await run.committed("2.0")
        await until(lambda: any(map(told, site.runs.values())), "a report was brought")
        rider = next(run for run in site.runs.values() if told(run))
        heard = site.heard(rider)
        assert heard is not None and heard.signed_at is not None
        assert heard.via != rider.device.name
        assert heard.signed_at <= heard.at
        assert heard.quiet_s == report_desk.quiet_s(POLL_S)
        assert heard.host == "127.0.0.1"
        with served[0].database.read() as session:
            count = session.get(Record, rider.device.name)
            assert count is not None and count.sequence >= 2


async def test_a_certificate_is_renewed_by_way_of_the_one_that_hands_in(
    fleet: FleetRig, served: tuple[Coordinator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers that are connected stay so; who connects from then on sees the new one."""
    take, wanted, handed_in = Reports._take, Renewing.wanted, list[str]()

    def take_it(self: Reports, line: bytes, by: str, now: float, renewed: dict[str, str]) -> str:
        handed_in.append(by)
        try:
            return take(self, line, by, now, renewed)
        finally:
            handed_in.pop()

    monkeypatch.setattr(Reports, "_take", take_it)
    monkeypatch.setattr(Renewing, "wanted", lambda *given: bool(handed_in) and wanted(*given))
    async with depot(fleet, served, certificate_days_ago=20) as site:

        def renewed() -> list[RunningAgent]:
            at_least = time.time() + 600 * 86_400
            return [run for run in site.runs.values() if run.device.credentials.not_after > at_least]

        await until(renewed, "one is renewed")
        rider = renewed()[0]
        assert all(len(run.node.peers) == 2 for run in site.runs.values())
        found = rider.device.credentials.identity
        presents = rider.agent._revoking
        await until(lambda: presents._certificate == found.certificate, "it presents what is on its medium")
        visitor = TlsTransport(fleet.device("visitor").credentials, time.time, host="127.0.0.1")
        try:
            stream = await visitor.connect(PeerAddress("127.0.0.1", rider.device.port))
            assert stream.identity.certificate == found.certificate
            await stream.aclose()
        finally:
            visitor.close()


async def test_a_device_whose_reports_are_dropped_goes_to_the_coordinator_itself(
    fleet: FleetRig, served: tuple[Coordinator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []

    async def drop(self: DeviceApi, device: str, key: object, reports: list[bytes]) -> list[HandedIn]:
        dropped.append(len(reports))
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(DeviceApi, "hand_in", drop)
    async with depot(fleet, served) as site:
        riders = site.riders
        await until(lambda: bool(dropped), "the lookout has a report")
        began = int(time.time())

        def heard_since(run: RunningAgent) -> bool:
            heard = site.heard(run)
            return heard is not None and heard.via is None and heard.at > began

        await until(lambda: all(map(heard_since, riders)), "both spoke for themselves")
        names = [run.device.name for run in site.runs.values()]

        def doubts(run: RunningAgent) -> bool:
            return any(map(run.node._relay._doubted, names))

        await until(lambda: any(map(doubts, riders)), "who swallows reports gets no more")


async def test_who_says_that_it_handed_in_and_did_not_is_found_out(
    fleet: FleetRig,
    served: tuple[Coordinator, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lie(self: DeviceApi, device: str, key: object, reports: list[bytes]) -> list[HandedIn]:
        return [HandedIn(OK)] * len(reports)

    monkeypatch.setattr(DeviceApi, "hand_in", lie)
    with caplog.at_level(logging.WARNING):
        async with depot(fleet, served) as site:

            def believes() -> list[RunningAgent]:
                return [r for r in site.runs.values() if r.agent._reporting.handing_in._believed is not None]

            await until(lambda: bool(believes()), "it is believed")
            rider = believes()[0]
            liar, _ = rider.agent._reporting.handing_in._believed
            heard = site.heard(rider)
            assert heard is not None and heard.via is None
            with trio.fail_after(30):
                while "did not hand in" not in caplog.text:
                    rider.agent.ask_now()  # its own question, with which it checks in if that is nearly due
                    await trio.sleep(POLL_S / 2)
            assert f"{liar} did not hand in report" in caplog.text
            assert rider.node._relay._doubted(liar), "and gets no more"


async def test_a_coordinator_that_knows_no_batches_hears_of_each_device_itself(
    fleet: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(self: CoordinatorsApi) -> APIRouter:
        router = APIRouter(prefix="/api/v1")
        router.add_api_route("/checkin", self.checkin, methods=["POST"])
        return router

    monkeypatch.setattr(CoordinatorsApi, "router", without)
    with serving(fleet.repository, wall_clock) as served:
        async with depot(fleet, served) as site:
            riders = site.riders
            await until(
                lambda: any(r.agent._reporting.handing_in._unsupported_until > 0 for r in riders),
                "it is known",
            )
            began = time.time()

            def spoke(run: RunningAgent) -> bool:
                last = site.heard(run)
                return last is not None and last.via is None and last.at > began

            await until(lambda: all(map(spoke, riders)), "each at its own pace, as before")


async def test_who_is_revoked_is_told_so_at_the_pace_of_its_polls(
    fleet: FleetRig, served: tuple[Coordinator, str]
) -> None:
    coordinator, url = served
    device = fleet.device("d1", coordinator=url, poll_s=POLL_S)
    async with device.running() as run:
        check_in = run.agent._reporting._check_in
        assert not await check_in(), "nobody knows it yet: it soon tries again"
        register(coordinator, device)
        with coordinator.database.write() as session:
            session.get_one(Record, device.name).revoked_at = 1
        assert await check_in(), "and does not try again as after trouble"
        with coordinator.database.read() as session:
            assert session.get(LatestReport, device.name) is None


@pytest.mark.parametrize("asks", [True, False], ids=["asks-itself", "others-ask"])
async def test_a_site_without_wan_is_heard_of_when_the_carrier_comes_home(
    fleet: FleetRig, served: tuple[Coordinator, str], monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """It is updated and reports to the visitor, who has no WAN there and is switched off on the way.

    At home another device may be the one that asks the origin.
    """
    if not asks:
        monkeypatch.setattr(HandingIn, "polled", lambda handing: None)
        monkeypatch.setattr(homebound, "HOME", 0.2)
    coordinator, url = served
    fleet.order("2.0")
    van = fleet.device("van", coordinator=url, poll_s=POLL_S, extra="carrier = true")
    station = fleet.device("d1", peers=(van,), wan=False, poll_s=POLL_S)
    for device in (van, station):
        register(coordinator, device)

    def heard() -> LatestReport | None:
        with coordinator.database.read() as session:
            return session.get(LatestReport, station.name)

    async with van.running() as run:
        await run.committed("2.0")
        indexes = van.directory / "state" / "indexes"
        await until(lambda: len(list(indexes.glob("index-*"))) == 2, "it can serve chunks, not only run them")
    van.configure(poll_s=POLL_S, extra="carrier = true")  # its WAN leads nowhere
    async with van.running(), station.running() as late:
        await late.committed("2.0")
        kept = van.directory / "state" / "carried"
        await until(lambda: any(kept.glob("r-d1*")), "the carrier has a report")
        await until(lambda: b"2.0" in b"".join(p.read_bytes() for p in kept.glob("r-d1*")), "the newest")
    assert heard() is None
    van.configure(coordinator=url, poll_s=POLL_S, extra="carrier = true")
    async with van.running():
        await until(lambda: heard() is not None, "the coordinator has it")
        await until(lambda: not any(kept.glob("r-d1*")), "it is not carried any more")
    found = heard()
    assert found is not None
    assert (found.release, found.via) == ("2.0", "van")


def test_numbers_are_used_once_also_after_a_restart(tmp_path: Path) -> None:
    store = DirectoryBlobStore(tmp_path)
    count = ReportCount(store)
    assert [count.next() for _ in range(3)] == [1, 2, 3]
    again = ReportCount(store)
    assert again.next() == STEP + 1
    again.at_least(1000)
    again.at_least(7)
    assert again.next() == 1001
    assert ReportCount(store).next() > 1001
    again.at_least(SEQUENCE_MAX + 5)
    assert again.next() == SEQUENCE_MAX
    with pytest.raises(StoreError, match="used up"):
        again.next()


def test_what_the_coordinator_says_while_numbers_are_made_durable_is_heeded(tmp_path: Path) -> None:
    class Meanwhile(DirectoryBlobStore):
        def write(self, name: str, value: bytes) -> None:
            super().write(name, value)
            count.at_least(1000)

    store = Meanwhile(tmp_path)
    count = ReportCount(store)
    used = [count.next() for _ in range(3)]
    assert used == [1, 1001, 1002]
    assert ReportCount(DirectoryBlobStore(tmp_path)).next() > max(used), "after a power cut"


def test_a_count_that_is_damaged_begins_anew(tmp_path: Path) -> None:
    store = DirectoryBlobStore(tmp_path)
    store.write("sequence", b"\xff" * 40)
    assert ReportCount(store).next() == 1


def test_a_count_that_cannot_be_read_keeps_no_device_from_updating(tmp_path: Path) -> None:
    class Rotten(DirectoryBlobStore):
        def read(self, name: str) -> bytes | None:
            raise StoreError(f"{name}: Input/output error")

    count = ReportCount(Rotten(tmp_path))
    assert count.next() == 1
    count.at_least(40)
    assert count.next() == 41, "as the coordinator says"


def test_what_goes_without_saying_is_not_in_a_report() -> None:
    ledger = {"wan": 3, "peers": {"a": 1, "b": 4}, "sent": {}, "wasted": 0}
    status = {
        "state": "idle",
        "role": "idle",
        "release": None,
        "listen_port": 0,
        "images": {},
        "ledger": ledger,
    }
    assert compact(status) == {"state": "idle", "listen_port": 0, "ledger": {"wan": 3, "peers": 5}}
