"""What a node knows of one connected peer: what it told, what was asked of it, how fast it answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.limits import KIB
from p2p.swarm.messages import Hello
from p2p.swarm.plan import Participant
from p2p.swarm.policy import Policy

CLAIM_COST = 512
"""What remembering a bitmap costs beside its bytes, so that empty ones are counted too."""

RATE_MIN, RATE_EXPECTED = 16 * KIB, 512 * KIB
"""Bytes per second that a slow peer is waited for with, and one that has not answered anything yet."""

TRICKLE = 4 * KIB
"""Bytes per second: parts of an answer that come more slowly are no sign of life."""

JUST_S = 0.1
"""What comes so shortly after an answer may have waited behind it."""

PieceKey = tuple[Digest, int]
"""A piece of any pack: (index digest, piece number)."""


@dataclass(slots=True)
class Asked:
    """A request that waits for its one answer. Exactly one of the four subjects is set.

    `delta`: the number of the group of chunks that a peer delta is to make. `arrived`: bytes of the answer,
    where it comes in parts, `arrives_from`: since when they may have been on their way. `begun`: the first
    bytes of the piece, which had come before, so that only the rest was asked for.
    """

    at: float
    size: int = 0
    image: Digest | None = None
    piece: PieceKey | None = None
    object: Digest | None = None
    metadata: str | None = None
    delta: int | None = None
    abandoned: bool = False
    arrived: int = 0
    arrives_from: float = 0.0
    begun: bytes = b""


MOVES_FOR = 3.0
"""So many times as long as its holder's pace makes a frame take is a lease taken for one that moves."""


@dataclass(slots=True)
class LeaseState:
    """Frames `[start, stop)` of `pack` that a peer said it fetches.

    `began` is when it was first heard of, `renewed` the time of the last sign of life, `progressed` of the
    last piece it served from it. `came`: bytes that it said to have of frames that it does not serve yet;
    `had`: as it was first heard of, and none of its pieces since.
    """

    pack: Digest
    start: int
    stop: int
    began: float
    renewed: float
    progressed: float
    came: int = 0
    had: int = 0

    def moves(self, now: float, size: int) -> bool:
        """Whether, by what its holder says has come, a frame of `size` bytes is about to be whole, or late by
        no more than a link that is shared with others makes it."""
        said_s = self.renewed - self.progressed
        return self.came > 0 and now - self.progressed <= MOVES_FOR * said_s * size / self.came


LEASES_ABROAD_MAX = 32
"""Leases of one peer on images that this node is not at."""


@dataclass(slots=True)
class Conduct:
    """How a device kept its promises about one image; outlives its connections.

    `strikes` count pieces that it did not give; past the policy's maximum nothing it says of the
    image is believed until `distrusted_until`, longer each time. `stalled_until`: its leases count for
    nothing, as they stalled at `stalled_at`; `leased_at`: the first one since it last gave a piece.
    `complete_at`: when it first said that it is complete, or last proved it. `gave_at`: when it last gave a
    piece; `awaited_at`: when its return was last waited for. `took_back_at`: when it was last struck for
    having less than it had said, of the packs `took_back`.
    """

    strikes: int = 0
    busy: int = 0
    distrusted: bool = False
    distrusted_until: float = 0.0
    distrusts: int = 0
    stalled_until: float = 0.0
    stalled_at: float = -math.inf
    stalls: int = 0
    leased_at: float = -math.inf
    complete_at: float | None = None
    gave_at: float = -math.inf
    awaited_at: float = -math.inf
    took_back_at: float = -math.inf
    took_back: set[Digest] = field(default_factory=set)

    @property
    def owes(self) -> bool:
        """Whether its leases stalled, and it has given nothing since."""
        return self.stalled_at > self.gave_at


