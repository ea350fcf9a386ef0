"""Publishing: signing elsewhere, thresholds, tampered documents, two operators, cuts at every write."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Key, TargetFile
from tuf.ngclient import FetcherInterface, Updater

from coordinator.domain.rollout import abort, open_phases, pause, resume
from coordinator.errors import (
    DocumentRefused,
    KeyUnavailable,
    ObsoleteDocument,
    RepositoryDamaged,
    RepositoryInUse,
)
from coordinator.publishing.files import locked, write_atomic
from coordinator.publishing.keys import Passphrases, create_signing_key, open_key_file, read_public
from coordinator.publishing.orders import (
    OrderRequest,
    change_phases,
    create_order,
    list_orders,
    publish_order,
    rebase_order,
)
from coordinator.publishing.proposal import (
    Proposal,
    decode_proposal,
    encode_proposal,
    read_proposal,
    review,
    sign,
    vouched_by,
    write_proposal,
)
from coordinator.publishing.releases import (
    list_releases,
    object_problems,
    publish_release,
    rebase_release,
)
from coordinator.publishing.repository import Repository
from coordinator.publishing.settings import RoleKeys
from coordinator.publishing.setup import RoleRequest, Roles, add_product, init_repository
from p2p.content.digests import sha256
from p2p.content.manifest import decode_manifest, encode_manifest
from p2p.content.order import Audience, Member, Phase, PhaseStatus, is_open_for
from p2p.errors import ContentError, LocalError, OperatorError
from tests.support.fleet_repository import Fleet

PLAIN = Passphrases(plain=True, environment={}, prompt=False)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path)


class DirectoryFetcher(FetcherInterface):
    """python-tuf's own client reads the repository directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.directory / urllib.parse.urlsplit(url).path.lstrip("/")
        if not path.is_file():
            raise DownloadHTTPError("absent", 404)
        yield path.read_bytes()


def accepted_by_a_client(fleet: Fleet, state_dir: Path, target: str | None = None) -> int:
    """Refresh python-tuf's client from the pinned root; returns its timestamp version."""
    state_dir.mkdir(exist_ok=True)
    client = Updater(
        str(state_dir),
        "file:///metadata/",
        fetcher=DirectoryFetcher(fleet.directory),
        bootstrap=(fleet.directory / "root.json").read_bytes(),
    )
    client.refresh()
    if target is not None:
        assert client.get_targetinfo(target) is not None
    return json.loads((state_dir / "timestamp.json").read_bytes())["signed"]["version"]


# Signing elsewhere


def people(tmp_path: Path, *names: str) -> dict[str, Path]:
    """Each person's directory, with nothing in it but a key."""
    found = {}
    for name in names:
        directory = tmp_path / name
        directory.mkdir()
        create_signing_key(directory / f"{name}.pem", b"secret of " + name.encode())
        found[name] = directory
    return found


def sign_as(person: Path, document: Path) -> Path:
    """On a machine with only the key and the document: show it, sign it."""
    mine = person / document.name
    shutil.copyfile(document, mine)
    assert sorted(p.suffix for p in person.iterdir()) == [".json", ".pem", ".pub"]
    passphrases = Passphrases(environment={"SLIPSTREAM_PASSPHRASE": f"secret of {person.name}"}, prompt=False)
    proposal = read_proposal(mine)
    review(proposal)
    sign(proposal, open_key_file(person / f"{person.name}.pem", passphrases))
    write_proposal(mine, proposal)
    return mine


