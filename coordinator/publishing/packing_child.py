"""The child process that runs codecs on two images: `python -m coordinator.publishing.packing_child`.

Codecs are native code that may crash, hang or take any amount of memory on some input, so they run
here: a limited address space, a large stack (bsdiff's sort recurses deeply), no core dump. Requests
come on standard input and results go to standard output, both as a length-prefixed msgpack list and
raw bytes; the parent (`packing_pool`) sets the time limit and starts another child when one dies.
"""

from __future__ import annotations

import resource
import struct
import sys
import threading
from typing import BinaryIO

import msgpack

from coordinator.publishing.image_file import open_image
from p2p.content.digests import Buffer
from p2p.content.index import Codec, ViewRange
from p2p.delta.packing import make_data, make_patch

STACK_SIZE = 512 << 20
ADDRESS_SPACE = 3 << 30
"""Bytes beside the two mapped images. Measured: a 12 MiB view takes HDiffPatch 0.2 GB, bsdiff 0.5 GB."""
HEAD = struct.Struct(">II")
"""Sizes of the msgpack list and of the raw bytes behind it."""


def read_view_of(base: Buffer, ranges: tuple[ViewRange, ...]) -> bytes:
    """The base view, from the mapped base."""
    return b"".join(memoryview(base)[r.offset : r.offset + r.length] for r in ranges)


def answer(request: list[object], target: Buffer, base: Buffer) -> tuple[list[object], bytes]:
    """Do one request: `["patch", codec, offset, length, [[offset, length], …]]` or
    `["data", offset, [length, …]]`."""
    match request:
        case ["patch", int(codec), int(offset), int(length), list(raw)]:
            ranges = tuple(ViewRange(o, n) for o, n in raw)
            piece = bytes(memoryview(target)[offset : offset + length])
            made = make_patch(Codec(codec), read_view_of(base, ranges), piece, ranges)
            if made is None:
                return ["none"], b""
            patch, stored = made
            return [
                "patch",
                int(patch.compression),
                patch.delta_size,
                patch.delta_digest,
                patch.output_digest,
            ], stored
        case ["data", int(offset), list(lengths)]:
            data, stored = make_data(memoryview(target)[offset : offset + sum(lengths)], lengths)
            return ["data", int(data.compression), b"".join(c.digest for c in data.chunks)], stored
        case _:
            raise ValueError("unknown request")


def serve(source: BinaryIO, sink: BinaryIO, target: Buffer, base: Buffer) -> None:
    """Answer requests until the parent closes its end."""
    while len(head := source.read(HEAD.size)) == HEAD.size:
        size, _ = HEAD.unpack(head)
        try:
            result, stored = answer(msgpack.unpackb(source.read(size)), target, base)
        except MemoryError:
            result, stored = ["none"], b""
        packed = msgpack.packb(result)
        sink.write(HEAD.pack(len(packed), len(stored)) + packed)
        sink.write(stored)
        sink.flush()


def main(arguments: list[str]) -> None:
    """Map the images named by the arguments and serve in a thread with a large stack."""
    with open_image(arguments[0]) as target, open_image(arguments[1] if len(arguments) > 1 else None) as base:
        room = ADDRESS_SPACE + STACK_SIZE + len(target) + len(base)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        threading.stack_size(STACK_SIZE)
        worker = threading.Thread(target=serve, args=(sys.stdin.buffer, sys.stdout.buffer, target, base))
        worker.start()
        worker.join()


if __name__ == "__main__":
    main(sys.argv[1:])
