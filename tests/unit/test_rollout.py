"""Commands on phase states, and which orders no longer matter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.domain.rollout import (
    abort,
    covers,
    first_state,
    fully_open,
    open_phases,
    outdated,
    pause,
    resume,
)
from p2p.content.digests import sha256
from p2p.content.order import Audience, Order, Phase, PhaseState, PhaseStatus
from p2p.errors import OperatorError

ALL = Audience(all=True)


def make_order(sequence: int = 1, audience: Audience = ALL, phases: tuple[Phase, ...] = ()) -> Order:
    return Order(
        f"{sequence}-1.0", "engine", "1.0", 1, sha256(b""), sequence, audience, phases or (Phase("all", ALL),)
    )


TWO = make_order(phases=(Phase("few", ALL, 10), Phase("all", ALL)))


def test_phases_open_and_never_close() -> None:
    state = first_state(TWO, 1)
    assert state == PhaseState("1-1.0", "engine", 1)
    opened = open_phases(TWO, state, 2)
    assert opened.opened == 2
    assert open_phases(TWO, opened, 2) == opened
    with pytest.raises(OperatorError, match="not closed again"):
        open_phases(TWO, opened, 1)
    for wrong in (0, 3):
        with pytest.raises(OperatorError, match="phases 1 to 2"):
            open_phases(TWO, state, wrong)


def test_a_paused_order_resumes_where_it_was() -> None:
    state = first_state(TWO, 1)
    paused = pause(state, "look")
    assert (paused.status, paused.reason, paused.opened) == (PhaseStatus.PAUSED, "look", 1)
    with pytest.raises(OperatorError, match="is paused"):
        open_phases(TWO, paused, 2)
    assert resume(paused) == state


def test_an_aborted_order_stays_aborted() -> None:
    with pytest.raises(OperatorError, match="needs a reason"):
        abort(first_state(TWO, 1), "")
    gone = abort(first_state(TWO, 1), "smoke")
    for change in (lambda: resume(gone), lambda: pause(gone, ""), lambda: open_phases(TWO, gone, 2)):
        with pytest.raises(OperatorError, match="was aborted: smoke"):
            change()


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        (ALL, Audience(sites=("a",)), True),
        (ALL, ALL, True),
        (Audience(sites=("a",)), ALL, False),
        (Audience(sites=("a", "b")), Audience(sites=("a",)), True),
        (Audience(sites=("a",)), Audience(sites=("a", "b")), False),
        (Audience(sites=("a",)), Audience(groups=("a",)), False),
        (Audience(groups=("g",), sites=("a",)), Audience(groups=("g",)), True),
        (Audience(devices=("d",)), Audience(devices=("d",)), True),
    ],
)
def test_covers(wide: Audience, narrow: Audience, expected: bool) -> None:
    assert covers(wide, narrow) is expected


def test_fully_open_means_everybody_of_the_audience() -> None:
    state = first_state(TWO, 1)
    assert not fully_open(TWO, state)
    assert not fully_open(TWO, None)
    assert fully_open(TWO, replace(state, opened=2))
    assert not fully_open(TWO, replace(state, opened=2, status=PhaseStatus.PAUSED))
    part = make_order(audience=ALL, phases=(Phase("g", Audience(groups=("g",))),))
    assert not fully_open(part, first_state(part, 1))


def test_an_order_is_outdated_once_a_later_one_is_open_for_all_of_it() -> None:
    old, new = make_order(1), make_order(2, phases=TWO.phases)
    opening = {o.id: first_state(o, 1) for o in (old, new)}
    assert outdated([old, new], opening) == set()
    done = opening | {new.id: replace(opening[new.id], opened=2)}
    assert outdated([new, old], done) == {old.id}
    narrow = make_order(2, audience=Audience(sites=("a",)))
    assert outdated([old, narrow], {o.id: first_state(o, 1) for o in (old, narrow)}) == set()


def test_an_aborted_order_is_outdated() -> None:
    order = make_order(1)
    assert outdated([order], {order.id: abort(first_state(order, 1), "x")}) == {order.id}
    assert outdated([order], {order.id: pause(first_state(order, 1), "x")}) == set()