def test_two_of_three_sign_with_only_their_keys(tmp_path: Path) -> None:
    who = people(tmp_path, "alice", "bob", "carol", "mallory")
    public = tuple(who[name] / f"{name}.pub" for name in ("alice", "bob", "carol"))
    fleet = Fleet.make(
        tmp_path,
        Roles(release=RoleRequest(threshold=2, public=public)),
        now=datetime.now(UTC).replace(microsecond=0),
    )
    assert not list((fleet.directory / "keys").glob("alice.pem"))
    document = tmp_path / "engine.json"
    write_proposal(document, fleet.build("1.0"))

    def publish(*documents: Path) -> Any:
        return publish_release(fleet.repository, [read_proposal(d) for d in documents], None, sign_here=True)

    alice = sign_as(who["alice"], document)
    with pytest.raises(DocumentRefused) as refused:
        publish(alice)
    assert refused.value.reason == "threshold"
    with pytest.raises(DocumentRefused) as refused:
        publish(alice, sign_as(who["alice"], document))  # the same person twice is one signature
    assert refused.value.reason == "threshold"
    with pytest.raises(DocumentRefused) as refused:
        sign_as(who["mallory"], document)
    assert refused.value.reason == "key-not-in-role"
    assert list_releases(fleet.repository, fleet.repository.state()) == []

    manifest = publish(alice, sign_as(who["carol"], document))
    assert [m.version for m in list_releases(fleet.repository, fleet.repository.state())] == ["1.0"]
    accepted_by_a_client(fleet, tmp_path / "device", manifest.target_path)


def test_a_signer_is_told_what_is_new_to_them(tmp_path: Path) -> None:
    who = people(tmp_path, "alice", "bob")
    public = tuple(who[name] / f"{name}.pub" for name in who)
    fleet = Fleet.make(tmp_path, Roles(release=RoleRequest(threshold=1, public=public)))
    first = tmp_path / "first.json"
    write_proposal(first, fleet.build("1.0"))
    publish_release(fleet.repository, [read_proposal(sign_as(who["alice"], first))], None, sign_here=False)
    proposal = fleet.build("1.1")
    found = review(proposal)
    assert [m.version for m in found.manifests] == ["1.1"]
    assert found.kept == ("manifests/engine/1.0.json",)
    assert vouched_by(proposal, read_public(who["alice"] / "alice.pub"))
    assert not vouched_by(proposal, read_public(who["bob"] / "bob.pub"))


def test_a_build_machine_needs_only_the_metadata(tmp_path: Path, fleet: Fleet) -> None:
    proposal = fleet.build("1.0")
    elsewhere = tmp_path / "out"
    elsewhere.mkdir()
    manifest = review(proposal).manifests[0]
    for pack in manifest.payloads[0].packs:
        for ref in (pack.index, pack.frames):
            shutil.move(fleet.repository.objects / ref.sha256.hex(), elsewhere)
    with pytest.raises(ContentError, match="is missing"):
        publish_release(fleet.repository, [copy.deepcopy(proposal)], None, sign_here=True)
    publish_release(fleet.repository, [proposal], elsewhere, sign_here=True)
    assert object_problems(fleet.repository, fleet.repository.state(), deep=True) == []


# Tampered documents


def tampered(proposal: Proposal, change: Callable[[dict[str, Any]], None]) -> Proposal:
    document = json.loads(encode_proposal(proposal))
    change(document)
    return decode_proposal(json.dumps(document).encode())


PATH = "manifests/engine/1.1.json"


def swap_manifest(document: dict[str, Any]) -> None:
    document["documents"][PATH] = document["documents"][PATH].replace("board-a", "board-b")


def swap_both(document: dict[str, Any]) -> None:
    swap_manifest(document)
    data = document["documents"][PATH].encode()
    document["metadata"]["signed"]["targets"][PATH]["hashes"]["sha256"] = sha256(data).hex()


def hide_manifest(document: dict[str, Any]) -> None:
    del document["documents"][PATH]


def add_unsigned(document: dict[str, Any]) -> None:
    document["documents"]["manifests/engine/9.json"] = document["documents"][PATH]


def other_product(document: dict[str, Any]) -> None:
    targets = document["metadata"]["signed"]["targets"]
    targets["manifests/brakes/1.1.json"] = targets.pop(PATH)
    document["documents"]["manifests/brakes/1.1.json"] = document["documents"].pop(PATH)


def other_version(document: dict[str, Any]) -> None:
    targets = document["metadata"]["signed"]["targets"]
    targets["manifests/engine/2.0.json"] = targets.pop(PATH)
    document["documents"]["manifests/engine/2.0.json"] = document["documents"].pop(PATH)


def skip_version(document: dict[str, Any]) -> None:
    document["metadata"]["signed"]["version"] += 1


def delegate(document: dict[str, Any]) -> None:
    document["metadata"]["signed"]["delegations"] = {"keys": {}, "roles": []}


