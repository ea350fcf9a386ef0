"""Delegations: the walk, whose word counts, and the cache that must not lend authority."""

from __future__ import annotations

import itertools

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, SuccinctRoles, TargetFile, Targets

from p2p.content import limits
from p2p.content.digests import sha256
from p2p.errors import OriginError, TrustError
from p2p.trust import TrustClient, run
from tests.support.tuf_repository import DAY, NOW, MemoryStore, Repository, Source, at


def client_of(repository: Repository, store: MemoryStore | None = None) -> tuple[TrustClient, Source]:
    """A refreshed client and its source, which remembers only what is asked from now on."""
    client = TrustClient(store if store is not None else MemoryStore(), repository.initial_root)
    source = Source(repository.files)
    run(client.refresh(NOW), source)
    source.asked.clear()
    return client, source


def refusal(client: TrustClient, source: Source, path: str) -> str:
    with pytest.raises(TrustError) as caught:
        run(client.find_target(path), source)
    return caught.value.reason


def test_a_target_is_found_through_its_role_and_fetched_by_digest() -> None:
    repository = Repository()
    repository.delegate("product-p", ["manifests/p/*"])
    target = repository.add_target("product-p", "manifests/p/1.json", b"one")
    repository.publish("product-p", "targets")
    store = MemoryStore()
    client, source = client_of(repository, store)
    found = run(client.find_target("manifests/p/1.json"), source)
    assert found == target
    assert run(client.target(target, 100), source) == b"one"
    assert run(client.target(target, 100), source) == b"one"
    assert source.asked == ["metadata/1.product-p.json", f"objects/{sha256(b'one').hex()}"]

    client, source = client_of(repository, store)  # restarted: all of it is in the store
    assert run(client.find_target("manifests/p/1.json"), source) == target
    assert run(client.target(target, 100), source) == b"one"
    assert source.asked == []


def test_a_path_that_nobody_lists_is_none() -> None:
    client, source = client_of(Repository())
    assert run(client.find_target("manifests/p/1.json"), source) is None


def test_the_walk_is_preorder_and_stops_at_a_terminating_delegation() -> None:
    repository = Repository()
    repository.delegate("a", ["x/*"])
    repository.delegate("b", ["x/*"])
    repository.delegate("c", ["x/*"], parent="a")
    repository.publish("a", "b", "c", "targets")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) is None
    assert source.asked == [f"metadata/1.{role}.json" for role in "acb"]

    delegations = repository.signed["a"].delegations
    delegations.roles["c"].terminating = True
    repository.publish("a")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) is None
    assert source.asked == ["metadata/2.a.json", "metadata/1.c.json"]


def test_the_more_trusted_role_wins() -> None:
    repository = Repository()
    repository.delegate("a", ["x/*"])
    repository.delegate("b", ["x/*"])
    first = repository.add_target("a", "x/1", b"first")
    repository.add_target("b", "x/1", b"second")
    repository.publish("a", "b", "targets")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) == first


def test_hash_prefixes_choose_the_bin() -> None:
    repository = Repository()
    path = "manifests/p/1.json"
    prefix = sha256(path.encode()).hex()[:1]
    other = next(c for c in "0123456789abcdef" if c != prefix)
    repository.delegate("bin-other", [], prefixes=[other])
    repository.delegate("bin-right", [], prefixes=[prefix])
    target = repository.add_target("bin-right", path, b"one")
    repository.add_target("bin-other", path, b"wrong bin")
    repository.publish("bin-other", "bin-right", "targets")
    client, source = client_of(repository)
    assert run(client.find_target(path), source) == target
    assert source.asked == ["metadata/1.bin-right.json"]


