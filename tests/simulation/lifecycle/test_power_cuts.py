"""The power goes at every step of a device's life: committed or rolled back, never in between.

`Log` holds every step of every one of these lives to its rules: whatever is booted is whole, what is
installed has manifest and order, the floor never falls.
"""

from __future__ import annotations

import pytest

from p2p.install import State
from sim.world.medium import PowerCut
from sim.world.trust import VirtualRepository
from tests.simulation.lifecycle.solo import Solo, manifest

LONG_S = 1500.0


def _published() -> VirtualRepository:
    repository = VirtualRepository(1, ["gw"])
    repository.publish_release(manifest(), 0.0)
    repository.publish_order(manifest(), 0.0)
    return repository


REPOSITORY = _published()
"""Nobody changes it: one for all lives."""


class Cutter:
    """Cuts the power in the `at`-th disk operation from its making, and in every `again`-th after that."""

    def __init__(self, at: int, cuts: int = 1, every: int = 0) -> None:
        self.left = at
        self.cuts = cuts
        self.every = every
        self.operations = 0
        self.last = ""

    def __call__(self, operation: str) -> None:
        self.operations += 1
        self.left -= 1
        if self.left == 0 and self.cuts:
            self.cuts -= 1
            self.left = self.every
            self.last = operation
            raise PowerCut


def solo_of(seed: int, healthy: bool, reboots: bool) -> Solo:
    return Solo(
        seed=seed, healthy=lambda manifest: healthy, reboots=reboots, poll_s=100.0, repository=REPOSITORY
    )


def finish(solo: Solo, healthy: bool) -> None:
    """Let it run until it has ended, or for long."""
    while solo.kernel.now < LONG_S and not ended(solo, healthy):
        solo.run(20.0)
    solo.run(20.0)


def ended(solo: Solo, healthy: bool) -> bool:
    if healthy and solo.life.state == "committed":
        return True
    rolled_back = any(line.startswith("rolled back") for line in solo.log.lines)
    return rolled_back and solo.life.up and solo.settled


def check(solo: Solo, healthy: bool, found: str) -> None:
    assert solo.settled, found
    boot = solo.machine.boot.read()
    if boot.active == "b":
        assert healthy, found
        assert solo.log.floor == 2, found
        assert solo.log.committed_counter == 2, found
        assert solo.life.state == "committed", found
    else:
        # A trial whose attempts the cuts used up is given up, too: the old slot is the safe one.
        assert any(line.startswith("rolled back") for line in solo.log.lines), found
        assert solo.log.floor == 0, found


@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("reboots", [True, False])
def test_a_cut_in_any_disk_operation(healthy: bool, reboots: bool) -> None:
    whole = solo_of(1, healthy, reboots)
    whole.disk.step = count = Cutter(0, cuts=0)
    whole.life.power_on()
    whole.run(90.0)
    assert count.operations > 80
    for n in range(1, count.operations + 1, 1 if reboots else 4):
        solo = solo_of(n, healthy, reboots)
        solo.disk.step = cutter = Cutter(n)
        solo.life.power_on()
        finish(solo, healthy)
        assert solo.log.lines.count("power lost") == 1, n
        check(solo, healthy, f"cut in operation {n}: {cutter.last}: {solo.log.lines}")
        assert healthy == (solo.machine.boot.read().active == "b"), n


def test_cuts_again_and_again() -> None:
    for n in range(1, 120, 3):
        for every in (7, 19, 40):
            solo = solo_of(n, True, True)
            solo.disk.step = cutter = Cutter(n, cuts=4, every=every)
            solo.life.power_on()
            finish(solo, True)
            check(solo, True, f"{n}, {every}: {cutter.last}: {solo.log.lines}")


@pytest.mark.parametrize("healthy", [True, False])
def test_a_cut_between_any_two_events(healthy: bool) -> None:
    whole = solo_of(1, healthy, True)
    whole.life.power_on()
    whole.run(90.0)
    events = whole.kernel.events
    assert events > 25
    for n in range(1, events + 1):
        solo = solo_of(n, healthy, True)
        solo.life.power_on()
        while solo.kernel.events < n:
            solo.kernel.step()
        solo.life.cut_power()
        solo.life.power_on()
        finish(solo, healthy)
        check(solo, healthy, f"cut after event {n}: {solo.log.lines}")


def test_a_kill_between_any_two_events_loses_nothing() -> None:
    whole = solo_of(1, True, True)
    whole.life.power_on()
    whole.run(90.0)
    for n in range(1, whole.kernel.events + 1):
        solo = solo_of(n, True, True)
        solo.life.power_on()
        while solo.kernel.events < n:
            solo.kernel.step()
        if not solo.life.up:
            continue  # it is rebooting: there is no agent to kill
        solo.life.kill()
        solo.life.start_agent()
        finish(solo, True)
        check(solo, True, f"killed after event {n}: {solo.log.lines}")
        assert solo.machine.boot.read().active == "b", n


def test_the_disk_keeps_its_promise_about_the_slot() -> None:
    """Whatever the journal says is there after a cut, is there."""
    cut = 0
    for n in range(1, 60):
        solo = solo_of(n, True, True)
        solo.life.power_on()
        for _ in range(n):
            solo.kernel.step()
        solo.disk.lose_power(solo.kernel.rng("cut"))
        record = solo.machine.installer(lambda release: None, 99).record
        if record.state is not State.WRITING or record.plan is None:
            continue
        payload = record.plan.payloads[0]
        writer = solo.machine.slots()["rootfs"].open_writer("b", payload.image, payload.size)
        right = solo.disk.right("/slots/rootfs-b.img", payload.image)
        assert all(right.covers(start, stop) for start, stop in writer.done), n
        cut += 1
    assert cut > 5