def swap_kept(document: dict[str, Any]) -> None:
    document["metadata"]["signed"]["targets"]["manifests/engine/1.0.json"]["hashes"]["sha256"] = "00" * 32


REFUSALS = [
    (swap_manifest, "document-changed"),
    (hide_manifest, "document-missing"),
    (add_unsigned, "unsigned-extras"),
    (other_product, "wrong-role"),
    (other_version, "bad-document"),
    (skip_version, "not-next-version"),
    (delegate, "delegates"),
    (swap_kept, "document-missing"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=lambda v: getattr(v, "__name__", v))
def test_a_tampered_document_is_not_signed(
    fleet: Fleet, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    fleet.release("1.0")
    proposal = fleet.build("1.1")
    signer = open_key_file(fleet.directory / "keys" / "release.pem", PLAIN)
    changed = tampered(proposal, change)
    with pytest.raises(DocumentRefused) as refused:
        sign(changed, signer)
    assert refused.value.reason == reason
    assert changed.metadata.signatures == {}
    same = tampered(proposal, lambda document: None)
    sign(same, signer)
    publish_release(fleet.repository, [same], None, sign_here=False)


@pytest.mark.parametrize("change", [swap_both, swap_kept, skip_version], ids=lambda v: v.__name__)
def test_a_document_changed_after_signing_is_not_published(
    fleet: Fleet, change: Callable[[dict[str, Any]], None]
) -> None:
    fleet.release("1.0")
    proposal = fleet.build("1.1")
    sign(proposal, open_key_file(fleet.directory / "keys" / "release.pem", PLAIN))
    before = snapshot_of(fleet.directory)
    with pytest.raises((DocumentRefused, ObsoleteDocument)):
        publish_release(fleet.repository, [tampered(proposal, change)], None, sign_here=False)
    assert snapshot_of(fleet.directory) == before
    publish_release(fleet.repository, [proposal], None, sign_here=False)


def test_a_changed_document_fails_for_its_signature(fleet: Fleet) -> None:
    proposal = fleet.build("1.1")
    sign(proposal, open_key_file(fleet.directory / "keys" / "release.pem", PLAIN))
    with pytest.raises(DocumentRefused) as refused:
        publish_release(fleet.repository, [tampered(proposal, swap_both)], None, sign_here=False)
    assert refused.value.reason == "threshold"


def test_keys_in_the_document_do_not_count(fleet: Fleet, tmp_path: Path) -> None:
    """Whoever prepares a document can write any key into it; only the repository's delegation counts."""
    proposal = fleet.build("1.0")
    mallory = create_signing_key(tmp_path / "mallory.pem", None)
    proposal.keys = {mallory.keyid: Key.from_dict(mallory.keyid, mallory.to_dict())}
    sign(proposal, open_key_file(tmp_path / "mallory.pem", PLAIN))
    assert proposal.signers_missing() == 0
    with pytest.raises(DocumentRefused) as refused:
        publish_release(fleet.repository, [proposal], None, sign_here=False)
    assert refused.value.reason == "threshold"
    proposal.keys = fleet.repository.state().delegation("product-engine")[1]
    sign(proposal, open_key_file(fleet.directory / "keys" / "release.pem", PLAIN))
    publish_release(fleet.repository, [proposal], None, sign_here=False)
    published = fleet.repository.state().role("product-engine")
    assert published is not None
    assert mallory.keyid not in published.signatures  # nor is it carried along


def test_different_documents_are_not_put_together(fleet: Fleet) -> None:
    with pytest.raises(DocumentRefused) as refused:
        publish_release(fleet.repository, [fleet.build("1.0"), fleet.build("1.1")], None, sign_here=True)
    assert refused.value.reason == "different"


# Objects


@pytest.mark.parametrize("damage", ["missing", "flipped", "longer"])
def test_damaged_objects_are_not_published(fleet: Fleet, damage: str) -> None:
    proposal = fleet.build("1.0")
    ref = review(proposal).manifests[0].payloads[0].full_pack.frames
    path = fleet.repository.objects / ref.sha256.hex()
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:] if damage == "flipped" else good + b"x")
    with pytest.raises(ContentError, match="missing" if damage == "missing" else "damaged"):
        publish_release(fleet.repository, [proposal], None, sign_here=True)
    path.write_bytes(good)
    publish_release(fleet.repository, [proposal], None, sign_here=True)


