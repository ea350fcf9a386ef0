"""What a device keeps of patches for its peers: as little as it can, and only what is right is given."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2p.agent import patches
from p2p.agent.images import LocalImage
from p2p.agent.spool import SpoolMemory
from p2p.content.digests import Buffer, sha256
from p2p.content.index import Codec, PackIndex, Patch, ViewRange
from p2p.content.limits import KIB, MIB
from p2p.delta.codecs import CODECS
from p2p.delta.compression import compress
from p2p.delta.residue import residue_of
from tests.support.small_image import BASE, DELTA_PACK, TASK, MemoryImage, MemoryWriter

NAME = DELTA_PACK.index.sha256


class Making:
    """An image of one patch that makes all of it, `new`, and a device that makes it."""

    def __init__(self, directory: Path, new: bytes, memory: SpoolMemory) -> None:
        delta = CODECS[Codec.HDIFFPATCH].diff(BASE, new)
        assert delta is not None
        compression, self.stored = compress(delta)
        entry = Patch(
            Codec.HDIFFPATCH, len(new), (ViewRange(0, len(BASE)),), len(self.stored), compression,
            len(delta), sha256(delta), sha256(new),
        )  # fmt: skip
        self.spool = directory / "spool"
        self.image = LocalImage(
            TASK._replace(image=sha256(new), size=len(new)), self.spool,
            writer=MemoryWriter(len(new)), base=MemoryImage(BASE), memory=memory,
        )  # fmt: skip
        self.image.use(NAME, PackIndex(sha256(new), len(new), sha256(BASE), len(BASE), (entry,)))


def test_what_stands_in_the_image_is_not_kept_a_second_time(tmp_path: Path) -> None:
    new, memory = random.Random(5).randbytes(512 * KIB), SpoolMemory(64 * KIB)
    made = Making(tmp_path, new, memory)
    assert made.image.store_frame(NAME, 0, made.stored).kept
    assert not made.spool.exists(), "flash has the image, and nothing else of the patch"
    assert made.image.piece_bytes(NAME, 0) == made.stored
    rotten = bytearray(new)
    rotten[300 * KIB] ^= 1
    made.image.sealed(MemoryImage(bytes(rotten)))
    assert made.image.piece_bytes(NAME, 0) is None
    made.image.sealed(MemoryImage(new))
    assert made.image.piece_bytes(NAME, 0) == made.stored
    made.image.sealed(MemoryImage(new[:-1]))
    assert made.image.piece_bytes(NAME, 0) is None
    made.image.close()
    assert made.image.piece_bytes(NAME, 0) is None
    assert memory.take(64 * KIB), "all of it was given back"


@pytest.mark.parametrize("plenty", [True, False])
def test_while_there_is_plenty_of_memory_no_processor_time_is_spent_on_what_stands_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, plenty: bool
) -> None:
    looked: list[int] = []

    def look(stored: Buffer, target: Buffer) -> bytes | None:
        looked.append(len(stored))
        return residue_of(stored, target)

    monkeypatch.setattr(patches, "residue_of", look)
    memory = SpoolMemory(8 * MIB)
    made = Making(tmp_path, random.Random(5).randbytes(512 * KIB), memory)
    assert memory.take(4 * MIB - len(made.stored) + (0 if plenty else 1))
    assert made.image.store_frame(NAME, 0, made.stored).kept
    assert bool(looked) is not plenty
    assert made.image.piece_bytes(NAME, 0) == made.stored
    assert memory.take(4 * MIB + 100 * KIB) is not plenty, "all of it is kept, or next to nothing"
