"""Running a codec on two images in a child process with limits: codecs may crash, hang, or take any memory.

The child (`recompute_child`) is given the base view and the target and answers with the stored frame. It gets
its memory and its processor time limited, the lowest priority, and is what the kernel kills first.
"""

from __future__ import annotations

import subprocess
import sys

import msgpack
import trio

from p2p.adapters.recompute_child import HEAD_SIZE
from p2p.content.index import Patch
from p2p.errors import LocalError

CPU_S, LONGEST_S = 120, 600.0
"""A child may take so much processor time, and so long in all on a device that is busy with other things."""


async def recompute(entry: Patch, view: bytes, target: bytes, memory: int) -> bytes:
    """The stored frame of a patch, made anew from its base view and its target.

    `memory`: bytes of address space that the child may take. The frame has the size and the compression that
    the index says, and the signed digest of the delta. Raises `LocalError`: the codec or the compressor of
    this machine makes other bytes, or the limits do not suffice.
    """
    head = msgpack.packb(
        {
            "codec": int(entry.codec), "compression": int(entry.compression),
            "stored_size": entry.stored_size, "delta_size": entry.delta_size,
            "delta_digest": bytes(entry.delta_digest), "output_digest": bytes(entry.output_digest),
            "view": len(view), "target": len(target),
            "memory": memory, "cpu_s": CPU_S,
        }
    )  # fmt: skip
    request = b"".join((len(head).to_bytes(HEAD_SIZE, "big"), head, view, target))
    try:
        with trio.fail_after(LONGEST_S):
            child = await trio.run_process(
                [sys.executable, "-m", "p2p.adapters.recompute_child"],
                stdin=request, capture_stdout=True, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
    except (OSError, trio.TooSlowError) as error:
        raise LocalError(f"the child that makes patches anew: {str(error) or 'took too long'}") from error
    if child.returncode or len(child.stdout) != entry.stored_size:
        raise LocalError(f"the child that makes patches anew ended with {child.returncode}")
    return child.stdout