def test_a_pack_of_another_image_is_not_published(fleet: Fleet) -> None:
    one, other = (review(fleet.build(v, v.encode())).manifests[0] for v in ("1.0", "1.1"))
    swapped = dataclasses.replace(one.payloads[0], packs=other.payloads[0].packs)
    manifest = dataclasses.replace(one, payloads=(swapped,))
    proposal = fleet.build("1.0", b"1.0")
    data = encode_manifest(manifest)
    path = manifest.target_path
    proposal.documents[path] = data
    proposal.metadata.signed.targets[path] = TargetFile(len(data), {"sha256": sha256(data).hex()}, path)
    with pytest.raises(ContentError, match="does not make the image"):
        publish_release(fleet.repository, [proposal], None, sign_here=True)
    publish_release(fleet.repository, [fleet.build("1.0", b"1.0")], None, sign_here=True)


# Counters, versions, concurrent operators


def test_counters_rise_by_themselves_and_never_fall(fleet: Fleet) -> None:
    assert [fleet.release(v).counter for v in ("1.0", "1.1")] == [1, 2]
    assert fleet.release("1.2", counter=10).counter == 10
    with pytest.raises(OperatorError, match="not above 10"):
        fleet.build("1.3", counter=10)
    assert fleet.release("1.3").counter == 11


def test_a_published_version_is_never_changed(fleet: Fleet) -> None:
    fleet.release("1.0")
    with pytest.raises(OperatorError, match="published already"):
        fleet.build("1.0", b"something else")


def test_the_second_of_two_operators_is_told_and_can_go_on(fleet: Fleet) -> None:
    first, second = fleet.build("1.0"), fleet.build("1.1")
    publish_release(fleet.repository, [first], None, sign_here=True)
    with pytest.raises(ObsoleteDocument) as refused:
        publish_release(fleet.repository, [copy.deepcopy(second)], None, sign_here=True)
    assert "release rebase" in refused.value.next_step
    again = rebase_release(second, fleet.repository.state(), fleet.repository.expiry("release"))
    assert again.metadata.signatures == {}
    assert publish_release(fleet.repository, [again], None, sign_here=True).counter == 2
    with pytest.raises(ObsoleteDocument, match="published already"):
        publish_release(fleet.repository, [again], None, sign_here=True)


def test_a_first_version_cannot_come_twice(fleet: Fleet) -> None:
    """Even the role's own people cannot set it back: devices would refuse the lower version for ever."""
    fleet.release("1.0")
    proposal = fleet.build("1.1")
    proposal.previous = None
    signed = proposal.metadata.signed
    signed.version = 1
    del signed.targets["manifests/engine/1.0.json"]
    before = snapshot_of(fleet.directory)
    with pytest.raises(ObsoleteDocument, match="proposes version 1 of product-engine, but version 2"):
        publish_release(fleet.repository, [proposal], None, sign_here=True)
    assert snapshot_of(fleet.directory) == before
    publish_release(fleet.repository, [fleet.build("1.1")], None, sign_here=True)


def test_a_retired_release_leaves_the_role(fleet: Fleet) -> None:
    fleet.release("1.0")
    fleet.release("1.1", retire=("1.0",))
    assert [m.version for m in list_releases(fleet.repository, fleet.repository.state())] == ["1.1"]
    with pytest.raises(OperatorError, match="cannot be retired"):
        fleet.build("1.2", retire=("1.0",))


def test_the_lock_names_its_holder(fleet: Fleet) -> None:
    with (
        locked(fleet.directory),
        pytest.raises(RepositoryInUse, match=str(os.getpid())),
        locked(fleet.directory, wait_s=0),
    ):
        raise AssertionError("two hold the lock")
    with locked(fleet.directory, wait_s=0):
        pass


# Cuts


def snapshot_of(directory: Path) -> dict[str, bytes]:
    parts = [directory / "metadata", directory / "objects"]
    return {str(p.relative_to(directory)): p.read_bytes() for part in parts for p in sorted(part.iterdir())}


class Cut(Exception):  # noqa: N818 (a power cut, no error)
    """The machine stops here."""


