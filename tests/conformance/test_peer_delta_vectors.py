"""`docs/spec/vectors/peer-delta.json` is how this implementation names, groups, reads and refuses peer
deltas.

To write the file anew after a change of the specification:
`python -m tests.conformance.test_peer_delta_vectors`.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import hdiffpatch
import pytest

from p2p.content import index as pack_index
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Codec, Compression, Data, PackIndex, ViewRange, Zero
from p2p.content.limits import MIB
from p2p.content.pieces import PieceMap
from p2p.delta.codecs import CODECS
from p2p.delta.compression import decompress
from p2p.delta.peer_delta import PeerDelta, base_parts, decode, digest_of, encode
from p2p.errors import ContentError
from p2p.swarm.delta_making import delta_name

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "peer-delta.json"

_rng = random.Random(16)
BASE = _rng.randbytes(640)
IMAGE = BASE[:200] + _rng.randbytes(40) + BASE[240:600] + bytes(40)
CHUNKS = (256, 128, 216)
"""The rest is a ZERO entry, which no chunk covers."""
COVERED = sum(CHUNKS)


def _index() -> PackIndex:
    ends = [sum(CHUNKS[: n + 1]) for n in range(len(CHUNKS))]
    chunks = tuple(Chunk(c, sha256(IMAGE[end - c : end])) for c, end in zip(CHUNKS, ends, strict=True))
    return PackIndex(
        sha256(IMAGE),
        len(IMAGE),
        None,
        0,
        (Data(COVERED, Compression.NONE, chunks), Zero(len(IMAGE) - COVERED)),
    )


def _spans(lengths: tuple[int, ...]) -> list[list[int]]:
    """Groups of a pack whose chunks have these lengths, in MiB and quarters of it."""
    sizes = [n * MIB // 4 for n in lengths]
    entries = tuple(Data(1, Compression.NONE, (Chunk(size, sha256(b"")),)) for size in sizes)
    index = PackIndex(sha256(b""), sum(sizes), None, 0, entries)
    return [[group.start, group.stop] for group in PieceMap(index).groups]


def _delta() -> PeerDelta:
    """Head and tail that the base has, and a patch of what is between."""
    head, tail, view = 192, 352, (ViewRange(100, 200), ViewRange(500, 100))
    view_bytes = b"".join(BASE[r.offset : r.offset + r.length] for r in view)
    delta = hdiffpatch.diff(view_bytes, IMAGE[head : COVERED - tail], None)
    parts = [BASE[:head], view_bytes, BASE[COVERED - tail : COVERED]]
    return PeerDelta(
        head, tail, view, digest_of(parts), Codec.HDIFFPATCH, Compression.NONE, len(delta), delta
    )


FULL = pack_index.encode(_index())
DELTA = _delta()
WHOLE = PeerDelta(COVERED, 0, (), sha256(BASE[:COVERED]), Codec.HDIFFPATCH, Compression.NONE, 0, b"")
REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"", "nothing"),
    (b"\0\0\0\0", "no head"),
    (encode(DELTA)[:40], "a head that is cut off"),
    (encode(replace(DELTA, head=600)), "head and tail are longer than the group"),
    (encode(replace(DELTA, view=(ViewRange(600, 41),))), "a view outside the base"),
    (encode(replace(DELTA, stored=b"")), "nothing stored"),
    (encode(replace(DELTA, delta_size=0)), "stored bytes of nothing"),
    (encode(replace(WHOLE, view=DELTA.view)), "a view for nothing"),
    (encode(replace(DELTA, delta_size=8 * MIB + 1)), "too large a delta"),
)


def document() -> dict[str, Any]:
    """The vectors that this implementation makes."""
    return {
        "image": IMAGE.hex(),
        "base": BASE.hex(),
        "chunks": list(CHUNKS),
        "index": FULL.hex(),
        "name": delta_name(sha256(FULL), sha256(BASE)).hex(),
        "groups": [
            {"quarters_of_mib": list(lengths), "groups": _spans(lengths)}
            for lengths in ((4, 4, 4, 4), (4, 4, 4, 4, 1), (15, 2, 14, 1), (16, 16), (1,) * 40)
        ],
        "payloads": [
            {"payload": encode(delta).hex(), "start": 0, "length": COVERED} for delta in (DELTA, WHOLE)
        ],
        "refused": [{"payload": payload.hex(), "why": why} for payload, why in REFUSED],
    }


RECORDED: dict[str, Any] = json.loads(VECTORS.read_text()) if VECTORS.exists() else document()


def test_the_file_is_what_this_implementation_makes() -> None:
    assert document() == json.loads(VECTORS.read_text())


def test_the_name_is_of_index_and_base() -> None:
    index, base = bytes.fromhex(RECORDED["index"]), bytes.fromhex(RECORDED["base"])
    assert delta_name(sha256(index), sha256(base)).hex() == RECORDED["name"]
    assert pack_index.decode(index).image == sha256(bytes.fromhex(RECORDED["image"]))


@pytest.mark.parametrize("vector", RECORDED["groups"], ids=lambda v: str(len(v["quarters_of_mib"])))
def test_the_recorded_groups_are_the_groups(vector: dict[str, Any]) -> None:
    assert _spans(tuple(vector["quarters_of_mib"])) == vector["groups"]


@pytest.mark.parametrize("vector", RECORDED["payloads"], ids=["patched", "copied"])
def test_a_recorded_payload_makes_what_the_image_has(vector: dict[str, Any]) -> None:
    base, image = bytes.fromhex(RECORDED["base"]), bytes.fromhex(RECORDED["image"])
    start, length = vector["start"], vector["length"]
    delta = decode(bytes.fromhex(vector["payload"]), start, length, len(base))
    parts = [base[r.offset : r.offset + r.length] for r in base_parts(delta, start, length)]
    assert Digest(digest_of(parts)) == delta.base_digest
    middle = b""
    if delta.stored:
        view = b"".join(base[r.offset : r.offset + r.length] for r in delta.view)
        raw = decompress(delta.compression, delta.stored, delta.delta_size)
        middle = CODECS[delta.codec].apply(view, raw, length - delta.head - delta.tail)
    made = base[start : start + delta.head] + middle + base[start + length - delta.tail : start + length]
    if not delta.tail:
        made = base[start : start + delta.head] + middle
    expected = image[start : start + length] if delta.stored else base[start : start + length]
    assert made == expected


@pytest.mark.parametrize("vector", RECORDED["refused"], ids=[v["why"] for v in RECORDED["refused"]])
def test_a_recorded_refusal_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ContentError):
        decode(bytes.fromhex(vector["payload"]), 0, COVERED, len(BASE))


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(document(), indent=1) + "\n")
