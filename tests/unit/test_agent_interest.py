"""What a carrier remembers of what it was asked for, and how little one device can do to that."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.adapters.durable import DirectoryBlobStore
from p2p.agent.interest import CHANGE_S, FORGET_S, NAME, Interest
from p2p.content import limits
from p2p.errors import StoreError

NOW = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path)


def test_what_more_devices_asked_for_comes_first_also_after_a_restart(store: DirectoryBlobStore) -> None:
    interest = Interest(store)
    for device, product in (("d1", "a"), ("d2", "b"), ("d3", "b"), ("d4", "c")):
        assert interest.asked(device, product, NOW)
    interest.save()
    assert Interest(store).products(NOW) == ("b", "a", "c")


def test_a_device_that_names_a_thousand_products_counts_for_one(store: DirectoryBlobStore) -> None:
    interest = Interest(store)
    told = [interest.asked("liar", f"p{n}", NOW + n) for n in range(1000)]
    assert sum(told) == 1
    assert interest.products(NOW) == ("p0",)
    assert interest.asked("liar", "p7", NOW + CHANGE_S)  # one a day
    assert interest.products(NOW + CHANGE_S) == ("p7",)


def test_a_flood_of_devices_crowds_out_who_was_not_heard_of_for_longest(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CARRIED_ASKERS_MAX", 3)
    interest = Interest(store)
    for n in range(5):
        interest.asked(f"d{n}", f"p{n}", NOW + n)
    assert interest.products(NOW) == ("p2", "p3", "p4")


def test_who_is_not_heard_of_any_more_is_forgotten(store: DirectoryBlobStore) -> None:
    interest = Interest(store)
    interest.asked("d1", "a", NOW)
    interest.asked("d2", "b", NOW + FORGET_S / 2)
    assert interest.products(NOW + FORGET_S) == ("b",)


def test_what_is_damaged_or_cannot_be_kept_costs_only_what_was_learned(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(NAME, b"{")
    interest = Interest(store)
    assert interest.products(NOW) == ()
    interest.asked("d1", "a", NOW)

    def full(name: str, value: bytes) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        interest.save()
    interest.save()
    assert Interest(store).products(NOW) == ("a",)


def test_it_is_written_only_when_it_changed(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    interest = Interest(store)
    interest.asked("d1", "a", NOW)
    interest.save()
    monkeypatch.setattr(store, "write", None)
    interest.asked("d1", "b", NOW + 1)
    interest.save()


def test_hardware_that_was_met_is_remembered(store: DirectoryBlobStore) -> None:
    interest = Interest(store)
    assert interest.met("d1", "a", ("h1", "h2"), NOW)
    assert interest.met("d2", "b", ("h1",), NOW + FORGET_S / 2)
    interest.save()
    again = Interest(store)
    assert again.kinds(NOW) == {("a", "h1"), ("a", "h2"), ("b", "h1")}
    assert again.kinds(NOW + FORGET_S) == {("b", "h1")}


def test_a_device_is_of_one_kind_of_hardware_a_day(store: DirectoryBlobStore) -> None:
    interest = Interest(store)
    told = [interest.met("liar", "a", (f"h{n}",), NOW + n) for n in range(1000)]
    assert sum(told) == 1
    assert interest.met("liar", "a", ("h7",), NOW + CHANGE_S)
    assert interest.kinds(NOW + CHANGE_S) == {("a", "h7")}


def test_a_flood_of_devices_that_are_met_is_bounded(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CARRIED_ASKERS_MAX", 3)
    interest = Interest(store)
    for n in range(6):
        interest.met(f"d{n}", "a", (f"h{n}",), NOW + n)
    assert interest.kinds(NOW) == {("a", "h3"), ("a", "h4"), ("a", "h5")}


def test_what_was_kept_before_hardware_was_is_read(store: DirectoryBlobStore) -> None:
    old = b'{"_type":"slipstream-interest","spec":1,"asked":[{"device":"d1","product":"a","at":1700000000}]}'
    store.write(NAME, old)
    assert Interest(store).products(NOW) == ("a",)
    assert Interest(store).kinds(NOW) == frozenset()
