"""Devices, vouchers and reports in the database: what the device API reads and writes.

Each function works within the caller's transaction. Decisions that two requests could race for (a voucher's
one use) are single compare-and-set statements.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from coordinator.db.models import Device, LatestReport, ReportHistory, Token, Voucher
from coordinator.domain.roster import Presence
from p2p.errors import OperatorError

HISTORY_MAX = 200
"""Reports kept per device."""
VOUCHER_PREFIX = "sv1-"
TOKEN_PREFIX = "st1-"
SECRET_BYTES = 20


class Refused(Exception):  # noqa: N818 (a verdict)
    """Why an enrolment is refused: a stable word and a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def digest_of(secret: str) -> str:
    """What is stored of a voucher or token: they are random and long, so a plain digest is enough."""
    return hashlib.sha256(secret.strip().encode()).hexdigest()


def create_voucher(
    session: Session, site: str, groups: Sequence[str], device: str | None, now: int, expires_at: int
) -> str:
    """Make a one-time voucher and return it; it cannot be shown again."""
    secret = VOUCHER_PREFIX + secrets.token_hex(SECRET_BYTES)
    session.add(
        Voucher(
            digest=digest_of(secret),
            site=site,
            groups=list(groups),
            device=device,
            created_at=now,
            expires_at=expires_at,
        )
    )
    return secret


def find_voucher(session: Session, secret: str) -> Voucher | None:
    return session.get(Voucher, digest_of(secret))


def redeem(session: Session, voucher: Voucher, device: str, now: int) -> None:
    """Use a voucher up, or raise `Refused`; of two at once exactly one succeeds."""
    if voucher.device is not None and voucher.device != device:
        raise Refused("voucher-other-device", "this voucher is for another device")
    changed = session.execute(
        update(Voucher)
        .where(Voucher.digest == voucher.digest, Voucher.used_at.is_(None), Voucher.expires_at > now)
        .values(used_at=now, used_by=device)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult, which has it
        if voucher.used_at is None and voucher.expires_at <= now:
            raise Refused("voucher-expired", "this voucher has expired")
        raise Refused("voucher-used", "this voucher has been used")


def record_report(session: Session, report: LatestReport) -> None:
    """Keep a check-in as the device's latest, and in its bounded history if it says something new."""
    last = session.get(LatestReport, report.device)
    if last is None or _gist(last.body) != _gist(report.body):
        heard_at = report.at if report.signed_at is None else report.signed_at
        session.add(ReportHistory(device=report.device, at=heard_at, body=report.body))
        session.flush()
        oldest = session.scalar(
            select(ReportHistory.id)
            .where(ReportHistory.device == report.device)
            .order_by(ReportHistory.id.desc())
            .offset(HISTORY_MAX - 1)
            .limit(1)
        )
        if oldest is not None:
            session.execute(
                delete(ReportHistory).where(ReportHistory.device == report.device, ReportHistory.id < oldest)
            )
    session.merge(report)


def presence(session: Session, site: str) -> list[Presence]:
    """Where the devices of a site listen, and until when they were accounted for. No revoked ones.

    That is when they were last heard of, and as long after as they said that they would be quiet; or their
    enrolment.
    """
    rows = session.execute(
        select(
            Device.id, LatestReport.host, LatestReport.port,
            func.coalesce(LatestReport.signed_at, LatestReport.at, Device.enrolled_at)
            + func.coalesce(LatestReport.quiet_s, 0),
            LatestReport.image,
        )
        .outerjoin(LatestReport, LatestReport.device == Device.id)
        .where(Device.site == site, Device.revoked_at.is_(None))
    )  # fmt: skip
    return [Presence(device, host or "", port or 0, seen, image) for device, host, port, seen, image in rows]


def sites(session: Session) -> list[str]:
    """Names of the sites that have devices."""
    return list(session.scalars(select(Device.site).distinct().order_by(Device.site)))


def devices_with_reports(
    session: Session, site: str | None = None
) -> list[tuple[Device, LatestReport | None]]:
    """Devices (of one site) with their latest reports, by id."""
    query = select(Device, LatestReport).outerjoin(LatestReport, LatestReport.device == Device.id)
    if site is not None:
        query = query.where(Device.site == site)
    return [(device, report) for device, report in session.execute(query.order_by(Device.id))]


def history(session: Session, device: str, count: int = HISTORY_MAX) -> list[tuple[int, dict[str, Any]]]:
    """The device's kept reports, newest first."""
    query = (
        select(ReportHistory.at, ReportHistory.body)
        .where(ReportHistory.device == device)
        .order_by(ReportHistory.id.desc())
        .limit(count)
    )
    return [(at, body) for at, body in session.execute(query)]


def count_devices(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Device)) or 0


def create_token(session: Session, name: str, now: int, expires_at: int | None) -> str:
    """Make a bearer token and return it; it cannot be shown again."""
    if session.scalar(select(Token).where(Token.name == name)) is not None:
        raise OperatorError(f"a token named {name!r} exists", next_step="revoke it or choose another name")
    secret = TOKEN_PREFIX + secrets.token_hex(SECRET_BYTES)
    session.add(Token(digest=digest_of(secret), name=name, created_at=now, expires_at=expires_at))
    return secret


def find_token(session: Session, secret: str, now: int) -> Token | None:
    """The token's record if it is valid now."""
    token = session.get(Token, digest_of(secret))
    return None if token is None or (token.expires_at is not None and token.expires_at <= now) else token


def revoke_token(session: Session, name: str) -> None:
    token = session.scalar(select(Token).where(Token.name == name))
    if token is None:
        raise OperatorError(f"there is no token named {name!r}")
    session.delete(token)


def _gist(body: dict[str, Any]) -> dict[str, Any]:
    return {key: body.get(key) for key in ("release", "slot", "state", "images", "role")}
