"""Exact reads from a peer's stream, and writes to it in few parts. What is in them is `links`' business."""

from __future__ import annotations

from p2p.agent.blocks import Blocks
from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.errors import PeerError
from p2p.ports import PeerStream

SMALL = 4 * limits.KIB
"""Read at once where small messages may follow each other; larger payloads go where they belong. Each
connection has so much for as long as it lasts."""


class Reader:
    """Exact reads from a stream: small ones from a buffer, large ones straight into their own."""

    def __init__(self, stream: PeerStream, blocks: Blocks) -> None:
        self._stream = stream
        self._blocks = blocks
        self._buffer = bytearray(SMALL)
        self._view = memoryview(self._buffer)
        self._start = self._stop = 0

    @property
    def buffered(self) -> int:
        """Bytes that were received and not yet asked for."""
        return self._stop - self._start

    async def maybe(self, length: int) -> Buffer | None:
        """As `exactly`, or None at an orderly end before the first byte."""
        if self._start == self._stop and not await self._fill():
            return None
        return await self.exactly(length)

    async def exactly(self, length: int) -> Buffer:
        """`length` bytes in a buffer of their own. Raises `PeerError("lost")` if the stream ends before."""
        if length <= self._stop - self._start:
            self._start += length
            return bytes(self._view[self._start - length : self._start])
        data = self._blocks.take(length)
        filled = min(length, self._stop - self._start)
        data[:filled] = self._view[self._start : self._start + filled]
        self._start += filled
        while filled < length:
            if length - filled >= len(self._buffer):
                count = await self._stream.receive_into(data[filled:], due=True)
                if not count:
                    raise PeerError("lost", "the stream ended within a message")
                filled += count
            else:
                if not await self._fill():
                    raise PeerError("lost", "the stream ended within a message")
                count = min(length - filled, self._stop)
                data[filled : filled + count] = self._view[:count]
                self._start = count
                filled += count
        return data

    async def _fill(self) -> bool:
        self._start = 0
        self._stop = await self._stream.receive_into(self._view)
        return self._stop > 0


def joined(parts: list[Buffer]) -> list[Buffer]:
    """Join runs of small parts, so that many small messages are one TLS record."""
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < 4096:
            small.append(part)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(part)
    if small:
        joined.append(b"".join(small))
    return joined
