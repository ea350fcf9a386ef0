"""`docs/spec/vectors/wire.json` is what this implementation writes, reads and refuses.

To write the file anew after a change of the specification:
`python -m tests.conformance.test_wire_vectors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from p2p.content.digests import Digest, sha256
from p2p.errors import ContentError
from p2p.swarm import messages as m
from p2p.swarm.plan import rank, stripe_key
from p2p.swarm.wire import PREFIX, decode, encode, parse_prefix

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "wire.json"

IMAGE, PACK, BASE = (sha256(word) for word in (b"image", b"pack", b"base"))

MESSAGES: tuple[m.Message, ...] = (
    m.Hello(1, "depot-7", 4780, True),
    m.News(3, 1_700_000_000),
    m.MetadataWant(0, "timestamp.json"),
    m.ObjectWant(1, sha256(b"object"), 6),
    m.Blob(1, b"object"),
    m.Blob(2, b""),
    m.Refuse(2, m.Refusal.DONT_HAVE),
    m.Refuse(3, m.Refusal.BUSY),
    m.Refuse(4, m.Refusal.FAILED),
    m.Join(IMAGE, BASE, True, 100, False),
    m.Join(IMAGE, None, False, 0, True),
    m.Leave(IMAGE),
    m.Have(IMAGE, PACK, 11, b"\x81\x04"),
    m.HaveMore(IMAGE, PACK, (1, 9)),
    m.Want(0xFFFFFFFF, IMAGE, PACK, 300),
    m.WantRest(5, IMAGE, PACK, 300, 65_536),
    m.Piece(0xFFFFFFFF, b"piece"),
    m.Part(0xFFFFFFFF, 300_000, b"part"),
    m.Lease(IMAGE, PACK, 0, 4, 6),
    m.Lease(IMAGE, PACK, 1, 6, 7, 700_000),
    m.Lease(IMAGE, PACK, 0, 0, 0),
    m.Peers((("d1", "192.0.2.1", 4780), ("d2", "2001:db8::2", 4781))),
    m.Bye("shutdown"),
    m.OriginAsked(1_700_000_000, 1800),
    m.Report(7, True, 2, b'AAAA {"device":"d1"}\n'),
    m.Reported(7, "ok"),
    m.Reported(8, "ok", b"-----BEGIN CERTIFICATE-----"),
    m.Uplink(4_000_000, 202611, (("d1", 612_340), ("d2", 0))),
    m.Uplink(None, 0, ()),
    m.Hearsay(IMAGE, ()),
    m.Hearsay(
        IMAGE,
        (
            m.Claim("d1", 0, BASE, True, 100, False, PACK, ((4, 6), (9, 10))),
            m.Claim("d2", 17, None, True, 0, True, None, ()),
        ),
    ),
)


def _pack(*fields: object) -> str:
    data: bytes = msgpack.packb(list(fields), use_bin_type=True)
    return data.hex()


CLAIM = ("d1", 0, None, True, 0, False, None, [])

REFUSED: tuple[dict[str, str], ...] = (
    {"prefix": PREFIX.pack(0, 0).hex(), "why": "no header"},
    {"prefix": PREFIX.pack(131_329, 0).hex(), "why": "header too long"},
    {"prefix": PREFIX.pack(1, 8_388_609).hex(), "why": "payload too long"},
    {"header": "90", "payload": "", "why": "no code"},
    {"header": _pack(1, 0, 0) + "00", "payload": "", "why": "bytes after the array"},
    {"header": _pack(1, 0), "payload": "", "why": "a field is missing"},
    {"header": _pack(1, 0, 0, 0), "payload": "", "why": "a field too many"},
    {"header": _pack(1, 0, True), "payload": "", "why": "a boolean is not a number"},
    {"header": _pack(1, 0, 0.0), "payload": "", "why": "a float is not a number"},
    {"header": _pack(1, 0, 0), "payload": "00", "why": "an announcement with a payload"},
    {"header": _pack(16), "payload": "", "why": "unknown code"},
    {"header": _pack(12, IMAGE, PACK, 0, 4, 6, 8_388_609), "payload": "", "why": "more came than is leased"},
    {"header": _pack(26, 7, "ok", bytes(16_385)), "payload": "", "why": "a certificate that is too long"},
    {"header": _pack(30, 1), "payload": "00", "why": "a part of nobody knows how much"},
    {"header": _pack(30, 1, 8_388_609), "payload": "00", "why": "a part of too much"},
    {"header": _pack(40, 1, IMAGE, PACK, 0, 0), "payload": "", "why": "the rest after nothing"},
    {"header": _pack(25, -1, True, 0, b""), "payload": "", "why": "a report without a number"},
    {"header": _pack(25, 1, True, 9, b""), "payload": "", "why": "a report that went round for too long"},
    {"header": _pack(25, 1, True, 0, b"x" * 16_385), "payload": "", "why": "too long a report"},
    {"header": _pack(26, 1, "not a name"), "payload": "", "why": "a result that is no word"},
    {"header": _pack(15, IMAGE, [CLAIM] * 9), "payload": "", "why": "too many claims"},
    {"header": _pack(15, IMAGE, [[*CLAIM[:7], [[0, 1]]]]), "payload": "", "why": "leases of no pack"},
    {"header": _pack(15, IMAGE, [[*CLAIM[:7], 0]]), "payload": "", "why": "leases that are no array"},
    {"header": _pack(0, 1, "..", 1, True), "payload": "", "why": "not a name"},
    {"header": _pack(7, IMAGE[:31]), "payload": "", "why": "a short digest"},
    {"header": _pack(8, IMAGE, PACK, 11, b"\x81\x0c"), "payload": "", "why": "a bit past the last piece"},
    {"header": _pack(8, IMAGE, PACK, 17, b"\x81\x04"), "payload": "", "why": "a short bitmap"},
    {"header": _pack(13, [["d1", "gateway.example", 1]]), "payload": "", "why": "a host name"},
)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def document() -> dict[str, Any]:
    """The vectors that this implementation makes."""
    weights = {"d1": 100, "d2": 100, "d3": 50, "d4": 1000}
    return {
        "protocol": 1,
        "messages": [
            {
                "type": type(message).__name__,
                "fields": {name: _plain(value) for name, value in message._asdict().items()},
                "wire": b"".join(bytes(part) for part in encode(message)).hex(),
            }
            for message in MESSAGES
        ],
        "refused": list(REFUSED),
        "rendezvous": [
            {"key": key.hex(), "weights": weights, "order": rank(key, weights)}
            for key in (IMAGE, stripe_key(IMAGE, 0), stripe_key(IMAGE, 1))
        ],
    }


RECORDED: dict[str, Any] = json.loads(VECTORS.read_text()) if VECTORS.exists() else document()


def test_the_file_is_what_this_implementation_makes() -> None:
    assert document() == json.loads(VECTORS.read_text())


def test_every_code_has_a_vector() -> None:
    assert {v["type"] for v in RECORDED["messages"]} == {kind.__name__ for kind in m.Message.__args__}


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_recorded_message_is_read(number: int) -> None:
    data = bytes.fromhex(RECORDED["messages"][number]["wire"])
    header_length, payload_length = parse_prefix(data[:8])
    assert len(data) == 8 + header_length + payload_length
    found = decode(data[8 : 8 + header_length], data[8 + header_length :])
    assert (type(found), found) == (type(MESSAGES[number]), MESSAGES[number])


@pytest.mark.parametrize("vector", RECORDED["refused"], ids=[v["why"] for v in RECORDED["refused"]])
def test_a_recorded_refusal_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ContentError):
        if "prefix" in vector:
            parse_prefix(bytes.fromhex(vector["prefix"]))
        else:
            decode(bytes.fromhex(vector["header"]), bytes.fromhex(vector["payload"]))


@pytest.mark.parametrize("vector", RECORDED["rendezvous"])
def test_the_recorded_order_is_the_order(vector: dict[str, Any]) -> None:
    assert rank(Digest(bytes.fromhex(vector["key"])), vector["weights"]) == vector["order"]


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(document(), indent=1) + "\n")
