"""The child process that makes or applies one peer delta: `python -m p2p.adapters.delta_child`.

On standard input: the length of a msgpack map, the map, the base view, and the target (to make a delta) or
the stored delta (to apply one). On standard output: to `make`, the length of a msgpack list `[codec,
compression, delta size]`, the list, the stored delta; to `apply`, the target bytes. Exit codes: 0 done;
`REFUSED`: what came is no delta for this base view, whatever the codec says; `TOO_LARGE`: it needs more
memory than the child may take; 1 anything else.

What is applied comes from a stranger, and codecs are native code: the child may write no file and open
little, and its parent (`peer_delta`) reads no more of it than it has to say.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from typing import Any

import msgpack

from p2p.adapters.recompute_child import HEAD_SIZE, STACK_SIZE, limit
from p2p.content.index import Codec, Compression
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress, decompress, zstd_library
from p2p.errors import ContentError

REFUSED, TOO_LARGE = 3, 4

DESCRIPTORS_MAX = 32


def make(view: bytes, target: bytes) -> bytes:
    """A delta by HDiffPatch, applied once to be sure; raises `ContentError` where there is none."""
    codec = CODECS[Codec.HDIFFPATCH]
    delta = codec.diff(view, target)
    if delta is None or codec.apply(view, delta, len(target)) != target:
        raise ContentError("the codec makes no delta here")
    compression, stored = compress(delta)
    head: bytes = msgpack.packb([int(codec.codec), int(compression), len(delta)])
    return len(head).to_bytes(HEAD_SIZE, "big") + head + stored


def apply(head: dict[str, Any], view: bytes, stored: bytes) -> bytes:
    """The target bytes; raises `ContentError`."""
    delta = decompress(Compression(head["compression"]), stored, head["delta_size"])
    return CODECS[Codec(head["codec"])].apply(view, delta, head["length"])


def answer_to(head: dict[str, Any], view: bytes, rest: bytes) -> tuple[int, bytes]:
    """Exit code and answer. An error of a codec that nobody foresaw is the fault of what it was given."""
    making = head["do"] == "make"
    try:
        return 0, make(view, rest) if making else apply(head, view, rest)
    except MemoryError:
        return TOO_LARGE, b""
    except ContentError:
        return REFUSED, b""
    except Exception:
        return 1 if making else REFUSED, b""


def confine() -> None:
    """Nothing is written to files and little is opened; what the codecs need is loaded before."""
    import bsdiff4  # noqa: F401  (loaded, not used)
    import hdiffpatch  # noqa: F401  (loaded, not used)

    zstd_library()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_MAX, DESCRIPTORS_MAX))


def main() -> int:
    """Answer one request."""
    source = sys.stdin.buffer
    head = msgpack.unpackb(source.read(int.from_bytes(source.read(HEAD_SIZE), "big")))
    view, rest = source.read(head["view"]), source.read(head["rest"])
    confine()
    limit(head["memory"], head["cpu_s"])
    answers: list[tuple[int, bytes]] = []

    def work() -> None:
        answers.append(answer_to(head, view, rest))

    with contextlib.suppress(ValueError):
        threading.stack_size(STACK_SIZE)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    code, answer = answers[0] if answers else (1, b"")
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
