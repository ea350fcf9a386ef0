"""Needs: what the trust client asks of whoever drives it, and the two smallest drivers.

The client does no I/O. Each of its steps is a generator that yields a `Need` and is sent the bytes,
from any source: origin, peer, USB bundle, memory. Bytes that are refused make it yield the same
need again with `error` set, so that the driver can blame that source and try the next; a driver that
has none left throws an `OriginError` (or `PeerError`) into the generator.

Not for large things: frames and images are never a `Need`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from tuf.api.metadata import MetaFile

from p2p.content.digests import Digest, sha256
from p2p.errors import OriginError, PeerError, TrustError
from p2p.trust.documents import digest_of, encode_name, stated_version

T = TypeVar("T")


class NeedKind(StrEnum):
    """Which namespace of the repository `Need.name` is in."""

    METADATA = "metadata"
    OBJECT = "objects"


@dataclass(frozen=True, slots=True)
class Need:
    """One small file that the client must see to go on.

    `name`: the file's name below `metadata/` or `objects/`, percent-encoded as in a URL.
    `role`: the TUF role that it belongs to (for an object, the target path).
    `version`: the metadata version that is expected, None where it is not known beforehand.
    `digest`, `size`: what the signed metadata says of it; None where nothing does.
    `size_max`: bytes after which a source must be cut off; always set.
    `mutable`: the answer changes with time (root probes, timestamp) and the first that is validly signed
    is taken: ask the origin, and nobody else where it can be reached. Peers' timestamps go to
    `TrustClient.consider_timestamp`. Whatever has a digest can come from any peer.
    `may_be_absent`: None may be sent for "nobody has it".
    `error`: why the bytes that were sent last were refused.
    """

    kind: NeedKind
    name: str
    role: str
    version: int | None
    digest: Digest | None
    size: int | None
    size_max: int
    mutable: bool = False
    may_be_absent: bool = False
    error: TrustError | None = None

    @property
    def path(self) -> str:
        """Path below the repository's URL."""
        return f"{self.kind}/{self.name}"


def metadata_need(role: str, meta: MetaFile, size_max: int, *, consistent: bool | None) -> Need:
    """For the metadata of a role that snapshot or timestamp name as `meta`.

    `consistent`: whether its file's name has its version (TUF 6.2). Raises `TrustError("too-long")`.
    """
    if meta.length is not None and meta.length > size_max:
        raise TrustError("too-long", f"{role}: {meta.length} bytes are over {size_max}")
    file = f"{encode_name(role)}.json"
    return Need(
        NeedKind.METADATA,
        f"{meta.version}.{file}" if consistent else file,
        role,
        meta.version,
        digest_of(meta),
        meta.length,
        size_max if meta.length is None else meta.length,
    )


Steps = Generator[Need, bytes | None, T]
"""A computation that needs files: yields needs, is sent their bytes, returns a `T`.

Raises `TrustError` (refused), `StoreError` (this device's disk), or what the driver threw.
"""


def run(steps: Steps[T], answer: Callable[[Need], bytes | None]) -> T:
    """Drive `steps` with a blocking `answer`.

    `answer` returns the bytes, or None for "absent"; it is asked again, with `need.error`, until its
    bytes are accepted or it raises `OriginError` or `PeerError`.
    """
    try:
        need = next(steps)
        while True:
            try:
                data = answer(need)
            except (OriginError, PeerError) as error:
                need = steps.throw(error)
            else:
                need = steps.send(data)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


async def run_async(steps: Steps[T], answer: Callable[[Need], Awaitable[bytes | None]]) -> T:
    """As `run`, with an `answer` that is awaited (on any event loop); cancellation drops the steps."""
    try:
        need = next(steps)
        while True:
            try:
                data = await answer(need)
            except (OriginError, PeerError) as error:
                need = steps.throw(error)
            else:
                need = steps.send(data)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


def obtain(need: Need, judge: Callable[[bytes], T]) -> Steps[T | None]:
    """Yield `need` until `judge` takes the bytes; None if it was answered as absent and may be."""
    while True:
        try:
            data = yield need
        except (OriginError, PeerError) as exhausted:
            if need.error is not None:
                raise need.error from exhausted
            raise
        if data is None:
            if need.may_be_absent:
                return None
            raise need.error or OriginError("not-found", f"{need.path}: nobody has it")
        try:
            if len(data) > need.size_max:
                raise TrustError("too-long", f"{need.role}: over {need.size_max} bytes")
            return judge(data)
        except TrustError as error:
            if need.digest is not None and sha256(data) == need.digest:
                raise  # these are the bytes that the signers mean: nobody has better ones
            need = replace(need, error=error)


def breaks_its_word(need: Need, data: bytes, claimed: int) -> bool:
    """Whether a timestamp is older than what the peer that gave it said it trusts.

    It may be as new as what is held, so nobody would refuse it, nor ask the next peer.
    """
    if need.role != "timestamp":
        return False
    stated = stated_version(data)
    return stated is not None and stated < claimed
