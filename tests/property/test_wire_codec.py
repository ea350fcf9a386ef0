"""The wire codec: every message survives, and hostile bytes raise the documented error and nothing else."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.errors import ContentError, LimitExceeded
from p2p.swarm import messages as m
from p2p.swarm.wire import PREFIX, decode, encode, pack_bitmap, parse_prefix, unpack_bitmap

digests = st.binary(min_size=32, max_size=32).map(Digest)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,20}", fullmatch=True)
requests = st.integers(0, (1 << 32) - 1)
pieces = st.integers(0, limits.PIECES_PER_PACK_MAX - 1)
frames = st.integers(0, limits.INDEX_ENTRIES_MAX)
versions = st.integers(0, 1 << 53)
ports = st.integers(0, 65535)
payloads = st.binary(max_size=300)
hosts = st.ip_addresses().map(str)


@st.composite
def haves(draw: st.DrawFn) -> m.Have:
    total = draw(st.integers(0, 200))
    served = draw(st.sets(st.integers(0, total - 1))) if total else set()
    return m.Have(draw(digests), draw(digests), total, pack_bitmap(served, total))


@st.composite
def claims(draw: st.DrawFn) -> m.Claim:
    pack = draw(st.none() | digests)
    leases = st.lists(st.tuples(frames, frames), max_size=limits.CLAIM_LEASES_MAX if pack else 0)
    age, weight = draw(st.integers(0, limits.CLAIM_AGE_MAX)), draw(st.integers(0, 1000))
    wan, complete, base = draw(st.booleans()), draw(st.booleans()), draw(st.none() | digests)
    return m.Claim(draw(names), age, base, wan, weight, complete, pack, tuple(draw(leases)))


messages = st.one_of(
    st.builds(m.Hello, st.integers(0, 1 << 16), names, ports, st.booleans()),
    st.builds(m.News, versions, versions),
    st.builds(m.MetadataWant, requests, names),
    st.builds(m.ObjectWant, requests, digests, st.integers(0, limits.OBJECT_SIZE_MAX)),
    st.builds(m.Blob, requests, payloads),
    st.builds(m.Refuse, requests, st.sampled_from(m.Refusal)),
    st.builds(m.Join, digests, st.none() | digests, st.booleans(), st.integers(0, 1000), st.booleans()),
    st.builds(m.Leave, digests),
    haves(),
    st.builds(m.HaveMore, digests, digests, st.lists(pieces, max_size=40).map(tuple)),
    st.builds(m.Want, requests, digests, digests, pieces),
    st.builds(m.WantRest, requests, digests, digests, pieces, st.integers(1, limits.MESSAGE_PAYLOAD_MAX)),
    st.builds(m.Piece, requests, payloads),
    st.builds(m.Part, requests, st.integers(0, limits.MESSAGE_PAYLOAD_MAX), st.binary(max_size=300)),
    st.builds(
        m.Lease, digests, digests, st.integers(0, 15), frames, frames, st.integers(0, limits.LEASE_BYTES_MAX)
    ),
    st.builds(
        m.Peers, st.lists(st.tuples(names, hosts, ports), max_size=limits.PEER_EXCHANGE_MAX).map(tuple)
    ),
    st.builds(m.Bye, names),
    st.builds(m.OriginAsked, st.integers(0, 1 << 53), st.integers(0, limits.ASKED_AGE_MAX)),
    st.builds(
        m.Report, requests, st.booleans(), st.integers(0, 8), st.binary(max_size=limits.REPORT_SIZE_MAX)
    ),
    st.builds(m.Reported, requests, names, st.binary(max_size=limits.CERTIFICATE_SIZE_MAX)),
    st.builds(
        m.Uplink,
        st.none() | st.integers(0, limits.PRICE_MAX),
        st.integers(0, limits.MONTH_MAX),
        st.lists(st.tuples(names, st.integers(0, 1 << 60)), max_size=limits.UPLINKS_TOLD_MAX).map(tuple),
    ),
    st.builds(m.Hearsay, digests, st.lists(claims(), max_size=limits.CLAIMS_MAX).map(tuple)),
)


def wire(message: m.Message) -> bytes:
    return b"".join(bytes(part) for part in encode(message))


def split(data: bytes) -> tuple[bytes, bytes]:
    header_length, payload_length = parse_prefix(data[:8])
    assert len(data) == 8 + header_length + payload_length
    return data[8 : 8 + header_length], data[8 + header_length :]


def read(data: bytes) -> m.Message | None:
    """The message, or None when it was refused as documented; anything else fails the test."""
    try:
        header_length, payload_length = parse_prefix(data[:8])
        if len(data) != 8 + header_length + payload_length:
            return None
        return decode(*split(data))
    except ContentError:
        return None


@given(messages)
def test_every_message_survives(message: m.Message) -> None:
    found = decode(*split(wire(message)))
    assert (type(found), found) == (type(message), message)


def test_every_code_has_a_message_in_the_strategy() -> None:
    assert len(m.Code) == len(messages.element_strategies) == len(m.Message.__args__)


@given(messages, st.data())
def test_a_truncated_header_is_refused(message: m.Message, data: st.DataObject) -> None:
    header, payload = split(wire(message))
    short = header[: data.draw(st.integers(0, len(header) - 1))]
    with pytest.raises(ContentError):
        decode(short, payload)


@given(messages, st.data())
def test_a_flipped_bit_is_refused_or_another_sound_message(message: m.Message, data: st.DataObject) -> None:
    sound = bytearray(wire(message))
    bit = data.draw(st.integers(0, 8 * len(sound) - 1))
    sound[bit >> 3] ^= 1 << (bit & 7)
    found = read(bytes(sound))
    # msgpack has several encodings of one number, so what is accepted need not be re-encoded to the
    # same bytes; it has to be within all limits, which encoding and decoding it again shows.
    assert found is None or decode(*split(wire(found))) == found


@given(st.binary(max_size=400), payloads)
@settings(max_examples=300)
def test_random_headers_raise_only_content_errors(header: bytes, payload: bytes) -> None:
    with contextlib.suppress(ContentError):
        decode(header, payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | digests
    | st.binary(max_size=40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@given(st.integers(-1, 16), st.lists(values, max_size=6), payloads)
@settings(max_examples=400)
def test_well_formed_headers_of_any_shape_raise_only_content_errors(
    code: int, fields: list[object], payload: bytes
) -> None:
    header = msgpack.packb([code, *fields], use_bin_type=True)
    try:
        found = decode(header, payload)
    except ContentError:
        return
    assert decode(*split(wire(found))) == found


@given(st.sets(st.integers(0, 3000)), st.integers(0, 7))
def test_bitmaps_survive(served: set[int], slack: int) -> None:
    total = max(served, default=0) + 1 + slack
    assert unpack_bitmap(pack_bitmap(served, total), total) == served


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_a_prefix_is_within_its_limits_or_refused(header: int, payload: int) -> None:
    inside = 0 < header <= limits.PIECES_PER_PACK_MAX // 8 + 256 and payload <= limits.MESSAGE_PAYLOAD_MAX
    if inside:
        assert parse_prefix(PREFIX.pack(header, payload)) == (header, payload)
    else:
        with pytest.raises(LimitExceeded, match=r"message: (header|payload) of \d+ bytes"):
            parse_prefix(PREFIX.pack(header, payload))
