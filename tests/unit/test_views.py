"""Finding what stayed: runs, zero runs, and base views that follow content where it moved."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.content.index import ViewRange
from p2p.delta.chunking import cut
from p2p.delta.views import Run, ViewChooser, anchor_size, find_runs, zero_runs

KIB = limits.KIB
MIB = limits.MIB
OLD = random.Random(1).randbytes(600_000)


def check_runs(target: bytes, base: bytes) -> list[Run]:
    """The runs, after checking that they are true, disjoint, in order and cannot be grown."""
    runs = find_runs(target, base, cut)
    stop = 0
    for run in runs:
        assert run.length > 0
        assert run.target_offset >= stop
        assert (
            target[run.target_offset : run.target_stop]
            == base[run.base_offset : run.base_offset + run.length]
        )
        if run.target_stop < len(target) and run.base_offset + run.length < len(base):
            assert target[run.target_stop] != base[run.base_offset + run.length]
        stop = run.target_stop
    return runs


def test_equal_images_are_one_run() -> None:
    assert check_runs(OLD, OLD) == [Run(0, 0, len(OLD))]


def test_an_edit_in_the_middle_splits_the_run_at_the_exact_byte() -> None:
    new = bytearray(OLD)
    new[300_000] ^= 1
    assert check_runs(bytes(new), OLD) == [Run(0, 0, 300_000), Run(300_001, 300_001, 299_999)]


def test_an_insertion_shifts_the_rest() -> None:
    new = OLD[:200_000] + b"seven b" + OLD[200_000:]
    runs = check_runs(new, OLD)
    assert [r.shift for r in runs] == [0, -7]
    assert sum(r.length for r in runs) == len(OLD)


def test_a_deletion_shifts_the_other_way() -> None:
    new = OLD[:200_000] + OLD[250_000:]
    runs = check_runs(new, OLD)
    assert [r.shift for r in runs] == [0, 50_000]
    assert sum(r.length for r in runs) == len(new)


def test_swapped_halves_are_found() -> None:
    new = OLD[300_000:] + OLD[:300_000]
    runs = check_runs(new, OLD)
    assert {r.shift for r in runs} == {300_000, -300_000}
    assert sum(r.length for r in runs) == len(new)


def test_unrelated_and_empty_images_have_no_runs() -> None:
    assert check_runs(random.Random(2).randbytes(100_000), OLD) == []
    assert check_runs(b"", OLD) == []
    assert check_runs(OLD, b"") == []


def test_a_chunk_that_the_run_before_grew_into_counts_only_from_there() -> None:
    """The content around 100,000 is in the base twice, and the first place ends inside a chunk."""
    base = OLD[:100_000] + random.Random(3).randbytes(5_000) + OLD[90_000:]
    runs = check_runs(OLD, base)
    assert [r.shift for r in runs] == [0, 15_000]
    assert sum(r.length for r in runs) == len(OLD)


def test_repeated_content_continues_the_run_before_it() -> None:
    """Of several places with the same bytes, the one that carries on is taken: one run, not many."""
    repeated = OLD[:50_000] * 8
    assert check_runs(repeated, repeated) == [Run(0, 0, len(repeated))]


def test_anchors_are_bounded_whatever_the_image() -> None:
    assert anchor_size(0) == 256
    for size in (MIB, 100 * MIB, 1 << 40):
        assert size // anchor_size(size) <= 1 << 16
        assert anchor_size(size) & (anchor_size(size) - 1) == 0


@pytest.mark.parametrize(
    ("data", "runs"),
    [
        (bytes(64 * KIB), [(0, 64 * KIB)]),
        (b"x" + bytes(64 * KIB), [(4 * KIB, 64 * KIB)]),
        (bytes(64 * KIB) + b"x", [(0, 64 * KIB)]),
        (bytes(8 * KIB) + b"x" * 8 * KIB + bytes(16 * KIB), [(0, 8 * KIB), (16 * KIB, 32 * KIB)]),
        (bytes(4 * KIB) + b"x" * 4 * KIB, []),
        (bytes(4 * KIB - 1), []),
        (b"", []),
    ],
)
def test_zero_runs(data: bytes, runs: list[tuple[int, int]]) -> None:
    assert list(zero_runs(data, 8 * KIB)) == runs


def view(runs: list[Run], start: int, stop: int, base_size: int = 100 * MIB) -> tuple[ViewRange, ...]:
    chosen = ViewChooser(runs, base_size).choose(start, stop)
    assert sum(r.length for r in chosen) <= limits.BASE_VIEW_MAX
    assert len(chosen) <= limits.BASE_VIEW_RANGES_MAX
    last = -1
    for r in chosen:
        assert r.offset > last
        last = r.offset + r.length
    assert last <= base_size
    return chosen


def test_without_anchors_the_view_is_around_the_same_offset() -> None:
    assert view([], 40 * MIB, 44 * MIB) == (ViewRange(36 * MIB, 12 * MIB),)


def test_a_view_is_moved_inside_the_base() -> None:
    assert view([], 0, 4 * MIB) == (ViewRange(0, 12 * MIB),)
    assert view([], 98 * MIB, 100 * MIB) == (ViewRange(94 * MIB, 6 * MIB),)
    assert view([], 200 * MIB, 204 * MIB) == (ViewRange(88 * MIB, 12 * MIB),)
    assert view([], 0, 4 * MIB, base_size=MIB) == (ViewRange(0, MIB),)
    assert view([], 0, 4 * MIB, base_size=0) == ()


def test_after_an_insertion_the_view_follows_the_shift() -> None:
    inside = [Run(41 * MIB, 21 * MIB, MIB)]
    assert view(inside, 40 * MIB, 44 * MIB) == (ViewRange(16 * MIB, 12 * MIB),)
    before = [Run(0, 0, MIB), Run(30 * MIB, 10 * MIB, MIB)]
    assert view(before, 40 * MIB, 44 * MIB) == (ViewRange(16 * MIB, 12 * MIB),)


def test_content_from_elsewhere_gets_a_range_of_its_own() -> None:
    runs = [Run(40 * MIB, 40 * MIB, 3 * MIB), Run(43 * MIB, 90 * MIB, MIB // 2)]
    near, far = view(runs, 40 * MIB, 44 * MIB)
    assert near.offset <= 40 * MIB and near.offset + near.length >= 44 * MIB
    assert far.offset <= 90 * MIB and far.offset + far.length >= 90 * MIB + MIB // 2


def test_the_most_found_comes_first_when_not_all_fits() -> None:
    runs = [Run(40 * MIB, 40 * MIB, 2 * MIB)]
    runs += [Run(42 * MIB + i * 64 * KIB, (60 + i) * MIB, (i + 1) * KIB) for i in range(30)]
    chosen = view(runs, 40 * MIB, 44 * MIB)
    assert len(chosen) == 25
    assert all(r.offset >= 65 * MIB for r in chosen[1:])


def test_a_short_stretch_gets_a_small_view() -> None:
    assert view([], 40 * MIB, 40 * MIB + 100) == (ViewRange(39 * MIB, 2 * MIB + 100),)
