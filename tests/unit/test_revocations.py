"""The revocation list at a device: what it takes, keeps and gives up again."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.order import Member
from p2p.content.revocation import (
    Reason,
    Revocation,
    RevocationPart,
    decode_part,
    encode_part,
    part_path,
)
from p2p.content.times import parse_time
from p2p.errors import ContentError, StoreError, TrustError
from p2p.trust import (
    REVOCATIONS_ROLE,
    Need,
    Question,
    RevocationList,
    Revocations,
    TrustClient,
    release_despite_expiry,
    release_for,
    run,
)
from p2p.trust.revocations import NAME, learn_revocations
from tests.support.tuf_repository import DAY, NOW, MemoryStore, Repository, Source, at, edit

VECTORS = json.loads((Path(__file__).parents[2] / "docs/spec/vectors/revocation.json").read_text())
LATER = NOW + 400 * DAY
KEYS = frozenset({"a"})


def revocation(name: str, until: float = LATER, reason: Reason = Reason.LOST) -> Revocation:
    return Revocation(sha256(name.encode()), name, reason, until)


def listed(
    version: int, *names: str | Revocation, signers: frozenset[str] = KEYS, root: int = 1
) -> RevocationList:
    found = [revocation(n) if isinstance(n, str) else n for n in names]
    return RevocationList(version, root, signers, tuple(found))


class Kept:
    """A device's two stores, and what it makes of them after a restart."""

    def __init__(self) -> None:
        self.first, self.second = MemoryStore(), MemoryStore()
        self.register = self.restart()

    def restart(self) -> Revocations:
        self.register = Revocations(self.first, self.second)
        return self.register

    def revoked(self, *names: str) -> list[bool]:
        return [self.register.find(sha256(n.encode())) is not None for n in names]


# ---------------------------------------------------------------------- the document


@pytest.mark.parametrize("vector", VECTORS["parts"], ids=lambda v: v["name"])
def test_parts_of_the_vectors_are_read_and_written(vector: dict[str, str]) -> None:
    data = vector["bytes"].encode()
    part = decode_part(data)
    assert encode_part(part) == data
    assert sha256(data).hex() == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["name"])
def test_vectors_are_refused_naming_the_key(vector: dict[str, str]) -> None:
    with pytest.raises(ContentError, match=vector["error"]):
        decode_part(vector["bytes"].encode())


