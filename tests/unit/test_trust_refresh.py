"""The top-level TUF workflow: what is accepted, what is refused for which reason, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from p2p.content.digests import sha256
from p2p.errors import OriginError, TrustError
from p2p.trust import Need, TrustClient, format_time, run
from tests.support.tuf_repository import DAY, NOW, MemoryStore, Repository, Source, Sources, at, edit

ROOT_PROBE = ["metadata/2.root.json", "metadata/timestamp.json"]


class Device:
    """A store and, on each refresh, a newly started client on it."""

    def __init__(self, repository: Repository, *, build_time: float = 0.0) -> None:
        self.repository = repository
        self.store = MemoryStore()
        self.build_time = build_time
        self.pinned = repository.initial_root
        self.asked: list[str] = []
        self.client = self.start()

    def start(self) -> TrustClient:
        self.client = TrustClient(self.store, self.pinned, build_time=self.build_time)
        return self.client

    def refresh(self, now: float = NOW, files: dict[str, bytes] | None = None) -> bool:
        source = Source(self.repository.files if files is None else files)
        try:
            return run(self.start().refresh(now), source)
        finally:
            self.asked = source.asked

    def refused(self, now: float = NOW, files: dict[str, bytes] | None = None) -> str:
        with pytest.raises(TrustError) as caught:
            self.refresh(now, files)
        return caught.value.reason


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def device(repository: Repository) -> Device:
    return Device(repository)


# ------------------------------------------------------------------ the plain course


def test_first_refresh_fetches_each_role_once(device: Device) -> None:
    assert device.refresh() is True
    assert device.asked == [*ROOT_PROBE, "metadata/1.snapshot.json", "metadata/1.targets.json"]
    assert device.client.versions == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


def test_nothing_new_costs_a_root_probe_and_the_timestamp(device: Device) -> None:
    device.refresh()
    before = device.store.changes
    assert device.refresh() is False
    assert device.asked == ROOT_PROBE
    assert device.store.changes == before


def test_a_resigned_timestamp_alone_costs_nothing_more(device: Device) -> None:
    device.refresh()
    device.repository.publish_role("timestamp")
    assert device.refresh() is True
    assert device.asked == ROOT_PROBE
    assert device.client.versions["timestamp"] == 2


def test_stored_bytes_are_those_that_were_received(device: Device) -> None:
    device.repository.files["metadata/timestamp.json"] += b"\n "
    device.refresh()
    assert device.store.values["timestamp.json"] == device.repository.files["metadata/timestamp.json"]


def test_everything_but_root_and_timestamp_is_asked_for_by_digest(device: Device) -> None:
    needs: list[Need] = []
    source = Source(device.repository.files)

    def answer(need: Need) -> bytes | None:
        needs.append(need)
        return source(need)

    run(device.client.refresh(NOW), answer)
    files = device.repository.files
    assert [(n.role, n.mutable, n.digest, n.size) for n in needs] == [
        ("root", True, None, None),
        ("timestamp", True, None, None),
        *(
            (role, False, sha256(files[f"metadata/1.{role}.json"]), len(files[f"metadata/1.{role}.json"]))
            for role in ("snapshot", "targets")
        ),
    ]
    assert all(n.size_max == n.size for n in needs if n.digest is not None)


def test_a_repository_without_hashes_and_consistent_snapshots_is_understood() -> None:
    repository = Repository(hashes=False)
    repository.signed["root"].consistent_snapshot = False
    repository.publish_root()
    for role in ("snapshot", "targets"):
        repository.files[f"metadata/{role}.json"] = repository.files.pop(f"metadata/1.{role}.json")
    device = Device(repository)
    assert device.refresh() is True
    assert device.asked[-2:] == ["metadata/snapshot.json", "metadata/targets.json"]


def test_what_is_held_can_be_passed_on(device: Device) -> None:
    device.refresh()
    device.repository.rotate("timestamp")
    device.repository.publish("targets")
    device.refresh()
    files = device.repository.files
    assert device.client.held_timestamp() == files["metadata/timestamp.json"]
    assert device.client.held_root(2) == files["metadata/2.root.json"]
    for role in ("snapshot", "targets"):
        data = files[f"metadata/2.{role}.json"]
        assert device.client.held(sha256(data)) == data
    assert device.client.held(sha256(files["metadata/1.snapshot.json"])) is None


# ------------------------------------------------------------------ freeze


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_freeze_one_second_before_expiry_counts_one_after_does_not(role: str) -> None:
    for offset, reason in ((-1.0, None), (1.0, "expired")):
        repository = Repository()
        repository.signed[role].expires = at(NOW + 3600)
        if role == "root":
            repository.publish_root()
            repository.publish_role("timestamp")
        else:
            repository.publish("targets")
        device = Device(repository)
        if reason is None:
            assert device.refresh(NOW + 3600 + offset) is True
        else:
            assert device.refused(NOW + 3600 + offset) == reason


def test_an_expired_timestamp_leaves_the_held_one(device: Device) -> None:
    device.refresh()
    held = device.store.values["timestamp.json"]
    device.repository.signed["timestamp"].expires = at(NOW - 1)
    device.repository.publish_role("timestamp")
    assert device.refused() == "expired"
    assert device.store.values["timestamp.json"] == held


@pytest.mark.parametrize(("offset", "reason"), [(-1, None), (1, "expired")])
def test_a_held_snapshot_expires_though_the_timestamp_is_re_signed(
    device: Device, offset: int, reason: str | None
) -> None:
    device.refresh()
    device.repository.signed["timestamp"].expires = at(NOW + 30 * DAY)
    device.repository.publish_role("timestamp")
    if reason is None:
        assert device.refresh(NOW + 7 * DAY + offset) is True
    else:
        assert device.refused(NOW + 7 * DAY + offset) == reason


def test_a_frozen_origin_is_noticed_when_the_held_timestamp_expires(device: Device) -> None:
    device.refresh()
    assert device.refresh(NOW + DAY - 1) is False
    assert device.refused(NOW + DAY + 1) == "expired"


def test_an_expired_root_on_the_way_is_only_passed_through(device: Device) -> None:
    root = device.repository.signed["root"]
    root.expires = at(NOW - DAY)
    device.repository.publish_root()
    assert device.refused() == "expired"
    assert device.client.versions["root"] == 2
    root.expires = at(NOW + DAY)
    device.repository.publish_root()
    assert device.refresh() is True
    assert device.client.versions["root"] == 3


# ------------------------------------------------------------------ time


def issue(repository: Repository, seconds: float) -> None:
    repository.signed["timestamp"].unrecognized_fields["issued"] = format_time(seconds)
    repository.publish_role("timestamp")


def test_a_clock_at_1970_does_not_bring_expired_metadata_back(repository: Repository) -> None:
    device = Device(repository, build_time=NOW + 8 * DAY)
    assert device.refused(now=0.0) == "expired"
    device.build_time = NOW - DAY
    assert device.refresh(now=0.0) is True


def test_the_last_issue_time_that_was_signed_is_a_floor(device: Device) -> None:
    issue(device.repository, NOW)
    device.refresh(now=0.0)
    old = dict(device.repository.files)
    device.repository.signed["snapshot"].expires = at(NOW + 90 * DAY)
    device.repository.signed["timestamp"].expires = at(NOW + 60 * DAY)
    issue(device.repository, NOW + 30 * DAY)
    device.repository.publish("targets")
    device.refresh(now=0.0)
    assert device.client.time == NOW + 30 * DAY
    assert device.refused(now=0.0, files=old) == "rollback"


@pytest.mark.parametrize(("ahead", "reason"), [(-1, None), (0, "issued"), (1, "issued")])
def test_a_stolen_online_key_cannot_push_the_clock_past_the_expiry(
    device: Device, ahead: int, reason: str | None
) -> None:
    device.refresh()
    before = dict(device.store.values)
    issue(device.repository, NOW + DAY + ahead)
    if reason is None:
        assert device.refresh() is True
    else:
        assert device.refused() == reason
        assert device.store.values == before


def test_an_issue_time_pushed_ahead_goes_with_the_key_that_signed_it(device: Device) -> None:
    repository = device.repository
    repository.signed["timestamp"].expires = at(NOW + 364 * DAY)
    issue(repository, NOW + 363 * DAY)
    assert device.refused() == "expired"  # the snapshot, at that time
    repository.signed["root"].expires = at(NOW + 365 * DAY)
    repository.rotate("timestamp")
    repository.signed["timestamp"].expires = at(NOW + DAY)
    issue(repository, NOW)
    assert device.refresh() is True
    assert device.client.time == NOW


# ------------------------------------------------------------------ rollback


def test_an_older_timestamp_is_refused_after_a_restart(device: Device) -> None:
    old = dict(device.repository.files)
    device.repository.publish("targets")
    device.refresh()
    before = dict(device.store.values)
    assert device.refused(files=old) == "rollback"
    assert device.store.values == before
    assert device.refresh() is False


def test_a_newer_timestamp_may_not_name_an_older_snapshot(device: Device) -> None:
    repository = device.repository
    repository.publish("targets")
    device.refresh()
    repository.signed["snapshot"].version = 1
    repository.name("snapshot", repository.files["metadata/1.snapshot.json"])
    repository.publish_role("timestamp")
    assert device.refused() == "rollback"
    assert device.client.versions["timestamp"] == 2


@pytest.mark.parametrize("removed", [False, True])
def test_a_newer_snapshot_may_not_take_a_role_back(device: Device, removed: bool) -> None:
    repository = device.repository
    repository.delegate("a", ["a/*"])
    repository.publish("a", "targets")
    device.refresh()
    if removed:
        del repository.signed["snapshot"].meta["a.json"]
    else:
        repository.signed["targets"].version = 1
        repository.name("targets", repository.files["metadata/1.targets.json"])
    repository.publish()
    assert device.refused() == "rollback"
    assert device.client.versions["snapshot"] == 2


def test_zeroed_state_falls_back_to_the_chain_and_heals(device: Device) -> None:
    device.repository.rotate("timestamp", "snapshot")
    device.repository.publish("targets")
    device.refresh()
    newest = device.store.values["root.json"]
    old_timestamp = device.store.values["timestamp.json"]
    device.store.values["root.json"] = bytes(len(newest))
    assert device.refresh() is False  # the rotation is not taken for a new one
    assert device.store.values["timestamp.json"] == old_timestamp
    for name in device.store.values:
        device.store.values[name] = bytes(len(device.store.values[name]))
    assert device.refresh() is True
    assert device.store.values["root.json"] == newest


# ------------------------------------------------------------------ fast-forward and recovery


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_is_undone_by_withdrawing_the_key(device: Device, role: str) -> None:
    repository = device.repository
    repository.signed[role].version = 2**31
    repository.publish()
    device.refresh()
    assert device.client.versions[role] > 2**31 - 1

    repository.signed[role].version = 1
    if role == "snapshot":
        del repository.files["metadata/2147483649.snapshot.json"]
    repository.publish_role("snapshot", bump=False)
    repository.publish_role("timestamp", bump=role == "snapshot")
    assert device.refused() == "rollback"

    repository.rotate(role)
    if role == "snapshot":
        repository.publish_role("snapshot", bump=False)
    repository.publish_role("timestamp", bump=False)
    assert device.refresh() is True
    assert device.client.versions[role] == 1


def test_a_rotation_that_never_came_costs_no_rollback_protection(device: Device) -> None:
    old = dict(device.repository.files)
    device.repository.publish("targets")
    device.refresh()
    device.store.values["rotation"] = b"2"
    assert device.refused(files=old) == "rollback"
    assert "rotation" not in device.store.values


def test_a_key_that_is_only_added_keeps_rollback_protection(device: Device) -> None:
    repository = device.repository
    old = dict(repository.files)
    repository.publish("targets")
    device.refresh()
    keep = repository.signers["timestamp"][0]
    repository.set_keys("timestamp", 1)
    repository.signed["root"].add_key(keep.public_key, "timestamp")
    repository.publish_root()
    # both keys are there: what the first one signed still counts
    assert device.refused(files=old | {"metadata/2.root.json": repository.files["metadata/2.root.json"]}) == (
        "rollback"
    )


# ------------------------------------------------------------------ mix and match, wrong files


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_metadata_of_another_version_is_refused(role: str) -> None:
    repository = Repository(hashes=False)
    device = Device(repository)
    first = repository.files[f"metadata/1.{role}.json"]
    repository.publish("targets")
    right = repository.files[f"metadata/2.{role}.json"]
    repository.files[f"metadata/2.{role}.json"] = first
    assert device.refused() == "version"
    repository.files[f"metadata/2.{role}.json"] = right
    device.refresh()
    assert device.client.versions[role] == 2


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "hash"),
        (lambda data: data[:-1], "length"),
        (lambda data: data + b" ", "too-long"),
    ],
)
def test_wrong_hash_or_length(
    device: Device, role: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    name = f"metadata/1.{role}.json"
    right = device.repository.files[name]
    device.repository.files[name] = damage(right)
    assert device.refused() == reason
    assert f"{role}.json" not in device.store.values
    device.repository.files[name] = right
    device.refresh()
    assert device.store.values[f"{role}.json"] == right


def test_a_root_of_another_version_is_refused(device: Device) -> None:
    device.repository.publish_root()
    device.repository.publish_root()
    second = device.repository.files["metadata/2.root.json"]
    device.repository.files["metadata/2.root.json"] = device.repository.files["metadata/3.root.json"]
    assert device.refused() == "version"
    assert device.client.versions["root"] == 1
    device.repository.files["metadata/2.root.json"] = second
    assert device.refresh() is True
    assert device.client.versions["root"] == 3


def test_a_snapshot_in_place_of_a_timestamp_is_refused(device: Device) -> None:
    repository = device.repository
    right = repository.files["metadata/timestamp.json"]
    repository.files["metadata/timestamp.json"] = repository.files["metadata/1.snapshot.json"]
    assert device.refused() == "type"
    repository.files["metadata/timestamp.json"] = right
    assert device.refresh() is True


@pytest.mark.parametrize(("spec", "reason"), [("1.0.31", None), ("1.9.0", None), ("2.0.0", "spec-version")])
def test_an_unknown_specification_version_is_refused(device: Device, spec: str, reason: str | None) -> None:
    device.repository.signed["timestamp"].spec_version = spec
    device.repository.publish_role("timestamp")
    if reason is None:
        assert device.refresh() is True
    else:
        assert device.refused() == reason


def test_metadata_that_is_signed_as_larger_than_the_limit_is_not_asked_for(device: Device) -> None:
    device.repository.signed["timestamp"].snapshot_meta.length = 2_000_001
    device.repository.publish_role("timestamp")
    assert device.refused() == "too-long"
    assert device.asked == ROOT_PROBE


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json"])
def test_more_bytes_than_the_need_allows_are_refused_unread(device: Device, name: str) -> None:
    device.repository.files[f"metadata/{name}"] = b" " * 600_000
    assert device.refused() == "too-long"


# ------------------------------------------------------------------ sources


def test_a_bad_source_does_not_block_a_good_one(device: Device) -> None:
    files = device.repository.files
    forged = edit(files["metadata/timestamp.json"], lambda d: d["signed"].update(version=9))
    bad = Source(dict.fromkeys(files, b"{}") | {"metadata/timestamp.json": forged})
    sources = Sources(bad, lambda need: files.get(need.path))
    assert run(device.client.refresh(NOW), sources) is True
    assert sources.errors == ["signature", "length", "length"]
    assert device.store.values["timestamp.json"] == files["metadata/timestamp.json"]


def test_nobody_else_is_asked_for_bytes_that_the_signers_meant(device: Device) -> None:
    repository = device.repository
    for expires, asked in ((NOW - 1, 1), (NOW + DAY, 1)):
        repository.signed["targets"].expires = at(expires)
        repository.publish("targets")
        source = Source(repository.files)
        sources = Sources(source, source, source)
        if expires < NOW:
            with pytest.raises(TrustError) as caught:
                run(device.start().refresh(NOW), sources)
            assert caught.value.reason == "expired"
        else:
            run(device.start().refresh(NOW), sources)
        assert sum(path.endswith("targets.json") for path in source.asked) == asked


def test_the_refusal_outlives_the_exhausted_sources(device: Device) -> None:
    device.repository.files["metadata/timestamp.json"] = b"{}"
    with pytest.raises(TrustError) as caught:
        device.refresh()
    assert caught.value.reason == "malformed"
    assert isinstance(caught.value.__cause__, OriginError)


def test_an_origin_that_is_down_is_the_origins_fault(device: Device) -> None:
    def down(need: Need) -> bytes | None:
        raise OriginError("unreachable", need.path)

    with pytest.raises(OriginError) as caught:
        run(device.client.refresh(NOW), down)
    assert caught.value.reason == "unreachable"


def test_without_any_source_the_held_metadata_serves_until_it_expires(device: Device) -> None:
    device.refresh()
    assert device.refresh(NOW + DAY - 1, files={}) is False
    assert device.refused(NOW + DAY + 1, files={}) == "expired"


def test_without_any_source_and_nothing_held_there_is_nothing_to_trust(device: Device) -> None:
    with pytest.raises(OriginError) as caught:
        device.refresh(files={})
    assert caught.value.reason == "unreachable"


# ------------------------------------------------------------------ peers' timestamps


def test_a_peers_newer_timestamp_is_taken_and_the_rest_follows_by_digest(device: Device) -> None:
    device.refresh()
    device.repository.publish("targets")
    files = device.repository.files
    newest = files["metadata/timestamp.json"]
    assert device.start().consider_timestamp(newest, NOW) is True
    assert device.store.values["timestamp.json"] == newest
    from_peers = Source({k: v for k, v in files.items() if k[9:].startswith("2.")})
    assert run(device.client.refresh(NOW), from_peers) is False
    assert device.client.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_a_peers_older_or_equal_timestamp_changes_nothing(device: Device) -> None:
    old = device.repository.files["metadata/timestamp.json"]
    device.repository.publish("targets")
    device.refresh()
    before = dict(device.store.values)
    same = device.repository.files["metadata/timestamp.json"]
    assert device.client.consider_timestamp(old, NOW) is False
    assert device.client.consider_timestamp(same, NOW) is False
    assert device.store.values == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["signed"].update(version=7), "signature"),
        (lambda d: d.pop("signatures"), "malformed"),
        (lambda d: d["signatures"].clear(), "signature"),
    ],
)
def test_a_peers_bad_timestamp_changes_nothing(
    device: Device, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    device.refresh()
    device.repository.publish_role("timestamp")
    good = device.repository.files["metadata/timestamp.json"]
    before = dict(device.store.values)
    with pytest.raises(TrustError) as caught:
        device.client.consider_timestamp(edit(good, change), NOW)
    assert caught.value.reason == reason
    assert device.store.values == before
    assert device.client.consider_timestamp(good, NOW) is True


def test_a_peers_expired_timestamp_changes_nothing(device: Device) -> None:
    device.refresh()
    before = dict(device.store.values)
    device.repository.publish_role("timestamp")
    good = device.repository.files["metadata/timestamp.json"]
    with pytest.raises(TrustError) as caught:
        device.start().consider_timestamp(good, NOW + DAY + 1)
    assert caught.value.reason == "expired"
    assert device.store.values == before
    assert device.start().consider_timestamp(good, NOW + DAY - 1) is True


def test_an_origin_that_lags_behind_the_peers_can_be_answered_with_none(device: Device) -> None:
    lagging = dict(device.repository.files)
    device.refresh()
    device.repository.publish("targets")
    device.client.consider_timestamp(device.repository.files["metadata/timestamp.json"], NOW)

    def answer(need: Need) -> bytes | None:
        if need.error is not None and need.error.reason == "rollback":
            return None
        return (lagging if need.mutable else device.repository.files).get(need.path)

    assert run(device.client.refresh(NOW), answer) is False
    assert device.client.versions["targets"] == 2


# ------------------------------------------------------------------ the pinned root


def test_without_a_root_there_is_nothing_to_start_from() -> None:
    with pytest.raises(TrustError) as caught:
        run(TrustClient(MemoryStore()).refresh(NOW), Source({}))
    assert caught.value.reason == "no-root"


def test_a_pinned_root_that_signs_itself_wrongly_is_refused(device: Device) -> None:
    right = device.pinned
    device.pinned = edit(right, lambda d: d["signed"].update(version=2))
    assert device.refused() == "signature"
    assert device.asked == []
    device.pinned = right
    assert device.refresh() is True


def test_a_newer_pinned_root_takes_over(device: Device) -> None:
    device.refresh()
    device.repository.rotate("timestamp")
    device.repository.publish("targets")
    device.pinned = device.repository.files["metadata/2.root.json"]
    assert device.refresh() is True
    assert device.asked[0] == "metadata/3.root.json"


def test_state_of_another_fleet_is_not_mixed_with_this_ones(device: Device) -> None:
    device.refresh()
    before = dict(device.store.values)
    device.pinned = Repository().initial_root
    assert device.refused() == "other-fleet"
    assert device.store.values == before
    device.pinned = device.repository.initial_root
    assert device.refresh() is False
