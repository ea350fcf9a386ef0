"""The device API over a real server: enrolment, signed check-ins, and what is refused for which reason."""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.db import audit
from coordinator.db.devices import create_token, revoke_token
from coordinator.db.models import Device, ReportHistory
from tests.support.fleet_repository import Answer, FakeDevice, Fleet, Running, running


def test_a_voucher_becomes_a_certificate_of_the_fleet(server: Running) -> None:
    device = FakeDevice("truck-1")
    answer = server.enroll(device, server.voucher("depot-1", ("trucks", "north")))
    assert answer.status == 201
    assert answer.json["site"] == "depot-1"
    assert answer.json["groups"] == ["trucks", "north"]
    ca = x509.load_pem_x509_certificate(answer.json["ca"].encode())
    certificate = x509.load_pem_x509_certificate(answer.json["certificate"].encode())
    certificate.verify_directly_issued_by(ca)
    assert certificate.public_key() == device.key.public_key()
    assert [a.value for a in certificate.subject] == ["truck-1"]
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [
        "slipstream:device:truck-1",
        "slipstream:site:depot-1",
        "slipstream:group:trucks",
        "slipstream:group:north",
    ]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_names_in_the_request_are_ignored(server: Running) -> None:
    device = FakeDevice("truck-names")
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("slipstream:group:admins")]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(device.key, hashes.SHA256())
    )
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    answer = server.enroll(device, csr=pem)
    assert answer.status == 201
    certificate = x509.load_pem_x509_certificate(answer.json["certificate"].encode())
    assert [a.value for a in certificate.subject] == ["truck-names"]
    text = str(certificate.extensions)
    assert "admins" not in text
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_voucher_is_used_once(server: Running) -> None:
    voucher = server.voucher()
    assert server.enroll(FakeDevice("once-1"), voucher).status == 201
    refused = server.enroll(FakeDevice("once-2"), voucher)
    assert (refused.status, refused.error) == (403, "voucher-used")


def test_of_two_at_once_one_succeeds(server: Running) -> None:
    voucher = server.voucher()
    devices = [FakeDevice(f"race-{n}") for n in range(6)]
    answers: list[int] = []
    barrier = threading.Barrier(len(devices))

    def enroll(device: FakeDevice) -> None:
        body = {"voucher": voucher, "device": device.name, "hardware": "h", "csr": device.csr()}
        barrier.wait(10)
        answers.append(server.ask("POST", "/api/v1/enroll", json.dumps(body).encode()).status)

    threads = [threading.Thread(target=enroll, args=(d,)) for d in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [201] + [403] * 5


def test_a_lost_answer_is_given_again_to_the_same_key_only(server: Running) -> None:
    device, voucher = FakeDevice("lost-1"), server.voucher()
    first = server.enroll(device, voucher)
    again = server.enroll(device, voucher)
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    thief = FakeDevice("lost-1")
    refused = server.enroll(thief, voucher)
    assert (refused.status, refused.error) == (409, "device-exists")


def test_only_a_voucher_made_for_a_device_replaces_its_key(server: Running) -> None:
    assert server.enroll(FakeDevice("swap-1")).status == 201
    replacement = FakeDevice("swap-1")
    refused = server.enroll(replacement)
    assert (refused.status, refused.error) == (409, "device-exists")
    assert server.enroll(replacement, server.voucher(device="swap-1")).status == 201
    assert server.checkin(replacement).status == 200


def test_an_expired_voucher_is_refused(server: Running, fleet: Fleet) -> None:
    voucher = server.voucher()
    fleet.clock.now += timedelta(seconds=3600)
    refused = server.enroll(FakeDevice("late-1"), voucher)
    assert (refused.status, refused.error) == (403, "voucher-expired")
    voucher = server.voucher()
    fleet.clock.now += timedelta(seconds=3599)
    assert server.enroll(FakeDevice("late-1"), voucher).status == 201


def test_a_voucher_for_another_device_is_refused(server: Running) -> None:
    voucher = server.voucher(device="bound-1")
    refused = server.enroll(FakeDevice("bound-2"), voucher)
    assert (refused.status, refused.error) == (403, "voucher-other-device")
    assert server.enroll(FakeDevice("bound-1"), voucher).status == 201


def test_an_unknown_voucher_is_refused(server: Running) -> None:
    refused = server.enroll(FakeDevice("who"), "sv1-" + "00" * 20)
    assert (refused.status, refused.error) == (403, "voucher-unknown")


@pytest.mark.parametrize("kind", ["rsa", "p384", "foreign-signature", "garbage"])
def test_requests_without_a_proven_p256_key_are_refused(server: Running, kind: str) -> None:
    device, voucher = FakeDevice(f"csr-{kind}"), server.voucher()
    if kind == "rsa":
        pem = device.csr(key=rsa.generate_private_key(65537, 2048))
    elif kind == "p384":
        pem = device.csr(key=ec.generate_private_key(ec.SECP384R1()))
    elif kind == "foreign-signature":
        der = x509.load_pem_x509_csr(device.csr().encode()).public_bytes(serialization.Encoding.DER)
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        swapped = der.replace(device.key.public_key().public_bytes(*point), other.public_bytes(*point))
        assert swapped != der
        pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM).decode()
    else:
        pem = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    refused = server.enroll(device, voucher, csr=pem)
    assert (refused.status, refused.error) == (400, "bad-csr")
    assert server.enroll(device, voucher).status == 201  # the voucher was not used up


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"device": "../x"}, "body.device"),
        ({"device": "d" * 65}, "body.device"),
        ({"hardware": 7}, "body.hardware"),
        ({"extra": 1}, "body.extra"),
    ],
)
def test_a_malformed_enrolment_names_the_key(server: Running, changed: dict[str, object], key: str) -> None:
    refused = server.enroll(FakeDevice("shape-1"), **changed)
    assert (refused.status, refused.error) == (400, "bad-request")
    assert key in refused.json["message"]


