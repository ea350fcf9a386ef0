"""What goes into a `SwarmNode` (events) and what comes out of it (actions).

The two drivers (trio with real sockets, the simulator with an event heap) speak only these. Bytes
that were not verified pass through as opaque payloads; only the driver opens them, and it reports
`Stored`, never the bytes. Devices are named by the id of their certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.swarm.actions import Action as Action
from p2p.swarm.actions import CancelFetch as CancelFetch
from p2p.swarm.actions import Disconnect as Disconnect
from p2p.swarm.actions import Fellows as Fellows
from p2p.swarm.actions import Fetch as Fetch
from p2p.swarm.actions import FetchObject as FetchObject
from p2p.swarm.actions import GiveUp as GiveUp
from p2p.swarm.actions import MetadataArrived as MetadataArrived
from p2p.swarm.actions import NewsHeard as NewsHeard
from p2p.swarm.actions import ObjectFailed as ObjectFailed
from p2p.swarm.actions import ObjectReady as ObjectReady
from p2p.swarm.actions import PeerAddresses as PeerAddresses
from p2p.swarm.actions import ReadBack as ReadBack
from p2p.swarm.actions import Recheck as Recheck
from p2p.swarm.actions import Recompute as Recompute
from p2p.swarm.actions import Route as Route
from p2p.swarm.actions import Send as Send
from p2p.swarm.actions import Serve as Serve
from p2p.swarm.actions import Store as Store
from p2p.swarm.actions import WanShared as WanShared
from p2p.swarm.delta_events import DeltaMade as DeltaMade
from p2p.swarm.delta_events import DeltaUsed as DeltaUsed
from p2p.swarm.delta_events import MakeDelta as MakeDelta
from p2p.swarm.delta_events import UseDelta as UseDelta
from p2p.swarm.delta_events import Verdict as Verdict
from p2p.swarm.messages import Message
from p2p.swarm.parts import Begun
from p2p.swarm.report_events import HandsIn as HandsIn
from p2p.swarm.report_events import ReportArrived as ReportArrived
from p2p.swarm.report_events import ReportHandedIn as ReportHandedIn
from p2p.swarm.report_events import ReportMade as ReportMade
from p2p.swarm.report_events import ReportReturned as ReportReturned
from p2p.swarm.report_events import ReportWithdrawn as ReportWithdrawn


class ImageTask(NamedTuple):
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
    IMPORTED = "imported"
    DELTA = "delta"
    """A peer's delta, which nobody signed; the chunks that it made were verified."""


# Events


class Tick(NamedTuple):
    """Time passed; sent no later than `SwarmNode.deadline()`."""


class Expect(NamedTuple):
    """The coordinator's roster: devices that may be up and the image that each was last known to hold.

    `whole`: there are no others on the site, so nobody has to be waited for to know who is there.
    """

    devices: Mapping[str, Digest | None]
    whole: bool = False


class Barred(NamedTuple):
    """Devices that are out of the fleet: what others tell of these does not count. Replaces the last."""

    devices: frozenset[str]


class PeerConnected(NamedTuple):
    """An authenticated connection to `device` is up; `host` is its numeric address, where known.

    `carrier`: its certificate says that it may visit any site.
    """

    device: str
    host: str = ""
    carrier: bool = False


class PeerLost(NamedTuple):
    """The connection is gone. `banned`: the peer is kept out: it broke the wire format, or is revoked.

    `begun`: what had come of the piece that was arriving in parts.
    """

    device: str
    banned: bool = False
    begun: Begun | None = None


class Received(NamedTuple):
    """A decoded message."""

    device: str
    message: Message


class Pursue(NamedTuple):
    """Make this image; `done` are target ranges that are already verified (a resumed slot)."""

    task: ImageTask
    done: tuple[tuple[int, int], ...] = ()


class Offer(NamedTuple):
    """This node holds the whole image, verified, and serves it."""

    task: ImageTask


class Drop(NamedTuple):
    """Neither make nor serve the image any more."""

    image: Digest


class WeightChanged(NamedTuple):
    """How gladly this node is a gateway from now on (0 to 1000; 0: only when nobody else can be).

    What it fetches just then it fetches to its end.
    """

    weight: int


class AtHand(NamedTuple):
    """Frames of these packs (index digest and index) are on this device: it makes what it can by itself.

    Until `Filled` the node asks nobody for anything of the image; `Stored` follows for each frame.
    """

    image: Digest
    indexes: tuple[tuple[Digest, bytes], ...]


