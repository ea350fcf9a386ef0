"""A small HTTP/1.1 client on trio and h11, bounded in bytes and in seconds, that counts wire bytes.

It does what a device needs of an origin and of the coordinator: GET and POST, kept-alive connections,
HTTPS with a pinned CA or the system's roots and with TLS sessions resumed, a few redirects. On a thin
link a handshake weighs more than what is asked, so small requests to one server wait for each other's
connection rather than make one (`deadline_s` says which are small). Every wait is held against a least rate
and a deadline (`Pace`), heads against a size, and nothing is read ahead of the consumer. Why not a
larger client: `docs/adr/0007-http-client.md`.

Not for ranges and digests (`p2p.adapters.origin`), nor for deciding when to try again: retries are
the caller's. The one exception is a kept-alive connection that the server had closed already.
"""

from __future__ import annotations

import contextlib
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import trio
from cryptography import x509

from p2p.adapters.background import Background
from p2p.adapters.channel import Channel, TcpChannel, TlsChannel, from_trio, tune
from p2p.adapters.url import Url, parse_url
from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.errors import ConfigError, OriginError

READ_SIZE = 64 * limits.KIB
INFORMATIONAL_MAX = 8
USER_AGENT = "slipstream"

TURN_S = 5.0
"""A small request waits so long for the connection of another; a new one takes two or three round trips."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
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

    def __init__(self, connection: _Connection, head: h11.Response, pace: Pace, url: Url) -> None:
        self.status = int(head.status_code)
        self.url = url
        self.headers = _fields(head)
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


class HttpClient:
    """Requests to any number of servers, with a pool of kept-alive connections to each.

    `ca_file` pins what HTTPS servers must chain to (else the system's roots). `now` gives trusted
    time: certificates are then held against it rather than against the system clock, which on a
    device without a battery stands anywhere. `background`: answers give way to what else uses the link.
    `connect_s`, `idle_s` (seconds) and `rate_min` (bytes/s) replace the limits in tests.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        now: Callable[[], float] | None = None,
        background: Background | None = None,
        connect_s: float = limits.ORIGIN_CONNECT_S,
        idle_s: float = limits.ORIGIN_IDLE_S,
        rate_min: float = limits.ORIGIN_RATE_MIN,
    ) -> None:
        self._now = now
        self._background = background
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._rate_min = rate_min
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None
        self._idle: dict[Server, list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._turns: dict[Server, trio.Semaphore] = {}
        self._sessions: dict[Server, ssl.SSLSession] = {}
        """The newest ticket of each server: good for one connection (RFC 8446, appendix C.4)."""
        self._wire_received = 0
        self._wire_sent = 0
        if ca_file is not None:
            self._tls_context()  # a wrong file is said at the start

    @property
    def wire_received(self) -> int:
        """Bytes received on sockets so far: bodies, heads and TLS records."""
        return self._wire_received + sum(c.channel.bytes_received for c in self._open)

    @property
    def wire_sent(self) -> int:
        """Bytes sent on sockets so far."""
        return self._wire_sent + sum(c.channel.bytes_sent for c in self._open)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: Url,
        headers: Headers = (),
        body: bytes = b"",
        *,
        deadline_s: float = float("inf"),
    ) -> AsyncIterator[Response]:
        """Send one request and give the answer's head, whatever its status.

        One with a deadline is small: it waits up to `TURN_S` for the connection of another such request to
        the same server. One without (a stream) may go on for hours, and waits for nobody.

        `Accept-Encoding` is `identity` unless `headers` has another, whose answer is for `read_decoded`.
        GET follows `limits.ORIGIN_REDIRECTS_MAX` redirects, never from HTTPS to HTTP. Raises
        `OriginError`: `unreachable`, `certificate`, `too-slow`, `truncated`, `protocol`, `redirect`;
        the body, while it is read, the same.
        """
        async with self._turn(url.server, small=deadline_s < float("inf")):
            pace = Pace(self._rate_min, self._idle_s, trio.current_time() + deadline_s)
            for _ in range(limits.ORIGIN_REDIRECTS_MAX + 1):
                connection, head = await self._exchange(method, url, headers, body, pace)
                try:
                    target = _redirect(head, url) if method in ("GET", "HEAD") else None
                    if target is None:
                        yield Response(connection, head, pace, url)
                        return
                finally:
                    await self._release(connection)
                url = target
            raise OriginError(
                "redirect", f"{url}: more than {limits.ORIGIN_REDIRECTS_MAX} redirects", retry=False
            )

    async def aclose(self) -> None:
        """Close all connections."""
        self._idle.clear()
        for connection in list(self._open):
            await self._discard(connection)

    @asynccontextmanager
    async def _turn(self, server: Server, *, small: bool) -> AsyncIterator[None]:
        """Small requests to one server come one after the other, unless one takes long."""
        turn = self._turns.setdefault(server, trio.Semaphore(1))
        mine = False
        if small:
            with trio.move_on_after(TURN_S):
                await turn.acquire()
                mine = True
        try:
            yield
        finally:
            if mine:
                turn.release()

    async def _exchange(
        self, method: str, url: Url, headers: Headers, body: bytes, pace: Pace
    ) -> tuple[_Connection, h11.Response]:
        while True:
            connection, reused = await self._connection(url, pace)
            answered_before = connection.channel.bytes_received
            try:
                return connection, await connection.start(method, url, headers, body, pace)
            except BaseException as error:
                silent = connection.channel.bytes_received == answered_before
                await self._discard(connection)
                lost = isinstance(error, OriginError) and error.reason == "truncated"
                if not (lost and reused and silent and method in ("GET", "HEAD")):
                    raise

    async def _connection(self, url: Url, pace: Pace) -> tuple[_Connection, bool]:
        idle = self._idle.get(url.server, [])
        while idle:
            connection = idle.pop()
            if not connection.channel.is_stale:
                connection.channel.probe(True)
                return connection, True
            await self._discard(connection)
        connection = _Connection(await self._connect(url, pace), url.server, self._background)
        self._open.add(connection)
        return connection, False

    async def _connect(self, url: Url, pace: Pace) -> Channel:
        allowance = min(self._connect_s, pace.allowance_s(trio.current_time()))
        with trio.move_on_after(allowance):
            try:
                stream = await trio.open_tcp_stream(url.host, url.port)
            except (OSError, ValueError) as error:
                raise OriginError("unreachable", f"{url}: {error}") from error
            sock = from_trio(stream)
            tune(sock)
            if url.scheme == "http":
                return TcpChannel(sock)
            session = self._sessions.pop(url.server, None)
            channel = TlsChannel(sock, self._tls_context(), server_hostname=url.host, session=session)
            try:
                await channel.handshake()
                self._check_time(channel, url)
            except BaseException as error:
                self._wire_received += channel.bytes_received
                self._wire_sent += channel.bytes_sent
                await channel.aclose()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise OriginError("certificate", f"{url}: {error.verify_message}") from error
                if isinstance(error, OSError):
                    raise OriginError("unreachable", f"{url}: no TLS connection ({error})") from error
                raise
            return channel
        raise OriginError("unreachable", f"{url}: no connection in {allowance:g} s")

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                context = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"CA file {self._ca_file}: {error}") from error
            context.set_alpn_protocols(["http/1.1"])
            if self._now is not None:
                context.verify_flags |= _NO_CHECK_TIME
            self._context = context
        return self._context

    def _check_time(self, channel: TlsChannel, url: Url) -> None:
        if self._now is None:
            return
        certificate = x509.load_der_x509_certificate(channel.peer_certificate or b"")
        if certificate.not_valid_after_utc.timestamp() < self._now():
            raise OriginError("certificate", f"{url}: the server's certificate has expired")

    async def _release(self, connection: _Connection) -> None:
        if isinstance(connection.channel, TlsChannel) and (session := connection.channel.session) is not None:
            self._sessions[connection.server] = session
        idle = self._idle.setdefault(connection.server, [])
        if connection.is_reusable and len(idle) < limits.ORIGIN_IDLE_CONNECTIONS_MAX:
            connection.channel.probe(False)  # five probes until the server closes it weigh as much as a poll
            idle.append(connection)
        else:
            await self._discard(connection)

    async def _discard(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._wire_received += connection.channel.bytes_received
            self._wire_sent += connection.channel.bytes_sent
        if self._background is not None:
            self._background.forget(connection.channel)
        await connection.channel.aclose()


class _Connection:
    """One connection: h11's state and the channel below it."""

    def __init__(self, channel: Channel, server: Server, background: Background | None) -> None:
        self.channel = channel
        self.server = server
        self._background = background
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.ORIGIN_HEADER_MAX)
        self._buffer = memoryview(bytearray(READ_SIZE))

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

    async def start(self, method: str, url: Url, headers: Headers, body: bytes, pace: Pace) -> h11.Response:
        """Send the request and return the head of the final answer."""
        lines = [("Host", url.authority), ("User-Agent", USER_AGENT), *headers]
        if not any(name.lower() == "accept-encoding" for name, _ in headers):
            lines.append(("Accept-Encoding", "identity"))
        if body or method == "POST":
            lines.append(("Content-Length", str(len(body))))
        request = self._http.send(h11.Request(method=method, target=url.target, headers=lines)) or b""
        data = (self._http.send(h11.Data(data=body)) or b"") if body else b""
        end = self._http.send(h11.EndOfMessage()) or b""
        await self._send(request + data + end, pace)
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
                with trio.move_on_after(pace.allowance_s(start)):
                    count = await self.channel.receive_into(self._buffer)
            except ssl.SSLEOFError:
                count = 0  # whether the answer is whole is for its framing to say
            except OSError as error:
                raise OriginError("truncated", f"the connection broke: {error}") from error
            pace.account(trio.current_time() - start, self.channel.bytes_received - before)
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


def _fields(head: h11.Response) -> dict[str, str]:
    """Header fields by lower-case name; repeated ones joined as RFC 9110 section 5.3 says."""
    fields: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


def _redirect(head: h11.Response, url: Url) -> Url | None:
    """Where a redirect leads, or None if the answer is not one."""
    if head.status_code not in _REDIRECTS:
        return None
    location = _fields(head).get("location", "")
    try:
        target = parse_url(url.join(location))
    except ConfigError as error:
        raise OriginError(
            "redirect", f"{url}: redirect to {location[:200]!r}: {error}", retry=False
        ) from error
    if url.scheme == "https" and target.scheme != "https":
        raise OriginError("redirect", f"{url}: redirect from HTTPS to {target}", retry=False)
    return target
