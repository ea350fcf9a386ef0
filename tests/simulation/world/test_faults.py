"""Every fault and every manner of a hostile device: the site gets over it, at a bounded price."""

import pytest

from p2p.swarm import events as e
from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import DeltaSpec, Fault, FaultKind, Manner, SyntheticRelease, Wan, Who
from sim.world import Observer, World, run
from sim.world.device import Device
from tests.simulation.world.scenes import RATE, SIZE, depot

IDEAL_S = SIZE * 1.047 / RATE


def honest(outcome: RunOutcome) -> list[str]:
    return [d.state for d in outcome.devices if d.state != "hostile"]


def latest(outcome: RunOutcome) -> float:
    return max(d.finished_s or 0.0 for d in outcome.devices)


def amplification(outcome: RunOutcome) -> float:
    assert outcome.amplification is not None
    return outcome.amplification


@pytest.fixture(scope="module")
def calm() -> RunOutcome:
    return run(depot(devices=6), 1)


HALF = IDEAL_S / 2
KINDS = {  # and what everybody pays at most; measured over five seeds, plus a small margin
    "crash of a gateway": (Fault(FaultKind.CRASH, HALF, 60.0, who=Who.GATEWAY), 1.25),
    "restart of a gateway": (Fault(FaultKind.RESTART, HALF, 30.0, who=Who.GATEWAY), 1.25),
    "crash of all": (Fault(FaultKind.CRASH, HALF, 30.0, who=Who.ALL), 1.5),
    "partition": (Fault(FaultKind.PARTITION, HALF, 60.0), 1.95),
    "origin down": (Fault(FaultKind.ORIGIN_DOWN, HALF, 60.0), 1.05),
    "wan down": (Fault(FaultKind.WAN_DOWN, HALF, 60.0), 1.15),
    "wan slow": (Fault(FaultKind.WAN_SLOW, HALF, 60.0, factor=0.1), 1.05),
    "cut": (Fault(FaultKind.CUT, 2.0, every_s=2.0, until_s=20.0), 1.25),
    "rot in the slot": (Fault(FaultKind.BIT_ROT_SLOT, HALF, size=4096, who=Who.ALL), 1.2),
    "full disk": (Fault(FaultKind.DISK_FULL, HALF, 60.0, count=2), 1.3),
    "slow disk": (Fault(FaultKind.DISK_SLOW, HALF, 60.0, count=2, factor=0.01), 1.05),
    "clock": (Fault(FaultKind.CLOCK, HALF, size=-86400, count=2), 1.05),
    "late": (Fault(FaultKind.LATE, 40.0, count=2), 1.05),
}


@pytest.mark.parametrize("name", KINDS)
def test_after_a_fault_everybody_finishes(name: str, calm: RunOutcome) -> None:
    fault, price = KINDS[name]
    world = World(depot(fault, devices=6), 1)
    outcome = world.run()
    assert honest(outcome) == ["committed"] * 6
    assert amplification(outcome) <= price
    assert fault.kind is FaultKind.LATE or world.faults.begun >= 1
    assert outcome.trace_digest != calm.trace_digest


def test_who_fetches_over_a_link_that_became_slow_is_not_taken_for_stalled() -> None:
    """Each fetch is nearly twenty times slower than those by which the others know the rate."""
    outcome = run(depot(KINDS["wan slow"][0], devices=6), 4)
    assert honest(outcome) == ["committed"] * 6
    assert amplification(outcome) <= 1.05


def test_who_leaves_is_not_waited_for() -> None:
    outcome = run(depot(Fault(FaultKind.LEAVE, HALF, who=Who.GATEWAY), devices=6), 1)
    assert sorted(honest(outcome)) == ["committed"] * 5 + ["down"]
    assert outcome.virtual_s < 200


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_rotten_base_is_found_and_mended_by_peers_whose_base_is_sound(seed: int) -> None:
    packs = SyntheticRelease("v2", SIZE, SIZE, (DeltaSpec("v1", 400_000),))
    fault = Fault(FaultKind.BIT_ROT_BASE, 0.0, size=64 * 1024, count=1)
    outcome = run(depot(fault, devices=5, bases={"v1": 1.0}, release=packs), seed)
    assert honest(outcome) == ["committed"] * 5
    assert outcome.sites[0].wan_down < 500_000  # nothing of the full pack but its index
    assert max(d.verified_s or 0.0 for d in outcome.devices) < 10.0


