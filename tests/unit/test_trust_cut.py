"""A cut at every write: whatever is in the store afterwards, the next refresh gets to the same end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2p.errors import StoreError, TrustError
from p2p.trust import TrustClient, run
from tests.support.tuf_repository import NOW, MemoryStore, Repository, Source

Publish = Callable[[Repository], None]


def new_release(repository: Repository) -> None:
    repository.add_target("product-p", "manifests/p/2.json", b"two")
    repository.publish("product-p")


def rotation(repository: Repository) -> None:
    repository.rotate("timestamp")
    repository.rotate("snapshot")
    repository.publish_root()
    new_release(repository)


def fast_forward_recovery(repository: Repository) -> None:
    """One of the timestamp's two keys is withdrawn; the other one signed the fast-forward too."""
    withdrawn = repository.signers["timestamp"].pop(0)
    repository.signed["root"].revoke_key(withdrawn.public_key.keyid, "timestamp")
    repository.publish_root()
    repository.signed["timestamp"].version = 1
    repository.signed["snapshot"].version = 1
    repository.publish_role("snapshot", bump=False)
    repository.publish_role("timestamp", bump=False)


def started() -> tuple[Repository, MemoryStore]:
    """A repository, and the store of a device that has seen its second publication."""
    repository = Repository()
    repository.set_keys("timestamp", 2)
    repository.publish_root()
    repository.signed["timestamp"].version = repository.signed["snapshot"].version = 2**31
    repository.delegate("product-p", ["manifests/p/*"])
    repository.add_target("product-p", "manifests/p/1.json", b"one")
    repository.publish("product-p", "targets")
    store = MemoryStore()
    update(repository, store)
    return repository, store


def update(repository: Repository, store: MemoryStore) -> dict[str, int]:
    client = TrustClient(store, repository.initial_root)
    source = Source(repository.files)
    run(client.refresh(NOW), source)
    for version in (1, 2):
        target = run(client.find_target(f"manifests/p/{version}.json"), source)
        if target is not None:
            run(client.target(target, 100), source)
    client.prune(set())
    return client.versions


@pytest.mark.parametrize("publish", [new_release, rotation, fast_forward_recovery])
def test_a_cut_at_every_change_of_the_store(publish: Publish) -> None:
    repository, store = started()
    before = dict(store.values)
    publish(repository)
    store.changes = 0
    expected = update(repository, store)
    after, changes = dict(store.values), store.changes
    assert changes >= 3
    for cut in range(changes):
        store = MemoryStore()
        store.values = dict(before)
        store.fail_at = cut
        with pytest.raises(StoreError):
            update(repository, store)
        store.fail_at = None
        assert update(repository, store) == expected, f"cut before change {cut}"
        assert store.values == after, f"cut before change {cut}"


@pytest.mark.parametrize("publish", [new_release, rotation, fast_forward_recovery])
def test_a_full_disk_at_every_change_and_the_same_client_goes_on(publish: Publish) -> None:
    repository, store = started()
    before = dict(store.values)
    publish(repository)
    store.changes = 0
    client = TrustClient(store, repository.initial_root)
    run(client.refresh(NOW), Source(repository.files))
    expected, after, changes = client.versions, dict(store.values), store.changes
    for cut in range(changes):
        store = MemoryStore()
        store.values = dict(before)
        client = TrustClient(store, repository.initial_root)
        store.fail_at = cut
        with pytest.raises(StoreError):
            run(client.refresh(NOW), Source(repository.files))
        store.fail_at = None
        run(client.refresh(NOW), Source(repository.files))
        assert client.versions == expected, f"full before change {cut}"
        assert store.values == after, f"full before change {cut}"


def test_after_a_cut_an_old_repository_is_still_refused() -> None:
    """Rollback protection holds in every state that a cut of an ordinary update leaves."""
    repository, store = started()
    before = dict(store.values)
    old = dict(repository.files)
    new_release(repository)
    repository.publish("targets")
    for cut in range(1, 4):  # the first change is the new timestamp
        store = MemoryStore()
        store.values = dict(before)
        store.fail_at = cut
        with pytest.raises(StoreError):
            update(repository, store)
        store.fail_at = None
        with pytest.raises(TrustError) as caught:
            run(TrustClient(store, repository.initial_root).refresh(NOW), Source(old))
        assert caught.value.reason == "rollback"
