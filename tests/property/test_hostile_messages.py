"""Whatever peers say, in any order, a node goes on: at worst it parts with who breaks the protocol."""

from __future__ import annotations

import math
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.limits import KIB, MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.site_quota import SiteQuota
from p2p.swarm.wire import PREFIX, PROTOCOL, decode, encode, pack_bitmap
from tests.support.virtual_site import make_release

OLD, OTHER = Digest(b"o" * 32), Digest(b"p" * 32)
RELEASE = make_release(8 * MIB, {OLD: MIB, OTHER: 300 * KIB})
STRANGE = Digest(b"s" * 32)
PEERS = ("d1", "d2", "d3")

images = st.sampled_from([RELEASE.task_image] * 4 + [STRANGE])
packs = st.sampled_from([*RELEASE.maps, *RELEASE.maps, STRANGE])
bases = st.sampled_from([None, OLD, OTHER, RELEASE.task_image])
numbers = st.integers(0, 70)
requests = st.integers(0, 8)
names = st.sampled_from(["me", *PEERS, "far-1", "far-2", "far-3"])
spans = st.tuples(st.integers(0, 8), st.integers(0, 9))


@st.composite
def bitmaps(draw: st.DrawFn) -> m.Have:
    pack = draw(packs)
    known = len(RELEASE.maps[pack]) if pack in RELEASE.maps else 9
    total = draw(st.sampled_from([known, known, known, known + 1]))
    pieces = draw(st.sampled_from([set(range(total)), set(), {0}]))
    return m.Have(draw(images), pack, total, pack_bitmap(pieces, total))


messages = st.one_of(
    st.builds(m.News, st.integers(0, 3), st.integers(0, 3)),
    st.builds(m.Join, images, bases, st.booleans(), st.sampled_from([0, 1, 1000]), st.booleans()),
    st.builds(m.Leave, images),
    bitmaps(),
    st.builds(m.HaveMore, images, packs, st.lists(numbers, max_size=3).map(tuple)),
    st.builds(m.Want, requests, images, packs, numbers),
    st.builds(m.Piece, requests, st.sampled_from([b"", bytes(300 * KIB)])),
    st.builds(m.Part, requests, st.sampled_from([300 * KIB, MIB]), st.just(bytes(16 * KIB))),
    st.builds(m.Blob, requests, st.sampled_from([b"", *RELEASE.objects.values()])),
    st.builds(m.Refuse, requests, st.sampled_from(m.Refusal)),
    st.builds(m.Lease, images, packs, st.integers(0, 3), st.integers(0, 8), st.integers(0, 9), numbers),
    st.builds(m.Peers, st.just((("far-1", "10.0.0.9", 1),))),
    st.builds(
        m.Hearsay,
        images,
        st.lists(
            st.builds(
                m.Claim, names, st.integers(0, 90), bases, st.booleans(), st.just(100), st.booleans(), packs,
                st.lists(spans, max_size=4).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(m.OriginAsked, st.integers(0, 3), st.integers(0, limits.ASKED_AGE_MAX)),
    st.builds(m.Report, requests, st.booleans(), st.integers(0, 8), st.just(b"report")),
    st.builds(m.Reported, requests, st.sampled_from(["ok", "nobody", "unsupported"])),
    st.builds(
        m.Uplink, st.sampled_from([None, 0, limits.PRICE_MAX]), st.sampled_from([0, 202611]),
        st.lists(st.tuples(names, st.sampled_from([0, 9, 1 << 60])), max_size=3).map(tuple),
    ),
    st.builds(m.MetadataWant, requests, st.sampled_from(["parts", "reports", "uplinks", "timestamp.json"])),
    st.builds(m.ObjectWant, requests, packs, st.integers(1, 99_999)),
)  # fmt: skip
steps = st.tuples(st.sampled_from(PEERS), st.none() | messages, st.sampled_from([0.0, 0.0, 0.3, 2.0, 40.0]))


class Node:
    """One, with what stands for its driver: it drops who is parted with, and lets each come back."""

    def __init__(self, **what: Any) -> None:
        quota = SiteQuota(1_000_000, "me")
        quota.used(202611, 5000)
        self.node = SwarmNode(
            device="me", site="depot", port=1, rng=random.Random(1), divides=True, links_max=3, price=5,
            quota=quota, recomputes=True, **what,
        )  # fmt: skip
        self.now = 0.0
        self.linked: set[str] = set()

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.Send):
                said = b"".join(bytes(part) for part in encode(action.message))
                length, _ = PREFIX.unpack_from(said)
                start = PREFIX.size + length
                decode(said[PREFIX.size : start], said[start:])
            elif isinstance(action, e.Disconnect) and action.device in self.linked:
                self.linked.discard(action.device)
                self.feed(e.PeerLost(action.device))
        due = self.node.deadline()
        assert due is None or due > -math.inf

    def hear(self, device: str, message: m.Message) -> None:
        if device not in self.linked:
            self.linked.add(device)
            self.feed(e.PeerConnected(device, "10.0.0.2"))
            self.feed(e.Received(device, m.Hello(PROTOCOL, "depot", 1, True)))
        self.feed(e.Received(device, message))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), bases, st.booleans(), st.lists(steps, max_size=60))
def test_no_message_brings_a_node_down(
    wan: bool, base: Digest | None, holds: bool, said: list[tuple[str, m.Message | None, float]]
) -> None:
    node = Node(wan=wan)
    for name, data in RELEASE.objects.items() if holds else ():
        node.feed(e.HoldObject(name, data))
    node.feed(e.Pursue(RELEASE.task(base), ()))
    for device, message, seconds in said:
        node.now += seconds
        node.feed(e.Tick())
        if message is not None:
            node.hear(device, message)
        elif device in node.linked:
            node.linked.discard(device)
            node.feed(e.PeerLost(device))
    assert node.node.status(RELEASE.task_image) is not None
