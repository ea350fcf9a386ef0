"""How far an order has been opened, and which orders no longer matter.

Pure: commands of people on phase states, and the relation between orders of a product. What a single
device may install is decided on the device (`p2p.content.order.is_open_for`), by the same documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from p2p.content.order import Audience, Order, PhaseState, PhaseStatus
from p2p.errors import OperatorError

__all__ = ["abort", "covers", "first_state", "fully_open", "open_phases", "outdated", "pause", "resume"]


def first_state(order: Order, opened: int) -> PhaseState:
    """The state of an order that has just been published."""
    return PhaseState(order=order.id, product=order.product, opened=min(opened, len(order.phases)))


def open_phases(order: Order, state: PhaseState, opened: int) -> PhaseState:
    """Open phases up to number `opened` (1 is the first). Opened phases are never closed again."""
    _demand_running(state)
    if not 1 <= opened <= len(order.phases):
        raise OperatorError(f"order {order.id} has phases 1 to {len(order.phases)}, not {opened}")
    if opened < state.opened:
        raise OperatorError(
            f"{state.opened} phases of order {order.id} are open already; a phase is not closed again",
            kept="the phases that are open",
            next_step="use --pause to stop the order for everybody",
        )
    return replace(state, opened=opened)


def pause(state: PhaseState, reason: str) -> PhaseState:
    """Nobody starts to install until it is resumed."""
    _demand_not_aborted(state)
    return replace(state, status=PhaseStatus.PAUSED, reason=reason)


def resume(state: PhaseState) -> PhaseState:
    """The phases that were open are open again."""
    _demand_not_aborted(state)
    return replace(state, status=PhaseStatus.RUNNING, reason="")


def abort(state: PhaseState, reason: str) -> PhaseState:
    """End an order for good; only a new order goes on."""
    if not reason:
        raise OperatorError("an abort needs a reason", next_step="add --reason TEXT")
    _demand_not_aborted(state)
    return replace(state, status=PhaseStatus.ABORTED, reason=reason)


def covers(wide: Audience, narrow: Audience) -> bool:
    """Whether everybody whom `narrow` can mean is surely meant by `wide`."""
    if wide.all:
        return True
    return (
        not narrow.all
        and set(narrow.groups) <= set(wide.groups)
        and set(narrow.sites) <= set(wide.sites)
        and set(narrow.devices) <= set(wide.devices)
    )


def fully_open(order: Order, state: PhaseState | None) -> bool:
    """Whether everybody in the order's audience may install now."""
    return (
        state is not None
        and state.status is PhaseStatus.RUNNING
        and any(
            phase.sites_percent == 100 and covers(phase.audience, order.audience)
            for phase in order.phases[: state.opened]
        )
    )


def outdated(orders: Iterable[Order], states: Mapping[str, PhaseState]) -> set[str]:
    """Ids of orders that change nothing any more.

    An order is outdated when it was aborted, or when a later one means everybody whom it means and is
    open for all of them. A later order that is still opening leaves it: until their phase comes,
    devices go by the older one.
    """
    every = sorted(orders, key=lambda order: order.sequence)
    gone = {
        order.id
        for order in every
        if (state := states.get(order.id)) is not None and state.status is PhaseStatus.ABORTED
    }
    for n, order in enumerate(every):
        if any(
            covers(later.audience, order.audience) and fully_open(later, states.get(later.id))
            for later in every[n + 1 :]
        ):
            gone.add(order.id)
    return gone


def _demand_running(state: PhaseState) -> None:
    _demand_not_aborted(state)
    if state.status is PhaseStatus.PAUSED:
        raise OperatorError(
            f"order {state.order} is paused", kept="its phases", next_step="use --resume first"
        )


def _demand_not_aborted(state: PhaseState) -> None:
    if state.status is PhaseStatus.ABORTED:
        raise OperatorError(
            f"order {state.order} was aborted: {state.reason}",
            next_step="create a new order",
        )
