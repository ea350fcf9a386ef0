"""When the agent asks again: at its pace, or soon after it was told to, whenever that was (virtual time)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p.agent import asking
from p2p.agent.asking import NEWS_PAUSE_S

ASKING_S = 5.0
POLL_S = 60.0


class Asking(asking.Asking):
    """The asking without an agent; a question takes `ASKING_S`."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._asked_for = False
        self._driver = SimpleNamespace(news=trio.Event(), news_from={}, look_at_imported=lambda: None)
        self._imported = SimpleNamespace(timestamp_version=0)
        self._trust = SimpleNamespace(versions={})
        self._config = SimpleNamespace(swarm=SimpleNamespace(wan=True))

    async def _decide(self, *, wan: bool) -> None:
        await trio.sleep(ASKING_S)

    def _pass_on(self) -> None: ...


@pytest.mark.parametrize(
    ("told_s", "asked_again_s"),
    [
        (None, ASKING_S + POLL_S),
        (1.0, ASKING_S),  # told while it asks: what it learns may be older than what it was told of
        (ASKING_S + 20.0, ASKING_S + 20.0),
    ],
)
async def test_who_is_told_to_ask_does_so_also_while_it_is_asking(
    autojump_clock: MockClock, told_s: float | None, asked_again_s: float
) -> None:
    agent = Asking()
    async with trio.open_nursery() as nursery:

        async def tell() -> None:
            if told_s is not None:
                await trio.sleep(told_s)
                agent.ask_now()

        nursery.start_soon(tell)
        await agent.ask()
        await agent.wait_for_news(POLL_S)
        assert trio.current_time() == pytest.approx(asked_again_s)


@pytest.mark.parametrize(("claimed", "asked_again_s"), [(3, ASKING_S + POLL_S), (4, 2 * ASKING_S)])
async def test_claims_heard_while_asking_count_unless_they_are_known_by_then(
    autojump_clock: MockClock, claimed: int, asked_again_s: float
) -> None:
    agent = Asking()
    agent._trust.versions["timestamp"] = 3
    async with trio.open_nursery() as nursery:

        async def claim() -> None:
            await trio.sleep(1.0)
            agent._driver.news_from["peer"] = (1, claimed)
            agent._driver.news.set()

        nursery.start_soon(claim)
        await agent.ask()
        await agent.wait_for_news(POLL_S)
        assert trio.current_time() == pytest.approx(asked_again_s)


async def test_news_is_asked_for_once_and_not_in_quick_succession(autojump_clock: MockClock) -> None:
    agent = Asking()
    agent._decide = lambda *, wan: trio.lowlevel.checkpoint()
    agent.ask_now()
    await agent.ask()
    agent.ask_now()
    await agent.wait_for_news(POLL_S)
    assert trio.current_time() == pytest.approx(NEWS_PAUSE_S)
    await agent.ask()
    await agent.wait_for_news(POLL_S)
    assert trio.current_time() == pytest.approx(NEWS_PAUSE_S + POLL_S)