@dataclass(slots=True)
class RemoteImage:
    """What a peer told about one image.

    `haves`: per pack whose index this node has, a byte for each piece, 1 where it has it. `useful`: pieces
    that it has and this node wants, in the order they became known. `claims`:
    bitmaps of packs whose index this node does not have, so that numbers cannot be checked yet.
    `late`: pieces that it has but did not bring in time, and when it may be asked again. `told`: how
    much of our own log of pieces it was told (by index digest). `haves` and `counted` change only
    through `Holders`. `brings`: of which pack its last lease was.
    """

    participant: Participant | None = None
    haves: dict[Digest, bytearray] = field(default_factory=dict)
    totals: dict[Digest, int] = field(default_factory=dict)
    leases: dict[int, LeaseState] = field(default_factory=dict)
    useful: dict[PieceKey, None] = field(default_factory=dict)
    claims: dict[Digest, bytearray] = field(default_factory=dict)
    late: dict[PieceKey, float] = field(default_factory=dict)
    told: dict[Digest, int] = field(default_factory=dict)
    counted: bool = False
    brings: Digest | None = None
    conduct: Conduct = field(default_factory=Conduct)

    @property
    def distrusted(self) -> bool:
        return self.conduct.distrusted

    def has(self, key: PieceKey) -> bool:
        marks = self.haves.get(key[0])
        return marks is not None and not self.conduct.distrusted and marks[key[1]] != 0

    def has_all(self, pack: Digest) -> bool:
        total = self.totals.get(pack)
        return not self.distrusted and total is not None and self.count(pack) >= total

    def count(self, pack: Digest) -> int:
        """How many pieces of a pack it says it has."""
        claimed = self.claims.get(pack)
        if claimed is not None:
            return int.from_bytes(claimed, "big").bit_count()
        marks = self.haves.get(pack)
        return marks.count(1) if marks is not None else 0