def test_a_full_part_fits_its_limit_and_one_more_entry_is_refused() -> None:
    longest = [
        Revocation(
            sha256(bytes([n % 256, n // 256])), "d" * limits.NAME_LENGTH_MAX, Reason.COMPROMISED, LATER
        )
        for n in range(limits.REVOCATIONS_PER_PART_MAX + 1)
    ]
    full = RevocationPart(limits.REVOCATION_NUMBER_MAX, tuple(longest[:-1]))
    assert decode_part(encode_part(full)) == full
    with pytest.raises(ContentError, match="more than 256"):
        decode_part(encode_part(replace(full, revoked=tuple(longest))))


def test_a_part_over_its_size_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ContentError, match="over"):
        decode_part(b" " * (limits.REVOCATION_PART_SIZE_MAX + 1))


# ---------------------------------------------------------------------- what a device keeps


def test_what_was_revoked_stays_revoked_although_a_later_list_lacks_it() -> None:
    kept = Kept()
    assert kept.register.learn(listed(1, "x", "y"), NOW)
    assert kept.register.learn(listed(2, "z"), NOW)
    assert kept.revoked("x", "y", "z", "other") == [True, True, True, False]
    kept.restart()
    assert kept.revoked("x", "y", "z", "other") == [True, True, True, False]
    assert kept.register.version == 2


def test_an_older_list_changes_nothing_not_even_on_disk() -> None:
    kept = Kept()
    kept.register.learn(listed(5, "x"), NOW)
    before = dict(kept.first.values)
    assert not kept.register.learn(listed(4, "x", "y"), NOW)
    assert kept.revoked("x", "y") == [True, False]
    assert kept.register.version == 5
    assert kept.first.values == before
    assert kept.register.learn(listed(6, "x", "y"), NOW)
    assert kept.revoked("x", "y") == [True, True]


def test_a_certificate_that_has_expired_is_forgotten_by_signed_time_once_no_list_has_it() -> None:
    kept = Kept()
    kept.register.learn(listed(1, revocation("x", NOW + DAY)), NOW)
    kept.register.learn(listed(2, revocation("x", NOW + DAY)), NOW + 2 * DAY)
    assert kept.revoked("x") == [True]  # still listed
    kept.register.learn(listed(3), NOW)
    assert kept.revoked("x") == [True]  # not yet expired
    assert kept.register.learn(listed(4), NOW + 2 * DAY)
    assert kept.revoked("x") == [False]
    assert not kept.register.learn(listed(5, revocation("x", NOW + DAY)), NOW + 2 * DAY)


def test_a_list_cannot_make_a_revocation_end_sooner() -> None:
    kept = Kept()
    kept.register.learn(listed(1, revocation("x", NOW + 9 * DAY)), NOW)
    kept.register.learn(listed(2, revocation("x", NOW + DAY)), NOW)
    kept.register.learn(listed(3), NOW + 2 * DAY)
    assert kept.revoked("x") == [True]


def test_a_superseded_certificate_stays_out_while_its_device_is_in_again() -> None:
    kept = Kept()
    kept.register.learn(listed(1, "x"), NOW)
    assert kept.register.devices == {"x"}
    kept.register.learn(listed(2, revocation("x", reason=Reason.SUPERSEDED)), NOW)
    assert kept.register.devices == frozenset()
    assert kept.revoked("x") == [True]


def test_keys_that_the_root_withdrew_leave_no_false_revocations() -> None:
    kept = Kept()
    stolen = frozenset({"a", "b"})
    kept.register.learn(listed(900, "x", "falsely", signers=stolen), NOW)
    assert kept.register.learn(listed(3, "x", signers=frozenset({"b", "c"}), root=2), NOW)
    assert kept.revoked("x", "falsely") == [True, False]
    kept.restart()
    assert (kept.revoked("x", "falsely"), kept.register.version) == ([True, False], 3)


def test_keys_that_were_withdrawn_let_nobody_in_again_from_an_older_root() -> None:
    """Whoever stole them shows a device that lost its TUF state the fleet as it was before."""
    kept = Kept()
    kept.register.learn(listed(3, "x", signers=frozenset({"new"}), root=2), NOW)
    before = dict(kept.first.values)
    assert not kept.register.learn(listed(900, signers=frozenset({"stolen"}), root=1), NOW)
    assert not kept.register.learn(listed(2, signers=frozenset({"stolen"}), root=2), NOW)
    assert kept.revoked("x") == [True]
    assert kept.first.values == before
    kept.register.learn(listed(900, "y", signers=frozenset({"stolen"}), root=2), NOW)
    assert kept.revoked("x", "y") == [True, True]
    kept.restart()
    assert not kept.register.learn(listed(901, signers=frozenset({"new"}), root=1), NOW)


def test_a_key_that_is_only_added_takes_nothing_back() -> None:
    kept = Kept()
    kept.register.learn(listed(7, "x"), NOW)
    assert not kept.register.learn(listed(3, signers=KEYS | {"b"}), NOW)
    kept.register.learn(listed(8, signers=KEYS | {"b"}), NOW)
    assert kept.revoked("x") == [True]


def test_what_is_kept_is_bounded_and_what_came_first_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REVOCATIONS_KEPT_MAX", 3)
    kept = Kept()
    kept.register.learn(listed(1, "a", "b"), NOW)
    kept.register.learn(listed(2, "c", "d", "e"), NOW)
    assert len(kept.register) == 3
    assert kept.revoked("a", "b", "c") == [True, True, True]


def test_a_revocation_is_not_believed_before_it_is_kept() -> None:
    kept = Kept()
    kept.register.learn(listed(1, "x"), NOW)
    for store in (kept.first, kept.second):
        store.fail_at = 0
        with pytest.raises(StoreError):
            kept.register.learn(listed(2, "x", "y"), NOW)
        assert kept.revoked("y") == [False]
        store.fail_at = None
    assert kept.register.learn(listed(2, "x", "y"), NOW)
    assert kept.revoked("y") == [True]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(["cut", "gone", "whole"], repeat=2)))
