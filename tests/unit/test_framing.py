"""Where frames begin and end: every gap is covered, nothing is too long, repeats stay together."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.content import limits
from p2p.delta.chunking import cut
from p2p.delta.framing import Repeat, spans
from p2p.delta.packing import PatchJob, plan_delta
from p2p.delta.views import find_repeats

MIB = limits.MIB
KIB = limits.KIB
MOST = limits.PATCH_TARGET_MAX


def test_without_repeats_spans_are_as_long_as_they_may_be() -> None:
    assert list(spans([(0, 9 * MIB)], [], MIB)) == [(0, 4 * MIB), (4 * MIB, 8 * MIB), (8 * MIB, 9 * MIB)]
    assert list(spans([], [], MIB)) == []


def test_near_gaps_share_a_span_and_a_long_free_run_parts_them() -> None:
    gaps = [(0, 10), (MIB // 2, MIB), (2 * MIB, 2 * MIB + 5)]
    assert list(spans(gaps, [], MIB)) == [(0, MIB), (2 * MIB, 2 * MIB + 5)]
    assert list(spans(gaps, [], MIB + 1)) == [(0, 2 * MIB + 5)]


def test_a_repeat_moves_the_boundary() -> None:
    """1 MiB at 3 MiB is there again at 5 MiB: no frame from 0 holds both, one from 2 MiB on does."""
    gaps = [(0, 8 * MIB)]
    repeat = Repeat(3 * MIB, 5 * MIB, MIB)
    together = [s for s in spans(gaps, [repeat], MIB) if s[0] <= 3 * MIB and s[1] >= 6 * MIB]
    assert len(together) == 1
    assert not [s for s in spans(gaps, [], MIB) if s[0] <= 3 * MIB and s[1] >= 6 * MIB]


def test_a_repeat_that_is_worth_less_than_a_frame_does_not() -> None:
    gaps = [(0, 8 * MIB)]
    assert len(list(spans(gaps, [Repeat(3 * MIB, 5 * MIB, 10)], MIB))) == 2


GAPS = st.lists(st.tuples(st.integers(1, 3 * MIB), st.integers(1, 6 * MIB)), min_size=1, max_size=12)
REPEATS = st.lists(
    st.tuples(st.integers(0, 30 * MIB), st.integers(1, 4 * MIB), st.integers(1, 100 * KIB)), max_size=20
)


@given(GAPS, REPEATS)
def test_spans_cover_every_gap_once(raw: list[tuple[int, int]], pairs: list[tuple[int, int, int]]) -> None:
    gaps: list[tuple[int, int]] = []
    at = 0
    for free, length in raw:
        gaps.append((at + free, at + free + length))
        at += free + length
    repeats = sorted((Repeat(a, a + d, n) for a, d, n in pairs), key=lambda r: r.second)
    found = list(spans(gaps, repeats, MIB))
    stop = 0
    for low, high in found:
        assert stop <= low < high <= low + MOST
        stop = high
    for low, high in gaps:
        inside = sum(max(0, min(high, b) - max(low, a)) for a, b in found)
        assert inside == high - low
    assert found == list(spans(gaps, repeats, MIB))


def test_repeats_are_found_in_new_content_only() -> None:
    block = random.Random(1).randbytes(100_000)
    between = random.Random(2).randbytes(200_000)
    target = block + between + block
    repeats = find_repeats(target, [(0, len(target))], cut)
    assert sum(r.length for r in repeats) > 90_000
    assert all(r.second - r.first == 300_000 for r in repeats)
    assert find_repeats(target, [(0, 300_000)], cut) == []


def test_a_plan_keeps_repeated_new_content_in_one_job() -> None:
    block = random.Random(1).randbytes(MIB)
    target = random.Random(2).randbytes(3 * MIB) + block + random.Random(3).randbytes(MIB) + block
    jobs = [s for s in plan_delta(target, b"another base", cut) if isinstance(s, PatchJob)]
    assert any(j.offset <= 3 * MIB and j.offset + j.length == 6 * MIB for j in jobs)
