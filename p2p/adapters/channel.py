"""Byte channels over one non-blocking socket, plain or TLS, that count what crosses the wire.

The HTTP client stands on these, peer streams on `tls_socket`, which has no counting to do. A channel
knows nothing of messages, identities or deadlines: callers wrap it in cancel scopes. Both kinds raise
`OSError` (`ssl.SSLError` is one), which the seam above translates.

TLS goes through memory BIOs here, so that every byte on the wire is counted as it comes
(`docs/adr/0006-tls-channel.md` has what that costs).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from p2p.adapters.background import RoundTrip, bound_window, round_trip_of
from p2p.content.digests import Buffer
from p2p.content.limits import KIB

BLOCK = 256 * KIB
"""Bytes moved per system call, and the plaintext that is encrypted before it is handed to the kernel."""

FLUSH = 64 * KIB
"""Ciphertext taken out of TLS per system call: larger blocks would be mapped anew by malloc each time."""

TURN = 1024 * KIB
CALL = 16 * KIB
"""A task lets the others run at the latest after moving this much; a call counts as at least `CALL`.

Yielding to trio's scheduler on every call would cost more than the call where much arrives."""

_scratch = memoryview(bytearray(BLOCK))  # shared: filled and emptied without an await in between


class Channel(Protocol):
    """What both kinds of channel do. Counts are of bytes on the socket."""

    bytes_received: int
    bytes_sent: int

    async def send(self, *parts: Buffer) -> None:
        """Send all `parts` in order; a cancelled or failed send leaves the channel broken."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill at least one byte and what has arrived; 0 at the end. `OSError` if cut off."""

    def probe(self, on: bool) -> None:
        """Whether the kernel asks a silent far end if it is there."""

    @property
    def is_stale(self) -> bool:
        """Whether something (data or an end) has arrived on a channel on which nothing was due."""

    def round_trip(self) -> RoundTrip | None:
        """As `background.round_trip_of`."""

    def bound(self, window: int) -> bool:
        """As `background.bound_window`."""

    async def aclose(self) -> None:
        """Close at once; never raises."""


def from_trio(stream: trio.SocketStream) -> socket.socket:
    """Take the connected, non-blocking socket out of a trio stream."""
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock


def tune(sock: socket.socket, *, probe_s: int = 20) -> None:
    """No Nagle delay; a silent far end is noticed by the kernel (keepalive, unacknowledged data).

    `probe_s`: after so long without a word it is asked whether it is there, by both ends: four frames.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


class Pipe:
    """The socket itself: waits with trio, takes turns, knows when it is broken."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._send_lock = trio.Lock()
        self._broken = False
        self._turn_left = TURN

    def probe(self, on: bool) -> None:
        """Whether the kernel asks a silent far end if it is there. Each time is two packets of 66 bytes."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))

    async def _take_turn(self) -> None:
        """A checkpoint for cancellation always, for other tasks when this one's turn is over."""
        if self._turn_left > 0:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._turn_left = TURN
            await trio.lowlevel.checkpoint()

    async def send(self, *parts: Buffer) -> None:
        """One sender at a time; whatever ends it early leaves the channel broken."""
        await self._take_turn()
        try:
            self._send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._send_lock.acquire()
        try:
            self._check_usable()
            self._broken = True
            try:
                self._turn_left -= CALL + await self._send_parts(parts)
            except trio.ClosedResourceError as error:
                raise OSError(errno.EBADF, "the channel is closed") from error
            self._broken = False
        finally:
            self._send_lock.release()

    async def _send_parts(self, parts: Sequence[Buffer]) -> int:
        """Returns how many bytes that was."""
        raise NotImplementedError

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self._sock)
        except trio.ClosedResourceError as error:
            raise OSError(errno.EBADF, "the channel is closed") from error

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise OSError(errno.EBADF, "the channel is closed")

    def _check_usable(self) -> None:
        self._check_open()
        if self._broken:
            raise OSError(errno.EPIPE, "an earlier send was interrupted")

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class _Counted(Pipe):
    """A pipe whose bytes are counted as they pass."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.bytes_received = 0
        self.bytes_sent = 0

    @property
    def is_stale(self) -> bool:
        if self._sock.fileno() < 0:
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def round_trip(self) -> RoundTrip | None:
        return round_trip_of(self._sock)

    def bound(self, window: int) -> bool:
        return bound_window(self._sock, window)

    async def _send_all(self, data: memoryview) -> None:
        sent = 0
        while sent < len(data):
            try:
                sent += self._sock.send(data[sent:])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
        self.bytes_sent += sent

    async def _receive(self, buffer: memoryview) -> int:
        while True:
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                self.bytes_received += count
                self._turn_left -= CALL + count
                return count


class TcpChannel(_Counted):
    """A plain TCP channel."""

    async def receive_into(self, buffer: memoryview) -> int:
        await self._take_turn()
        self._check_usable()
        try:
            return await self._receive(buffer)
        except trio.ClosedResourceError as error:
            raise OSError(errno.EBADF, "the channel is closed") from error

    async def aclose(self) -> None:
        self._close()

    async def _send_parts(self, parts: Sequence[Buffer]) -> int:
        before = self.bytes_sent
        for part in parts:
            await self._send_all(memoryview(part))
        return self.bytes_sent - before


class TlsChannel(_Counted):
    """A TLS channel; `handshake` comes first. An end without close_notify is `ssl.SSLEOFError`."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection of this context may resume; None if the far end gave nothing for it."""
        session = self._tls.session
        return session if session is not None and session.has_ticket else None

    @property
    def resumed(self) -> bool:
        """Whether an earlier session was gone on with, without certificates."""
        return bool(self._tls.session_reused)

    @property
    def peer_certificate(self) -> bytes | None:
        """DER of the certificate that the far end proved to own."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def alpn(self) -> str | None:
        """The application protocol that both ends agreed on."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Run the handshake; after a failure the alert for the far end has been sent."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()
                raise
            else:
                await self._flush()
                return

    async def receive_into(self, buffer: memoryview) -> int:
        await self._take_turn()
        self._check_open()
        read = self._tls.read
        filled, room = 0, len(buffer)
        while filled < room:
            try:
                count = read(room - filled, buffer[filled:])
            except ssl.SSLWantReadError:
                if filled:
                    break
                try:
                    await self._feed()
                except trio.ClosedResourceError as error:
                    raise OSError(errno.EBADF, "the channel is closed") from error
                continue
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLError:
                if filled:
                    break  # what came before is whole records; the next call meets the error again
                raise
            if not count:
                break
            filled += count  # type: ignore[operator]  # typeshed: with a buffer, read returns a count
        self._turn_left -= CALL
        return filled

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0 and not self._broken:
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self._sock.send(self._outgoing.read())
        self._close()

    async def _send_parts(self, parts: Sequence[Buffer]) -> int:
        before = self.bytes_sent
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), BLOCK):
                self._tls.write(view[start : start + BLOCK])
                if self._outgoing.pending >= BLOCK:
                    await self._flush()
        await self._flush()
        return self.bytes_sent - before

    async def _feed(self) -> None:
        count = await self._receive(_scratch)
        if count:
            self._incoming.write(_scratch[:count])
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        while self._outgoing.pending:
            await self._send_all(memoryview(self._outgoing.read(FLUSH)))
