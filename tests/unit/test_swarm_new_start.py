"""An image is put down and taken up again while pieces of it are still being stored."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import make_release

OLD = Digest(b"o" * 32)
RELEASE = make_release(8 * MIB, {OLD: MIB})
IMAGE, PACK = RELEASE.task_image, RELEASE.pack(OLD).index.sha256
PATCH = RELEASE.maps[PACK].pieces[0]


def started() -> SwarmNode:
    """A node that has just begun, without any index, with a peer."""
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1))
    node.handle(e.PeerConnected("peer", "10.0.0.2"), 0.0)
    node.handle(e.Received("peer", m.Hello(PROTOCOL, "depot", 1, True)), 0.0)
    node.handle(e.Pursue(RELEASE.task(OLD), ()), 0.0)
    return node


@pytest.mark.parametrize(
    "late",
    [
        e.Stored(IMAGE, PATCH.target_offset, PATCH.target_stop, e.How.PEER, PACK, (0,), True, "peer"),
        e.Rejected(IMAGE, PACK, 0, "peer", "bad-piece"),
    ],
    ids=["stored", "rejected"],
)
def test_what_becomes_of_a_piece_of_the_start_before_does_no_harm(late: e.Stored | e.Rejected) -> None:
    node = started()
    node.handle(late, 1.0)
    actions = node.handle(e.PeerConnected("newcomer", "10.0.0.3"), 1.0)
    assert any(isinstance(a, e.Send) and isinstance(a.message, m.Join) for a in actions)
    actions = node.handle(e.HoldObject(PACK, RELEASE.objects[PACK]), 2.0)
    actions += node.handle(e.Tick(), 2.5)
    status = node.status(IMAGE)
    assert status is not None
    assert status.left == RELEASE.size - (PATCH.target_length if isinstance(late, e.Stored) else 0)
