"""Image files mapped into memory: read as one buffer, paged by the kernel, never copied whole."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.errors import OperatorError

_STEP = 4 * limits.MIB


@contextmanager
def open_image(path: str | Path | None) -> Iterator[Buffer]:
    """The bytes of an image file or block device; empty for None. Raises `OperatorError`."""
    if path is None:
        yield b""
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (closed below; its errors are translated here)
    except OSError as error:
        raise OperatorError(f"cannot read the image {path}: {error.strerror}") from error
    with file:
        try:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                yield b""
                return
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise OperatorError(f"cannot read the image {path}: {error.strerror}") from error
        with mapped, memoryview(mapped) as view:
            yield view


def digest_of(data: Buffer) -> Digest:
    """SHA-256 of a mapped image."""
    state = hashlib.sha256()
    view = memoryview(data)
    for at in range(0, len(view), _STEP):
        state.update(view[at : at + _STEP])
    return Digest(state.digest())
