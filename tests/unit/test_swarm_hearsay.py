"""What is heard of devices out of reach, and for how long it counts."""

from __future__ import annotations

import pytest

from p2p.content.digests import sha256
from p2p.swarm import messages as m
from p2p.swarm.actions import Send
from p2p.swarm.context import Context
from p2p.swarm.hearsay import PASSED_S, Hearsay
from p2p.swarm.peer import Asked, LeaseState, Peer
from p2p.swarm.plan import Participant
from tests.support.swarm_context import make_context
from tests.support.virtual_site import make_release

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


def test_what_a_peer_is_just_giving_is_told_of_as_on_its_way(context: Context) -> None:
    release = make_release(4 << 20, {})
    image, pack = release.task_image, release.pack(None).index.sha256
    pieces = release.maps[pack]
    hearsay = Hearsay(context, image)
    hearsay.maps = release.maps
    for device in ("gives", "hears"):
        peer = context.peers[device] = Peer(device, 0.0)
        remote = peer.image(image)
        remote.participant = Participant(device, None, True)
        context.enter(image, peer, remote)
    gives = context.peers["gives"]
    number = gives.ask(Asked(0.0, 1000, image, (pack, pieces.of_frame(2)[0])))
    gives.ask(Asked(0.0, 1000, image, (sha256(b"unknown"), 0)))

    def told() -> tuple[tuple[int, int], ...]:
        context.actions.clear()
        hearsay.tell([Participant("gives", None, True)])
        (claims,) = [
            a.message.claims
            for a in context.actions
            if isinstance(a, Send) and a.device == "hears" and isinstance(a.message, m.Hearsay)
        ]
        return claims[0].leases

    assert told() == (), "it did not bring that"
    gives.image(image).brings = pack
    context.now = 5.0
    assert told() == ((2, 3),)
    gives.image(image).leases[0] = LeaseState(pack, 1, 3, 0.0, 0.0, 0.0)
    context.now = 10.0
    assert told() == ((1, 3),)
    gives.answered(number)
    gives.image(image).leases.clear()
    context.now = 20.0
    assert told() == ()
