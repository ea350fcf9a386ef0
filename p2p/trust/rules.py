"""What must hold between a new TUF document and what is trusted already.

Each rule is one check that raises `TrustError` with its own reason; the client decides when which
applies. Signatures are `p2p.trust.documents`' business.
"""

from __future__ import annotations

from typing import TypeVar

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from p2p.errors import TrustError
from p2p.trust.clock import ISSUED, parse_time
from p2p.trust.documents import READER, Reader, Verified

DocumentT = TypeVar("DocumentT", Root, Timestamp, Snapshot, Targets)


def withdraws_online_key(old: Root, new: Root) -> bool:
    return any(
        not set(old.roles[role].keyids) <= set(new.roles[role].keyids) for role in ("timestamp", "snapshot")
    )


def issued_at(timestamp: Verified[Timestamp]) -> float | None:
    text = timestamp.signed.unrecognized_fields.get(ISSUED)
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise TrustError("malformed", f"timestamp: {ISSUED} is not a date-time") from error


def check_version(document: Verified[DocumentT], expected: int) -> None:
    if document.version != expected:
        raise TrustError(
            "version", f"{document.role}: version {document.version} where {expected} was asked for"
        )


def check_forward(old: Snapshot, new: Snapshot) -> None:
    """TUF 5.5.5: no role disappears, none goes back."""
    for file, meta in old.meta.items():
        now = new.meta.get(file)
        if now is None:
            raise TrustError("rollback", f"snapshot: {file} is no longer in it")
        if now.version < meta.version:
            raise TrustError("rollback", f"snapshot: {file} version {now.version} after {meta.version}")


def check_expiry(document: Verified[DocumentT], time: float) -> None:
    if document.expires <= time:
        raise TrustError(
            "expired",
            f"{document.role}: version {document.version} expired {time - document.expires:.0f} s ago",
            kept="what is installed goes on running",
            next_step="check this device's clock and whether the repository is still being re-signed",
        )


def check_same_fleet(pinned: Verified[Root], walked: bytes | None, reader: Reader = READER) -> None:
    """The root of the chain that has the pinned root's version must be the pinned one."""
    if walked is None:
        return
    try:
        root = reader.read_root(walked, None)
    except TrustError:
        return  # a damaged copy says nothing
    if root.metadata.signed_bytes != pinned.metadata.signed_bytes:
        raise TrustError(
            "other-fleet",
            f"root {pinned.version} of this device's state is not the pinned one",
            kept="the state of the other fleet",
            next_step="if the device was moved to another fleet on purpose, empty its trust state",
        )
