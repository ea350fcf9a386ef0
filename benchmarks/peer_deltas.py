"""Peer deltas on real pairs of images: bytes on the LAN beside HDiffPatch's delta, and processor time.

    python -m benchmarks.peer_deltas --cache DIR [--pairs text,wheel] [--json FILE]

For each pair nothing is published but the full pack. A device that holds both images makes a delta for
every group of chunks, and one that holds the old image applies each, with the agent's own code: images in
files, real child processes with their limits, every chunk verified. The bytes are those of messages:
requests, deltas, chunks of groups that no delta is worth it for, and the full pack's index; without TLS and
TCP. Beside them is HDiffPatch's delta of the two whole files (PyPI's `hdiffpatch`, lzma2), and the image as
chunks. The goal is at most 1.2 times the former. Processor time is that of this process and its children,
for each side.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from benchmarks.delta_pairs import Pair, Unavailable, pairs
from benchmarks.delta_size import TOOLS, made_by
from coordinator.publishing.packing import build_pack
from p2p.agent.images import LocalImage
from p2p.agent.peer_deltas import PeerDeltas
from p2p.agent.salvage import salvage
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.intervals import IntervalSet
from p2p.content.limits import MIB
from p2p.errors import LocalError, SlotError
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm import wire
from p2p.swarm.delta_making import delta_name

GOAL = 1.2
MEMORY = 512 * MIB
"""What a child that makes a delta may take: `budgets.recompute_memory`."""


class FileImage:
    """`ports.ImageReader` of a plain file."""

    def __init__(self, path: Path, mode: str = "rb") -> None:
        self._file = path.open(mode)
        self.size = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data: bytes = self._file.read(length)
        if len(data) != length:
            raise SlotError("read past the end")
        return data

    def close(self) -> None:
        self._file.close()


class FileWriter(FileImage):
    """`ports.SlotWriter` of a plain file, without what makes writes durable."""

    def __init__(self, path: Path, size: int) -> None:
        with path.open("wb") as file:
            file.truncate(size)
        super().__init__(path, "r+b")
        self.done = IntervalSet()

    def write(self, offset: int, data: Buffer) -> None:
        self._file.seek(offset)
        self._file.write(data)
        self.done.add(offset, offset + len(data))

    def checkpoint(self) -> None:
        self._file.flush()

    def forget(self, start: int, stop: int) -> None:
        self.done.remove(start, stop)

    def digest(self) -> Digest:
        self._file.flush()
        return sha256(self.read(0, self.size))

    def seal(self) -> None: ...


@dataclass
class Figures:
    """Bytes, and seconds of processor time, of one pair."""

    pair: str
    what: str
    image: int
    groups: int
    lan: int
    """All messages, the index included."""
    unmoved: int
    """Target bytes that are zero, or chunks that stand in the old image: they cost nothing."""
    deltas: int
    chunks: int
    """Bytes of those that came as chunks, as no delta was worth it."""
    index: int
    hdiffpatch: int | None
    ratio: float | None
    make_s: float
    apply_s: float


def cpu_s() -> float:
    """Processor time of this process and of its children that have ended."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def size_of(message: m.Message) -> int:
    return sum(len(part) for part in wire.encode(message))


def failed(image: LocalImage, error: LocalError) -> None:
    raise AssertionError(f"cannot go on: {error}")