def test_one_whole_copy_is_enough_and_mends_the_other(first: str, second: str) -> None:
    kept = Kept()
    kept.register.learn(listed(1, "x"), NOW)
    for store, state in ((kept.first, first), (kept.second, second)):
        if state == "cut":
            store.values[NAME] = store.values[NAME][:-9]
        elif state == "gone":
            del store.values[NAME]
    kept.restart()
    whole = "whole" in (first, second)
    assert kept.revoked("x") == [whole]
    assert kept.register.damaged is (not whole and "cut" in (first, second))
    if whole:
        assert kept.first.values == kept.second.values
    kept.register.learn(listed(1, "x"), NOW)
    assert kept.revoked("x") == [True]
    assert not kept.register.damaged


def test_every_changed_byte_of_what_is_kept_is_noticed() -> None:
    kept = Kept()
    kept.register.learn(listed(3, "x", "y"), NOW)
    data = kept.first.values[NAME]
    for n in range(len(data)):
        store = MemoryStore()
        store.values[NAME] = data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :]
        found = Revocations(store, MemoryStore())
        assert found.damaged
        assert not len(found)


# ---------------------------------------------------------------------- from a repository


class Fleet(Repository):
    """A repository with a role for revocations."""

    def __init__(self) -> None:
        super().__init__()
        self.signed["timestamp"].unrecognized_fields["issued"] = "2030-06-01T12:00:00Z"
        self.delegate(REVOCATIONS_ROLE, ["revocations/*"])
        self.publish(REVOCATIONS_ROLE, "targets")

    def revoke(self, *names: str, part: int = 1) -> None:
        data = encode_part(RevocationPart(part, tuple(revocation(n) for n in names)))
        self.add_target(REVOCATIONS_ROLE, part_path(part), data)
        self.publish(REVOCATIONS_ROLE)


class Device:
    def __init__(self, fleet: Repository) -> None:
        self.fleet = fleet
        self.store = MemoryStore()
        self.client = TrustClient(self.store, fleet.initial_root)
        self.kept = Kept()
        self.asked: list[str] = []

    def ask(self, now: float = NOW) -> set[Digest]:
        source = Source(self.fleet.files)
        try:
            run(self.client.refresh(now), source)
            return run(learn_revocations(self.client, self.kept.register), source)
        finally:
            self.asked = source.asked

    def revoked(self, *names: str) -> list[bool]:
        return self.kept.revoked(*names)


def test_a_device_takes_the_list_and_asks_only_for_parts_that_are_new() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    assert len(device.ask()) == 1
    assert device.revoked("x", "y") == [True, False]
    assert device.kept.register.version == fleet.signed[REVOCATIONS_ROLE].version
    fleet.revoke("y", part=2)
    assert len(device.ask()) == 2
    assert device.revoked("x", "y") == [True, True]
    assert [path for path in device.asked if path.startswith("objects/")] == [
        f"objects/{sha256(encode_part(RevocationPart(2, (revocation('y'),)))).hex()}"
    ]


def test_a_repository_without_the_role_is_as_it_was() -> None:
    device = Device(Repository())
    assert device.ask() == set()
    assert not device.kept.register.trouble


def test_parts_stay_in_the_state_for_peers_and_old_ones_go() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    question = Question(Member("dev-1", "site-1"), "p", "board-a", 0, revocations=device.kept.register)
    steps = release_for(device.client, question, NOW)
    run(steps, Source(fleet.files))
    part = sha256(encode_part(RevocationPart(1, (revocation("x"),))))
    assert device.client.held(part) is not None
    fleet.revoke("x", "y")
    steps = release_for(device.client, question, NOW)
    run(steps, Source(fleet.files))
    assert device.client.held(part) is None
    assert device.revoked("x", "y") == [True, True]


