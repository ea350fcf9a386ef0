"""Residues of patches: small where new content stands in the target, right, and never trusted."""

from __future__ import annotations

import random

import pytest

from p2p.content import limits
from p2p.content.index import Codec, Compression
from p2p.content.limits import KIB, MIB
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress
from p2p.delta.residue import residue_of, restore
from p2p.errors import ContentError

_rng = random.Random(11)
BASE = _rng.randbytes(MIB // 2)
NEW = _rng.randbytes(MIB // 2)
TARGET = BASE[: MIB // 4] + NEW + BASE[MIB // 4 :]


def patch_of(codec: Codec, target: bytes) -> tuple[Compression, bytes]:
    delta = CODECS[codec].diff(BASE, target)
    assert delta is not None
    return compress(delta)


@pytest.mark.parametrize("codec", list(Codec))
def test_of_a_patch_of_new_content_next_to_nothing_is_left(codec: Codec) -> None:
    _, stored = patch_of(codec, TARGET)
    assert len(stored) >= len(NEW)
    residue = residue_of(stored, TARGET)
    assert residue is not None
    assert len(residue) < len(stored) / 7  # LZMA2 gives up by 64 KiB
    assert restore(residue, TARGET, len(stored)) == stored


def test_what_was_compressed_passes_as_well_where_the_compressor_gave_it_up() -> None:
    target = TARGET + bytes(range(256)) * 1000  # enough for LZMA2 to win over no compression
    compression, stored = patch_of(Codec.BSDIFF, target)
    assert compression is Compression.LZMA2
    residue = residue_of(stored, target)
    assert residue is not None
    assert len(residue) < len(stored) / 4
    assert restore(residue, target, len(stored)) == stored


@pytest.mark.parametrize(
    "target",
    [BASE[:1000] + b"slip" + BASE[1004:], _rng.randbytes(20 * KIB).hex().encode()],
    ids=["small-patch", "compressible"],
)
def test_of_what_does_not_stand_in_the_target_there_is_none(target: bytes) -> None:
    assert residue_of(patch_of(Codec.HDIFFPATCH, target)[1], target) is None


def test_the_largest_patch_of_the_largest_target() -> None:
    target = _rng.randbytes(limits.PATCH_TARGET_MAX)
    stored = _rng.randbytes(3 * MIB) + target  # the last match is far back
    residue = residue_of(stored, target)
    assert residue is not None
    assert restore(residue, target, len(stored)) == stored


def test_damage_is_an_error_or_other_bytes() -> None:
    _, stored = patch_of(Codec.HDIFFPATCH, TARGET)
    residue = residue_of(stored, TARGET)
    assert residue is not None
    other = bytearray(TARGET)
    other[MIB // 2] ^= 1
    assert restore(residue, bytes(other), len(stored)) != stored
    for size in (len(stored) - 1, len(stored) + 1):
        try:
            assert restore(residue, TARGET, size) == stored[:size]
        except ContentError:
            assert size > len(stored)
    for at in range(0, len(residue), max(1, len(residue) // 40)):
        damaged = bytearray(residue)
        damaged[at] ^= 0x41
        try:
            restore(damaged, TARGET, len(stored))
        except ContentError as error:
            assert "residue of a patch" in error.message
    with pytest.raises(ContentError, match="residue of a patch"):
        restore(residue[:16], TARGET, len(stored))