class Filled(NamedTuple):
    """What was at hand is used up: what is still missing has to come from elsewhere."""

    image: Digest


class WantObject(NamedTuple):
    """The local agent needs a small object; answered by `ObjectReady` or `ObjectFailed`."""

    digest: Digest
    size: int


class HoldObject(NamedTuple):
    """The local agent has this object (from its cache); the node may serve it."""

    digest: Digest
    data: bytes


class ObjectFetched(NamedTuple):
    """The answer to `FetchObject`; None: the origin does not give it."""

    digest: Digest
    data: bytes | None


class HoldMetadata(NamedTuple):
    """The trusted root (by version) or timestamp of the local agent, for peers that ask."""

    name: str
    version: int
    data: bytes


class OriginAnswered(NamedTuple):
    """The origin has answered the local agent, which now trusts what it has (`HoldMetadata` came before)."""


class AskMetadata(NamedTuple):
    """Ask a peer for mutable metadata that it said it has; `MetadataArrived` follows."""

    device: str
    name: str


class Stored(NamedTuple):
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


class Rejected(NamedTuple):
    """A peer's piece failed verification: that peer is to blame."""

    image: Digest
    pack: Digest
    piece: int
    source: str
    reason: str


class BaseDamaged(NamedTuple):
    """The base gives the wrong bytes for target range `[start, stop)`: nobody else is to blame."""

    image: Digest
    start: int
    stop: int


class Damaged(NamedTuple):
    """Written ranges were found wrong when read back: they are no longer done."""

    image: Digest
    ranges: tuple[tuple[int, int], ...]


class Unreadable(NamedTuple):
    """A piece that this node serves cannot be read, or is not what it was: fed before it is refused."""

    image: Digest
    pack: Digest
    piece: int


class ImageVerified(NamedTuple):
    """The whole image was read back and has its signed digest."""

    image: Digest


class ReadBackFailed(NamedTuple):
    """The whole image was read back and has another digest."""

    image: Digest


class Recomputed(NamedTuple):
    """A `Recompute` is over. `right`: the patch has its signed digest and is at hand to be served."""

    image: Digest
    pack: Digest
    piece: int
    right: bool


class BaseLost(NamedTuple):
    """What the image was made from is about to be written over: nothing can be made from it any more."""

    image: Digest


class FetchProgress(NamedTuple):
    """Bytes of a fetch arrived (they renew nothing but our own patience)."""

    fetch: int
    size: int


class FetchEnded(NamedTuple):
    """A fetch is over: all of it stored (`error` None) or not. `wasted` bytes came for nothing.

    The beginning of a frame that is kept for the next fetch (`remnants`) is not among them.
    """

    fetch: int
    error: str | None = None
    wasted: int = 0


class RemnantsLost(NamedTuple):
    """Beginnings of frames that were kept are of no use any more: `size` bytes came for nothing."""

    size: int


class PieceSent(NamedTuple):
    """The driver has answered a `Serve`. `size` 0: it refused."""

    device: str
    size: int


class WanUsed(NamedTuple):
    """So many bytes have crossed this device's WAN in a month such as 202611."""

    month: int
    size: int


class WanChanged(NamedTuple):
    """The origin became reachable or unreachable, or policy opened or closed the WAN.

    `closed`: of all that crosses it, only signed documents for this device itself still may.
    """

    up: bool
    closed: bool = False


ImageEvent = (
    AtHand
    | Filled
    | BaseDamaged
    | Damaged
    | Unreadable
    | ImageVerified
    | ReadBackFailed
    | Recomputed
    | DeltaMade
    | DeltaUsed
    | BaseLost
)
"""What befalls one image, at this device alone."""

Event = (
    Tick
    | Expect
    | Barred
    | PeerConnected
    | PeerLost
    | Received
    | Pursue
    | Offer
    | Drop
    | ImageEvent
    | WantObject
    | HoldObject
    | ObjectFetched
    | HoldMetadata
    | OriginAnswered
    | HandsIn
    | ReportMade
    | ReportWithdrawn
    | ReportHandedIn
    | AskMetadata
    | Stored
    | Rejected
    | FetchProgress
    | FetchEnded
    | RemnantsLost
    | PieceSent
    | WanChanged
    | WanUsed
    | WeightChanged
)
