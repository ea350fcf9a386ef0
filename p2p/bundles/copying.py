"""One object into a bundle: verified piece by piece before it is kept, and gone on with after a cut.

A frames object is verified frame by frame, by the index of its pack: what is there after a cut is read
and verified again, kept up to the first frame that is wrong, and only the rest is fetched. So no cut costs
what was verified, and a bad place is named. Memory is that of one frame, whatever the size of the object.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from p2p.adapters.bundle_files import BundleWriter, PartialObject, medium_error
from p2p.content import limits
from p2p.content.bundle import BundleObject
from p2p.content.digests import Buffer
from p2p.content.index import Frame, PackIndex
from p2p.delta.rebuild import check_frame
from p2p.errors import ContentError, OriginError, SlipstreamError

SYNC_BYTES = 32 * limits.MIB
"""How much of a large object a power cut may cost."""

Progress = Callable[[int], None]
"""Told how many more bytes are done: verified where they were, or copied."""

Stream = Callable[[int, int], AbstractAsyncContextManager[AsyncIterator[Buffer]]]
"""`stream(start, stop)`: those bytes of the object, unverified."""


async def copy_object(
    writer: BundleWriter,
    found: BundleObject,
    stream: Stream,
    index: PackIndex | None,
    progress: Progress,
) -> int:
    """Have the object in the bundle, verified and durable; returns the bytes that came from `stream`.

    `index`: of the pack whose frames they are, None for other objects. Raises `ContentError` for wrong bytes,
    what `stream` raises, `StoreError`; each says what was kept.
    """
    partial = writer.object(found.ref)
    with _medium(writer.directory):
        state, position = _verified(partial, index, progress)
        whole = position == found.ref.size and state.digest() == found.ref.sha256
        if whole and partial.complete:
            return 0
        if not whole and (index is None or position == found.ref.size):
            # Small ones come anew: nothing tells where the first wrong byte is.
            progress(-position)
            position, state = 0, hashlib.sha256()
        partial.truncate(position)
    try:
        fetched = await _fetch(writer, partial, stream, index, state, progress)
    except SlipstreamError as error:
        with _medium(writer.directory):
            partial.sync()
        error.kept = error.kept or f"{partial.present} of {found.ref.size} bytes of it, verified"
        error.next_step = error.next_step or "run the same command again: it goes on there"
        raise
    if state.digest() != found.ref.sha256:
        with _medium(writer.directory):
            partial.truncate(0)
        raise ContentError(
            f"{found.kind} {found.name}: wrong digest",
            kept="every other object that was verified",
            next_step="run the same command again; if it fails again, the source is damaged",
        )
    with _medium(writer.directory):
        partial.finish()
    return fetched


def _verified(
    partial: PartialObject, index: PackIndex | None, progress: Progress
) -> tuple[hashlib._Hash, int]:
    """The digest state and length of what is present and right."""
    state, position = hashlib.sha256(), 0
    for start, stop, frame in _units(partial.ref.size, index):
        if stop > partial.present:
            break
        data = partial.read(start, stop - start)
        try:
            _check(frame, data, stop - start)
        except ContentError:
            break
        state.update(data)
        position = stop
        progress(len(data))
    return state, position


async def _fetch(
    writer: BundleWriter,
    partial: PartialObject,
    stream: Stream,
    index: PackIndex | None,
    state: hashlib._Hash,
    progress: Progress,
) -> int:
    size = partial.ref.size
    units = (unit for unit in _units(size, index) if unit[1] > partial.present)
    unit = next(units, None)
    fetched = unsynced = 0
    waiting = bytearray()
    if unit is None:
        return 0
    async with stream(unit[0], size) as parts:
        async for part in parts:
            waiting += part
            fetched += len(part)
            while unit is not None and len(waiting) >= unit[1] - unit[0]:
                start, stop, frame = unit
                data = bytes(memoryview(waiting)[: stop - start])
                _check(frame, data, stop - start)
                with _medium(writer.directory):
                    partial.append(data)
                    unsynced += len(data)
                    if unsynced >= SYNC_BYTES:
                        partial.sync()
                        unsynced = 0
                state.update(data)
                del waiting[: stop - start]
                progress(len(data))
                unit = next(units, None)
    if unit is not None:
        raise OriginError("truncated", f"object {partial.ref.sha256.hex()} ended early")
    return fetched


def _units(size: int, index: PackIndex | None) -> Iterator[tuple[int, int, Frame | None]]:
    """What is verified, or at least written, at once: `(start, stop, frame)`."""
    if index is None:
        for at in range(0, size, limits.MIB):
            yield at, min(at + limits.MIB, size), None
    else:
        for frame in index.frames:
            yield frame.stored_offset, frame.stored_offset + frame.stored_size, frame


def _check(frame: Frame | None, data: bytes, size: int) -> None:
    if len(data) != size:
        raise ContentError("ended early")
    if frame is not None:
        check_frame(frame, data)


@contextmanager
def _medium(directory: str) -> Iterator[None]:
    """Errors of the medium that is written to."""
    try:
        yield
    except OSError as error:
        raise medium_error("write to", directory, error) from error
