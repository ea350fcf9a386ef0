"""What every blob store promises, the in-memory one included."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.adapters.durable import DirectoryBlobStore
from p2p.trust import TrustStore
from tests.support.tuf_repository import MemoryStore


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TrustStore:
    return MemoryStore() if request.param == "memory" else DirectoryBlobStore(tmp_path / "store")


def test_what_was_never_written_is_none(store: TrustStore) -> None:
    assert store.read("a") is None
    assert list(store.names()) == []


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)) * 5000])
def test_what_was_written_is_read(store: TrustStore, value: bytes) -> None:
    store.write("a", value)
    assert store.read("a") == value


def test_a_write_replaces_only_its_own_name(store: TrustStore) -> None:
    store.write("a", b"a long first value")
    store.write("b", b"other")
    store.write("a", b"2")
    assert (store.read("a"), store.read("b")) == (b"2", b"other")


@pytest.mark.parametrize("name", ["root.json", "root-1", "%2E.%2Fx.json", "a~b+c_D-9.json", "x" * 240])
def test_the_names_that_are_used(store: TrustStore, name: str) -> None:
    store.write(name, b"1")
    assert store.read(name) == b"1"
    assert list(store.names()) == [name]


def test_deleting_is_idempotent(store: TrustStore) -> None:
    store.write("a", b"1")
    store.write("b", b"2")
    store.delete("a")
    store.delete("a")
    assert store.read("a") is None
    assert list(store.names()) == ["b"]
