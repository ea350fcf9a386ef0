"""A peer on strings: a real TLS stream with a device's certificate, and messages as a test wants them.

Left alone it is an honest peer that holds a whole image and the repository's small objects. A test
overrides what it says of itself (`greet`) or how it answers (`answer`). Not a `SwarmNode`: nothing in
it decides anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2p.adapters.tls import TlsTransport
from p2p.content import index as pack_index
from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.errors import PeerError
from p2p.ports import PeerAddress, PeerStream
from p2p.swarm import messages as m
from p2p.swarm import wire
from tests.support.fleet import DIGESTS, IMAGES, Device

Answer = Callable[["Puppet", PeerStream, m.Message], "m.Message | bytes | None"]


class Puppet:
    """`device` gives certificate and port; `version` is the image that it says it holds.

    `got`: kinds of messages received; `sent_pieces`: payload bytes of pieces sent, the bad ones too.
    `bye`: the reasons with which peers parted. `streams`: how many connections there were.
    """

    def __init__(
        self, device: Device, version: str = "2.0", *, answer: Answer | None = None, complete: bool = True
    ) -> None:
        self.device = device
        self.fleet = device.fleet
        self.version = version
        self.complete = complete
        self.pack = self.fleet.pack(version, None)
        self.pieces = PieceMap(pack_index.decode(self.fleet.object_path(self.pack.index.sha256).read_bytes()))
        self.answer = answer
        self.got: Counter[str] = Counter()
        self.bye: list[str] = []
        self.streams = 0
        self.sent_pieces = 0
        self.refused: list[PeerError] = []
        self.ended = trio.Event()
        self.site = device.credentials.identity.site

    # What it says

    @property
    def image(self) -> Digest:
        return DIGESTS[self.version]

    def greet(self) -> list[m.Message | bytes]:
        """What it says first."""
        total = len(self.pieces)
        bitmap = wire.pack_bitmap(set(range(total)), total)
        return [
            m.Hello(wire.PROTOCOL, self.site, self.device.port, False),
            m.News(1, self._timestamp_version()),
            m.Join(self.image, None, False, 0, self.complete),
            m.Have(self.image, self.pack.index.sha256, total, bitmap),
        ]

    def honest(self, message: m.Message) -> m.Message | None:
        """The right answer."""
        match message:
            case m.Want():
                if message.image != self.image or message.pack != self.pack.index.sha256:
                    return m.Refuse(message.request, m.Refusal.DONT_HAVE)
                return m.Piece(message.request, self.payload(message.piece))
            case m.ObjectWant():
                repository = self.fleet.repository.directory
                path = repository / "objects" / message.digest.hex()
                return (
                    m.Blob(message.request, path.read_bytes())
                    if path.exists()
                    else m.Refuse(message.request, m.Refusal.DONT_HAVE)
                )
            case m.MetadataWant():
                path = self.fleet.repository.metadata / message.name
                return (
                    m.Blob(message.request, path.read_bytes())
                    if path.exists()
                    else m.Refuse(message.request, m.Refusal.DONT_HAVE)
                )
        return None

    def payload(self, piece: int) -> bytes:
        """The right bytes of a piece."""
        found = self.pieces[piece]
        return IMAGES[self.version][found.target_offset : found.target_stop]

    # Running

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Puppet]:
        """Listen on the device's port until the block ends."""
        transport = TlsTransport(
            self.device.credentials,
            time.time,
            host="127.0.0.1",
            port=self.device.port,
            refused=lambda _, error: self.refused.append(error),
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.serve, self._talk)
                try:
                    yield self
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            transport.close()

    async def dial(self, device: Device) -> PeerStream:
        """A stream to an agent; raises `PeerError`."""
        transport = TlsTransport(self.device.credentials, time.time, host="127.0.0.1")
        try:
            return await transport.connect(PeerAddress("127.0.0.1", device.port))
        finally:
            transport.close()

    async def send(self, stream: PeerStream, message: m.Message | bytes) -> None:
        if isinstance(message, m.Piece):
            self.sent_pieces += len(message.payload)
        await stream.send(*([message] if isinstance(message, bytes) else wire.encode(message)))

    async def receive(self, stream: PeerStream) -> m.Message | None:
        """The next message; None at the end of the stream."""
        prefix = await _exactly(stream, wire.PREFIX.size)
        if prefix is None:
            return None
        header_length, payload_length = wire.parse_prefix(prefix)
        header = await _exactly(stream, header_length)
        payload = await _exactly(stream, payload_length) if payload_length else b""
        if header is None or payload is None:
            return None
        return wire.decode(header, payload)

    async def _talk(self, stream: PeerStream) -> None:
        self.streams += 1
        try:
            for message in self.greet():
                await self.send(stream, message)
            while (received := await self.receive(stream)) is not None:
                self.got[type(received).__name__] += 1
                if isinstance(received, m.Bye):
                    self.bye.append(received.reason)
                reply = (
                    self.answer(self, stream, received) if self.answer is not None else self.honest(received)
                )
                if reply is not None:
                    await self.send(stream, reply)
        except PeerError:
            pass
        self.ended.set()

    def _timestamp_version(self) -> int:
        return int(self.fleet.repository.state().timestamp.signed.version)


async def _exactly(stream: PeerStream, length: int) -> bytes | None:
    data = bytearray(length)
    view = memoryview(data)
    filled = 0
    while filled < length:
        count = await stream.receive_into(view[filled:])
        if not count:
            return None
        filled += count
    return bytes(data)
