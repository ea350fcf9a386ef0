"""When a carrier hands in what it took for devices without a WAN, and what it tells them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.device_api import HandedIn
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.reports import signed_report
from p2p.agent import homebound
from p2p.agent.homebound import WRITES_MAX, Homebound
from p2p.agent.satchel import Satchel
from p2p.content import report as reports
from p2p.content.report import CARRIED, OK, Report
from p2p.errors import OriginError, StoreError
from p2p.swarm.relay import NOBODY

KEY = ec.generate_private_key(ec.SECP256R1())
PAUSE_S = 0.2

pytestmark = pytest.mark.trio


class Van:
    """A carrier. `taken`: what the coordinator was given; `told`: what devices were told."""

    def __init__(self, directory: Path) -> None:
        self.store = DirectoryBlobStore(directory)
        self.satchel = Satchel(self.store)
        self.taken: list[list[tuple[str, int]]] = []
        self.told: list[tuple[str, int, HandedIn]] = []
        self.result: HandedIn | None = HandedIn(OK)
        self.homebound = Homebound(
            self.satchel, self._hand_in, lambda *told: self.told.append(told), lambda: PAUSE_S
        )

    async def _hand_in(self, lines: Sequence[bytes]) -> list[HandedIn]:
        await trio.lowlevel.checkpoint()
        if self.result is None:
            raise OriginError("unreachable", "no way there")
        found = [Report.parse(reports.split(line)[1]) for line in lines]
        self.taken.append([(report.device, report.sequence) for report in found])
        return [self.result] * len(lines)

    def bring(
        self, device: str, sequence: int, number: int = 1, *, urgent: bool = False, **status: Any
    ) -> None:
        line = signed_report(KEY, device, sequence, 1_700_000_000, {"state": "idle", **status})
        report = Report.parse(reports.split(line)[1])
        self.homebound.arrived(report, line, number, urgent=urgent)

    @property
    def results(self) -> list[tuple[str, int, str]]:
        return [(device, number, said.result) for device, number, said in self.told]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.homebound.run)
            with trio.fail_after(5.0):
                yield
            nursery.cancel_scope.cancel()

    async def until_told(self, count: int) -> None:
        while len(self.told) < count:
            await trio.sleep(0.005)

    async def until_empty(self) -> None:
        while len(self.satchel):
            await trio.sleep(0.005)


@pytest.fixture
def van(tmp_path: Path) -> Van:
    return Van(tmp_path / "carried")


async def test_it_is_on_the_medium_before_its_device_hears_so(
    van: Van, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, order = van.store.write, list[str]()

    def write(name: str, value: bytes) -> None:
        real(name, value)
        order.append(f"written {name}, {len(van.told)} told")

    monkeypatch.setattr(van.store, "write", write)
    van.result = None
    async with van.running():
        van.bring("d1", 1)
        await van.until_told(1)
    assert order == ["written r-d1, 0 told"]
    assert van.results == [("d1", 1, CARRIED)]


async def test_on_the_road_it_says_carried_and_what_was_carried_goes_once_it_is_home(van: Van) -> None:
    van.result = None
    async with van.running():
        van.bring("d1", 1, urgent=True)
        van.bring("d2", 4)
        await van.until_told(2)
        await trio.sleep(4 * PAUSE_S)  # it tries, in vain
        assert (len(van.satchel), van.taken) == (2, [])
        van.result = HandedIn(OK)
        await van.until_empty()
    assert sorted(van.taken[0]) == [("d1", 1), ("d2", 4)]
    assert {result for _, _, result in van.results} == {CARRIED}


async def test_at_home_a_device_hears_what_the_coordinator_says(
    van: Van, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homebound, "URGENT_S", 0.05)
    van.result = HandedIn(OK, b"certificate")
    async with van.running():
        van.homebound.polled()
        van.bring("d1", 1, urgent=True)
        await van.until_told(1)
    assert van.told == [("d1", 1, HandedIn(OK, b"certificate"))]


async def test_where_home_was_a_moment_ago_it_is_carried_all_the_same(
    van: Van, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homebound, "URGENT_S", 0.05)
    van.result = None
    async with van.running():
        van.homebound.polled()
        van.bring("d1", 1, urgent=True)
        await van.until_told(1)
    assert van.results == [("d1", 1, CARRIED)]


async def test_a_new_certificate_comes_with_the_next_visit(van: Van, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homebound, "HOME", 0.1)
    van.result = HandedIn(OK, b"certificate")
    async with van.running():
        van.bring("d1", 1, certificate_until=5)
        await van.until_told(1)
        await van.until_empty()
        van.result = HandedIn(OK)
        van.bring("d1", 2, 2, certificate_until=5)
        await van.until_told(2)
        van.bring("d1", 3, 3)  # it has it
        await van.until_told(3)
    assert [said.certificate for _, _, said in van.told] == [b"", b"certificate", b""]
    assert "c-d1" not in van.store.names()


async def test_a_device_that_reports_without_end_costs_little_flash(van: Van) -> None:
    van.result = None
    async with van.running():
        for n in range(1, WRITES_MAX + 6):
            van.bring("d1", n, n)
            await van.until_told(n)
        van.bring("d2", 1, 99)
        await van.until_told(WRITES_MAX + 6)
    assert [r for d, _, r in van.results if d == "d1"] == [CARRIED] * WRITES_MAX + [NOBODY] * 5
    assert van.results[-1] == ("d2", 99, CARRIED)


async def test_one_of_each_device_waits_to_be_written(van: Van) -> None:
    van.result = None
    van.bring("d1", 1, 1)
    van.bring("d1", 2, 2)
    async with van.running():
        await van.until_told(2)
    assert van.results == [("d1", 1, NOBODY), ("d1", 2, CARRIED)]
    assert van.satchel.sequence("d1") == 2


async def test_each_report_is_answered_also_if_the_next_comes_while_it_is_written(
    van: Van, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow medium, at home: both wait for what the coordinator says, and only one is the newest."""
    real, writing, let = van.store.write, threading.Event(), threading.Event()

    def write(name: str, value: bytes) -> None:
        writing.set()
        assert let.wait(5)
        real(name, value)

    monkeypatch.setattr(van.store, "write", write)
    monkeypatch.setattr(homebound, "URGENT_S", 0.05)
    async with van.running():
        van.homebound.polled()
        van.bring("d1", 1, number=7, urgent=True)
        await trio.to_thread.run_sync(writing.wait)
        van.bring("d1", 2, number=8, urgent=True)
        let.set()
        await van.until_told(2)
    assert van.results == [("d1", 7, NOBODY), ("d1", 8, OK)]


@pytest.mark.parametrize("trouble", ["disk", "rate"])
async def test_what_stays_is_not_handed_in_again_and_again(
    van: Van, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def failing(name: str) -> None:
        raise StoreError("it only reads")

    if trouble == "disk":
        monkeypatch.setattr(van.store, "delete", failing)
    else:
        van.result = HandedIn("rate")
    monkeypatch.setattr(homebound, "HOME", 1.0)
    async with van.running():
        van.bring("d1", 1)
        await van.until_told(1)
        await trio.sleep(3 * PAUSE_S)
    assert 1 <= len(van.taken) <= 4
    assert len(van.satchel) == 1