def test_succinct_hash_bins_are_walked_and_listed() -> None:
    repository = Repository()
    signer = CryptoSigner.generate_ed25519()
    bins = SuccinctRoles([signer.public_key.keyid], 1, 1, "bin")
    repository.signed["targets"].delegations = Delegations(
        {signer.public_key.keyid: signer.public_key}, succinct_roles=bins
    )
    path = "manifests/p/1.json"
    for role in bins.get_roles():
        repository.signers[role] = [signer]
        repository.signed[role] = Targets(expires=at(NOW + DAY))
        repository.add_target(role, path, role.encode())
    repository.publish(*bins.get_roles(), "targets")
    client, source = client_of(repository)
    right = bins.get_role_for_target(path)
    found = run(client.find_target(path), source)
    assert found is not None
    assert found.length == len(right)
    assert source.asked == [f"metadata/1.{right}.json"]
    (wrong,) = set(bins.get_roles()) - {right}
    assert list(run(client.listing(right), source)) == [path]
    assert list(run(client.listing(wrong), source)) == []


@pytest.mark.parametrize(("extra", "reason"), [(0, None), (1, "delegations")])
def test_the_walk_is_bounded(extra: int, reason: str | None) -> None:
    repository = Repository()
    roles = [f"role-{n}" for n in range(limits.DELEGATIONS_MAX + extra)]
    for role in roles:
        repository.delegate(role, ["x/*"])
    target = repository.add_target(roles[-1], "x/1", b"last")
    repository.publish(*roles, "targets")
    client, source = client_of(repository)
    if reason is None:
        assert run(client.find_target("x/1"), source) == target
    else:
        assert refusal(client, source, "x/1") == reason


def test_a_cycle_of_delegations_ends() -> None:
    repository = Repository()
    keys = repository.delegate("a", ["x/*"])
    repository.delegate("b", ["x/*"], parent="a")
    repository.delegate("a", ["x/*"], parent="b")
    assert keys
    repository.publish("a", "b", "targets")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) is None
    assert source.asked == ["metadata/1.a.json", "metadata/1.b.json"]


# ------------------------------------------------------------------ whose word counts


def test_a_role_cannot_speak_for_paths_that_are_not_its_own() -> None:
    repository = Repository()
    repository.delegate("orders-p", ["orders/p/*"])
    repository.delegate("phases", ["phases/*/*"])
    repository.add_target("phases", "orders/p/evil.json", b"evil")
    mine = repository.add_target("phases", "phases/p/o.json", b"open")
    repository.publish("orders-p", "phases", "targets")
    client, source = client_of(repository)
    assert run(client.find_target("orders/p/evil.json"), source) is None
    assert run(client.find_target("phases/p/o.json"), source) == mine
    assert run(client.listing("orders-p"), source) == {}
    assert run(client.listing("phases"), source) == {"phases/p/o.json": mine}


@pytest.mark.parametrize("role", ["nobody", "grandchild"])
def test_only_what_the_top_level_delegates_to_is_listed(role: str) -> None:
    repository = Repository()
    repository.delegate("child", ["x/*"])
    repository.delegate("grandchild", ["x/*"], parent="child")
    repository.publish("child", "grandchild", "targets")
    client, source = client_of(repository)
    with pytest.raises(TrustError) as caught:
        run(client.listing(role), source)
    assert caught.value.reason == "not-delegated"
    assert run(client.listing("child"), source) == {}


@pytest.mark.parametrize("hashes", [True, False])
def test_a_cached_role_is_verified_against_the_delegator_of_this_walk(hashes: bool) -> None:
    for signed_for_both in (False, True):
        repository = Repository(hashes=hashes)
        repository.delegate("parent-a", ["a/*"])
        repository.delegate("parent-b", ["b/*"])
        keys_a = repository.delegate("shared", ["a/*"], parent="parent-a")
        repository.delegate("shared", ["b/*"], parent="parent-b")
        if not signed_for_both:
            repository.signers["shared"] = keys_a
        a = repository.add_target("shared", "a/1", b"a")
        b = repository.add_target("shared", "b/1", b"b")
        repository.publish("shared", "parent-a", "parent-b", "targets")
        store = MemoryStore()
        client, source = client_of(repository, store)
        assert run(client.find_target("a/1"), source) == a
        if signed_for_both:
            assert run(client.find_target("b/1"), source) == b
            continue
        assert refusal(client, source, "b/1") == "signature"
        client, source = client_of(repository, store)  # nor does a restart lend it authority
        assert refusal(client, source, "b/1") == "signature"
        assert run(client.find_target("a/1"), source) == a


