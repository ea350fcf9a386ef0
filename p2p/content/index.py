"""The pack index: how one pack makes one image, frame by frame.

An index lists entries in the order of the target image. `Zero` and `Copy` cost no stored bytes;
`Patch` and `Data` each own one stored frame. The frames object of the pack is the concatenation of
the stored frames in the same order, so offsets are sums and are never written down. The encoding is
msgpack and is specified, with test vectors, in `docs/spec/pack.md`.

An index is trusted because its digest stands in a signed manifest, but it is decoded as hostile
all the same: every number is checked against `p2p.content.limits` before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, TypeVar

import msgpack

from p2p.content import limits
from p2p.content.digests import DIGEST_SIZE, Buffer, Digest, parse_digest
from p2p.errors import ContentError, LimitExceeded

MAGIC = "slipstream-index"
VERSION = 1

_E = TypeVar("_E", bound=IntEnum)


class Kind(IntEnum):
    """The first element of an encoded entry."""

    ZERO = 0
    COPY = 1
    PATCH = 2
    DATA = 3


class Codec(IntEnum):
    """How an uncompressed delta is read."""

    BSDIFF = 1
    HDIFFPATCH = 2


class Compression(IntEnum):
    """How a stored frame is compressed. The signed digests are of the uncompressed bytes."""

    NONE = 0
    ZSTD = 1
    LZMA2 = 2


@dataclass(frozen=True, slots=True)
class Zero:
    """`length` bytes of zero."""

    length: int


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes of the base from `base_offset`."""

    base_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ViewRange:
    """One range of the base; a base view is the concatenation of a few of them."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Patch:
    """`length` target bytes made by applying a delta to a base view.

    `stored_size`: bytes in the frames object; `delta_size`, `delta_digest`: of the uncompressed
    delta; `output_digest`: of the target bytes that the patch makes.
    """

    codec: Codec
    length: int
    view: tuple[ViewRange, ...]
    stored_size: int
    compression: Compression
    delta_size: int
    delta_digest: Digest
    output_digest: Digest

    @property
    def view_size(self) -> int:
        """Bytes of the base view."""
        return sum(r.length for r in self.view)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One content-defined chunk of the image: the unit that a peer serves and a device verifies."""

    length: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Data:
    """Consecutive chunks, compressed together into one stored frame of `stored_size` bytes."""

    stored_size: int
    compression: Compression
    chunks: tuple[Chunk, ...]

    @property
    def length(self) -> int:
        """Target bytes of the frame."""
        return sum(c.length for c in self.chunks)


Entry = Zero | Copy | Patch | Data


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a stored frame lies. Offsets and sizes are bytes.

    `number` counts stored frames (`Patch` and `Data` entries) from 0 in index order.
    """

    number: int
    entry: Patch | Data
    target_offset: int
    stored_offset: int

    @property
    def target_length(self) -> int:
        return self.entry.length

    @property
    def stored_size(self) -> int:
        return self.entry.stored_size


@dataclass(frozen=True, slots=True)
class Local:
    """Where an entry that needs no stored bytes lands in the target."""

    entry: Zero | Copy
    target_offset: int


@dataclass(frozen=True)
class PackIndex:
    """A decoded, checked index. `base` is None for a full pack, which needs nothing."""

    image: Digest
    image_size: int
    base: Digest | None
    base_size: int
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        check(self)

    @property
    def is_full(self) -> bool:
        """Whether the pack needs no base."""
        return self.base is None

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The stored frames, in order."""
        frames: list[Frame] = []
        target = stored = 0
        for entry in self.entries:
            if isinstance(entry, Patch | Data):
                frames.append(Frame(len(frames), entry, target, stored))
                stored += entry.stored_size
            target += entry.length
        return tuple(frames)

    @cached_property
    def local_entries(self) -> tuple[Local, ...]:
        """The `Zero` and `Copy` entries with their places."""
        found: list[Local] = []
        target = 0
        for entry in self.entries:
            if isinstance(entry, Zero | Copy):
                found.append(Local(entry, target))
            target += entry.length
        return tuple(found)

    @cached_property
    def frames_size(self) -> int:
        """Bytes of the frames object."""
        return sum(e.stored_size for e in self.entries if isinstance(e, Patch | Data))