def test_an_expired_list_counts_as_what_it_says_can_only_be_added_to() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    for role in ("timestamp", "snapshot", "targets", "root"):
        fleet.signed[role].expires = fleet.signed["root"].expires
    fleet.publish("targets")
    fleet.signed[REVOCATIONS_ROLE].expires = fleet.signed["root"].expires.replace(year=2030, month=6, day=2)
    fleet.publish(REVOCATIONS_ROLE)
    device = Device(fleet)
    device.ask(NOW + 10 * DAY)
    assert device.revoked("x") == [True]
    assert not device.kept.register.trouble


def test_a_list_in_expired_metadata_counts_though_nothing_else_of_it_does() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    fleet.signed[REVOCATIONS_ROLE].expires = at(NOW + DAY)
    fleet.publish(REVOCATIONS_ROLE)
    device, late = Device(fleet), NOW + 30 * DAY
    register = device.kept.register
    question = Question(Member("dev-1", "site-1"), "p", "board-a", 0, revocations=register)
    with pytest.raises(TrustError) as caught:
        run(release_for(device.client, question, late), Source(fleet.files))
    assert caught.value.reason == "expired"
    assert device.revoked("x") == [False]
    with pytest.raises(TrustError) as caught:
        run(release_despite_expiry(device.client, question, late), Source(fleet.files))
    assert caught.value.reason == "expired"
    assert device.revoked("x") == [True]
    assert not register.trouble
    assert "timestamp.json" not in device.store.values


class Swapping(Source):
    """Gives other bytes for one file, as a peer or an origin that lies would."""

    def __init__(self, files: dict[str, bytes], path: str, data: bytes) -> None:
        super().__init__(files)
        self.path, self.data = path, data

    def __call__(self, need: Need) -> bytes | None:
        if need.path == self.path and need.error is None:
            return self.data
        return super().__call__(need)


def test_while_it_is_asked_for_again_what_was_wrong_with_the_list_is_still_said() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    path = f"objects/{sha256(encode_part(RevocationPart(1, (revocation('x'),)))).hex()}"
    source = Swapping(fleet.files, path, b"something else")
    run(device.client.refresh(NOW), source)
    run(learn_revocations(device.client, device.kept.register), source)
    trouble = device.kept.register.trouble
    assert trouble
    steps, good = learn_revocations(device.client, device.kept.register), Source(fleet.files)
    need = next(steps)
    assert device.kept.register.trouble == trouble
    with pytest.raises(StopIteration):
        while True:
            need = steps.send(good(need))
    assert not device.kept.register.trouble
    assert device.revoked("x") == [True]


def test_a_forged_part_is_refused_and_what_is_held_stays() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    device.ask()
    fleet.revoke("x", "y")
    path = f"objects/{sha256(encode_part(RevocationPart(1, (revocation('x'), revocation('y'))))).hex()}"
    forged = encode_part(RevocationPart(1, (revocation("z"),)))
    source = Swapping(fleet.files, path, forged)
    run(device.client.refresh(NOW), source)
    run(learn_revocations(device.client, device.kept.register), source)
    assert device.revoked("x", "y", "z") == [True, False, False]
    assert device.kept.register.trouble
    device.ask()
    assert device.revoked("x", "y", "z") == [True, True, False]
    assert not device.kept.register.trouble