def test_a_withdrawn_release_key_is_withdrawn_from_the_cache_too() -> None:
    repository = Repository()
    old = repository.delegate("product-p", ["manifests/p/*"])
    target = repository.add_target("product-p", "manifests/p/1.json", b"one")
    repository.publish("product-p", "targets")
    store = MemoryStore()
    client, source = client_of(repository, store)
    assert run(client.find_target("manifests/p/1.json"), source) == target
    repository.signed["targets"].revoke_key(old[0].public_key.keyid, "product-p")
    repository.signers["product-p"] = []
    new = repository.delegate("product-p", ["manifests/p/*"])
    repository.publish("targets")
    client, source = client_of(repository, store)
    assert refusal(client, source, "manifests/p/1.json") == "signature"
    repository.signers["product-p"] = new
    repository.publish("product-p")
    client, source = client_of(repository, store)
    assert run(client.find_target("manifests/p/1.json"), source) == target


def test_a_role_that_the_snapshot_does_not_name_is_not_even_asked_for() -> None:
    repository = Repository()
    repository.delegate("a", ["x/*"])
    repository.publish("targets")
    client, source = client_of(repository)
    assert refusal(client, source, "x/1") == "not-in-snapshot"
    assert source.asked == []
    repository.publish("a")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) is None


@pytest.mark.parametrize(("offset", "reason"), [(-1, None), (1, "expired")])
def test_a_delegated_role_expires_also_in_the_cache(offset: int, reason: str | None) -> None:
    repository = Repository()
    repository.delegate("a", ["x/*"])
    repository.signed["a"].expires = at(NOW + 60)
    target = repository.add_target("a", "x/1", b"one")
    repository.publish("a", "targets")
    client, source = client_of(repository)
    assert run(client.find_target("x/1"), source) == target
    run(client.refresh(NOW + 60 + offset), source)
    if reason is None:
        assert run(client.find_target("x/1"), source) == target
    else:
        assert refusal(client, source, "x/1") == reason


def test_every_subset_of_keys_against_its_threshold() -> None:
    threshold = 2
    for subset in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
        repository = Repository()
        keys = repository.delegate("product-p", ["manifests/p/*"], keys=3, threshold=threshold)
        target = repository.add_target("product-p", "manifests/p/1.json", b"one")
        repository.signers["product-p"] = [keys[n] for n in subset]
        repository.publish("product-p", "targets")
        client, source = client_of(repository)
        if len(subset) >= threshold:
            assert run(client.find_target("manifests/p/1.json"), source) == target
        else:
            assert refusal(client, source, "manifests/p/1.json") == "signature"


def test_a_stolen_key_of_another_role_signs_nothing_here() -> None:
    repository = Repository()
    right = repository.delegate("product-p", ["manifests/p/*"])
    target = repository.add_target("product-p", "manifests/p/1.json", b"arbitrary software")
    for thief in ("timestamp", "snapshot", "root", "targets"):
        repository.signers["product-p"] = repository.signers[thief]
        repository.publish("product-p", "targets")
        client, source = client_of(repository)
        assert refusal(client, source, "manifests/p/1.json") == "signature"
    repository.signers["product-p"] = right
    repository.publish("product-p")
    client, source = client_of(repository)
    assert run(client.find_target("manifests/p/1.json"), source) == target


# ------------------------------------------------------------------ names and objects


