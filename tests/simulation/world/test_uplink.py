"""What a request to the origin costs on the wire, to its end or broken off."""

from __future__ import annotations

import pytest

from p2p.content.limits import MIB
from sim.scenario.model import Origin, Wan
from sim.world.flows import Flows
from sim.world.kernel import Kernel
from sim.world.pool import Opening
from sim.world.uplink import OriginServer, Request, Uplink
from sim.world.wire import HttpCosts, acks

RATE = 1e6
PARTS = (MIB,) * 4


class Line:
    """A request for four parts over 8 Mbit/s, on an open connection; `up`: what it was told that it sent."""

    def __init__(self) -> None:
        self.kernel = Kernel(1)
        self.uplink = Uplink(
            "site", Wan(RATE), self.kernel, Flows(self.kernel), OriginServer(Origin(), 100.0)
        )
        self.up = self.down = 0
        self.errors: list[str | None] = []
        self.request = Request(
            self.uplink, PARTS, medium=None, opening=Opening.KEPT, sent=0, arrived=None,
            ended=self.errors.append, count=self._count,
        )  # fmt: skip

    def _count(self, down: int, up: int) -> None:
        self.down += down
        self.up += up


def test_a_whole_answer_is_acknowledged_whole() -> None:
    line, costs = Line(), HttpCosts()
    line.kernel.run(20.0)
    answer = costs.down(sum(PARTS))
    assert line.errors == [None]
    assert line.down == line.uplink.down == answer
    assert line.up == line.uplink.up == costs.up(answer=answer)


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.5, 2.5])
def test_of_an_answer_that_is_broken_off_what_came_is_acknowledged(after_s: float) -> None:
    line, costs = Line(), HttpCosts()
    line.kernel.run(after_s)
    line.request.cancel()
    line.kernel.run(20.0)
    assert line.errors == []
    assert line.up == line.uplink.up == costs.up() + acks(line.down)
    assert line.down <= after_s * RATE
