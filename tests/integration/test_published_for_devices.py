"""What the coordinator publishes, read by the device's own trust workflow: who is told to install what."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.domain.rollout import abort, open_phases
from coordinator.publishing.keys import create_signing_key
from coordinator.publishing.orders import OrderRequest, change_phases, create_order
from coordinator.publishing.settings import RoleKeys
from coordinator.publishing.setup import add_product
from p2p.adapters.durable import DirectoryBlobStore
from p2p.content.order import Audience, Member, Phase
from p2p.errors import OperatorError, TrustError
from p2p.trust import Meant, Need, Question, TrustClient, release_for, run
from tests.support.fleet_repository import Fleet

MEMBER = Member("truck-1", "depot", frozenset({"trucks"}), "board-a")


class DeviceOf:
    """A device's trust in a fleet's repository; keeps its state between decisions."""

    def __init__(self, fleet: Fleet, directory: Path, member: Member = MEMBER) -> None:
        self.fleet = fleet
        self.member = member
        self.client = TrustClient(DirectoryBlobStore(directory), (fleet.directory / "root.json").read_bytes())
        self.fetched: list[str] = []

    def decide(self, product: str = "engine", floor: int = 0) -> str:
        """The version that is meant for it, or why there is none."""
        now = self.fleet.clock.seconds()
        steps = release_for(self.client, Question(self.member, product, "board-a", floor), now)
        decision = run(steps, self._answer)
        return decision.manifest.version if isinstance(decision, Meant) else decision.reason

    def _answer(self, need: Need) -> bytes | None:
        if need.error is not None:
            raise need.error
        self.fetched.append(need.path)
        path = self.fleet.directory / need.path
        return path.read_bytes() if path.is_file() else None


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path)


def test_a_release_is_meant_once_an_order_opens_it(fleet: Fleet, tmp_path: Path) -> None:
    device = DeviceOf(fleet, tmp_path / "device")
    before = device.decide()
    fleet.release("1.0")
    assert device.decide() == before != "1.0"
    order = fleet.order(
        "1.0", phases=(Phase("test", Audience(groups=("test",))), Phase("all", Audience(all=True)))
    )
    assert device.decide() != "1.0"
    change_phases(fleet.repository, order.id, lambda o, s: open_phases(o, s, 2))
    assert device.decide() == "1.0"
    fleet.release("1.1")
    assert device.decide() == "1.0"
    newer = fleet.order("1.1")
    assert device.decide() == "1.1"
    change_phases(fleet.repository, newer.id, lambda o, s: abort(s, "smoke"))
    assert device.decide() == "1.0"


def test_nothing_changed_costs_two_small_files(fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("1.0")
    fleet.order("1.0")
    device = DeviceOf(fleet, tmp_path / "device")
    assert device.decide() == "1.0"
    device.fetched.clear()
    fleet.clock.now += timedelta(days=8)
    assert fleet.repository.refresh_if_due() == ["timestamp"]
    assert device.decide() == "1.0"
    assert device.fetched == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_timestamp_that_is_not_refreshed_is_stale_and_one_that_is_is_not(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.release("1.0")
    fleet.order("1.0")
    device = DeviceOf(fleet, tmp_path / "device")
    fleet.clock.now += timedelta(days=14, seconds=1)
    with pytest.raises(TrustError) as refused:
        device.decide()
    assert refused.value.reason == "expired"
    assert fleet.repository.refresh_if_due() == ["timestamp"]
    assert device.decide() == "1.0"


def test_timestamps_say_when_they_were_issued(fleet: Fleet) -> None:
    fleet.clock.now += timedelta(hours=1)
    with fleet.repository.locked() as state:
        state = fleet.repository.refresh(state)
    assert state.timestamp.signed.unrecognized_fields == {
        "issued": fleet.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    }


def test_a_product_of_which_nothing_was_ordered_yet_means_nothing(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path, products=())
    create_signing_key(tmp_path / "dora.pem", None)
    (tmp_path / "dora.pub").rename(fleet.repository.keys / "dora.pub")
    with fleet.repository.locked() as state:
        add_product(fleet.repository, state, "engine", order=RoleKeys(1, ("dora",)))
    device = DeviceOf(fleet, tmp_path / "device")
    nothing = device.decide()
    assert nothing == device.decide("boat")
    fleet.release("1.0")
    assert device.decide() == nothing


def test_no_more_orders_than_devices_read(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.content.limits.ORDERS_PER_PRODUCT_MAX", 2)
    fleet.release("1.0")
    for site in ("a", "b"):
        fleet.order("1.0", Audience(sites=(site,)))
    request = OrderRequest("engine", "1.0", Audience(sites=("c",)))
    with pytest.raises(OperatorError, match="2 orders in force"):
        create_order(fleet.repository, fleet.repository.state(), request)
    change_phases(fleet.repository, "1-1.0", lambda o, s: abort(s, "over"))
    create_order(fleet.repository, fleet.repository.state(), request)
