"""Origins that are directories of this machine: a repository, and a bundle (`ports.Origin`).

For `slipstream bundle export` and tests: calls block, which costs nobody anything in a command. What is
read is as unverified as what an HTTP origin sends.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

from p2p.adapters.bundle_files import STICK_FILES, BundleReader
from p2p.adapters.files import Files
from p2p.content import limits
from p2p.content.bundle import BundleObject, Kind
from p2p.content.digests import Buffer, Digest, verify
from p2p.errors import ContentError, OriginError, StoreError
from p2p.trust.documents import encode_name

_METADATA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%~+-]*\.json")


class EachPart:
    """The parts of an iterator, for whoever awaits them."""

    def __init__(self, parts: Iterator[Buffer]) -> None:
        self._parts = parts

    def __aiter__(self) -> EachPart:
        return self

    async def __anext__(self) -> Buffer:
        for part in self._parts:
            return part
        raise StopAsyncIteration


@asynccontextmanager
async def stream_of(data: Buffer, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
    """As `ports.Origin.stream`, of bytes that are at hand."""
    yield EachPart(iter([memoryview(data)[start:stop]]))


class _Directory:
    """What both have in common: whole objects and ranges, from `_parts`."""

    def __init__(self) -> None:
        self.wire_bytes = 0

    async def object(self, digest: Digest, size: int) -> bytes:
        """A whole small object of exactly `size` bytes; `OriginError("wrong-digest")` if it is another."""
        data = b"".join(self._parts(digest, 0, size + 1))
        self.wire_bytes += len(data)
        if len(data) != size:
            reason = "too-long" if len(data) > size else "truncated"
            raise OriginError(reason, f"object {digest.hex()}: not of {size} bytes")
        try:
            verify(data, digest, f"object {digest.hex()}")
        except ContentError as error:
            raise OriginError("wrong-digest", error.message) from error
        return data

    def stream(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Buffer]]:
        """As `ports.Origin.stream`; reasons are `not-found` and `truncated`."""
        if not 0 <= start <= stop:
            raise ValueError(f"not a range: [{start}, {stop})")
        return self._stream(digest, start, stop)

    @asynccontextmanager
    async def _stream(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[Buffer]]:
        with closing(self._exactly(digest, start, stop)) as parts:
            yield EachPart(parts)

    def _exactly(self, digest: Digest, start: int, stop: int) -> Generator[Buffer, None, None]:
        got = start
        for part in self._parts(digest, start, stop):
            got += len(part)
            self.wire_bytes += len(part)
            yield part
        if got != stop:
            raise OriginError("truncated", f"object {digest.hex()}: ended {stop - got} bytes early")

    def _parts(self, digest: Digest, start: int, stop: int) -> Iterator[bytes]:
        raise NotImplementedError


class RepositoryOrigin(_Directory):
    """`directory` holds `metadata/` and `objects/`, as `slipstream repo init` makes it."""

    def __init__(self, directory: str, files: Files = STICK_FILES) -> None:
        super().__init__()
        self._directory = directory
        self._files = files

    async def metadata(self, name: str, size_max: int) -> bytes:
        """A metadata file; `OriginError` (`not-found`, `too-long`)."""
        if not _METADATA_NAME.fullmatch(name):
            raise OriginError("not-found", f"{name[:80]!r} is not a metadata file's name", retry=False)
        data = b"".join(self._read(f"metadata/{name}", 0, size_max + 1))
        if len(data) > size_max:
            raise OriginError("too-long", f"{name}: over {size_max} bytes")
        self.wire_bytes += len(data)
        return data

    def _parts(self, digest: Digest, start: int, stop: int) -> Iterator[bytes]:
        return self._read(f"objects/{digest.hex()}", start, stop)

    def _read(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        path = f"{self._directory}/{name}"
        try:
            file = self._files.open(path)
        except FileNotFoundError:
            raise OriginError("not-found", f"{path} is not there", retry=False) from None
        except OSError as error:
            raise OriginError("unreachable", f"{path}: {error.strerror or error}") from error
        try:
            at = start
            while at < stop and (data := file.read_at(at, min(limits.MIB, stop - at))):
                at += len(data)
                yield data
        except OSError as error:
            raise OriginError("unreachable", f"{path}: {error.strerror or error}") from error
        finally:
            file.close()


class BundleOrigin(_Directory):
    """A bundle as an origin: what it holds it gives, also to another bundle."""

    def __init__(self, reader: BundleReader) -> None:
        super().__init__()
        self.reader = reader

    async def metadata(self, name: str, size_max: int) -> bytes:
        """A metadata file by its name in a repository; `OriginError` (`not-found`, `too-long`)."""
        found = self._named(name)
        if found is None:
            raise OriginError("not-found", f"the bundle has no {name[:80]}", retry=False)
        if found.ref.size > size_max:
            raise OriginError("too-long", f"{name}: over {size_max} bytes")
        try:
            data = self.reader.whole(found)
        except (ContentError, StoreError) as error:
            raise OriginError("wrong-digest", error.message) from error
        self.wire_bytes += len(data)
        return data

    def _named(self, name: str) -> BundleObject | None:
        table = self.reader.table
        if name == "timestamp.json":
            return table.timestamp
        version, _, role = name.removesuffix(".json").partition(".")
        if role == "root":
            return table.root(int(version)) if version.isdecimal() and len(version) < 16 else None
        return next((o for o in table.of(Kind.METADATA) if encode_name(o.name) == role), None)

    def _parts(self, digest: Digest, start: int, stop: int) -> Iterator[bytes]:
        found = self.reader.find(digest)
        if found is None:
            raise OriginError("not-found", f"the bundle has no object {digest.hex()}", retry=False)
        try:
            yield from self.reader.parts(found, start, stop)
        except (ContentError, StoreError) as error:
            raise OriginError("truncated", error.message) from error
