"""What goes into a `SwarmNode` (events) and what comes out of it (actions).

The two drivers (trio with real sockets, the simulator with an event heap) speak only these. Bytes
that were not verified pass through as opaque payloads; only the driver opens them, and it reports
`Stored`, never the bytes. Devices are named by the id of their certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from p2p.content.digests import Buffer, Digest
from p2p.content.index import PackIndex
from p2p.content.manifest import PackRef
from p2p.swarm.messages import Message


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to make: `base` is what this device's other slot holds, `packs` the manifest's ways."""

    image: Digest
    size: int
    base: Digest | None
    packs: tuple[PackRef, ...]

    def pack_for(self, base: Digest | None) -> PackRef | None:
        return next((p for p in self.packs if p.base == base), None)

    @property
    def full_pack(self) -> PackRef:
        return next(p for p in self.packs if p.base is None)


class How(Enum):
    """Where the bytes of a stored range came from."""

    WAN = "wan"
    PEER = "peer"
    BASE = "base"
    ZERO = "zero"


# Events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent no later than `SwarmNode.deadline()`."""


@dataclass(frozen=True, slots=True)
class Expect:
    """The coordinator's roster: devices of the site and the image that each was last known to hold."""

    devices: Mapping[str, Digest | None]


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """An authenticated connection to `device` is up."""

    device: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The connection is gone, for whatever reason."""

    device: str


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Pursue:
    """Make this image; `done` are target ranges that are already verified (a resumed slot)."""

    task: ImageTask
    done: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """This node holds the whole image, verified, and serves it."""

    task: ImageTask


@dataclass(frozen=True, slots=True)
class Drop:
    """Neither make nor serve the image any more."""

    image: Digest


@dataclass(frozen=True, slots=True)
class WantObject:
    """The local agent needs a small object; answered by `ObjectReady` or `ObjectFailed`."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class HoldObject:
    """The local agent has this object (from its cache); the node may serve it."""

    digest: Digest
    data: bytes


@dataclass(frozen=True, slots=True)
class ObjectFetched:
    """The answer to `FetchObject`; None: the origin does not give it."""

    digest: Digest
    data: bytes | None


@dataclass(frozen=True, slots=True)
class HoldMetadata:
    """The trusted root (by version) or timestamp of the local agent, for peers that ask."""

    name: str
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class AskMetadata:
    """Ask a peer for mutable metadata that it said it has; `MetadataArrived` follows."""

    device: str
    name: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Verified and written: target range `[start, stop)`.

    `pieces` of `pack` made it (none for local copies and zeros); `kept`: the stored bytes of a patch
    are still at hand to be served. `device` is the peer that sent it, where `how` is PEER.
    """

    image: Digest
    start: int
    stop: int
    how: How
    pack: Digest | None = None
    pieces: tuple[int, ...] = ()
    kept: bool = False
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A peer's piece failed verification: that peer is to blame."""

    image: Digest
    pack: Digest
    piece: int
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class BaseDamaged:
    """The base gives the wrong bytes for target range `[start, stop)`: nobody else is to blame."""

    image: Digest
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Damaged:
    """Written ranges were found wrong when read back: they are no longer done."""

    image: Digest
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ImageVerified:
    """The whole image was read back and has its signed digest."""

    image: Digest


@dataclass(frozen=True, slots=True)
class ReadBackFailed:
    """The whole image was read back and has another digest."""

    image: Digest


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes of a fetch arrived (they renew nothing but our own patience)."""

    fetch: int
    size: int


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A fetch is over: all of it stored (`error` None) or not. `wasted` bytes came for nothing."""

    fetch: int
    error: str | None = None
    wasted: int = 0


@dataclass(frozen=True, slots=True)
class PieceSent:
    """The driver has answered a `Serve`. `size` 0: it refused."""

    device: str
    size: int


@dataclass(frozen=True, slots=True)
class WanChanged:
    """The origin became reachable or unreachable, or policy closed or opened the WAN."""

    up: bool


Event = (
    Tick
    | Expect
    | PeerConnected
    | PeerLost
    | Received
    | Pursue
    | Offer
    | Drop
    | WantObject
    | HoldObject
    | ObjectFetched
    | HoldMetadata
    | AskMetadata
    | Stored
    | Rejected
    | BaseDamaged
    | Damaged
    | ImageVerified
    | ReadBackFailed
    | FetchProgress
    | FetchEnded
    | PieceSent
    | WanChanged
)

# Actions


@dataclass(frozen=True, slots=True)
class Send:
    """Queue a message to a peer."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection to a peer; with `ban_s` > 0 refuse it (by certificate) for that long."""

    device: str
    reason: str
    ban_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch stored frames `[start, stop)` of a pack's frames object by Range, store each as it arrives."""

    fetch: int
    image: Digest
    pack: Digest
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Stop a fetch; `FetchEnded` follows."""

    fetch: int


@dataclass(frozen=True, slots=True)
class FetchObject:
    """Fetch a small object from the origin; `ObjectFetched` follows."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class ObjectReady:
    """The object that the local agent wanted, its digest checked."""

    digest: Digest
    data: bytes


@dataclass(frozen=True, slots=True)
class ObjectFailed:
    """Neither a peer nor the origin gave the object."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class NewsHeard:
    """A peer trusts newer metadata than this node; the agent may ask it (`MetadataWant`)."""

    device: str
    root_version: int
    timestamp_version: int


@dataclass(frozen=True, slots=True)
class MetadataArrived:
    """A peer's answer to `AskMetadata`, unverified; None: it has none, or is gone."""

    device: str
    name: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Route:
    """Use this index for the image (sent once per pack); copy and zero what it says, and report `Stored`."""

    image: Digest
    pack: Digest
    index: PackIndex


@dataclass(frozen=True, slots=True)
class Store:
    """Verify a piece that a peer sent, and write it; `Stored`, `Rejected` or `BaseDamaged` follows."""

    image: Digest
    pack: Digest
    piece: int
    payload: Buffer
    source: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Read a piece and answer `request` of a peer with `Piece` or `Refuse`; `PieceSent` follows."""

    device: str
    request: int
    image: Digest
    pack: Digest
    piece: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """All ranges are done: read the image back; `ImageVerified` or `ReadBackFailed` follows."""

    image: Digest


@dataclass(frozen=True, slots=True)
class Recheck:
    """Hash every chunk of the full pack in the slot; `Damaged` follows (empty: nothing was found)."""

    image: Digest
    pack: Digest


@dataclass(frozen=True, slots=True)
class PeerAddresses:
    """Addresses heard from a peer: (device, host, port)."""

    peers: tuple[tuple[str, str, int], ...]


Action = (
    Send
    | Disconnect
    | Fetch
    | CancelFetch
    | FetchObject
    | ObjectReady
    | ObjectFailed
    | NewsHeard
    | MetadataArrived
    | Route
    | Store
    | Serve
    | ReadBack
    | Recheck
    | PeerAddresses
)
