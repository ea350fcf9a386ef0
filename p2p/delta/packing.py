"""Planning a pack and putting it together; the work in between may run anywhere.

`plan_full` and `plan_delta` cut the target into steps: entries that need no stored bytes, and jobs.
`make_patch` and `make_data` do one job each, from bytes to an entry and its stored frame; they are
what a builder runs in child processes (`coordinator.publishing.packing`). `PackAssembly` collects the
results in order. Nothing here opens a file or starts a process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, sha256
from p2p.content.index import Chunk, Codec, Copy, Data, Entry, PackIndex, Patch, ViewRange, Zero
from p2p.content.intervals import IntervalSet
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress, compress_fast
from p2p.delta.framing import spans
from p2p.delta.views import RUN_MIN, Cutter, Run, ViewChooser, find_repeats, find_runs, zero_runs
from p2p.errors import ContentError

DATA_FRAME_TARGET = limits.MIB
"""Raw bytes that a builder puts into one DATA frame: enough to compress well, little to fetch again."""
ZERO_RUN_FULL_MIN = 32 * limits.KIB
"""In a full pack a shorter zero run stays inside its chunk, where it compresses to nothing."""
SPLIT_RUN_MIN = limits.MIB
"""An unchanged run this long ends a patch job: some 150 bytes of pack for megabytes not read and patched."""


@dataclass(frozen=True, slots=True)
class PatchJob:
    """Make target bytes `[offset, offset + length)` from a base view."""

    offset: int
    length: int
    view: tuple[ViewRange, ...]


@dataclass(frozen=True, slots=True)
class DataJob:
    """Store target bytes from `offset` as chunks of these lengths."""

    offset: int
    chunks: tuple[int, ...]

    @property
    def length(self) -> int:
        return sum(self.chunks)


Step = Zero | Copy | PatchJob | DataJob


def plan_full(target: Buffer, cut: Cutter) -> Iterator[Step]:
    """Steps of a full pack, in target order; lazily, because an image may have millions of chunks."""
    at = 0
    size = len(target)
    for start, stop in (*zero_runs(target, ZERO_RUN_FULL_MIN), (size, size)):
        yield from plan_data(target, at, start, cut)
        if stop > start:
            yield Zero(stop - start)
        at = stop


def plan_data(target: Buffer, start: int, stop: int, cut: Cutter) -> Iterator[DataJob]:
    """DATA jobs for target bytes `[start, stop)`."""
    offset = start
    chunks: list[int] = []
    total = 0
    for _, length in cut(memoryview(target)[start:stop], limits.CHUNK_SIZE_AVG):
        if chunks and total + length > DATA_FRAME_TARGET:
            yield DataJob(offset, tuple(chunks))
            offset += total
            chunks, total = [], 0
        chunks.append(length)
        total += length
    if chunks:
        yield DataJob(offset, tuple(chunks))


def plan_delta(target: Buffer, base: Buffer, cut: Cutter) -> Iterator[Step]:
    """Steps of a delta pack, in target order.

    Unchanged runs and zero runs cost nothing, wherever they are. What is left is covered by as few
    patch jobs as is cheap (`framing`): each begins and ends at changed bytes. Unchanged runs inside a
    job stay in it, because the codec copies them for less than another frame costs, unless they are so
    long that reading and patching them would be the device's main work.
    """
    runs = find_runs(target, base, cut)
    chooser = ViewChooser(runs, len(base))
    free = _free(runs, zero_runs(target, RUN_MIN))
    at = 0
    gaps = list(_gaps(free, len(target)))
    for job_start, job_stop in spans(gaps, find_repeats(target, gaps, cut), SPLIT_RUN_MIN):
        yield from _entries(free, at, job_start)
        yield PatchJob(job_start, job_stop - job_start, chooser.choose(job_start, job_stop))
        at = job_stop
    yield from _entries(free, at, len(target))


@dataclass(frozen=True, slots=True)
class _Free:
    """Target bytes `[start, stop)` that need no stored bytes; `base` is None for zeros."""

    start: int
    stop: int
    base: int | None


def _free(runs: Iterable[Run], zeros: Iterable[tuple[int, int]]) -> list[_Free]:
    """Free stretches, disjoint and in order. Long zero runs win over copies, because they are not even
    read; short ones yield, so that one copy may span an image full of them."""
    zero_list = list(zeros)
    long_zeros = IntervalSet(z for z in zero_list if z[1] - z[0] >= SPLIT_RUN_MIN)
    found = [_Free(start, stop, None) for start, stop in long_zeros]
    taken = IntervalSet(long_zeros)
    for run in runs:
        if run.length >= RUN_MIN:
            for start, stop in long_zeros.gaps(run.target_offset, run.target_stop):
                found.append(_Free(start, stop, start + run.shift))
                taken.add(start, stop)
    for zero in zero_list:
        found += (_Free(a, b, None) for a, b in taken.gaps(*zero) if b - a >= RUN_MIN)
    return sorted(found, key=lambda f: f.start)


def _gaps(free: Iterable[_Free], size: int) -> Iterator[tuple[int, int]]:
    at = 0
    for f in free:
        if f.start > at:
            yield at, f.start
        at = f.stop
    if at < size:
        yield at, size


def _entries(free: Sequence[_Free], start: int, stop: int) -> Iterator[Zero | Copy]:
    """ZERO and COPY entries for `[start, stop)`, which holds free bytes only."""
    for i in range(bisect_right(free, start, key=lambda f: f.stop), len(free)):
        f = free[i]
        low, high = max(f.start, start), min(f.stop, stop)
        if low >= high:
            return
        yield Zero(high - low) if f.base is None else Copy(f.base + low - f.start, high - low)


def make_patch(
    codec: Codec, view: Buffer, target: Buffer, ranges: tuple[ViewRange, ...]
) -> tuple[Patch, bytes] | None:
    """The entry and the stored frame of a patch, applied once to be sure; None where the codec fails."""
    delta = CODECS[codec].diff(view, target)
    if delta is None:
        return None
    try:
        if CODECS[codec].apply(view, delta, len(target)) != target:
            return None
    except ContentError:
        return None
    compression, stored = compress(delta)
    entry = Patch(
        codec=codec,
        length=len(target),
        view=ranges,
        stored_size=len(stored),
        compression=compression,
        delta_size=len(delta),
        delta_digest=sha256(delta),
        output_digest=sha256(target),
    )
    return entry, stored


def make_data(target: Buffer, chunks: Sequence[int]) -> tuple[Data, bytes]:
    """The entry and the stored frame of a run of chunks."""
    view = memoryview(target)
    made: list[Chunk] = []
    at = 0
    for length in chunks:
        made.append(Chunk(length, sha256(view[at : at + length])))
        at += length
    compression, stored = compress_fast(view[:at])
    return Data(stored_size=len(stored), compression=compression, chunks=tuple(made)), stored


class PackAssembly:
    """Collects entries in target order; neighbours of the same kind become one."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Append the next entry."""
        match entry, self._entries[-1] if self._entries else None:
            case Zero(length=length), Zero(length=before):
                self._entries[-1] = Zero(before + length)
            case Copy(length=length) as copy, Copy(base_offset=offset, length=before) if (
                copy.base_offset == offset + before
            ):
                self._entries[-1] = Copy(offset, before + length)
            case _:
                self._entries.append(entry)

    def finish(self, image: Digest, image_size: int, base: Digest | None, base_size: int) -> PackIndex:
        """The index; raises `ContentError` when the entries do not make the image."""
        return PackIndex(image, image_size, base, base_size, tuple(self._entries))
