"""The seams between what decides and what does: one small Protocol per kind of I/O.

Each has a real adapter in `p2p.adapters`, an in-memory one in `tests/contracts/doubles.py` (and in
`sim`), and one contract test suite in `tests/contracts` that all of them pass. Methods raise only
errors of `p2p.errors`; offsets and sizes are bytes, times are seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from p2p.content.digests import Buffer, Digest
from p2p.content.intervals import IntervalSet

CARRIER_GROUP = "carrier"
"""The group of devices that may visit any site, by their certificate."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who a peer is, from its certificate: device id, site, groups and the certificate's digest."""

    device: str
    site: str
    groups: frozenset[str]
    certificate: Digest

    @property
    def is_carrier(self) -> bool:
        """Whether other sites than its own take it for a peer."""
        return CARRIER_GROUP in self.groups


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer may listen, and which source said so (`roster`, `mdns`, `static`, `exchange`)."""

    host: str
    port: int
    source: str = "static"
    device: str | None = None


class PeerStream(Protocol):
    """An authenticated, encrypted byte stream to one peer. `remote`: its numeric address, if it has one."""

    identity: PeerIdentity
    remote: str

    async def send(self, *parts: Buffer) -> None:
        """Send all `parts` in order. Raises `PeerError("lost")` when the connection is gone."""

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        """Fill at least one byte and as much as has arrived; 0 at the end of the stream.

        `due`: the far end has said that all of `buffer` comes, so there is no need to return, or to look what
        has come, before much of it has. It is a hint: fewer may be filled all the same.
        """

    async def aclose(self) -> None:
        """Close at once; never raises."""


class Transport(Protocol):
    """Opens and accepts peer streams; both sides are authenticated before either sees a stream."""

    async def connect(self, address: PeerAddress) -> PeerStream:
        """Raises `PeerError` (`unreachable`, `handshake`, `not-of-fleet`) within `limits.HANDSHAKE_S`."""

    async def serve(self, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        """Accept until cancelled; `handler` runs in a task of its own per stream."""

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""


class Discovery(Protocol):
    """A source of peer addresses."""

    async def run(self, found: Callable[[PeerAddress], None]) -> None:
        """Announce this node and report peers until cancelled; a source that fails says so and stops."""


class Origin(Protocol):
    """Any HTTP server with Range support that holds metadata and immutable objects."""

    async def metadata(self, name: str, size_max: int) -> bytes:
        """A metadata file (`timestamp.json`, `3.root.json`). `OriginError("not-found")` on 404."""

    async def object(self, digest: Digest, size: int) -> bytes:
        """A whole small object, its digest checked."""

    def stream(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Buffer]]:
        """Bytes `[start, stop)` of an object as they arrive, exactly that many or `OriginError`.

        Raises `OriginError` (`unreachable`, `status`, `range-ignored`, `truncated`, `too-slow`,
        `too-long`). The bytes are unverified.
        """

    @property
    def wire_bytes(self) -> int:
        """Application bytes received from the origin so far, headers and TLS records included."""


class BlobStore(Protocol):
    """Small durable values by name: trusted metadata, floors, state. Every write is atomic and durable."""

    def read(self, name: str) -> bytes | None:
        """The value, or None if it was never written."""

    def write(self, name: str, value: bytes) -> None:
        """Written, fsynced, renamed, directory fsynced; or `StoreError` and the old value is kept."""

    def delete(self, name: str) -> None:
        """Durable; no error when absent."""


class ImageReader(Protocol):
    """Random reads of an image that is in a slot."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes or `SlotError`."""


class SlotWriter(ImageReader, Protocol):
    """The slot that an image is being written to, with a durable journal of what was verified.

    Only verified bytes are ever passed to `write`.
    """

    @property
    def done(self) -> IntervalSet:
        """Target ranges that were verified and written; after a restart, those that are durable."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write verified bytes and add their range to `done` (durable at the next `checkpoint`)."""

    def checkpoint(self) -> None:
        """fsync the data, then make `done` durable."""

    def forget(self, start: int, stop: int) -> None:
        """Take a range out of `done`, durably (it was found damaged)."""

    def digest(self) -> Digest:
        """fsync, then read the whole image back from the medium and hash it."""

    def seal(self) -> None:
        """The image is verified: mark the slot valid, durably, and drop the journal.

        Nothing can be written any more. It can be read until it is closed.
        """

    def close(self) -> None: ...


class Slots(Protocol):
    """The A/B slots of one payload."""

    def active(self) -> str:
        """Name of the slot that the device runs from (`a` or `b`)."""

    def image_in(self, slot: str) -> tuple[Digest, int] | None:
        """Digest and size of the image that a *valid* slot holds; None if empty, invalid or unknown."""

    def open_reader(self, slot: str) -> ImageReader: ...

    def open_writer(self, slot: str, image: Digest, size: int) -> SlotWriter:
        """Mark the slot invalid, durably, before its first byte changes; resume if it was this image."""


class Boot(Protocol):
    """The boot environment: it decides what runs; everything else is a hint."""

    def read(self) -> BootState: ...

    def arm(self, slot: str, attempts: int) -> None:
        """One atomic write: try `slot` next, at most `attempts` times, then fall back."""

    def started(self) -> None:
        """Count one attempt of an armed slot (the boot loader's part where there is one)."""

    def commit(self) -> None:
        """The armed slot becomes the active one."""

    def rollback(self) -> None:
        """Drop the armed slot, and what is remembered of a failed one; the active one stays."""


@dataclass(frozen=True, slots=True)
class BootState:
    """`active` runs unless `trial` is set and was started, which is then tried with `attempts_left` more.

    `tried`: how often the trial was started (0: armed only). `failed`: the slot whose trial ended
    because no attempt was left, until the next `arm` or `rollback`.
    """

    active: str
    trial: str | None = None
    attempts_left: int = 0
    tried: int = 0
    failed: str | None = None

    @property
    def running(self) -> str:
        """The slot that the device runs from."""
        return self.trial if self.trial is not None and self.tried else self.active
