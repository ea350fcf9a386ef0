"""The tables: devices, certificates, vouchers, reports, tokens, the audit log. Times: seconds since 1970."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all tables."""


class Device(Base):
    """An enrolled device. `key` is its public key (PEM); `certificate` the last one issued (PEM).

    `sequence`: the number of its newest report (`p2p.content.report`); no older one is taken.
    `revoked_at`: since when it is out of the fleet, None while it is in it.
    """

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(String(128), index=True)
    groups: Mapped[list[str]] = mapped_column(JSON)
    hardware: Mapped[str] = mapped_column(String(128))
    key: Mapped[str] = mapped_column(Text)
    certificate: Mapped[str] = mapped_column(Text)
    enrolled_at: Mapped[int] = mapped_column(BigInteger)
    not_after: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_reason: Mapped[str | None] = mapped_column(String(16))


class Certificate(Base):
    """A device certificate that was issued, by the SHA-256 of its DER form; `key`: that of its public key.

    `revoked_reason` is a word of `p2p.content.revocation.Reason`, None while it counts.
    """

    __tablename__ = "certificates"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), index=True)
    key: Mapped[str] = mapped_column(String(64), index=True)
    issued_at: Mapped[int] = mapped_column(BigInteger)
    not_after: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_reason: Mapped[str | None] = mapped_column(String(16))


class Voucher(Base):
    """Permission to enrol one device once. Only the voucher's digest is kept."""

    __tablename__ = "vouchers"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(String(128))
    groups: Mapped[list[str]] = mapped_column(JSON)
    device: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    used_at: Mapped[int | None] = mapped_column(BigInteger)
    used_by: Mapped[str | None] = mapped_column(String(64))


class LatestReport(Base):
    """The last that a device said of itself, and where it came from.

    `at`: when it was received; `signed_at`: when it was written, where a peer handed it in (`via`: which);
    `quiet_s`: for how long from then on it may not be heard of though all is well.
    """

    __tablename__ = "latest_reports"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)
    signed_at: Mapped[int | None] = mapped_column(BigInteger)
    via: Mapped[str | None] = mapped_column(String(64))
    quiet_s: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    host: Mapped[str] = mapped_column(String(253))
    port: Mapped[int] = mapped_column(Integer)
    release: Mapped[str | None] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(64))
    image: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


class ReportHistory(Base):
    """The last check-ins of each device that said something new (bounded per device)."""

    __tablename__ = "report_history"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    at: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (Index("ix_report_history_device", "device", "id"),)


class Token(Base):
    """A bearer token of the operators' API. Only its digest is kept."""

    __tablename__ = "tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)


class AuditEntry(Base):
    """One link of the audit chain (`coordinator.domain.audit`)."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
