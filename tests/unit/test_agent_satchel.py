"""Reports that a carrier takes home are kept over restarts, one of each device, and not for ever more."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.reports import signed_report
from p2p.agent.satchel import INDEX, Satchel
from p2p.content import limits
from p2p.errors import StoreError

KEY = ec.generate_private_key(ec.SECP256R1())


def report(device: str, sequence: int) -> bytes:
    return signed_report(KEY, device, sequence, 1_700_000_000, {"state": "idle"})


@pytest.fixture
def store(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "carried")


def test_the_newest_of_each_device_is_kept_over_restarts(store: DirectoryBlobStore) -> None:
    satchel = Satchel(store)
    assert satchel.add("d1", 5, report("d1", 5))
    assert satchel.add("d2", 1, report("d2", 1))
    assert satchel.add("d1", 7, report("d1", 7))
    assert satchel.add("d1", 6, report("d1", 6))  # it has a newer one
    again = Satchel(store)
    assert [(d, n) for d, n, _ in again.batch()] == [("d1", 7), ("d2", 1)]
    again.remove("d1", 5)  # what was handed in is not what is here now
    again.remove("d2", 1)
    assert [(d, n) for d, n, _ in Satchel(store).batch()] == [("d1", 7)]


def test_it_is_full_at_some_time_and_then_refuses_others(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPORTS_CARRIED_MAX", 2)
    satchel = Satchel(store)
    assert satchel.add("d1", 1, report("d1", 1))
    assert satchel.add("d2", 1, report("d2", 1))
    assert not satchel.add("d3", 1, report("d3", 1))
    assert satchel.add("d1", 2, report("d1", 2))
    satchel.remove("d1", 2)
    assert satchel.add("d3", 1, report("d3", 1))


def test_a_batch_is_no_larger_than_the_coordinator_takes(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    satchel = Satchel(store)
    for n in range(10):
        satchel.add(f"d{n}", 1, report(f"d{n}", 1))
    monkeypatch.setattr(limits, "REPORTS_PER_BATCH_MAX", 4)
    assert len(satchel.batch()) == 4
    monkeypatch.setattr(limits, "REPORT_BATCH_CODED_MAX", 2 * len(report("d0", 1)))
    assert len(satchel.batch()) == 2


def test_what_is_damaged_is_lost_alone(store: DirectoryBlobStore) -> None:
    satchel = Satchel(store)
    for name in ("d1", "d2"):
        satchel.add(name, 1, report(name, 1))
    store.write("r-d1", b"")
    again = Satchel(store)
    assert [d for d, _, _ in again.batch()] == ["d2"]
    assert len(again) == 1
    store.write(INDEX, b"{")
    assert len(Satchel(store)) == 0


def test_a_report_that_cannot_be_kept_is_not_promised(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, value: bytes) -> None:
        raise StoreError("no room")

    satchel = Satchel(store)
    monkeypatch.setattr(store, "write", full)
    assert not satchel.add("d1", 1, report("d1", 1))
    assert len(satchel) == 0