@pytest.mark.parametrize("role", ["?", "#", "/x", "../x", ".x", "a b", "ünï", "%41"])
def test_unusual_role_names_become_neither_paths_nor_hidden_files(role: str) -> None:
    repository = Repository()
    repository.delegate(role, ["x/*"])
    target = repository.add_target(role, "x/1", b"one")
    repository.publish(role, "targets")
    store = MemoryStore()
    client = TrustClient(store, repository.initial_root)
    source = Source({name.replace(f".{role}.json", ".odd.json"): d for name, d in repository.files.items()})
    run(client.refresh(NOW), source)
    steps = client.find_target("x/1")
    need = next(steps)
    assert need.role == role
    assert need.name.startswith("1.")
    assert set(need.name) <= set("%-._~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    with pytest.raises(StopIteration) as stop:
        steps.send(repository.files[f"metadata/1.{role}.json"])
    assert stop.value.value == target
    (stored,) = set(store.values) - {"root.json", "root-1", "timestamp.json", "snapshot.json", "targets.json"}
    assert not stored.startswith(".")
    assert "/" not in stored


@pytest.mark.parametrize(("length", "reason"), [(190, None), (200, "role-name")])
def test_a_role_name_that_is_too_long_for_a_file_is_refused(length: int, reason: str | None) -> None:
    repository = Repository()
    role = "r" * length
    repository.delegate(role, ["x/*"])
    target = repository.add_target(role, "x/1", b"one")
    repository.publish(role, "targets")
    client, source = client_of(repository)
    if reason is None:
        assert run(client.find_target("x/1"), source) == target
    else:
        assert refusal(client, source, "x/1") == reason


@pytest.mark.parametrize(("served", "reason"), [(b"one!", "too-long"), (b"on", "length"), (b"two", "hash")])
def test_an_object_is_what_was_signed(served: bytes, reason: str) -> None:
    repository = Repository()
    target = repository.add_target("targets", "x/1", b"one")
    repository.publish("targets")
    store = MemoryStore()
    client, source = client_of(repository, store)
    name = f"objects/{sha256(b'one').hex()}"
    repository.files[name] = served
    with pytest.raises(TrustError) as caught:
        run(client.target(target, 100), source)
    assert caught.value.reason == reason
    assert not any(key.startswith("object-") for key in store.values)
    repository.files[name] = b"one"
    assert run(client.target(target, 100), source) == b"one"


def test_a_damaged_cached_object_is_fetched_again() -> None:
    repository = Repository()
    target = repository.add_target("targets", "x/1", b"one")
    repository.publish("targets")
    store = MemoryStore()
    client, source = client_of(repository, store)
    run(client.target(target, 100), source)
    name = f"object-{sha256(b'one').hex()}"
    store.values[name] = b"onf"
    assert client.held(sha256(b"one")) is None
    assert run(client.target(target, 100), source) == b"one"
    assert store.values[name] == b"one"


def test_an_object_without_a_digest_or_over_the_limit_is_not_asked_for() -> None:
    client, source = client_of(Repository())
    for target, size_max, reason in (
        (TargetFile(3, {"sha512": "0" * 128}, "x/1"), 100, "no-digest"),
        (TargetFile.from_data("x/1", b"one"), 2, "too-long"),
    ):
        with pytest.raises(TrustError) as caught:
            run(client.target(target, size_max), source)
        assert caught.value.reason == reason
    assert source.asked == []
    with pytest.raises(OriginError):
        run(client.target(TargetFile.from_data("x/1", b"one"), 3), source)


def test_prune_keeps_what_is_named() -> None:
    repository = Repository()
    for role in ("a", "b"):
        repository.delegate(role, [f"{role}/*"])
        repository.add_target(role, f"{role}/1", role.encode())
    repository.publish("a", "b", "targets")
    store = MemoryStore()
    client, source = client_of(repository, store)
    for path in ("a/1", "b/1"):
        found = run(client.find_target(path), source)
        assert found is not None
        run(client.target(found, 10), source)
    repository.rotate("snapshot")  # only then may a role leave the snapshot
    del repository.signed["snapshot"].meta["b.json"]
    del repository.signed["targets"].delegations.roles["b"]
    repository.publish("targets")
    run(client.refresh(NOW), source)
    client.prune({sha256(b"a")})
    top = {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
    assert set(store.values) == top | {"root-1", "root-2", "a.json", f"object-{sha256(b'a').hex()}"}


def test_targets_are_looked_up_only_in_fresh_metadata() -> None:
    repository = Repository()
    client, source = client_of(repository)
    repository.files["metadata/timestamp.json"] = b"{}"
    with pytest.raises(TrustError):
        run(client.refresh(NOW), source)
    assert refusal(client, source, "x/1") == "not-refreshed"
