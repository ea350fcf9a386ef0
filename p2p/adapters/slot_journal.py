"""The journal of a slot that is being written: which ranges of the image were verified and are durable.

Append-only and checksummed. A journal belongs to one writing of one image (its *generation*); its
records are ranges that had reached the medium before the record was written. A torn tail is ignored;
anything else that does not read is damage, and the writing starts over. Not for what a slot holds
(`slots`), and no proof: the whole image is read back before a slot is believed.

Layout, little-endian. Header: `SLJ1`, generation u64, image size u64, image SHA-256, CRC-32 of all
before it. Record: `SLJR`, sequence u32 (from 0), count u32, `count` times start u64 and stop u64,
CRC-32 of the generation (u64) and all of the record before it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from p2p.adapters.files import File, Files, read_whole, replace_durably
from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet

JOURNAL_SIZE_MAX = 256 << 20
COMPACT_SIZE_MIN = 64 << 10

_HEADER = struct.Struct("<4sQQ32s")
_RECORD = struct.Struct("<4sII")
_INTERVAL = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
_GENERATION = struct.Struct("<Q")
_HEADER_MAGIC = b"SLJ1"
_RECORD_MAGIC = b"SLJR"
_HEADER_SIZE = _HEADER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Writing:
    """What a journal is of: the n-th writing of a slot (`generation`), and the image written."""

    generation: int
    image: Digest
    size: int


class SlotJournal:
    """An open journal. Methods raise `OSError`; after one, the journal is not to be used again."""

    def __init__(self, files: Files, path: str, writing: Writing, durable: IntervalSet) -> None:
        self._files = files
        self._path = path
        self._writing = writing
        self.durable = durable
        self._file: File | None = None
        self._length = 0
        self._compacted_length = 0
        self._sequence = 0

    @classmethod
    def create(cls, files: Files, path: str, writing: Writing) -> SlotJournal:
        """A new, empty journal in place of whatever was at `path`."""
        journal = cls(files, path, writing, IntervalSet())
        journal.rewrite(IntervalSet())
        return journal

    @classmethod
    def resume(cls, files: Files, path: str, writing: Writing) -> SlotJournal | None:
        """The journal of this writing, or None when it is absent, damaged or of another writing.

        It is written anew at once: a state disk that is full says so here, before any byte is fetched
        that could not be noted.
        """
        data = read_whole(files, path, JOURNAL_SIZE_MAX)
        if data is None:
            return None
        found = parse(data, writing)
        if found is None:
            return None
        journal = cls(files, path, writing, found.durable)
        journal.rewrite(found.durable)
        return journal

    def append(self, intervals: IntervalSet) -> None:
        """Make `intervals` durable. Their data must be: this is called after its fsync."""
        for start, stop in intervals:
            self.durable.add(start, stop)
        if self._length > COMPACT_SIZE_MIN and self._length > 3 * self._compacted_length:
            self.rewrite(self.durable)
            return
        assert self._file is not None
        record = _encode_record(self._writing.generation, self._sequence, intervals)
        self._file.write_at(self._length, record)
        self._file.sync()
        self._length += len(record)
        self._sequence += 1

    def rewrite(self, durable: IntervalSet) -> None:
        """Replace the journal by one that says only `durable` (to forget a range, or to keep it small)."""
        self.close()
        data = _encode_header(self._writing)
        self._sequence = 0
        if durable:
            data += _encode_record(self._writing.generation, 0, durable)
            self._sequence = 1
        replace_durably(self._files, self._path, data)
        self._file = self._files.open(self._path, write=True)
        self._length = self._compacted_length = len(data)
        self.durable = durable

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a journal says. `length`: bytes up to the end of its last good record."""

    durable: IntervalSet
    length: int
    records: int


def parse(data: bytes, writing: Writing) -> Parsed | None:
    """Read a journal of `writing`; None when it is of another one or damaged."""
    if data[:_HEADER_SIZE] != _encode_header(writing):
        return None
    durable = IntervalSet()
    at = _HEADER_SIZE
    sequence = 0
    while at < len(data):
        record = _parse_record(data, at, writing, sequence)
        if record is None:
            return None if _holds_record(data, at + 1, writing, sequence) else Parsed(durable, at, sequence)
        intervals, at = record
        for start, stop in intervals:
            durable.add(start, stop)
        sequence += 1
    return Parsed(durable, at, sequence)


def _parse_record(
    data: bytes, at: int, writing: Writing, sequence: int
) -> tuple[list[tuple[int, int]], int] | None:
    if at + _RECORD.size > len(data):
        return None
    magic, found, count = _RECORD.unpack_from(data, at)
    stop = at + _RECORD.size + count * _INTERVAL.size
    if magic != _RECORD_MAGIC or found != sequence or stop + _CRC.size > len(data):
        return None
    if _CRC.unpack_from(data, stop)[0] != _checksum(writing.generation, data[at:stop]):
        return None
    intervals = list(_INTERVAL.iter_unpack(data[at + _RECORD.size : stop]))
    if any(not a < b <= writing.size for a, b in intervals):
        return None
    return intervals, stop + _CRC.size


def _holds_record(data: bytes, at: int, writing: Writing, after: int) -> bool:
    # Each record is fsynced before the next is written, so a power cut can spoil only the last one.
    while (at := data.find(_RECORD_MAGIC, at)) >= 0:
        if at + _RECORD.size <= len(data):
            sequence = _RECORD.unpack_from(data, at)[1]
            if sequence > after and _parse_record(data, at, writing, sequence) is not None:
                return True
        at += 1
    return False


def _encode_header(writing: Writing) -> bytes:
    header = _HEADER.pack(_HEADER_MAGIC, writing.generation, writing.size, writing.image)
    return header + _CRC.pack(zlib.crc32(header))


def _encode_record(generation: int, sequence: int, intervals: IntervalSet) -> bytes:
    body = _RECORD.pack(_RECORD_MAGIC, sequence, len(intervals))
    body += b"".join(_INTERVAL.pack(start, stop) for start, stop in intervals)
    return body + _CRC.pack(_checksum(generation, body))


def _checksum(generation: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_GENERATION.pack(generation)))