def cut_after(count: int) -> Callable[[Path, bytes], None]:
    left = [count]

    def write(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise Cut
        left[0] -= 1
        write_atomic(path, data)

    return write


@pytest.mark.parametrize("what", ["release", "order", "phases", "refresh", "product"])
def test_a_cut_between_any_two_writes_leaves_a_repository_that_verifies(tmp_path: Path, what: str) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    fleet = Fleet.make(tmp_path, now=now)
    fleet.release("1.0")
    phases = (Phase("one", Audience(all=True), 10), Phase("two", Audience(all=True)))
    order = fleet.order("1.0", phases=phases)
    proposal = fleet.build("1.1")
    pending = create_order(
        fleet.repository, fleet.repository.state(), OrderRequest("engine", "1.0", Audience(sites=("x",)))
    )

    def act(repository: Repository) -> None:
        if what == "release":
            publish_release(repository, [copy.deepcopy(proposal)], None, sign_here=True)
        elif what == "order":
            publish_order(repository, [copy.deepcopy(pending)], sign_here=True)
        elif what == "phases":
            change_phases(repository, order.id, lambda o, s: open_phases(o, s, 2))
        elif what == "refresh":
            with repository.locked() as state:
                repository.refresh(state, snapshot=True)
        else:
            with repository.locked() as state:
                add_product(repository, state, "brakes")

    version = fleet.repository.state().timestamp.signed.version
    device = tmp_path / "device"
    cuts = 0
    for count in range(20):
        repository = dataclasses.replace(fleet.repository, write=cut_after(count))
        try:
            act(repository)
        except Cut:
            cuts += 1
        else:
            break
        assert fleet.repository.state().timestamp.signed.version == version
        assert accepted_by_a_client(fleet, device) == version
    assert cuts >= 2
    assert fleet.repository.state().timestamp.signed.version == version + 1
    assert accepted_by_a_client(fleet, device) == version + 1


def test_a_cut_during_init_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.publishing.setup.write_atomic", cut_after(0))
    with pytest.raises(Cut):
        init_repository(tmp_path / "fleet", PLAIN)
    with pytest.raises(OperatorError, match="not a Slipstream repository"):
        Repository.open(tmp_path / "fleet")


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("coordinator.publishing.files.os.fsync", full)
        with pytest.raises(LocalError, match="No space left") as failed:
            write_atomic(path, b"new")
        assert failed.value.kept
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "1.phases.json", "2.targets.json"])
def test_damaged_metadata_is_found(fleet: Fleet, name: str) -> None:
    path = fleet.repository.metadata / name
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"version":', b'"version": '))
    if name == "timestamp.json":  # canonical JSON is what is signed: spaces are no damage there
        path.write_bytes(good.replace(b'"version":2', b'"version":9'))
    with pytest.raises(RepositoryDamaged):
        fleet.repository.state()
    path.write_bytes(good)
    fleet.repository.state()


# Orders and phases


def test_an_order_opens_its_first_phase_and_the_online_key_opens_the_rest(fleet: Fleet) -> None:
    fleet.release("1.0")
    phases = (Phase("canary", Audience(groups=("canary",))), Phase("all", Audience(all=True)))
    order = fleet.order("1.0", phases=phases)
    canary = Member("d1", "s1", frozenset({"canary"}))
    other = Member("d2", "s2")

    def who_may() -> list[str]:
        ((found, state),) = list_orders(fleet.repository, fleet.repository.state())
        return [m.device for m in (canary, other) if is_open_for(found, state, m)]

    assert who_may() == ["d1"]
    change_phases(fleet.repository, order.id, lambda o, s: open_phases(o, s, 2))
    assert who_may() == ["d1", "d2"]
    change_phases(fleet.repository, order.id, lambda o, s: pause(s, "look"))
    assert who_may() == []
    change_phases(fleet.repository, order.id, lambda o, s: resume(s))
    assert who_may() == ["d1", "d2"]
    change_phases(fleet.repository, order.id, lambda o, s: abort(s, "bad"))
    assert who_may() == []
    with pytest.raises(OperatorError, match="was aborted: bad"):
        change_phases(fleet.repository, order.id, lambda o, s: resume(s))


