"""A whole image from a pack, part by part: for commands and tests, where everything is at hand.

A device that updates does not come through here: it fetches frames in any order and writes straight
to its slot. Memory is that of one frame, whatever the size of the image. No I/O: reading is passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, verify
from p2p.content.index import Copy, Data, Frame, PackIndex, Patch, Zero
from p2p.delta.compression import decompress
from p2p.delta.unpack import read_view, unpack_data, unpack_patch
from p2p.errors import ContentError

Read = Callable[[int, int], bytes]
"""`read(offset, length)`: exactly that many bytes, fewer only at the end of what is read."""

_STEP = limits.MIB
_ZEROS = bytes(_STEP)


def image_parts(index: PackIndex, read_frames: Read, read_base: Read) -> Iterator[Buffer]:
    """The image in order, in parts of at most one frame, and its digest checked after the last one.

    Raises `ContentError` naming the frame at fault; then what was yielded before is verified but the
    image is not complete.
    """
    state = hashlib.sha256()
    for part in _parts(index, read_frames, read_base):
        state.update(part)
        yield part
    if Digest(state.digest()) != index.image:
        raise ContentError("image: wrong digest (is the base damaged where it is copied?)")


def check_frames(index: PackIndex, read_frames: Read) -> None:
    """Check every stored frame as far as that goes without a base. Raises `ContentError`."""
    for frame in index.frames:
        check_frame(frame, _stored(frame, read_frames))


def check_frame(frame: Frame, stored: Buffer) -> None:
    """Check one stored frame as far as that goes without a base. Raises `ContentError` naming it."""
    with _Named(frame):
        if isinstance(frame.entry, Data):
            unpack_data(frame.entry, stored)
            return
        if len(stored) != frame.stored_size:
            raise ContentError(f"PATCH frame: {len(stored)} stored bytes instead of {frame.stored_size}")
        delta = decompress(frame.entry.compression, stored, frame.entry.delta_size)
        verify(delta, frame.entry.delta_digest, "PATCH frame: delta")


def _parts(index: PackIndex, read_frames: Read, read_base: Read) -> Iterator[Buffer]:
    frames = iter(index.frames)
    for entry in index.entries:
        match entry:
            case Zero(length=length):
                for at in range(0, length, _STEP):
                    yield memoryview(_ZEROS)[: min(_STEP, length - at)]
            case Copy(base_offset=offset, length=length):
                for at in range(0, length, _STEP):
                    size = min(_STEP, length - at)
                    part = read_base(offset + at, size)
                    if len(part) != size:
                        raise ContentError(f"base: ends at {offset + at + len(part)} bytes")
                    yield part
            case Patch() | Data():
                yield from _frame_parts(next(frames), read_frames, read_base)


def _frame_parts(frame: Frame, read_frames: Read, read_base: Read) -> list[bytes]:
    stored = _stored(frame, read_frames)
    with _Named(frame):
        if isinstance(frame.entry, Data):
            return unpack_data(frame.entry, stored)
        return [unpack_patch(frame.entry, stored, read_view(read_base, frame.entry))]


def _stored(frame: Frame, read_frames: Read) -> bytes:
    stored = read_frames(frame.stored_offset, frame.stored_size)
    if len(stored) != frame.stored_size:
        raise ContentError(
            f"frames object: truncated in frame {frame.number}"
            f" ({frame.stored_offset + len(stored)} bytes, {frame.stored_offset + frame.stored_size} needed)"
        )
    return stored


class _Named:
    """Adds to a `ContentError` which frame it is about."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ContentError):
            f = self._frame
            raise ContentError(f"frame {f.number} (image bytes from {f.target_offset}): {error}") from error