async def exchange(pair: Pair, work: Path) -> Figures:
    """One maker, one user, every group in order."""
    built = build_pack(pair.new, None, work / "objects")
    full, index = built.ref.index.sha256, built.index
    base = sha256(pair.old.read_bytes())
    name, task = delta_name(full, base), e.ImageTask(built.image.sha256, built.image.size, base, (built.ref,))
    holder = LocalImage(task, work / "maker", reader=FileImage(pair.new), base=FileImage(pair.old))
    slot = FileWriter(work / "slot", built.image.size)
    user = LocalImage(task, work / "user", writer=slot, base=FileImage(pair.old))
    for image in (holder, user):
        image.use(full, index)
    answers: list[e.Serve] = []
    told: list[e.Event] = []
    one = trio.CapacityLimiter(1)
    deltas = PeerDeltas(
        feed=told.append, failed=failed, is_current=lambda image: True,
        send=lambda device, serve: answers.append(serve), memory=MEMORY, making=one,
        patching=one,
    )  # fmt: skip
    pieces = holder.maps[full]
    lan, of_deltas, of_chunks, make_s, apply_s = (
        size_of(m.Blob(0, bytes(built.ref.index.size))),
        0,
        0,
        0.0,
        0.0,
    )
    began = cpu_s()
    for _ in (*user.local_steps(full), *salvage(user, full)):
        pass
    apply_s += cpu_s() - began
    unmoved = slot.done.total()
    for number, group in enumerate(pieces.groups):
        if all(user.is_done(pieces[n].target_offset, pieces[n].target_stop) for n in group):
            continue
        began = cpu_s()
        lan += size_of(m.Want(number, task.image, name, number))
        await deltas.make(
            holder, e.MakeDelta("user", number, task.image, full, name, number, group.start, group.stop)
        )
        answer = deltas.answer(answers.pop())
        assert answer is not None
        lan += size_of(answer)
        made = cpu_s()
        make_s += made - began
        if isinstance(answer, m.Piece):
            of_deltas += len(answer.payload)
            action = e.UseDelta(task.image, full, number, group.start, group.stop, answer.payload, "maker")
            await deltas.use(user, action)
            used = told.pop()
            assert isinstance(used, e.DeltaUsed) and used.verdict is e.Verdict.RIGHT, used
        else:
            assert isinstance(answer, m.Refuse) and answer.reason is m.Refusal.DONT_HAVE, answer
            for n in group:
                if user.is_done(pieces[n].target_offset, pieces[n].target_stop):
                    continue
                data = holder.piece_bytes(full, n)
                assert data is not None
                of_chunks += len(data)
                lan += size_of(m.Want(n, task.image, full, n)) + size_of(m.Piece(n, data))
                user.store_piece(full, n, data, "maker")
        apply_s += cpu_s() - made
    assert user.read_back(), "what was made is the image"
    patch = work / "patch"
    best = made_by(TOOLS["hdiffpatch"](pair, patch), patch).size
    return Figures(
        pair.name, pair.what, task.size, len(pieces.groups), lan, unmoved, of_deltas, of_chunks,
        built.ref.index.size, best, lan / best if best else None, round(make_s, 1), round(apply_s, 1),
    )  # fmt: skip


def show(rows: list[Figures]) -> None:
    """A table."""
    names = "pair image LAN deltas chunks index HDiffPatch ratio goal make_s apply_s"
    head = names.split()
    table = [head]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        goal = "-" if row.ratio is None else "reached" if row.ratio <= GOAL else "MISSED"
        table.append(
            [
                row.pair, str(row.image), str(row.lan), str(row.deltas), str(row.chunks), str(row.index),
                str(row.hdiffpatch or "-"), ratio, goal, f"{row.make_s:.1f}", f"{row.apply_s:.1f}",
            ]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
    for row in rows:
        print(f"{row.pair}: {row.what}; {row.groups} groups; {row.unmoved} bytes did not move")


def main() -> int:
    """Measure and print; the exit code says whether every goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, required=True, help="directory for downloads and images")
    parser.add_argument("--pairs", help="comma-separated names; default all")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    known = pairs(cache)
    rows: list[Figures] = []
    for name in arguments.pairs.split(",") if arguments.pairs else list(known):
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            pair = known[name]()
        except Unavailable as reason:
            print(f"{name}: not measured: {reason}")
            continue
        with tempfile.TemporaryDirectory(dir=cache) as work:
            rows.append(trio.run(exchange, pair, Path(work)))
        if arguments.json:
            figures: list[dict[str, Any]] = [asdict(row) for row in rows]
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(rows)
    return 0 if rows and all(row.ratio is not None and row.ratio <= GOAL for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
