"""The description of HDIFF13 in `docs/spec/pack.md`, written again as a slow applier and compared."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from p2p.content.index import Patch, decode
from p2p.delta.hdiff import MAGIC, Hdiff

VECTOR = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "pack-delta.json"


class Numbers:
    """Reads HDiffPatch's numbers, with type bits on top of the first byte where there are some."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def next(self, type_bits: int = 0) -> tuple[int, int]:
        byte = self.data[self.at]
        self.at += 1
        kind = byte >> (8 - type_bits)
        more = byte >> (7 - type_bits) & 1
        value = byte & (1 << (7 - type_bits)) - 1
        while more:
            byte = self.data[self.at]
            self.at += 1
            value = value << 7 | byte & 0x7F
            more = byte >> 7
        return kind, value


def difference(control: bytes, code: bytes, size: int) -> bytes:
    """The run-length coded difference; whatever it does not reach is zero."""
    out, numbers, at = bytearray(), Numbers(control), 0
    while numbers.at < len(control):
        kind, value = numbers.next(2)
        length = value + 1
        if kind == 3:
            out += code[at : at + length]
            at += length
        else:
            out += bytes([(0, 255, code[at] if kind == 2 else 0)[kind]]) * length
            at += kind == 2
    assert at == len(code)
    return bytes(out).ljust(size, b"\0")


def apply(view: bytes, delta: bytes) -> bytes:
    """As the specification says, byte by byte."""
    assert delta.startswith(MAGIC)
    head = Numbers(delta)
    head.at = len(MAGIC)
    target_size, view_size, covers, *sizes = (head.next()[1] for _ in range(11))
    assert view_size == len(view)
    assert not any(sizes[1::2])
    streams, at = [], head.at
    for size in sizes[::2]:
        streams.append(delta[at : at + size])
        at += size
    assert at == len(delta)
    add = difference(streams[1], streams[2], target_size)
    out, new, numbers = bytearray(), streams[3], Numbers(streams[0])
    base_at = new_at = 0
    for _ in range(covers):
        sign, distance = numbers.next(1)
        base_at += -distance if sign else distance
        gap, length = numbers.next()[1], numbers.next()[1]
        out += new[new_at : new_at + gap]
        new_at += gap
        for n in range(length):
            out.append((view[base_at + n] + add[len(out)]) & 0xFF)
        base_at += length
    out += new[new_at:]
    assert len(out) == target_size
    return bytes(out)


def edited(seed: int) -> tuple[bytes, bytes]:
    rng = random.Random(seed)
    old = bytearray(rng.randbytes(6_000) + b"words and more words " * 100)
    new = bytearray(old[3_000:] + rng.randbytes(200) + old[:4_000])
    for at in range(0, len(new), 37):
        new[at] = (new[at] + rng.choice((1, 255, 7))) % 256
    return bytes(old), bytes(new)


@pytest.mark.parametrize("seed", range(8))
def test_the_description_is_the_format(seed: int) -> None:
    old, new = edited(seed)
    delta = Hdiff().diff(old, new)
    assert delta is not None
    assert apply(old, delta) == new


def test_it_makes_the_target_of_the_vector() -> None:
    vector = json.loads(VECTOR.read_text())
    base, delta = bytes.fromhex(vector["base"]), bytes.fromhex(vector["deltas"][0])
    frame = decode(bytes.fromhex(vector["index"])).frames[0]
    assert isinstance(frame.entry, Patch)
    view = b"".join(base[r.offset : r.offset + r.length] for r in frame.entry.view)
    image = bytes.fromhex(vector["image"])
    assert apply(view, delta) == image[frame.target_offset :][: frame.target_length]
