"""A device's report: a small signed document that says how it is, good in whoever's hands.

A check-in is a request, and proves who makes it; a report proves who wrote it, so peers may hand it in
(`docs/spec/device-api.md`). Its sequence number is the device's own count: the coordinator takes a higher one
only, so that neither a copy nor an older one changes anything. It is signed over a prefix of its own, so
that nothing else that the key signs passes for a report.

Not for signing and verifying (`p2p.adapters.reports`, `coordinator.api.reports`), nor for what a status says.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.content.fields import Fields, dump_object, load_object
from p2p.errors import ContentError, LimitExceeded

SIGNED_PREFIX = b"slipstream-report-1\0"
SIGNATURE_SIZE = 64
"""ECDSA P-256: two numbers of 32 bytes, big-endian."""

SEQUENCE_MAX = 1 << 53
TIME_MAX = 1 << 40

OK = "ok"
KNOWN = "known"
"""It had been handed in before: as good as `OK`."""

TAKEN = frozenset({OK, KNOWN})
"""What the coordinator says of a report that it has."""

CARRIED = "carried"
"""A carrier keeps it, and hands it in when it comes home; nobody says what became of it."""

UNSUPPORTED = "unsupported"
"""The coordinator knows no batches: every device checks in by itself."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says of itself.

    `signed_at`: seconds since 1970 by its own clock; `status`: the body of a check-in.
    """

    device: str
    sequence: int
    signed_at: int
    status: dict[str, Any]

    def encode(self) -> bytes:
        """The document that is signed: one line."""
        return dump_object(
            {
                "device": self.device,
                "sequence": self.sequence,
                "signed_at": self.signed_at,
                "status": self.status,
            }
        )

    @classmethod
    def parse(cls, document: Buffer) -> Report:
        """Raises `ContentError` naming the key; what the status says is for its reader to check."""
        fields = load_object(document, "report", limits.REPORT_SIZE_MAX)
        report = cls(
            device=fields.name("device"),
            sequence=fields.integer("sequence", 1, SEQUENCE_MAX),
            signed_at=fields.integer("signed_at", 0, TIME_MAX),
            status=fields.raw_object("status"),
        )
        fields.finish()
        return report

    def status_fields(self) -> Fields:
        """The status, to be read key by key."""
        return Fields(self.status, "report.status")


def signed_bytes(document: bytes) -> bytes:
    """What the signature of a report is over."""
    return SIGNED_PREFIX + document


def join(signature: bytes, document: bytes) -> bytes:
    """A signed report as it travels: the signature in base64, a space, the document and its newline."""
    return base64.b64encode(signature) + b" " + document


def split(line: Buffer) -> tuple[bytes, bytes]:
    """Signature and document of a signed report; raises `ContentError`."""
    data = bytes(line)
    if len(data) > limits.REPORT_SIZE_MAX:
        raise LimitExceeded(f"report: {len(data)} bytes are over {limits.REPORT_SIZE_MAX}")
    encoded, space, document = data.partition(b" ")
    if not space or not document.endswith(b"\n") or b"\n" in document[:-1]:
        raise ContentError("report: not a signature, a space and a document of one line")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ContentError("report: the signature is not in base64") from error
    if len(signature) != SIGNATURE_SIZE:
        raise ContentError(f"report: a signature of {len(signature)} bytes, not {SIGNATURE_SIZE}")
    return signature, document


def split_batch(body: bytes) -> list[bytes]:
    """The signed reports of a batch, one a line; raises `ContentError` if there are none or too many."""
    if len(body) > limits.REPORT_BATCH_MAX:
        raise LimitExceeded(f"batch: {len(body)} bytes are over {limits.REPORT_BATCH_MAX}")
    if not body.endswith(b"\n"):
        raise ContentError("batch: does not end with the end of a line")
    count = body.count(b"\n")
    if count > limits.REPORTS_PER_BATCH_MAX:
        raise LimitExceeded(f"batch: more than {limits.REPORTS_PER_BATCH_MAX} reports")
    return [line + b"\n" for line in body[:-1].split(b"\n")]
