"""Links so thin, or devices so greedy, that nobody sees how quickly frames come: who waits finds out."""

from __future__ import annotations

import pytest

from p2p.content.limits import MIB
from sim.checks.checked import Checks
from sim.scenario.model import NO_BASE, DeviceClass, Fault, FaultKind, Manner, Wan
from sim.world import World
from tests.simulation.world.scenes import depot, release

BOX = DeviceClass("box", {NO_BASE: 1.0}, reboot_s=5.0)


@pytest.mark.parametrize("rate", [2000.0, 3000.0])
def test_a_gateway_on_a_thin_link_is_not_taken_for_stalled(rate: float) -> None:
    """A frame of 1 MiB takes longer than promises alone are believed. (A 2.0 to 2.7)"""
    scenario = depot(devices=6, klass=BOX, release=release(size=3 * MIB), wan=Wan(rate, delay_s=0.1))
    checks = Checks()
    outcome = World(scenario, 0, observer=checks).run()
    assert {d.state for d in outcome.devices} == {"committed"}
    assert checks.amplification is not None
    assert checks.amplification <= 1.005
    assert outcome.virtual_s < 1.2 * 3 * MIB / rate


def test_two_greedy_devices_do_not_keep_a_small_pack_for_long() -> None:
    """Together they hold leases on all of it, so that nobody learned how quickly it comes. (535 s)"""
    greedy = Fault(FaultKind.HOSTILE, where="depot", manner=Manner.GREEDY)
    outcome = World(depot(greedy, greedy, devices=6, klass=BOX, release=release(size=2 * MIB)), 0).run()
    honest = [d for d in outcome.devices if d.state != "hostile"]
    assert [d.state for d in honest] == ["committed"] * 4
    assert max(d.verified_s or 0.0 for d in honest) < 200.0
