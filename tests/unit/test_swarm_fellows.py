"""Few devices of a larger site at one image: those between them introduce them to each other."""

from __future__ import annotations

import random

import pytest

from p2p.content.digests import Digest
from p2p.content.limits import MIB
from p2p.swarm import SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.fellows import FELLOWS_MAX, NAMED_MAX, WAIT_S
from p2p.swarm.wire import PROTOCOL
from tests.support.virtual_site import make_release

LINKS_MAX = 6
RELEASE = make_release(MIB, {})
IMAGE = RELEASE.task_image


class Site:
    """One node, which keeps six connections, and its peers."""

    def __init__(self, peers: int = LINKS_MAX) -> None:
        self.node = SwarmNode(
            device="me", site="depot", port=1, rng=random.Random(1), links_max=LINKS_MAX
        )  # fmt: skip
        self.now = 0.0
        self.said: list[tuple[str, m.Message]] = []
        self.fellows: tuple[str, ...] | None = None
        for n in range(peers):
            self.meet(f"d{n}")

    def feed(self, event: e.Event) -> None:
        for action in self.node.handle(event, self.now):
            if isinstance(action, e.Send):
                self.said.append((action.device, action.message))
            elif isinstance(action, e.Fellows):
                self.fellows = action.devices

    def meet(self, device: str, *, host: str = "10.0.0.1", port: int = 7) -> None:
        self.feed(e.PeerConnected(device, host))
        self.hear(device, m.Hello(PROTOCOL, "depot", port, True))

    def hear(self, device: str, message: m.Message) -> None:
        self.feed(e.Received(device, message))

    def join(self, device: str, *, complete: bool = False) -> None:
        self.hear(device, m.Join(IMAGE, None, True, 100, complete))

    def pass_by(self, seconds: float) -> None:
        """Let time pass, as the node's deadlines say."""
        until = self.now + seconds
        while (due := self.node.deadline()) is not None and due <= until:
            self.now = due
            self.feed(e.Tick())
        self.now = until

    def wait(self, seconds: float = WAIT_S) -> dict[str, set[str]]:
        """Who is told of whom meanwhile, by name and by address alike."""
        self.said.clear()
        self.pass_by(seconds)
        names: dict[str, set[str]] = {}
        addresses: dict[str, set[str]] = {}
        for device, message in self.said:
            if isinstance(message, m.Hearsay) and message.claims:
                names.setdefault(device, set()).update(c.device for c in message.claims)
            elif isinstance(message, m.Peers):
                addresses.setdefault(device, set()).update(p[0] for p in message.peers)
        assert names == addresses
        return names


def tale(*devices: str) -> m.Hearsay:
    claims = [m.Claim(d, 0, None, True, 100, False, None, ()) for d in devices]
    return m.Hearsay(IMAGE, tuple(claims))


def test_who_is_not_at_an_image_introduces_those_that_are() -> None:
    site = Site()
    site.join("d0")
    assert site.wait() == {}
    site.join("d1")
    assert site.wait() == {"d0": {"d1"}, "d1": {"d0"}}
    assert site.wait(60.0) == {}


def test_each_is_named_to_a_few() -> None:
    site = Site()
    for n in range(LINKS_MAX):
        site.join(f"d{n}")
        told = site.wait()
        assert all(len(names) <= NAMED_MAX for names in told.values())
    assert told["d5"] == {"d4", "d3", "d2"}


def test_one_that_is_complete_is_named_to_others_and_told_of_nobody() -> None:
    site = Site()
    site.join("d0")
    site.join("d1", complete=True)
    assert site.wait() == {"d0": {"d1"}}


def test_in_a_site_where_everybody_knows_everybody_nobody_is_introduced() -> None:
    site = Site(LINKS_MAX // 2 - 1)
    site.join("d0")
    site.join("d1")
    assert site.wait() == {}


def test_who_is_soon_at_the_image_itself_introduces_nobody() -> None:
    site = Site()
    site.join("d0")
    site.join("d1")
    site.feed(e.Pursue(RELEASE.task(None), ()))
    site.said.clear()
    site.pass_by(WAIT_S)
    assert not any(isinstance(message, m.Peers) for _, message in site.said)


@pytest.mark.parametrize(("host", "port"), [("", 1), ("fe80::1%eth0", 1), ("10.0.0.1", 0)])
def test_who_has_no_address_that_is_of_use_is_not_named(host: str, port: int) -> None:
    site = Site(LINKS_MAX - 1)
    site.meet("hidden", host=host, port=port)
    site.join("d0")
    site.join("hidden")
    assert site.wait() == {"hidden": {"d0"}}


def test_who_left_meanwhile_is_not_named() -> None:
    site = Site()
    site.join("d0")
    site.join("d1")
    site.hear("d1", m.Leave(IMAGE))
    assert site.wait() == {}


def test_who_is_named_is_preferred_until_the_image_is_dropped() -> None:
    site = Site()
    site.feed(e.Pursue(RELEASE.task(None), ()))
    site.hear("d0", tale("far"))
    site.hear("d1", tale("far", "d2", "me"))
    assert site.fellows == ("far", "d2")
    site.feed(e.Drop(IMAGE))
    assert site.fellows == ()


def test_word_of_who_is_at_the_image_itself_makes_nobody_a_fellow() -> None:
    site = Site()
    site.feed(e.Pursue(RELEASE.task(None), ()))
    site.join("d0")
    site.hear("d0", tale("far"))
    assert site.fellows is None


def test_who_names_many_is_heeded_for_a_few() -> None:
    site = Site()
    site.feed(e.Pursue(RELEASE.task(None), ()))
    site.hear("d0", tale(*(f"ghost-{n}" for n in range(6))))
    site.hear("d0", tale(*(f"phantom-{n}" for n in range(6))))
    assert site.fellows == tuple(f"ghost-{n}" for n in range(NAMED_MAX))
    for n in range(1, LINKS_MAX):
        site.hear(f"d{n}", tale(f"far-{n}a", f"far-{n}b"))
    assert len(site.fellows) == FELLOWS_MAX


def test_whom_a_few_invent_make_room_for_those_whom_others_name() -> None:
    site = Site()
    site.feed(e.Pursue(RELEASE.task(None), ()))
    for n in range(3):
        site.hear(f"d{n}", tale(*(f"ghost-{n}{k}" for k in range(NAMED_MAX))))
    assert site.fellows is not None
    assert len(site.fellows) == FELLOWS_MAX
    site.meet("ghost-00")  # it is there after all
    site.hear("d3", tale("far", "further"))
    assert {"far", "further", "ghost-00"} <= set(site.fellows)
    assert len(site.fellows) == FELLOWS_MAX
    before = site.fellows
    site.hear("d0", tale("another"))
    assert site.fellows == before, "who has told of as many takes nobody's place"


def test_one_that_is_out_of_the_fleet_is_nobodys_fellow() -> None:
    site = Site()
    site.feed(e.Pursue(RELEASE.task(None), ()))
    site.feed(e.Barred(frozenset({"thief"})))
    site.hear("d0", tale("thief"))
    assert site.fellows is None


def test_another_image_is_not_introduced_to() -> None:
    site = Site()
    site.join("d0")
    site.hear("d1", m.Join(Digest(bytes(32)), None, True, 100, False))
    assert site.wait() == {}
