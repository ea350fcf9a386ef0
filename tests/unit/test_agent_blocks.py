"""Buffers are used again only after they were given back, and what lies idle is bounded."""

from __future__ import annotations

from p2p.agent.blocks import KEPT_BYTES, STEP, Blocks
from p2p.content.limits import CHUNK_SIZE_MAX


def test_what_was_given_back_is_taken_again_and_what_was_not_is_not() -> None:
    blocks = Blocks()
    held, done = blocks.take(100_000), blocks.take(100_000)
    held[:] = b"h" * 100_000
    blocks.give(done)
    again = blocks.take(98_305)  # of the same capacity
    assert again.obj is done.obj
    assert len(again) == 98_305
    assert blocks.take(100_000).obj is not held.obj
    assert held == b"h" * 100_000


def test_a_buffer_fits_its_piece_closely() -> None:
    for size in (STEP, STEP + 1, 100_000, CHUNK_SIZE_MAX):
        buffer = Blocks().take(size)
        assert len(buffer) == size
        assert len(buffer.obj) - size < STEP


def test_what_lies_idle_is_bounded() -> None:
    blocks = Blocks()
    taken = [blocks.take(CHUNK_SIZE_MAX) for _ in range(2 * KEPT_BYTES // CHUNK_SIZE_MAX)]
    for buffer in taken:
        blocks.give(buffer)
    assert blocks.kept == KEPT_BYTES
    for buffer in taken:
        blocks.take(len(buffer))
    assert blocks.kept == 0


def test_buffers_of_others_are_not_kept() -> None:
    blocks = Blocks()
    for other in (bytes(STEP), bytearray(STEP), memoryview(bytearray(STEP))):
        blocks.give(other)
    for size in (STEP - 1, CHUNK_SIZE_MAX + 1):
        buffer = blocks.take(size)
        assert len(buffer) == size
        blocks.give(buffer)
    assert blocks.kept == 0
