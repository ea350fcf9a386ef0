"""Whatever was edited, moved, cut or zeroed: the plan tiles the target and its jobs make it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content.digests import sha256
from p2p.content.index import Codec, decode, encode
from p2p.delta.chunking import cut
from p2p.delta.packing import (
    DataJob,
    PackAssembly,
    PatchJob,
    Step,
    make_data,
    make_patch,
    plan_delta,
    plan_full,
)
from p2p.delta.rebuild import check_frames, image_parts

SIZE = 120_000
EDIT = st.tuples(
    st.sampled_from(["insert", "delete", "flip", "move", "zero", "repeat"]),
    st.integers(0, SIZE),
    st.integers(1, 30_000),
)


def edit(data: bytes, edits: list[tuple[str, int, int]], seed: int) -> bytes:
    rng = random.Random(seed)
    for what, at, size in edits:
        at = at % (len(data) + 1)
        part = data[at : at + size]
        match what:
            case "insert":
                data = data[:at] + rng.randbytes(size) + data[at:]
            case "delete":
                data = data[:at] + data[at + size :]
            case "flip":
                data = data[:at] + bytes(b ^ 1 for b in part[:50]) + data[at + 50 :]
            case "move":
                rest = data[:at] + data[at + size :]
                data = rest[: len(rest) // 2] + part + rest[len(rest) // 2 :]
            case "zero":
                data = data[:at] + bytes(len(part)) + data[at + size :]
            case "repeat":
                data = data[:at] + part + data[at:]
    return data


def build(steps: list[Step], target: bytes, base: bytes | None, codec: Codec) -> tuple[bytes, bytes]:
    """The encoded index and the frames object, in this process."""
    assembly, frames = PackAssembly(), bytearray()
    for step in steps:
        if isinstance(step, PatchJob):
            view = b"".join((base or b"")[r.offset : r.offset + r.length] for r in step.view)
            piece = target[step.offset : step.offset + step.length]
            made = make_patch(codec, view, piece, step.view) if step.view else None
            entry, stored = made or make_data(piece, [len(piece)])
        elif isinstance(step, DataJob):
            entry, stored = make_data(target[step.offset : step.offset + step.length], step.chunks)
        else:
            assembly.add(step)
            continue
        assembly.add(entry)
        frames += stored
    digest = None if base is None else sha256(base)
    index = assembly.finish(sha256(target), len(target), digest, len(base or b""))
    return encode(index), bytes(frames)


@settings(max_examples=60)
@given(st.integers(0, 5), st.lists(EDIT, max_size=6), st.sampled_from(list(Codec)), st.integers(0, SIZE))
def test_delta_packs(seed: int, edits: list[tuple[str, int, int]], codec: Codec, size: int) -> None:
    base = random.Random(seed).randbytes(size)
    target = edit(base, edits, seed)
    encoded, frames = build(list(plan_delta(target, base, cut)), target, base, codec)
    index = decode(encoded)
    parts = image_parts(index, lambda o, n: frames[o : o + n], lambda o, n: base[o : o + n])
    assert b"".join(bytes(p) for p in parts) == target
    check_frames(index, lambda o, n: frames[o : o + n])


@settings(max_examples=30)
@given(st.integers(0, 5), st.lists(EDIT, max_size=6))
def test_full_packs(seed: int, edits: list[tuple[str, int, int]]) -> None:
    target = edit(random.Random(seed).randbytes(SIZE), edits, seed)
    encoded, frames = build(list(plan_full(target, cut)), target, None, Codec.HDIFFPATCH)
    parts = image_parts(decode(encoded), lambda o, n: frames[o : o + n], lambda _o, _n: b"")
    assert b"".join(bytes(p) for p in parts) == target
