"""Peer streams over TLS 1.3, both ends with a device certificate of the fleet: `ports.Transport`.

A connection becomes a stream in four steps, all within `limits.HANDSHAKE_S`:

1. TCP, to or from a configured address;
2. TLS 1.3 with certificates on both sides and the application protocol `slipstream/1`; no tickets,
   no resumption, no system roots;
3. each end identifies the other (`identity.FleetAuthority.identify`, with trusted time) and sends one
   byte, its verdict; a TLS 1.3 client would otherwise believe itself accepted before the server has
   looked at its certificate;
4. when both verdicts are `WELCOME`, both ends hand out the stream.

So neither side sends or receives a byte of the swarm's before both are authenticated, and a refusal
has the same reason on both sides. Half-open connections are capped, in all and per address: at a
cap the oldest of the most crowded address goes, so that a flood displaces itself and an honest peer,
whose handshake takes milliseconds, gets in.

Not for messages (`p2p.swarm`) nor idle deadlines of an open stream (`p2p.agent`).
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from p2p.adapters.channel import from_trio, tune
from p2p.adapters.identity import Credentials
from p2p.adapters.tls_socket import TlsSocketChannel
from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.errors import ConfigError, PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream

log = logging.getLogger(__name__)

PROTOCOL = "slipstream/1"
"""The ALPN name; it changes when a peer of the old kind could not understand a peer of the new."""

WELCOME = b"\x00"
VERDICTS = {
    WELCOME: "welcome",
    b"\x01": "not-of-fleet",
    b"\x02": "self",
    b"\x03": "refused",
    b"\x04": "revoked",
}
"""The byte that each end sends after it has identified the other."""

PROBE_S = 60
"""A peer that has said nothing for so long is asked whether it is there. A site of 100 devices has some 3,000
connections, on which nothing else happens for days; who waits for pieces notices sooner by itself."""

LINGER_S = 1.0
LINGER_BYTES = 256 * limits.KIB
LISTEN_BACKLOG = 1024

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: times are judged by trusted time, in step 3
_CERTIFICATE_ALERTS = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_ACCESS_DENIED",
    "ALERT_DECRYPT_ERROR",  # a CA of the same name with another key
)


class TlsPeerStream:
    """One authenticated stream (`ports.PeerStream`)."""

    def __init__(self, channel: TlsSocketChannel, identity: PeerIdentity, remote: str) -> None:
        self._channel = channel
        self.identity = identity
        self.remote = remote
        """The far end's numeric address, without the port."""

    async def send(self, *parts: Buffer) -> None:
        """Send all `parts`, in order. Raises `PeerError("lost")`.

        Concurrent senders are queued whole. A send that was cancelled has left half a record behind:
        every later one raises `lost`.
        """
        try:
            await self._channel.send(*parts)
        except OSError as error:
            raise _lost(error) from error

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        """Fill at least one byte and as much as has arrived; 0 after the far end's orderly close.

        `due` as in `ports.PeerStream`.
        Raises `PeerError("lost")` when the connection broke instead. One task at a time.
        """
        try:
            return await self._channel.receive_into(buffer, due=due)
        except OSError as error:
            raise _lost(error) from error

    async def aclose(self) -> None:
        """Close at once; never raises."""
        await self._channel.aclose()

    @property
    def bytes_received(self) -> int:
        """Bytes on the socket so far, TLS records and handshake included."""
        return self._channel.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Bytes on the socket so far, TLS records and handshake included."""
        return self._channel.bytes_sent


class TlsTransport:
    """Listens from construction on and connects (`ports.Transport`).

    `host` is an address of this machine, or empty for all of both families; `port` 0 lets the system
    choose. `now` gives trusted time in seconds since 1970. `admit` may turn an authenticated device
    away (banned, of no interest): both sides then see `PeerError("refused")`. `revoked` says which
    certificates are, by digest: both sides see `PeerError("revoked")`. `refused` is told of every
    inbound connection that did not become a stream: the remote address and why.

    Raises `ConfigError` when the address cannot be listened on.
    """

    def __init__(
        self,
        credentials: Credentials,
        now: Callable[[], float],
        *,
        host: str = "",
        port: int = 0,
        admit: Callable[[PeerIdentity], bool] | None = None,
        revoked: Callable[[Digest], bool] | None = None,
        refused: Callable[[str, PeerError], None] | None = None,
        handshake_s: float = limits.HANDSHAKE_S,
        half_open_max: int = limits.HALF_OPEN_MAX,
        half_open_per_address_max: int = limits.HALF_OPEN_PER_ADDRESS_MAX,
    ) -> None:
        self._now = now
        self._admit = admit
        self._revoked = revoked
        self._refused = refused
        self._handshake_s = handshake_s
        self._half_open = _HalfOpen(half_open_max, half_open_per_address_max)
        self.use(credentials)
        self._listener = _listen(host, port)

    def use(self, credentials: Credentials) -> None:
        """Present these credentials from the next connection on (after a renewal)."""
        server, client = _context(credentials, server=True), _context(credentials, server=False)
        self._credentials, self._server_context, self._client_context = credentials, server, client

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self._listener.getsockname()[1])

    @property
    def half_open(self) -> int:
        """Inbound connections that are not yet streams."""
        return len(self._half_open)

    async def connect(self, address: PeerAddress) -> TlsPeerStream:
        """Open a stream to `address`.

        Raises `PeerError`: `unreachable`, `handshake` (not TLS 1.3 or not Slipstream), `not-of-fleet`
        (either way: the message tells), `self` (this very device), `refused` (`admit`, theirs or ours),
        `revoked` (theirs or ours).
        """
        deadline = trio.current_time() + self._handshake_s
        sock = await self._open(address, deadline)
        with trio.move_on_at(deadline):
            return await self._secure(sock, address.host, server_side=False)
        raise PeerError("handshake", f"{address.host}: no end of the handshake in {self._handshake_s:g} s")

    async def serve(self, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        """Accept until cancelled; `handler` runs in a task of its own per stream.

        The stream is closed when the handler ends; a `PeerError` that it lets out ends only its stream.
        """
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    sock, remote = await self._listener.accept()
                except trio.ClosedResourceError:
                    return
                except OSError as error:
                    if self._listener.fileno() < 0:
                        return
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        continue  # that connection died in the queue
                    log.warning("accepting peers: %s", error)
                    self._half_open.evict()
                    await trio.sleep(0.1)
                    continue
                nursery.start_soon(self._accepted, sock, _numeric(str(remote[0])), handler)

    def close(self) -> None:
        """Stop listening, which ends `serve` once its handlers have ended."""
        self._listener.close()

    async def _open(self, address: PeerAddress, deadline: float) -> socket.socket:
        try:
            with trio.move_on_at(deadline):
                return from_trio(await trio.open_tcp_stream(address.host, address.port))
        except (OSError, ValueError) as error:  # ValueError: a host that cannot be one (IDNA, a null)
            raise PeerError("unreachable", f"{address.host}:{address.port}: {error}") from error
        raise PeerError("unreachable", f"{address.host}:{address.port}: no answer in {self._handshake_s:g} s")

    async def _accepted(
        self, accepted: trio.socket.SocketType, remote: str, handler: Callable[[PeerStream], Awaitable[None]]
    ) -> None:
        sock = socket.socket(fileno=accepted.detach())
        sock.setblocking(False)
        stream = None
        try:
            with trio.move_on_after(self._handshake_s) as scope, self._half_open.admitted(remote, scope):
                stream = await self._secure(sock, remote, server_side=True)
            if stream is None:
                raise PeerError("handshake", f"{remote}: no end of the handshake in time, or crowded out")
        except PeerError as error:
            log.info("peer at %s refused: %s (%s)", remote, error.reason, error.message)
            if self._refused is not None:
                self._refused(remote, error)
            return
        try:
            await handler(stream)
        except PeerError as error:
            log.info("peer %s: %s (%s)", stream.identity.device, error.reason, error.message)
        finally:
            await stream.aclose()

    async def _secure(self, sock: socket.socket, remote: str, *, server_side: bool) -> TlsPeerStream:
        """Steps 2 to 4; closes the socket unless it returns the stream."""
        tune(sock, probe_s=PROBE_S)
        context = self._server_context if server_side else self._client_context
        try:
            channel = TlsSocketChannel(sock, context, server_side=server_side)
        except OSError as error:
            raise PeerError("handshake", f"{remote}: {error}") from error
        try:
            identity = await self._authenticate(channel, remote)
        except PeerError:
            try:
                with trio.move_on_after(LINGER_S):
                    await channel.linger(LINGER_BYTES)
            finally:
                await channel.aclose()
            raise
        except BaseException:
            await channel.aclose()
            raise
        return TlsPeerStream(channel, identity, remote)

    async def _authenticate(self, channel: TlsSocketChannel, remote: str) -> PeerIdentity:
        try:
            await channel.handshake()
            identity = self._judge(channel)
            await channel.send(WELCOME)
            await self._await_verdict(channel)
        except _Refusal as refusal:
            try:
                await channel.send(refusal.verdict)
            except OSError:
                log.debug("peer at %s left before it was refused", remote)
            raise PeerError(refusal.reason, f"{remote}: {refusal.message}") from refusal
        except ssl.SSLCertVerificationError as error:
            raise PeerError("not-of-fleet", f"{remote}: {error.verify_message}") from error
        except ssl.SSLError as error:
            if any(alert in (error.reason or "") for alert in _CERTIFICATE_ALERTS):
                message = f"{remote}: the peer refused our certificate ({error.reason})"
                raise PeerError("not-of-fleet", message) from error
            raise PeerError("handshake", f"{remote}: {error.reason or error}") from error
        except OSError as error:
            raise PeerError("handshake", f"{remote}: {error}") from error
        return identity

    def _judge(self, channel: TlsSocketChannel) -> PeerIdentity:
        certificate = channel.peer_certificate
        if channel.alpn != PROTOCOL or certificate is None:
            raise PeerError("handshake", f"the far end does not speak {PROTOCOL}")
        try:
            identity = self._credentials.authority.identify(certificate, self._now())
        except PeerError as error:
            raise _Refusal(b"\x01", error.message) from error
        if identity.device == self._credentials.identity.device:
            raise _Refusal(b"\x02", "it is this device itself")
        if self._revoked is not None and self._revoked(identity.certificate):
            raise _Refusal(b"\x04", f"the certificate of {identity.device} is revoked")
        if self._admit is not None and not self._admit(identity):
            raise _Refusal(b"\x03", f"{identity.device} is not admitted")
        return identity

    async def _await_verdict(self, channel: TlsSocketChannel) -> None:
        verdict = memoryview(bytearray(1))
        if not await channel.receive_into(verdict):
            raise PeerError("handshake", "the peer closed before its verdict")
        reason = VERDICTS.get(bytes(verdict), "handshake")
        if reason != "welcome":
            raise PeerError(reason, f"the peer refused us: {reason}")


class _Refusal(Exception):  # noqa: N818 (a decision of ours)
    """This end refuses the other, and says why with `verdict`."""

    def __init__(self, verdict: bytes, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.reason = VERDICTS[verdict]
        self.message = message


class _HalfOpen:
    """Inbound connections in their handshake, oldest first, with the scopes that end them."""

    def __init__(self, total_max: int, per_address_max: int) -> None:
        self._total_max = total_max
        self._per_address_max = per_address_max
        self._open: dict[trio.CancelScope, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admitted(self, remote: str, scope: trio.CancelScope) -> _HalfOpenEntry:
        """A context in which the connection counts; makes room for it first."""
        crowd = sum(1 for address in self._open.values() if address == remote)
        if crowd >= self._per_address_max:
            self._evict_oldest_of(remote)
        elif len(self._open) >= self._total_max:
            self.evict()
        return _HalfOpenEntry(self._open, remote, scope)

    def evict(self) -> None:
        """End the oldest of the address with the most connections."""
        if self._open:
            ((crowded, _),) = Counter(self._open.values()).most_common(1)
            self._evict_oldest_of(crowded)

    def _evict_oldest_of(self, remote: str) -> None:
        scope = next(s for s, address in self._open.items() if address == remote)
        del self._open[scope]
        scope.cancel()


class _HalfOpenEntry:
    def __init__(self, open_: dict[trio.CancelScope, str], remote: str, scope: trio.CancelScope) -> None:
        self._open, self._scope = open_, scope
        open_[scope] = remote

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._open.pop(self._scope, None)


def _context(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Some builds of Python take a connection that is cut off for one that was closed.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if server:
        context.num_tickets = 0
    context.set_alpn_protocols([PROTOCOL])
    context.load_verify_locations(cadata=credentials.authority.der)
    # The pinned CA may itself be below a company root that devices do not know.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    credentials.load_into(context)
    return context


def _listen(host: str, port: int) -> trio.socket.SocketType:
    try:
        if host:
            passive = socket.AI_PASSIVE
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=passive)
            family, _, _, _, address = found[0]
            sock = socket.create_server(address[:2], family=family, backlog=LISTEN_BACKLOG)
        elif socket.has_dualstack_ipv6():
            sock = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=LISTEN_BACKLOG
            )
        else:
            sock = socket.create_server(("0.0.0.0", port), backlog=LISTEN_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host or 'all addresses'}, port {port}: {error}",
            next_step="give an address of this machine and a free port",
        ) from error
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)


def _numeric(host: str) -> str:
    """An IPv4 peer of a dual-stack socket by its own address, so that it counts and is named as one."""
    return host.removeprefix("::ffff:") if "." in host else host


def _lost(error: OSError) -> PeerError:
    return PeerError("lost", f"the connection is gone: {error}")