def test_failures_of_one_address_are_capped_and_successes_are_not(server: Running, fleet: Fleet) -> None:
    for n in range(40):
        assert server.enroll(FakeDevice(f"many-{n}")).status == 201
    device = FakeDevice("guesser")
    statuses = [server.enroll(device, f"sv1-{n:040x}").status for n in range(31)]
    assert statuses == [403] * 30 + [429]
    fleet.clock.now += timedelta(minutes=2)
    assert server.enroll(device).status == 201


def test_a_body_over_the_cap_is_refused(server: Running) -> None:
    refused = server.ask("POST", "/api/v1/enroll", b"{" + b" " * 16_384)
    assert (refused.status, refused.error) == (413, "too-large")


def test_check_in_returns_the_others_of_the_site(server: Running, fleet: Fleet) -> None:
    names = ["site-a1", "site-a2", "site-b1"]
    devices = {name: FakeDevice(name) for name in names}
    for name, device in devices.items():
        assert server.enroll(device, server.voucher(site=name[:6])).status == 201
    (enrolled,) = server.checkin(devices["site-a1"], listen_host="10.1.1.1").json["roster"]
    assert (enrolled["device"], enrolled["host"], enrolled["port"]) == ("site-a2", "", 0)  # never seen
    assert server.checkin(devices["site-b1"]).json["roster"] == []
    fleet.clock.now += timedelta(seconds=7)
    answer = server.checkin(devices["site-a2"], listen_host="0.0.0.0", images={}).json
    assert answer["roster"] == [
        {"device": "site-a1", "host": "10.1.1.1", "port": 7000, "age_s": 7, "image": "ab" * 32}
    ]
    assert answer["poll_s"] == fleet.repository.settings.poll_s
    (seen,) = server.checkin(devices["site-a1"]).json["roster"]
    assert (seen["host"], seen["image"]) == ("127.0.0.1", None)  # a wildcard means: as we saw it
    fleet.clock.now += timedelta(days=3)
    (silent,) = server.checkin(devices["site-a1"]).json["roster"]
    assert (silent["device"], silent["age_s"]) == ("site-a2", 3 * 86_400)
    assert server.checkin(devices["site-a1"], roster=False).json["roster"] == []


