"""The seam of delta codecs: what one is, and which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from p2p.content.digests import Buffer
from p2p.content.index import Codec
from p2p.delta.bsdiff import Bsdiff
from p2p.delta.hdiff import Hdiff


class DeltaCodec(Protocol):
    """Makes and applies uncompressed, deterministic deltas between a base view and a target."""

    codec: Codec

    def diff(self, view: Buffer, target: Buffer) -> bytes | None:
        """A delta of at most `limits.PATCH_DELTA_MAX` bytes, or None where this codec makes none.

        Equal arguments give equal bytes on every machine. May need much time, memory and stack.
        """

    def apply(self, view: Buffer, delta: Buffer, target_length: int) -> bytes:
        """Exactly `target_length` bytes, or `ContentError`. `bytes` arguments are not copied."""


CODECS: Mapping[Codec, DeltaCodec] = {Codec.HDIFFPATCH: Hdiff(), Codec.BSDIFF: Bsdiff()}
