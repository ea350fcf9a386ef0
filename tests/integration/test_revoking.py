"""Putting devices out of the fleet at the coordinator: commands, the API, and what devices make of it."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Targets

from coordinator.api.operator import fleet_facts, site_facts
from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.devices import create_token
from coordinator.db.revocations import marked
from coordinator.errors import KeyUnavailable
from coordinator.publishing.repository import Repository
from coordinator.publishing.revocations import publish_revocations, published
from coordinator.publishing.setup import upgrade_repository
from coordinator.publishing.state import REVOCATIONS_ROLE
from coordinator.revoking import publish_marked, revocation_facts, revoke_devices
from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.revocation import Reason, Revocation
from p2p.errors import OperatorError
from p2p.trust import Need, Revocations, TrustClient, run
from p2p.trust.revocations import learn_revocations
from tests.integration.test_coordinator_commands import Shell
from tests.support.fleet_repository import FakeDevice, Fleet, Running, running
from tests.support.tuf_repository import MemoryStore


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path)


@pytest.fixture
def server(fleet: Fleet) -> Iterator[Running]:
    with running(fleet) as found:
        yield found


class Believer:
    """A device that reads the repository's files as it would over HTTP, and keeps what it reads."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.client = TrustClient(MemoryStore(), (fleet.directory / "root.json").read_bytes())
        self.register = Revocations(MemoryStore(), MemoryStore())

    def ask(self) -> Revocations:
        def answer(need: Need) -> bytes | None:
            path = self.fleet.directory / need.path
            return path.read_bytes() if path.exists() else None

        run(self.client.refresh(self.fleet.clock.seconds()), answer)
        run(learn_revocations(self.client, self.register), answer)
        assert not self.register.trouble
        return self.register


def enrolled(server: Running, name: str, site: str = "depot") -> tuple[FakeDevice, Digest]:
    device = FakeDevice(name)
    answer = server.enroll(device, server.voucher(site, device=name))
    assert answer.status in (200, 201), answer.body
    return device, certificate_of(answer.json["certificate"])


def certificate_of(pem: str) -> Digest:
    found = x509.load_pem_x509_certificate(pem.encode())
    return sha256(found.public_bytes(serialization.Encoding.DER))


def put_out(server: Running, *devices: str, reason: Reason = Reason.LOST) -> int:
    repository, database = server.coordinator.repository, server.coordinator.database
    return revoke_devices(repository, database, devices, reason, actor="dora", note="T-1").version


def test_a_revoked_device_is_refused_here_and_named_to_all_others(server: Running, fleet: Fleet) -> None:
    lost, its = enrolled(server, "lost-1")
    stays, other = enrolled(server, "stays-1")
    believer = Believer(fleet)
    believer.ask()
    assert server.checkin(lost).status == 200
    assert [r["device"] for r in server.checkin(stays).json["roster"]] == ["lost-1"]
    version = put_out(server, "lost-1")
    refused = server.checkin(lost)
    assert (refused.status, refused.error) == (403, "revoked")
    assert "lost" in refused.json["message"]
    answer = server.checkin(stays)
    assert (answer.status, answer.json["roster"]) == (200, [])
    register = believer.ask()
    assert register.version == version
    found = register.find(its)
    assert found is not None
    assert (found.device, found.reason) == ("lost-1", Reason.LOST)
    assert register.find(other) is None


def test_what_a_revoked_device_says_is_not_taken_by_way_of_a_peer_nor_does_it_hand_in(
    server: Running, fleet: Fleet
) -> None:
    lost, _ = enrolled(server, "lost-1")
    stays, _ = enrolled(server, "stays-1")
    now = fleet.clock.seconds()
    assert server.hand_in(stays, lost.report(1, now)).json["results"] == ["ok"]
    put_out(server, "lost-1")
    brought = server.hand_in(stays, lost.report(2, now, release="6.6"), stays.report(1, now))
    assert brought.json["results"] == ["revoked", "ok"]
    (facts,) = [
        d
        for d in site_facts(server.coordinator.database, "depot", now, 300.0)["devices"]
        if d["device"] == "lost-1"
    ]
    assert facts["status"]["release"] == "1.0", "what it said while it was in the fleet"
    refused = server.hand_in(lost, stays.report(2, now))
    assert (refused.status, refused.error) == (403, "revoked")


