"""One HTTP/1.1 connection of the client (`p2p.adapters.http`), and the answer that is read off it.

Every wait is held against a least rate and a deadline (`Pace`), a head against a size, and nothing is read
ahead of the consumer. Not for which connection a request gets, nor for redirects: those are the client's.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import zlib
from collections.abc import Sequence

import h11
import trio

from p2p.adapters.background import Background
from p2p.adapters.channel import Channel
from p2p.adapters.url import Url
from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.errors import OriginError

READ_SIZE = 64 * limits.KIB
INFORMATIONAL_MAX = 8
USER_AGENT = "slipstream"

SILENT_S = 5.0
SILENT_FACTOR = 3
"""A kept-alive connection that gives no byte of an answer for so many seconds, or for so many times the
longest that it ever took to, is given up for a request that may be repeated: something on the way (NAT,
firewall, modem) may have forgotten it, and says nothing. A satellite's round trip is 0.6 s; a new
connection takes two or three of them."""

DOUBT_S = 30.0
"""One that lay idle for so many seconds may have been forgotten: then that holds for any GET, as none has
begun to come. In use it is given the time that a range may take to begin (`ORIGIN_IDLE_S`): what asks for it
twice pays for it twice."""

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: with gzip's header, checksum and length

Headers = Sequence[tuple[str, str]]
Server = tuple[str, str, int]
"""Scheme, host and port."""


class Pace:
    """A least rate, averaged over windows of `idle_s` seconds of *waiting*, and a deadline.

    Only time spent waiting for the network counts: a consumer that is slow to take what has arrived
    does not make the server slow.
    """

    def __init__(self, rate_min: float, idle_s: float, deadline: float) -> None:
        self._bytes_min = rate_min * idle_s
        self._idle_s = idle_s
        self._deadline = deadline
        self._waited = 0.0
        self._received = 0

    def allowance_s(self, now: float) -> float:
        """How long the next wait may take. Raises `OriginError("too-slow")` past the deadline."""
        if now >= self._deadline:
            raise OriginError("too-slow", "the answer did not end before its deadline")
        return min(self._idle_s - self._waited, self._deadline - now)

    def account(self, waited_s: float, received: int) -> None:
        """Count a wait and what it brought. Raises `OriginError("too-slow")`."""
        self._waited += waited_s
        self._received += received
        if self._waited >= self._idle_s:
            if self._received < self._bytes_min:
                rate = self._received / self._waited
                raise OriginError("too-slow", f"{rate:.0f} bytes/s over {self._waited:.0f} s")
            self._waited, self._received = 0.0, 0


class Response:
    """The head of an answer; iterate for the body, which arrives only as fast as it is taken."""

    def __init__(self, connection: HttpConnection, head: h11.Response, pace: Pace, url: Url) -> None:
        self.status = int(head.status_code)
        self.url = url
        self.headers = fields_of(head)
        self._connection = connection
        self._pace = pace
        self._ended = False

    @property
    def content_length(self) -> int | None:
        """What the server announced, in bytes."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() else None

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> Buffer:
        if self._ended:
            raise StopAsyncIteration
        event = await self._connection.next_event(self._pace)
        if isinstance(event, h11.Data):
            return event.data
        self._ended = True
        raise StopAsyncIteration

    async def read(self, size_max: int) -> bytes:
        """The whole body. Raises `OriginError("too-long")` as soon as it is over `size_max` bytes."""
        self._check_announced(size_max)
        body = bytearray()
        async for part in self:
            body += part
            if len(body) > size_max:
                raise self._too_long(size_max)
        return bytes(body)

    async def read_decoded(self, size_max: int) -> bytes:
        """The whole body as it was before its content coding, which is gzip (one member) or none.

        Raises `OriginError`: `too-long` as soon as the body is over `size_max` bytes, before or after
        decoding; `encoded` (another coding), `truncated` and `protocol` (damaged, or something behind it).
        """
        coding = self.headers.get("content-encoding", "identity").lower()
        if coding == "identity":
            return await self.read(size_max)
        if coding != "gzip":
            raise OriginError("encoded", f"{self.url}: {coding[:80]!r} was not asked for", retry=False)
        self._check_announced(size_max)
        decoder = zlib.decompressobj(wbits=_GZIP)
        body, coded_size = bytearray(), 0
        async for part in self:
            coded_size += len(part)
            try:
                body += decoder.decompress(part, size_max + 1 - len(body))
            except zlib.error as error:
                raise OriginError("protocol", f"{self.url}: damaged gzip ({error})") from error
            if max(len(body), coded_size) > size_max:
                raise self._too_long(size_max)
            if decoder.unused_data:
                raise OriginError("protocol", f"{self.url}: bytes behind the gzip stream")
        if not decoder.eof:
            raise OriginError("truncated", f"{self.url}: the gzip stream does not end")
        return bytes(body)

    def _check_announced(self, size_max: int) -> None:
        if (self.content_length or 0) > size_max:
            raise OriginError("too-long", f"{self.url}: {self.content_length} bytes are over {size_max}")

    def _too_long(self, size_max: int) -> OriginError:
        return OriginError("too-long", f"{self.url}: more than {size_max} bytes")


