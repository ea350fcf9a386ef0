"""Which connection a virtual device's request gets, as `p2p.adapters.http` would have it."""

from __future__ import annotations

from coordinator import app
from p2p.adapters.http import TURN_S
from sim.world.kernel import Kernel
from sim.world.pool import KEEP_ALIVE_S, SESSION_S, Opening, Pool


def after(kernel: Kernel, seconds: float) -> None:
    kernel.after(seconds, lambda: None)
    kernel.run(kernel.now + seconds)


def test_the_coordinator_keeps_connections_as_long_as_is_said_here() -> None:
    assert KEEP_ALIVE_S == app.KEEP_ALIVE_S


def test_a_connection_is_kept_then_its_session_then_nothing() -> None:
    kernel = Kernel(1)
    pool = Pool(kernel)
    assert pool.take() is Opening.FULL
    found = []
    for pause_s in (1.0, KEEP_ALIVE_S + 1, SESSION_S + 1):
        pool.give()
        after(kernel, pause_s)
        found.append(pool.take())
    assert found == [Opening.KEPT, Opening.RESUMED, Opening.FULL]


def test_a_session_is_good_for_one_connection() -> None:
    kernel = Kernel(1)
    pool = Pool(kernel)
    pool.take()
    pool.give()
    assert [pool.take() for _ in range(3)] == [Opening.KEPT, Opening.RESUMED, Opening.FULL]


def test_an_agent_that_ends_takes_connections_and_sessions_with_it() -> None:
    pool = Pool(Kernel(1))
    pool.take()
    pool.give()
    pool.forget()
    assert pool.take() is Opening.FULL


def test_small_requests_wait_for_each_other_but_not_for_long() -> None:
    kernel = Kernel(1)
    pool = Pool(kernel)
    begun: list[tuple[str, bool, float]] = []
    for name in ("one", "two", "three"):
        pool.turn(lambda mine, name=name: begun.append((name, mine, kernel.now)))  # type: ignore[misc]  # a lambda has no types
    after(kernel, 1.0)
    pool.end_turn()
    after(kernel, TURN_S)
    assert begun == [("one", True, 0.0), ("two", True, 1.0), ("three", False, TURN_S)]
    assert pool.busy
    pool.end_turn()
    assert not pool.busy
