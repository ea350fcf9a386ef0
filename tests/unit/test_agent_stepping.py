"""A trust client's steps run in threads, and end as they do on the event loop."""

from __future__ import annotations

import threading

import pytest
import trio

from p2p.agent.stepping import run_in_threads
from p2p.errors import OriginError, TrustError
from p2p.trust import Need, NeedKind, Steps

NEED = Need(NeedKind.METADATA, "timestamp.json", "timestamp", None, None, None, 100)


class Asked:
    """Steps that need two files, and a source of them; both say by which threads they run."""

    def __init__(self, *answers: bytes | OriginError | None) -> None:
        self.answers = list(answers)
        self.stepped: set[int] = set()
        self.answered: set[int] = set()
        self.closed = False

    def steps(self) -> Steps[list[object]]:
        found: list[object] = []
        try:
            for _ in range(2):
                self.stepped.add(threading.get_ident())
                try:
                    found.append((yield NEED))
                except OriginError as error:
                    found.append(error)
            self.stepped.add(threading.get_ident())
            if None in found:
                raise TrustError("nobody", "nobody has it")
            return found
        finally:
            self.closed = True

    async def answer(self, need: Need) -> bytes | None:
        self.answered.add(threading.get_ident())
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0)
        if isinstance(answer, OriginError):
            raise answer
        return answer


async def test_steps_run_in_threads_and_answers_on_the_event_loop() -> None:
    gone = OriginError("unreachable")
    asked = Asked(b"one", gone)
    assert await run_in_threads(asked.steps(), asked.answer) == [b"one", gone]
    assert asked.answered == {threading.get_ident()}
    assert asked.stepped and threading.get_ident() not in asked.stepped


async def test_what_a_step_raises_is_raised() -> None:
    asked = Asked(b"one", None)
    with pytest.raises(TrustError, match="nobody has it"):
        await run_in_threads(asked.steps(), asked.answer)
    assert asked.closed


async def test_who_is_cancelled_drops_the_steps() -> None:
    asked = Asked()

    async def never(need: Need) -> bytes | None:
        await trio.sleep_forever()
        return None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_in_threads, asked.steps(), never)
        with trio.fail_after(10):
            while not asked.stepped:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert asked.closed


async def test_who_is_cancelled_in_a_step_asks_nobody_any_more() -> None:
    """What answers may be gone already."""
    begun, goes_on = threading.Event(), threading.Event()
    asked: list[Need] = []

    def steps() -> Steps[None]:
        begun.set()
        goes_on.wait(10)
        yield NEED

    async def answer(need: Need) -> bytes | None:
        asked.append(need)
        return None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_in_threads, steps(), answer)
        with trio.fail_after(10):
            while not begun.is_set():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
        goes_on.set()
    assert asked == []
