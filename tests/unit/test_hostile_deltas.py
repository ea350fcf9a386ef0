"""Thousands of damaged deltas for each codec, applied in a child with a memory limit.

Whatever happens, the child must live, stay within its memory, and raise `ContentError` only. The
child applies the deltas directly, without the digest check that comes first in life.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from p2p.content.index import Codec

CHILD = """
import random, resource, sys
from p2p.content.index import Codec
from p2p.delta import CODECS
from p2p.errors import ContentError

codec = CODECS[Codec(int(sys.argv[1]))]
rng = random.Random(int(sys.argv[2]))
old = rng.randbytes(30_000)
new = old[:9_000] + rng.randbytes(300) + old[9_500:] + old[2_000:4_000] + bytes(500)
delta = codec.diff(old, new)
assert codec.apply(old, delta, len(new)) == new
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
head = 80
refused = changed = same = 0
for n in range(int(sys.argv[3])):
    bad = bytearray(delta)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(head if rng.random() < 0.8 else len(bad))
        way = rng.randrange(4)
        if way == 0:
            bad[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            bad[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
        elif way == 2:
            del bad[at : at + rng.randrange(1, 9)]
        else:
            bad[at:at] = rng.choice((b"\\xff" * 8 + b"\\x7f", b"\\x00" * 3, rng.randbytes(2)))
    try:
        out = codec.apply(old, bytes(bad), len(new))
    except ContentError:
        refused += 1
    else:
        assert len(out) == len(new)
        changed += out != new
        same += out == new
print(refused, changed, same)
"""


@pytest.mark.parametrize("codec", list(Codec))
def test_damaged_deltas_raise_content_error_only(codec: Codec) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(int(codec)), "11", "4000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, changed, same = map(int, done.stdout.split())
    assert refused + changed + same == 4000
    assert refused > 2000
