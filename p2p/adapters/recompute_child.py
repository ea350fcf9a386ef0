"""The child process that makes one patch anew: `python -m p2p.adapters.recompute_child`.

On standard input: the length of a msgpack map, the map, the base view, the target (`recompute`). On standard
output: the stored frame, if it is what the index says. Exit codes: 0 it is; 1 anything went wrong; 3 the
codec or the compressor of this machine makes other bytes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import msgpack

from p2p.content.digests import Digest
from p2p.content.index import Codec, Compression, Patch
from p2p.delta.compression import compress
from p2p.delta.unpack import recompute_delta
from p2p.errors import ContentError

HEAD_SIZE = 4
"""The length of the request's head, before it; big-endian."""

STACK_SIZE = 64 << 20
"""bsdiff's sort recurses deeply."""

OTHER_BYTES = 3


def limit(memory: int, cpu_s: int) -> None:
    """No more than this, at the lowest priority, and first to go when memory runs out."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # SIGXCPU tells it from other deaths
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def make(head: dict[str, Any], view: bytes, target: bytes) -> bytes:
    """The stored frame; raises `ContentError` where it would be another."""
    entry = Patch(
        Codec(head["codec"]), len(target), (), head["stored_size"], Compression(head["compression"]),
        head["delta_size"], Digest(head["delta_digest"]), Digest(head["output_digest"]),
    )  # fmt: skip
    delta = recompute_delta(entry, view, target)
    compression, stored = compress(delta)
    if (len(delta), compression, len(stored)) != (entry.delta_size, entry.compression, entry.stored_size):
        raise ContentError("compressed otherwise")
    return stored


def main() -> int:
    """Answer one request."""
    source = sys.stdin.buffer
    head = msgpack.unpackb(source.read(int.from_bytes(source.read(HEAD_SIZE), "big")))
    view, target = source.read(head["view"]), source.read(head["target"])
    limit(head["memory"], head["cpu_s"])
    made: list[bytes] = []

    def work() -> None:
        with contextlib.suppress(ContentError):
            made.append(make(head, view, target))

    threading.stack_size(STACK_SIZE)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    if not made:
        return OTHER_BYTES
    sys.stdout.buffer.write(made[0])
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
