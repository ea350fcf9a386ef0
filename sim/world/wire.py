"""What things weigh on a wire: messages between peers, answers of the origin, packets around both.

Sizes are bytes of Ethernet frames as an interface counts them, so that simulated bytes can be held
against `benchmarks.site`. They are reckoned, not encoded: `tests/simulation/world/test_wire.py`
holds `message_size` against `p2p.swarm.wire.encode`, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from math import ceil
from typing import Any

from p2p.swarm import messages as m

SEGMENT = 1448
"""TCP payload of a full packet: Ethernet's 1500 less IPv4 (20) and TCP with time stamps (32)."""

PACKET = 66
"""Ethernet (14), IPv4 (20) and TCP with time stamps (32) around each segment."""

RECORD = 16384
"""Plain bytes of a full TLS record (RFC 8446, section 5.1)."""

RECORD_OVERHEAD = 22
"""TLS 1.3: header (5), content type (1), tag of AES-GCM or ChaCha20-Poly1305 (16)."""

ACK_EVERY = 1.6
"""Full segments for one acknowledgement. RFC 5681, section 4.2 has two; what a thin link drops and delivers
late is acknowledged at once. Measured with `benchmarks.sim_vs_real`: 1.4 at 4 Mbit/s to 2.1 at 16 Mbit/s."""

PREFIX = 8
_PREFIXES = 8 + 1 + 1
_DIGEST = 34


_INT = bytes([1]) * 128 + bytes([2]) * 128 + bytes([3]) * (65536 - 256)
"""What a number weighs, by its value."""


def _int(value: int) -> int:
    if value < 65536:
        return _INT[value]
    return 5 if value < 1 << 32 else 9


@lru_cache(8192)
def _str(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode())
    return size + (1 if size < 32 else 2 if size < 256 else 3)


def _bin(size: int) -> int:
    return size + (2 if size < 256 else 3 if size < 65536 else 5)


def _array(count: int) -> int:
    return 1 if count < 16 else 3 if count < 65536 else 5


def _ints(values: Collection[int]) -> int:
    try:
        return sum(map(_INT.__getitem__, values))
    except IndexError:
        return sum(map(_int, values))


def _have_more(message: m.HaveMore) -> int:
    if len(message.pieces) == 1:
        return _PREFIXES + 2 * _DIGEST + 1 + _int(message.pieces[0])
    return _PREFIXES + 2 * _DIGEST + _array(len(message.pieces)) + _ints(message.pieces)


def _want(message: m.Want) -> int:
    return _PREFIXES + _int(message.request) + 2 * _DIGEST + _int(message.piece)


def _payload(message: m.Piece | m.Blob) -> int:
    return _PREFIXES + _int(message.request) + len(message.payload)


def _lease(message: m.Lease) -> int:
    numbers = message.slot, message.start, message.stop, message.came
    return _PREFIXES + 2 * _DIGEST + sum(map(_int, numbers))


def _have(message: m.Have) -> int:
    return _PREFIXES + 2 * _DIGEST + _int(message.total) + _bin(len(message.bitmap))


def _join(message: m.Join) -> int:
    return _PREFIXES + _DIGEST + (1 if message.base is None else _DIGEST) + 2 + _int(message.weight)


def _hello(message: m.Hello) -> int:
    return _PREFIXES + _int(message.protocol) + _str(message.site) + _int(message.port) + 1


def _peers(message: m.Peers) -> int:
    return _PREFIXES + _array(len(message.peers)) + sum(map(_address, message.peers))


@lru_cache(8192)
def _address(peer: tuple[str, str, int]) -> int:
    device, host, port = peer
    return 1 + _str(device) + _str(host) + _int(port)


def _hearsay(message: m.Hearsay) -> int:
    return _PREFIXES + _DIGEST + _array(len(message.claims)) + sum(map(_claim, message.claims))


def _claim(claim: m.Claim) -> int:
    device, age, base, _, weight, _, pack, spans = claim
    leases = _array(len(spans))
    for span in spans:
        leases += 1 + _ints(span)
    digests = (1 if base is None else _DIGEST) + (1 if pack is None else _DIGEST)
    return 1 + _str(device) + _int(age) + _int(weight) + 2 + digests + leases


def _uplink(message: m.Uplink) -> int:
    used = sum(1 + _str(device) + _int(size) for device, size in message.used)
    price = 1 if message.price is None else _int(message.price)
    return _PREFIXES + price + _int(message.month) + _array(len(message.used)) + used


