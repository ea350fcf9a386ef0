"""The HDiffPatch codec: its HDIFF13 format without compression.

`hdiffpatch` finds the matches and applies them. Its applier takes sizes from the delta, so the header
is read here first: whatever does not describe exactly this base view, this target length and these
bytes is refused before the library allocates anything for it. The library is loaded at its first use:
most agents that run never come to that.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2p.content import limits
from p2p.content.digests import Buffer
from p2p.content.index import Codec
from p2p.delta.numbers import read_big_endian
from p2p.errors import ContentError

MAGIC = b"HDIFF13&\0"
"""Format name, empty compressor name."""


@dataclass(frozen=True, slots=True)
class Header:
    """The sizes in the head of an uncompressed HDIFF13 delta; the four streams follow in this order."""

    target_size: int
    base_size: int
    covers: int
    covers_size: int
    rle_control_size: int
    rle_code_size: int
    new_data_size: int
    head_size: int

    @property
    def delta_size(self) -> int:
        streams = self.covers_size + self.rle_control_size + self.rle_code_size + self.new_data_size
        return self.head_size + streams


def read_header(delta: Buffer) -> Header:
    """Read the head of a delta; raises `ContentError` unless it is HDIFF13 without compression."""
    data = memoryview(delta)
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise ContentError("hdiffpatch delta: not HDIFF13 without compression")
    at = len(MAGIC)
    numbers: list[int] = []
    for _ in range(11):
        number, at = read_big_endian(data, at)
        numbers.append(number)
    target, base, covers = numbers[:3]
    sizes, compressed = numbers[3::2], numbers[4::2]
    if any(compressed):
        raise ContentError("hdiffpatch delta: a stream inside is compressed")
    return Header(target, base, covers, sizes[0], sizes[1], sizes[2], sizes[3], at)


class Hdiff:
    """`DeltaCodec` for `Codec.HDIFFPATCH`."""

    codec = Codec.HDIFFPATCH

    def diff(self, view: Buffer, target: Buffer) -> bytes | None:
        """The delta, or None when the library fails or the delta is over the limit."""
        import hdiffpatch

        try:
            delta: bytes = hdiffpatch.diff(
                bytes(view), bytes(target), None, validate=False, big_cache_match=True
            )
        except hdiffpatch.HDiffPatchError:
            return None
        return delta if len(delta) <= limits.PATCH_DELTA_MAX else None

    def apply(self, view: Buffer, delta: Buffer, target_length: int) -> bytes:
        """The target bytes. Raises `ContentError` for a delta that is damaged or for another base view."""
        header = read_header(delta)
        if header.target_size != target_length:
            raise ContentError(
                f"hdiffpatch delta: makes {header.target_size} bytes instead of {target_length}"
            )
        if header.base_size != len(view):
            raise ContentError(
                f"hdiffpatch delta: for a base view of {header.base_size} bytes, not {len(view)}"
            )
        if header.delta_size != len(delta):
            raise ContentError("hdiffpatch delta: streams do not end where the delta ends")
        import hdiffpatch

        try:
            output: bytes = hdiffpatch.apply(bytes(view), bytes(delta))
        except (hdiffpatch.HDiffPatchError, MemoryError, ValueError) as error:
            raise ContentError(f"hdiffpatch delta: {error}") from error
        if len(output) != target_length:
            raise ContentError(f"hdiffpatch delta: made {len(output)} bytes instead of {target_length}")
        return output
