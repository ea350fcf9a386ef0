"""A batch of reports that one device hands in for its site (`docs/spec/device-api.md`).

Who hands in signs the request like any other; each report in it is believed for its own signature alone.
One that is refused loses nobody else's: the answer has a word for each, in their order.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from coordinator.api.errors import ApiError
from coordinator.api.limits import RateLimit
from coordinator.api.renewing import Renewing
from coordinator.api.signatures import WINDOW_S
from coordinator.api.status import Status
from coordinator.db.database import Database
from coordinator.db.devices import record_report
from coordinator.db.models import Device, LatestReport
from p2p.content import limits
from p2p.content import report as reports
from p2p.content.report import Report
from p2p.errors import ContentError, LimitExceeded

REPORT_AGE_MAX_S = 2 * 86_400
"""Seconds between the making of a report and its arrival; what is older says nothing of now."""

__all__ = ["REPORT_AGE_MAX_S", "Reports", "decode_body"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: a word for each report; new certificates (PEM) by device."""

    results: list[str] = field(default_factory=list)
    renewed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reports:
    """Takes batches. `key_of`: a device id to its public key in PEM form, None if it is not enrolled."""

    database: Database
    key_of: Callable[[str], bytes | None]
    rate: RateLimit
    renewing: Renewing

    async def take(self, body: bytes, by: str, now: float) -> Taken:
        """What became of each report that `by` hands in; raises `ContentError` for what is no batch.

        Other requests have their turn after each: a signature, and a renewal's write to the disk, take long.
        """
        taken = Taken()
        for line in reports.split_batch(body):
            await asyncio.sleep(0)
            taken.results.append(self._take(line, by, now, taken.renewed))
        return taken

    def _take(self, line: bytes, by: str, now: float, renewed: dict[str, str]) -> str:
        try:
            signature, document = reports.split(line)
            report = Report.parse(document)
            key = self.key_of(report.device)
            if key is None:
                return "unknown-device"
            if not _signed(key, signature, document):
                return "signature"  # before anything that only the device may spend
            status = Status.read(report.status_fields())
        except ContentError:
            return "bad-report"
        if not now - REPORT_AGE_MAX_S <= report.signed_at <= now + WINDOW_S:
            return "clock"
        try:
            self.rate.check(report.device, now)
        except ApiError:
            return "rate"
        return self._record(report, status, by, now, renewed)

    def _record(self, report: Report, status: Status, by: str, now: float, renewed: dict[str, str]) -> str:
        with self.database.note() as session:
            device = session.get(Device, report.device)
            if device is None:
                return "unknown-device"
            if device.revoked_at is not None:
                return "revoked"
            if report.sequence <= device.sequence:
                return reports.KNOWN if report.sequence == device.sequence else "stale"
            self.rate.take(report.device, now)
            device.sequence = report.sequence
            last = session.get(LatestReport, report.device)
            record_report(
                session,
                LatestReport(
                    device=report.device,
                    at=int(now),
                    signed_at=min(report.signed_at, int(now)),
                    via=None if by == report.device else by,
                    quiet_s=status.quiet_s,
                    # Whoever hands in has an address of its own, which says nothing of the device's.
                    host=status.listen_host or (last.host if last is not None else ""),
                    port=status.listen_port,
                    release=status.release,
                    state=status.state,
                    image=status.image,
                    body=status.to_json(),
                ),
            )
            renews = self.renewing.wanted(device, status.certificate_until, now)
        certificate = self.renewing.certificate_for(report.device, now) if renews else None
        if certificate is not None:
            renewed[report.device] = certificate
        return reports.OK


def decode_body(data: bytes, encoding: str) -> bytes:
    """The body of a batch, out of `gzip` or as it is; raises `ApiError` 400, 413 or 415."""
    if encoding in ("", "identity"):
        return data
    if encoding != "gzip":
        raise ApiError(415, "coding", "a batch comes in gzip or as it is")
    decoder = zlib.decompressobj(wbits=31)
    try:
        body = decoder.decompress(data, limits.REPORT_BATCH_MAX + 1)
    except zlib.error as error:
        raise ApiError(400, "bad-request", f"the body is not in gzip ({error})") from error
    if len(body) > limits.REPORT_BATCH_MAX:
        raise ApiError(413, "too-large", f"a batch is at most {limits.REPORT_BATCH_MAX} bytes")
    if not decoder.eof or decoder.unused_data:
        raise ApiError(400, "bad-request", "the gzip stream does not end with the body")
    return body


def refusal(error: ContentError) -> ApiError:
    """Why a body is no batch at all."""
    if isinstance(error, LimitExceeded):
        return ApiError(413, "too-large", error.message)
    return ApiError(400, "bad-request", error.message)


def _signed(key: bytes, signature: bytes, document: bytes) -> bool:
    public = serialization.load_pem_public_key(key)
    half = reports.SIGNATURE_SIZE // 2
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(
            utils.encode_dss_signature(r, s), reports.signed_bytes(document), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        return False
    return True