def test_revoking_again_changes_nothing_and_the_first_reason_stands(server: Running, fleet: Fleet) -> None:
    enrolled(server, "d-1")
    enrolled(server, "d-2")
    version = put_out(server, "d-1")
    assert put_out(server, "d-1", reason=Reason.COMPROMISED) == version
    assert put_out(server, "d-1", "d-2") == version + 1
    reasons = [r.reason for r in published(fleet.repository, fleet.repository.state()).revoked.values()]
    assert reasons == [Reason.LOST, Reason.LOST]


def test_an_unknown_device_revokes_nobody(server: Running, fleet: Fleet) -> None:
    device, _ = enrolled(server, "d-1")
    with pytest.raises(OperatorError, match="no device 'nobody'"):
        put_out(server, "d-1", "nobody")
    assert server.checkin(device).status == 200
    assert published(fleet.repository, fleet.repository.state()).revoked == {}


def test_who_revoked_whom_and_why_is_in_the_audit_log(server: Running) -> None:
    enrolled(server, "d-1")
    version = put_out(server, "d-1")
    with server.coordinator.database.read() as session:
        found = [e for e in audit.entries(session) if "revo" in e.action]
        assert audit.verify(session, []) is None
    assert [(e.actor, e.action, e.subject) for e in found] == [
        ("dora", "device.revoked", "d-1"),
        ("dora", "revocations.published", str(version)),
    ]
    assert found[0].details == {"reason": "lost", "note": "T-1"}


def test_a_revoked_device_comes_back_with_a_voucher_of_its_own_and_another_key(
    server: Running, fleet: Fleet
) -> None:
    device, old = enrolled(server, "d-1")
    believer = Believer(fleet)
    unused = server.voucher(device="d-1")
    put_out(server, "d-1")
    assert believer.ask().devices == {"d-1"}
    assert server.enroll(device, unused).error == "key-revoked"
    again = FakeDevice("d-1")
    assert server.enroll(again, unused).error == "voucher-expired"
    assert server.enroll(again, server.voucher()).error == "revoked"
    answer = server.enroll(again, server.voucher(device="d-1"))
    assert answer.status == 201
    assert server.checkin(again).status == 200
    assert server.checkin(device).error == "signature"
    server.coordinator.upkeep()
    register = believer.ask()
    assert register.devices == frozenset()
    assert register.find(old) is not None
    assert register.find(certificate_of(answer.json["certificate"])) is None


def test_a_key_that_was_replaced_counts_no_more_although_its_certificate_would(
    server: Running, fleet: Fleet
) -> None:
    _, old = enrolled(server, "d-1")
    _, new = enrolled(server, "d-1")
    server.coordinator.upkeep()
    register = Believer(fleet).ask()
    found = register.find(old)
    assert found is not None
    assert found.reason is Reason.SUPERSEDED
    assert register.find(new) is None
    assert register.devices == frozenset()


def test_enrolling_again_with_the_same_key_revokes_nothing(server: Running, fleet: Fleet) -> None:
    device, _ = enrolled(server, "d-1")
    assert server.enroll(device, server.voucher(device="d-1")).status == 201
    server.coordinator.upkeep()
    assert len(Believer(fleet).ask()) == 0


