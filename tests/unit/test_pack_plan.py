"""Planning packs: every target byte is in exactly one step, and free bytes stay free."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.index import Codec, Copy, Data, Patch, ViewRange, Zero
from p2p.delta.chunking import cut
from p2p.delta.packing import (
    DATA_FRAME_TARGET,
    DataJob,
    PackAssembly,
    PatchJob,
    Step,
    make_data,
    make_patch,
    plan_delta,
    plan_full,
)
from p2p.delta.unpack import unpack_data, unpack_patch
from p2p.errors import ContentError

MIB = limits.MIB
OLD = random.Random(3).randbytes(6 * MIB)


def check_plan(steps: list[Step], target: bytes, base: bytes = b"") -> None:
    """The steps tile the target; COPY and ZERO are true."""
    at = 0
    for step in steps:
        match step:
            case Zero(length=length):
                assert target[at : at + length] == bytes(length)
            case Copy(base_offset=offset, length=length):
                assert target[at : at + length] == base[offset : offset + length]
            case PatchJob(offset=offset, length=length):
                assert offset == at
                assert 0 < length <= limits.PATCH_TARGET_MAX
            case DataJob(offset=offset):
                assert offset == at
        at += step.length
    assert at == len(target)


def kinds(steps: list[Step]) -> list[str]:
    return [type(s).__name__ for s in steps]


def test_equal_images_are_one_copy() -> None:
    assert list(plan_delta(OLD, OLD, cut)) == [Copy(0, len(OLD))]


def test_a_full_plan_leaves_out_zero_runs() -> None:
    target = OLD[: 3 * MIB] + bytes(MIB) + OLD[3 * MIB :] + bytes(64 * 1024)
    steps = list(plan_full(target, cut))
    check_plan(steps, target)
    assert [s.length for s in steps if isinstance(s, Zero)] == [MIB, 64 * 1024]
    jobs = [s for s in steps if isinstance(s, DataJob)]
    assert all(j.length <= DATA_FRAME_TARGET for j in jobs)
    for job in jobs:
        assert all(c <= limits.CHUNK_SIZE_MAX for c in job.chunks)


def test_chunking_is_the_same_again_and_finds_its_way_back_after_an_edit() -> None:
    def chunks(data: bytes) -> set[bytes]:
        return {sha256(data[o : o + n]) for o, n in cut(memoryview(data), limits.CHUNK_SIZE_AVG)}

    before, after = chunks(OLD), chunks(OLD[:MIB] + b"inserted" + OLD[MIB:])
    assert chunks(OLD) == before
    assert len(before) > 20
    assert len(before - after) <= 2


def test_one_changed_byte_is_one_small_job() -> None:
    target = bytearray(OLD)
    target[2 * MIB] ^= 1
    steps = list(plan_delta(bytes(target), OLD, cut))
    check_plan(steps, bytes(target), OLD)
    assert kinds(steps) == ["Copy", "PatchJob", "Copy"]
    assert steps[1].length == 1


def test_near_changes_share_a_job_and_far_ones_do_not() -> None:
    near, far = bytearray(OLD), bytearray(OLD)
    for at in (MIB, MIB + 500_000):
        near[at] ^= 1
    for at in (MIB, 4 * MIB):
        far[at] ^= 1
    assert kinds(list(plan_delta(bytes(near), OLD, cut))) == ["Copy", "PatchJob", "Copy"]
    assert kinds(list(plan_delta(bytes(far), OLD, cut))) == ["Copy", "PatchJob"] * 2 + ["Copy"]


def test_an_insertion_is_a_job_and_the_rest_a_shifted_copy() -> None:
    target = OLD[: 2 * MIB] + b"inserted" + OLD[2 * MIB :]
    steps = list(plan_delta(target, OLD, cut))
    check_plan(steps, target, OLD)
    assert kinds(steps) == ["Copy", "PatchJob", "Copy"]
    assert steps[2] == Copy(2 * MIB, 4 * MIB)


def test_a_target_without_anything_in_common_is_covered_by_jobs_of_the_greatest_size() -> None:
    target = random.Random(4).randbytes(5 * MIB)
    steps = list(plan_delta(target, OLD, cut))
    check_plan(steps, target, OLD)
    assert [s.length for s in steps] == [4 * MIB, MIB]


def test_long_zero_runs_win_over_copies_and_short_ones_do_not_cut_them() -> None:
    long = OLD[:MIB] + bytes(MIB) + OLD[MIB : 2 * MIB]
    assert list(plan_delta(long, long, cut)) == [Copy(0, MIB), Zero(MIB), Copy(2 * MIB, MIB)]
    short = OLD[:MIB] + bytes(MIB - 4096) + OLD[MIB : 2 * MIB]
    assert list(plan_delta(short, short, cut)) == [Copy(0, len(short))]
    assert kinds(list(plan_delta(short, OLD, cut))) == ["Copy", "Zero", "Copy"]


@pytest.mark.parametrize("base", [b"", OLD[:100]])
def test_tiny_and_empty_images(base: bytes) -> None:
    for target in (b"", b"x", OLD[50:80]):
        steps = list(plan_delta(target, base, cut))
        check_plan(steps, target, base)


def test_make_patch_gives_an_entry_that_unpacks() -> None:
    target = OLD[:1000] + b"new" + OLD[1000:50_000]
    made = make_patch(Codec.HDIFFPATCH, OLD[:60_000], target, (ViewRange(0, 60_000),))
    assert made is not None
    entry, stored = made
    assert len(stored) == entry.stored_size < 200
    assert unpack_patch(entry, stored, OLD[:60_000]) == target


def test_make_data_gives_an_entry_that_unpacks_and_never_grows_much() -> None:
    target = OLD[:MIB]
    lengths = [n for _, n in cut(memoryview(target), limits.CHUNK_SIZE_AVG)]
    entry, stored = make_data(target, lengths)
    assert entry.stored_size == len(stored) <= MIB
    assert b"".join(unpack_data(entry, stored)) == target


def test_assembly_joins_neighbours_and_checks_the_sum() -> None:
    assembly = PackAssembly()
    for entry in (Zero(1), Zero(2), Copy(5, 2), Copy(7, 3), Copy(20, 1)):
        assembly.add(entry)
    index = assembly.finish(sha256(b""), 9, sha256(b"b"), 30)
    assert index.entries == (Zero(3), Copy(5, 5), Copy(20, 1))
    with pytest.raises(ContentError, match="entries make 9 bytes of an image of 10"):
        assembly.finish(sha256(b""), 10, sha256(b"b"), 30)


def test_entries_of_jobs_keep_their_types() -> None:
    made = make_patch(Codec.BSDIFF, b"0123456789" * 10, b"0123456789" * 9, (ViewRange(0, 100),))
    assert made is not None
    assert isinstance(made[0], Patch)
    assert isinstance(make_data(b"abc", [3])[0], Data)