def test_a_crash_loses_what_was_not_synced_and_a_restart_does_not() -> None:
    def resumed(kind: FaultKind) -> int:
        found: list[int] = []

        class Watch(Observer):
            def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
                if type(event) is e.Pursue and device.life > 1:
                    found.append(sum(stop - start for start, stop in event.done))

        World(depot(Fault(kind, 7.0, 2.0, who=Who.GATEWAY), devices=4), 1, observer=Watch()).run()
        return found[0]

    assert 0 < resumed(FaultKind.CRASH) < resumed(FaultKind.RESTART)


class _Price(Observer):
    """What hostile devices manage."""

    def __init__(self) -> None:
        self.bad_stored = 0
        self.bad_served = 0
        self.wrong = 0

    def stored(self, device: Device, event: object, good: bool) -> None:
        self.bad_stored += not good

    def served(self, device: Device, action: object, good: bool, held: bool) -> None:
        self.bad_served += not good

    def read_back(self, device: Device, image: object, right: bool, good: bool) -> None:
        self.wrong += right and not good


@pytest.mark.parametrize("manner", list(Manner))
def test_a_hostile_device_costs_little_and_spoils_nothing(manner: Manner, calm: RunOutcome) -> None:
    watch = _Price()
    scenario = depot(Fault(FaultKind.HOSTILE, manner=manner), devices=7)
    outcome = World(scenario, 1, observer=watch).run()
    assert [d.state for d in outcome.devices].count("hostile") == 1
    assert honest(outcome) == ["committed"] * 6
    assert (watch.bad_stored, watch.bad_served, watch.wrong) == (0, 0, 0)
    assert amplification(outcome) <= 1.05
    # Who asks for pieces all the time keeps the others for `departure.LONGEST_S` from starting anew.
    later_s = 90 if manner is Manner.FLOOD else 30
    assert latest(outcome) <= latest(calm) + later_s


def test_greedy_devices_in_the_place_of_all_gateways_are_found_out() -> None:
    """Two of them are both gateways of the site, with leases on all of the image."""
    outcome = run_checked(depot(Fault(FaultKind.HOSTILE, manner=Manner.GREEDY, count=2), devices=8), 1)
    assert outcome.violations == ()
    assert honest(outcome) == ["committed"] * 6
    assert amplification(outcome) <= 1.05
    assert latest(outcome) <= 60


@pytest.mark.parametrize("devices", [4, 7, 14])
def test_honest_gateways_on_a_thin_link_are_not_taken_for_greedy_ones(devices: int) -> None:
    """A frame of 1 MiB takes 4 minutes and more for each of two gateways that share 8 kB/s."""
    packs = SyntheticRelease("v2", SIZE // 2, SIZE // 2)
    outcome = run_checked(depot(devices=devices, count=2, wan=Wan(8e3), release=packs), 1)
    assert outcome.violations == ()
    assert honest(outcome) == ["committed"] * 2 * devices
    assert amplification(outcome) <= 1.05
    assert latest(outcome) <= 1.1 * SIZE / 2 * 1.047 / 8e3


def test_faults_compose() -> None:
    faults = (
        Fault(FaultKind.HOSTILE, manner=Manner.POISON),
        Fault(FaultKind.CRASH, HALF, 20.0, who=Who.GATEWAY),
        Fault(FaultKind.PARTITION, HALF + 1, 15.0),
        Fault(FaultKind.ORIGIN_DOWN, HALF + 2, 10.0),
        Fault(FaultKind.RESTART, 3.0, 2.0, every_s=4.0, until_s=20.0),
    )
    outcome = run(depot(*faults, devices=8), 5)
    assert honest(outcome) == ["committed"] * 7


def test_an_observer_changes_nothing_and_sees_the_life_of_a_device() -> None:
    seen: dict[str, int] = {}

    def note(name: str) -> None:
        seen[name] = seen.get(name, 0) + 1

    class Watch(Observer):
        def begun(self, world: World) -> None:
            note("begun")

        def fetch_started(self, device: Device, action: object) -> None:
            note("fetch")

        def fetch_ended(self, device: Device, action: object, error: object, size: int, wasted: int) -> None:
            note("fetched")

        def connected(self, one: str, other: str) -> None:
            note("connected")

        def committed(self, device: Device, release: str) -> None:
            note("committed")

        def floor_moved(self, device: Device, old: int, new: int) -> None:
            assert new > old
            note("floor")

        def ended(self, world: World) -> None:
            note("ended")

    plain = run(depot(devices=4), 1)
    watched = run(depot(devices=4), 1, observer=Watch())
    assert watched.trace_digest == plain.trace_digest
    assert (seen["begun"], seen["ended"], seen["committed"], seen["floor"]) == (1, 1, 4, 4)
    assert seen["fetch"] == seen["fetched"] >= 1
    assert seen["connected"] >= 6