def encode(index: PackIndex) -> bytes:
    """The canonical encoding; `decode(encode(x)) == x` and equal indexes encode to equal bytes."""
    body = [
        MAGIC,
        VERSION,
        index.image,
        index.image_size,
        index.base,
        index.base_size,
        [_encode_entry(e) for e in index.entries],
    ]
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return packed


def decode(data: Buffer) -> PackIndex:
    """Decode and check an index; raises `ContentError` (`LimitExceeded` where a size is absurd)."""
    if len(data) > limits.INDEX_SIZE_MAX:
        raise LimitExceeded(f"index of {len(data)} bytes is over {limits.INDEX_SIZE_MAX}")
    try:
        body = msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            max_array_len=limits.INDEX_ENTRIES_MAX,
            max_bin_len=limits.DATA_FRAME_CHUNKS_MAX * DIGEST_SIZE,
            max_str_len=64,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ContentError(f"index: not valid msgpack ({error})") from error
    if not isinstance(body, list) or len(body) != 7 or body[0] != MAGIC:
        raise ContentError("index: not a Slipstream pack index")
    if body[1] != VERSION:
        raise ContentError(f"index: version {body[1]!r} is not supported (this program reads {VERSION})")
    _, _, image, image_size, base, base_size, entries = body
    if not isinstance(entries, list):
        raise ContentError("index: entries are not a list")
    return PackIndex(
        image=parse_digest(image, "index: image"),
        image_size=_integer(image_size, 0, limits.IMAGE_SIZE_MAX, "image size"),
        base=None if base is None else parse_digest(base, "index: base"),
        base_size=_integer(base_size, 0, limits.IMAGE_SIZE_MAX, "base size"),
        entries=tuple(_decode_entry(e, n) for n, e in enumerate(entries)),
    )


def check(index: PackIndex) -> None:
    """Raise `ContentError` unless the index is sound: sizes add up and every range is inside its base."""
    if index.base is None and index.base_size:
        raise ContentError("index: a full pack has no base size")
    if len(index.entries) > limits.INDEX_ENTRIES_MAX:
        raise LimitExceeded(f"index: {len(index.entries)} entries are over {limits.INDEX_ENTRIES_MAX}")
    total = 0
    for n, entry in enumerate(index.entries):
        match entry:
            case Zero():
                pass
            case Copy(base_offset=offset, length=length):
                if index.base is None or offset + length > index.base_size:
                    raise ContentError(f"index: entry {n}: COPY is outside the base")
            case Patch():
                _check_patch(index, entry, n)
            case Data():
                _check_data(entry, n)
        if entry.length <= 0:
            raise ContentError(f"index: entry {n}: length is not positive")
        total += entry.length
        if total > index.image_size:
            raise ContentError(f"index: entry {n}: entries pass the end of the image")
    if total != index.image_size:
        raise ContentError(f"index: entries make {total} bytes of an image of {index.image_size}")


def _check_patch(index: PackIndex, entry: Patch, n: int) -> None:
    if index.base is None:
        raise ContentError(f"index: entry {n}: PATCH in a full pack")
    if entry.length > limits.PATCH_TARGET_MAX:
        raise LimitExceeded(f"index: entry {n}: PATCH target of {entry.length} bytes")
    if len(entry.view) > limits.BASE_VIEW_RANGES_MAX or entry.view_size > limits.BASE_VIEW_MAX:
        raise LimitExceeded(f"index: entry {n}: base view of {entry.view_size} bytes")
    if entry.delta_size > limits.PATCH_DELTA_MAX or entry.stored_size > limits.STORED_FRAME_MAX:
        raise LimitExceeded(f"index: entry {n}: delta of {entry.delta_size} bytes")
    if entry.delta_size <= 0 or entry.stored_size <= 0:
        raise ContentError(f"index: entry {n}: PATCH without bytes")
    for r in entry.view:
        if r.offset < 0 or r.length <= 0 or r.offset + r.length > index.base_size:
            raise ContentError(f"index: entry {n}: base view is outside the base")


