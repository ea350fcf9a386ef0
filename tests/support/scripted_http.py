"""An HTTP server that does exactly what a test tells it, mistakes included."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import trio

from p2p.adapters.channel import Channel, TcpChannel, TlsChannel


@dataclass(frozen=True)
class Request:
    """A request as it was read from the socket; header names are lower-case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def range(self) -> tuple[int, int] | None:
        """The half-open range that was asked for."""
        text = self.headers.get("range")
        if text is None:
            return None
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1


class HangUp(Exception):  # noqa: N818 (an instruction)
    """Raised by an answer: close the connection now."""


Answer = Callable[[Request, Channel], Awaitable[None]]


@dataclass
class ScriptedServer:
    """`answer` writes to the channel whatever it likes; all requests are kept."""

    answer: Answer
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, channel: Channel) -> None:
        self.connections += 1
        pending = bytearray()
        try:
            while request := await _read_request(channel, pending):
                self.requests.append(request)
                await self.answer(request, channel)
        except (HangUp, OSError):
            return
        finally:
            await channel.aclose()


@asynccontextmanager
async def scripted(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """A server on loopback for as long as the context lasts; with TLS if `context` is given."""
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    server = ScriptedServer(answer, listener.getsockname()[1])

    async def one(accepted: trio.socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        sock.setblocking(False)
        if context is None:
            await server.handle(TcpChannel(sock))
            return
        channel = TlsChannel(sock, context, server_side=True)
        try:
            with suppress(OSError):
                await channel.handshake()
                await server.handle(channel)
        finally:
            await channel.aclose()

    async def accept() -> None:
        while True:
            accepted, _ = await listener.accept()
            nursery.start_soon(one, accepted)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with trio.fail_after(60):
                yield server
            nursery.cancel_scope.cancel()
    finally:
        listener.close()


async def _read_request(channel: Channel, pending: bytearray) -> Request | None:
    buffer = memoryview(bytearray(65_536))
    while b"\r\n\r\n" not in pending:
        count = await channel.receive_into(buffer)
        if not count:
            return None
        pending += buffer[:count]
    head, _, rest = bytes(pending).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "0"))
    while len(rest) < size:
        count = await channel.receive_into(buffer)
        rest += bytes(buffer[:count])
    pending[:] = rest[size:]
    return Request(method, target, headers, rest[:size])


def head(status: int, **fields: object) -> bytes:
    """A response head; `content_length=3` becomes `content-length: 3`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode()


def partial(data: bytes, start: int, stop: int, **changes: object) -> bytes:
    """The right answer to a Range request for `[start, stop)` of `data`, but for `changes`."""
    fields: dict[str, object] = {
        "content_range": f"bytes {start}-{stop - 1}/{len(data)}",
        "content_length": stop - start,
    }
    return head(206, **(fields | changes)) + data[start:stop]


def reset(channel: Channel) -> None:
    """Make the close that follows a reset."""
    assert isinstance(channel, TcpChannel)
    channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def held_port() -> Iterator[int]:
    """A port of loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
