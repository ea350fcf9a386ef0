"""The audit log in the database: append, list, verify, and checkpoints signed by the online key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.db.models import AuditEntry
from coordinator.domain.audit import Checkpoint, Entry, Finding, chain, find_fault


def append(
    session: Session, at: int, actor: str, action: str, subject: str, details: dict[str, Any] | None = None
) -> Entry:
    """Add an entry within the caller's transaction, so that it is written if and only if its cause is."""
    entry = chain(head(session), at, actor, action, subject, details or {})
    session.add(
        AuditEntry(
            seq=entry.seq,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            details=entry.details,
            previous=entry.previous,
            digest=entry.digest,
        )
    )
    session.flush()
    return entry


def head(session: Session) -> Checkpoint | None:
    """The last entry's number and digest; None for an empty log."""
    row = session.scalar(select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(1))
    return None if row is None else Checkpoint(row.seq, row.digest)


def entries(session: Session, after: int = 0, count: int | None = None) -> Iterator[Entry]:
    """Entries in order, from number `after` + 1 on."""
    query = select(AuditEntry).where(AuditEntry.seq > after).order_by(AuditEntry.seq).limit(count)
    for row in session.scalars(query.execution_options(yield_per=500)):
        yield Entry(
            row.seq, row.at, row.actor, row.action, row.subject, row.details, row.previous, row.digest
        )


def verify(session: Session, checkpoints: Sequence[Checkpoint]) -> Finding | None:
    """Check the whole chain against checkpoints; None if nothing is wrong."""
    return find_fault(entries(session), checkpoints)
