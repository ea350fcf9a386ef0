"""The device API: enrol with a voucher, check in with a signed status, hand in reports of many.

The contract is `docs/spec/device-api.md`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from coordinator.api.answers import json_answer
from coordinator.api.errors import ApiError
from coordinator.api.limits import NonceMemory, RateLimit, read_body
from coordinator.api.renewing import Renewing
from coordinator.api.reports import Reports, decode_body, refusal
from coordinator.api.signatures import WINDOW_S, SignedRequest, authenticate
from coordinator.api.status import STATUS_BODY_MAX, Status
from coordinator.clock import Clock
from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.devices import (
    Refused,
    find_voucher,
    presence,
    record_report,
    redeem,
)
from coordinator.db.models import Device, LatestReport, Voucher
from coordinator.db.revocations import key_digest, key_revoked, note_certificate, supersede
from coordinator.domain.roster import choose_roster
from coordinator.publishing.authority import COMMON_NAME_MAX, FleetAuthority, key_of_request
from coordinator.publishing.settings import Settings
from p2p.content import limits
from p2p.content.fields import load_object
from p2p.errors import ContentError

ENROLL_BODY_MAX = 16 * 1024


@dataclass
class DeviceApi:
    """State of the device API: everything that its requests need, and their caps."""

    database: Database
    authority: FleetAuthority
    settings: Settings
    clock: Clock
    nonces: NonceMemory = field(init=False)
    renewing: Renewing = field(init=False)
    checkins: RateLimit = field(default_factory=lambda: RateLimit(rate=0.25, burst=20))
    reported: RateLimit = field(default_factory=lambda: RateLimit(rate=0.25, burst=20))
    failures: RateLimit = field(default_factory=lambda: RateLimit(rate=0.5, burst=30))

    def __post_init__(self) -> None:
        self.nonces = NonceMemory(self.clock(), WINDOW_S)
        self.renewing = Renewing(self.database, self.authority, self.settings.certificate_days)

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1", tags=["devices"])
        router.add_api_route("/enroll", self.enroll, methods=["POST"], status_code=201)
        router.add_api_route("/checkin", self.checkin, methods=["POST"])
        router.add_api_route("/reports", self.reports, methods=["POST"])
        return router

    async def enroll(self, request: Request) -> Response:
        """Turn a one-time voucher and a certificate request into a device certificate."""
        now = self.clock()
        self.failures.check(_address(request), now)
        body = await read_body(request, ENROLL_BODY_MAX)
        try:
            try:
                enrolment = Enrolment.parse(body)
            except ContentError as error:
                raise ApiError(400, "bad-request", error.message) from error
            certificate = self._enroll(request, enrolment, now)
        except ApiError:
            # Only failures count, so that a whole depot may enrol from behind one address.
            with contextlib.suppress(ApiError):
                self.failures.take(_address(request), now)
            raise
        return certificate

    def _enroll(self, request: Request, enrolment: Enrolment, now: float) -> Response:
        try:
            key = key_of_request(enrolment.csr)
        except ContentError as error:
            raise ApiError(400, "bad-csr", error.message) from error
        pem = _public_pem(key)
        with self.database.write() as session:
            voucher = find_voucher(session, enrolment.voucher)
            if voucher is None:
                raise ApiError(403, "voucher-unknown", "this voucher is not known here")
            device = session.get(Device, enrolment.device)
            _refuse_revoked(session, device, voucher, pem)
            if device is not None and device.key == pem and voucher.used_by == device.id:
                return self._enrolled(request, device, 200)  # the answer was lost on its way
            if device is not None and device.key != pem and voucher.device != device.id:
                raise ApiError(
                    409,
                    "device-exists",
                    f"{device.id} is enrolled with another key; only a voucher made for it replaces that",
                )
            try:
                redeem(session, voucher, enrolment.device, int(now))
            except Refused as error:
                raise ApiError(403, error.reason, error.message) from error
            certificate = self.authority.issue(
                key,
                enrolment.device,
                voucher.site,
                voucher.groups,
                datetime.fromtimestamp(int(now), UTC),
                self.settings.certificate_days,
            )
            replaced = device is not None
            note_certificate(session, enrolment.device, certificate, int(now))
            if replaced:
                supersede(session, enrolment.device, key_digest(pem), int(now))
            device = session.merge(
                Device(
                    id=enrolment.device,
                    site=voucher.site,
                    groups=voucher.groups,
                    hardware=enrolment.hardware,
                    key=pem,
                    certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
                    enrolled_at=int(now),
                    not_after=int(certificate.not_valid_after_utc.timestamp()),
                    # A new key begins its own count; what the same key signed before stays spent.
                    sequence=device.sequence if device is not None and device.key == pem else 0,
                    revoked_at=None,
                    revoked_reason=None,
                )
            )
            audit.append(
                session,
                int(now),
                "coordinator",
                "device.enrolled",
                device.id,
                {
                    "site": device.site,
                    "groups": device.groups,
                    "hardware": device.hardware,
                    "serial": f"{certificate.serial_number:x}",
                    "voucher": voucher.digest[:16],
                    "replaced": replaced,
                },
            )
            return self._enrolled(request, device, 201)

    def _enrolled(self, request: Request, device: Device, status: int) -> Response:
        return json_answer(
            request,
            {
                "certificate": device.certificate,
                "ca": self.authority.pem,
                "site": device.site,
                "groups": device.groups,
            },
            status,
        )

    async def checkin(self, request: Request) -> Response:
        """Take a signed status, answer with the roster of the device's site."""
        body = await read_body(request, STATUS_BODY_MAX)
        now = self.clock()
        device_id = self._signer(request, body, now)
        try:
            status = Status.parse(body)
        except ContentError as error:
            raise ApiError(400, "bad-request", error.message) from error
        with self.database.note() as session:
            device = session.get(Device, device_id)
            if device is None:
                raise ApiError(401, "unknown-device", "this device is not enrolled any more")
            _refuse_out(device)
            record_report(
                session,
                LatestReport(
                    device=device_id,
                    at=int(now),
                    signed_at=None,
                    via=None,
                    quiet_s=status.quiet_s,
                    host=status.listen_host or _address(request),
                    port=status.listen_port,
                    release=status.release,
                    state=status.state,
                    image=status.image,
                    body=status.to_json(),
                ),
            )
            counted = {} if status.sequence is None else {"sequence": device.sequence}
            device.sequence = max(device.sequence, status.sequence or 0)
            roster = choose_roster(presence(session, device.site), device_id) if status.wants_roster else []
            renews = self.renewing.wanted(device, status.certificate_until, now)
        renewed = self.renewing.certificate_for(device_id, now) if renews else None
        return json_answer(
            request,
            {
                "roster": [
                    {
                        "device": p.device,
                        "host": p.host,
                        "port": p.port,
                        "age_s": max(0, int(now - p.seen_at)),
                        "image": p.image,
                    }
                    for p in roster
                ],
                "poll_s": self.settings.poll_s,
                **counted,
                **({} if renewed is None else {"certificate": renewed}),
            },
        )

    async def reports(self, request: Request) -> Response:
        """Take the signed reports of many, and say what became of each."""
        body = await read_body(request, limits.REPORT_BATCH_CODED_MAX)
        now = self.clock()
        by = self._signer(request, body, now)
        with self.database.read() as session:
            device = session.get(Device, by)
            if device is None:
                raise ApiError(401, "unknown-device", "this device is not enrolled any more")
            _refuse_out(device)
        batch = decode_body(body, request.headers.get("content-encoding", "").strip().lower())
        try:
            desk = Reports(self.database, self._key_of, self.reported, self.renewing)
            taken = await desk.take(batch, by, now)
        except ContentError as error:
            raise refusal(error) from error
        answer: dict[str, object] = {"results": list(taken.results)}
        return json_answer(request, answer | ({"certificates": taken.renewed} if taken.renewed else {}))

    def _signer(self, request: Request, body: bytes, now: float) -> str:
        """The device that signed a request, as long as it does not ask too often."""
        device = authenticate(
            SignedRequest(request.method, request.url.path, request.headers.items(), body),
            self._key_of,
            self.nonces,
            now,
        )
        self.checkins.take(device, now)
        return device

    def _key_of(self, device_id: str) -> bytes | None:
        with self.database.read() as session:
            device = session.get(Device, device_id[:COMMON_NAME_MAX])
            return None if device is None or device.id != device_id else device.key.encode()


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The body of an enrolment."""

    voucher: str
    device: str
    hardware: str
    csr: str

    @classmethod
    def parse(cls, body: bytes) -> Enrolment:
        """Raises `ContentError` naming the key."""
        fields = load_object(body, "body", ENROLL_BODY_MAX)
        enrolment = cls(
            voucher=fields.text("voucher", length_max=128),
            device=fields.name("device"),
            hardware=fields.name("hardware"),
            csr=fields.text("csr", length_max=8192),
        )
        fields.finish()
        if len(enrolment.device) > COMMON_NAME_MAX:
            raise ContentError(f"body.device: longer than {COMMON_NAME_MAX} characters")
        return enrolment


def _refuse_out(device: Device) -> None:
    """A device that is out of the fleet says nothing here, of itself or of others."""
    if device.revoked_at is not None:
        raise ApiError(403, "revoked", f"{device.id} is revoked ({device.revoked_reason})")


def _refuse_revoked(session: Session, device: Device | None, voucher: Voucher, pem: str) -> None:
    """A revoked device comes back by a voucher that was made for it, and with another key."""
    if device is not None and device.revoked_at is not None and voucher.device != device.id:
        raise ApiError(
            403, "revoked", f"{device.id} is revoked; only a voucher made for it lets it into the fleet again"
        )
    if key_revoked(session, pem):
        raise ApiError(403, "key-revoked", "this key is revoked; make another one on the device")


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _public_pem(key: ec.EllipticCurvePublicKey) -> str:
    encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()
