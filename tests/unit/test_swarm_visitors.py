"""What a device asks of a carrier that visits its site: its own part of what nobody else has, and first."""

from __future__ import annotations

import random

import pytest

from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.node import SwarmNode
from p2p.swarm.visitors import BUSY_WITH, VISIT_S
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from tests.support.virtual_site import make_release

RELEASE = make_release(30 * 128 * 1024, {})
PACK = RELEASE.pack(None).index.sha256
PIECES = len(RELEASE.maps[PACK])
ALL = set(range(PIECES))


class Site:
    """One node, `b`, at a site without a WAN where `a` and `c` lack the image as well."""

    def __init__(self, *, visits: bool = False) -> None:
        self.node = SwarmNode(
            device="b", site="station", port=1, rng=random.Random(1), wan=False, visits=visits
        )
        self.now = 0.0
        self.wants: list[tuple[str, m.Want]] = []
        self.feed(e.HoldObject(PACK, RELEASE.objects[PACK]))
        self.feed(e.Pursue(RELEASE.task(None)))
        self.meet("a", set())
        self.meet("c", set())
        self.wait(3600.0)

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.Send) and isinstance(action.message, m.Want):
                self.wants.append((action.device, action.message))
            elif isinstance(action, e.Store):
                piece = RELEASE.maps[action.pack].pieces[action.piece]
                self.feed(
                    e.Stored(
                        action.image, piece.target_offset, piece.target_stop, e.How.PEER, pack=action.pack,
                        pieces=(action.piece,), device=action.source, kept=True,
                    )
                )  # fmt: skip

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.node.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.feed(e.Tick())
        self.now = until

    def meet(self, device: str, has: set[int], *, carrier: bool = False) -> None:
        self.feed(e.PeerConnected(device, "", carrier))
        self.hear(device, m.Hello(PROTOCOL, "station", 1, False))
        self.hear(device, m.Have(RELEASE.task_image, PACK, PIECES, pack_bitmap(has, PIECES)))
        self.hear(device, m.Join(RELEASE.task_image, None, False, 100, has == ALL))

    def hear(self, device: str, message: m.Message) -> None:
        self.feed(e.Received(device, message))

    def answer(self) -> tuple[str, int]:
        """The next request is answered; by whom, and which piece."""
        device, want = self.wants.pop(0)
        size = RELEASE.maps[PACK].pieces[want.piece].wire_size
        self.hear(device, m.Piece(want.request, bytes(size)))
        return device, want.piece

    def asked(self, device: str) -> list[int]:
        return [want.piece for whom, want in self.wants if whom == device]


def test_each_device_asks_a_carrier_for_its_own_part_of_what_only_that_has() -> None:
    site = Site()
    site.meet("van", ALL, carrier=True)
    got = []
    for _ in range(PIECES // 3):
        site.wait(5.0)
        got.append(site.answer())
    assert got == [("van", n) for n in range(PIECES) if n % 3 == 1]


def test_it_asks_others_only_for_what_is_left_and_keeps_the_carrier_busy() -> None:
    """A slow network: there is room for two pieces on their way."""
    site = Site()
    site.meet("van", ALL, carrier=True)
    for _ in range(4):
        site.wait(6.0)
        site.answer()
        site.hear("a", m.HaveMore(RELEASE.task_image, PACK, (0, 3, 6)))
        assert site.asked("a") == []
        assert len(site.asked("van")) == BUSY_WITH
    site.wants.clear()
    site.feed(e.PeerLost("van"))
    site.wait(1.0)
    assert site.asked("a")


def test_a_carrier_is_not_asked_for_what_another_has() -> None:
    site = Site()
    site.hear("a", m.HaveMore(RELEASE.task_image, PACK, tuple(n for n in range(PIECES) if n != 4)))
    site.meet("van", ALL, carrier=True)
    site.wait(2.0)
    assert site.asked("van") == [4]


def test_what_another_has_taken_on_and_does_not_come_to_is_asked_for_in_the_end() -> None:
    site = Site()
    site.meet("van", ALL, carrier=True)
    got = set()
    for _ in range(600):
        site.wait(1.0)
        while site.wants:
            got.add(site.answer()[1])
    assert got == ALL


def test_a_silent_carrier_keeps_nobody_waiting_for_long() -> None:
    site = Site()
    site.hear("a", m.HaveMore(RELEASE.task_image, PACK, (0, 3, 6)))
    site.meet("van", ALL - {0, 3, 6}, carrier=True)
    site.wait(60.0)
    assert set(site.asked("a")) <= {0, 3, 6}
    assert site.asked("a")


@pytest.mark.parametrize(("visits", "stays_s"), [(True, 0.0), (False, VISIT_S + 1.0)])
def test_who_stays_is_a_peer_like_others_and_so_is_one_carrier_to_another(
    visits: bool, stays_s: float
) -> None:
    site = Site(visits=visits)
    site.meet("van", set(), carrier=True)
    site.wait(stays_s)
    site.hear("van", m.HaveMore(RELEASE.task_image, PACK, tuple(range(PIECES))))
    got = []
    for _ in range(10):
        site.wait(0.1)
        got.append(site.answer()[1])
    assert any(n % 3 != 1 for n in got)