def test_a_device_that_is_about_to_start_from_another_slot_is_told_of_with_that(server: Running) -> None:
    leaving, other = FakeDevice("leaves"), FakeDevice("stays")
    for device in (leaving, other):
        assert server.enroll(device, server.voucher(site="armed-site")).status == 201
    assert server.checkin(leaving, armed={"rootfs": "cd" * 32}).status == 200
    (seen,) = server.checkin(other).json["roster"]
    assert seen["image"] == "cd" * 32
    assert server.checkin(leaving).status == 200  # it is back, or still there
    (seen,) = server.checkin(other).json["roster"]
    assert seen["image"] == "ab" * 32


# Compressed answers


@pytest.fixture(scope="module")
def depot(server: Running) -> FakeDevice:
    """A device of a site of eight, all of which have checked in."""
    devices = [FakeDevice(f"gzip-{n}") for n in range(8)]
    for device in devices:
        assert server.enroll(device, server.voucher("gzip-depot")).status == 201
        assert server.checkin(device).status == 200
    return devices[0]


def asked_with(server: Running, device: FakeDevice, accept_encoding: str, **changed: object) -> Answer:
    body = device.status(**changed)
    signed = device.sign(body, server.clock.seconds())
    return server.ask("POST", "/api/v1/checkin", body, **signed, Accept_Encoding=accept_encoding)


def test_a_roster_comes_in_gzip_when_that_is_accepted(server: Running, depot: FakeDevice) -> None:
    plain = asked_with(server, depot, "identity")
    coded = asked_with(server, depot, "br, gzip;q=0.5")
    assert coded.status == 200
    assert coded.headers["content-encoding"] == "gzip"
    assert coded.headers["vary"] == "Accept-Encoding"
    assert coded.headers["content-type"] == "application/json"
    assert coded.headers["content-length"] == str(len(coded.body))
    assert gzip.decompress(coded.body) == plain.body
    assert len(plain.json["roster"]) == 7
    assert len(coded.body) < len(plain.body) / 3
    assert asked_with(server, depot, "gzip").body == coded.body
    assert coded.body[4:8] == bytes(4)  # no time in it: the same bytes each time


@pytest.mark.parametrize("accept_encoding", ["identity", "gzip;q=0", "br", "gzip;q=0.1, identity", ""])
def test_a_roster_comes_as_it_is_otherwise(server: Running, depot: FakeDevice, accept_encoding: str) -> None:
    answer = asked_with(server, depot, accept_encoding)
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert len(answer.json["roster"]) == 7


def test_short_answers_and_refusals_are_not_compressed(server: Running, depot: FakeDevice) -> None:
    for answer, status in (
        (asked_with(server, depot, "gzip", roster=False), 200),
        (asked_with(server, depot, "gzip", state="s" * 65), 400),
    ):
        assert answer.status == status
        assert not {"content-encoding", "vary"} & set(answer.headers)
        assert answer.json


def test_a_certificate_comes_in_gzip_too(server: Running) -> None:
    device = FakeDevice("gzip-enrolled")
    body = {"voucher": server.voucher(), "device": device.name, "hardware": "h", "csr": device.csr()}
    coded = server.ask("POST", "/api/v1/enroll", json.dumps(body).encode(), Accept_Encoding="gzip")
    plain = server.ask("POST", "/api/v1/enroll", json.dumps(body).encode())
    assert (coded.status, plain.status) == (201, 200)
    assert coded.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(coded.body)) == plain.json


def test_files_are_never_compressed(server: Running, fleet: Fleet) -> None:
    for name in ("timestamp.json", "1.root.json"):
        answer = server.ask("GET", f"/metadata/{name}", Accept_Encoding="gzip")
        assert answer.status == 200
        assert answer.body == (fleet.repository.directory / "metadata" / name).read_bytes()
        assert "content-encoding" not in answer.headers


@pytest.fixture
def member(server: Running) -> FakeDevice:
    device = FakeDevice(f"member-{uuid.uuid4().hex[:8]}")
    assert server.enroll(device).status == 201
    return device


