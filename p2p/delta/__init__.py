"""Deltas: codecs, compression, base views, planning a pack and unpacking its frames. Pure."""

from p2p.delta.codecs import CODECS, DeltaCodec
from p2p.delta.compression import compress, decompress
from p2p.delta.unpack import apply_delta, read_view, recompute_delta, unpack_data, unpack_patch

__all__ = [
    "CODECS",
    "DeltaCodec",
    "apply_delta",
    "compress",
    "decompress",
    "read_view",
    "recompute_delta",
    "unpack_data",
    "unpack_patch",
]
