"""How often a device asks again after trouble."""

import pytest

from p2p.trust import CheckInPace, Doubts, Pace
from p2p.trust.pace import DOUBTED_MAX

HOUR = 3600.0


def waits(pace: Pace, count: int, *, lasting: bool, jitter: float = 0.5) -> list[float]:
    return [pace.after_trouble(HOUR, jitter, lasting=lasting) for _ in range(count)]


def test_trouble_that_may_pass_is_tried_again_once_a_minute_at_the_least() -> None:
    found = waits(Pace(), 12, lasting=False)
    assert found[:4] == [1, 2, 4, 8]
    assert found[-1] == 60


def test_what_only_a_publication_can_end_is_asked_no_more_often_than_without_trouble() -> None:
    found = waits(Pace(), 14, lasting=True)
    assert found[0] == 1
    assert found[-1] == HOUR


def test_a_short_pace_does_not_make_lasting_trouble_hurry() -> None:
    pace = Pace()
    assert [pace.after_trouble(0.1, 0.5, lasting=True) for _ in range(9)][-1] == 60


def test_an_answer_makes_the_next_trouble_begin_anew() -> None:
    pace = Pace((2.0, 16.0))
    assert waits(pace, 3, lasting=False) == [2, 4, 8]
    pace.answered()
    assert waits(pace, 1, lasting=False) == [2]


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_devices_spread_by_half_of_the_pause(jitter: float) -> None:
    assert waits(Pace(), 1, lasting=False, jitter=jitter) == [0.5 + jitter]


def test_a_poll_at_its_time_takes_a_check_in_with_it_and_one_soon_after_it_does_not() -> None:
    pace = CheckInPace()
    assert [pace.with_poll(part * HOUR, HOUR) for part in (0.0, 0.3, 0.5, 1.0)] == [False, False, True, True]
    assert pace.with_poll(float("inf"), HOUR)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_check_in_by_itself_comes_only_where_the_next_poll_did_not(jitter: float) -> None:
    assert 1.5 * HOUR < CheckInPace().alone(HOUR, jitter, ok=True) <= 2 * HOUR


def test_a_check_in_that_failed_is_tried_again_ever_less_often() -> None:
    pace = CheckInPace()
    assert [pace.alone(HOUR, 0.5, ok=False) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    pace.alone(HOUR, 0.5, ok=True)
    assert pace.alone(HOUR, 0.5, ok=False) == 1


def test_doubts_double_end_and_are_bounded() -> None:
    doubts = Doubts()
    assert doubts.heeds("liar", 0.0)
    now = 0.0
    for pauses in (1, 2, 4, 8, 16, 32, 32):
        doubts.doubt("liar", now, 60.0)
        assert not doubts.heeds("liar", now + pauses * 60.0 - 1.0)
        now += pauses * 60.0
        assert doubts.heeds("liar", now)
    now += 32 * 60.0 + 1.0  # it has not lied for so long
    doubts.doubt("liar", now, 60.0)
    assert doubts.heeds("liar", now + 60.0)
    for n in range(DOUBTED_MAX):
        doubts.doubt(f"d{n}", now, 60.0)
    assert doubts.heeds("liar", now), "who was doubted first is forgotten first"
    assert not doubts.heeds("d0", now)
