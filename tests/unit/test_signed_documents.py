"""Manifest, order and phase state against the specification's vectors, and what they decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.api.errors import ApiError
from coordinator.api.limits import NonceMemory, RateLimit
from coordinator.api.signatures import SignedRequest, authenticate
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.fields import dump_object, load_object
from p2p.content.manifest import Manifest, decode_manifest, encode_manifest
from p2p.content.order import (
    Audience,
    Member,
    Order,
    Phase,
    PhaseState,
    PhaseStatus,
    decode_order,
    decode_phase_state,
    encode_order,
    encode_phase_state,
    is_open_for,
    site_place,
)
from p2p.errors import ContentError, LimitExceeded

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors"
DOCUMENTS = json.loads((VECTORS / "manifest-documents.json").read_text())


def decode(kind: str, data: bytes) -> Manifest | Order | PhaseState:
    decoders = {"manifest": decode_manifest, "order": decode_order, "phases": decode_phase_state}
    return decoders[kind](data)


def encode(document: Manifest | Order | PhaseState) -> bytes:
    match document:
        case Manifest():
            return encode_manifest(document)
        case Order():
            return encode_order(document)
        case PhaseState():
            return encode_phase_state(document)


@pytest.mark.parametrize("vector", DOCUMENTS["accepted"], ids=lambda v: v["target_path"])
def test_vectors_are_accepted_and_encode_to_themselves(vector: dict[str, str]) -> None:
    data = vector["text"].encode()
    document = decode(vector["kind"], data)
    assert document.target_path == vector["target_path"]
    assert encode(document) == data
    assert sha256(data).hex() == vector["sha256"]
    spaced = json.dumps(json.loads(data), indent=3).encode()
    assert decode(vector["kind"], spaced) == document  # another writer's form means the same


@pytest.mark.parametrize("vector", DOCUMENTS["refused"], ids=lambda v: f"{v['kind']}:{v['refused'][:50]}")
def test_vectors_are_refused_naming_the_key(vector: dict[str, str]) -> None:
    with pytest.raises(ContentError) as refused:
        decode(vector["kind"], vector["text"].encode())
    assert vector["refused"] in refused.value.message


@pytest.mark.parametrize("vector", DOCUMENTS["accepted"], ids=lambda v: v["target_path"])
def test_every_key_but_the_optional_ones_is_needed(vector: dict[str, str]) -> None:
    optional = {
        "depends", "provides", "security", "sbom", "provenance", "allow_downgrade", "allow_stale",
    }  # fmt: skip
    document = json.loads(vector["text"])
    for key in document:
        left = json.dumps({k: v for k, v in document.items() if k != key}).encode()
        if key in optional:
            decode(vector["kind"], left)
        else:
            with pytest.raises(ContentError, match=key):
                decode(vector["kind"], left)


def test_a_document_has_a_size_limit() -> None:
    data = DOCUMENTS["accepted"][1]["text"].encode()
    padded = data + b" " * (limits.MANIFEST_SIZE_MAX - len(data))
    decode_manifest(padded)
    with pytest.raises(LimitExceeded):
        decode_manifest(padded + b" ")


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"null", b'{"a":NaN', b"{}", b'{"_type":' + b"9" * 10_000 + b"}"]
)
def test_garbage_is_a_content_error(data: bytes) -> None:
    for kind in ("manifest", "order", "phases"):
        with pytest.raises(ContentError):
            decode(kind, data)


def test_every_flipped_byte_is_refused_or_means_something_else() -> None:
    data = DOCUMENTS["accepted"][2]["text"].encode()
    order = decode_order(data)
    for n in range(len(data)):
        flipped = data[:n] + bytes([data[n] ^ 0x15]) + data[n + 1 :]
        try:
            assert decode_order(flipped) != order
        except ContentError:
            continue


def test_fields_are_read_once_and_closed() -> None:
    fields = load_object(dump_object({"a": 1, "b": {"c": "x"}, "d": None}), "thing", 100)
    assert "a" in fields
    assert "d" not in fields
    assert fields.integer("a", 0, 1) == 1
    with pytest.raises(ContentError, match=r"thing\.b: unknown key"):
        fields.finish()
    assert fields.raw_object("b") == {"c": "x"}
    fields.finish()


# Who may install now

ALL = Audience(all=True)
ORDER = Order(
    "1-1.0", "engine", "1.0", 1, sha256(b"m"), 1, ALL,
    (Phase("canary", Audience(groups=("test",))), Phase("half", ALL, 50), Phase("all", ALL)),
)  # fmt: skip
EARLY = next(f"s{n}" for n in range(99) if site_place("1-1.0", f"s{n}") < 50)
LATE = next(f"s{n}" for n in range(99) if site_place("1-1.0", f"s{n}") >= 50)


def opened(count: int, **changed: Any) -> PhaseState:
    return replace(PhaseState("1-1.0", "engine", count), **changed)


@pytest.mark.parametrize(
    ("state", "member", "expected"),
    [
        (None, Member("d", EARLY, frozenset({"test"})), False),
        (opened(0), Member("d", EARLY, frozenset({"test"})), False),
        (opened(1), Member("d", LATE, frozenset({"test"})), True),
        (opened(1), Member("d", EARLY), False),
        (opened(2), Member("d", EARLY), True),
        (opened(2), Member("d", LATE), False),
        (opened(3), Member("d", LATE), True),
        (opened(64), Member("d", LATE), True),
        (opened(3, status=PhaseStatus.PAUSED), Member("d", LATE), False),
        (opened(3, status=PhaseStatus.ABORTED), Member("d", LATE), False),
        (opened(3, order="2-1.0"), Member("d", LATE), False),
    ],
)
def test_who_may_install(state: PhaseState | None, member: Member, expected: bool) -> None:
    assert is_open_for(ORDER, state, member) is expected


def test_a_phase_never_reaches_beyond_the_order() -> None:
    order = replace(ORDER, audience=Audience(sites=(EARLY,)))
    assert is_open_for(order, opened(3), Member("d", EARLY))
    assert not is_open_for(order, opened(3), Member("d", LATE))


@pytest.mark.parametrize(
    ("audience", "expected"),
    [
        (Audience(), False),
        (ALL, True),
        (Audience(devices=("d",)), True),
        (Audience(sites=("s",)), True),
        (Audience(groups=("other", "g")), True),
        (Audience(devices=("s",), sites=("g",), groups=("d",)), False),
    ],
)
def test_audiences(audience: Audience, expected: bool) -> None:
    assert audience.includes(Member("d", "s", frozenset({"g", "h"}))) is expected


def test_site_places_are_the_specified_ones_and_even() -> None:
    for vector in DOCUMENTS["site_places"]:
        assert site_place(vector["order"], vector["site"]) == pytest.approx(vector["place"], abs=1e-12)
    share = sum(site_place("o", f"site-{n}") < 10 for n in range(5_000)) / 5_000
    assert 0.085 < share < 0.115


# The check-in signature vector


def test_the_signature_vector_is_accepted_and_each_part_counts() -> None:
    vector = json.loads((VECTORS / "checkin-signature.json").read_text())

    def check(**changed: Any) -> str:
        parts = vector | changed
        request = SignedRequest(
            parts["method"], parts["path"], list(parts["headers"].items()), parts["body"].encode()
        )
        keys = {vector["device"]: vector["public_key"].encode()}
        return authenticate(request, keys.get, NonceMemory(0, 300), vector["created"] + 1.0)

    assert check() == "truck-7"
    for changed in (
        {"method": "PUT"},
        {"path": "/api/v1/enroll"},
        {"body": vector["body"] + " "},
        {
            "headers": vector["headers"]
            | {"Signature-Input": vector["headers"]["Signature-Input"].replace("0011", "0012")}
        },
    ):
        with pytest.raises(ApiError) as refused:
            check(**changed)
        assert refused.value.error == "signature"


# Caps


def test_a_rate_limit_refills_and_forgets_the_oldest() -> None:
    limit = RateLimit(rate=0.5, burst=2, keys_max=3)
    for _ in range(2):
        limit.take("a", 0.0)
    with pytest.raises(ApiError) as refused:
        limit.take("a", 0.0)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "2")
    limit.check("b", 0.0)
    limit.take("a", 2.0)
    for key in "bcd":
        limit.take(key, 2.0)
    limit.take("a", 2.0)
    limit.take("a", 2.0)  # its bucket was the oldest of more than three and began anew


def test_nonces_are_remembered_for_as_long_as_they_could_be_used() -> None:
    memory = NonceMemory(since=0, window_s=300)
    memory.add("d", "n", created=1300, now=1000)
    for now in (1000.0, 1299.0, 1600.0):
        with pytest.raises(ApiError) as refused:
            memory.add("d", "n", created=1300, now=now)
        assert refused.value.error == "replay"
    memory.add("other", "n", created=1300, now=1000)
    memory.add("d", "n", created=3000, now=3000)  # long past any window: memory stays bounded
