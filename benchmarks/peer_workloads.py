"""What the two ends of `benchmarks.peer_throughput` do over their stream.

`Links` is the agent's own path: its connections (`p2p.agent.links`), its serving from a slot and its
storing beside the event loop (`p2p.agent.storing`), without the node that decides. `Pieces` is the wire
codec straight over the stream, to see what the path adds to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from p2p.adapters.files import SYSTEM_FILES
from p2p.adapters.slot_journal import SlotJournal, Writing
from p2p.adapters.slot_writer import FileSlotWriter, SlotImage, hash_file
from p2p.agent.budget import RateBudget
from p2p.agent.images import LocalImage
from p2p.agent.links import Link
from p2p.agent.storing import Storing
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Compression, Data, PackIndex
from p2p.errors import LocalError
from p2p.ports import PeerStream
from p2p.swarm import messages as m
from p2p.swarm import wire
from p2p.swarm.events import Event, ImageTask, Serve, Store, Stored

PIECE = 256 * 1024
IN_FLIGHT = 16
PACK = IMAGE = Digest(bytes(32))
"""Nobody asks for what these are digests of."""

CHUNKS_PER_FRAME = 16


class Workload(Protocol):
    """What the two ends do with an open stream. `digests` are those of the pieces of `PIECE` bytes."""

    def hold(self, source: Path, digests: list[Digest]) -> None:
        """Have a file to serve."""

    async def serve(self, stream: PeerStream) -> None:
        """Answer until the far end closes."""

    def make(self, target: Path, digests: list[Digest]) -> None:
        """Have a file, of the right size, to write the pieces to."""

    async def fetch(self, stream: PeerStream) -> None:
        """Fetch all pieces, verify and write each."""


class Pieces:
    """The wire codec straight over the stream: wants one way, pieces the other."""

    def hold(self, source: Path, digests: list[Digest]) -> None:
        self._descriptor = os.open(source, os.O_RDONLY)

    async def serve(self, stream: PeerStream) -> None:
        reader = _Reader(stream)
        while (message := await reader.message()) is not None:
            assert isinstance(message, m.Want)
            data = os.pread(self._descriptor, PIECE, message.piece * PIECE)
            await stream.send(*wire.encode(m.Piece(message.request, data)))

    def make(self, target: Path, digests: list[Digest]) -> None:
        self._descriptor, self._digests = os.open(target, os.O_WRONLY), digests

    async def fetch(self, stream: PeerStream) -> None:
        reader = _Reader(stream)
        wants = [wire.encode(m.Want(n, IMAGE, PACK, n))[0] for n in range(len(self._digests))]
        await stream.send(b"".join(wants[:IN_FLIGHT]))
        for n, digest in enumerate(self._digests):
            message = await reader.message()
            assert isinstance(message, m.Piece)
            assert message.request == n
            assert sha256(message.payload) == digest
            os.pwrite(self._descriptor, message.payload, n * PIECE)
            if n + IN_FLIGHT < len(wants):
                await stream.send(wants[n + IN_FLIGHT])


class Links:
    """The agent's connections, serving and storing. The next piece is asked for as soon as one has come.

    Who serves has read and verified the image before, as has a device that made it.
    """

    def hold(self, source: Path, digests: list[Digest]) -> None:
        file = SYSTEM_FILES.open(str(source))
        reader = SlotImage("source", file, file.size())
        self._image = _image(digests, source.parent, reader=reader)
        for number in range(len(digests)):
            assert self._image.piece_bytes(PACK, number) is not None

    async def serve(self, stream: PeerStream) -> None:
        def answer(serve: Serve) -> m.Message:
            data = self._image.piece_bytes(serve.pack, serve.piece)
            assert data is not None
            return m.Piece(serve.request, data)

        def received(message: m.Message) -> None:
            assert isinstance(message, m.Want)
            link.send(Serve("two", message.request, message.image, message.pack, message.piece))

        storing = _storing(_unexpected)
        link = Link(stream, "two", answer, RateBudget(None), storing.backlog)
        await self._until_closed(link, storing, received)

    def make(self, target: Path, digests: list[Digest]) -> None:
        self._count = len(digests)
        writing = Writing(1, IMAGE, self._count * PIECE)
        file = SYSTEM_FILES.open(str(target), write=True)
        journal = SlotJournal.create(SYSTEM_FILES, str(target.parent / "journal"), writing)
        writer = FileSlotWriter("target", writing, file, journal, lambda: None, hash_file)
        self._image = _image(digests, target.parent, writer=writer)

    async def fetch(self, stream: PeerStream) -> None:
        wants = iter([m.Want(n, IMAGE, PACK, n) for n in range(self._count)])
        missing = self._count

        def ask() -> None:
            if (want := next(wants, None)) is not None:
                link.send(want)

        def received(message: m.Message) -> None:
            assert isinstance(message, m.Piece)
            storing.add(self._image, Store(IMAGE, PACK, message.request, message.payload, "one"))
            ask()

        def stored(event: Event) -> None:
            nonlocal missing
            assert isinstance(event, Stored), event
            missing -= 1
            if not missing:
                link.scope.cancel()

        storing = _storing(stored)
        link = Link(stream, "two", lambda _: m.Bye("nothing to serve"), RateBudget(None), storing.backlog)
        for _ in range(IN_FLIGHT):
            ask()
        await self._until_closed(link, storing, received)
        assert not missing

    async def _until_closed(
        self, link: Link, storing: Storing, received: Callable[[m.Message], None]
    ) -> None:
        with link.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storing.run)
                nursery.start_soon(link.write, lambda size: None)
                nursery.start_soon(link.watch)
                await link.read(received)
                nursery.cancel_scope.cancel()


WORKLOADS: dict[str, Callable[[], Workload]] = {"links": Links, "pieces": Pieces}


def _image(
    digests: list[Digest],
    directory: Path,
    *,
    writer: FileSlotWriter | None = None,
    reader: SlotImage | None = None,
) -> LocalImage:
    task = ImageTask(IMAGE, len(digests) * PIECE, None, ())
    image = LocalImage(task, directory / "spool", writer=writer, reader=reader)
    image.use(PACK, _index(digests))
    return image


def _index(digests: list[Digest]) -> PackIndex:
    chunks = [Chunk(PIECE, digest) for digest in digests]
    frames = (tuple(chunks[at : at + CHUNKS_PER_FRAME]) for at in range(0, len(chunks), CHUNKS_PER_FRAME))
    entries = tuple(Data(len(frame) * PIECE, Compression.NONE, frame) for frame in frames)
    return PackIndex(IMAGE, len(digests) * PIECE, None, 0, entries)


def _storing(feed: Callable[[Event], None]) -> Storing:
    def fail(image: LocalImage, error: LocalError) -> None:
        raise error

    return Storing(feed=feed, failed=fail, is_current=lambda image: True, patching=trio.CapacityLimiter(1))


def _unexpected(event: Event) -> None:
    raise AssertionError(event)


class _Reader:
    """Messages out of a stream: one buffer for prefixes and headers, payloads straight into their own."""

    def __init__(self, stream: PeerStream) -> None:
        self._stream = stream
        self._small = memoryview(bytearray(wire.PREFIX.size))

    async def message(self) -> m.Message | None:
        if not await self._fill(self._small):
            return None
        header_length, payload_length = wire.parse_prefix(self._small)
        rest = memoryview(bytearray(header_length + payload_length))
        await self._fill(rest)
        return wire.decode(rest[:header_length], rest[header_length:])

    async def _fill(self, view: memoryview) -> bool:
        filled = 0
        while filled < len(view):
            count = await self._stream.receive_into(view[filled:])
            if not count:
                return False
            filled += count
        return True
