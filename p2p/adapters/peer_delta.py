"""Making and applying peer deltas in child processes with limits: see `delta_child`.

A delta that is applied comes from a stranger. Whatever it does (take memory or time without end, crash the
codec, make other bytes than it should), it does to a child that is given so much memory, so much processor
time and no file, and of which no more is read than the length that was asked for.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from typing import Any

import msgpack
import trio

from p2p.adapters.delta_child import REFUSED, TOO_LARGE
from p2p.adapters.recompute_child import HEAD_SIZE
from p2p.content import limits
from p2p.content.index import Codec, Compression
from p2p.errors import ContentError, LocalError

MAKE_CPU_S, APPLY_CPU_S = 60, 20
"""Processor time for 4 MiB. Measured on a server's core: 2 s and 0.1 s; small devices are ten times
slower."""

LONGEST_S = 300.0
"""So long in all, on a device that is busy with other things."""

APPLY_MEMORY = 320 * limits.MIB
"""Address space of a child that applies, its libraries (about 0.2 GB of it, mostly not resident) included."""

_COMMAND = (sys.executable, "-m", "p2p.adapters.delta_child")

CRASHES = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""What a codec dies of. Other signals come from elsewhere: who stops a service ends its children too."""

SAYS_MAX = 64
"""What a child says beside a delta."""


async def make(view: bytes, target: bytes, memory: int) -> tuple[Codec, Compression, int, bytes]:
    """A delta: codec, compression, uncompressed size and stored bytes. `memory`: what the child may take.

    Raises `LocalError`: the codec makes none here, or not within the limits.
    """
    head = {"do": "make", "memory": memory, "cpu_s": MAKE_CPU_S}
    code, answer = await _run(head, view, target, limits.STORED_FRAME_MAX)
    if code:
        raise LocalError(f"the child that makes peer deltas ended with {code}")
    size = int.from_bytes(answer[:HEAD_SIZE], "big")
    codec, compression, delta_size = msgpack.unpackb(answer[HEAD_SIZE : HEAD_SIZE + size])
    return Codec(codec), Compression(compression), delta_size, answer[HEAD_SIZE + size :]


async def apply(
    codec: Codec, compression: Compression, delta_size: int, stored: bytes, view: bytes, length: int
) -> bytes:
    """The `length` bytes that a stranger's delta makes of a base view; nothing of them is verified.

    Raises `ContentError` where the delta is to blame: it is none for this view, or does not keep to limits
    that every honest one keeps to. `LocalError`: this device could not try.
    """
    head = {
        "do": "apply", "codec": int(codec), "compression": int(compression), "delta_size": delta_size,
        "length": length, "memory": APPLY_MEMORY, "cpu_s": APPLY_CPU_S,
    }  # fmt: skip
    code, answer = await _run(head, view, stored, length)
    if code in (REFUSED, TOO_LARGE):
        raise ContentError(f"peer delta: {'no delta for this base' if code == REFUSED else 'takes memory'}")
    if len(answer) > length:
        raise ContentError(f"peer delta: makes more than {length} bytes")
    if code == -signal.SIGXCPU:
        raise ContentError("peer delta: takes processor time without end")
    if -code in CRASHES:
        raise ContentError(f"peer delta: crashed the codec ({signal.Signals(-code).name})")
    if code:
        raise LocalError(f"the child that applies peer deltas ended with {code}")
    if len(answer) != length:
        raise ContentError(f"peer delta: made {len(answer)} bytes instead of {length}")
    return answer


async def _run(head: dict[str, Any], view: bytes, rest: bytes, most: int) -> tuple[int, bytes]:
    """Exit code and output of a child; it is killed when it says more than `most` bytes and a short head."""
    packed = msgpack.packb(head | {"view": len(view), "rest": len(rest)})
    request = len(packed).to_bytes(HEAD_SIZE, "big") + packed, view, rest
    answer = bytearray()
    child: trio.Process | None = None
    try:
        with trio.fail_after(LONGEST_S):
            child = await trio.lowlevel.open_process(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert child.stdin is not None and child.stdout is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, child.stdin, request)
                async for part in child.stdout:
                    answer += part
                    if len(answer) > most + HEAD_SIZE + SAYS_MAX:
                        child.kill()
                        break
                nursery.cancel_scope.cancel()  # one that has ended takes no more
            return await child.wait(), bytes(answer)
    except (OSError, trio.TooSlowError) as error:
        raise LocalError(f"the child for peer deltas: {str(error) or 'took too long'}") from error
    finally:
        if child is not None:
            with trio.CancelScope(shield=True):
                if child.returncode is None:
                    child.kill()
                    await child.wait()
                for pipe in (child.stdin, child.stdout):
                    if pipe is not None:
                        await pipe.aclose()


async def _write(pipe: trio.abc.SendStream, request: tuple[bytes, ...]) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # what it has to say of that is its exit code
        for part in request:
            await pipe.send_all(part)
