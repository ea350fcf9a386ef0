"""The report of a device without a WAN waits for a carrier, and is never old when one comes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.reports import ReportCount
from p2p.agent import handing_in
from p2p.agent.handing_in import HandingIn
from p2p.agent.reporting import Reporting
from p2p.content import report as reports
from p2p.content.report import CARRIED, Report
from p2p.swarm import events as e

pytestmark = pytest.mark.trio

KEY = ec.generate_private_key(ec.SECP256R1())


class Driver:
    """What the node is told; with `carrier` from its third report on, somebody takes it."""

    def __init__(self) -> None:
        self.node = SimpleNamespace(speaks_for_itself=False)
        self.fed: list[e.Event] = []
        self.reports: Any = None

    def feed(self, event: e.Event) -> None:
        self.fed.append(event)
        if isinstance(event, e.ReportMade) and len(self.made) == 3:
            self.reports.returned(e.ReportReturned(event.sequence, "van", CARRIED))

    @property
    def made(self) -> list[Report]:
        lines = [event.report for event in self.fed if isinstance(event, e.ReportMade)]
        return [Report.parse(reports.split(line)[1]) for line in lines]


@pytest.mark.parametrize("wan", [False, True])
async def test_it_is_made_anew_while_nobody_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wan: bool
) -> None:
    monkeypatch.setattr(handing_in, "FRESH_S", 0.05)
    driver: Any = Driver()
    credentials: Any = SimpleNamespace(identity=SimpleNamespace(device="d1"), key=KEY)
    api: Any = SimpleNamespace(now=lambda: 1_700_000_000.0)
    handing = HandingIn(
        credentials,
        api,
        driver,
        ReportCount(DirectoryBlobStore(tmp_path)),
        lambda: 0.002,
        lambda pem: None,
        wan=wan,
    )
    said = iter(range(10))
    reporting: Any = SimpleNamespace(
        _config=SimpleNamespace(swarm=SimpleNamespace(lookout=True)),
        handing_in=handing,
        _due=trio.Event(),
        _report=lambda: {"state": "idle", "progress": next(said)},
    )
    with trio.fail_after(5.0):
        handed = await Reporting._hand_in(reporting, trio.Event(), urgent=False)
    if wan:  # it goes to the coordinator itself
        assert (handed, len(driver.made)) == (False, 1)
        return
    assert handed
    assert [(report.sequence, report.status["progress"]) for report in driver.made] == [
        (1, 0), (2, 1), (3, 2)
    ]  # fmt: skip
    withdrawn = [event for event in driver.fed if isinstance(event, e.ReportWithdrawn)]
    assert not any(event.overdue for event in withdrawn)
