"""The messages that peers exchange, as data. Encoding is `p2p.swarm.wire`; meaning is `p2p.swarm.node`.

Three of them ask (`ObjectWant`, `MetadataWant`, `Want`); each is answered exactly once, by its
`request` number, with `Blob`, `Piece` or `Refuse`. All others are announcements. The numbers and
field orders are the wire contract, written down in `docs/spec/wire.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from p2p.content.digests import Buffer, Digest


class Code(IntEnum):
    """First element of a message header."""

    HELLO = 0
    NEWS = 1
    METADATA_WANT = 2
    OBJECT_WANT = 3
    BLOB = 4
    REFUSE = 5
    JOIN = 6
    LEAVE = 7
    HAVE = 8
    HAVE_MORE = 9
    WANT = 10
    PIECE = 11
    LEASE = 12
    PEERS = 13
    BYE = 14


class Refusal(StrEnum):
    """Why a request was not served."""

    DONT_HAVE = "dont-have"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of both sides. `port`: where this node listens; `wan`: it can reach an origin."""

    protocol: int
    site: str
    port: int
    wan: bool


@dataclass(frozen=True, slots=True)
class News:
    """Which versions of the mutable metadata this node trusts (0: none)."""

    root_version: int
    timestamp_version: int


@dataclass(frozen=True, slots=True)
class MetadataWant:
    """Ask for `timestamp.json` or `N.root.json`, answered with a `Blob`."""

    request: int
    name: str


@dataclass(frozen=True, slots=True)
class ObjectWant:
    """Ask for a small object of exactly `size` bytes; the asked node may fetch it to answer."""

    request: int
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Blob:
    """The answer to `MetadataWant` and `ObjectWant`."""

    request: int
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Refuse:
    """The other answer to anything asked."""

    request: int
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Join:
    """This node takes part in `image`: its base, whether it can fetch, its weight, whether it is done."""

    image: Digest
    base: Digest | None
    wan: bool
    weight: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """This node no longer takes part in `image`."""

    image: Digest


@dataclass(frozen=True, slots=True)
class Have:
    """All pieces of `pack` (named by its index digest) that this node serves, as a bitmap.

    Bit `n % 8`, least significant first, of byte `n // 8` stands for piece `n` of `total`.
    """

    image: Digest
    pack: Digest
    total: int
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class HaveMore:
    """Pieces of `pack` that this node has begun to serve since it last said so."""

    image: Digest
    pack: Digest
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Ask for one piece, answered with a `Piece`."""

    request: int
    image: Digest
    pack: Digest
    piece: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece: the stored bytes of a patch frame, or the raw bytes of a chunk."""

    request: int
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Lease:
    """This node fetches frames `[start, stop)` of `pack` over its WAN; replaces its earlier lease `slot`.

    An empty range ends the lease.
    """

    image: Digest
    pack: Digest
    slot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Peers:
    """Addresses of other nodes of the site that the sender is connected to: (device, host, port)."""

    peers: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender closes the connection, and why (a stable word)."""

    reason: str


Message = (
    Hello
    | News
    | MetadataWant
    | ObjectWant
    | Blob
    | Refuse
    | Join
    | Leave
    | Have
    | HaveMore
    | Want
    | Piece
    | Lease
    | Peers
    | Bye
)
