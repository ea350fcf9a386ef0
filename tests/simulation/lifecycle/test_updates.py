"""A device's life without cuts: from an order to a committed slot, or back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from p2p.content.order import Audience, Phase, PhaseStatus
from p2p.trust import Meant, Nothing
from tests.simulation.lifecycle.solo import BASE, PIECE, SIZE, Solo, manifest


def test_an_order_becomes_a_committed_slot_that_is_served() -> None:
    solo = Solo()
    solo.publish()
    solo.life.power_on()
    solo.run(120)
    assert solo.log.lines == [
        "booted a", "starting", "planning", "fetching", "sealing", "installed b", "armed", "rebooting",
        "down", "booted b", "starting", "trial", "floor 2", "committed 2 b", "committed",
    ]  # fmt: skip
    assert solo.swarm.serving == {manifest().payloads[0].image.sha256: "/slots/rootfs-b.img"}
    assert solo.swarm.held == {"timestamp.json": solo.repository.timestamp_version}
    assert solo.settled


def test_where_nothing_reboots_the_trial_follows_at_once() -> None:
    solo = Solo(reboots=False)
    solo.publish()
    solo.life.power_on()
    solo.run(120)
    assert "rebooting" not in solo.log.lines
    assert solo.log.lines[-3:] == ["floor 2", "committed 2 b", "committed"]


def test_the_next_release_goes_to_the_other_slot() -> None:
    solo = Solo()
    solo.publish()
    solo.life.power_on()
    solo.run(120)
    solo.publish(3)
    solo.run(200)
    assert "committed 3 a" in solo.log.lines
    assert solo.log.floor == 3
    assert solo.settled


@pytest.mark.parametrize("reboots", [True, False])
def test_an_unhealthy_release_is_left_and_never_tried_again(reboots: bool) -> None:
    solo = Solo(healthy=lambda manifest: False, reboots=reboots)
    solo.publish()
    solo.life.power_on()
    solo.run(1200)
    assert solo.log.lines.count("trial") == 1
    assert "rolled back: health check: failed" in solo.log.lines
    assert solo.machine.boot.read().active == "a"
    assert solo.log.floor == 0
    assert solo.settled
    assert len(solo.swarm.makings) == 1


def test_a_slot_that_never_comes_up_uses_its_attempts_up() -> None:
    solo = Solo(boots=lambda slot: slot == "a")
    solo.publish()
    solo.life.power_on()
    solo.run(600)
    assert any(line.startswith("rolled back: slot b was given up") for line in solo.log.lines)
    assert [line for line in solo.log.lines if line.startswith("booted")] == ["booted a"] * 2
    assert solo.settled


def test_another_order_while_it_fetches_takes_over() -> None:
    solo = Solo()
    solo.publish()
    solo.life.power_on()
    solo.kernel.run(2.5)
    assert solo.life.state == "fetching"
    solo.publish(3)
    solo.life.ask_now()
    solo.run(120)
    assert [digest.hex() for digest in solo.swarm.makings] == [
        manifest(n).payloads[0].image.sha256.hex() for n in (2, 3)
    ]
    assert "committed 3 b" in solo.log.lines
    assert "committed 2 b" not in solo.log.lines


def test_an_order_that_comes_while_it_asks_does_not_wait_for_the_next_poll() -> None:
    """The question under way has read the metadata of before."""
    solo = Solo(poll_s=3600.0)
    solo.life.power_on()
    while "timestamp.json" not in solo.origin.asked:
        solo.run(0.01)
    solo.run(0.03)
    solo.publish()
    assert not solo.log.decisions
    solo.life.ask_now()
    solo.run(120)
    assert isinstance(solo.log.decisions[0], Nothing)
    assert "committed 2 b" in solo.log.lines


def test_an_order_that_is_aborted_while_it_fetches_ends_it_and_what_was_written_stays() -> None:
    solo = Solo()
    order = solo.publish()
    solo.life.power_on()
    solo.kernel.run(3.5)
    solo.repository.halt(order, PhaseStatus.ABORTED, solo.kernel.now, "bad release")
    solo.life.ask_now()
    solo.run(120)
    assert solo.life.state == "idle"
    assert solo.life.reason == "not-open"
    assert solo.machine.boot.read().active == "a"
    written = solo.disk.right("/slots/rootfs-b.img", manifest().payloads[0].image.sha256)
    assert written.total() >= PIECE


def test_news_during_a_trial_waits_until_it_was_judged() -> None:
    solo = Solo(health_s=10.0)
    solo.publish()
    solo.life.power_on()
    while solo.life.state != "trial":
        solo.run(0.5)
    for _ in range(8):
        solo.life.ask_now()
        solo.run(1.0)
    assert solo.life.state == "trial"
    solo.run(60)
    assert solo.log.lines[-1] == "committed"
    assert "failed" not in solo.log.lines


def test_a_phase_opens_a_site_at_its_time() -> None:
    solo = Solo()
    order = solo.publish(
        phases=(Phase("none", Audience(devices=("other",))), Phase("all", Audience(all=True))), opened=1
    )
    solo.life.power_on()
    solo.run(200)
    assert isinstance(solo.log.decisions[-1], Nothing)
    assert solo.life.reason == "not-open"
    solo.repository.open_phases(order, 2, solo.kernel.now)
    solo.run(200)
    assert isinstance(solo.log.decisions[-1], Meant)
    assert solo.settled
    assert solo.log.floor == 2


def test_what_reads_back_wrong_is_neither_sealed_nor_booted() -> None:
    solo = Solo()
    solo.swarm.spoil = lambda offset: offset == 3 * PIECE
    solo.publish()
    solo.life.power_on()
    solo.run(120)
    assert solo.machine.slots()["rootfs"].image_in("b") is None
    assert "failed" in solo.log.lines
    assert "armed" not in solo.log.lines
    assert solo.machine.boot.read().active == "a"


def test_a_base_that_is_the_release_is_committed_as_it_is() -> None:
    solo = Solo()
    solo.publish(1)
    solo.life.power_on()
    solo.run(60)
    assert solo.life.state == "current"
    assert solo.log.floor == 1
    assert list(solo.swarm.serving) == [BASE]
    assert solo.swarm.makings == []


def test_a_downgrade_is_refused_but_for_whom_an_order_names() -> None:
    for allowed in ((), ("d1",)):
        solo = Solo()
        solo.publish(3)
        solo.life.power_on()
        solo.run(120)
        solo.publish(2, allow_downgrade=allowed)
        solo.run(200)
        assert ("committed 2 a" in solo.log.lines) == bool(allowed)
        assert solo.life.floor == 3
        if not allowed:
            assert solo.life.state == "committed"
            assert isinstance(solo.log.decisions[-1], Nothing)
            assert solo.log.decisions[-1].reason == "below-floor"


def test_a_release_larger_than_the_partition_changes_nothing() -> None:
    solo = Solo(capacity=SIZE)
    solo.publish(2, size=SIZE + 1)
    solo.life.power_on()
    solo.run(300)
    assert "does not fit" in solo.life.reason
    assert solo.settled
    fits = Solo(capacity=SIZE)
    fits.publish(2)
    fits.life.power_on()
    fits.run(300)
    assert "committed 2 b" in fits.log.lines


def test_a_full_disk_stops_an_update_and_room_lets_it_go_on() -> None:
    solo = Solo()
    solo.publish()
    solo.life.power_on()
    solo.kernel.run(3.5)
    assert solo.life.state == "fetching"
    solo.disk.room = 0
    solo.run(200)
    assert "committed 2 b" not in solo.log.lines
    assert solo.machine.boot.read().active == "a"
    solo.disk.room = None
    solo.run(200)
    assert "committed 2 b" in solo.log.lines
    assert solo.settled


def test_a_killed_agent_goes_on_from_what_is_in_the_slot() -> None:
    solo = Solo()
    solo.publish()
    solo.life.power_on()
    solo.kernel.run(3.5)
    before = solo.disk.right("/slots/rootfs-b.img", manifest().payloads[0].image.sha256).total()
    assert before > 3 * PIECE
    solo.life.kill()
    solo.run(5)
    assert not solo.life.up
    solo.life.start_agent()
    solo.run(200)
    assert "committed 2 b" in solo.log.lines


LIFE = """
from tests.simulation.lifecycle.solo import Solo
for seed in (1, 2):
    solo = Solo(seed=seed)
    solo.publish()
    solo.life.power_on()
    solo.kernel.run(3.5)
    solo.life.cut_power()
    solo.life.power_on()
    solo.run(100)
    print(solo.log.lines, solo.kernel.events, solo.origin.asked, sorted(solo.repository.files.items()))
"""


def test_the_same_seed_gives_the_same_life_whatever_the_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", LIFE],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(found) == 1
    first, second = found.pop().splitlines()
    assert first != second


def test_a_device_whose_release_is_blocked_goes_on_asking_the_origin() -> None:
    solo = Solo(healthy=lambda manifest: False)
    solo.publish()
    solo.life.power_on()
    solo.run(600)
    assert [line for line in solo.log.lines if "rolled back" in line] == ["rolled back: health check: failed"]
    asked = solo.origin.asked.count("timestamp.json")
    solo.run(600)
    assert 6 <= solo.origin.asked.count("timestamp.json") - asked <= 15, "about once a pause"
    solo.publish(3)
    solo.run(300)
    assert len([line for line in solo.log.lines if "rolled back" in line]) == 2
