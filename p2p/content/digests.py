"""SHA-256 digests: the names of images, packs, chunks and objects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NewType

from p2p.errors import ContentError

Digest = NewType("Digest", bytes)
"""32 raw bytes. Text forms (files, URLs, JSON) use lower-case hexadecimal."""

Buffer = bytes | bytearray | memoryview
"""What the project passes around as bytes."""

DIGEST_SIZE = 32
_HEX = re.compile(r"[0-9a-f]{64}")


def sha256(data: Buffer) -> Digest:
    """Digest of `data`."""
    return Digest(hashlib.sha256(data).digest())


def sha256_of_parts(parts: Iterable[Buffer]) -> Digest:
    """Digest of the concatenation of `parts`, without joining them."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return Digest(state.digest())


def parse_digest(value: object, what: str = "digest") -> Digest:
    """Raw bytes or lower-case hex to a `Digest`; raises `ContentError` naming `what`."""
    if isinstance(value, bytes) and len(value) == DIGEST_SIZE:
        return Digest(value)
    if isinstance(value, str) and _HEX.fullmatch(value):
        return Digest(bytes.fromhex(value))
    raise ContentError(f"{what}: not a SHA-256 digest")


def verify(data: Buffer, expected: Digest, what: str) -> None:
    """Raise `ContentError` unless `data` has the digest `expected`."""
    if hashlib.sha256(data).digest() != expected:
        raise ContentError(f"{what}: wrong digest")
