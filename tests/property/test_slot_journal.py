"""The journal of a slot: what goes in comes out, and no damage makes it claim more than it did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.adapters.slot_journal import SlotJournal, Writing, parse
from p2p.content.digests import sha256
from p2p.content.intervals import IntervalSet
from tests.support.crash_disk import CrashDisk

SIZE = 1000
WRITING = Writing(3, sha256(b"image"), SIZE)
RANGES = st.lists(
    st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 50)), min_size=1, max_size=5), max_size=12
)


def intervals(batch: list[tuple[int, int]]) -> IntervalSet:
    return IntervalSet((start, min(start + length, SIZE)) for start, length in batch)


def write(batches: list[list[tuple[int, int]]]) -> tuple[bytes, list[IntervalSet], list[int]]:
    """The journal's bytes, what it said after each append, and its length then."""
    disk = CrashDisk()
    journal = SlotJournal.create(disk, "/j", WRITING)
    said, lengths = [IntervalSet()], [len(disk.content("/j") or b"")]
    for batch in batches:
        journal.append(intervals(batch))
        said.append(IntervalSet(journal.durable))
        lengths.append(len(disk.content("/j") or b""))
    return disk.content("/j") or b"", said, lengths


@given(RANGES)
def test_what_was_appended_is_read(batches: list[list[tuple[int, int]]]) -> None:
    data, said, _ = write(batches)
    found = parse(data, WRITING)
    assert found is not None
    assert (found.durable, found.length, found.records) == (said[-1], len(data), len(batches))


@given(RANGES, st.data())
def test_a_cut_journal_says_what_it_said_at_an_earlier_time(
    batches: list[list[tuple[int, int]]], draw: st.DataObject
) -> None:
    data, said, lengths = write(batches)
    cut = draw.draw(st.integers(0, len(data)))
    found = parse(data[:cut], WRITING)
    if cut < lengths[0]:
        assert found is None
        return
    assert found is not None
    whole = max(n for n, length in enumerate(lengths) if length <= cut)
    assert (found.durable, found.length) == (said[whole], lengths[whole])


@given(RANGES, st.data())
def test_a_flipped_bit_never_adds_a_range(batches: list[list[tuple[int, int]]], draw: st.DataObject) -> None:
    data, said, _ = write(batches)
    damaged = bytearray(data)
    at = draw.draw(st.integers(0, len(data) - 1))
    damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
    found = parse(bytes(damaged), WRITING)
    if found is not None:
        # Only the last record can be lost without the whole being given up.
        assert found.durable == said[-2]
        assert found.records == len(batches) - 1


@given(RANGES, st.binary(max_size=200))
def test_garbage_after_the_end_is_ignored(batches: list[list[tuple[int, int]]], tail: bytes) -> None:
    data, said, _ = write(batches)
    found = parse(data + tail, WRITING)
    assert found is not None
    assert found.durable == said[-1]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert parse(data, WRITING) is None


def test_a_journal_of_another_writing_is_none_of_ours() -> None:
    data, _, _ = write([[(0, 10)]])
    assert parse(data, WRITING) is not None
    for other in (
        Writing(4, WRITING.image, SIZE),
        Writing(3, sha256(b"x"), SIZE),
        Writing(3, WRITING.image, 999),
    ):
        assert parse(data, other) is None
