"""Device certificates are renewed in the answers of the device API: when, which, and for whom."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select

from coordinator.db.models import AuditEntry, Certificate
from coordinator.db.revocations import mark_revoked
from p2p.content.revocation import Reason
from tests.support.fleet_repository import Answer, FakeDevice, Fleet, Running

DAYS = 730


class Enrolled(FakeDevice):
    """A device that has a certificate."""

    def __init__(self, server: Running, name: str) -> None:
        super().__init__(name)
        answer = server.enroll(self, server.voucher(groups=("pilots",)))
        assert answer.status == 201
        self.has(answer)

    def has(self, answer: Answer) -> None:
        self.certificate = x509.load_pem_x509_certificate(answer.json["certificate"].encode())

    @property
    def until(self) -> int:
        return int(self.certificate.not_valid_after_utc.timestamp())


@pytest.fixture
def device(server: Running) -> Enrolled:
    return Enrolled(server, f"d-{uuid.uuid4().hex[:12]}")


def check_in(server: Running, device: Enrolled, **said: Any) -> Any:
    answer = server.checkin(device, **({"certificate_until": device.until} | said))
    assert answer.status == 200, answer.body
    return answer.json


def on_record(server: Running, device: FakeDevice) -> list[Certificate]:
    with server.coordinator.database.read() as session:
        query = select(Certificate).where(Certificate.device == device.name)
        return list(session.scalars(query.order_by(Certificate.not_after)))


def test_half_way_to_its_end_a_certificate_is_renewed_once(
    server: Running, fleet: Fleet, device: Enrolled
) -> None:
    fleet.clock.now += timedelta(days=DAYS // 2 - 2)
    assert "certificate" not in check_in(server, device)
    fleet.clock.now += timedelta(days=3)
    renewed = check_in(server, device)["certificate"]
    found = x509.load_pem_x509_certificate(renewed.encode())
    assert found.public_key() == device.key.public_key()
    assert found.subject == device.certificate.subject
    names = [
        c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for c in (found, device.certificate)
    ]
    assert names[0] == names[1], "the same site and groups"
    end = fleet.clock.now + timedelta(days=DAYS)
    assert abs(found.not_valid_after_utc - end) < timedelta(minutes=1)
    assert check_in(server, device)["certificate"] == renewed, "the answer may have been lost"
    assert len(on_record(server, device)) == 2
    end_of_new = int(found.not_valid_after_utc.timestamp())
    assert "certificate" not in check_in(server, device, certificate_until=end_of_new)
    with server.coordinator.database.read() as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.subject == device.name))
        actions = [(e.action, e.details) for e in entries]
    assert [a for a, _ in actions] == ["device.enrolled", "device.renewed"]
    assert actions[1][1]["before"] == device.until


def test_one_that_has_ended_is_renewed_too_as_the_key_signs(
    server: Running, fleet: Fleet, device: Enrolled
) -> None:
    fleet.clock.now += timedelta(days=DAYS + 100)
    assert "certificate" in check_in(server, device)


def test_who_does_not_say_what_it_has_gets_none(server: Running, fleet: Fleet, device: Enrolled) -> None:
    fleet.clock.now += timedelta(days=DAYS - 1)
    assert "certificate" not in check_in(server, device, certificate_until=None)


@pytest.mark.parametrize("until", [-1, "soon", 1.5, True, 1 << 63])
def test_what_is_no_time_is_refused(server: Running, device: Enrolled, until: object) -> None:
    answer = server.checkin(device, certificate_until=until)
    assert (answer.status, answer.error) == (400, "bad-request")
    assert "certificate_until" in answer.json["message"]


def test_reports_bring_certificates_home_for_their_writers_alone(
    server: Running, fleet: Fleet, device: Enrolled
) -> None:
    lookout = Enrolled(server, f"{device.name}-lookout")
    fleet.clock.now += timedelta(days=DAYS - 1)
    young = Enrolled(server, f"{device.name}-young")
    now = server.clock.seconds()
    answer = server.hand_in(
        lookout,
        device.report(1, now, certificate_until=device.until),
        young.report(1, now, certificate_until=young.until),
        device.report(1, now, certificate_until=device.until),
    ).json
    assert answer["results"] == ["ok", "ok", "known"]
    assert set(answer["certificates"]) == {device.name}
    forged = device.report(2, now, certificate_until=0, key=lookout.key)
    answer = server.hand_in(lookout, forged).json
    assert answer == {"results": ["signature"]}, "nobody gets another's certificates by a forged report"


def test_a_revoked_device_gets_none_and_what_it_had_is_revoked_with_it(
    server: Running, fleet: Fleet, device: Enrolled
) -> None:
    fleet.clock.now += timedelta(days=DAYS - 1)
    assert "certificate" in check_in(server, device)
    with server.coordinator.database.write() as session:
        mark_revoked(session, device.name, Reason.LOST, int(server.clock.seconds()))
    refused = server.checkin(device, certificate_until=device.until)
    assert (refused.status, refused.error) == (403, "revoked")
    assert [c.revoked_reason for c in on_record(server, device)] == ["lost", "lost"]
    lookout = Enrolled(server, f"{device.name}-lookout")
    report = device.report(1, server.clock.seconds(), certificate_until=device.until)
    assert server.hand_in(lookout, report).json == {"results": ["revoked"]}


def test_the_end_of_the_ca_is_no_reason_to_issue_one_after_the_other(
    server: Running, fleet: Fleet, device: Enrolled
) -> None:
    end = server.coordinator.authority.certificate.not_valid_after_utc
    fleet.clock.now = end - timedelta(days=100)  # the clock of all tests goes on: this is the last
    last = Enrolled(server, f"{device.name}-last")
    assert last.certificate.not_valid_after_utc == end
    fleet.clock.now += timedelta(days=90)
    assert "certificate" not in check_in(server, last)
