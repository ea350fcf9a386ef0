"""A device's requests to its coordinator: enrol with a voucher, check in, hand in reports of others.

A check-in is signed by the device key over method, path and the body's digest (RFC 9421, RFC 9530), so
that it survives proxies that end TLS. The clocks of devices are often wrong: when the coordinator
refuses a signature only for its time, it is made again by the coordinator's clock, once. That clock is
used for signatures and nothing else: it is not trusted time.

Not for when to check in, or for what the status says (`p2p.agent`).
"""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver, algorithms

from p2p.adapters.http import HttpClient
from p2p.adapters.http_connection import Headers
from p2p.adapters.origin import OriginBusy, retry_after_s
from p2p.adapters.url import Url, parse_url
from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.fields import Fields, dump_object, load_object
from p2p.content.report import SEQUENCE_MAX, Report, split
from p2p.errors import ContentError, OriginError

COMPONENTS = ("@method", "@path", "content-digest")
POLL_S_MAX = 86_400
AGE_S_MAX = 1 << 40
REFUSAL_SIZE_MAX = 64 * limits.KIB

_T = TypeVar("_T")


class CoordinatorRefusal(OriginError):  # noqa: N818 (a decision of the coordinator's)
    """The coordinator said no: `reason` is its stable word, `status` the HTTP status."""

    def __init__(self, reason: str, message: str, status: int) -> None:
        super().__init__(reason, f"the coordinator refuses: {message}", retry=status >= 500)
        self.status = status


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What enrolment gives: certificate and fleet CA as PEM, and where the device belongs."""

    certificate: bytes
    ca: bytes
    site: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """A device of the same site, `age_s` seconds after it was last heard of; `image` is what it runs."""

    device: str
    host: str
    port: int
    age_s: int
    image: Digest | None


@dataclass(frozen=True, slots=True)
class CheckinAnswer:
    """Who else is on the site, and seconds until the next check-in is due.

    `sequence`: the number of the last report that the coordinator had before; None: it does not count them.
    """

    roster: tuple[RosterEntry, ...]
    poll_s: int
    sequence: int | None = None
    certificate: bytes | None = None
    """A new one for this device (PEM, unverified), if it is time for that."""


@dataclass(frozen=True, slots=True)
class HandedIn:
    """What became of a report: the coordinator's word; a new certificate (PEM) for its writer, or nothing."""

    result: str
    certificate: bytes = b""


class DeviceApi:
    """The coordinator at `base_url`. `now` is this device's best guess of the time (seconds since 1970)."""

    def __init__(
        self,
        base_url: str,
        client: HttpClient,
        now: Callable[[], float],
        *,
        answer_s: float = limits.ORIGIN_SMALL_S,
    ) -> None:
        self._base = parse_url(base_url)
        self._client = client
        self._now = now
        self._answer_s = answer_s
        self._clock_offset_s = 0.0

    async def enroll(self, voucher: str, device: str, hardware: str, signing_request: bytes) -> Enrolment:
        """Redeem a one-time voucher. Asking again with the same key gets the same certificate.

        Raises `CoordinatorRefusal` (`voucher-unknown`, `voucher-used`, `device-exists`, …) or
        `OriginError`. What comes back is checked by `identity.check_certificate`.
        """
        body = {"voucher": voucher, "device": device, "hardware": hardware, "csr": signing_request.decode()}
        answer = await self._post("api/v1/enroll", dump_object(body), lambda _url, _body: [])
        return _read(answer, _enrolment)

    async def checkin(
        self, device: str, key: ec.EllipticCurvePrivateKey, status: Mapping[str, object]
    ) -> CheckinAnswer:
        """Report `status` (JSON values), signed as `device`.

        Raises `CoordinatorRefusal` (`signature`, `clock`, `unknown-device`, …), `OriginBusy` or
        `OriginError`.
        """
        body = dump_object(dict(status))

        def sign(url: Url, body: bytes) -> Headers:
            return signature_headers(url, body, device, key, self.now())

        return _read(await self._post("api/v1/checkin", body, sign), _checkin_answer)

    def now(self) -> float:
        """The time as the coordinator sees it, as far as it had to be told."""
        return self._now() + self._clock_offset_s

    async def hand_in(
        self, device: str, key: ec.EllipticCurvePrivateKey, reports: Sequence[bytes]
    ) -> list[HandedIn]:
        """Hand in signed reports, as `device`; what became of each, in their order.

        Raises `CoordinatorRefusal` (status 404: it takes no batches), `OriginBusy` or `OriginError`.
        """
        body = gzip.compress(b"".join(reports), mtime=0)

        def sign(url: Url, body: bytes) -> Headers:
            return [("Content-Encoding", "gzip"), *signature_headers(url, body, device, key, self.now())]

        answer = await self._post("api/v1/reports", body, sign, "text/plain")
        results, renewed = _read(answer, _results)
        if len(results) != len(reports):
            raise OriginError("protocol", f"{len(results)} results for {len(reports)} reports")
        return [
            HandedIn(result, renewed.get(_writer(report), b""))
            for result, report in zip(results, reports, strict=True)
        ]

    async def _post(
        self, path: str, body: bytes, sign: Callable[[Url, bytes], Headers], kind: str = "application/json"
    ) -> Fields:
        url = self._base.below(path)
        corrected = False

        def headers() -> Headers:  # each time with a signature of its own
            return [("Accept-Encoding", "gzip"), ("Content-Type", kind), *sign(url, body)]

        while True:
            async with self._client.request(
                "POST", url, headers(), body, deadline_s=self._answer_s, repeat=headers
            ) as response:
                if response.status in (200, 201):
                    data = await response.read_decoded(limits.DEVICE_API_ANSWER_MAX)
                    break
                refusal = _refusal(response.status, await response.read_decoded(REFUSAL_SIZE_MAX))
                if response.status == 429 or (response.status == 503 and refusal.reason == "status"):
                    raise OriginBusy(refusal.message, retry_after_s(response))
                if refusal.reason != "clock" or corrected or not self._correct(response.headers.get("date")):
                    raise refusal
                corrected = True
        try:
            return load_object(data, "answer", limits.DEVICE_API_ANSWER_MAX)
        except ContentError as error:
            raise OriginError("protocol", f"{url}: {error.message}") from error

    def _correct(self, date: str | None) -> bool:
        """Sign by the coordinator's clock from now on; False if its answer does not tell the time."""
        try:
            self._clock_offset_s = parsedate_to_datetime(date or "").timestamp() - self._now()
        except (ValueError, TypeError, OverflowError):
            return False
        return True


