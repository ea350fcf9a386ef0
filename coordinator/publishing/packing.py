"""Building packs: from image files to an index and a frames object in the repository.

`build_pack` plans with `p2p.delta.packing`, has children do the jobs on all cores, and writes what they
return in order. Both objects are named by their digests and appear atomically; what exists already is
kept. Memory does not depend on the size of the images. Nothing here signs or publishes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from coordinator.publishing.image_file import digest_of, open_image
from coordinator.publishing.packing_pool import PackingChild, PackingPool
from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.content.index import Codec, Copy, Data, Entry, PackIndex, encode
from p2p.content.manifest import ObjectRef, PackRef
from p2p.delta.chunking import cut
from p2p.delta.packing import DataJob, PackAssembly, PatchJob, Step, plan_data, plan_delta, plan_full
from p2p.errors import LocalError, OperatorError, StoreError

BSDIFF_TRIED_MAX = 3 * limits.MIB
"""Target plus base view up to which bsdiff is tried beside HDiffPatch (docs/adr/0008-delta-codecs.md)."""
_PATCH_ENTRY_SIZE = 110
_CHUNK_ENTRY_SIZE = 36
_Frames = list[tuple[Entry, bytes]]


@dataclass(frozen=True, slots=True)
class BuiltPack:
    """A pack whose two objects are in the directory it was built to."""

    ref: PackRef
    image: ObjectRef
    index: PackIndex
    seconds: float
    codec_deaths: int = 0


def build_pack(
    target: Path,
    base: Path | None,
    out_dir: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuiltPack:
    """Build the pack that makes `target` from `base` (the full pack for None) into `out_dir`.

    `workers`: child processes, default one per core. `progress(done, total)` is called with target
    bytes. Raises `OperatorError` for unreadable images, `StoreError` when `out_dir` cannot be written.
    """
    started = time.monotonic()
    assembly = PackAssembly()
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        open_image(target) as new,
        open_image(base) as old,
        PackingPool(target, base, workers or os.cpu_count() or 1) as pool,
        _ObjectWriter(out_dir) as frames,
    ):
        if len(new) > limits.IMAGE_SIZE_MAX or len(old) > limits.IMAGE_SIZE_MAX:
            raise OperatorError(f"images are limited to {limits.IMAGE_SIZE_MAX} bytes")
        steps = plan_full(new, cut) if base is None else plan_delta(new, old, cut)
        done = 0
        for made in pool.map(lambda child, step: _make(child, step, new), steps):
            for entry, stored in made:
                if isinstance(entry, Copy):
                    _check_copy(entry, new[done : done + entry.length], old)
                assembly.add(entry)
                frames.write(stored)
                done += entry.length
            if progress is not None:
                progress(done, len(new))
        image = ObjectRef(digest_of(new), len(new))
        index = assembly.finish(image.sha256, image.size, None if base is None else digest_of(old), len(old))
        frames_ref = frames.commit()
        deaths = pool.deaths
    encoded = encode(index)
    with _ObjectWriter(out_dir) as writer:
        writer.write(encoded)
        index_ref = writer.commit()
    ref = PackRef(index.base, index_ref, frames_ref)
    return BuiltPack(ref, image, index, time.monotonic() - started, deaths)


def _make(child: PackingChild, step: Step, target: Buffer) -> _Frames:
    match step:
        case PatchJob():
            return _make_patch(child, step, target)
        case DataJob():
            return [child.data(step)]
        case _:
            return [(step, b"")]


def _make_patch(child: PackingChild, job: PatchJob, target: Buffer) -> _Frames:
    """The smallest of what the codecs make, or DATA frames where none of them helps."""
    size = job.length + sum(r.length for r in job.view)
    best = child.patch(Codec.HDIFFPATCH, job) if job.view else None
    if job.view and (best is None or size <= BSDIFF_TRIED_MAX):
        other = child.patch(Codec.BSDIFF, job)
        if other is not None and (best is None or len(other[1]) < len(best[1])):
            best = other
    if best is not None and len(best[1]) * 3 < job.length:
        return [best]
    plain: _Frames = [child.data(d) for d in plan_data(target, job.offset, job.offset + job.length, cut)]
    return plain if best is None or _cost(plain) < _cost([best]) else [best]


def _check_copy(entry: Copy, target: Buffer, base: Buffer) -> None:
    """Codecs check their own output; a COPY is checked here, so that no wrong pack is ever published."""
    for at in range(0, entry.length, limits.MIB):
        low = entry.base_offset + at
        if bytes(target[at : at + limits.MIB]) != bytes(base[low : low + min(limits.MIB, entry.length - at)]):
            raise LocalError("an image changed while its pack was built", next_step="build the pack again")


def _cost(frames: _Frames) -> int:
    cost = 0
    for entry, stored in frames:
        entry_size = _CHUNK_ENTRY_SIZE * len(entry.chunks) if isinstance(entry, Data) else _PATCH_ENTRY_SIZE
        cost += len(stored) + entry_size
    return cost


class _ObjectWriter:
    """Writes one object under a temporary name; `commit` names it by its digest, durably."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = hashlib.sha256()
        self._size = 0
        try:
            descriptor, name = tempfile.mkstemp(prefix=".pack-", dir=directory)
        except OSError as error:
            raise _store_error(directory, error) from error
        self._path = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        self._state.update(data)
        self._size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise _store_error(self._directory, error) from error

    def commit(self) -> ObjectRef:
        digest = Digest(self._state.digest())
        final = self._directory / digest.hex()
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if final.exists() and final.stat().st_size == self._size:
                self._path.unlink()
            else:
                self._path.chmod(0o644)
                self._path.replace(final)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _store_error(self._directory, error) from error
        return ObjectRef(digest, self._size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._file.close()
        self._path.unlink(missing_ok=True)


def _store_error(directory: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write objects to {directory}: {error.strerror}",
        kept="no object was added or changed",
        next_step="free space or check permissions, then build again",
    )
