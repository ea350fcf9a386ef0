"""Expired metadata: refused, but for devices that a signed order excepts, and for a while."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from p2p.content.order import Order, StaleException, decode_order, encode_order
from p2p.errors import StoreError, TrustError
from p2p.trust import Meant, Question, TrustClient, release_despite_expiry, release_for, run
from p2p.trust.store import TIMESTAMP, Overlay
from tests.support.tuf_repository import DAY, NOW, MemoryStore, Source, at
from tests.unit.test_release_for import MEMBER, Fleet

LATER = NOW + 30 * DAY
"""Timestamp and snapshot of the fixture are over, targets roles and root are not."""


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def excepted(
    fleet: Fleet, counter: int = 1, *, devices: tuple[str, ...] = (MEMBER.device,), until: float
) -> Order:
    """Publish release and order `counter`, with an exception."""
    order = replace(fleet.order(fleet.release(counter), counter), allow_stale=StaleException(devices, until))
    fleet.add_target("orders-p", order.target_path, encode_order(order))
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    return order


def asking(floor: int = 0) -> Question:
    return Question(MEMBER, "p", "board-a", floor)


class Device:
    """Asks as an agent does: first in earnest, then by exception."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.store = MemoryStore()
        self.client = TrustClient(self.store, fleet.initial_root)

    def ask(self, now: float, *, floor: int = 0, files: dict[str, bytes] | None = None) -> Meant:
        files = self.fleet.files if files is None else files
        with pytest.raises(TrustError, match="expired") as caught:
            run(release_for(self.client, asking(floor), now), Source(files))
        assert caught.value.reason == "expired"
        self.before = dict(self.store.values)
        return run(release_despite_expiry(self.client, asking(floor), now), Source(files))

    def refused(self, now: float, **named: object) -> str:
        with pytest.raises(TrustError) as caught:
            self.ask(now, **named)
        assert self.store.values == self.before, "what is refused leaves no trace"
        return caught.value.reason


def test_an_excepted_device_installs_from_expired_metadata_and_keeps_it(fleet: Fleet) -> None:
    order = excepted(fleet, until=LATER + DAY)
    device = Device(fleet)
    assert device.ask(LATER).order == order
    assert device.client.held_timestamp() == fleet.files["metadata/timestamp.json"]
    again = Device(fleet)
    again.store = device.store
    again.client = TrustClient(device.store, fleet.initial_root)
    nothing: dict[str, bytes] = {"metadata/timestamp.json": fleet.files["metadata/timestamp.json"]}
    assert again.ask(LATER, files=nothing).order == order, "after a restart, from what is held alone"


@pytest.mark.parametrize(
    ("devices", "until"),
    [(("dev-2",), LATER + DAY), ((MEMBER.device,), LATER), ((MEMBER.device,), LATER - DAY)],
    ids=["names another device", "ends now", "has ended"],
)
def test_an_exception_of_another_device_or_one_that_is_over_excuses_nothing(
    fleet: Fleet, devices: tuple[str, ...], until: float
) -> None:
    excepted(fleet, devices=devices, until=until)
    assert Device(fleet).refused(LATER) == "expired"


def test_without_an_exception_expired_is_expired(fleet: Fleet) -> None:
    fleet.ordered(1)
    assert Device(fleet).refused(LATER) == "expired"


def test_the_order_that_decides_must_be_the_excepted_one(fleet: Fleet) -> None:
    excepted(fleet, 1, until=LATER + DAY)
    fleet.ordered(2)
    assert Device(fleet).refused(LATER) == "expired"


@pytest.mark.parametrize("role", ["targets", "product-p", "orders-p"])
def test_what_offline_keys_signed_must_be_current(fleet: Fleet, role: str) -> None:
    excepted(fleet, until=LATER + DAY)
    fleet.signed[role].expires = at(LATER - 1)
    fleet.publish(role)
    assert Device(fleet).refused(LATER) == "expired"
    fleet.signed[role].expires = at(LATER + 1)
    fleet.publish(role)
    assert Device(fleet).ask(LATER)


def test_phase_states_may_have_expired_too_and_still_count(fleet: Fleet) -> None:
    order = excepted(fleet, until=LATER + DAY)
    fleet.signed["phases"].expires = at(LATER - 1)
    fleet.publish("phases")
    assert Device(fleet).ask(LATER).order == order
    fleet.phase(order, opened=0)
    fleet.publish("phases")
    assert Device(fleet).refused(LATER) == "expired"


def test_the_root_must_be_current(fleet: Fleet) -> None:
    excepted(fleet, until=NOW + 400 * DAY)
    for role in ("targets", "product-p", "orders-p"):
        fleet.signed[role].expires = at(NOW + 500 * DAY)
        fleet.publish(role)
    assert Device(fleet).ask(NOW + 364 * DAY)
    assert Device(fleet).refused(NOW + 366 * DAY) == "expired"


