"""From stored frames to verified target bytes.

Order matters: decompress within the declared size, check the signed digest of the delta, and only then
let a codec see it; check the digest of what it made. Nothing here reads a file or a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from p2p.content.digests import Buffer, verify
from p2p.content.index import Data, Patch
from p2p.delta.codecs import CODECS
from p2p.delta.compression import decompress
from p2p.errors import ContentError


def read_view(read: Callable[[int, int], bytes], entry: Patch) -> bytes:
    """The base view of a patch frame, by `read(offset, length)` of the base.

    Raises `ContentError` when a read comes back short (the base is not what the index says).
    """
    if len(entry.view) == 1:
        only = entry.view[0]
        return _exactly(read(only.offset, only.length), only.length)
    # BytesIO hands its buffer over without a copy: the view exists once.
    view = BytesIO()
    for part in entry.view:
        view.write(_exactly(read(part.offset, part.length), part.length))
    return view.getvalue()


def unpack_patch(entry: Patch, stored: Buffer, view: Buffer) -> bytes:
    """The `entry.length` target bytes of a patch frame.

    `stored`: the frame as fetched; `view`: the base view (`bytes` avoids a copy). Raises
    `ContentError`: damaged or endless compression, wrong delta digest, wrong base view, wrong output.
    """
    if len(stored) != entry.stored_size:
        raise ContentError(f"PATCH frame: {len(stored)} stored bytes instead of {entry.stored_size}")
    return apply_delta(entry, decompress(entry.compression, stored, entry.delta_size), view)


def apply_delta(entry: Patch, delta: Buffer, view: Buffer) -> bytes:
    """As `unpack_patch`, from an uncompressed delta (a peer may compress it otherwise)."""
    if len(delta) != entry.delta_size:
        raise ContentError(f"PATCH frame: delta of {len(delta)} bytes instead of {entry.delta_size}")
    if len(view) != entry.view_size:
        raise ContentError(f"PATCH frame: base view of {len(view)} bytes instead of {entry.view_size}")
    verify(delta, entry.delta_digest, "PATCH frame: delta")
    output = CODECS[entry.codec].apply(view, delta, entry.length)
    verify(output, entry.output_digest, "PATCH frame: output (is the base damaged?)")
    return output


def unpack_data(entry: Data, stored: Buffer) -> list[bytes]:
    """The chunks of a DATA frame, each verified. Raises `ContentError`."""
    if len(stored) != entry.stored_size:
        raise ContentError(f"DATA frame: {len(stored)} stored bytes instead of {entry.stored_size}")
    raw = memoryview(decompress(entry.compression, stored, entry.length))
    chunks: list[bytes] = []
    at = 0
    for number, chunk in enumerate(entry.chunks):
        data = bytes(raw[at : at + chunk.length])
        verify(data, chunk.digest, f"DATA frame: chunk {number}")
        chunks.append(data)
        at += chunk.length
    return chunks


def recompute_delta(entry: Patch, view: Buffer, target: Buffer) -> bytes:
    """The signed delta again, from both images; compress it with `compression.compress` to pass it on.

    Raises `ContentError` when this machine's codec makes other bytes: then it does not serve the frame.
    """
    delta = CODECS[entry.codec].diff(view, target)
    if delta is None:
        raise ContentError("PATCH frame: the codec makes no delta here")
    verify(delta, entry.delta_digest, "PATCH frame: recomputed delta")
    return delta


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ContentError(f"base view: read {len(data)} bytes instead of {length}")
    return data