@pytest.mark.parametrize(
    "fault", ["other-key", "no-signature", "flipped", "oversized", "misplaced", "unknown-key"]
)
def test_a_bad_list_is_refused_by_name_and_nothing_on_disk_changes(fault: str) -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    device.ask()
    before = dict(device.kept.first.values)
    own = fleet.signers[REVOCATIONS_ROLE]
    part = encode_part(RevocationPart(1, (revocation("x"), revocation("y"))))
    reason = "signature"
    if fault == "other-key":
        fleet.signers[REVOCATIONS_ROLE] = fleet.signers["snapshot"]
        fleet.revoke("x", "y")
    elif fault == "no-signature":
        fleet.signers[REVOCATIONS_ROLE] = []
        fleet.revoke("x", "y")
    elif fault == "flipped":
        fleet.revoke("x", "y")
        name = f"metadata/{fleet.signed[REVOCATIONS_ROLE].version}.{REVOCATIONS_ROLE}.json"
        fleet.files[name] = edit(fleet.files[name], lambda d: d["signed"].update(version=99))
        fleet.name(REVOCATIONS_ROLE, fleet.files[name])
        fleet.publish()
        fleet.signed["snapshot"].meta[f"{REVOCATIONS_ROLE}.json"].version = 99
        fleet.publish()
        fleet.files[f"metadata/99.{REVOCATIONS_ROLE}.json"] = fleet.files[name]
    elif fault == "oversized":
        fleet.add_target(REVOCATIONS_ROLE, part_path(1), b" " * (limits.REVOCATION_PART_SIZE_MAX + 1))
        fleet.publish(REVOCATIONS_ROLE)
        reason = "too-long"
    elif fault == "misplaced":
        fleet.add_target(REVOCATIONS_ROLE, part_path(2), part)
        fleet.publish(REVOCATIONS_ROLE)
        reason = "it is part 1"
    else:
        fleet.add_target(REVOCATIONS_ROLE, part_path(1), part.replace(b'"part"', b'"piece"'))
        fleet.publish(REVOCATIONS_ROLE)
        reason = "part: missing"
    device.ask()
    assert reason in device.kept.register.trouble
    assert device.revoked("x", "y") == [True, False]
    assert device.kept.first.values == before
    fleet.signers[REVOCATIONS_ROLE] = own
    fleet.signed[REVOCATIONS_ROLE].targets.clear()
    fleet.signed[REVOCATIONS_ROLE].version = 100
    fleet.revoke("x", "y")
    device.ask()
    assert device.revoked("x", "y") == [True, True]


def test_a_disk_that_fails_holds_no_update_up_and_the_list_is_kept_when_it_works_again() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    device = Device(fleet)
    device.ask()
    fleet.revoke("x", "y")
    device.kept.second.fail_at = 0
    device.ask()
    assert "disk is full" in device.kept.register.trouble
    assert device.revoked("x", "y") == [True, False]
    device.kept.second.fail_at = None
    device.ask()
    assert device.revoked("x", "y") == [True, True]
    assert not device.kept.register.trouble


def test_too_many_parts_are_refused() -> None:
    fleet = Fleet()
    for number in range(1, limits.REVOCATION_PARTS_MAX + 1):
        data = encode_part(RevocationPart(number, (revocation(f"d{number}"),)))
        fleet.add_target(REVOCATIONS_ROLE, part_path(number), data)
    fleet.publish(REVOCATIONS_ROLE)
    device = Device(fleet)
    device.ask()
    assert len(device.kept.register) == limits.REVOCATION_PARTS_MAX
    fleet.revoke("one-more", part=limits.REVOCATION_PARTS_MAX + 1)
    device.ask()
    assert "too-many-revocations" in device.kept.register.trouble
    assert device.revoked("one-more") == [False]


def test_the_list_of_a_version_before_is_not_taken_again() -> None:
    fleet = Fleet()
    fleet.revoke("x")
    old = dict(fleet.files)
    fleet.revoke("x", "y")
    device = Device(fleet)
    device.ask()
    device.fleet = Fleet.__new__(Fleet)
    device.fleet.files = old
    version = device.kept.register.version
    with pytest.raises(TrustError, match="version"):
        device.ask()
    assert device.revoked("x", "y") == [True, True]
    assert device.kept.register.version == version


def test_a_new_online_key_by_a_new_root_takes_false_revocations_back() -> None:
    fleet = Fleet()
    fleet.revoke("x", "falsely")
    device = Device(fleet)
    device.ask()
    targets = fleet.signed["targets"]
    for keyid in list(targets.delegations.roles[REVOCATIONS_ROLE].keyids):
        targets.revoke_key(keyid, REVOCATIONS_ROLE)
    fleet.signers[REVOCATIONS_ROLE] = []
    fleet.delegate(REVOCATIONS_ROLE, ["revocations/*"])
    fleet.rotate("timestamp", "snapshot")
    fleet.publish("targets")
    fleet.revoke("x")
    device.ask()
    assert device.revoked("x", "falsely") == [True, False]


def test_until_is_written_to_the_second() -> None:
    assert parse_time("2031-07-06T12:00:00Z") == LATER
