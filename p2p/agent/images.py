"""Images on this device: verifying what arrives, writing it to the slot, reading it back for peers.

A `LocalImage` is the only place where unverified bytes are opened: a frame from the origin or a
piece from a peer comes in, and either verified bytes are in the slot or an error names whose fault
it is. Peers are served from the slot; what of the stored bytes of patches is in no slot is kept apart
(`p2p.agent.patches`). Calls block; the driver decides on which thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from p2p.adapters.disk_quota import DiskQuota
from p2p.agent.patches import KeptPatches
from p2p.agent.rechecking import right_ranges, wrong_ranges
from p2p.agent.spool import Spool, SpoolMemory
from p2p.content import limits
from p2p.content.digests import Buffer, Digest, sha256, verify
from p2p.content.index import Copy, PackIndex, Patch
from p2p.content.intervals import IntervalSet
from p2p.content.pieces import PieceMap
from p2p.delta import apply_delta, decompress, read_view, unpack_data
from p2p.delta.rebuild import check_frame
from p2p.errors import ContentError, LocalError, StoreError
from p2p.ports import ImageReader, SlotWriter
from p2p.swarm.events import BaseDamaged, How, ImageTask, Stored
from p2p.swarm.remnants import Remnants

log = logging.getLogger(__name__)

COPY_STEP = 4 * limits.MIB
_ZEROS = bytes(limits.MIB)


class BaseDamagedError(LocalError):
    """The base does not give the bytes that the index promises for a target range."""


class LocalImage:
    """One image being made (`writer`) or held (`reader`); `base` is what its delta packs start from.

    `remnants` are the beginnings of frames that its fetches have left; `spool` is where that is kept which
    peers may want and no slot holds, once `memory` is full.
    """

    def __init__(
        self,
        task: ImageTask,
        spool: Path,
        *,
        writer: SlotWriter | None = None,
        reader: ImageReader | None = None,
        base: ImageReader | None = None,
        quota: DiskQuota | None = None,
        memory: SpoolMemory | None = None,
    ) -> None:
        self.task = task
        self._writer = writer
        self._ended: SlotWriter | None = None
        self._reader: ImageReader | None = reader or writer
        self._base = base
        self.spool = Spool(spool, quota, memory)
        self._patches = KeptPatches(self.spool)
        self._checked: set[tuple[Digest, int]] = set()
        self._unsynced = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._closed = False
        self.maps: dict[Digest, PieceMap] = {}
        self.remnants = Remnants[bytearray]()

    @property
    def done(self) -> tuple[tuple[int, int], ...]:
        """Target ranges that are verified."""
        return tuple(self._writer.done) if self._writer is not None else ((0, self.task.size),)

    def is_done(self, start: int, stop: int) -> bool:
        """Whether a target range is verified."""
        writer = self._writer  # which the event loop takes away when the image is complete
        return writer is None or writer.done.covers(start, stop)

    @property
    def is_written(self) -> bool:
        """Whether it is still being made."""
        return self._writer is not None

    @property
    def gives_all(self) -> bool:
        """Whether a device that has nothing can be given it from here: it is whole, and by the full pack's
        index peers can ask for its chunks and verify them."""
        return self._writer is None and self.task.full_pack.index.sha256 in self.maps

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at the slot or the base: who writes now may wait for it, or for its fsync."""
        return self._lock.locked() or self._writing.locked()

    @property
    def unsynced(self) -> int:
        """Bytes (about) that a kill would cost now."""
        return self._unsynced

    def use(self, pack: Digest, index: PackIndex) -> None:
        """Know a pack."""
        self.maps[pack] = PieceMap(index)

    # Making

    def local_steps(self, pack: Digest) -> Iterator[Stored | BaseDamaged]:
        """Copy and zero what the index says needs no bytes, step by step; skips what is done."""
        index = self.maps[pack].index
        usable = index.base is not None and index.base == self.task.base and self._base is not None
        for local in index.local_entries:
            copy = isinstance(local.entry, Copy)
            if copy and not usable:
                continue
            end = local.target_offset + local.entry.length
            for start in range(local.target_offset, end, COPY_STEP):
                stop = min(start + COPY_STEP, end)
                if self.is_done(start, stop):
                    continue
                if isinstance(local.entry, Copy):
                    offset = local.entry.base_offset + start - local.target_offset
                    if not self._copy(offset, start, stop):
                        yield BaseDamaged(self.task.image, start, stop)
                        continue
                else:
                    for at in range(start, stop, len(_ZEROS)):
                        self._write(at, memoryview(_ZEROS)[: min(len(_ZEROS), stop - at)])
                yield Stored(self.task.image, start, stop, How.BASE if copy else How.ZERO)

    def attach(self, pack: Digest, read: Callable[[int, int], bytes]) -> None:
        """Stored frames of a pack are on this device: `read(offset, length)` gives them, unverified."""
        self._patches.attach(pack, read)

    def is_at_hand(self, pack: Digest) -> bool:
        """Whether stored frames of a pack were attached."""
        return self._patches.is_at_hand(pack)

    def imported_steps(self, pack: Digest) -> Iterator[Stored | BaseDamaged]:
        """Make the frames of an attached pack that are not done, step by step.

        Patches that are done are looked at too, for peers that may want them. A frame that cannot be read,
        or is wrong, is passed over.
        """
        pieces = self.maps[pack]
        for frame in pieces.index.frames:
            start, stop = frame.target_offset, frame.target_offset + frame.target_length
            done = self.is_done(start, stop)
            first = pieces.of_frame(frame.number)[0]
            if done and (not isinstance(frame.entry, Patch) or self._patches.has(pack, first)):
                continue
            try:
                stored = self._patches.read_at_hand(pack, frame)
                check_frame(frame, stored)
            except (ContentError, StoreError) as error:
                log.warning("imported frame %d: %s", frame.number, error.message)
                continue
            if done:
                numbers = tuple(pieces.of_frame(frame.number))
                self._patches.keep_at_hand(pack, numbers[0], stored)
                yield Stored(self.task.image, start, stop, How.IMPORTED, pack, numbers, kept=True)
                continue
            try:
                yield self.store_frame(pack, frame.number, stored, How.IMPORTED)
            except (ContentError, BaseDamagedError) as error:
                log.warning("imported frame %d: %s", frame.number, error.message)
                yield BaseDamaged(self.task.image, start, stop)

    def store_frame(self, pack: Digest, number: int, stored: Buffer, how: How = How.WAN) -> Stored:
        """A frame of the WAN, say. Raises `ContentError` (its fault), `BaseDamagedError`, `SlotError`."""
        pieces = self.maps[pack]
        frame = pieces.index.frames[number]
        numbers = tuple(pieces.of_frame(number))
        if isinstance(frame.entry, Patch):
            return self._store_patch(pack, numbers[0], stored, how, None)
        chunks = unpack_data(frame.entry, stored)
        for n, chunk in zip(numbers, chunks, strict=True):
            piece = pieces[n]
            if (pack, n) in self._checked and self.is_done(piece.target_offset, piece.target_stop):
                continue  # flash wears out by what it has already
            self._write(piece.target_offset, chunk)
            self._checked.add((pack, n))
        stop = frame.target_offset + frame.target_length
        return Stored(self.task.image, frame.target_offset, stop, how, pack, numbers)

    def store_piece(self, pack: Digest, number: int, payload: Buffer, device: str) -> Stored:
        """A piece from a peer. Raises `ContentError` (the peer's), `BaseDamagedError`, `SlotError`."""
        piece = self.maps[pack][number]
        if piece.is_patch:
            return self._store_patch(pack, number, payload, How.PEER, device)
        if len(payload) != piece.target_length:
            raise ContentError(f"piece {number}: {len(payload)} bytes instead of {piece.target_length}")
        verify(payload, piece.digest, f"piece {number}")
        self._write(piece.target_offset, payload)
        self._checked.add((pack, number))
        return Stored(
            self.task.image, piece.target_offset, piece.target_stop, How.PEER, pack, (number,), device=device
        )

    @property
    def base_size(self) -> int:
        """Bytes of what the device runs now; 0 where that cannot be read, or is no base any more."""
        base = self._base
        return base.size if base is not None else 0

    @property
    def is_strange(self) -> bool:
        """Whether what the device runs now is nothing that a pack of the image starts from."""
        base = self.task.base
        return self._base is not None and (base is None or self.task.pack_for(base) is None)

    def read_base(self, offset: int, length: int) -> bytes | None:
        """Bytes of what the device runs now, whatever they are; None if they cannot be read (any more)."""
        with self._writing:
            if self._base is None or self._closed:
                return None
            try:
                return self._base.read(offset, length)
            except LocalError as error:
                log.warning("the base cannot be read: %s", error.message)
                return None

    def store_own(self, pack: Digest, number: int, data: Buffer) -> Stored:
        """A chunk that was found on this device, its digest checked. Raises `SlotError`."""
        piece = self.maps[pack][number]
        self._write(piece.target_offset, data)
        self._checked.add((pack, number))
        return Stored(self.task.image, piece.target_offset, piece.target_stop, How.BASE, pack, (number,))

    def damaged_base(self, pack: Digest, number: int) -> BaseDamaged:
        """The event for a piece that the base could not make."""
        piece = self.maps[pack][number]
        return BaseDamaged(self.task.image, piece.target_offset, piece.target_stop)

    def is_patch(self, pack: Digest, number: int) -> bool:
        return self.maps[pack][number].is_patch

    def checkpoint(self) -> None:
        """Make what was written durable."""
        with self._lock:
            if self._writer is not None and self._unsynced:
                self._unsynced = 0
                self._writer.checkpoint()

    def read_back(self) -> bool:
        """Whether the slot, read back from the medium, holds the image."""
        with self._lock:
            return self._writer is not None and self._writer.digest() == self.task.image

    def recheck(self, pack: Digest) -> tuple[tuple[int, int], ...]:
        """Ranges `(start, stop)` of the slot that are not as the full pack signs them; no longer done.

        Raises `ReadBackError` when every part is right and the whole is not, `SlotError` when the slot
        cannot be read.
        """
        if self._writer is None:
            return ()
        bad, wrong = wrong_ranges(self.maps[pack], self._writer, self.task)
        self._checked.difference_update((pack, number) for number in wrong)
        with self._lock:
            for start, stop in bad:
                self._writer.forget(start, stop)
        return tuple(bad)

    def right_ranges(self) -> IntervalSet | None:
        """What of a sealed image reads as it was signed; None where that cannot be told. Reads all of it."""
        pieces, reader = self.maps.get(self.task.full_pack.index.sha256), self._reader
        return None if pieces is None or reader is None else right_ranges(pieces, reader)

    def sealed(self, reader: ImageReader) -> None:
        """The slot is valid now: read from it as an image."""
        self._ended, self._writer, self._reader = self._writer, None, reader

    def let_go(self) -> None:
        """Close what it was written through, once it is `sealed`. Blocks: a thread may be reading there."""
        with self._writing:
            ended, self._ended = self._ended, None
            if ended is not None:
                ended.close()

    # Serving

    def piece_bytes(self, pack: Digest, number: int) -> bytes | None:
        """What a peer is sent; None when this node does not have it after all (or it is damaged)."""
        pieces = self.maps.get(pack)
        if pieces is None or number >= len(pieces):
            return None  # asked for when this image was another try's
        piece = pieces[number]
        key = (pack, number)
        if piece.is_patch:
            return self._patches.read(pack, number, pieces.index.frames[piece.frame], self._read)
        data = self._read(piece.target_offset, piece.target_length)
        if key not in self._checked:
            if sha256(data) != piece.digest:
                return None
            self._checked.add(key)
        return data

    def recompute_job(self, pack: Digest, number: int) -> tuple[Patch, bytes, bytes]:
        """What a patch is made of: its entry, base view, target. Raises `ContentError`, `LocalError`."""
        pieces, base, reader = self.maps.get(pack), self._base, self._reader
        if pieces is None or base is None or reader is None or pieces.index.base != self.task.base:
            raise StoreError("the base of the patch is not here any more")
        frame = pieces.index.frames[pieces[number].frame]
        entry = frame.entry
        if not isinstance(entry, Patch):
            raise ContentError(f"piece {number} is no patch")

        def read(source: ImageReader, offset: int, length: int) -> bytes:
            # A range at a time: whoever takes the base or the image away meanwhile waits for no more, and
            # what is read is not of another file that has got the same descriptor.
            with self._writing:
                if self._base is not base or self._closed:
                    raise StoreError("the base of the patch is not here any more")
                return source.read(offset, length)

        target = read(reader, frame.target_offset, frame.target_length)
        return entry, read_view(partial(read, base), entry), target

    def keep_patch(self, pack: Digest, number: int, stored: bytes, target: bytes) -> bool:
        """Keep a patch that was made anew of `target`, to be served; whether that was possible."""
        frame = self.maps[pack].index.frames[self.maps[pack][number].frame]
        return self._patches.keep(pack, number, frame, stored, target)

    @property
    def base(self) -> ImageReader | None:
        """What its delta packs and peer deltas start from; None once that is written over.

        Reads may come from any thread, and raise `StoreError` once it is not there any more.
        """
        base = self._base  # which another thread may take away
        return _Base(self, base) if base is not None else None

    def store_made(self, pack: Digest, numbers: range, made: bytes, device: str) -> tuple[list[Stored], bool]:
        """Write what a peer's delta made of these chunks; whether all that was missing is right.

        Only chunks with their signed digest are written. Raises `SlotError`, `StoreError`.
        """
        pieces, stored, right = self.maps[pack], list[Stored](), True
        start, view = pieces[numbers[0]].target_offset, memoryview(made)
        for n in numbers:
            piece = pieces[n]
            if self.is_done(piece.target_offset, piece.target_stop):
                continue
            data = view[piece.target_offset - start : piece.target_stop - start]
            if len(data) != piece.target_length or sha256(data) != piece.digest:
                right = False
                continue
            self._write(piece.target_offset, data)
            self._checked.add((pack, n))
            stored.append(
                Stored(
                    self.task.image, piece.target_offset, piece.target_stop, How.DELTA, pack, (n,),
                    device=device,
                )
            )  # fmt: skip
        return stored, right

    def read_of(self, base: ImageReader, offset: int, length: int) -> bytes:
        """Bytes of a base, which is not closed meanwhile: its descriptor could be another file's then."""
        with self._writing:
            if self._base is not base or self._closed:
                raise StoreError("the base is not here any more")
            return base.read(offset, length)

    def lose_base(self) -> None:
        """Another image is about to be written where the base is."""
        with self._writing:
            base, self._base = self._base, None
            close = getattr(base, "close", None)
            if close is not None:
                close()

    def close(self) -> None:
        """Give up the spool and the slot; what was verified stays, durably where the medium lets it."""
        with contextlib.suppress(LocalError):
            self.checkpoint()
        self._closed = True
        self._patches.close()
        with self._writing:  # nor is a file closed under a thread that writes to it
            for closable in (self._writer, self._ended, self._reader, self._base):
                close = getattr(closable, "close", None)
                if close is not None:
                    close()

    # Inside

    def _store_patch(self, pack: Digest, number: int, stored: Buffer, how: How, device: str | None) -> Stored:
        piece = self.maps[pack][number]
        frame = self.maps[pack].index.frames[piece.frame]
        entry = frame.entry
        assert isinstance(entry, Patch)
        if len(stored) != entry.stored_size:
            raise ContentError(f"piece {number}: {len(stored)} bytes instead of {entry.stored_size}")
        delta = decompress(entry.compression, stored, entry.delta_size)
        verify(delta, entry.delta_digest, f"piece {number}: delta")  # up to here the sender is to blame
        if self._base is None:
            raise BaseDamagedError("there is no base to patch")
        try:
            output = apply_delta(entry, delta, read_view(self._base.read, entry))
        except (ContentError, LocalError) as error:
            raise BaseDamagedError(f"base range of piece {number}: {error}") from error
        self._write(piece.target_offset, output)
        if how is How.IMPORTED:
            kept = self._patches.keep_at_hand(pack, number, stored)
        else:
            kept = self._patches.keep(pack, number, frame, stored, output)
        return Stored(
            self.task.image, piece.target_offset, piece.target_stop, how, pack, (number,), kept, device
        )

    def _read(self, offset: int, length: int) -> bytes:
        """Bytes of the image, for the thread that also ends it. Raises `SlotError`, `StoreError`."""
        if self._reader is None:
            raise StoreError("the image is not here any more")
        return self._reader.read(offset, length)

    def _copy(self, offset: int, start: int, stop: int) -> bool:
        assert self._base is not None
        try:
            data = self._base.read(offset, stop - start)
        except LocalError:
            return False
        self._write(start, data)
        return True

    def _write(self, offset: int, data: Buffer) -> None:
        with self._writing:
            if self._writer is None:
                raise StoreError("the image is complete; nothing is written to it any more")
            self._writer.write(offset, data)
            self._unsynced += len(data)


class _Base:
    """The base of an image, for as long as it is that."""

    def __init__(self, image: LocalImage, base: ImageReader) -> None:
        self._image = image
        self._base = base
        self.size = base.size

    def read(self, offset: int, length: int) -> bytes:
        return self._image.read_of(self._base, offset, length)
