"""Pack sizes on real pairs of images, beside other tools, and the memory of applying them.

    python -m benchmarks.delta_size --cache DIR [--pairs text,wheel] [--skip bsdiff4] [--json FILE]

Each line compares the delta pack (index and frames) with the patches of HDiffPatch (whole file, lzma2),
bsdiff4, xdelta3 -9 and zstd -19 --patch-from --long=31. The goal is at most 1.05 times the best plus
2 KiB, and at most 64 MiB of memory above idle for a process that applies the pack. Tools that are
missing, crash or take over 10 minutes of processor time show a dash, and why. The tools run beside each
other, one a core; the figures of a pair are kept as soon as they are there. Needs pip and, for four of the
pairs, Debian's apt-get, lz4, e2fsprogs and squashfs-tools.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.delta_pairs import Pair, Unavailable, pairs
from coordinator.publishing.packing import build_pack

CPU_S = 600
"""Processor time that a tool gets for one pair: what it can do in that is the same on a busy machine."""

RATIO_GOAL, SIZE_ALLOWANCE = 1.05, 2048
RSS_GOAL = 64 << 20

_HDIFF = """
import sys, hdiffpatch
from pathlib import Path
old, new, out = map(Path, sys.argv[1:])
config = hdiffpatch.Lzma2Config(level=9, window=26, threads=1)
patch = hdiffpatch.diff(old.read_bytes(), new.read_bytes(), config, validate=False, big_cache_match=True)
out.write_bytes(patch)
"""
_BSDIFF = """
import sys, bsdiff4
bsdiff4.file_diff(*sys.argv[1:])
"""
_APPLY = """
import json, sys
from pathlib import Path
from p2p.cli import pack

def status(key):
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1]) * 1024

index, frames, base, out = map(Path, sys.argv[1:])
idle = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
decoded, _ = pack._read_index(index)
with pack._open(frames) as f, pack._open(base) as b:
    pack._write_image(decoded, f, b, out)
print(json.dumps({"idle": idle, "peak": status("VmHWM")}))
"""


@dataclass(frozen=True, slots=True)
class Patch:
    """What one tool made of one pair. `size` None: nothing, and `note` says why."""

    size: int | None
    seconds: float = 0.0
    note: str = ""


def made_by(command: list[str | Path], out: Path) -> Patch:
    """Run one tool, which writes `out`."""
    if shutil.which(str(command[0])) is None:
        return Patch(None, note="not installed")
    started = time.monotonic()
    done = subprocess.run(
        [str(c) for c in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_limits,
        check=False,
    )
    seconds = time.monotonic() - started
    size = out.stat().st_size if done.returncode == 0 and out.exists() else None
    out.unlink(missing_ok=True)
    if size is not None:
        return Patch(size, seconds)
    ended = f"over {CPU_S} s of processor time" if done.returncode == -signal.SIGXCPU else "failed"
    return Patch(None, seconds, ended)


def _limits() -> None:
    """A stack that bsdiff can recurse in, an end to it, and no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (2 << 30, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 10))


TOOLS: dict[str, Callable[[Pair, Path], list[str | Path]]] = {
    "hdiffpatch": lambda p, out: [sys.executable, "-c", _HDIFF, p.old, p.new, out],
    "bsdiff4": lambda p, out: [sys.executable, "-c", _BSDIFF, p.old, p.new, out],
    "xdelta3": lambda p, out: ["xdelta3", "-9", "-e", "-f", "-B", "536870912", "-s", p.old, p.new, out],
    "zstd": lambda p, out: ["zstd", "-19", "--long=31", "-f", "-q", "--patch-from", p.old, p.new, "-o", out],
}


def measure(pair: Pair, skip: set[str], work: Path) -> dict[str, Any]:
    """All figures of one pair: sizes in bytes, times in seconds."""
    built = build_pack(pair.new, pair.old, work / "objects")
    applied = work / "applied"
    objects = [work / "objects" / ref.sha256.hex() for ref in (built.ref.index, built.ref.frames)]
    done = subprocess.run(
        [sys.executable, "-c", _APPLY, *map(str, objects), str(pair.old), str(applied)],
        capture_output=True,
        text=True,
        check=True,
    )
    memory = json.loads(done.stdout)
    applied.unlink()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        patches = {name: work / f"patch-{name}" for name in TOOLS if name not in skip}
        runs = {name: pool.submit(made_by, TOOLS[name](pair, out), out) for name, out in patches.items()}
        measured = {name: run.result() for name, run in runs.items()}
    others = {name: measured[name].size if name in measured else None for name in TOOLS}
    notes = {name: patch.note for name, patch in measured.items() if patch.note}
    seconds = {"slipstream": built.seconds, **{name: patch.seconds for name, patch in measured.items()}}
    sizes = [size for size in others.values() if size is not None]
    best = min(sizes, default=0)
    pack = built.ref.wan_bytes
    return {
        "pair": pair.name,
        "what": pair.what,
        "image": built.image.size,
        "pack": pack,
        "index": built.ref.index.size,
        "frames": built.ref.frames.size,
        "others": others,
        "notes": notes,
        "best": best,
        "ratio": pack / best if best else None,
        "size_goal": pack <= best * RATIO_GOAL + SIZE_ALLOWANCE,
        "apply_rss": memory["peak"] - memory["idle"],
        "memory_goal": memory["peak"] - memory["idle"] <= RSS_GOAL,
        "seconds": {k: round(v, 1) for k, v in seconds.items()},
    }


def _print(rows: list[dict[str, Any]]) -> None:
    head = ["pair", "image", "slipstream", *TOOLS, "ratio", "goal", "apply MiB"]
    table = [head]
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        others = ["-" if row["others"][t] is None else str(row["others"][t]) for t in TOOLS]
        goal = "reached" if row["size_goal"] and row["memory_goal"] else "MISSED"
        cells = [row["pair"], str(row["image"]), str(row["pack"]), *others, ratio, goal]
        table.append([*cells, f"{row['apply_rss'] / (1 << 20):.1f}"])
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
    for row in rows:
        print(f"{row['pair']}: {row['what']}; seconds: {row['seconds']}")
        for tool, note in row["notes"].items():
            print(f"{row['pair']}: {tool}: {note}")


def main() -> int:
    """Measure and print; the exit code says whether every goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, required=True, help="directory for downloads and images")
    parser.add_argument("--pairs", help="comma-separated names; default all")
    parser.add_argument("--skip", default="", help="comma-separated tools to leave out")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    known = pairs(cache)
    names = arguments.pairs.split(",") if arguments.pairs else list(known)
    rows: list[dict[str, Any]] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            pair = known[name]()
        except Unavailable as reason:
            print(f"{name}: not measured: {reason}")
            continue
        with tempfile.TemporaryDirectory(dir=cache) as work:
            rows.append(measure(pair, set(arguments.skip.split(",")), Path(work)))
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    _print(rows)
    return 0 if rows and all(r["size_goal"] and r["memory_goal"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
