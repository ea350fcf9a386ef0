"""Whatever bytes a proposal or a Range header holds: the documented error, or a value that is sound."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.api.files import parse_range
from coordinator.errors import DocumentRefused
from coordinator.publishing.proposal import decode_proposal, encode_proposal, review
from p2p.errors import ContentError
from tests.support.fleet_repository import Fleet


@cache
def sample() -> bytes:
    with TemporaryDirectory() as directory:
        fleet = Fleet.make(Path(directory))
        fleet.release("1.0")
        return encode_proposal(fleet.build("1.1"))


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(p for key, below in items for p in paths(below, (*prefix, key)))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def check(data: bytes) -> None:
    try:
        proposal = decode_proposal(data)
        review(proposal)
        proposal.signers_missing()
    except (ContentError, DocumentRefused):
        return


@settings(max_examples=150)
@given(st.data())
def test_any_value_replaced_by_any_other(data: st.DataObject) -> None:
    document = json.loads(sample())
    places = [p for p in paths(document) if p]
    place = data.draw(st.sampled_from(places))
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(json_values)
    check(json.dumps(document).encode())


@settings(max_examples=150)
@given(st.integers(0, 1 << 20), st.integers(0, 255))
def test_any_byte_replaced_by_any_other(at: int, value: int) -> None:
    data = bytearray(sample())
    data[at % len(data)] = value
    check(bytes(data))


def test_the_sample_itself_is_sound() -> None:
    proposal = decode_proposal(sample())
    assert [m.version for m in review(proposal).manifests] == ["1.1"]
    assert encode_proposal(proposal) == sample()


@settings(max_examples=300)
@given(st.text("bytes=0123456789-, ", max_size=30) | st.text(max_size=10), st.integers(0, 1000))
def test_a_range_is_always_inside_the_file(header: str, size: int) -> None:
    found = parse_range(header, size)
    if found is None:
        return
    assert 0 <= found.start <= found.stop <= size
    assert found.partial or (found.start, found.stop) == (0, size)
    assert not found.partial or found.start < found.stop


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 1000))
def test_a_range_means_what_the_rfc_says(first: int, last: int, size: int) -> None:
    found = parse_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found is not None
        assert not found.partial
    elif first >= size:
        assert found is None
    else:
        assert found is not None
        assert (found.start, found.stop, found.partial) == (first, min(last + 1, size), True)
