"""Fixtures of the tests in network namespaces; the reason why there are none here is said once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks.rig.fleet import Fleet
from benchmarks.rig.images import edited_image, random_image
from benchmarks.rig.network import QUEUE_MS, unavailable
from benchmarks.rig.processes import Children
from tests.support.netns import Published, RunningSite, running_site

SEED = 7

SiteMaker = Callable[..., AbstractContextManager[RunningSite]]


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips, with the reason, where there can be no network namespaces."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def whole(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A release of 6 MiB that shares nothing with what devices hold."""
    directory = tmp_path_factory.mktemp("whole")
    image = random_image(directory / "image", 6 << 20, SEED)
    yield from _published(directory, image, [])


@pytest.fixture(scope="module")
def mixed(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A release of 4 MiB with delta packs from three bases, each further away than the one before."""
    directory = tmp_path_factory.mktemp("mixed")
    image = random_image(directory / "image", 4 << 20, SEED)
    bases = [
        edited_image(directory / f"base-{n}", image, SEED + n, changed=n << 18, runs=8) for n in (1, 2, 3)
    ]
    yield from _published(directory, image, bases)


def _published(directory: Path, image: Path, bases: list[Path]) -> Iterator[Published]:
    with Children(directory / "logs") as children:
        fleet = Fleet(directory, children)
        fleet.init()
        yield Published(fleet, fleet.publish("1.0.0", image, bases), bases)


@pytest.fixture
def site_of(tmp_path: Path, request: pytest.FixtureRequest) -> SiteMaker:
    """`site_of(published, rate_bit_s=…)`: a site of its own, named after the test."""
    place = tmp_path / request.node.name.removeprefix("test_").replace("_", "-")[:40].rstrip("-")

    def make(
        published: Published,
        *,
        rate_bit_s: int,
        devices: int = 4,
        queue_ms: float = QUEUE_MS,
        far: bool = False,
    ) -> AbstractContextManager[RunningSite]:
        place.mkdir()
        return running_site(
            published, place, rate_bit_s=rate_bit_s, devices=devices, queue_ms=queue_ms, far=far
        )

    return make
