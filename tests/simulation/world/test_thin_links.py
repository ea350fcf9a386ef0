"""A link that needs a minute and more for one frame: who fetches, while nothing has come yet."""

from __future__ import annotations

import pytest

from p2p.swarm import events as e
from sim.checks.checked import Checks, run_checked
from sim.runs.scenarios import named
from sim.world.device import Device

GATEWAYS = 3


class Started(Checks):
    """Also notes who has begun to fetch by the time the first fetch is over."""

    def __init__(self) -> None:
        super().__init__()
        self.before_any: set[str] = set()
        self._over = False

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        super().fetch_started(device, action)
        if not self._over:
            self.before_any.add(device.name)

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        super().fetch_ended(device, action, error, size, wasted)
        self._over |= error is None


@pytest.mark.parametrize("seed", [2, 5])
def test_a_ship_pays_for_one_copy_over_an_outage(seed: int) -> None:
    """The first frames take a minute. Spares of whose fetches bytes come are enough: each one more makes
    all of them slower, so that more are called, which then have begun what others fetch after the outage."""
    checks = Started()
    outcome = run_checked(named("ship-satellite"), seed, checks=checks)
    assert outcome.violations == ()
    assert GATEWAYS <= len(checks.before_any) <= GATEWAYS + 4
    assert checks.amplification == pytest.approx(1.0, abs=0.001)


def test_a_link_that_stood_still_is_not_taken_for_a_site_that_does(seed: int = 20) -> None:
    """In an outage also the index of the smaller pack does not come, with which who has lost patience would
    fetch alone. When it comes at last, the link is back for the others as well."""
    checks = Checks()
    assert run_checked(named("ship-satellite"), seed, checks=checks).violations == ()
    assert checks.amplification == pytest.approx(1.0, abs=0.001)


def test_who_takes_the_place_of_a_gateway_that_is_done_knows_what_it_brought(seed: int = 41) -> None:
    """In a site of 24 news of pieces goes to some at once, and to the others in turn."""
    checks = Checks()
    assert run_checked(named("ship-satellite"), seed, checks=checks).violations == ()
    assert checks.amplification == pytest.approx(1.0, abs=0.001)
