"""Budgets of rates and of work, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p.agent.budget import BURST_S, ProcessorBudget, RateBudget


@pytest.mark.parametrize("users", [1, 4])
async def test_all_users_together_keep_to_the_rate(autojump_clock: MockClock, users: int) -> None:
    budget = RateBudget(1000)
    started = trio.current_time()

    async def use() -> None:
        for _ in range(20):
            await budget.spend(500)

    async with trio.open_nursery() as nursery:
        for _ in range(users):
            nursery.start_soon(use)
    seconds = trio.current_time() - started
    assert seconds == pytest.approx(users * 20 * 500 / 1000 - BURST_S, abs=0.01)


async def test_what_was_not_used_is_saved_only_for_a_short_burst(autojump_clock: MockClock) -> None:
    budget = RateBudget(1000)
    await budget.spend(100)
    await trio.sleep(3600)
    started = trio.current_time()
    await budget.spend(int(1000 * BURST_S))
    assert trio.current_time() == started
    await budget.spend(1000)
    assert trio.current_time() - started == pytest.approx(1)


@pytest.mark.parametrize(
    ("own", "site", "among", "rate"),
    [
        (None, 9000, 1, 9000),
        (None, 9000, 2, 4500),
        (None, 9000, 4, 2250),
        (3000, 9000, 2, 3000),
        (3000, 9000, 4, 2250),
        (3000, None, 4, 3000),
        (None, None, 4, None),
        (None, 2, 5, 1),
    ],
)
async def test_a_site_s_budget_is_divided_and_the_own_one_holds_too(
    own: int | None, site: int | None, among: int, rate: int | None
) -> None:
    budget = RateBudget(own, site_rate=site)
    budget.divide(among)
    assert budget.rate == rate


async def test_devices_that_divide_a_budget_keep_to_it_together(autojump_clock: MockClock) -> None:
    budgets = [RateBudget(None, site_rate=2000) for _ in range(2)]
    used = [0, 0]

    async def use(n: int) -> None:
        while True:
            await budgets[n].spend(100)
            used[n] += 100

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, 0)
        await trio.sleep(10)
        assert used[0] == pytest.approx(2000 * (10 + BURST_S), rel=0.02)
        for budget in budgets:
            budget.divide(2)
        nursery.start_soon(use, 1)
        before = sum(used)
        await trio.sleep(10)
        assert sum(used) - before == pytest.approx(2000 * (10 + BURST_S), rel=0.03)
        assert used[1] == pytest.approx((sum(used) - before) / 2, rel=0.15)
        nursery.cancel_scope.cancel()


async def test_no_limit_waits_for_nothing(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    await RateBudget(None).spend(1 << 40)
    assert trio.current_time() == started


async def test_a_user_that_is_cancelled_leaves_the_budget_usable(autojump_clock: MockClock) -> None:
    budget = RateBudget(1000)
    with trio.move_on_after(1) as scope:
        await budget.spend(100_000)
    assert scope.cancelled_caught
    with trio.fail_after(200):
        await budget.spend(1)


# What is made for others


async def test_work_for_others_takes_its_share_of_the_time(autojump_clock: MockClock) -> None:
    budget, began = ProcessorBudget(0.25), list[float]()
    for _ in range(4):
        async with budget.turn():
            began.append(trio.current_time())
            await trio.sleep(2.0)
    assert [at - began[0] for at in began] == [0.0, 8.0, 16.0, 24.0]


async def test_a_whole_core_needs_no_pauses(autojump_clock: MockClock) -> None:
    budget, began = ProcessorBudget(), trio.current_time()
    for _ in range(4):
        async with budget.turn():
            await trio.sleep(2.0)
    assert trio.current_time() - began == 8.0


async def test_nothing_is_begun_on_the_battery(autojump_clock: MockClock) -> None:
    budget, began = ProcessorBudget(battery=True), list[float]()

    async def work() -> None:
        for _ in range(2):
            async with budget.turn():
                began.append(trio.current_time())
                await trio.sleep(2.0)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(10.0)
        budget.on_battery(False)
        await trio.sleep(1.0)
        budget.on_battery(True)  # the first is under way, and ends
        await trio.sleep(9.0)
        budget.on_battery(True)
        budget.on_battery(False)
    assert [at - start for at in began] == [10.0, 20.0]


async def test_work_that_fails_is_paid_for_too(autojump_clock: MockClock) -> None:
    budget, began = ProcessorBudget(0.5), trio.current_time()
    with pytest.raises(ValueError, match="wrong"):
        async with budget.turn():
            await trio.sleep(3.0)
            raise ValueError("wrong")
    async with budget.turn():
        assert trio.current_time() - began == 6.0