def test_a_cut_before_publishing_is_made_good_for(
    server: Running, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, its = enrolled(server, "d-1")

    def unavailable(*_: object) -> None:
        raise KeyUnavailable("the online key is elsewhere", next_step="bring it")

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "sign_online", unavailable)
        with pytest.raises(KeyUnavailable) as caught:
            put_out(server, "d-1")
    assert "refuses them already" in caught.value.kept
    assert caught.value.next_step == "bring it; then run this again"
    assert server.checkin(device).error == "revoked"
    believer = Believer(fleet)
    assert believer.ask().find(its) is None
    facts = revocation_facts(fleet.repository, server.coordinator.database)
    assert facts["unpublished"] == ["d-1"]
    server.coordinator.upkeep()
    assert believer.ask().find(its) is not None
    assert revocation_facts(fleet.repository, server.coordinator.database)["unpublished"] == []


def test_a_list_that_is_full_keeps_the_server_from_nothing(
    server: Running, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device, _ = enrolled(server, "d-1")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "REVOCATIONS_PER_PART_MAX", 1)
        patch.setattr(limits, "REVOCATION_PARTS_MAX", 2)
        enrolled(server, "d-2")
        enrolled(server, "d-1")
        put_out(server, "d-2")
        enrolled(server, "d-3")
        enrolled(server, "d-3")
        server.coordinator.upkeep()
        assert "revocations are not published" in caplog.text
        assert server.checkin(device).error == "signature"  # it goes on answering
    server.coordinator.upkeep()
    assert len(Believer(fleet).ask()) == 3


def test_revoked_devices_are_not_counted_as_the_fleets(server: Running, fleet: Fleet) -> None:
    device, _ = enrolled(server, "d-1")
    other, _ = enrolled(server, "d-2")
    for one in (device, other):
        server.checkin(one)
    put_out(server, "d-1")
    now, database = fleet.clock.seconds(), server.coordinator.database
    facts = site_facts(database, "depot", now, 300.0)
    assert (facts["devices_enrolled"], facts["devices_online"], facts["devices_revoked"]) == (1, 1, 1)
    assert {d["device"]: d["revoked"] for d in facts["devices"]} == {"d-1": "lost", "d-2": None}
    assert fleet_facts(database, now, 300.0)["devices_revoked"] == 1


def test_which_devices_know_a_version_is_seen_from_their_check_ins(server: Running, fleet: Fleet) -> None:
    one, _ = enrolled(server, "d-1")
    two, _ = enrolled(server, "d-2")
    silent, _ = enrolled(server, "d-3")
    enrolled(server, "d-4")
    gone, _ = enrolled(server, "gone")
    server.checkin(gone)
    version = put_out(server, "gone")
    server.checkin(one, revocations=version)
    server.checkin(two, revocations=version - 1)
    server.checkin(silent)
    facts = revocation_facts(fleet.repository, server.coordinator.database)
    assert facts["version"] == version
    assert facts["seen_by"] == 1
    assert facts["behind"] == [
        {"device": "d-2", "version": version - 1},
        {"device": "d-3", "version": None},
    ]
    assert server.checkin(one, revocations=-1).error == "bad-request"
    assert server.checkin(one, revocations="x").error == "bad-request"
    with server.coordinator.database.write() as session:
        token = create_token(session, "t", int(fleet.clock.seconds()), None)
    assert server.ask("GET", "/api/v1/revocations").status == 401
    read = server.ask("GET", "/api/v1/revocations", Authorization=f"Bearer {token}").json
    assert read == facts
    device = server.ask("GET", "/api/v1/devices/gone", Authorization=f"Bearer {token}").json
    assert device["revoked"] == "lost"


# ---------------------------------------------------------------------- the list


def entries(*numbers: int, until: float) -> list[Revocation]:
    return [Revocation(sha256(b"%d" % n), f"d-{n}", Reason.LOST, until) for n in numbers]


