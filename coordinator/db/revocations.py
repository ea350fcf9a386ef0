"""Issued certificates in the database, and which of them are revoked.

What is marked here is refused by this coordinator at once; peers learn of it from the signed list
(`coordinator.publishing.revocations`), which is made from what is marked. So a cut between the two leaves a
device that is refused here and not yet there; the next attempt, or the server's upkeep, publishes the rest.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from coordinator.db.models import Certificate, Device, LatestReport, Voucher
from p2p.content.digests import parse_digest, sha256
from p2p.content.revocation import Reason, Revocation
from p2p.errors import OperatorError


def key_digest(pem: str) -> str:
    """How a public key (PEM) is named here."""
    return hashlib.sha256(pem.encode()).hexdigest()


def note_certificate(session: Session, device: str, certificate: x509.Certificate, now: int) -> None:
    """Remember a certificate that is about to be given out."""
    key = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    session.add(
        Certificate(
            digest=sha256(certificate.public_bytes(serialization.Encoding.DER)).hex(),
            device=device,
            key=key_digest(key.decode()),
            issued_at=now,
            not_after=int(certificate.not_valid_after_utc.timestamp()),
        )
    )


def key_revoked(session: Session, pem: str) -> bool:
    """Whether a certificate of this key was ever revoked."""
    query = select(Certificate.digest).where(
        Certificate.key == key_digest(pem), Certificate.revoked_reason.is_not(None)
    )
    return session.scalar(query.limit(1)) is not None


def supersede(session: Session, device: str, key: str, now: int) -> None:
    """A device has got a certificate for another key: those of its earlier keys count no more."""
    session.execute(
        update(Certificate)
        .where(Certificate.device == device, Certificate.key != key)
        .where(Certificate.not_after > now)
        .values(revoked_reason=Reason.SUPERSEDED.value, revoked_at=now)
        .execution_options(synchronize_session=False)
    )


def mark_revoked(session: Session, device: str, reason: Reason, now: int) -> Reason | None:
    """Put a device out of the fleet: its certificates, and vouchers that were made for it.

    Returns the reason of an earlier revocation, which stands. Raises `OperatorError` for an unknown device.
    """
    record = session.get(Device, device)
    if record is None:
        raise OperatorError(
            f"no device {device!r} is enrolled",
            kept="everything",
            next_step="slipstream coordinator fleet --repo DIR lists sites, coordinator site S its devices",
        )
    if record.revoked_reason is not None:
        return Reason(record.revoked_reason)
    record.revoked_at, record.revoked_reason = now, reason.value
    session.execute(
        update(Certificate)
        .where(Certificate.device == device, Certificate.revoked_reason.is_(None))
        .values(revoked_reason=reason.value, revoked_at=now)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Voucher)
        .where(Voucher.device == device, Voucher.used_at.is_(None), Voucher.expires_at > now)
        .values(expires_at=now)
        .execution_options(synchronize_session=False)
    )
    return None


def marked(session: Session, now: int) -> list[Revocation]:
    """All revoked certificates that have not expired, in the order in which they were."""
    rows = session.scalars(
        select(Certificate)
        .where(Certificate.revoked_reason.is_not(None), Certificate.not_after > now)
        .order_by(Certificate.revoked_at, Certificate.digest)
    )
    return [
        Revocation(
            parse_digest(row.digest), row.device, Reason(row.revoked_reason or ""), float(row.not_after)
        )
        for row in rows
    ]


def versions_seen(session: Session) -> dict[str, int | None]:
    """By device of the fleet that has checked in: the version of the list that it knew, if it said one."""
    rows = session.execute(
        select(Device.id, LatestReport.body)
        .join(LatestReport, LatestReport.device == Device.id)
        .where(Device.revoked_at.is_(None))
        .order_by(Device.id)
    )
    return {device: body.get("revocations") for device, body in rows}