def test_phases_need_no_key_but_the_online_one(fleet: Fleet) -> None:
    fleet.release("1.0")
    order = fleet.order("1.0", phases=(Phase("a", Audience(all=True), 1), Phase("b", Audience(all=True))))
    for name in ("root", "release", "order"):
        (fleet.directory / "keys" / f"{name}.pem").unlink()
    changed = change_phases(fleet.repository, order.id, lambda o, s: open_phases(o, s, 2))
    assert changed.opened == 2
    (fleet.directory / "keys" / "online.pem").unlink()
    with pytest.raises(KeyUnavailable, match="online key"):
        change_phases(fleet.repository, order.id, lambda o, s: pause(s, ""))


def test_outdated_orders_leave_with_the_next_one(fleet: Fleet) -> None:
    fleet.release("1.0")
    fleet.release("1.1")
    fleet.order("1.0")
    fleet.order("1.1")
    assert [o.id for o, _ in list_orders(fleet.repository, fleet.repository.state())] == ["1-1.0", "2-1.1"]
    fleet.order("1.1", Audience(sites=("x",)))
    state = fleet.repository.state()
    assert [o.id for o, _ in list_orders(fleet.repository, state)] == ["2-1.1", "3-1.1"]
    assert [path for path, _ in state.targets_of("phases")] == [
        "phases/engine/2-1.1.json",
        "phases/engine/3-1.1.json",
    ]


def test_an_order_needs_a_published_release_and_an_audience(fleet: Fleet) -> None:
    state = fleet.repository.state()
    with pytest.raises(OperatorError, match="not published"):
        create_order(fleet.repository, state, OrderRequest("engine", "1.0", Audience(all=True)))
    fleet.release("1.0")
    state = fleet.repository.state()
    with pytest.raises(OperatorError, match="audience"):
        create_order(fleet.repository, state, OrderRequest("engine", "1.0", Audience()))
    create_order(fleet.repository, state, OrderRequest("engine", "1.0", Audience(all=True)))


def test_an_order_for_a_release_that_is_gone_is_not_published(fleet: Fleet) -> None:
    fleet.release("1.0")
    request = OrderRequest("engine", "1.0", Audience(all=True))
    proposal = create_order(fleet.repository, fleet.repository.state(), request)
    twin = copy.deepcopy(proposal)
    fleet.release("1.1", retire=("1.0",))
    with pytest.raises(OperatorError, match="not published"):
        publish_order(fleet.repository, [proposal], sign_here=True)
    fleet.release("1.2")
    request = OrderRequest("engine", "1.2", Audience(all=True))
    publish_order(
        fleet.repository, [create_order(fleet.repository, fleet.repository.state(), request)], sign_here=True
    )
    with pytest.raises(ObsoleteDocument, match="in the meantime"):
        publish_order(fleet.repository, [twin], sign_here=True)


def test_an_order_can_be_rebased(fleet: Fleet) -> None:
    fleet.release("1.0")
    request = OrderRequest("engine", "1.0", Audience(sites=("a",)), note="night")
    late = create_order(fleet.repository, fleet.repository.state(), request)
    fleet.order("1.0")
    with pytest.raises(ObsoleteDocument):
        publish_order(fleet.repository, [copy.deepcopy(late)], sign_here=True)
    again = rebase_order(fleet.repository, fleet.repository.state(), late)
    order = publish_order(fleet.repository, [again], sign_here=True)
    assert (order.sequence, order.note, order.audience.sites) == (2, "night", ("a",))


def test_a_release_key_cannot_order_and_an_order_key_cannot_release(fleet: Fleet) -> None:
    fleet.release("1.0")
    release = open_key_file(fleet.directory / "keys" / "release.pem", PLAIN)
    order = open_key_file(fleet.directory / "keys" / "order.pem", PLAIN)
    for proposal, wrong, right in (
        (fleet.build("1.1"), order, release),
        (
            create_order(
                fleet.repository,
                fleet.repository.state(),
                OrderRequest("engine", "1.0", Audience(all=True)),
            ),
            release,
            order,
        ),
    ):
        with pytest.raises(DocumentRefused) as refused:
            sign(proposal, wrong)
        assert refused.value.reason == "key-not-in-role"
        sign(proposal, right)