def send(
    server: Running, body: bytes, headers: dict[str, str], path: str = "/api/v1/checkin"
) -> tuple[int, str]:
    answer = server.ask("POST", path, body, **headers)
    return answer.status, "" if answer.status == 200 else answer.error


def test_a_signature_counts_once(server: Running, member: FakeDevice) -> None:
    body = member.status()
    headers = member.sign(body, server.clock.seconds())
    assert send(server, body, headers) == (200, "")
    assert send(server, body, headers) == (401, "replay")
    assert send(server, body, member.sign(body, server.clock.seconds())) == (200, "")


def test_a_signature_does_not_outlive_a_restart(fleet: Fleet) -> None:
    device = FakeDevice("restart-1")
    body = device.status()
    with running(fleet) as server:
        assert server.enroll(device).status == 201
        headers = device.sign(body, server.clock.seconds())
        assert send(server, body, headers) == (200, "")
    fleet.clock.now += timedelta(seconds=1)
    with running(fleet) as server:
        assert send(server, body, headers) == (401, "clock")
        assert send(server, body, device.sign(body, server.clock.seconds())) == (200, "")


def test_a_changed_body_is_refused(server: Running, member: FakeDevice) -> None:
    body = member.status()
    headers = member.sign(body, server.clock.seconds())
    assert send(server, body.replace(b"idle", b"busy"), headers) == (401, "signature")
    assert send(server, body, headers) == (200, "")


def test_another_devices_key_is_refused(server: Running, member: FakeDevice) -> None:
    other = FakeDevice("other")
    body = member.status()
    now = server.clock.seconds()
    assert send(server, body, member.sign(body, now, key=other.key)) == (401, "signature")
    assert send(server, body, member.sign(body, now, keyid="nobody")) == (401, "signature")
    assert send(server, body, member.sign(body, now)) == (200, "")


@pytest.mark.parametrize(
    "left", [("@method", "@path"), ("@method", "content-digest"), ("@path", "content-digest")]
)
def test_everything_must_be_covered(server: Running, member: FakeDevice, left: tuple[str, ...]) -> None:
    body = member.status()
    now = server.clock.seconds()
    assert send(server, body, member.sign(body, now, components=left)) == (401, "signature")
    assert send(server, body, member.sign(body, now)) == (200, "")


def test_a_signature_for_another_path_is_refused(server: Running, member: FakeDevice) -> None:
    body = member.status()
    now = server.clock.seconds()
    assert send(server, body, member.sign(body, now, path="/api/v1/enroll")) == (401, "signature")
    assert send(server, body, member.sign(body, now, path="/api/v1/checkin")) == (200, "")


def test_an_unsigned_check_in_is_refused(server: Running, member: FakeDevice) -> None:
    body = member.status()
    headers = member.sign(body, server.clock.seconds())
    for missing in headers:
        left = {name: value for name, value in headers.items() if name != missing}
        assert send(server, body, left) == (401, "signature")
    assert send(server, body, headers) == (200, "")


@pytest.mark.parametrize(
    "value", ["sig=", "sig=:!!:", "sig=();created=1", "x" * 4000, "sig=:AA==:, sig=:AA==:"]
)
def test_malformed_signature_fields_are_refused(server: Running, member: FakeDevice, value: str) -> None:
    body = member.status()
    for name in ("Signature", "Signature-Input", "Content-Digest"):
        headers = member.sign(body, server.clock.seconds()) | {name: value}
        assert send(server, body, headers)[0] == 401


@pytest.mark.parametrize("offset", [-301, 301, -(10**9)])
def test_a_wrong_clock_is_told_the_time(
    server: Running, member: FakeDevice, offset: int, fleet: Fleet
) -> None:
    body = member.status()
    now = server.clock.seconds()
    answer = server.ask("POST", "/api/v1/checkin", body, **member.sign(body, now + offset))
    assert (answer.status, answer.error) == (401, "clock")
    assert answer.headers["date"] == fleet.clock.now.strftime("%a, %d %b %Y %H:%M:%S GMT")
    near = now + (300 if offset > 0 else -300)
    assert send(server, body, member.sign(body, near)) == (200, "")


