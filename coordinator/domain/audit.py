"""The audit chain: every entry carries the digest of the one before it.

Pure: what an entry's digest is, and what is wrong with a list of entries. A chain alone shows edits,
deletions and reorderings inside it; that its end was cut off shows only against a checkpoint kept
elsewhere, so checkpoints are part of the check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from p2p.content.digests import Digest, sha256
from p2p.content.fields import dump_object

__all__ = ["GENESIS", "Checkpoint", "Entry", "Finding", "chain", "entry_digest", "find_fault"]

GENESIS = "0" * 64
"""What the first entry has in place of a predecessor's digest."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One audit entry. `at` in whole seconds since 1970; `digest` covers everything else."""

    seq: int
    at: int
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the chain at some time, kept apart from it."""

    seq: int
    digest: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong and where. `reason`: `edited`, `gap`, `broken-link`, `truncated`, `rewritten`."""

    reason: str
    seq: int
    message: str


def entry_digest(
    seq: int, at: int, actor: str, action: str, subject: str, details: dict[str, Any], previous: str
) -> Digest:
    """SHA-256 of the entry's canonical JSON."""
    return sha256(
        dump_object(
            {
                "seq": seq,
                "at": at,
                "actor": actor,
                "action": action,
                "subject": subject,
                "details": details,
                "previous": previous,
            }
        )
    )


def chain(
    last: Checkpoint | None, at: int, actor: str, action: str, subject: str, details: dict[str, Any]
) -> Entry:
    """The entry that follows `last`."""
    seq, previous = (1, GENESIS) if last is None else (last.seq + 1, last.digest)
    digest = entry_digest(seq, at, actor, action, subject, details, previous)
    return Entry(seq, at, actor, action, subject, details, previous, digest.hex())


def find_fault(entries: Iterable[Entry], checkpoints: Iterable[Checkpoint] = ()) -> Finding | None:
    """The first thing wrong with a chain, None if it is whole and contains every checkpoint."""
    expected = {checkpoint.seq: checkpoint.digest for checkpoint in checkpoints}
    seq, previous = 0, GENESIS
    for entry in entries:
        if entry.seq != seq + 1:
            return Finding("gap", entry.seq, f"entry {seq + 1} is missing: {seq} is followed by {entry.seq}")
        if entry.previous != previous:
            return Finding("broken-link", entry.seq, f"entry {entry.seq} does not follow the one before it")
        digest = entry_digest(
            entry.seq, entry.at, entry.actor, entry.action, entry.subject, entry.details, entry.previous
        )
        if digest.hex() != entry.digest:
            return Finding("edited", entry.seq, f"entry {entry.seq} was changed after it was written")
        seq, previous = entry.seq, entry.digest
        if expected.pop(seq, previous) != previous:
            return Finding("rewritten", seq, f"entry {seq} is not the one that a checkpoint recorded")
    if expected:
        last = max(expected)
        return Finding("truncated", seq, f"the chain ends at entry {seq}; a checkpoint recorded entry {last}")
    return None
