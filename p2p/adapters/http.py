"""A small HTTP/1.1 client on trio and h11, bounded in bytes and in seconds, that counts wire bytes.

It does what a device needs of an origin and of the coordinator: GET and POST, kept-alive connections,
HTTPS with a pinned CA or the system's roots and with TLS sessions resumed, a few redirects. On a thin
link a handshake weighs more than what is asked, so small requests to one server wait for each other's
connection rather than make one (`deadline_s` says which are small). What crosses a connection and how it is
bounded is in `http_connection`. Why not a larger client: `docs/adr/0007-http-client.md`.

Not for ranges and digests (`p2p.adapters.origin`), nor for deciding when to try again: retries are
the caller's. The one exception is a kept-alive connection that leads nowhere any more: the server had
closed it, or somebody on the way (NAT, firewall, modem) had forgotten it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import trio
from cryptography import x509

from p2p.adapters.background import Background
from p2p.adapters.channel import Channel, TcpChannel, TlsChannel, from_trio, tune
from p2p.adapters.http_connection import (
    Headers,
    HttpConnection,
    Pace,
    Response,
    Server,
    SilentConnectionError,
    fields_of,
)
from p2p.adapters.url import Url, parse_url
from p2p.content import limits
from p2p.errors import ConfigError, OriginError

log = logging.getLogger(__name__)

TURN_S = 5.0
"""A small request waits so long for the connection of another; a new one takes two or three round trips."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


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
        self._idle: dict[Server, list[HttpConnection]] = {}
        self._open: set[HttpConnection] = set()
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
        repeat: Callable[[], Headers] | None = None,
    ) -> AsyncIterator[Response]:
        """Send one request and give the answer's head, whatever its status.

        One with a deadline is small: it waits up to `TURN_S` for the connection of another such request to
        the same server. One without (a stream) may go on for hours, and waits for nobody.

        `repeat` says that the request may come to the server twice, and gives the `headers` of the second
        time (a signature counts once): on a kept connection that does not answer soon it is not waited for
        long, but sent once more on a new one. For what is small; a stream's first byte may take its time,
        but on a connection that lay idle for `DOUBT_S`: there every GET is sent once more.

        `Accept-Encoding` is `identity` unless `headers` has another, whose answer is for `read_decoded`.
        GET follows `limits.ORIGIN_REDIRECTS_MAX` redirects, never from HTTPS to HTTP. Raises
        `OriginError`: `unreachable`, `certificate`, `too-slow`, `truncated`, `protocol`, `redirect`;
        the body, while it is read, the same.
        """
        async with self._turn(url.server, small=deadline_s < float("inf")):
            pace = Pace(self._rate_min, self._idle_s, trio.current_time() + deadline_s)
            for _ in range(limits.ORIGIN_REDIRECTS_MAX + 1):
                connection, head = await self._exchange(method, url, headers, body, pace, repeat)
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
        self,
        method: str,
        url: Url,
        headers: Headers,
        body: bytes,
        pace: Pace,
        repeat: Callable[[], Headers] | None,
    ) -> tuple[HttpConnection, h11.Response]:
        again = method in ("GET", "HEAD") or repeat is not None
        while True:
            connection, reused = await self._connection(url, pace)
            answered_before = connection.channel.bytes_received
            try:
                impatient = reused and (repeat is not None or (again and connection.is_doubtful))
                return connection, await connection.start(
                    method, url, headers, body, pace, impatient=impatient
                )
            except BaseException as error:
                silent = connection.channel.bytes_received == answered_before
                await self._discard(connection)
                lost = isinstance(error, OriginError) and error.reason == "truncated"
                forgotten = isinstance(error, SilentConnectionError)
                if not (again and reused and silent and (lost or forgotten)):
                    raise
                if forgotten:
                    log.info("%s; asking anew on a new connection", error)
                    await self._forget(url.server)
                if repeat is not None:
                    headers = repeat()

    async def _connection(self, url: Url, pace: Pace) -> tuple[HttpConnection, bool]:
        idle = self._idle.get(url.server, [])
        while idle:
            connection = idle.pop()
            if not connection.channel.is_stale:
                connection.channel.probe(True)
                return connection, True
            await self._discard(connection)
        connection = HttpConnection(await self._connect(url, pace), url.server, self._background)
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

    async def _release(self, connection: HttpConnection) -> None:
        if isinstance(connection.channel, TlsChannel) and (session := connection.channel.session) is not None:
            self._sessions[connection.server] = session
        idle = self._idle.setdefault(connection.server, [])
        if connection.is_reusable and len(idle) < limits.ORIGIN_IDLE_CONNECTIONS_MAX:
            connection.channel.probe(False)  # five probes until the server closes it weigh as much as a poll
            connection.rest()
            idle.append(connection)
        else:
            await self._discard(connection)

    async def _forget(self, server: Server) -> None:
        """What lost one idle connection will have lost the others too, which were idle for longer."""
        for connection in self._idle.pop(server, []):
            await self._discard(connection)

    async def _discard(self, connection: HttpConnection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._wire_received += connection.channel.bytes_received
            self._wire_sent += connection.channel.bytes_sent
        if self._background is not None:
            self._background.forget(connection.channel)
        await connection.channel.aclose()


def _redirect(head: h11.Response, url: Url) -> Url | None:
    """Where a redirect leads, or None if the answer is not one."""
    if head.status_code not in _REDIRECTS:
        return None
    location = fields_of(head).get("location", "")
    try:
        target = parse_url(url.join(location))
    except ConfigError as error:
        raise OriginError(
            "redirect", f"{url}: redirect to {location[:200]!r}: {error}", retry=False
        ) from error
    if url.scheme == "https" and target.scheme != "https":
        raise OriginError("redirect", f"{url}: redirect from HTTPS to {target}", retry=False)
    return target