def signature_headers(
    url: Url, body: bytes, device: str, key: ec.EllipticCurvePrivateKey, created: float
) -> Headers:
    """`Content-Digest`, `Signature-Input` and `Signature` of a POST of `body` to `url`."""
    message = _Message(str(url))
    signer = HTTPMessageSigner(
        signature_algorithm=algorithms.ECDSA_P256_SHA256,
        key_resolver=MappingKeyResolver(public_keys={}, private_keys={device: key}),
    )
    signer.sign(
        message,
        key_id=device,
        created=datetime.fromtimestamp(int(created), UTC),
        nonce=secrets.token_urlsafe(18),
        label="device",
        covered_component_ids=COMPONENTS,
        body=body,
    )
    return list(message.headers.items())


@dataclass
class _Message:
    """The request as the signature library wants to see it."""

    url: str
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def _refusal(status: int, body: bytes) -> CoordinatorRefusal:
    try:
        fields = load_object(body, "answer", REFUSAL_SIZE_MAX)
        return CoordinatorRefusal(fields.name("error"), fields.text("message")[:1000], status)
    except ContentError:
        return CoordinatorRefusal("status", f"status {status}", status)


def _read(answer: Fields, reader: Callable[[Fields], _T]) -> _T:
    try:
        return reader(answer)
    except ContentError as error:
        raise OriginError("protocol", f"the coordinator's answer: {error.message}") from error


def _enrolment(answer: Fields) -> Enrolment:
    return Enrolment(
        certificate=answer.text("certificate", length_max=REFUSAL_SIZE_MAX).encode(),
        ca=answer.text("ca", length_max=REFUSAL_SIZE_MAX).encode(),
        site=answer.name("site"),
        groups=answer.names("groups"),
    )


def _checkin_answer(answer: Fields) -> CheckinAnswer:
    entries = answer.objects("roster", length_max=limits.DISCOVERED_MAX)
    sequence = answer.integer("sequence", 0, SEQUENCE_MAX) if "sequence" in answer else None
    roster = tuple(_roster_entry(e) for e in entries)
    renewed = None
    if "certificate" in answer:
        renewed = answer.text("certificate", length_max=limits.CERTIFICATE_SIZE_MAX).encode()
    return CheckinAnswer(roster, answer.integer("poll_s", 1, POLL_S_MAX), sequence, renewed)


def _results(answer: Fields) -> tuple[list[str], dict[str, bytes]]:
    """What became of each report, and new certificates by device; one that is too long is left out."""
    results = list(answer.names("results", length_max=limits.REPORTS_PER_BATCH_MAX))
    found = answer.text_map("certificates") if "certificates" in answer else {}
    renewed = {device: pem.encode() for device, pem in found.items()}
    return results, {d: pem for d, pem in renewed.items() if len(pem) <= limits.CERTIFICATE_SIZE_MAX}


def _writer(report: bytes) -> str:
    """The device that wrote a report; none if it is not one."""
    try:
        return Report.parse(split(report)[1]).device
    except ContentError:
        return ""


def _roster_entry(entry: Fields) -> RosterEntry:
    return RosterEntry(
        device=entry.name("device"),
        host=entry.text("host", length_max=255),
        port=entry.integer("port", 0, 65_535),
        age_s=entry.integer("age_s", 0, AGE_S_MAX),
        image=entry.optional_digest("image"),
    )
