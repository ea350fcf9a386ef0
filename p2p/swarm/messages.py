"""The messages that peers exchange, as data. Encoding is `p2p.swarm.wire`; meaning is `p2p.swarm.node`.

Three of them ask (`ObjectWant`, `MetadataWant`, `Want`); each is answered exactly once, by its
`request` number, with `Blob`, `Piece` or `Refuse`. All others are announcements. The numbers and
field orders are the wire contract, written down in `docs/spec/wire.md`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

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
    HEARSAY = 15
    ORIGIN_ASKED = 16
    REPORT = 25
    REPORTED = 26
    PART = 30
    UPLINK = 36
    WANT_REST = 40


class Refusal(StrEnum):
    """Why a request was not served."""

    DONT_HAVE = "dont-have"
    BUSY = "busy"
    FAILED = "failed"


class Hello(NamedTuple):
    """First message of both sides. `port`: where this node listens; `wan`: it can reach an origin."""

    protocol: int
    site: str
    port: int
    wan: bool


class News(NamedTuple):
    """Which versions of the mutable metadata this node trusts (0: none)."""

    root_version: int
    timestamp_version: int


class MetadataWant(NamedTuple):
    """Ask for `timestamp.json` or `N.root.json`, answered with a `Blob`."""

    request: int
    name: str


class ObjectWant(NamedTuple):
    """Ask for a small object of exactly `size` bytes; the asked node may fetch it to answer."""

    request: int
    digest: Digest
    size: int


class Blob(NamedTuple):
    """The answer to `MetadataWant` and `ObjectWant`."""

    request: int
    payload: Buffer


class Refuse(NamedTuple):
    """The other answer to anything asked."""

    request: int
    reason: Refusal


class Join(NamedTuple):
    """This node takes part in `image`: its base, whether it can fetch, its weight, whether it is done."""

    image: Digest
    base: Digest | None
    wan: bool
    weight: int
    complete: bool


class Leave(NamedTuple):
    """This node no longer takes part in `image`."""

    image: Digest


class Have(NamedTuple):
    """All pieces of `pack` (named by its index digest) that this node serves, as a bitmap.

    Bit `n % 8`, least significant first, of byte `n // 8` stands for piece `n` of `total`.
    """

    image: Digest
    pack: Digest
    total: int
    bitmap: bytes


class HaveMore(NamedTuple):
    """Pieces of `pack` that this node has begun to serve since it last said so."""

    image: Digest
    pack: Digest
    pieces: tuple[int, ...]


class Want(NamedTuple):
    """Ask for one piece, answered with a `Piece`."""

    request: int
    image: Digest
    pack: Digest
    piece: int


class WantRest(NamedTuple):
    """Ask for one piece from byte `start` on, answered with a `Piece` of the rest (`beginnings`)."""

    request: int
    image: Digest
    pack: Digest
    piece: int
    start: int


class Piece(NamedTuple):
    """A piece: the stored bytes of a patch frame, or the raw bytes of a chunk."""

    request: int
    payload: Buffer


class Part(NamedTuple):
    """A part of the `total` bytes that the answer to a request has; a `Piece` brings the rest (`parts`)."""

    request: int
    total: int
    payload: Buffer


class Lease(NamedTuple):
    """This node fetches frames `[start, stop)` of `pack` over its WAN; replaces its earlier lease `slot`.

    `came`: bytes of them that are here already, of frames that are not whole yet. An empty range ends
    the lease.
    """

    image: Digest
    pack: Digest
    slot: int
    start: int
    stop: int
    came: int = 0


class Peers(NamedTuple):
    """Addresses of other nodes of the site that the sender is connected to: (device, host, port)."""

    peers: tuple[tuple[str, str, int], ...]


class Claim(NamedTuple):
    """What the sender of a `Hearsay` knows of another device, which fetches or comes next.

    `age`: tenths of a second since somebody was connected to it; 0: the sender is. `leases`: frames
    `[start, stop)` of `pack` that it fetches, or that the sender is waiting for from it.
    """

    device: str
    age: int
    base: Digest | None
    wan: bool
    weight: int
    complete: bool
    pack: Digest | None
    leases: tuple[tuple[int, int], ...]

    @property
    def near(self) -> bool:
        """Whether the teller is connected to the device."""
        return self.age == 0

    @property
    def content(self) -> tuple[object, ...]:
        """All but the age."""
        return self[2:]


class Hearsay(NamedTuple):
    """The devices that come first in the plan of `image` as the sender sees it; replaces what it told."""

    image: Digest
    claims: tuple[Claim, ...]


class OriginAsked(NamedTuple):
    """The origin was asked `age` seconds ago and had this timestamp; 0: by the sender, just now."""

    timestamp_version: int
    age: int


class Report(NamedTuple):
    """A signed report (`p2p.content.report`), to be handed in to the coordinator.

    `number`: the sender's own, by which it is told what became of it; `urgent`: it should not wait long for
    others to go with it; `hops`: how many peers have passed it on, 0 if it is the sender's own.
    """

    number: int
    urgent: bool
    hops: int
    report: bytes


class Reported(NamedTuple):
    """What the coordinator said of the report that the receiver gave with this number: a stable word.

    `certificate`: a new one for the device that wrote it (PEM, unverified), or nothing.
    """

    number: int
    result: str
    certificate: bytes = b""


class Uplink(NamedTuple):
    """What the sender's WAN costs, in millionths per MB of 10^6 bytes (None: nobody said), and what it knows
    devices of the site, itself included, to have used of their WANs in a month such as 202611."""

    price: int | None
    month: int
    used: tuple[tuple[str, int], ...]


class Bye(NamedTuple):
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
    | WantRest
    | Piece
    | Part
    | Lease
    | Peers
    | Bye
    | Hearsay
    | OriginAsked
    | Report
    | Reported
    | Uplink
)
