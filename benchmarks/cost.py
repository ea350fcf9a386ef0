"""What each way to an image takes of a processor, and from where on it pays: the figures of `p2p.swarm.cost`.

    python -m benchmarks.cost [--mib 32] [--json FILE]

An invented pair of images: the new one has a byte changed in every 512, or 128 KiB of new content. Full pack
and delta pack are built as they are published; frames, patches and chunks are made with the agent's own
code, and deltas of peers by real child processes with their limits. Seconds of a processor, of this process
and its children, best of three. What peers' bytes take is `python -m benchmarks.peer_throughput`'s to
measure.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import trio

from benchmarks.peer_deltas import MEMORY, FileImage, FileWriter, cpu_s, failed
from coordinator.publishing.packing import BuiltPack, build_pack
from p2p.agent.images import LocalImage
from p2p.agent.peer_deltas import PeerDeltas
from p2p.agent.salvage import salvage
from p2p.content.digests import sha256
from p2p.content.index import Patch
from p2p.content.limits import MIB
from p2p.content.manifest import PackRef
from p2p.delta.unpack import read_view, recompute_delta
from p2p.swarm import cost
from p2p.swarm import events as e
from p2p.swarm.delta_making import delta_name

TIMES = 3
EVERY = 512
CHUNK = 128 << 10


def timed(do: Callable[[], object]) -> float:
    """Seconds of a processor."""
    began = cpu_s()
    do()
    return cpu_s() - began


def image_of(work: Path, new: Path, old: Path | None, packs: tuple[PackRef, ...]) -> LocalImage:
    """The image of a device that makes it in a new file."""
    base = None if old is None else sha256(old.read_bytes())
    task = e.ImageTask(sha256(new.read_bytes()), new.stat().st_size, base, packs)
    slot = FileWriter(work / "slot", task.size)
    return LocalImage(task, work / "spool", writer=slot, base=None if old is None else FileImage(old))


def take_frames(image: LocalImage, built: BuiltPack, objects: Path) -> None:
    """All frames of a pack, as from the origin."""
    name = built.ref.index.sha256
    image.use(name, built.index)
    frames = (objects / built.ref.frames.sha256.hex()).read_bytes()
    for _ in image.local_steps(name):
        pass
    for number, frame in enumerate(built.index.frames):
        image.store_frame(name, number, frames[frame.stored_offset : frame.stored_offset + frame.stored_size])


def anew(built: BuiltPack, new: Path, old: Path) -> None:
    """The first patch of a delta pack, from both images."""
    entry = next(entry for entry in built.index.entries if isinstance(entry, Patch))
    target = FileImage(new).read(0, entry.length)
    recompute_delta(entry, read_view(FileImage(old).read, entry), target)


async def one_delta(work: Path, new: Path, old: Path, full: BuiltPack) -> float:
    """The delta of a peer for one group of which almost nothing changed, made and applied by children."""
    base, name = sha256(old.read_bytes()), full.ref.index.sha256
    task = e.ImageTask(full.image.sha256, full.image.size, base, (full.ref,))
    user = image_of(work, new, old, (full.ref,))
    holder = LocalImage(task, work / "maker", reader=FileImage(new), base=FileImage(old))
    answers: list[e.Serve] = []
    told: list[e.Event] = []
    one = trio.CapacityLimiter(1)
    deltas = PeerDeltas(
        feed=told.append, failed=failed, is_current=lambda image: True,
        send=lambda device, serve: answers.append(serve), memory=MEMORY, making=one, patching=one,
    )  # fmt: skip
    for image in (holder, user):
        image.use(name, full.index)
    group = holder.maps[name].groups[0]
    what = delta_name(name, base)
    began = cpu_s()
    await deltas.make(holder, e.MakeDelta("user", 0, task.image, name, what, 0, group.start, group.stop))
    answer = deltas.answer(answers.pop())
    assert answer is not None and hasattr(answer, "payload"), answer
    await deltas.use(user, e.UseDelta(task.image, name, 0, group.start, group.stop, answer.payload, "maker"))
    return cpu_s() - began


def measure(mib: int, work: Path) -> dict[str, float]:
    """Seconds of a processor for a byte, by the names in `p2p.swarm.cost`; a peer's delta in all."""
    size, rng = mib * MIB, random.Random(1)
    old, new, nearly, objects = (work / name for name in ("old", "new", "nearly", "objects"))
    content = bytearray(rng.randbytes(size))
    old.write_bytes(content)
    nearly.write_bytes(content[:CHUNK] + rng.randbytes(CHUNK) + content[2 * CHUNK :])
    for at in range(0, size, EVERY):
        content[at] ^= 0xFF
    new.write_bytes(content)
    full = build_pack(new, None, objects)
    delta = build_pack(new, old, objects)
    name = full.ref.index.sha256

    def unpack() -> None:
        take_frames(image_of(work, new, None, (full.ref,)), full, objects)

    def patch() -> None:
        take_frames(image_of(work, new, old, (full.ref, delta.ref)), delta, objects)

    def look() -> None:
        image = image_of(work, new, old, (full.ref,))
        image.use(name, full.index)
        for _ in salvage(image, name):
            pass

    hashed = timed(lambda: sha256(new.read_bytes()))  # by `image_of`, which devices do not do
    based = timed(lambda: sha256(old.read_bytes()))
    first = next(entry for entry in delta.index.entries if isinstance(entry, Patch))
    close = build_pack(nearly, None, objects)
    spent = [trio.run(one_delta, work, nearly, old, close) for _ in range(TIMES)]
    return {
        "UNPACK_S": (min(timed(unpack) for _ in range(TIMES)) - hashed) / size,
        "PATCH_S": (min(timed(patch) for _ in range(TIMES)) - hashed - based) / size,
        "RECOMPUTE_S": min(timed(lambda: anew(delta, new, old)) for _ in range(TIMES)) / first.length,
        "DELTA_S": min(spent),
        "LOOK_S": (min(timed(look) for _ in range(TIMES)) - hashed - based) / size,
    }


def main() -> int:
    """Measure and print, beside what is reckoned with."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=32, help="size of the images (default 32)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = measure(arguments.mib, Path(work))
    print("processor seconds   measured   reckoned with")
    for name, seconds in found.items():
        print(f"{name:<18} {seconds:>10.2g} {getattr(cost, name):>10.2g}")
    print(f"{'CARRY_S':<18} {'-':>10} {cost.CARRY_S:>10.2g}  python -m benchmarks.peer_throughput")
    pays = cost.delta_pays_from(cost.USUAL)
    print(f"a peer's delta pays from {pays:.0f} bytes of chunks on, by the usual weights")
    saved = 499 * (100e6 - 100 * 1024) * cost.USUAL.lan_gb / cost.GB
    print(
        f"500 devices that take 100 KiB instead of 100 MB over the LAN: worth {saved:.0f} bytes over the WAN,"
    )
    print(
        f"which is {saved / (100 * 1024):.1%} of what crosses the WAN (amplification is to be 1.05 at most)"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
