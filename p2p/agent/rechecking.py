"""A slot that does not read back as its image: which parts of it are wrong, by the full pack's digests.

Called once an image was read back wrong as a whole, or a part of a whole one was. Not for mending what is
found (`p2p.agent.filling`).
"""

from __future__ import annotations

import hashlib

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.intervals import IntervalSet
from p2p.content.pieces import PieceMap
from p2p.errors import LocalError, SlotError
from p2p.ports import ImageReader, SlotWriter
from p2p.swarm.events import GiveUp, ImageTask

_ZEROS = bytes(limits.MIB)


class ReadBackError(LocalError):
    """What was written does not read back as the image, and to go on would not change that."""

    @classmethod
    def persistent(cls, given_up: GiveUp) -> ReadBackError:
        """Mending did not help."""
        meanwhile = (
            f"although {given_up.mended} bytes of it were made anew"
            if given_up.mended
            else "although each of its chunks, read alone, was right"
        )
        return cls(
            f"image {given_up.image.hex()[:12]} was read back wrong {given_up.read_backs} times, {meanwhile}",
            next_step="check this device's storage and memory, then `slipstream agent unblock`",
        )

    @classmethod
    def contradiction(cls, image: Digest) -> ReadBackError:
        """All parts have their signed digests, the whole has not: no device can make this image."""
        return cls(
            f"the release contradicts itself: every chunk of image {image.hex()[:12]} has its signed digest,"
            " the whole has another",
            next_step="publish a corrected release under a new version",
        )


def wrong_ranges(pieces: PieceMap, writer: SlotWriter, task: ImageTask) -> tuple[IntervalSet, set[int]]:
    """What is done of the slot and not as the full pack (`pieces`) signs it: ranges, and the pieces in them.

    Raises `ReadBackError` when every part is right and the whole is not, `SlotError` when the slot
    cannot be read.
    """
    bad, wrong, whole, covered = IntervalSet(), set[int](), hashlib.sha256(), 0
    for start, stop, number in _parts(pieces):
        if not writer.done.covers(start, stop):
            continue
        data = writer.read(start, stop - start)
        whole.update(data)
        covered += len(data)
        if number is None:
            right = memoryview(_ZEROS)[: len(data)] == data
        elif not (right := sha256(data) == pieces[number].digest):
            wrong.add(number)
        if not right:
            bad.add(start, stop)
    if not bad and covered == task.size and whole.digest() != task.image:
        raise ReadBackError.contradiction(task.image)
    return bad, wrong


def right_ranges(pieces: PieceMap, image: ImageReader) -> IntervalSet:
    """What of a whole image reads as its full pack (`pieces`) signs it. What cannot be read is not right."""
    right = IntervalSet()
    for start, stop, number in _parts(pieces):
        try:
            data = image.read(start, stop - start)
        except SlotError:
            continue
        if number is None:
            is_right = memoryview(_ZEROS)[: len(data)] == data
        else:
            is_right = sha256(data) == pieces[number].digest
        if is_right:
            right.add(start, stop)
    return right


def _parts(pieces: PieceMap) -> list[tuple[int, int, int | None]]:
    """All of a full pack's image, in order, as `(start, stop, piece)`; zeros are no piece, and in steps."""
    parts: list[tuple[int, int, int | None]] = [
        (p.target_offset, p.target_stop, p.number) for p in pieces.pieces
    ]
    for local in pieces.index.local_entries:
        end = local.target_offset + local.entry.length
        steps = range(local.target_offset, end, len(_ZEROS))
        parts += [(start, min(start + len(_ZEROS), end), None) for start in steps]
    return sorted(parts)