def test_check_ins_are_rate_capped_per_device(server: Running, member: FakeDevice) -> None:
    statuses = [server.checkin(member).status for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    other = FakeDevice("calm")
    assert server.enroll(other).status == 201
    assert server.checkin(other).status == 200


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"listen_port": 65_536}, "listen_port"),
        ({"listen_host": "evil host/"}, "listen_host"),
        ({"images": {"rootfs": "zz"}}, "images"),
        ({"armed": {"rootfs": "zz"}}, "armed"),
        ({"armed": ["rootfs"]}, "armed"),
        ({"ledger": {"patched": -1}}, "ledger.patched"),
        ({"ledger": {"wan": -1}}, "ledger.wan"),
        ({"ledger": {"peers": {"x": "y"}}}, "ledger.peers"),
        ({"state": "s" * 65}, "state"),
    ],
)
def test_a_malformed_status_names_the_key(
    server: Running, member: FakeDevice, changed: dict[str, object], key: str
) -> None:
    answer = server.checkin(member, **changed)
    assert (answer.status, answer.error) == (400, "bad-request")
    assert key in answer.json["message"]
    assert server.checkin(member, future_key=1).status == 200  # a newer agent may say more


def test_history_is_bounded_and_keeps_changes(
    server: Running, member: FakeDevice, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.db.devices.HISTORY_MAX", 3)
    for n in range(6):
        fleet.clock.now += timedelta(minutes=1)
        assert server.checkin(member, state=f"state-{n}").status == 200
        assert server.checkin(member, state=f"state-{n}").status == 200
    with server.coordinator.database.read() as session:
        kept = session.query(ReportHistory).filter_by(device=member.name).order_by(ReportHistory.id).all()
    assert [row.body["state"] for row in kept] == ["state-3", "state-4", "state-5"]


def test_enrolments_are_in_the_audit_log(server: Running, member: FakeDevice) -> None:
    with server.coordinator.database.read() as session:
        found = [e for e in audit.entries(session) if e.subject == member.name]
        assert [e.action for e in found] == ["device.enrolled"]
        assert audit.verify(session, []) is None
        stored = session.get(Device, member.name)
    assert stored is not None
    assert "PRIVATE" not in stored.key


def test_operators_need_a_token(server: Running, member: FakeDevice, fleet: Fleet) -> None:
    assert server.checkin(member).status == 200
    now = int(fleet.clock.seconds())
    with server.coordinator.database.write() as session:
        good = create_token(session, "good", now, None)
        short = create_token(session, "short", now, now + 10)
    for path in ("/api/v1/fleet", "/api/v1/sites", "/api/v1/sites/depot", f"/api/v1/devices/{member.name}"):
        assert server.ask("GET", path).status == 401
        assert server.ask("GET", path, Authorization="Bearer st1-wrong").error == "token"
        assert server.ask("GET", path, Authorization=f"Bearer {good}").status == 200
    facts = server.ask("GET", f"/api/v1/devices/{member.name}", Authorization=f"Bearer {good}").json
    assert (facts["online"], facts["status"]["ledger"]["wan"]) == (True, 10)
    fleet_facts = server.ask("GET", "/api/v1/fleet", Authorization=f"Bearer {good}").json
    assert fleet_facts["wan_bytes"] >= 10
    assert server.ask("GET", "/api/v1/sites/nowhere", Authorization=f"Bearer {good}").status == 404
    assert server.ask("GET", "/api/v1/fleet", Authorization=f"Bearer {short}").status == 200
    fleet.clock.now += timedelta(seconds=10)
    assert server.ask("GET", "/api/v1/fleet", Authorization=f"Bearer {short}").status == 401
    with server.coordinator.database.write() as session:
        revoke_token(session, "good")
    assert server.ask("GET", "/api/v1/fleet", Authorization=f"Bearer {good}").status == 401


def test_errors_of_the_framework_have_the_same_form(server: Running) -> None:
    assert server.ask("GET", "/api/v1/nothing").error == "not-found"
    assert server.ask("GET", "/api/v1/enroll").error == "method"
