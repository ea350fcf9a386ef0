"""The test vectors of `docs/spec/pack.md`: what a second implementation is checked against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2p.content.digests import sha256
from p2p.content.index import Compression, Copy, Data, Patch, Zero, decode, encode
from p2p.delta.bsdiff import Bsdiff
from p2p.delta.compression import decompress
from p2p.delta.rebuild import check_frames, image_parts
from p2p.errors import ContentError

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"pack-{name}.json").read_text())
    return loaded


def test_the_delta_pack_makes_its_image() -> None:
    vector = load("delta")
    base, frames = bytes.fromhex(vector["base"]), bytes.fromhex(vector["frames"])
    index = decode(bytes.fromhex(vector["index"]))
    assert encode(index).hex() == vector["index"]
    assert {type(e) for e in index.entries} == {Zero, Copy, Patch, Data}
    assert {f.entry.compression for f in index.frames} == set(Compression)
    parts = image_parts(index, lambda o, n: frames[o : o + n], lambda o, n: base[o : o + n])
    image = b"".join(bytes(p) for p in parts)
    assert image.hex() == vector["image"]
    assert sha256(image).hex() == vector["image_sha256"]
    patches = [f for f in index.frames if isinstance(f.entry, Patch)]
    for frame, delta in zip(patches, vector["deltas"], strict=True):
        stored = frames[frame.stored_offset : frame.stored_offset + frame.stored_size]
        assert isinstance(frame.entry, Patch)
        assert decompress(frame.entry.compression, stored, frame.entry.delta_size).hex() == delta


def test_the_full_pack_makes_its_image() -> None:
    vector = load("full")
    frames = bytes.fromhex(vector["frames"])
    index = decode(bytes.fromhex(vector["index"]))
    check_frames(index, lambda o, n: frames[o : o + n])
    image = b"".join(bytes(p) for p in image_parts(index, lambda o, n: frames[o : o + n], lambda _o, _n: b""))
    assert (sha256(image).hex(), len(image)) == (vector["image_sha256"], vector["image_size"])


@pytest.mark.parametrize("name", sorted(load("refused")["refused"]))
def test_refused_indexes(name: str) -> None:
    with pytest.raises(ContentError):
        decode(bytes.fromhex(load("refused")["refused"][name]))


def test_accepted_bsdiff_deltas() -> None:
    vector = load("bsdiff")
    view = bytes.fromhex(vector["view"])
    assert vector["accepted"]
    for case in vector["accepted"]:
        target = bytes.fromhex(case["target"])
        assert Bsdiff().apply(view, bytes.fromhex(case["delta"]), len(target)) == target


@pytest.mark.parametrize("name", sorted(load("bsdiff")["refused"]))
def test_refused_bsdiff_deltas(name: str) -> None:
    vector = load("bsdiff")
    case = vector["refused"][name]
    with pytest.raises(ContentError):
        Bsdiff().apply(bytes.fromhex(vector["view"]), bytes.fromhex(case["delta"]), case["target_size"])