@dataclass(slots=True)
class Peer:
    """One connection. `rate` is bytes per second, smoothed over answers; `answered_at`: of the last piece.

    `serving`: requests of its own that are being answered; `served_at`: when the last answer had been sent.

    `parted_for`: why this node parted with it, or what the peer said when it did. `abroad`: its leases on
    images that this node is not at, by slot, and when each was last heard of. `parts`: as what it was told
    that this node takes pieces (a name in `parts.PART_SIZES`). `is_carrier`: it may visit any site.
    `address`: device, host and port, once it has said hello, by which others can be told where it is.
    `gives_rests`: whether it gives the rest of a piece that it had begun to give; it was asked for that at
    `rests_asked_at` (-inf: it has answered).
    """

    device: str
    connected_at: float
    host: str = ""
    is_carrier: bool = False
    hello: Hello | None = None
    address: tuple[str, str, int] | None = None
    next_request: int = 0
    asked: dict[int, Asked] = field(default_factory=dict)
    images: dict[Digest, RemoteImage] = field(default_factory=dict)
    serving: int = 0
    served_at: float = -math.inf
    claimed: int = 0
    news: tuple[int, int] | None = None
    objects_late: bool = False
    rate: float = 0.0
    answered_at: float = 0.0
    in_flight: int = 0
    abandoned: int = 0
    paused_until: float = 0.0
    parted_for: str | None = None
    parts: str | None = None
    gives_rests: bool = False
    rests_asked_at: float | None = None
    abroad: dict[tuple[Digest, int], float] = field(default_factory=dict)

    @property
    def at_fault(self) -> bool:
        """Whether this node parted with it."""
        return self.parted_for not in (None, "bye")

    def image(self, image: Digest) -> RemoteImage:
        """The record of an image, made on first use."""
        found = self.images.get(image)
        if found is None:
            found = self.images[image] = RemoteImage()
        return found

    def leases_abroad(self, image: Digest, slot: int, heard_at: float | None) -> None:
        """It fetches for an image that this node is not at, as of `heard_at`; None: no more."""
        self.abroad.pop((image, slot), None)
        if heard_at is not None:
            if len(self.abroad) >= LEASES_ABROAD_MAX:
                del self.abroad[next(iter(self.abroad))]
            self.abroad[image, slot] = heard_at

    def greeted(self, hello: Hello) -> None:
        """It has said hello (an address with a zone, RFC 4007, is of no use to others)."""
        self.hello = hello
        if self.host and hello.port and "%" not in self.host:
            self.address = self.device, self.host, hello.port

    def claim(self, remote: RemoteImage, pack: Digest, bitmap: bytearray) -> bool:
        """Remember the bitmap of an unknown pack; False if that is more than a peer may make us keep."""
        old = remote.claims.get(pack)
        self.claimed += len(bitmap) + CLAIM_COST - (len(old) + CLAIM_COST if old is not None else 0)
        remote.claims[pack] = bitmap
        return self.claimed <= limits.CLAIMS_PER_PEER_MAX

    def unclaim(self, remote: RemoteImage, pack: Digest) -> bytearray | None:
        """Take the bitmap of a pack out, its index being known now."""
        bitmap = remote.claims.pop(pack, None)
        if bitmap is not None:
            self.claimed -= len(bitmap) + CLAIM_COST
        return bitmap

    def ask(self, asked: Asked) -> int:
        """Register a request; return its number."""
        number = self.next_request
        self.next_request = (number + 1) & 0xFFFFFFFF
        self.asked[number] = asked
        if asked.piece is not None:
            self.in_flight += 1
        return number

    def answered(self, number: int) -> Asked | None:
        """Take a request out; None if it was never made (the peer broke the protocol)."""
        asked = self.asked.pop(number, None)
        if asked is None:
            return None
        if asked.abandoned:
            self.abandoned -= 1
        elif asked.piece is not None:
            self.in_flight -= 1
        return asked

    def abandon(self, number: int) -> None:
        """Give a request up; its late answer is still expected, and counted as wasted."""
        asked = self.asked[number]
        asked.abandoned = True
        self.abandoned += 1
        if asked.piece is not None:
            self.in_flight -= 1

    def measured(self, size: int, seconds: float) -> None:
        """Fold one answer into the rate. Concurrent requests share the time, so multiply by their number."""
        sample = size * (self.in_flight + 1) / max(seconds, 1e-3)
        self.rate = sample if not self.rate else self.rate + (sample - self.rate) * 0.2

    def capacity(self, policy: Policy) -> int:
        """How many more pieces may be asked of it now."""
        if not self.rate:
            return policy.pipeline_first - self.in_flight
        wanted = int(self.rate * policy.pipeline_s / policy.piece_estimate)
        return max(policy.pipeline_min, min(wanted, policy.pipeline_max)) - self.in_flight

    def answers_in(self, size: int) -> float:
        """Seconds until it has answered what is in flight and `size` bytes more, as far as is known."""
        rate = max(self.rate, RATE_MIN) if self.rate else RATE_EXPECTED
        return size * (self.in_flight + 1) / rate

    def word_took(self, now: float, policy: Policy) -> float:
        """Seconds that a message which has come just now may have waited behind an answer, at most."""
        if not self.rate or now - self.answered_at > JUST_S:
            return 0.0
        return min(policy.stall_s, policy.piece_estimate / self.rate)

    def arriving(self, number: int, size: int, now: float, policy: Policy) -> bool:
        """`size` bytes of an answer have come; whether that is a sign of life: a trickle is none."""
        asked = self.asked[number]
        if not asked.arrived:
            asked.arrives_from = max(asked.at, self.answered_at)
        asked.arrived += size
        late_s = now - asked.arrives_from - policy.request_s
        if asked.abandoned or asked.arrived < late_s * TRICKLE:
            return False
        self.answered_at = now
        return True

    def is_coming(self, asked: Asked) -> bool:
        """Whether an answer, or one that was asked for before it, is arriving in parts."""
        return any(a.arrived and a.at <= asked.at and not a.abandoned for a in self.asked.values())

    def waiting(self) -> Iterator[tuple[int, Asked]]:
        """Requests that were neither answered nor given up."""
        return ((n, a) for n, a in list(self.asked.items()) if not a.abandoned)
