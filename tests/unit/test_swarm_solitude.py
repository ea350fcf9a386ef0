"""When a node counts on itself: by its own jittered deadline, and not at the same moment as all others."""

from __future__ import annotations

from p2p.swarm.solitude import AT_ONCE_S, DEFERRALS_MAX, RELIEFS_MAX, SPREAD_S, SUDDEN_S, Solitude


def is_due(alone: Solitude, now: float, deadline_s: float = 30.0) -> bool:
    return alone.is_due(now, 0.0, deadline_s)


def test_patience_ends_with_the_jittered_deadline() -> None:
    alone = Solitude(1.5)
    assert not is_due(alone, 45.0)
    assert is_due(alone, 45.1)
    assert alone.alone_at == 45.1
    assert not is_due(alone, 50.0), "it is alone already"


def test_who_finds_late_that_it_should_have_lost_patience_waits_for_its_turn() -> None:
    early, late = Solitude(1.1), Solitude(1.9)
    for alone in (early, late):  # somebody's lease was given up, and with it a long deadline
        assert not is_due(alone, 499.0, deadline_s=1000.0)
        assert not is_due(alone, 500.0)
    assert is_due(early, 500.0 + 0.1 * SPREAD_S + 0.01)
    assert not is_due(late, 500.0 + 0.9 * SPREAD_S - 0.01)
    assert is_due(late, 500.0 + 0.9 * SPREAD_S + 0.01)


def test_a_turn_is_for_one_occasion() -> None:
    alone = Solitude(1.5)
    assert not is_due(alone, 500.0)
    assert not is_due(alone, 501.0, deadline_s=1000.0), "there is reason again to wait"
    assert not is_due(alone, 600.0), "so this is another occasion"
    assert is_due(alone, 600.0 + 0.5 * SPREAD_S + 0.01)


def test_the_deadline_passing_is_no_sudden_event() -> None:
    alone = Solitude(1.5)
    assert is_due(alone, 45.0 + SUDDEN_S)


def test_others_who_began_at_the_same_moment_or_later_go_first() -> None:
    alone = Solitude(1.0)
    assert is_due(alone, 30.5)
    assert alone.defers_to("earlier", 30.5 - 2 * AT_ONCE_S) is False
    assert alone.defers_to("together", 30.5 - AT_ONCE_S / 2)
    assert alone.defers_to("later", 31.0)


def test_but_only_a_few() -> None:
    alone = Solitude(1.0)
    assert is_due(alone, 30.5)
    assert all(alone.defers_to(f"d{n}", 31.0) for n in range(DEFERRALS_MAX))
    assert not alone.defers_to("one more", 31.0)
    assert alone.defers_to("d0", 31.0), "who was let go first still is"


def test_whose_fetch_succeeds_after_it_had_failed_counts_on_its_site_again() -> None:
    failed, alone = Solitude(1.0), Solitude(1.0)
    for node in (failed, alone):
        assert is_due(node, 30.5)
    failed.wan_failed(40.0)
    assert failed.is_due(71.0, 0.0, 30.0)
    for node in (failed, alone):
        node.wan_delivers()
    assert not failed
    assert alone, "nothing says that it was not the others"


def test_who_is_alone_counts_on_the_others_again_as_bytes_come_to_them() -> None:
    alone = Solitude(1.0)
    assert is_due(alone, 31.0)
    alone.others_move(40.0, 0.0)
    assert not alone
    assert not is_due(alone, 69.0)
    assert is_due(alone, 71.0)


def test_others_may_say_so_a_few_times_but_nothing_comes_of_it() -> None:
    alone, now = Solitude(1.0), 0.0
    for _ in range(RELIEFS_MAX):
        now += 31.0
        assert is_due(alone, now)
        alone.others_move(now, 0.0)
        assert not alone
    assert is_due(alone, now + 31.0)
    alone.others_move(now + 32.0, 0.0)
    assert alone


def test_what_comes_to_others_is_nothing_to_who_counts_on_them() -> None:
    alone = Solitude(1.0)
    alone.others_move(20.0, 0.0)
    assert is_due(alone, 31.0), "it was no reason to be more patient"
