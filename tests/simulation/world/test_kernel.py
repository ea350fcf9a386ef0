"""Time, order, randomness by name and the digest."""

import pytest

from sim.world.kernel import Kernel


def test_events_of_one_instant_happen_in_the_order_in_which_they_were_asked_for() -> None:
    kernel = Kernel(1)
    seen: list[str] = []
    kernel.at(2.0, seen.append, "c")
    kernel.at(1.0, seen.append, "a")
    kernel.at(
        1.0, lambda: (seen.append("b"), kernel.soon(seen.append, "b2"), kernel.at(0.0, seen.append, "late"))
    )
    kernel.run(1.5)
    assert seen == ["a", "b", "b2", "late"]
    assert kernel.now == 1.5
    kernel.run(9.0)
    assert seen[-1] == "c"


def test_a_timer_that_was_called_off_does_not_fire() -> None:
    kernel = Kernel(1)
    seen: list[str] = []
    off, on = kernel.timer(1.0, seen.append, "off"), kernel.timer(1.0, seen.append, "on")
    off.cancel()
    assert (off.active, on.active) == (False, True)
    kernel.run(2.0)
    assert seen == ["on"]
    assert not on.active


def test_generators_depend_on_seed_and_name_alone() -> None:
    first, second = Kernel(1), Kernel(1)
    first.rng("other").random()
    assert first.rng("a").random() == second.rng("a").random()
    assert first.rng("a").random() != second.rng("b").random()
    assert first.rng("a").random() != Kernel(2).rng("a").random()


def test_the_digest_is_of_all_lines_and_their_times() -> None:
    told: list[str] = []
    kernels = [Kernel(1, tell=told.append), Kernel(1), Kernel(1)]
    for kernel in kernels:
        kernel.trace("one")
        assert kernel.digest
        kernel.trace("two")
    kernels[2].trace("three")
    assert kernels[0].digest == kernels[1].digest != kernels[2].digest
    assert told == ["0 one", "0 two"]


def test_stop_ends_a_run_after_the_event_under_way() -> None:
    kernel = Kernel(1)
    seen: list[int] = []
    kernel.at(1.0, lambda: (seen.append(1), kernel.stop()))
    kernel.at(1.0, seen.append, 2)
    kernel.run(5.0)
    assert (seen, kernel.now) == ([1], 1.0)


def test_what_was_stopped_or_failed_at_an_instant_goes_on_there() -> None:
    kernel = Kernel(1)
    seen: list[int] = []

    def fail() -> None:
        raise ValueError

    kernel.at(1.0, kernel.stop)
    kernel.at(1.0, fail)
    kernel.at(1.0, seen.append, 2)
    kernel.run(5.0)
    with pytest.raises(ValueError):
        kernel.run(5.0)
    assert (seen, kernel.now, kernel.events) == ([], 1.0, 2)
    kernel.run(5.0)
    assert (seen, kernel.now, kernel.events) == ([2], 5.0, 3)


def test_one_step_is_one_event() -> None:
    kernel = Kernel(1)
    seen: list[int] = []
    kernel.at(1.0, lambda: kernel.soon(seen.append, 3))
    kernel.at(1.0, seen.append, 2)
    kernel.step()
    assert seen == []
    kernel.step()
    kernel.step()
    assert (seen, kernel.now, kernel.events) == ([2, 3], 1.0, 3)
    with pytest.raises(IndexError):
        kernel.step()


def test_after_a_step_that_failed_the_next_is_that_of_a_later_instant() -> None:
    kernel = Kernel(1)
    seen: list[int] = []

    def fail() -> None:
        raise ValueError

    kernel.at(1.0, fail)
    kernel.at(2.0, seen.append, 2)
    with pytest.raises(ValueError):
        kernel.step()
    kernel.step()
    assert (seen, kernel.now, kernel.events) == ([2], 2.0, 2)
