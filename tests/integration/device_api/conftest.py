"""A coordinator that serves what devices ask of it, for all tests of a module."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.support.fleet_repository import Fleet, Running, running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.make(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Iterator[Running]:
    with running(fleet) as found:
        yield found


@pytest.fixture(autouse=True)
def later(fleet: Fleet) -> None:
    """Each test begins an hour after the last, so that no window or rate limit reaches across."""
    fleet.clock.now += timedelta(hours=1)