def test_two_orders_of_one_id_in_two_products_must_be_told_apart(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path, products=("engine", "brakes"))
    for product in ("engine", "brakes"):
        publish_release(fleet.repository, [fleet.build("1.0", product=product)], None, sign_here=True)
        request = OrderRequest(product, "1.0", Audience(all=True))
        proposal = create_order(fleet.repository, fleet.repository.state(), request)
        publish_order(fleet.repository, [proposal], sign_here=True)
    with pytest.raises(OperatorError, match="several products"):
        change_phases(fleet.repository, "1-1.0", lambda o, s: pause(s, ""))
    change_phases(fleet.repository, "1-1.0", lambda o, s: pause(s, ""), "brakes")
    states = {o.product: s.status for o, s in list_orders(fleet.repository, fleet.repository.state()) if s}
    assert states == {"brakes": PhaseStatus.PAUSED, "engine": PhaseStatus.RUNNING}


# Upkeep, products


def test_what_has_used_half_of_its_life_is_signed_again(fleet: Fleet) -> None:
    assert fleet.repository.refresh_if_due() == []
    fleet.clock.now += timedelta(days=7, seconds=1)
    assert fleet.repository.refresh_if_due() == ["timestamp"]
    state = fleet.repository.state()
    assert state.timestamp.signed.expires == fleet.clock.now + timedelta(days=14)
    assert state.snapshot.signed.version == 2  # untouched: no device has to fetch anything more
    assert fleet.repository.refresh_if_due() == []
    fleet.clock.now += timedelta(days=100)
    assert fleet.repository.refresh_if_due() == ["phases", "revocations", "snapshot", "timestamp"]
    assert min(fleet.repository.state().expiries().values()) > fleet.clock.now


def test_snapshot_and_timestamp_always_carry_length_and_digest(fleet: Fleet) -> None:
    fleet.release("1.0")
    fleet.order("1.0")
    state = fleet.repository.state()
    metas = [state.timestamp.signed.snapshot_meta, *state.snapshot.signed.meta.values()]
    assert len(metas) == 6
    for meta in metas:
        assert meta.length
        assert list(meta.hashes or {}) == ["sha256"]


def test_a_product_without_its_keys_here_waits_for_its_first_release(tmp_path: Path) -> None:
    who = people(tmp_path, "alice")
    fleet = Fleet.make(tmp_path, products=())
    shutil.copyfile(who["alice"] / "alice.pub", fleet.repository.keys / "alice.pub")
    with fleet.repository.locked() as state:
        state = add_product(fleet.repository, state, "engine", release=RoleKeys(1, ("alice",)))
    assert state.role("product-engine") is None
    assert state.role("orders-engine") is not None
    document = tmp_path / "engine.json"
    write_proposal(document, fleet.build("1.0"))
    signed = read_proposal(sign_as(who["alice"], document))
    assert signed.version == 1
    publish_release(fleet.repository, [signed], None, sign_here=False)
    assert (
        decode_manifest(
            fleet.repository.get(
                next(ref for _, ref in fleet.repository.state().targets_of("product-engine"))
            )
        ).version
        == "1.0"
    )


def test_a_product_needs_the_root_keys(fleet: Fleet) -> None:
    key = fleet.directory / "keys" / "root.pem"
    kept = key.read_bytes()
    key.unlink()
    with (
        fleet.repository.locked() as state,
        pytest.raises(KeyUnavailable, match="1 signatures of the root keys"),
    ):
        add_product(fleet.repository, state, "brakes")
    key.write_bytes(kept)
    with fleet.repository.locked() as state:
        assert add_product(fleet.repository, state, "brakes").products() == ["brakes", "engine"]


def test_thresholds_at_set_up(tmp_path: Path) -> None:
    roles = Roles(root=RoleRequest(2, 3), release=RoleRequest(2, 2), order=RoleRequest(1, 2))
    fleet = Fleet.make(tmp_path, roles, now=datetime.now(UTC).replace(microsecond=0))
    root = fleet.repository.state().root
    assert root.signed.roles["root"].threshold == 2
    assert len(root.signed.roles["root"].keyids) == 3
    assert len(root.signatures) == 2
    assert accepted_by_a_client(fleet, tmp_path / "device") == 2
    for threshold, make in ((3, 2), (0, 1)):
        with pytest.raises(OperatorError, match="cannot be"):
            RoleRequest(threshold, make)
