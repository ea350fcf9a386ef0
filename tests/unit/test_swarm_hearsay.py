"""What is heard of devices out of reach, and for how long it counts."""

from __future__ import annotations

import pytest

from p2p.content.digests import sha256
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.hearsay import PASSED_S, Hearsay
from p2p.swarm.peer import Peer
from tests.support.swarm_context import make_context

IMAGE, PACK = sha256(b"image"), sha256(b"pack")


@pytest.fixture
def context() -> Context:
    return make_context()


def claim(*leases: tuple[int, int]) -> m.Hearsay:
    pack = PACK if leases else None
    return m.Hearsay(IMAGE, (m.Claim("far", 1, None, True, 100, False, pack, leases),))


def test_a_far_gateway_is_one_until_its_frames_have_had_the_time_to_come(context: Context) -> None:
    hearsay, teller = Hearsay(context, IMAGE), Peer("near", 0.0)
    hearsay.heard(teller, claim((0, 2)))
    assert hearsay.fetching() == {"far": PACK}
    assert hearsay.leased(PACK, 4) == {0, 1}
    context.now = 2.0
    hearsay.heard(teller, claim())
    assert hearsay.fetching() == {"far": PACK}, "what it fetched is on its way"
    assert hearsay.leased(PACK, 4) == {0, 1}
    context.now = 2.0 + PASSED_S
    assert hearsay.fetching() == {}, "although nobody has asked for the frames meanwhile"
    assert hearsay.leased(PACK, 4) == set()
