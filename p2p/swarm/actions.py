"""What comes out of a `SwarmNode`: what a driver is to do, in order.

Seen from the outside they belong with the events that go in, and `events` has them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from p2p.content.digests import Buffer, Digest
from p2p.content.index import PackIndex
from p2p.swarm.delta_events import MakeDelta, UseDelta
from p2p.swarm.messages import Message
from p2p.swarm.report_events import ReportArrived, ReportReturned


class Send(NamedTuple):
    """Queue a message to a peer."""

    device: str
    message: Message


class Disconnect(NamedTuple):
    """Close the connection to a peer; with `ban_s` > 0 refuse it (by certificate) for that long."""

    device: str
    reason: str
    ban_s: float = 0.0


class Fetch(NamedTuple):
    """Fetch stored frames `[start, stop)` of a pack's frames object by Range, store each as it arrives."""

    fetch: int
    image: Digest
    pack: Digest
    start: int
    stop: int


class CancelFetch(NamedTuple):
    """Stop a fetch; `FetchEnded` follows."""

    fetch: int


class FetchObject(NamedTuple):
    """Fetch a small object from the origin; `ObjectFetched` follows."""

    digest: Digest
    size: int


class ObjectReady(NamedTuple):
    """The object that the local agent wanted, its digest checked."""

    digest: Digest
    data: bytes


class ObjectFailed(NamedTuple):
    """Neither a peer nor the origin gave the object."""

    digest: Digest


class NewsHeard(NamedTuple):
    """A peer trusts newer metadata than this node; the agent may ask it (`MetadataWant`)."""

    device: str
    root_version: int
    timestamp_version: int


class MetadataArrived(NamedTuple):
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


class Store(NamedTuple):
    """Verify a piece that a peer sent, and write it; `Stored`, `Rejected` or `BaseDamaged` follows."""

    image: Digest
    pack: Digest
    piece: int
    payload: Buffer
    source: str


class Serve(NamedTuple):
    """Read a piece and answer `request` of a peer with `Piece` or `Refuse`; `PieceSent` follows.

    `start`: the peer has the first so many bytes, and takes the rest.
    """

    device: str
    request: int
    image: Digest
    pack: Digest
    piece: int
    start: int = 0


class ReadBack(NamedTuple):
    """All ranges are done: read the image back; `ImageVerified` or `ReadBackFailed` follows."""

    image: Digest


class Recheck(NamedTuple):
    """Compare the slot with every chunk of the full pack; `Damaged` follows (empty: nothing was found)."""

    image: Digest
    pack: Digest


class Recompute(NamedTuple):
    """Make a patch anew out of the image and its base, and keep it to be served; `Recomputed` follows."""

    image: Digest
    pack: Digest
    piece: int


class GiveUp(NamedTuple):
    """The image was read back wrong `read_backs` times, `mended` bytes made anew in between: no more is done.

    It is neither read back nor fetched again until it is dropped; what was verified is still served.
    """

    image: Digest
    read_backs: int
    mended: int


class PeerAddresses(NamedTuple):
    """Addresses heard from a peer: (device, host, port)."""

    peers: tuple[tuple[str, str, int], ...]


class Fellows(NamedTuple):
    """Devices to be connected with before others, the first named first. Replaces the last."""

    devices: tuple[str, ...]


class WanShared(NamedTuple):
    """So many devices of the site fetch over its WAN now, as far as this node knows, itself included.

    Said when it changes, by nodes that were made with `divides`; one at first.
    """

    among: int


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
    | ReportArrived
    | ReportReturned
    | Route
    | Store
    | Serve
    | ReadBack
    | Recheck
    | Recompute
    | MakeDelta
    | UseDelta
    | GiveUp
    | PeerAddresses
    | Fellows
    | WanShared
)
