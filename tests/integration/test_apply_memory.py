"""Applying a pack of full-sized patch frames: peak memory above idle, in a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.publishing.packing import build_pack
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.index import Patch

CHILD = """
import json, sys
from pathlib import Path
from p2p.cli.pack import apply

def status(key):
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1]) * 1024

idle = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
apply.main(sys.argv[1:], standalone_mode=False)
print(json.dumps(status("VmHWM") - idle))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_one_frame(tmp_path: Path) -> None:
    rng = random.Random(1)
    base = rng.randbytes(limits.BASE_VIEW_MAX)
    target = bytearray(base[4 * limits.MIB : 8 * limits.MIB])
    for at in range(0, len(target), 3_000):
        target[at] ^= 1
    (tmp_path / "old").write_bytes(base)
    (tmp_path / "new").write_bytes(target)
    built = build_pack(tmp_path / "new", tmp_path / "old", tmp_path / "objects", workers=1)
    (patch,) = (e for e in built.index.entries if isinstance(e, Patch))
    assert patch.length > limits.PATCH_TARGET_MAX - 3_000
    assert patch.view_size == limits.BASE_VIEW_MAX
    index, frames = (tmp_path / "objects" / r.sha256.hex() for r in (built.ref.index, built.ref.frames))
    done = subprocess.run(
        [
            sys.executable, "-c", CHILD, "--index", str(index), "--frames", str(frames),
            "--base", str(tmp_path / "old"), "--output", str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert sha256((tmp_path / "out").read_bytes()) == sha256(target)
    peak = json.loads(done.stdout.splitlines()[-1])
    assert peak <= 50 * limits.MIB, f"{peak / limits.MIB:.1f} MiB"
