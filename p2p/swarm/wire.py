"""The wire codec: messages to bytes and back, with every size checked first.

A message is an 8-byte prefix (two big-endian unsigned 32-bit numbers: header length, payload
length), a msgpack header `[code, field…]` and, for `Blob`, `Piece` and `Part` only, the raw payload. The
payload is never packed or copied: encoding returns the parts, and a reader receives it straight
into a buffer of its own. No I/O happens here.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Any

import msgpack

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, parse_digest
from p2p.content.fields import check_name
from p2p.errors import ContentError, LimitExceeded
from p2p.swarm import messages as m

PROTOCOL = 1
PREFIX = struct.Struct(">II")
_BITMAP_MAX = limits.PIECES_PER_PACK_MAX // 8
_HEADER_LARGE_MAX = _BITMAP_MAX + 256  # a HAVE carries its bitmap in the header
_REQUEST_MAX = (1 << 32) - 1
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def encode(message: m.Message) -> list[Buffer]:
    """The parts to send, in order: prefix and header joined, then the payload if there is one."""
    payload: Buffer = b""
    match message:
        case m.Hello():
            fields = [m.Code.HELLO, message.protocol, message.site, message.port, message.wan]
        case m.News():
            fields = [m.Code.NEWS, message.root_version, message.timestamp_version]
        case m.MetadataWant():
            fields = [m.Code.METADATA_WANT, message.request, message.name]
        case m.ObjectWant():
            fields = [m.Code.OBJECT_WANT, message.request, message.digest, message.size]
        case m.Blob():
            fields, payload = [m.Code.BLOB, message.request], message.payload
        case m.Refuse():
            fields = [m.Code.REFUSE, message.request, message.reason.value]
        case m.Join():
            fields = [
                m.Code.JOIN, message.image, message.base, message.wan, message.weight, message.complete,
            ]  # fmt: skip
        case m.Leave():
            fields = [m.Code.LEAVE, message.image]
        case m.Have():
            fields = [m.Code.HAVE, message.image, message.pack, message.total, message.bitmap]
        case m.HaveMore():
            fields = [m.Code.HAVE_MORE, message.image, message.pack, list(message.pieces)]
        case m.Want():
            fields = [m.Code.WANT, message.request, message.image, message.pack, message.piece]
        case m.WantRest():
            fields = [
                m.Code.WANT_REST, message.request, message.image, message.pack, message.piece, message.start,
            ]  # fmt: skip
        case m.Piece():
            fields, payload = [m.Code.PIECE, message.request], message.payload
        case m.Part():
            fields, payload = [m.Code.PART, message.request, message.total], message.payload
        case m.Lease():
            fields = [
                m.Code.LEASE, message.image, message.pack, message.slot, message.start, message.stop,
                message.came,
            ]  # fmt: skip
        case m.Peers():
            fields = [m.Code.PEERS, [list(p) for p in message.peers]]
        case m.Bye():
            fields = [m.Code.BYE, message.reason]
        case m.Hearsay():
            claims = [[*c[:-1], [list(lease) for lease in c.leases]] for c in message.claims]
            fields = [m.Code.HEARSAY, message.image, claims]
        case m.OriginAsked():
            fields = [m.Code.ORIGIN_ASKED, message.timestamp_version, message.age]
        case m.Report():
            fields = [m.Code.REPORT, message.number, message.urgent, message.hops, message.report]
        case m.Reported():
            fields = [m.Code.REPORTED, message.number, message.result, message.certificate]
        case m.Uplink():
            fields = [m.Code.UPLINK, message.price, message.month, [list(entry) for entry in message.used]]
    header: bytes = msgpack.packb(fields, use_bin_type=True)
    head = PREFIX.pack(len(header), len(payload)) + header
    return [head, payload] if len(payload) else [head]


def parse_prefix(prefix: Buffer) -> tuple[int, int]:
    """Header and payload length; raises `LimitExceeded` before anything is allocated for them."""
    header_length, payload_length = PREFIX.unpack(prefix)
    if not 0 < header_length <= _HEADER_LARGE_MAX:
        raise LimitExceeded(f"message: header of {header_length} bytes")
    if payload_length > limits.MESSAGE_PAYLOAD_MAX:
        raise LimitExceeded(f"message: payload of {payload_length} bytes")
    return header_length, payload_length


def decode(header: Buffer, payload: Buffer) -> m.Message:
    """One message from its header and payload; raises `ContentError` and nothing else."""
    try:
        body = msgpack.unpackb(
            header,
            raw=False,
            use_list=True,
            max_array_len=limits.PIECES_PER_PACK_MAX,
            max_bin_len=_BITMAP_MAX,
            max_str_len=4096,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ContentError(f"message: not valid msgpack ({error})") from error
    if not isinstance(body, list) or not body or type(body[0]) is not int:
        raise ContentError("message: not a list that begins with a code")
    if len(header) > limits.MESSAGE_HEADER_MAX and body[0] != m.Code.HAVE:
        raise LimitExceeded(f"message: header of {len(header)} bytes")
    if len(payload) and body[0] not in (m.Code.BLOB, m.Code.PIECE, m.Code.PART):
        raise ContentError(f"message {body[0]}: carries a payload")
    return _decode_body(body, payload)


def _decode_body(body: list[Any], payload: Buffer) -> m.Message:
    match body:
        case [m.Code.HELLO, protocol, str(site), port, bool(wan)]:
            return m.Hello(_int(protocol, 0, 1 << 16), check_name(site, "hello.site"), _port(port), wan)
        case [m.Code.NEWS, root_version, timestamp_version]:
            return m.News(_int(root_version, 0, 1 << 53), _int(timestamp_version, 0, 1 << 53))
        case [m.Code.METADATA_WANT, request, str(name)]:
            return m.MetadataWant(_request(request), check_name(name, "metadata-want.name"))
        case [m.Code.OBJECT_WANT, request, digest, size]:
            return m.ObjectWant(_request(request), _digest(digest), _int(size, 0, limits.OBJECT_SIZE_MAX))
        case [m.Code.BLOB, request]:
            return m.Blob(_request(request), payload)
        case [m.Code.REFUSE, request, str(reason)]:
            if reason not in set(m.Refusal):
                raise ContentError("refuse.reason: unknown")
            return m.Refuse(_request(request), m.Refusal(reason))
        case [m.Code.JOIN, image, base, bool(wan), weight, bool(complete)]:
            return m.Join(
                _digest(image), None if base is None else _digest(base), wan, _int(weight, 0, 1000), complete
            )
        case [m.Code.LEAVE, image]:
            return m.Leave(_digest(image))
        case [m.Code.HAVE, image, pack, total, bytes(bitmap)]:
            return _have(image, pack, total, bitmap)
        case [m.Code.HAVE_MORE, image, pack, list(pieces)]:
            if len(pieces) > limits.HAVE_MORE_MAX:
                raise LimitExceeded(f"have-more: {len(pieces)} pieces")
            return m.HaveMore(_digest(image), _digest(pack), tuple(_piece(p) for p in pieces))
        case [m.Code.WANT, request, image, pack, piece]:
            return m.Want(_request(request), _digest(image), _digest(pack), _piece(piece))
        case [m.Code.WANT_REST, request, image, pack, piece, start]:
            start = _int(start, 1, limits.MESSAGE_PAYLOAD_MAX)
            return m.WantRest(_request(request), _digest(image), _digest(pack), _piece(piece), start)
        case [m.Code.PIECE, request]:
            return m.Piece(_request(request), payload)
        case [m.Code.PART, request, total]:
            return m.Part(_request(request), _int(total, 0, limits.MESSAGE_PAYLOAD_MAX), payload)
        case [m.Code.LEASE, image, pack, slot, start, stop, came]:
            came = _int(came, 0, limits.LEASE_BYTES_MAX)
            return m.Lease(
                _digest(image), _digest(pack), _int(slot, 0, 15), _frame(start), _frame(stop), came
            )
        case [m.Code.PEERS, list(peers)]:
            if len(peers) > limits.PEER_EXCHANGE_MAX:
                raise LimitExceeded(f"peers: {len(peers)} addresses")
            return m.Peers(tuple(_address(p) for p in peers))
        case [m.Code.BYE, str(reason)]:
            return m.Bye(check_name(reason, "bye.reason"))
        case [m.Code.HEARSAY, image, list(claims)]:
            if len(claims) > limits.CLAIMS_MAX:
                raise LimitExceeded(f"hearsay: {len(claims)} claims")
            return m.Hearsay(_digest(image), tuple(_claim(c) for c in claims))
        case [m.Code.ORIGIN_ASKED, timestamp_version, age]:
            return m.OriginAsked(_int(timestamp_version, 0, 1 << 53), _int(age, 0, limits.ASKED_AGE_MAX))
        case [m.Code.REPORT, number, bool(urgent), hops, bytes(report)]:
            if len(report) > limits.REPORT_SIZE_MAX:
                raise LimitExceeded(f"report: {len(report)} bytes")
            return m.Report(_request(number), urgent, _int(hops, 0, limits.REPORT_HOPS_MAX), report)
        case [m.Code.REPORTED, number, str(result), bytes(certificate)]:
            if len(certificate) > limits.CERTIFICATE_SIZE_MAX:
                raise LimitExceeded(f"reported: a certificate of {len(certificate)} bytes")
            return m.Reported(_request(number), check_name(result, "reported.result"), certificate)
        case [m.Code.UPLINK, price, month, list(used)]:
            if len(used) > limits.UPLINKS_TOLD_MAX:
                raise LimitExceeded(f"uplink: sums of {len(used)} devices")
            return m.Uplink(
                None if price is None else _int(price, 0, limits.PRICE_MAX),
                _int(month, 0, limits.MONTH_MAX),
                tuple(_used(entry) for entry in used),
            )
        case _:
            raise ContentError(f"message {body[0]}: unknown code or shape")


def pack_bitmap(pieces: set[int] | frozenset[int], total: int) -> bytes:
    """The bitmap of a `Have`."""
    if len(pieces) == total:
        return ((1 << total) - 1).to_bytes((total + 7) // 8, "little")
    bitmap = bytearray((total + 7) // 8)
    for n in pieces:
        bitmap[n >> 3] |= 1 << (n & 7)
    return bytes(bitmap)


def add_to_bitmap(bitmap: bytearray, pieces: Iterable[int]) -> None:
    """Set more bits; the bitmap grows as it must."""
    for n in pieces:
        if n >> 3 >= len(bitmap):
            bitmap.extend(bytes((n >> 3) + 1 - len(bitmap)))
        bitmap[n >> 3] |= 1 << (n & 7)


def unpack_bitmap(bitmap: Buffer, total: int) -> set[int]:
    """The piece numbers of a bitmap that was checked by `decode`."""
    bits = memoryview(bitmap)[: (total + 7) // 8]
    return {8 * at + bit for at, byte in enumerate(bits) if byte for bit in _BITS[byte]}


def _have(image: object, pack: object, total: object, bitmap: bytes) -> m.Have:
    count = _int(total, 0, limits.PIECES_PER_PACK_MAX)
    if len(bitmap) != (count + 7) // 8:
        raise ContentError(f"have: {len(bitmap)} bytes of bitmap for {count} pieces")
    if count % 8 and bitmap[-1] >> (count % 8):
        raise ContentError("have: bits past the last piece")
    return m.Have(_digest(image), _digest(pack), count, bitmap)


def _claim(raw: object) -> m.Claim:
    match raw:
        case [str(device), age, base, bool(wan), weight, bool(complete), pack, list(leases)]:
            if len(leases) > limits.CLAIM_LEASES_MAX or (leases and pack is None):
                raise ContentError("hearsay: leases without a pack, or too many")
            return m.Claim(
                check_name(device, "hearsay.device"),
                _int(age, 0, limits.CLAIM_AGE_MAX),
                None if base is None else _digest(base),
                wan,
                _int(weight, 0, 1000),
                complete,
                None if pack is None else _digest(pack),
                tuple(_span(span) for span in leases),
            )
        case _:
            raise ContentError("hearsay: not a claim")


def _span(raw: object) -> tuple[int, int]:
    match raw:
        case [start, stop]:
            return _frame(start), _frame(stop)
        case _:
            raise ContentError("hearsay: not a range of frames")


def _address(raw: object) -> tuple[str, str, int]:
    match raw:
        case [str(device), str(host), port] if _is_ip_address(host):
            return check_name(device, "peers.device"), host, _port(port)
        case _:
            raise ContentError("peers: not an address")


def _used(raw: object) -> tuple[str, int]:
    match raw:
        case [str(device), size]:
            return check_name(device, "uplink.device"), _int(size, 0, 1 << 60)
        case _:
            raise ContentError("uplink: not a device and its bytes")


def _is_ip_address(host: str) -> bool:
    """No names: a peer must not make this node look anything up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return len(host) <= 64


def _digest(value: object) -> Digest:
    if not isinstance(value, bytes):
        raise ContentError("message: a digest is missing")
    return parse_digest(value, "message")


def _int(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise LimitExceeded(f"message: {value!r} is not a number within {low}..{high}")
    return value


def _request(value: object) -> int:
    return _int(value, 0, _REQUEST_MAX)


def _piece(value: object) -> int:
    return _int(value, 0, limits.PIECES_PER_PACK_MAX - 1)


def _frame(value: object) -> int:
    return _int(value, 0, limits.INDEX_ENTRIES_MAX)


def _port(value: object) -> int:
    return _int(value, 0, 65535)
