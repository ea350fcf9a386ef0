"""Hostile bytes in place of TUF metadata raise `TrustError` with the documented reason, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Targets, Timestamp

from p2p.errors import TrustError
from p2p.trust.documents import Verified, encode_name, read, read_root
from tests.support.tuf_repository import DAY, NOW, Repository, at, edit

REPOSITORY = Repository()
ROOT = read_root(REPOSITORY.initial_root, None)
GOOD = REPOSITORY.files["metadata/timestamp.json"]


def reason(data: bytes) -> str:
    with pytest.raises(TrustError) as caught:
        read(Timestamp, data, ROOT, "timestamp")
    return caught.value.reason


def test_what_is_signed_is_read() -> None:
    document = read(Timestamp, GOOD, ROOT, "timestamp")
    assert (document.version, document.expires) == (1, NOW + DAY)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "malformed"),
        (b"null", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "malformed"),
        (b'{"signed": 1}', "malformed"),
        (b'{"signed": {}}', "type"),
        (b'{"signed": {"_type": ["timestamp"]}}', "type"),
        (b'{"signed": {"_type": "timestamp"}}', "spec-version"),
        (b'{"signed": {"_type": "timestamp", "spec_version": "1.0.0"}}', "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 200_000, "malformed"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "malformed"),
        (b'{"signed": ' + b"9" * 200_000 + b"}", "malformed"),
        (b'{"signed": {}, "signed": {}}', "malformed"),
        (b'{"signed": 1e400}', "malformed"),
        (b'{"signed": NaN}', "malformed"),
        (b'{"signed": "' + b"\\ud800" * 1000 + b'"}', "malformed"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_not_metadata(data: bytes, expected: str) -> None:
    started = time.monotonic()
    assert reason(data) == expected
    assert time.monotonic() - started < 5


def _put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize("value", [None, True, -1, 0, "1", [], {}, 2**53, 10**300, 1.0])
@pytest.mark.parametrize("path", [("signed", "version"), ("signed", "meta", "snapshot.json", "version")])
def test_numbers_that_are_not_versions(path: tuple[str, ...], value: object) -> None:
    assert reason(edit(GOOD, _put(*path, value=value))) == "malformed"


def _resigned(**fields: object) -> bytes:
    """The timestamp with `fields` put in and signed by the right key, as its thief would."""
    document = json.loads(GOOD)
    document["signed"].update(fields)
    metadata: Metadata[Timestamp] = Metadata.from_dict(document)
    metadata.sign(REPOSITORY.signers["timestamp"][0])
    return metadata.to_bytes()


def test_signed_by_the_right_key_it_must_still_be_well_made() -> None:
    assert read(Timestamp, _resigned(extra={"a": [1, "b"]}), ROOT, "timestamp").version == 1
    meta = {"version": True, "length": 1}
    assert reason(_resigned(meta={"snapshot.json": meta})) == "malformed"
    assert reason(_resigned(version=True)) == "malformed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_put("signatures", value=[]), "signature"),
        (_put("signatures", 0, "sig", value=""), "signature"),
        (_put("signatures", 0, "sig", value="zz"), "signature"),
        (_put("signatures", 0, "sig", value=7), "signature"),
        (_put("signatures", 0, "keyid", value="0" * 64), "signature"),
        (_put("signatures", value={}), "signature"),
        (_put("signatures", value="x" * 100), "malformed"),
        (lambda d: d["signatures"].append(d["signatures"][0]), "malformed"),
        (_put("signed", "expires", value="tomorrow"), "malformed"),
        (_put("signed", "expires", value=5), "malformed"),
        (_put("signed", "meta", value=[]), "malformed"),
        (_put("signed", "meta", "snapshot.json", "hashes", value={}), "malformed"),
        (_put("signed", "meta", "snapshot.json", "hashes", value={"sha256": 1}), "malformed"),
        (_put("signed", "spec_version", value="1.x"), "malformed"),
        (_put("signed", "spec_version", value="3.0"), "spec-version"),
        (_put("signed", "extra", value="\ud800"), "malformed"),
    ],
)
def test_badly_made_fields(change: Callable[[dict[str, Any]], None], expected: str) -> None:
    assert reason(edit(GOOD, change)) == expected


def test_every_flipped_bit_is_refused_or_outside_what_is_signed() -> None:
    refused = 0
    for position in range(0, len(GOOD), 3):
        data = bytearray(GOOD)
        data[position] ^= 1
        try:
            document = read(Timestamp, bytes(data), ROOT, "timestamp")
        except TrustError:
            refused += 1
        else:
            assert document.metadata.signed_bytes == Metadata.from_bytes(GOOD).signed_bytes
    assert refused > len(GOOD) // 4


def test_every_truncation_is_refused() -> None:
    for length in range(0, len(GOOD), 7):
        assert reason(GOOD[:length]) == "malformed"


# ------------------------------------------------------------------ keys


def test_one_key_under_two_ids_is_one_signer() -> None:
    for same in (True, False):
        repository = Repository()
        signers = repository.delegate("r", ["x/*"], keys=2, threshold=2)
        if same:
            first, second = signers
            alias = SSlibKey(
                second.public_key.keyid, first.public_key.keytype, first.public_key.scheme,
                first.public_key.keyval,
            )  # fmt: skip
            delegations = repository.signed["targets"].delegations
            delegations.keys[alias.keyid] = alias
            repository.signers["r"] = [first, CryptoSigner(first._private_key, alias)]
        repository.publish("r", "targets")
        targets = read(Targets, repository.files["metadata/2.targets.json"], root_of(repository), "targets")
        data = repository.files["metadata/1.r.json"]
        assert len(json.loads(data)["signatures"]) == 2
        if same:
            with pytest.raises(TrustError) as caught:
                read(Targets, data, targets, "r")
            assert caught.value.reason == "signature"
        else:
            assert read(Targets, data, targets, "r").version == 1


def root_of(repository: Repository) -> Verified[Any]:
    return read_root(repository.initial_root, None)


def test_a_root_needs_its_predecessors_threshold_and_its_own() -> None:
    for old_signs, new_signs in ((0, 0), (1, 2), (2, 1), (2, 2)):
        repository = Repository()
        repository.set_keys("root", 2, threshold=2)
        repository.signed["root"].version = 1
        old = repository.signers["root"]
        metadata = Metadata(repository.signed["root"])
        for signer in old:
            metadata.sign(signer, append=True)
        previous = read_root(metadata.to_bytes(), None)
        new = repository.set_keys("root", 2, threshold=2)
        repository.signed["root"].version = 2
        metadata = Metadata(repository.signed["root"])
        for signer in [*old[:old_signs], *new[:new_signs]]:
            metadata.sign(signer, append=True)
        if (old_signs, new_signs) == (2, 2):
            assert read_root(metadata.to_bytes(), previous).version == 2
        else:
            with pytest.raises(TrustError) as caught:
                read_root(metadata.to_bytes(), previous)
            assert caught.value.reason == "signature"


def test_a_delegation_to_a_key_that_is_not_listed_counts_nothing() -> None:
    repository = Repository()
    signer = repository.delegate("r", ["x/*"])[0]
    repository.publish("r", "targets")
    targets = Metadata.from_bytes(repository.files["metadata/2.targets.json"])
    del targets.signed.delegations.keys[signer.public_key.keyid]
    delegator: Verified[Targets] = Verified("targets", targets, root_of(repository).digest)
    with pytest.raises(TrustError) as caught:
        read(Targets, repository.files["metadata/1.r.json"], delegator, "r")
    assert caught.value.reason == "signature"


@pytest.mark.parametrize(
    ("name", "encoded"),
    [("product-p", "product-p"), ("../a b", "..%2Fa%20b"), ("ü", "%C3%BC"), ("a~b_c.d", "a~b_c.d")],
)
def test_names_are_encoded_as_in_urls(name: str, encoded: str) -> None:
    assert encode_name(name) == encoded


def test_expiry_is_to_the_second() -> None:
    repository = Repository()
    repository.signed["timestamp"].expires = at(NOW + 1)
    repository.publish_role("timestamp")
    data = repository.files["metadata/timestamp.json"]
    assert read(Timestamp, data, root_of(repository), "timestamp").expires == NOW + 1
