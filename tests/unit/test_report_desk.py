"""The desk where reports wait for each other: when a batch goes, what it holds, and what if it cannot."""

from __future__ import annotations

import math

import pytest

from p2p.content import limits
from p2p.swarm.messages import Report
from p2p.swarm.report_desk import (
    HASTENED_MAX,
    PER_PEER_MAX,
    REPORT_ROUGHLY,
    RETRY_S,
    RIVALS_MAX,
    ROUTINE,
    URGENT_S,
    Brought,
    ReportDesk,
    every_s,
    quiet_s,
    waits_s,
)

PAUSE_S = 1800.0


def routine(device: str = "d1", sequence: int = 1, *, size: int = 300, peer: str | None = None) -> Brought:
    return Brought(device, sequence, peer or device, Report(7, False, 0, bytes(size)))


def urgent(device: str = "d1", sequence: int = 1, *, peer: str | None = None) -> Brought:
    return Brought(device, sequence, peer or device, Report(8, True, 0, bytes(300)))


def test_routine_reports_wait_for_each_other_and_go_with_an_urgent_one() -> None:
    desk = ReportDesk()
    assert desk.due_at == math.inf
    assert desk.add(routine(), PAUSE_S, 0.0)
    assert desk.due_at == ROUTINE * PAUSE_S
    assert desk.add(routine("d2"), PAUSE_S, 60.0)
    assert desk.due_at == ROUTINE * PAUSE_S, "the first does not wait longer for the second"
    assert desk.add(urgent("d3"), PAUSE_S, 100.0)
    assert desk.due_at == 100.0 + URGENT_S
    assert {brought.device for brought in desk.take(desk.due_at)} == {"d1", "d2", "d3"}
    assert desk.due_at == math.inf, "under way"
    desk.answered()
    assert (len(desk), desk.due_at) == (0, math.inf)


def test_a_newer_report_of_a_device_replaces_the_older_and_waits_no_longer() -> None:
    desk = ReportDesk()
    desk.add(routine("d1", 4), PAUSE_S, 0.0)
    desk.add(routine("d1", 5), PAUSE_S, 1000.0)
    desk.add(urgent("d1", 3), PAUSE_S, 1000.0)
    assert desk.due_at == ROUTINE * PAUSE_S
    assert desk.take(desk.due_at) == [routine("d1", 5)]


def test_a_report_that_came_while_another_was_under_way_is_kept() -> None:
    desk = ReportDesk()
    desk.add(urgent("d1", 1), PAUSE_S, 0.0)
    desk.take(URGENT_S)
    desk.add(urgent("d1", 2), PAUSE_S, URGENT_S)
    desk.answered()
    assert desk.take(desk.due_at) == [urgent("d1", 2)]


def test_a_coordinator_that_cannot_be_reached_is_tried_again_while_somebody_waits() -> None:
    desk = ReportDesk()
    desk.add(routine(), PAUSE_S, 0.0)
    now, tries = desk.due_at, 0
    while desk.take(now):
        desk.failed(now, 0.5)
        assert RETRY_S[0] <= desk.due_at - now <= RETRY_S[1]
        now, tries = desk.due_at, tries + 1
    assert now >= waits_s(PAUSE_S, urgent=False), "then its device checks in itself"
    assert 5 < tries < 20
    desk.answered()
    desk.add(urgent("d2"), PAUSE_S, now)
    assert desk.due_at == now + URGENT_S, "and all is forgotten"


def test_the_desk_has_bounds() -> None:
    desk = ReportDesk()
    for n in range(limits.REPORTS_PER_BATCH_MAX):
        assert desk.add(routine(f"d{n}"), PAUSE_S, 5.0)
    assert not desk.add(urgent("more"), PAUSE_S, 5.0)
    assert desk.add(urgent("d1", 2), PAUSE_S, 5.0), "it has its place"
    assert desk.due_at == -math.inf, "it is full, so it goes"
    assert len(desk.take(5.0)) == limits.REPORTS_PER_BATCH_MAX
    desk.answered()
    for n in range(limits.REPORTS_PER_BATCH_MAX):
        desk.add(routine(f"d{n}", size=limits.REPORT_SIZE_MAX), PAUSE_S, 6.0)
    batch = desk.take(6.0)
    assert sum(len(brought.message.report) for brought in batch) <= limits.REPORT_BATCH_CODED_MAX
    desk.answered()
    assert len(desk) == limits.REPORTS_PER_BATCH_MAX - len(batch), "the others go next"


def test_a_question_takes_along_what_has_waited_for_half_its_time() -> None:
    desk = ReportDesk()
    assert not desk.with_question(0.0)
    desk.add(routine(), PAUSE_S, 0.0)
    half = ROUTINE * PAUSE_S / 2
    assert not desk.with_question(half - 1)
    assert desk.with_question(half)
    desk.take(half)
    assert not desk.with_question(half), "under way"
    desk.failed(half, 0.5)
    assert desk.with_question(half + 1), "the coordinator answers now"


def test_nobody_takes_the_place_of_anothers_report_nor_the_whole_desk() -> None:
    desk = ReportDesk()
    true, forged = routine("d1", 1, peer="d1"), routine("d1", 99, peer="liar")
    assert desk.add(true, PAUSE_S, 0.0)
    assert desk.add(forged, PAUSE_S, 0.0)
    for n in range(PER_PEER_MAX - 1):
        assert desk.add(routine(f"x{n}", peer="liar"), PAUSE_S, 0.0)
    assert not desk.add(routine("more", peer="liar"), PAUSE_S, 0.0)
    assert desk.add(routine("d2"), PAUSE_S, 0.0)
    assert {true, forged, routine("d2")} <= set(desk.take(0.0))