def test_the_floor_holds(fleet: Fleet) -> None:
    excepted(fleet, until=LATER + DAY)
    assert Device(fleet).ask(LATER, floor=1)
    assert Device(fleet).refused(LATER, floor=2) == "expired"


def test_nothing_goes_back(fleet: Fleet) -> None:
    """An older timestamp whose order has an exception does not undo what the device knows."""
    excepted(fleet, until=LATER + DAY)
    old = dict(fleet.files)
    device = Device(fleet)
    device.ask(LATER)
    newer = fleet.ordered(2)
    run(release_for(device.client, asking(), NOW), Source(fleet.files))
    before = dict(device.store.values)
    with pytest.raises(TrustError) as caught:
        run(release_despite_expiry(device.client, asking(), LATER), Source(old))
    assert caught.value.reason == "rollback"
    assert device.store.values == before
    assert isinstance(newer, Order)


def test_fresh_metadata_after_the_exception_counts_as_ever(fleet: Fleet) -> None:
    excepted(fleet, until=LATER + DAY)
    device = Device(fleet)
    device.ask(LATER)
    fleet.signed["timestamp"].expires = at(LATER + DAY)
    fleet.signed["snapshot"].expires = at(LATER + DAY)
    order = fleet.ordered(2)
    found = run(release_for(device.client, asking(), LATER), Source(fleet.files))
    assert isinstance(found, Meant)
    assert found.order == order


def test_a_disk_that_fails_while_it_is_kept_leaves_what_the_next_question_goes_on_from(fleet: Fleet) -> None:
    order = excepted(fleet, until=LATER + DAY)
    whole = Device(fleet)
    whole.ask(LATER)
    for fail_at in range(whole.store.changes):
        device = Device(fleet)
        device.store.fail_at = fail_at
        with pytest.raises(StoreError):
            device.ask(LATER)
        device.store.fail_at = None
        device.client = TrustClient(device.store, fleet.initial_root)
        assert device.ask(LATER).order == order


def test_after_a_disk_that_failed_the_same_client_does_not_go_back_behind_what_was_written(
    fleet: Fleet,
) -> None:
    excepted(fleet, until=LATER + DAY)
    base = Device(fleet)
    run(release_for(base.client, asking(), NOW), Source(fleet.files))
    fleet.ordered(2)
    middle = dict(fleet.files)
    excepted(fleet, 3, until=LATER + DAY)
    ahead = 0
    for fail_at in range(20):
        device = Device(fleet)
        device.store.values.update(base.store.values)
        with pytest.raises(TrustError):
            run(release_for(device.client, asking(), LATER), Source(fleet.files))
        device.store.fail_at = fail_at
        try:
            run(release_despite_expiry(device.client, asking(), LATER), Source(fleet.files))
            break
        except StoreError:
            device.store.fail_at = None
        if device.store.values[TIMESTAMP] != fleet.files["metadata/timestamp.json"]:
            assert run(release_for(device.client, asking(), NOW), Source(middle))
            continue
        ahead += 1
        with pytest.raises(TrustError) as caught:
            run(release_for(device.client, asking(), NOW), Source(middle))
        assert caught.value.reason == "rollback"
        assert device.store.values[TIMESTAMP] == fleet.files["metadata/timestamp.json"]
    assert ahead > 0
    assert fail_at > ahead


def test_an_overlay_reads_through_and_writes_in_order() -> None:
    below = MemoryStore()
    below.write("a", b"1")
    below.write("b", b"1")
    overlay = Overlay(below)
    overlay.write("c", b"2")
    overlay.delete("a")
    overlay.write("a", b"3")
    overlay.delete("b")
    assert (overlay.read("a"), overlay.read("b"), overlay.read("c")) == (b"3", None, b"2")
    assert list(overlay.names()) == ["a", "c"]
    assert below.values == {"a": b"1", "b": b"1"}
    seen: list[tuple[str, bytes | None]] = []
    below.write = lambda name, value: seen.append((name, value))  # type: ignore[method-assign]  # to see it
    below.delete = lambda name: seen.append((name, None))  # type: ignore[method-assign]  # to see it
    overlay.commit()
    assert seen == [("c", b"2"), ("a", None), ("a", b"3"), ("b", None)]


def test_an_order_without_an_exception_is_encoded_as_before_there_were_any(fleet: Fleet) -> None:
    order = fleet.order(fleet.release(1), 1)
    other = replace(order, allow_stale=StaleException((MEMBER.device,), LATER))
    facts = json.loads(encode_order(other))
    del facts["allow_stale"]
    assert json.loads(encode_order(order)) == facts
    assert decode_order(encode_order(order)) == order
