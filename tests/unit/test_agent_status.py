"""How often an agent looks whether its status file is right: each time wakes the device."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from p2p.adapters.status import read_status
from p2p.agent.reporting import STATUS_REST_S, STATUS_S, Reporting


class Agent:
    """As much of one as the status file needs; it changes until `busy_until`."""

    def __init__(self, busy_until: float) -> None:
        self._updates = SimpleNamespace(turned=trio.Event())
        self.busy_until = busy_until
        self.looked: list[float] = []

    async def write_status(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.looked.append(trio.current_time())
        return trio.current_time() < self.busy_until

    def turn(self) -> None:
        self._updates.turned.set()
        self._updates.turned = trio.Event()


async def test_at_rest_it_is_looked_at_seldom_and_at_once_when_the_state_turns(
    autojump_clock: MockClock,
) -> None:
    start = trio.current_time()
    agent = Agent(start + 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reporting.write_status_always, cast("Reporting", agent))
        await trio.sleep(10)
        assert 10 / STATUS_S <= len(agent.looked) <= 10 / STATUS_S + 2, "while it changes"
        await trio.sleep(30)
        agent.looked.clear()
        await trio.sleep(3600)
        assert len(agent.looked) <= 3600 / STATUS_REST_S + 1
        agent.looked.clear()
        agent.busy_until = trio.current_time() + 60
        turned = trio.current_time()
        agent.turn()
        await trio.sleep(5)
        assert agent.looked[0] == turned
        assert len(agent.looked) >= 5 / STATUS_S, "and often from then on"
        nursery.cancel_scope.cancel()


async def test_what_could_not_be_written_is_written_once_it_can_though_nothing_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk was full when an update ended, and the device then rests for days."""
    path = tmp_path / "run" / "status.json"
    config = SimpleNamespace(status_path=path)
    agent: Any = SimpleNamespace(
        _facts=lambda: {"state": "idle"}, _written=None, _unwritten="", _config=config, _writing=trio.Lock()
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not await Reporting.write_status(agent), "there is no hurry"
    assert len(caplog.records) == 1, "the log is not filled with it"
    path.parent.mkdir()
    assert await Reporting.write_status(agent)
    assert (read_status(path) or {})["state"] == "idle"
    assert not await Reporting.write_status(agent), "it is there"