def test_parts_are_filled_in_turn_and_leave_when_all_of_them_has_expired(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REVOCATIONS_PER_PART_MAX", 2)
    repository, soon = fleet.repository, fleet.clock.seconds() + 3600

    def parts() -> dict[int, list[str]]:
        found = published(repository, repository.state())
        return {part.number: [r.device for r in part.revoked] for part in found.parts}

    publish_revocations(repository, entries(1, 2, 3, until=soon))
    assert parts() == {1: ["d-1", "d-2"], 2: ["d-3"]}
    publish_revocations(repository, entries(4, 5, until=soon + 9 * 86_400))
    assert parts() == {1: ["d-1", "d-2"], 2: ["d-3", "d-4"], 3: ["d-5"]}
    fleet.clock.now += timedelta(days=1)
    publish_revocations(repository, entries(6, 7, until=soon + 9 * 86_400))
    assert parts() == {2: ["d-3", "d-4"], 3: ["d-5", "d-6"], 4: ["d-7"]}
    fleet.clock.now += timedelta(days=30)
    publish_revocations(repository, entries(8, until=soon + 90 * 86_400))
    assert parts() == {4: ["d-7", "d-8"]}


def test_a_list_that_is_full_refuses_more_and_stays(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REVOCATIONS_PER_PART_MAX", 1)
    monkeypatch.setattr(limits, "REVOCATION_PARTS_MAX", 2)
    until = fleet.clock.seconds() + 3600
    before = publish_revocations(fleet.repository, entries(1, 2, until=until))
    with pytest.raises(OperatorError, match="3 parts"):
        publish_revocations(fleet.repository, entries(1, 2, 3, until=until))
    assert published(fleet.repository, fleet.repository.state()) == before


def test_the_online_key_signs_the_list_again_before_it_expires(fleet: Fleet) -> None:
    version = publish_revocations(
        fleet.repository, entries(1, until=fleet.clock.seconds() + 900 * 86_400)
    ).version
    fleet.clock.now += timedelta(days=50)
    assert REVOCATIONS_ROLE in fleet.repository.refresh_if_due()
    assert published(fleet.repository, fleet.repository.state()).version == version + 1


def without_the_role(fleet: Fleet) -> None:
    """Make it a repository of an earlier version, signed as one."""
    repository = fleet.repository
    with repository.locked() as state:
        targets: Metadata[Targets] = state.targets
        delegations = targets.signed.delegations
        assert delegations is not None
        assert delegations.roles is not None
        del delegations.roles[REVOCATIONS_ROLE]
        targets.signatures.clear()
        targets.signed.version += 1
        threshold, keys = repository.public_keys("root")
        repository.sign_with_local_keys(targets, keys, threshold, "targets")
        del state.snapshot.signed.meta[f"{REVOCATIONS_ROLE}.json"]
        repository.commit(state, {"targets": targets})


def test_a_repository_of_an_earlier_version_says_what_to_do_and_is_upgraded(
    server: Running, fleet: Fleet
) -> None:
    _, its = enrolled(server, "d-1")
    without_the_role(fleet)
    server.coordinator.upkeep()
    with pytest.raises(OperatorError, match="older than revocations") as caught:
        put_out(server, "d-1")
    assert "repo upgrade" in caught.value.next_step
    with server.coordinator.database.read() as session:
        assert marked(session, 0) == []
    with fleet.repository.locked() as state:
        assert upgrade_repository(fleet.repository, state) == [REVOCATIONS_ROLE]
    with fleet.repository.locked() as state:
        assert upgrade_repository(fleet.repository, state) == []
    put_out(server, "d-1")
    assert Believer(fleet).ask().find(its) is not None


def test_devices_that_were_enrolled_in_the_first_schema_keep_what_they_said_and_can_be_revoked(
    server: Running, fleet: Fleet
) -> None:
    device, its = enrolled(server, "d-1")
    server.checkin(device, release="3.0")
    server.coordinator.database.close()
    old = sqlite3.connect(fleet.repository.database)
    old.executescript(
        "DROP TABLE certificates; ALTER TABLE devices DROP COLUMN revoked_at;"
        "ALTER TABLE devices DROP COLUMN revoked_reason; ALTER TABLE devices DROP COLUMN sequence;"
        "ALTER TABLE latest_reports DROP COLUMN signed_at; ALTER TABLE latest_reports DROP COLUMN via;"
        "ALTER TABLE latest_reports DROP COLUMN quiet_s; UPDATE alembic_version SET version_num = '0001';"
    )
    old.close()
    database = Database.open(fleet.repository.database)
    (facts,) = site_facts(database, "depot", fleet.clock.seconds(), 300.0)["devices"]
    assert (facts["status"]["release"], facts["via"], facts["quiet_s"]) == ("3.0", None, 0)
    revoke_devices(fleet.repository, database, ["d-1"], Reason.LOST, actor="dora")
    assert Believer(fleet).ask().find(its) is not None
    assert publish_marked(fleet.repository, database, "x").version == 2
    database.close()


# ---------------------------------------------------------------------- commands


def test_the_commands_as_an_operator_types_them(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("repo", "init", "fleet", "--product", "engine")
    for name in ("truck-7", "truck-8"):
        _enroll_by_hand(tmp_path / "fleet", name)
    repo = ("--repo", "fleet")
    assert json.loads(shell.run("coordinator", "revocations", *repo, "--json").stdout)["revoked"] == []
    done = shell.facts("coordinator", "revoke", "truck-7", "--reason", "lost", *repo, "--yes")
    assert done == {
        "version": 2,
        "devices": [{"device": "truck-7", "reason": "lost", "revoked_before": False}],
    }
    shown = shell.run("coordinator", "decommission", "truck-8", "truck-7", *repo, "--yes").stdout
    assert "truck-8 is revoked (retired)" in shown
    assert "truck-7 was revoked before (lost)" in shown
    listed: Any = shell.facts("coordinator", "revocations", *repo)
    assert [(r["device"], r["reason"]) for r in listed["revoked"]] == [
        ("truck-7", "lost"),
        ("truck-8", "retired"),
    ]
    assert "truck-8  retired" in shell.run("coordinator", "revocations", *repo).stdout
    assert shell.facts("coordinator", "device", "truck-7", *repo)["revoked"] == "lost"
    error = shell.run(
        "coordinator", "revoke", "nobody", "--reason", "lost", *repo, "--yes", "--json", code=2
    ).stderr
    assert "no device 'nobody'" in json.loads(error)["message"]
    assert shell.facts("repo", "upgrade", "fleet") == {"added": []}
    for command in ("revoke", "decommission", "revocations"):
        assert "Example" in shell.run("coordinator", command, "--help").stdout


def test_without_yes_the_operator_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    shell = Shell(tmp_path)
    shell.run("repo", "init", "fleet")
    _enroll_by_hand(tmp_path / "fleet", "truck-7")
    shell.run("coordinator", "revoke", "truck-7", "--reason", "lost", "--repo", "fleet", code=130)
    assert shell.facts("coordinator", "revocations", "--repo", "fleet")["unpublished"] == []


def _enroll_by_hand(directory: Path, name: str) -> None:
    """A device as the server's enrolment leaves it, without a server."""
    from datetime import UTC, datetime

    from coordinator.db.models import Device
    from coordinator.db.revocations import note_certificate
    from coordinator.publishing.authority import FleetAuthority
    from coordinator.publishing.keys import Passphrases

    passphrases = Passphrases(environment={"SLIPSTREAM_PASSPHRASE": "a passphrase"}, prompt=False)
    key, now = ec.generate_private_key(ec.SECP256R1()).public_key(), datetime.now(UTC)
    issued = FleetAuthority.load(directory, passphrases).issue(key, name, "depot", (), now, 30)
    database = Database.open(directory / "coordinator.db")
    with database.write() as session:
        note_certificate(session, name, issued, int(now.timestamp()))
        session.add(
            Device(
                id=name, site="depot", groups=[], hardware="board-a", key="",
                enrolled_at=int(now.timestamp()),
                certificate=issued.public_bytes(serialization.Encoding.PEM).decode(),
                not_after=int(issued.not_valid_after_utc.timestamp()),
            )
        )  # fmt: skip
    database.close()
