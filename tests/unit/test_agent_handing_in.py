"""A device that hands in for its peers: what it does when the coordinator takes nothing from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.device_api import CoordinatorRefusal, HandedIn
from p2p.adapters.reports import signed_report
from p2p.agent.handing_in import UNABLE_S, HandingIn
from p2p.content.report import OK, UNSUPPORTED
from p2p.errors import OriginError
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.relay import NOBODY
from p2p.swarm.report_desk import URGENT_S

PAUSE_S = 1800.0


class Site:
    """The device that hands in, with what it feeds its node; `refusal`: what the coordinator answers."""

    def __init__(self) -> None:
        self.fed: list[e.Event] = []
        self.renewed: list[bytes] = []
        self.refusal: OriginError | None = None
        driver = SimpleNamespace(feed=self.fed.append, node=SimpleNamespace(speaks_for_itself=False))
        credentials: Any = SimpleNamespace(
            identity=SimpleNamespace(device="lookout"), key=ec.generate_private_key(ec.SECP256R1())
        )
        api: Any = SimpleNamespace(hand_in=self._taken, now=lambda: 0.0)
        count: Any = None
        held: Any = driver
        self.handing_in = HandingIn(credentials, api, held, count, lambda: PAUSE_S, self._renewed)

    async def _renewed(self, pem: bytes) -> None:
        self.renewed.append(pem)

    async def _taken(self, device: str, key: object, batch: list[bytes]) -> list[HandedIn]:
        if self.refusal is not None:
            raise self.refusal
        return [HandedIn(OK)] * len(batch)

    def bring(self, sequence: int) -> None:
        line = signed_report(ec.generate_private_key(ec.SECP256R1()), "d1", sequence, 0.0, {"state": "idle"})
        self.handing_in.arrived(e.ReportArrived("d1", m.Report(sequence, True, 0, line)))


@pytest.mark.parametrize(
    ("reason", "status", "word"), [("revoked", 403, NOBODY), ("not-found", 404, UNSUPPORTED)]
)
async def test_who_may_not_hand_in_says_so_at_once_and_tries_again_after_a_day(
    autojump_clock: trio.testing.MockClock, reason: str, status: int, word: str
) -> None:
    site = Site()
    site.refusal = CoordinatorRefusal(reason, "no", status)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.handing_in.hand_in_always)
        await trio.sleep(1)
        site.bring(1)
        await trio.sleep(URGENT_S + 1)
        assert site.fed == [e.HandsIn(True), e.HandsIn(False), e.ReportHandedIn("d1", 1, word)]
        site.refusal = None
        await trio.sleep(UNABLE_S)
        assert site.fed[3:] == [e.HandsIn(True)], "the coordinator may take them by now"
        site.bring(2)
        await trio.sleep(URGENT_S + 1)
        assert site.fed[4:] == [e.ReportHandedIn("d1", 2, OK)]
        nursery.cancel_scope.cancel()


async def test_a_coordinator_that_fails_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    site.refusal = CoordinatorRefusal("store", "failed", 503)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.handing_in.hand_in_always)
        await trio.sleep(1)
        site.bring(1)
        await trio.sleep(URGENT_S + 1)
        assert site.fed == [e.HandsIn(True)]
        site.refusal = None
        await trio.sleep(25)
        assert site.fed[1:] == [e.ReportHandedIn("d1", 1, OK)]
        nursery.cancel_scope.cancel()
