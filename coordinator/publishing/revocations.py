"""The revocation list: publish what is to be revoked, with the online key (`docs/spec/revocation.md`).

Entries are added, and leave only as whole parts once all of a part's certificates have expired. Which
certificates a device has is the database's knowledge (`coordinator.db.revocations`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuf.api.metadata import TargetFile

from coordinator.publishing.repository import Repository
from coordinator.publishing.state import REVOCATIONS_ROLE, State
from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.revocation import Reason, Revocation, RevocationPart, decode_part, encode_part, part_path
from p2p.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Published:
    """The list as it is published: the role's version and its parts by number."""

    version: int
    parts: tuple[RevocationPart, ...]

    @property
    def revoked(self) -> dict[Digest, Revocation]:
        """All entries by certificate."""
        return {r.certificate: r for part in self.parts for r in part.revoked}


def published(repository: Repository, state: State) -> Published:
    """What is published now. Raises `OperatorError` where the repository has no such role."""
    metadata = state.role(REVOCATIONS_ROLE)
    parts = [decode_part(repository.get(ref)) for _, ref in state.targets_of(REVOCATIONS_ROLE)]
    version = 0 if metadata is None else int(metadata.signed.version)
    return Published(version, tuple(sorted(parts, key=lambda part: part.number)))


def publish_revocations(repository: Repository, wanted: Iterable[Revocation]) -> Published:
    """Publish what the list lacks of `wanted`; nothing is signed when it lacks nothing.

    Raises `OperatorError` when the list is full, `KeyUnavailable` without the online key.
    """
    with repository.locked() as state:
        before = published(repository, state)
        now = repository.clock().timestamp()
        parts = _with(before, [r for r in wanted if r.until > now], now)
        changed = {part.number: part for part in parts} != {part.number: part for part in before.parts}
        if not changed:
            return before
        following = repository.next_version(state.roles[REVOCATIONS_ROLE], REVOCATIONS_ROLE)
        following.signed.targets.clear()
        for part in parts:
            ref = repository.put(encode_part(part))
            path = part_path(part.number)
            following.signed.targets[path] = TargetFile(ref.size, {"sha256": ref.sha256.hex()}, path)
        repository.sign_online(following, state, REVOCATIONS_ROLE)
        repository.commit(state, {REVOCATIONS_ROLE: following})
        return Published(int(following.signed.version), tuple(parts))


def _with(before: Published, wanted: list[Revocation], now: float) -> list[RevocationPart]:
    """The parts with `wanted` among them: reasons in their places, new entries at the end.

    Parts that are over leave, but for the last one, whose number must not be used again.
    """
    known = before.revoked
    superseded = {
        r.certificate: r for r in wanted if r.reason is Reason.SUPERSEDED and r.certificate in known
    }
    parts = [
        RevocationPart(part.number, tuple(superseded.get(r.certificate, r) for r in part.revoked))
        for part in before.parts
        if part is before.parts[-1] or any(r.until > now for r in part.revoked)
    ]
    fresh = list({r.certificate: r for r in wanted if r.certificate not in known}.values())
    while fresh:
        last = parts[-1] if parts else RevocationPart(0, ())
        room = limits.REVOCATIONS_PER_PART_MAX - len(last.revoked) if parts else 0
        if room:
            parts[-1] = RevocationPart(last.number, last.revoked + tuple(fresh[:room]))
            fresh = fresh[room:]
        else:
            parts.append(RevocationPart(last.number + 1, ()))
    if len(parts) > limits.REVOCATION_PARTS_MAX:
        raise OperatorError(
            f"the list would have {len(parts)} parts, and devices read {limits.REVOCATION_PARTS_MAX}",
            kept="what is published",
            next_step="issue certificates for a shorter time (server.certificate_days), as entries end so",
        )
    return parts