def _check_data(entry: Data, n: int) -> None:
    if not entry.chunks or len(entry.chunks) > limits.DATA_FRAME_CHUNKS_MAX:
        raise LimitExceeded(f"index: entry {n}: {len(entry.chunks)} chunks in a DATA frame")
    if entry.length > limits.DATA_FRAME_TARGET_MAX or entry.stored_size > limits.STORED_FRAME_MAX:
        raise LimitExceeded(f"index: entry {n}: DATA frame of {entry.length} bytes")
    if entry.stored_size <= 0:
        raise ContentError(f"index: entry {n}: DATA without bytes")
    for c in entry.chunks:
        if not 0 < c.length <= limits.DATA_FRAME_TARGET_MAX:
            raise LimitExceeded(f"index: entry {n}: chunk of {c.length} bytes")


def _encode_entry(entry: Entry) -> list[Any]:
    match entry:
        case Zero():
            return [int(Kind.ZERO), entry.length]
        case Copy():
            return [int(Kind.COPY), entry.base_offset, entry.length]
        case Patch():
            return [
                int(Kind.PATCH),
                int(entry.codec),
                entry.length,
                [[r.offset, r.length] for r in entry.view],
                entry.stored_size,
                int(entry.compression),
                entry.delta_size,
                entry.delta_digest,
                entry.output_digest,
            ]
        case Data():
            return [
                int(Kind.DATA),
                entry.stored_size,
                int(entry.compression),
                [c.length for c in entry.chunks],
                b"".join(c.digest for c in entry.chunks),
            ]


def _decode_entry(raw: object, n: int) -> Entry:
    what = f"entry {n}"
    size = limits.IMAGE_SIZE_MAX
    match raw:
        case [Kind.ZERO, length]:
            return Zero(_integer(length, 1, size, what))
        case [Kind.COPY, base_offset, length]:
            return Copy(_integer(base_offset, 0, size, what), _integer(length, 1, size, what))
        case [Kind.PATCH, codec, length, view, stored, compression, delta_size, delta_digest, output]:
            return Patch(
                codec=_member(Codec, codec, what),
                length=_integer(length, 1, limits.PATCH_TARGET_MAX, what),
                view=_decode_view(view, what),
                stored_size=_integer(stored, 1, limits.STORED_FRAME_MAX, what),
                compression=_member(Compression, compression, what),
                delta_size=_integer(delta_size, 1, limits.PATCH_DELTA_MAX, what),
                delta_digest=parse_digest(delta_digest, f"index: {what}: delta"),
                output_digest=parse_digest(output, f"index: {what}: output"),
            )
        case [Kind.DATA, stored, compression, list(lengths), bytes(digests)]:
            if len(digests) != DIGEST_SIZE * len(lengths):
                raise ContentError(f"index: {what}: {len(lengths)} chunks with {len(digests)} digest bytes")
            return Data(
                stored_size=_integer(stored, 1, limits.STORED_FRAME_MAX, what),
                compression=_member(Compression, compression, what),
                chunks=_decode_chunks(lengths, digests, what),
            )
        case _:
            raise ContentError(f"index: {what}: unknown kind or shape")


def _decode_chunks(lengths: Sequence[object], digests: bytes, what: str) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(
            _integer(length, 1, limits.DATA_FRAME_TARGET_MAX, what),
            Digest(digests[i * DIGEST_SIZE : (i + 1) * DIGEST_SIZE]),
        )
        for i, length in enumerate(lengths)
    )


def _decode_view(raw: object, what: str) -> tuple[ViewRange, ...]:
    if not isinstance(raw, list) or len(raw) > limits.BASE_VIEW_RANGES_MAX:
        raise LimitExceeded(f"index: {what}: base view")
    ranges: list[ViewRange] = []
    for item in raw:
        if not isinstance(item, list) or len(item) != 2:
            raise ContentError(f"index: {what}: base view range")
        ranges.append(
            ViewRange(
                _integer(item[0], 0, limits.IMAGE_SIZE_MAX, what),
                _integer(item[1], 1, limits.BASE_VIEW_MAX, what),
            )
        )
    return tuple(ranges)


def _integer(value: object, low: int, high: int, what: str) -> int:
    if type(value) is not int:
        raise ContentError(f"index: {what}: a number is missing")
    if not low <= value <= high:
        raise LimitExceeded(f"index: {what}: {value} is not within {low}..{high}")
    return value


def _member(kind: type[_E], value: object, what: str) -> _E:
    try:
        if type(value) is int:
            return kind(value)
    except ValueError:
        pass
    raise ContentError(f"index: {what}: unknown {kind.__name__.lower()} {value!r}")
