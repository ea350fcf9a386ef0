"""The channel of a peer stream: TLS that reads from and writes to its socket itself.

`channel.TlsChannel` stands on memory BIOs, so that each byte can be counted when it passes; between
peers, where the LAN is fast, two more copies and a cleared buffer per byte cost about a tenth of the
processor time of a transfer (`docs/adr/0006-tls-channel.md` has the figures). What crossed the wire is
asked of the kernel here, which counts it anyway. Not for the HTTP client: its pace is judged by bytes
as they come.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
from collections.abc import Sequence

import trio

from p2p.adapters.channel import BLOCK, CALL, TURN, Pipe
from p2p.content.digests import Buffer
from p2p.content.limits import KIB

_TCP_INFO_SIZE = 216
_RECEIVED, _SENT = struct.Struct("128x Q"), struct.Struct("200x QQ")
"""Of Linux' `struct tcp_info`: `bytes_received`; `bytes_sent` and how many of these were sent again."""


RECORD = 16 * KIB
"""The most plaintext of one TLS record."""

WAKE_MAX = 128 * KIB
"""Of bytes that are sure to come, so many are waited for at once; the kernel makes room for twice as many."""


class TlsSocketChannel(Pipe):
    """A TLS channel; `handshake` comes first. An end without close_notify is `ssl.SSLEOFError`.

    Takes `sock` over, which is connected and non-blocking; closes it when it raises `OSError`.
    """

    _sock: ssl.SSLSocket

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        try:
            secured = context.wrap_socket(
                sock, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except (OSError, ValueError) as error:
            sock.close()
            raise OSError(errno.ENOTCONN, f"the connection is gone: {error}") from error
        super().__init__(secured)
        self._wakes_from = 1

    @property
    def peer_certificate(self) -> bytes | None:
        """DER of the certificate that the far end proved to own."""
        return self._sock.getpeercert(binary_form=True)

    @property
    def alpn(self) -> str | None:
        """The application protocol that both ends agreed on."""
        return self._sock.selected_alpn_protocol()

    @property
    def bytes_received(self) -> int:
        """Bytes that came in, handshake and records included; 0 where the kernel does not tell."""
        return self._tcp_info(_RECEIVED)[0]

    @property
    def bytes_sent(self) -> int:
        """Bytes that went out, each once, records included; 0 where the kernel does not tell."""
        sent, again = self._tcp_info(_SENT)
        return sent - again

    async def handshake(self) -> None:
        """Run the handshake; after a failure the alert for the far end has been sent."""
        while True:
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                await self._wait(trio.lowlevel.wait_readable)
            except ssl.SSLWantWriteError:
                await self._wait(trio.lowlevel.wait_writable)
            else:
                return

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        """Fill at least one byte and what has arrived; 0 at the end. `OSError` if cut off.

        `due`: the far end has said that all of `buffer` comes. Where nothing has, the kernel wakes this task
        once much of it has, instead of for every few packets.
        """
        await self._take_turn()
        self._check_open()
        read = self._sock.read
        filled, room = 0, min(len(buffer), TURN)
        while filled < room:
            try:
                count = read(room - filled, buffer[filled:room])
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._wake_from(room - filled - RECORD if due else 1)
                await self._wait(trio.lowlevel.wait_readable)
            except ssl.SSLWantWriteError:
                if filled:
                    break
                await self._wait(trio.lowlevel.wait_writable)
            except ssl.SSLError:
                if filled:
                    break  # what came before is whole records; the next call meets the error again
                raise
            else:
                if not count:
                    break
                filled += count  # type: ignore[operator]  # typeshed: with a buffer, read returns a count
        self._turn_left -= CALL + filled
        return filled

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0 and not self._broken:
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()
        self._close()

    async def linger(self, bytes_max: int) -> None:
        """Half-close, then read up to `bytes_max` until the far end closes too.

        A close with unread input resets the connection, and a reset can overtake the alert or
        refusal that was sent last. The caller sets the deadline.
        """
        rest = memoryview(bytearray(CALL))
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)  # what is read from here on is no TLS to it
            while bytes_max > 0:
                try:
                    count = self._sock.recv_into(rest)
                except BlockingIOError:
                    await self._wait(trio.lowlevel.wait_readable)
                else:
                    if not count:
                        return
                    bytes_max -= count

    async def _send_parts(self, parts: Sequence[Buffer]) -> int:
        size = 0
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), BLOCK):
                await self._write(view[start : start + BLOCK])
            size += len(view)
        return size

    async def _write(self, data: memoryview) -> None:
        while True:
            try:
                self._sock.write(data)  # all of it; after a wait, the same again goes on where it was
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._sock)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                return

    def _wake_from(self, count: int) -> None:
        """Have the socket count as readable from so many bytes on, or at its end (`SO_RCVLOWAT`, socket(7)).

        Of a record that TLS has the beginning of, no more than `RECORD` bytes are in its hands: who waits for
        that much less than is due never waits for what does not come. The last record wakes packet by packet.
        """
        count = max(1, min(count, WAKE_MAX))
        if count != self._wakes_from:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_from = count

    def _tcp_info(self, fields: struct.Struct) -> tuple[int, ...]:
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
            return fields.unpack_from(info)
        except (OSError, AttributeError, struct.error):
            return (0,) * (len(fields.unpack(bytes(fields.size))))
