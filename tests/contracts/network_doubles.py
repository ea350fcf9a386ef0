"""In-memory `ports.Transport` and `ports.Origin`: no sockets, the same promises."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p.content.digests import Buffer, Digest, sha256, verify
from p2p.errors import ContentError, OriginError, PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream

WINDOW = 256 * 1024
"""Bytes that a memory stream holds before its sender waits."""


class _Pipe:
    """One direction of a stream: bytes, an end, or a cut."""

    def __init__(self) -> None:
        self.parts: deque[memoryview] = deque()
        self.held = 0
        self.ended = False
        self.cut = False
        self._changed = trio.Condition()

    async def put(self, data: bytes) -> None:
        for start in range(0, len(data), WINDOW // 4):
            part = memoryview(data)[start : start + WINDOW // 4]
            async with self._changed:
                while self.held >= WINDOW and not self.cut:
                    await self._changed.wait()
                if self.cut or self.ended:
                    raise PeerError("lost", "the far end is gone")
                self.parts.append(part)
                self.held += len(part)
                self._changed.notify_all()

    async def take(self, buffer: memoryview) -> int:
        async with self._changed:
            while not self.parts and not self.ended and not self.cut:
                await self._changed.wait()
            filled = 0
            while self.parts and filled < len(buffer):
                part = self.parts.popleft()
                count = min(len(part), len(buffer) - filled)
                buffer[filled : filled + count] = part[:count]
                if count < len(part):
                    self.parts.appendleft(part[count:])
                filled += count
            self.held -= filled
            self._changed.notify_all()
            if not filled and self.cut:
                raise PeerError("lost", "the stream was cut")
            return filled

    def finish(self, *, cut: bool) -> None:
        self.ended = True
        self.cut = self.cut or cut
        try:
            self._changed.acquire_nowait()
        except trio.WouldBlock:  # its holder looks again when it goes on
            return
        self._changed.notify_all()
        self._changed.release()


class MemoryStream:
    """One end of a stream in memory."""

    def __init__(self, identity: PeerIdentity, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.identity = identity
        self.remote = ""
        self._incoming, self._outgoing = incoming, outgoing
        self._broken = False
        self._lock = trio.Lock()

    async def send(self, *parts: Buffer) -> None:
        async with self._lock:
            if self._broken:
                raise PeerError("lost", "an earlier send was interrupted, or the stream is closed")
            self._broken = True
            for part in parts:
                await self._outgoing.put(bytes(part))
            self._broken = False

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        await trio.lowlevel.checkpoint()
        return await self._incoming.take(buffer)

    async def aclose(self) -> None:
        self._broken = True
        self._outgoing.finish(cut=False)
        self._incoming.finish(cut=True)


@dataclass
class MemoryNetwork:
    """Where memory transports find each other; addresses are `memory:<port>`."""

    transports: dict[int, MemoryTransport] = field(default_factory=dict)

    def join(self, identity: PeerIdentity, fleet: str = "fleet") -> MemoryTransport:
        transport = MemoryTransport(self, identity, fleet, 1 + len(self.transports))
        self.transports[transport.port] = transport
        return transport


class MemoryTransport:
    """`fleet` stands for the certificate authority: only transports of the same one get a stream."""

    def __init__(self, network: MemoryNetwork, identity: PeerIdentity, fleet: str, port: int) -> None:
        self._network = network
        self.identity = identity
        self.fleet = fleet
        self.port = port
        self._accept: Callable[[MemoryStream], None] | None = None

    async def connect(self, address: PeerAddress) -> PeerStream:
        await trio.lowlevel.checkpoint()
        other = self._network.transports.get(address.port)
        if other is None or other._accept is None:
            raise PeerError("unreachable")
        if other.fleet != self.fleet:
            raise PeerError("not-of-fleet")
        if other.identity.device == self.identity.device:
            raise PeerError("self")
        here, there = _Pipe(), _Pipe()
        other._accept(MemoryStream(self.identity, here, there))
        return MemoryStream(other.identity, there, here)

    async def serve(self, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        async def one(stream: MemoryStream) -> None:
            try:
                await handler(stream)
            except PeerError:
                return
            finally:
                await stream.aclose()

        async with trio.open_nursery() as nursery:
            self._accept = lambda stream: nursery.start_soon(one, stream)
            try:
                await trio.sleep_forever()
            finally:
                self._accept = None


class MemoryOrigin:
    """Objects and metadata in dictionaries. `wire_bytes` counts bodies."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.objects: dict[Digest, bytes] = {}
        self.wire_bytes = 0

    def add(self, data: bytes) -> Digest:
        digest = sha256(data)
        self.objects[digest] = data
        return digest

    async def metadata(self, name: str, size_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if name not in self.files:
            raise OriginError("not-found", name, retry=False)
        return self._counted(self.files[name], size_max)

    async def object(self, digest: Digest, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._counted(self._find(digest), size)
        if len(data) < size:
            raise OriginError("truncated")
        try:
            verify(data, digest, "object")
        except ContentError as error:
            raise OriginError("wrong-digest", error.message) from error
        return data

    def stream(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Buffer]]:
        return self._stream(digest, start, stop)

    @asynccontextmanager
    async def _stream(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        await trio.lowlevel.checkpoint()
        if start < stop and stop > len(self._find(digest)):
            raise OriginError("truncated")
        yield _Parts(self, self._find(digest)[start:stop] if start < stop else b"")

    def _find(self, digest: Digest) -> bytes:
        if digest not in self.objects:
            raise OriginError("not-found", digest.hex(), retry=False)
        return self.objects[digest]

    def _counted(self, data: bytes, size_max: int) -> bytes:
        if len(data) > size_max:
            raise OriginError("too-long")
        self.wire_bytes += len(data)
        return data


class _Parts:
    def __init__(self, origin: MemoryOrigin, data: bytes) -> None:
        self._origin, self._data = origin, memoryview(data)

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> Buffer:
        await trio.lowlevel.checkpoint()
        if not self._data:
            raise StopAsyncIteration
        part, self._data = self._data[:65_536], self._data[65_536:]
        self._origin.wire_bytes += len(part)
        return part
