"""Sizes that are reckoned are the sizes that the codec makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import messages as m
from p2p.swarm import wire
from sim.world.wire import HttpCosts, message_size, on_tcp, on_tls

_digests = st.binary(min_size=32, max_size=32).map(Digest)
_requests = st.integers(0, (1 << 32) - 1)
_pieces = st.integers(0, (1 << 20) - 1)
_names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=128)
_leases = st.lists(st.tuples(_pieces, _pieces), max_size=20).map(tuple)
_maybe = st.none() | _digests
_claims = st.builds(
    m.Claim, _names, _pieces, _maybe, st.booleans(), _pieces, st.booleans(), _maybe, _leases
)  # fmt: skip
_MESSAGES = st.one_of(
    st.builds(m.Hello, st.integers(0, 1 << 16), _names, st.integers(0, 65535), st.booleans()),
    st.builds(m.News, st.integers(0, 1 << 53), st.integers(0, 1 << 53)),
    st.builds(m.MetadataWant, _requests, _names),
    st.builds(m.ObjectWant, _requests, _digests, st.integers(0, 1 << 22)),
    st.builds(m.Blob, _requests, st.binary(max_size=300)),
    st.builds(m.Refuse, _requests, st.sampled_from(m.Refusal)),
    st.builds(m.Join, _digests, st.none() | _digests, st.booleans(), st.integers(0, 1000), st.booleans()),
    st.builds(m.Leave, _digests),
    st.builds(m.Have, _digests, _digests, st.integers(0, 1 << 20), st.binary(max_size=70_000)),
    st.builds(m.HaveMore, _digests, _digests, st.lists(_pieces, max_size=300).map(tuple)),
    st.builds(m.Want, _requests, _digests, _digests, _pieces),
    st.builds(m.Piece, _requests, st.binary(max_size=300)),
    st.builds(m.Part, _requests, st.integers(0, 8 << 20), st.binary(max_size=300)),
    st.builds(m.Lease, _digests, _digests, st.integers(0, 15), _pieces, _pieces, st.integers(0, 8 * MIB)),
    st.builds(m.Peers, st.lists(st.tuples(_names, _names, st.integers(0, 65535)), max_size=32).map(tuple)),
    st.builds(m.Bye, _names),
    st.builds(m.OriginAsked, st.integers(0, 1 << 53), st.integers(0, 65535)),
    st.builds(m.Report, _requests, st.booleans(), st.integers(0, 8), st.binary(max_size=300)),
    st.builds(m.Reported, _requests, _names, st.binary(max_size=70_000)),
    st.builds(m.Hearsay, _digests, st.lists(_claims, max_size=20).map(tuple)),
)


@given(_MESSAGES)
def test_a_message_weighs_what_its_encoding_does(message: m.Message) -> None:
    assert message_size(message) == sum(len(part) for part in wire.encode(message))


@pytest.mark.parametrize(("size", "frames"), [(0, 0), (1, 1), (1448, 1), (1449, 2), (14480, 10)])
def test_every_segment_has_its_headers(size: int, frames: int) -> None:
    assert on_tcp(size) == size + 66 * frames


def test_a_large_transfer_weighs_1_0456_of_its_payload_and_tls_a_thousandth_more() -> None:
    size = 32 << 20
    assert on_tcp(size) / size == pytest.approx(1.0456, abs=1e-4)
    assert on_tls(size) / on_tcp(size) == pytest.approx(1.0013, abs=1e-4)
    assert HttpCosts(tls=False).down(size) < HttpCosts(tls=True).down(size)