SIZES: dict[type, Callable[[Any], int]] = {
    m.HaveMore: _have_more,
    m.Want: _want,
    m.WantRest: lambda x: _want(x) + _int(x.start),
    m.Piece: _payload,
    m.Part: lambda x: _PREFIXES + _int(x.request) + _int(x.total) + len(x.payload),
    m.Blob: _payload,
    m.Lease: _lease,
    m.Have: _have,
    m.Join: _join,
    m.Hello: _hello,
    m.News: lambda x: _PREFIXES + _int(x.root_version) + _int(x.timestamp_version),
    m.ObjectWant: lambda x: _PREFIXES + _int(x.request) + _DIGEST + _int(x.size),
    m.MetadataWant: lambda x: _PREFIXES + _int(x.request) + _str(x.name),
    m.Refuse: lambda x: _PREFIXES + _int(x.request) + _str(x.reason.value),
    m.Leave: lambda x: _PREFIXES + _DIGEST,
    m.Peers: _peers,
    m.Bye: lambda x: _PREFIXES + _str(x.reason),
    m.Hearsay: _hearsay,
    m.OriginAsked: lambda x: _PREFIXES + _int(x.timestamp_version) + _int(x.age),
    m.Report: lambda x: _PREFIXES + _int(x.number) + 2 + _bin(len(x.report)),
    m.Reported: lambda x: _PREFIXES + _int(x.number) + _str(x.result) + _bin(len(x.certificate)),
    m.Uplink: _uplink,
}


def message_size(message: m.Message) -> int:
    """Bytes of an encoded message, without what is around it."""
    return SIZES[type(message)](message)


def on_tcp(size: int) -> int:
    """Bytes of packets that carry `size` bytes of a TCP stream."""
    return size + PACKET * -(-size // SEGMENT)


def on_tls(size: int) -> int:
    """Bytes of packets that carry `size` plain bytes in TLS records sent as soon as they are there."""
    return on_tcp(size + RECORD_OVERHEAD * -(-size // RECORD))


def acks(size: int) -> int:
    """Bytes of the acknowledgements that `size` bytes on the wire bring about."""
    return PACKET * ceil(size / ((SEGMENT + PACKET) * ACK_EVERY))


class HttpCosts:
    """What HTTP and TLS add to a request to origin or coordinator.

    Requests and answers are as seen on the wire of `benchmarks.sim_vs_real`, which is plain HTTP. Handshakes
    are as OpenSSL 3.0 makes them (TLS 1.3, X25519, ECDSA P-256), with two certificates of together 2,190
    bytes, as public CAs issue them; a private chain of 840 bytes makes a full one 1,350 smaller.
    `tls`: HTTPS (as in the field) or plain HTTP (as in `benchmarks.site`).
    """

    __slots__ = ("tls",)

    HANDSHAKE_DOWN = 2845
    """Hello, certificates, verify, finished, and a ticket of 80 bytes; packets included."""
    HANDSHAKE_UP = 900
    RESUMED_DOWN = 452
    """Hello, finished and the next ticket."""
    RESUMED_UP = 860
    CONNECT = 3 * PACKET
    """SYN or SYN-ACK, and the packets of an orderly end, in each direction."""
    REQUEST = 165
    """A GET of an object: path with the digest, host, user agent, encoding. As seen on the wire of
    `benchmarks.sim_vs_real`; a range is 24 bytes more, a metadata file 50 less."""
    ANSWER = 140
    """The head of a 200 of the coordinator, seen there too (137 bytes; a 206 has 221)."""

    def __init__(self, *, tls: bool = True) -> None:
        self.tls = tls

    def connect(self, *, resumed: bool = False) -> tuple[int, int, int]:
        """(bytes down, bytes up, round trips) of a new connection; `resumed`: with an earlier TLS session."""
        if not self.tls:
            return self.CONNECT, self.CONNECT, 1
        down, up = (
            (self.RESUMED_DOWN, self.RESUMED_UP) if resumed else (self.HANDSHAKE_DOWN, self.HANDSHAKE_UP)
        )
        return self.CONNECT + down, self.CONNECT + up, 2

    def down(self, size: int) -> int:
        """An answer with a body of `size` bytes."""
        total = size + self.ANSWER
        return on_tls(total) if self.tls else on_tcp(total)

    def up(self, size: int = 0, *, answer: int = 0) -> int:
        """A request with a body of `size` bytes, and the acknowledgements of an answer of `answer` bytes."""
        total = size + self.REQUEST
        return (on_tls(total) if self.tls else on_tcp(total)) + acks(answer)
