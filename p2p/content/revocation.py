"""The revocation list: certificates of devices that the fleet no longer trusts (`docs/spec/revocation.md`).

It is published in numbered parts, each a TUF target `revocations/<number>.json`, so that one more
revocation changes one small file. A certificate stays listed until it would have expired by itself, which
bounds the list. A document with an unknown key or value is refused whole.

Pure: what a device keeps of it is `p2p.trust.revocations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.content.fields import Fields, dump_object, load_object
from p2p.content.times import format_time, parse_time
from p2p.errors import ContentError

DOCUMENT = "slipstream-revocations"
VERSION = 1
PATHS = "revocations/*"
"""What the role `revocations` is delegated."""


class Reason(StrEnum):
    """Why a certificate is revoked. After `superseded` its device is one of the fleet, with another one."""

    COMPROMISED = "compromised"
    LOST = "lost"
    RETIRED = "retired"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate, by the SHA-256 of its DER form. `until`: when it expires, POSIX seconds."""

    certificate: Digest
    device: str
    reason: Reason
    until: float


@dataclass(frozen=True, slots=True)
class RevocationPart:
    """One part of the list; parts are numbered from 1 and a number is never used again."""

    number: int
    revoked: tuple[Revocation, ...]

    @property
    def target_path(self) -> str:
        return part_path(self.number)


def part_path(number: int) -> str:
    """TUF target path of a part."""
    return f"revocations/{number}.json"


def encode_part(part: RevocationPart) -> bytes:
    """The document's bytes, the same for the same part."""
    return dump_object(
        {
            "_type": DOCUMENT,
            "spec": VERSION,
            "part": part.number,
            "revoked": revoked_to_json(part.revoked),
        }
    )


def decode_part(data: Buffer) -> RevocationPart:
    """Decode and check a part; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "revocations", limits.REVOCATION_PART_SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    part = RevocationPart(
        number=fields.integer("part", 1, limits.REVOCATION_NUMBER_MAX),
        revoked=read_revoked(fields, limits.REVOCATIONS_PER_PART_MAX),
    )
    fields.finish()
    return part


def revoked_to_json(revoked: Iterable[Revocation]) -> list[dict[str, Any]]:
    """As written into documents."""
    return [
        {
            "certificate": r.certificate.hex(),
            "device": r.device,
            "reason": r.reason.value,
            "until": format_time(r.until),
        }
        for r in revoked
    ]


def read_revoked(fields: Fields, count_max: int) -> tuple[Revocation, ...]:
    """The key `revoked` of a document; raises `ContentError`."""
    found = tuple(_revocation(item) for item in fields.objects("revoked", length_max=count_max))
    if len({r.certificate for r in found}) != len(found):
        raise ContentError(f"{fields.what}.revoked: a certificate is there twice")
    return found


def _revocation(fields: Fields) -> Revocation:
    certificate, device = fields.digest("certificate"), fields.name("device")
    reason, until = fields.text("reason"), fields.text("until")
    fields.finish()
    if reason not in set(Reason):
        raise ContentError(f"{fields.what}.reason: {reason[:40]!r} is unknown")
    try:
        seconds = parse_time(until)
    except ValueError as error:
        raise ContentError(f"{fields.what}.until: not a date-time like 2030-01-02T03:04:05Z") from error
    if format_time(seconds) != until:
        raise ContentError(f"{fields.what}.until: not written like 2030-01-02T03:04:05Z")
    return Revocation(certificate, device, Reason(reason), seconds)