class SilentConnectionError(OriginError):
    """A kept-alive connection gave no byte of an answer in `SILENT_S`: it may not lead anywhere any more."""

    def __init__(self, url: Url, waited_s: float) -> None:
        super().__init__("too-slow", f"{url}: no answer on a kept connection in {waited_s:.0f} s")


class _SilenceError(Exception):
    """Nothing came until `_silent_until`."""


class HttpConnection:
    """One connection: h11's state and the channel below it."""

    def __init__(self, channel: Channel, server: Server, background: Background | None) -> None:
        self.channel = channel
        self.server = server
        self._background = background
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.ORIGIN_HEADER_MAX)
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._slowest_s = 0.0
        self._silent_until = math.inf
        self._idle_since = math.inf

    def rest(self) -> None:
        """Nothing is asked of it from now on, until it is used again."""
        self._idle_since = trio.current_time()

    @property
    def is_doubtful(self) -> bool:
        """Whether it lay idle for so long that something on the way may have forgotten it."""
        return trio.current_time() - self._idle_since >= DOUBT_S

    @property
    def is_reusable(self) -> bool:
        """Whether the last exchange is whole; what of it is in the buffer already is taken in."""
        with contextlib.suppress(h11.RemoteProtocolError):
            if self._http.their_state is h11.SEND_BODY:
                self._http.next_event()
            if self._http.their_state is h11.DONE and self._http.our_state is h11.DONE:
                self._http.start_next_cycle()
                return not self._http.trailing_data[0]
        return False

    async def start(
        self, method: str, url: Url, headers: Headers, body: bytes, pace: Pace, *, impatient: bool = False
    ) -> h11.Response:
        """Send the request and return the head of the final answer.

        `impatient`: raises `SilentConnectionError` when its first byte does not come soon (`SILENT_S`).
        """
        lines = [("Host", url.authority), ("User-Agent", USER_AGENT), *headers]
        if not any(name.lower() == "accept-encoding" for name, _ in headers):
            lines.append(("Accept-Encoding", "identity"))
        if body or method == "POST":
            lines.append(("Content-Length", str(len(body))))
        request = self._http.send(h11.Request(method=method, target=url.target, headers=lines)) or b""
        data = (self._http.send(h11.Data(data=body)) or b"") if body else b""
        end = self._http.send(h11.EndOfMessage()) or b""
        await self._send(request + data + end, pace)
        asked_at = trio.current_time()
        silent_s = max(SILENT_S, SILENT_FACTOR * self._slowest_s)
        self._silent_until = asked_at + silent_s if impatient else math.inf
        try:
            self._http.receive_data(await self._receive(pace))
        except _SilenceError as error:
            raise SilentConnectionError(url, silent_s) from error
        self._slowest_s = max(self._slowest_s, trio.current_time() - asked_at)
        for _ in range(INFORMATIONAL_MAX):
            event = await self.next_event(pace)
            if isinstance(event, h11.Response):
                # h11 bounds what is incomplete; a head that came in one read is whole already.
                if sum(len(n) + len(v) + 4 for n, v in event.headers) > limits.ORIGIN_HEADER_MAX:
                    raise OriginError("protocol", f"{url}: a head of over {limits.ORIGIN_HEADER_MAX} bytes")
                return event
        raise OriginError("protocol", f"{url}: more than {INFORMATIONAL_MAX} interim answers")

    async def next_event(self, pace: Pace) -> h11.Event:
        """The next event of the answer. Raises `OriginError`: `protocol`, `truncated`, `too-slow`."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                cut = self._http.trailing_data[1]
                raise OriginError("truncated" if cut else "protocol", str(error)) from error
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._receive(pace))
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise OriginError("truncated", "the server closed the connection")
            else:
                return event  # type: ignore[return-value]  # NEED_DATA and PAUSED are dealt with

    async def _receive(self, pace: Pace) -> bytes:
        while True:
            start = trio.current_time()
            before = self.channel.bytes_received
            count = None
            try:
                with trio.move_on_after(min(pace.allowance_s(start), self._silent_until - start)):
                    count = await self.channel.receive_into(self._buffer)
            except ssl.SSLEOFError:
                count = 0  # whether the answer is whole is for its framing to say
            except OSError as error:
                raise OriginError("truncated", f"the connection broke: {error}") from error
            now, received = trio.current_time(), self.channel.bytes_received - before
            if received:
                self._silent_until = math.inf
            elif now >= self._silent_until:
                raise _SilenceError
            pace.account(now - start, received)
            if count is not None:
                if self._background is not None and count:
                    self._background.received(self.server, self.channel, count)
                return bytes(self._buffer[:count])

    async def _send(self, data: bytes, pace: Pace) -> None:
        with trio.move_on_after(pace.allowance_s(trio.current_time())):
            try:
                await self.channel.send(data)
            except OSError as error:
                raise OriginError("truncated", f"the connection broke: {error}") from error
            return
        raise OriginError("too-slow", "the server does not take the request")


def fields_of(head: h11.Response) -> dict[str, str]:
    """Header fields by lower-case name; repeated ones joined as RFC 9110 section 5.3 says."""
    fields: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields
