"""The agent's event loop waits for no fsync: peers and timers go on while the medium takes its time."""

from __future__ import annotations

import pytest

from tests.support.fleet import FleetRig

pytestmark = pytest.mark.usefixtures("quick")

QUOTA = '[budgets]\nwan_month_max = "1GB"\nsite_wan_month_max = "1GB"\n'


async def test_an_update_and_what_is_told_of_it_stall_no_event_loop(
    fleet: FleetRig, stalls: list[str]
) -> None:
    """Metadata, index, roster, budgets, counts, slots and their records are all durable meanwhile."""
    fleet.order("2.0")
    with fleet.coordinator() as url:
        first = fleet.device("d1", origin=url, coordinator=url, extra=QUOTA)
        second = fleet.device("d2", coordinator=url, peers=(first,), extra=QUOTA)
        rider = fleet.device("d3", peers=(first,), wan=False)
        async with first.running() as a, second.running() as b:
            await a.committed("2.0")
            await b.committed("2.0")
            assert await rider.once() is None
    assert stalls == []
