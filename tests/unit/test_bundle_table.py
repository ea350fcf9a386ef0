"""The table of contents of a bundle: what it says, what is refused, and where objects lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content import limits
from p2p.content.bundle import (
    FAT32_PART_SIZE,
    PART_SIZE_MIN,
    SIZE_MAX,
    BundleObject,
    Kind,
    Table,
    decode_table,
    encode_table,
    file_names,
    pack_name,
)
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import ObjectRef
from p2p.content.order import Audience
from p2p.errors import ContentError

VECTORS = json.loads(
    (Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "bundle-table.json").read_text()
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=40)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any table that may be written."""
    seen: dict[tuple[Kind, str], BundleObject] = {}
    number = 0

    def add(kind: Kind, name: str, size: int) -> None:
        nonlocal number
        number += 1
        ref = ObjectRef(sha256(str(number).encode()), size)
        seen.setdefault((kind, name), BundleObject(kind, name, ref))

    first = draw(st.integers(1, 10**6))
    for version in range(first, first + draw(st.integers(0, 4))):
        add(Kind.ROOT, str(version), draw(st.integers(0, SIZE_MAX[Kind.ROOT])))
    add(Kind.TIMESTAMP, "timestamp", draw(st.integers(0, SIZE_MAX[Kind.TIMESTAMP])))
    for kind in (Kind.METADATA, Kind.DOCUMENT, Kind.INDEX, Kind.FRAMES):
        for name in draw(st.lists(TEXTS, max_size=4, unique=True)):
            add(kind, name, draw(st.integers(0, min(SIZE_MAX[kind], 9000 * PART_SIZE_MIN))))
    return Table(
        created=float(draw(st.integers(0, 4 * 10**9))),
        products=tuple(draw(st.lists(NAMES, max_size=3))),
        hardware=tuple(draw(st.lists(NAMES, max_size=3))),
        audience=Audience(draw(st.booleans()), tuple(draw(st.lists(NAMES, max_size=3)))),
        objects=tuple(seen.values()),
        part_size=draw(st.integers(PART_SIZE_MIN, FAT32_PART_SIZE)),
    )


@given(tables())
def test_a_table_means_the_same_after_a_round_trip(table: Table) -> None:
    data = encode_table(table)
    assert decode_table(data) == table
    assert encode_table(decode_table(data)) == data


@given(tables(), st.data())
def test_a_changed_byte_is_refused_or_another_sound_table(table: Table, draw: st.DataObject) -> None:
    data = bytearray(encode_table(table))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] = draw.draw(st.integers(0, 255))
    try:
        changed = decode_table(bytes(data))
    except ContentError:
        return
    for found in changed.objects:
        for name, size in file_names(found.ref, changed.part_size):
            assert "/" not in name
            assert size <= changed.part_size


@given(st.binary(max_size=300))
def test_anything_else_is_a_content_error(data: bytes) -> None:
    with pytest.raises(ContentError):
        decode_table(data)


@given(st.integers(0, 1 << 44), st.integers(1 << 32, 1 << 40))
def test_the_files_of_an_object_add_up_to_it(size: int, part_size: int) -> None:
    names = file_names(ObjectRef(sha256(b""), size), part_size)
    assert sum(length for _, length in names) == size
    assert len({name for name, _ in names}) == len(names)
    assert all(0 <= length <= part_size for _, length in names)


def test_an_object_is_one_file_up_to_the_part_size_and_several_above() -> None:
    digest = sha256(b"x")
    assert file_names(ObjectRef(digest, FAT32_PART_SIZE), FAT32_PART_SIZE) == (
        (digest.hex(), FAT32_PART_SIZE),
    )
    assert file_names(ObjectRef(digest, FAT32_PART_SIZE + 1), FAT32_PART_SIZE) == (
        (f"{digest.hex()}.0000", FAT32_PART_SIZE),
        (f"{digest.hex()}.0001", 1),
    )
    assert file_names(ObjectRef(digest, 0), FAT32_PART_SIZE) == ((digest.hex(), 0),)


@pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda v: v["what"])
def test_vectors_are_accepted_and_encode_to_themselves(vector: dict[str, Any]) -> None:
    data = vector["text"].encode()
    table = decode_table(data)
    assert encode_table(table) == data
    assert {
        found.ref.sha256.hex(): [name for name, _ in file_names(found.ref, table.part_size)]
        for found in table.objects
    } == vector["files"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["refused"][:60])
def test_vectors_are_refused_naming_the_key(vector: dict[str, str]) -> None:
    with pytest.raises(ContentError) as caught:
        decode_table(vector["text"].encode())
    assert vector["refused"] in caught.value.message


def test_a_table_has_a_size_limit() -> None:
    data = VECTORS["accepted"][0]["text"].encode()
    decode_table(data + b" " * (limits.BUNDLE_TABLE_MAX - len(data)))
    with pytest.raises(ContentError, match="over"):
        decode_table(data + b" " * (limits.BUNDLE_TABLE_MAX + 1 - len(data)))


def test_the_number_of_objects_is_bounded() -> None:
    document = json.loads(VECTORS["accepted"][0]["text"])
    timestamp = next(o for o in document["objects"] if o["kind"] == "timestamp")
    for count, accepted in ((limits.BUNDLE_OBJECTS_MAX, True), (limits.BUNDLE_OBJECTS_MAX + 1, False)):
        document["objects"] = [
            timestamp,
            *(
                {"kind": "document", "name": str(n), "sha256": f"{n:064x}", "size": 1}
                for n in range(count - 1)
            ),
        ]
        data = json.dumps(document).encode()
        if accepted:
            assert len(decode_table(data).objects) == count
        else:
            with pytest.raises(ContentError, match="more than"):
                decode_table(data)


def test_names_of_packs_tell_them_apart() -> None:
    base = Digest(bytes(32))
    assert pack_name("p", "1", "rootfs", None) == "p/1/rootfs/full"
    assert pack_name("p", "1", "rootfs", base) == "p/1/rootfs/" + "0" * 64
