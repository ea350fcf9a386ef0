"""The origin over HTTP: metadata by name, immutable objects by digest and range (`ports.Origin`).

Any server will do that answers Range requests (RFC 9110 section 14). Its answers are hostile until a
signature or a digest says otherwise: here they are held to what was asked for, byte for byte, and
blamed with a stable reason when they depart from it. Not for retries, budgets or choosing between
origins (`p2p.agent`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.utils import parsedate_to_datetime

from p2p.adapters.http import HttpClient
from p2p.adapters.http_connection import Headers, Response
from p2p.adapters.url import Url, parse_url
from p2p.content import limits
from p2p.content.digests import Buffer, Digest, verify
from p2p.errors import ContentError, OriginError

RETRY_AFTER_MAX_S = 86_400.0

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_METADATA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")


class OriginBusy(OriginError):  # noqa: N818 (a state)
    """The origin asks for patience (429, 503). `retry_after_s` is what it asked for, if it did."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__("busy", message)
        self.retry_after_s = retry_after_s


class HttpOrigin:
    """`base_url` is the directory that holds `metadata/` and `objects/`.

    `client` may be shared; `wire_bytes` counts all that it received. `small_s`: seconds that a whole
    metadata file or small object may take.
    """

    def __init__(self, base_url: str, client: HttpClient, *, small_s: float = limits.ORIGIN_SMALL_S) -> None:
        self._base = parse_url(base_url)
        self._client = client
        self._small_s = small_s

    @property
    def wire_bytes(self) -> int:
        """Application bytes received so far, headers and TLS records included."""
        return self._client.wire_received

    async def metadata(self, name: str, size_max: int) -> bytes:
        """A metadata file. Raises `OriginError` (`not-found` on 404, `too-long` over `size_max` bytes)."""
        if not _METADATA_NAME.fullmatch(name):
            raise OriginError("not-found", f"{name[:80]!r} is not a metadata file's name", retry=False)
        return await self._whole(self._base.below(f"metadata/{name}"), size_max, repeat=tuple)

    async def object(self, digest: Digest, size: int) -> bytes:
        """A whole small object of exactly `size` bytes; `OriginError("wrong-digest")` if it is another."""
        url = self._object_url(digest)
        data = await self._whole(url, size)
        if len(data) < size:
            raise OriginError("truncated", f"{url}: {len(data)} of {size} bytes")
        try:
            verify(data, digest, str(url))
        except ContentError as error:
            raise OriginError("wrong-digest", error.message) from error
        return data

    def stream(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Buffer]]:
        """Bytes `[start, stop)` of an object as they arrive, exactly that many or `OriginError`.

        Reasons: `unreachable`, `certificate`, `not-found`, `busy`, `status`, `redirect`, `encoded`,
        `range-ignored`, `wrong-range`, `truncated`, `too-long`, `too-slow`, `protocol`. The bytes are
        unverified; a buffer is the consumer's to keep. Nothing is read beyond what is taken.
        """
        return self._stream(self._object_url(digest), start, stop)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()

    def _object_url(self, digest: Digest) -> Url:
        return self._base.below(f"objects/{digest.hex()}")

    async def _whole(self, url: Url, size_max: int, repeat: Callable[[], Headers] | None = None) -> bytes:
        async with self._client.request("GET", url, deadline_s=self._small_s, repeat=repeat) as response:
            _check_status(response, 200)
            return await response.read(size_max)

    @asynccontextmanager
    async def _stream(self, url: Url, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        if not 0 <= start <= stop:
            raise ValueError(f"not a range: [{start}, {stop})")
        if start == stop:
            yield _Nothing()
            return
        headers = [("Range", f"bytes={start}-{stop - 1}")]
        async with self._client.request("GET", url, headers) as response:
            _check_range(response, start, stop)
            yield _Exactly(response, stop - start)


class _Nothing:
    def __aiter__(self) -> _Nothing:
        return self

    async def __anext__(self) -> Buffer:
        raise StopAsyncIteration


class _Exactly:
    """The body of `response`, which must have `size` bytes."""

    def __init__(self, response: Response, size: int) -> None:
        self._response = response
        self._left = size

    def __aiter__(self) -> _Exactly:
        return self

    async def __anext__(self) -> Buffer:
        try:
            part = await anext(self._response)
        except StopAsyncIteration:
            if self._left:
                raise OriginError(
                    "truncated", f"{self._response.url}: ended {self._left} bytes early"
                ) from None
            raise
        if len(part) > self._left:
            raise OriginError("too-long", f"{self._response.url}: more bytes than were asked for")
        self._left -= len(part)
        return part


def _check_status(response: Response, expected: int) -> None:
    status, url = response.status, response.url
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise OriginError("encoded", f"{url}: the origin encodes what must come as it is", retry=False)
    if status == expected:
        return
    if status in (404, 410):
        raise OriginError("not-found", f"{url}: status {status}", retry=False)
    if status in (429, 503):
        raise OriginBusy(f"{url}: status {status}", retry_after_s(response))
    raise OriginError("status", f"{url}: status {status}", retry=status >= 500 or status == 408)


def _check_range(response: Response, start: int, stop: int) -> None:
    url, length = response.url, response.content_length
    if response.status == 416:
        raise OriginError("truncated", f"{url}: the object has no bytes {start}-{stop - 1}")
    if response.status == 200:
        _check_status(response, 200)
        if start or (length is not None and length > stop):
            raise OriginError("range-ignored", f"{url}: the origin ignores Range", retry=False)
    else:
        _check_status(response, 206)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None or (int(match[1]), int(match[2])) != (start, stop - 1):
            got = response.headers.get("content-range", "no Content-Range")
            raise OriginError("wrong-range", f"{url}: {got[:80]!r} instead of bytes {start}-{stop - 1}")
    if length is not None and length != stop - start:
        reason = "too-long" if length > stop - start else "truncated"
        raise OriginError(reason, f"{url}: {length} bytes announced instead of {stop - start}")


def retry_after_s(response: Response) -> float | None:
    """Seconds of a Retry-After field in either form (RFC 9110 section 10.2.3).

    A date is taken relative to the answer's own Date, so that no clock of ours matters.
    """
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        until = parsedate_to_datetime(text)
        since = parsedate_to_datetime(response.headers["date"])
        return min(max((until - since).total_seconds(), 0.0), RETRY_AFTER_MAX_S)
    except (KeyError, ValueError, TypeError):
        return None
