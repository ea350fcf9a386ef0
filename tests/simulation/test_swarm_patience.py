"""For how long a site waits for devices that promise and bring nothing, however many they are.

Each bound is a few times what honest peers may need, and stays where it is when there are more liars. The
positive twin of each is the same site without them, which needs no more than its link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from p2p.content.limits import MIB, PART_SIZE_MIN, PRICE_MAX
from p2p.swarm import events as e
from p2p.swarm import messages as m
from tests.simulation.test_swarm_hostile import (
    ANSWERS,
    BASE,
    alone_s,
    everything,
    gateway,
    join,
    liar,
    run,
    site_of,
)
from tests.simulation.test_swarm_large import finish, names, random_graph, start
from tests.simulation.test_swarm_large import site_of as large
from tests.support.virtual_site import Site, make_release

EACH_S = 8 + 20 * MIB / 1e6
"""The patience with a lease on frames of 1 MiB, once frames are known to come with 1 MB/s and more."""


def test_the_same_site_without_liars_needs_no_more_than_its_link() -> None:
    site = site_of(2)
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 5


@pytest.mark.parametrize("greedy", [2, 5, 8])
def test_greedy_gateways_do_not_take_the_places_of_those_who_are_called_instead(greedy: int) -> None:
    site = site_of(2)
    for n in range(greedy):
        gateway(site, f"greedy{n}", renew_s=1.0)
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + 30 + EACH_S + 15


@pytest.mark.parametrize("came", [5_000, 200_000])
def test_greedy_gateways_that_say_that_bytes_come_take_no_more_time_each_than_it_takes_to_call_another(
    came: int,
) -> None:
    site = site_of(2)
    for n in range(5):
        gateway(site, f"greedy{n}", renew_s=1.0, came=came)
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + 5 * 30 + EACH_S + 15


@pytest.mark.parametrize(("came", "until_s"), [(0, 8.0), (5_000, 3 * MIB / 5_000)])
def test_who_holds_a_lease_is_taken_for_one_that_fetches_for_as_long_as_what_it_says_allows(
    came: int, until_s: float
) -> None:
    """So long nobody else is called in its place: at first for as long as a fetch may be silent, then by its
    own pace. That it says so again, of another lease, begins nothing anew."""
    site = site_of(1)
    gateway(site, "greedy", renew_s=1.0, came=came)
    site.connect_all()
    driver = site.honest[0]
    driver.pursue()
    leases = driver.node._pursuits.all[0].gateway._leases
    moved = []
    for at in range(1, int(until_s) + 60):
        site.run(float(at))
        if "greedy" in leases.moving():
            moved.append(at)
    assert until_s / 4 <= max(moved) <= until_s + 5


def test_who_brought_nothing_once_is_no_gateway_and_is_waited_for_less_the_next_time() -> None:
    """Its leases are on what is fetched last, for as long as it is believed again."""
    site = site_of(2, release=make_release(192 * MIB, {}))
    for n in range(3):
        gateway(site, f"greedy{n}", renew_s=1.0)
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + 30 + EACH_S + 15


@pytest.mark.parametrize("liars", [2, 8])
def test_however_many_say_that_they_are_complete_they_are_believed_for_one_time(liars: int) -> None:
    site = site_of(2)
    for n in range(liars):
        liar(site, f"liar{n}", ANSWERS["silent"], complete=True)
    gateway(site, "greedy", renew_s=1.0)  # while it has a lease, nobody loses patience with the site
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + 60 + 30 + EACH_S + 15


def test_a_promise_that_was_made_before_the_image_was_wanted_is_no_new_one_when_it_is_made_again() -> None:
    site = site_of(1)
    driver = site.honest[0]
    liar(site, "mallory", ANSWERS["silent"], complete=True)
    site.connect_all()
    site.run(5)
    driver.pursue()
    conduct = driver.node._pursuits.all[0].image.site.conduct("mallory")
    said_at = conduct.complete_at
    assert said_at is not None and said_at < 1
    site.disconnect("mallory", "d0")
    site.run(7)
    assert "mallory" in driver.node._context.peers
    assert conduct.complete_at == said_at


def leaving(site: Site, device: str, at_s: float) -> None:
    """Says that it is complete, gives nothing, and goes away, as one does that starts anew."""
    release = site.release

    def leave() -> Iterable[m.Message]:
        return [m.Leave(release.task_image)] if site.now >= at_s else []

    hostile = site.add_hostile(device, lambda peer: [join(release, complete=True)] if site.now < 1 else [])
    hostile.every(at_s, leave)


@pytest.mark.parametrize("liars", [1, 6])
def test_those_who_leave_and_gave_nothing_are_all_waited_for_once(liars: int) -> None:
    site = site_of(2)
    for n in range(liars):
        leaving(site, f"liar{n}", 8.0 + 50 * n)
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + 8 + 60 + 15


def test_what_a_liar_that_is_not_believed_says_it_has_does_not_lead_the_site_to_the_larger_pack() -> None:
    release = make_release(64 * MIB, {BASE: 4 * MIB})
    site = site_of(2, release=release, base=BASE)
    for n in range(3):
        liar(site, f"liar{n}", ANSWERS["silent"], complete=True)  # of the full pack, whose index nobody needs
    assert run(site) <= 1.005
    assert site.now <= alone_s(site) + 8 + 4 + 10


def test_who_has_the_image_is_asked_for_it_while_others_say_that_they_have_the_patches() -> None:
    release = make_release(8 * MIB, {BASE: MIB})
    site = site_of(1, release=release, base=BASE)
    small, full = release.pack(BASE).index.sha256, release.pack(None).index.sha256
    for n in range(10):
        site.add_hostile(f"liar{n}", lambda peer: [everything(release, small), join(release, complete=True)])
    whole = site.add("whole", release, BASE)
    whole.slot.add(0, release.size)
    whole.finished_at = 0.0
    whole.feed(e.HoldObject(full, release.objects[full]))
    whole.feed(e.Offer(release.task(BASE)))
    rider = site.drivers["d0"]
    rider.pursue()
    site.connect_all()
    assert site.run(600, done=lambda: rider.finished_at is not None)
    assert site.wan_bytes <= sum(pack.index.size for pack in release.task(BASE).packs)
    assert site.now <= 30 + 30


@pytest.mark.parametrize("begin", [True, False], ids=["they take leases", "they do nothing"])
@pytest.mark.parametrize("liars", [2, 6])
def test_uplinks_that_are_said_to_cost_nothing_and_bring_nothing_are_waited_for_once(
    liars: int, begin: bool
) -> None:
    """Beside one that is said to cost more than any: who says no price is taken to be as dear."""
    site = site_of(6)
    release = site.release
    pack = release.pack(None).index.sha256

    def say(price: int) -> list[m.Message]:
        return [m.Join(release.task_image, None, True, 1000, False), m.Uplink(price, 0, ())]

    def leases() -> list[m.Message]:
        return [m.Lease(release.task_image, pack, n, 4 * n, 4 * n + 1) for n in range(2 * begin)]

    site.add_hostile("dear", lambda peer: say(PRICE_MAX))
    for n in range(liars):
        site.add_hostile(f"free{n}", lambda peer: say(0)).every(1.0, leases)
    assert run(site, 2000) <= 1.05
    assert site.now <= alone_s(site) + (30 + EACH_S + 15 if begin else 4 * 30)


def trickling(site: Site, device: str, end: str) -> None:
    """It has the image, and sends the patch that it is asked for slowly, in parts, but never the last.

    `end`: what it does instead, to be asked anew.
    """
    release = site.release
    pack = release.pack(BASE).index.sha256
    size = release.maps[pack][0].wire_size

    def say(peer: str) -> Sequence[m.Message]:
        return [everything(release, pack), join(release, complete=True)]

    def answer(peer: str, message: m.Message) -> Iterable[m.Message]:
        if isinstance(message, m.ObjectWant) and message.digest in release.objects:
            return [m.Blob(message.request, release.objects[message.digest])]
        if isinstance(message, m.Want):
            send(peer, message.request, size // PART_SIZE_MIN - 1)
        return ()

    def send(peer: str, request: int, parts: int) -> None:
        if parts and peer in hostile.peers:
            hostile.send(peer, m.Part(request, size, bytes(PART_SIZE_MIN)))
            site.at(site.now + 3.0, lambda: send(peer, request, parts - 1))
        elif peer in hostile.peers and end == "parts":
            site.disconnect(device, peer)
        elif peer in hostile.peers and end == "leaves":
            for message in (m.Leave(release.task_image), *say(peer)):
                hostile.send(peer, message)

    hostile = site.add_hostile(device, say, answer)


@pytest.mark.parametrize("end", ["parts", "leaves", "is silent"])
@pytest.mark.parametrize(("honest", "liars"), [(2, 1), (2, 4), (8, 4)])
def test_large_pieces_that_never_are_whole_hold_a_site_up_for_the_time_of_one(
    honest: int, liars: int, end: str
) -> None:
    site = site_of(honest, release=make_release(8 * MIB, {BASE: MIB}), base=BASE)
    for n in range(liars):
        trickling(site, f"liar{n}", end)
    assert run(site, 4000) <= 1.1
    assert site.now <= alone_s(site) + 10 + MIB / 4096 + 2 * 30 + 15


# Devices that are only told of (in a site that is larger than the connections of a node)


def far_site(names_of: Callable[[float], Sequence[str]], every_s: float) -> Site:
    """Twenty honest devices, and one that tells a few of them of others that are complete, always anew."""
    release = make_release(16 * MIB, {})
    site = large(20, release)
    image, pack = release.task_image, release.pack(None).index.sha256

    def tale() -> list[m.Message]:
        claims = [m.Claim(name, 0, None, True, 1000, True, pack, ()) for name in names_of(site.now)]
        return [m.Hearsay(image, tuple(claims))] if claims else []

    hostile = site.add_hostile("liar", lambda peer: [m.Join(image, None, False, 0, False), *tale()])
    hostile.every(every_s, tale)
    gateway(site, "greedy", renew_s=1.0)  # while it has a lease, nobody loses patience with the site
    links = random_graph(names(site), 8)
    links += [(other, to) for other in ("greedy", "liar") for to in names(site)]
    start(site, links)
    return site


TALES: dict[str, Callable[[float], Sequence[str]]] = {
    "nobody": lambda now: (),
    "the-same": lambda now: ("ghost",),
    "always-others": lambda now: (f"ghost{int(now / 10)}", f"ghost{int(now / 10) + 1}"),
    "with-pauses": lambda now: (f"ghost{int(now / 25)}",) if now % 25 < 1 else (),
}


@pytest.mark.parametrize("tale", list(TALES))
def test_who_tells_of_ever_new_devices_that_are_complete_buys_the_time_of_the_first(tale: str) -> None:
    site = far_site(TALES[tale], every_s=0.5)
    assert finish(site, 2000) <= 1.6
    alone = site.release.pack(None).wan_bytes / site.wan_rate
    assert site.now <= alone + 30 + EACH_S + (0 if tale == "nobody" else 60), tale
