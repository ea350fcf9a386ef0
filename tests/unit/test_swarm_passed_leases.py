"""Frames whose lease has just ended are on their way in a crowd: they are left to come, by everybody."""

from __future__ import annotations

import pytest

from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.announcements import CROWD
from p2p.swarm.image import ImageSwarm
from p2p.swarm.leases import PASSED_S, Defers, Leases
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.peer import Asked, Peer
from p2p.swarm.plan import Participant
from p2p.swarm.wan_rate import WanRate
from tests.support.swarm_context import make_context
from tests.support.virtual_site import Release, make_release

NOW = 100.0


class Site:
    """One node's view of a site where so many others are, one of which fetched two frames."""

    def __init__(self, others: int) -> None:
        self.release: Release = make_release(8 << 20, {})
        self.context = make_context(now=NOW)
        self.image = ImageSwarm(self.context, ObjectExchange(self.context), self.release.task(None))
        self.pack: Digest = self.release.pack(None).index.sha256
        self.image.index_ready(self.pack, self.release.objects[self.pack])
        self.leases = Leases(self.image, WanRate(self.context))
        for n in range(others):
            peer = self.context.peers[f"d{n}"] = Peer(f"d{n}", NOW)
            remote = peer.image(self.release.task_image)
            remote.participant = Participant(peer.device, None, True)
            self.context.enter(self.release.task_image, peer, remote)
        peer = self.context.peers["d0"]
        remote = peer.image(self.release.task_image)
        assert self.leases.begin(peer, remote, m.Lease(self.release.task_image, self.pack, 0, 1, 3))
        self.leases.end(peer, remote, 0)

    def covered(self, after_s: float, defers: Defers | None) -> set[int]:
        self.context.now = NOW + after_s
        return self.leases.covered(self.pack, len(self.release.maps[self.pack].index.frames), defers)


def alone(device: str, began_at: float) -> bool:
    """For a node on its own no lease of others counts."""
    return False


@pytest.mark.parametrize("defers", [None, alone])
def test_in_a_crowd_they_are_left_to_come_also_by_a_node_that_serves_itself(defers: Defers | None) -> None:
    site = Site(CROWD + 1)
    assert site.covered(0.0, defers) == site.covered(PASSED_S - 0.01, defers) == {1, 2}
    assert site.covered(PASSED_S, defers) == set()


def test_where_all_are_connected_there_is_nothing_on_its_way() -> None:
    assert Site(CROWD).covered(0.0, None) == set()


@pytest.mark.parametrize("complete", [False, True])
def test_who_owes_a_piece_may_have_begun_with_the_next_frames_unless_it_has_the_image(complete: bool) -> None:
    """Word of the next lease may wait behind the piece; of a device that is complete there is none."""
    site = Site(2)
    peer = site.context.peers["d0"]
    peer.ask(Asked(NOW, 1 << 10, image=site.release.task_image, piece=(site.pack, 0)))
    peer.image(site.release.task_image).participant = Participant("d0", None, True, complete=complete)
    assert list(site.leases.beginning()) == ([] if complete else ["d0"])
    assert site.leases.news_behind_pieces is not complete