def passed_on(sequence: int, number: int, device: str = "d1") -> Brought:
    """By an honest peer, which was given it by whoever says that it is of `device`."""
    return Brought(device, sequence, "relay", Report(number, False, 1, bytes(300)))


@pytest.mark.parametrize("forged_first", [True, False])
def test_a_forged_report_by_way_of_an_honest_peer_does_not_push_the_true_one_out(forged_first: bool) -> None:
    desk = ReportDesk()
    true, forged = passed_on(5, 1), passed_on(1 << 40, 2)
    for brought in (forged, true) if forged_first else (true, forged):
        assert desk.add(brought, PAUSE_S, 0.0)
    assert set(desk.take(ROUTINE * PAUSE_S)) == {true, forged}
    desk.answered()
    assert len(desk) == 0


def test_of_many_that_are_said_to_be_of_one_device_more_are_refused_at_once() -> None:
    desk = ReportDesk()
    for n in range(RIVALS_MAX):
        assert desk.add(passed_on(n, n), PAUSE_S, 0.0)
    assert not desk.add(passed_on(99, 99), PAUSE_S, 0.0)
    assert desk.add(passed_on(1, 98, "d2"), PAUSE_S, 0.0)
    assert desk.add(routine("d1", 99), PAUSE_S, 0.0), "its own word"


@pytest.mark.parametrize("pause_s", [1.0, 60.0, 1800.0, 86_400.0])
def test_who_announces_to_be_quiet_is_heard_of_before_that_is_over(pause_s: float) -> None:
    made = every_s(pause_s) + waits_s(pause_s, urgent=False)
    assert min(made, limits.REPORT_QUIET_MAX_S) <= quiet_s(pause_s) <= limits.REPORT_QUIET_MAX_S
    assert every_s(pause_s, 0.0) == pytest.approx(0.8 * every_s(pause_s))
    assert waits_s(pause_s, urgent=False) > ROUTINE * pause_s
    assert waits_s(pause_s, urgent=True) > URGENT_S


def test_a_peer_that_calls_everything_urgent_does_not_set_the_pace_of_the_wan() -> None:
    desk, now, batches = ReportDesk(), 0.0, 0
    for sequence in range(1, 8641):  # a day of one each ten seconds
        desk.add(urgent("liar", sequence), PAUSE_S, now)
        if now >= desk.due_at:
            desk.take(now)
            desk.answered()
            batches += 1
        now += URGENT_S
    assert batches <= HASTENED_MAX + 86_400 / PAUSE_S + 86_400 / (ROUTINE * PAUSE_S) + 1
    desk.add(urgent("d1"), PAUSE_S, now)
    assert desk.due_at <= now + URGENT_S, "others are as urgent as ever"


def test_nor_does_one_that_brings_more_whenever_a_batch_is_under_way() -> None:
    for names in (["d1"], ["d1", "d2"]):
        desk, now, batches = ReportDesk(), 0.0, 0
        desk.add(urgent("d1", 1, peer="liar"), PAUSE_S, now)
        while now < 86_400.0 and desk.due_at < math.inf:
            now = max(now, desk.due_at)
            desk.take(now)
            batches += 1
            desk.add(urgent(names[batches % len(names)], batches + 1, peer="liar"), PAUSE_S, now)
            now += 1.0
            desk.answered()
        assert batches <= HASTENED_MAX + 86_400 / PAUSE_S + 86_400 / (ROUTINE * PAUSE_S) + 1


def test_nor_do_two_that_fill_the_desk_again_and_again() -> None:
    desk, now, batches = ReportDesk(), 0.0, 0
    while now < 20_000.0:
        for n in range(limits.REPORTS_PER_BATCH_MAX):
            desk.add(routine(f"d{n}", peer=f"liar-{n % 2}"), PAUSE_S, now)
        if now >= desk.due_at:
            desk.take(now)
            desk.answered()
            batches += 1
        now += 120.0
    assert batches <= 2 * (HASTENED_MAX + now / PAUSE_S) + now / (ROUTINE * PAUSE_S) + 1


def test_what_one_peer_has_at_the_desk_is_bounded_in_bytes() -> None:
    desk, brought = ReportDesk(), 0
    for n in range(PER_PEER_MAX):
        brought += desk.add(routine(f"d{n}", size=limits.REPORT_SIZE_MAX, peer="liar"), PAUSE_S, 0.0)
    assert brought * limits.REPORT_SIZE_MAX <= PER_PEER_MAX * REPORT_ROUGHLY
    assert desk.add(routine("d1", size=limits.REPORT_SIZE_MAX), PAUSE_S, 0.0), "others have theirs"


def test_all_devices_of_a_site_that_end_an_update_together_are_urgent() -> None:
    desk = ReportDesk()
    for n in range(PER_PEER_MAX):
        desk.add(urgent(f"d{n}", peer="relay"), PAUSE_S, n / PER_PEER_MAX)
    assert len(desk.take(desk.due_at)) == PER_PEER_MAX
    desk.answered()
    assert desk.add(urgent("late", peer="relay"), PAUSE_S, 60.0)
    assert desk.due_at == 60.0 + URGENT_S
