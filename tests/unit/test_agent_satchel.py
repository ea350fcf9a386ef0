"""Reports that a carrier takes home are kept over restarts, one of each device, and not for ever more."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.durable import DirectoryBlobStore, DurableIo
from p2p.adapters.reports import signed_report
from p2p.agent.satchel import Carried, Satchel
from p2p.content import limits
from p2p.errors import StoreError

KEY = ec.generate_private_key(ec.SECP256R1())


def carried(device: str, sequence: int) -> Carried:
    line = signed_report(KEY, device, sequence, 1_700_000_000, {"state": "idle"})
    return Carried(device, sequence, line)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "carried")


def found(satchel: Satchel) -> list[tuple[str, int]]:
    return sorted((held.device, held.sequence) for held in satchel.batch())


def test_the_newest_of_each_device_is_kept_over_restarts(store: DirectoryBlobStore) -> None:
    satchel = Satchel(store)
    for device, sequence in (("d1", 5), ("d2", 1), ("d1", 7), ("d1", 6)):
        assert satchel.add(carried(device, sequence))
    again = Satchel(store)
    assert found(again) == [("d1", 7), ("d2", 1)]
    # What was handed in is not what is here now.
    assert again.remove([carried("d1", 5), carried("d2", 1)])
    assert found(Satchel(store)) == [("d1", 7)]


def test_it_is_full_at_some_time_and_then_refuses_others(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPORTS_CARRIED_MAX", 2)
    satchel = Satchel(store)
    assert satchel.add(carried("d1", 1))
    assert satchel.add(carried("d2", 1))
    assert not satchel.add(carried("d3", 1))
    assert satchel.add(carried("d1", 2))
    satchel.remove([carried("d1", 2)])
    assert satchel.add(carried("d3", 1))


def test_a_batch_is_no_larger_than_the_coordinator_takes(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    satchel = Satchel(store)
    for n in range(10):
        satchel.add(carried(f"d{n}", 1))
    monkeypatch.setattr(limits, "REPORTS_PER_BATCH_MAX", 4)
    assert len(satchel.batch()) == 4
    monkeypatch.setattr(limits, "REPORT_BATCH_CODED_MAX", 2 * len(carried("d0", 1).line))
    assert len(satchel.batch()) == 2


@pytest.mark.parametrize("damage", [b"", carried("d2", 9).line], ids=["torn", "of-another"])
def test_what_is_damaged_is_lost_alone(store: DirectoryBlobStore, damage: bytes) -> None:
    satchel = Satchel(store)
    for name in ("d1", "d2"):
        satchel.add(carried(name, 1))
    store.write("r-d1", damage)
    assert found(satchel) == [("d2", 1)]
    again = Satchel(store)
    assert (found(again), len(again)) == ([("d2", 1)], 1)


def test_a_report_that_cannot_be_kept_is_not_promised(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, value: bytes) -> None:
        raise StoreError("no room")

    satchel = Satchel(store)
    monkeypatch.setattr(store, "write", full)
    assert not satchel.add(carried("d1", 1))
    assert len(satchel) == 0


def test_what_cannot_be_removed_stays_and_is_told(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str) -> None:
        raise StoreError("it only reads")

    satchel = Satchel(store)
    satchel.add(carried("d1", 1))
    monkeypatch.setattr(store, "delete", failing)
    assert not satchel.remove([carried("d1", 1)])
    assert len(satchel) == 1


class CutAt(DurableIo):
    """The power goes at the `left`-th call that changes something; what was not synced by then is kept, as it
    may be."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("cut")

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, fd: int, data: memoryview) -> int:
        self._step()
        return super().write(fd, data[:10])

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)


@pytest.mark.parametrize("at", range(4, 60, 5))
def test_a_cut_while_a_newer_one_is_written_leaves_one_of_them_whole(tmp_path: Path, at: int) -> None:
    directory = tmp_path / "carried"
    assert Satchel(DirectoryBlobStore(directory)).add(carried("d1", 1))
    kept = Satchel(DirectoryBlobStore(directory, CutAt(at))).add(carried("d1", 2))
    (held,) = Satchel(DirectoryBlobStore(directory)).batch()
    assert held.sequence == (2 if kept else 1)
    assert held.line.endswith(b"\n")


def test_a_certificate_waits_for_its_device(
    store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    satchel = Satchel(store)
    satchel.keep_certificate("d1", b"of d1")
    satchel.keep_certificate("d2", b"x" * (limits.CERTIFICATE_SIZE_MAX + 1))
    again = Satchel(store)
    assert (again.certificate("d1"), again.certificate("d2")) == (b"of d1", b"")
    monkeypatch.setattr(limits, "REPORTS_CARRIED_MAX", 1)
    again.keep_certificate("d3", b"of d3")  # there is room for one: the oldest goes
    assert (again.certificate("d1"), again.certificate("d3")) == (b"", b"of d3")
    again.drop_certificate("d3")
    assert store.names() == []
