"""Revoking devices: marked in the database first, published in the signed list next.

In this order a cut leaves a device that this coordinator refuses already; `publish_marked` makes good for the
rest, and the server's upkeep calls it too. What is published follows from what is marked, so nothing is
revoked twice or forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.revocations import mark_revoked, marked, versions_seen
from coordinator.publishing.repository import Repository
from coordinator.publishing.revocations import Published, publish_revocations, published
from coordinator.publishing.state import REVOCATIONS_ROLE
from p2p.content.revocation import Reason, Revocation
from p2p.content.times import format_time
from p2p.errors import SlipstreamError


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a command did. `before`: devices that were revoked already, and why. `version`: of the list."""

    devices: tuple[str, ...]
    before: dict[str, Reason]
    version: int


def revoke_devices(
    repository: Repository,
    database: Database,
    devices: Sequence[str],
    reason: Reason,
    *,
    actor: str,
    note: str = "",
) -> Revoked:
    """Put devices out of the fleet. All or none is marked; may be repeated.

    Raises `OperatorError` for an unknown device, or a repository that has no role for it (and nothing is
    marked); what publishing raises says that this coordinator refuses the devices all the same.
    """
    repository.state().delegation(REVOCATIONS_ROLE)
    now = int(repository.clock().timestamp())
    before: dict[str, Reason] = {}
    with database.write() as session:
        for device in dict.fromkeys(devices):
            earlier = mark_revoked(session, device, reason, now)
            if earlier is not None:
                before[device] = earlier
                continue
            audit.append(
                session, now, actor, "device.revoked", device, {"reason": reason.value, "note": note}
            )
    try:
        now_published = publish_marked(repository, database, actor)
    except SlipstreamError as error:
        error.kept = "this coordinator refuses them already; their peers do not know of it yet"
        error.next_step = f"{error.next_step or 'see to the cause'}; then run this again"
        raise
    return Revoked(tuple(dict.fromkeys(devices)), before, now_published.version)


def publish_marked(repository: Repository, database: Database, actor: str) -> Published:
    """Sign what is marked and not yet in the list; raises what `publish_revocations` raises."""
    now = int(repository.clock().timestamp())
    with database.read() as session:
        wanted = marked(session, now)
    old = published(repository, repository.state())
    if all((held := old.revoked.get(r.certificate)) is not None and held.reason in _final(r) for r in wanted):
        return old
    new = publish_revocations(repository, wanted)
    if new.version != old.version:
        added = new.revoked.keys() - old.revoked.keys()
        details = {"certificates": len(new.revoked), "added": sorted(c.hex() for c in added)}
        with database.write() as session:
            audit.append(session, now, actor, "revocations.published", str(new.version), details)
    return new


def revocation_facts(repository: Repository, database: Database) -> dict[str, Any]:
    """What `/revocations` and `slipstream coordinator revocations` show.

    `behind`: devices whose last check-in told of an older version (null: of none).
    """
    found = published(repository, repository.state())
    with database.read() as session:
        seen = versions_seen(session)
        waiting = marked(session, int(repository.clock().timestamp()))
    behind = {device: version for device, version in seen.items() if (version or 0) < found.version}
    return {
        "version": found.version,
        "revoked": [
            {
                "device": r.device,
                "reason": r.reason.value,
                "certificate": r.certificate.hex(),
                "until": format_time(r.until),
            }
            for part in found.parts
            for r in part.revoked
        ],
        "unpublished": sorted({r.device for r in waiting if r.certificate not in found.revoked}),
        "seen_by": len(seen) - len(behind),
        "behind": [{"device": device, "version": version} for device, version in behind.items()],
    }


def _final(wanted: Revocation) -> tuple[Reason, ...]:
    """Reasons under which an entry needs no change."""
    return (Reason.SUPERSEDED,) if wanted.reason is Reason.SUPERSEDED else tuple(Reason)
