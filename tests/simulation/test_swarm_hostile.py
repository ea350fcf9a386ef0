"""Hostile devices with certificates of the fleet: every honest device finishes, at a bounded price.

Each attack names what the site must do about it. The positive twin of all of them is the last test's
site: the same devices, all honest, where nobody is parted with and one copy crosses the WAN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.limits import MIB
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.wire import pack_bitmap
from tests.support.virtual_site import BAD, Driver, Hostile, Release, Site, make_release

SIZE = 16 * MIB
BASE = Digest(b"b" * 32)
JUNK = Digest(b"j" * 32)

Answer = Callable[[str, m.Message], Iterable[m.Message]]


def site_of(honest: int, *, release: Release | None = None, base: Digest | None = None) -> Site:
    release = release or make_release(SIZE, {})
    site = Site()
    for n in range(honest):
        site.add(f"d{n}", release, base)
    site.release = release
    return site


def run(site: Site, until: float = 600) -> float:
    """Start everybody, run to the end; WAN bytes as a multiple of what one device alone would pay."""
    for driver in site.honest:
        driver.pursue()
    site.connect_all()
    done = site.run(until, done=site.finished)
    assert not site.violations
    assert done, f"unfinished at {site.now:.0f} s: {[d.device for d in site.honest if not d.finished_at]}"
    return site.wan_bytes / site.release.pack(site.honest[0].base).wan_bytes


def alone_s(site: Site) -> float:
    return site.release.pack(site.honest[0].base).wan_bytes / site.wan_rate


def reasons(site: Site, device: str) -> set[str]:
    """Why honest devices parted with one."""
    return {reason for d in site.honest for name, reason in d.parted if name == device}


def join(release: Release, *, complete: bool = False, wan: bool = True, weight: int = 1000) -> m.Join:
    return m.Join(release.task_image, None, wan, weight, complete)


def everything(release: Release, pack: Digest) -> m.Have:
    total = len(release.maps[pack])
    return m.Have(release.task_image, pack, total, pack_bitmap(set(range(total)), total))


def silent(peer: str, message: m.Message) -> Iterable[m.Message]:
    return ()


def refusing(reason: m.Refusal) -> Answer:
    def answer(peer: str, message: m.Message) -> Iterable[m.Message]:
        if isinstance(message, m.Want | m.ObjectWant | m.MetadataWant):
            yield m.Refuse(message.request, reason)

    return answer


def poisoning(peer: str, message: m.Message) -> Iterable[m.Message]:
    if isinstance(message, m.Want):
        yield m.Piece(message.request, BAD[: 128 * 1024])
    elif isinstance(message, m.ObjectWant):
        yield m.Refuse(message.request, m.Refusal.DONT_HAVE)


ANSWERS: dict[str, Answer] = {
    "silent": silent,
    "dont-have": refusing(m.Refusal.DONT_HAVE),
    "failed": refusing(m.Refusal.FAILED),
    "busy": refusing(m.Refusal.BUSY),
    "garbage": poisoning,
}


def liar(site: Site, device: str, answer: Answer, *, complete: bool = False) -> Hostile:
    """Says that it has everything; `complete`: and that it is done, too."""
    release = site.release
    pack = release.pack(None).index.sha256
    return site.add_hostile(
        device, lambda peer: [everything(release, pack), join(release, complete=complete)], answer
    )


@pytest.mark.parametrize("complete", [False, True], ids=["incomplete", "complete"])
@pytest.mark.parametrize("answer", list(ANSWERS))
def test_a_lying_bitmap(answer: str, complete: bool) -> None:
    site = site_of(4)
    liar(site, "liar", ANSWERS[answer], complete=complete)
    price = run(site)
    assert price <= 1.1
    assert site.now <= 3 * alone_s(site) + 45
    assert reasons(site, "liar") <= ({"bad-piece"} if answer == "garbage" else {"unresponsive"})
    if answer == "garbage":
        assert all(d.banned == {"liar": "bad-piece"} for d in site.honest if d.parted)
        assert reasons(site, "liar") == {"bad-piece"}
    for driver in site.honest:
        assert "liar" not in driver.node.ledger.peers


def test_a_peer_that_says_it_is_complete_and_gives_nothing() -> None:
    site = site_of(4)
    site.add_hostile("liar", lambda peer: [join(site.release, complete=True)])
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 25


def test_a_delta_device_does_not_pay_the_full_image_for_a_liar() -> None:
    release = make_release(64 * MIB, {BASE: MIB})
    site = site_of(3, release=release, base=BASE)
    site.add_hostile("liar", lambda peer: [join(release, complete=True)])
    run(site)
    assert site.wan_bytes <= release.pack(BASE).wan_bytes + release.pack(None).index.size


def gateway(
    site: Site, device: str, *, renew_s: float | None, have_more: bool = False, came: int = 0
) -> Hostile:
    """Takes leases on all it can and delivers nothing; `came`: bytes that it says come a second."""
    release = site.release
    pack = release.pack(None).index.sha256

    def leases() -> list[m.Message]:
        said: list[m.Message] = [
            m.Lease(release.task_image, pack, slot, 8 * slot, min(8 * slot + 8, 16), int(came * site.now))
            for slot in range(2)
        ]
        if have_more:
            said.append(m.HaveMore(release.task_image, pack, (0, 64)))
        return said

    hostile = site.add_hostile(device, lambda peer: [join(release), *leases()])
    if renew_s is not None:
        hostile.every(renew_s, leases)
    return hostile


def test_a_gateway_that_takes_leases_and_says_nothing_more() -> None:
    site = site_of(4)
    gateway(site, "mallory", renew_s=None)
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 2 + site.honest[0].node._context.policy.stall_s + 5


@pytest.mark.parametrize("have_more", [False, True], ids=["leases", "haves"])
def test_a_gateway_that_renews_its_leases_for_ever(have_more: bool) -> None:
    site = site_of(4)
    gateway(site, "mallory", renew_s=1.0, have_more=have_more)
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 50, "what it claims beyond one run is fetched, and shows the rate"


def test_a_lease_must_be_small_and_inside_the_pack() -> None:
    release = make_release(SIZE, {})
    pack = release.pack(None).index.sha256
    frames = len(release.maps[pack].index.frames)
    for stop, refused in ((8, False), (9, True), (frames + 1, True)):
        start = frames if stop > frames else 0
        site = site_of(2, release=release)
        lease = m.Lease(release.task_image, pack, 0, start, stop)
        site.add_hostile("mallory", lambda peer, lease=lease: [join(release), lease])
        run(site)
        assert reasons(site, "mallory") == ({"bad-lease"} if refused else set())


@pytest.mark.parametrize("known", [False, True], ids=["before-the-index", "after-it"])
def test_a_bitmap_must_fit_its_index(known: bool) -> None:
    release = make_release(SIZE, {})
    image, pack = release.task_image, release.pack(None).index.sha256
    total = len(release.maps[pack])
    cases = [
        (m.Have(image, pack, total, pack_bitmap(set(), total)), set()),
        (m.Have(image, pack, total + 8, pack_bitmap(set(), total + 8)), {"bad-have"}),
        (m.Have(image, pack, total - 8, pack_bitmap(set(), total - 8)), {"bad-have"}),
        (m.HaveMore(image, pack, (total - 1,)), set()),
        (m.HaveMore(image, pack, (total,)), {"bad-have"}),
        (m.HaveMore(image, JUNK, (limits.PIECES_PER_PACK_MAX - 1,)), set()),
    ]
    for message, expected in cases:
        site = site_of(2, release=release)
        mallory = site.add_hostile(
            "mallory", lambda peer, x=message: [join(release)] if known else [x, join(release)]
        )
        if known:
            site.at(
                4.0, lambda mallory=mallory, x=message: [mallory.send(d, x) for d in sorted(mallory.peers)]
            )
        run(site)
        assert reasons(site, "mallory") == expected, message


def test_poison_is_banned_refetched_and_never_relayed() -> None:
    site = site_of(3)
    poisoner = site.add("poisoner", site.release, weight=1000)
    poisoner.serve = lambda action: m.Piece(action.request, BAD[: 128 * 1024])
    run(site)
    honest = [d for d in site.honest if d is not poisoner]
    assert sum(d.wan_bytes for d in honest) <= 1.05 * site.release.pack(None).wan_bytes
    assert all(d.banned.get("poisoner", "bad-piece") == "bad-piece" for d in honest)
    assert any(d.banned for d in honest)
    assert {name for d in honest for name in d.banned} == {"poisoner"}  # nobody passed bad bytes on
    indexes = 3 * site.release.pack(None).index.size  # those it passed on as they are
    assert sum(d.node.ledger.peers.get("poisoner", 0) for d in honest) <= indexes


def test_a_poisoner_that_leaves_before_it_is_found_out_is_banned_all_the_same() -> None:
    site = site_of(1)
    node = site.honest[0]
    liar(site, "liar", poisoning)
    node.pursue()
    site.connect_all()
    for tick in range(10_000):
        site.run(tick * 0.001, done=lambda: any(p.image.wanted.storing for p in node.node._pursuits))
        if any(k for k in node.node._pursuits if k.image.wanted.storing):
            site.drivers["liar"].up = False
            node.feed(e.PeerLost("liar"))
    assert node.banned == {"liar": "bad-piece"}


def test_a_poisoned_object_is_banned_and_fetched_elsewhere() -> None:
    def answer(peer: str, message: m.Message) -> Iterable[m.Message]:
        if isinstance(message, m.ObjectWant):
            yield m.Blob(message.request, bytes(message.size))

    site = site_of(4)
    for n in range(4):
        site.add_hostile(f"liar{n}", lambda peer: [join(site.release)], answer)
    assert run(site) <= 1.05
    found = {r for n in range(4) for r in reasons(site, f"liar{n}")}
    assert found == {"bad-object"}


def test_peers_that_never_answer_for_objects_cost_seconds() -> None:
    site = site_of(2)
    for n in range(6):
        site.add_hostile(f"mute{n}", lambda peer: [join(site.release, weight=0)])
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 25


def test_nine_of_ten_are_hostile() -> None:
    site = site_of(1)
    release = site.release
    for n, answer in enumerate(ANSWERS.values()):
        liar(site, f"liar{n}", answer, complete=n % 2 == 0)
    gateway(site, "gate0", renew_s=None)
    gateway(site, "gate1", renew_s=None)
    site.add_hostile("claims", lambda peer: [join(release, complete=True)])
    site.add_hostile("mute", lambda peer: [join(release, weight=0)])
    assert run(site) <= 1.1
    assert site.now <= 5 * alone_s(site) + 60


UNASKED: dict[str, tuple[m.Message, str]] = {
    "piece": (m.Piece(7, b"x"), "protocol"),
    "blob": (m.Blob(7, b"x"), "protocol"),
    "refuse": (m.Refuse(7, m.Refusal.BUSY), "protocol"),
    "hello-again": (m.Hello(1, "site", 1, True), "protocol"),
    "bye": (m.Bye("going"), "bye"),
}


@pytest.mark.parametrize("kind", list(UNASKED))
def test_what_was_not_asked_for_parts(kind: str) -> None:
    message, reason = UNASKED[kind]
    site = site_of(2)
    site.add_hostile("mallory", lambda peer: [join(site.release), message])
    site.add_hostile("quiet", lambda peer: [join(site.release, weight=0)])
    assert run(site) <= 1.05
    assert reasons(site, "mallory") == {reason}
    assert reasons(site, "quiet") == set()


HELLOS: dict[str, tuple[list[m.Message], str | None]] = {
    "right": ([m.Hello(1, "site", 1, True), m.News(0, 0)], None),
    "other-site": ([m.Hello(1, "elsewhere", 1, True)], "other-site"),
    "other-protocol": ([m.Hello(2, "site", 1, True)], "protocol-version"),
    "none": ([m.News(0, 0), m.Hello(1, "site", 1, True)], "protocol"),
}


@pytest.mark.parametrize("kind", list(HELLOS))
def test_hello_comes_first_and_fits(kind: str) -> None:
    messages, reason = HELLOS[kind]
    site = site_of(2)
    site.add_hostile("mallory", lambda peer: messages, hello=False)
    assert run(site) <= 1.05
    assert reasons(site, "mallory") == ({reason} if reason else set())
    assert reasons(site, "d0") | reasons(site, "d1") == set()


def test_a_blob_for_a_piece_does_not_hold_the_piece_back() -> None:
    def answer(peer: str, message: m.Message) -> Iterable[m.Message]:
        if isinstance(message, m.Want):
            yield m.Blob(message.request, b"x")

    site = site_of(2)
    liar(site, "liar", answer)
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 15
    assert reasons(site, "liar") == {"protocol"}


def test_leaving_with_requests_open_does_not_hold_pieces_back() -> None:
    def answer(peer: str, message: m.Message) -> Iterable[m.Message]:
        if isinstance(message, m.Want):
            yield m.Leave(message.image)

    site = site_of(2)
    liar(site, "leaver", answer)
    assert run(site) <= 1.05
    assert site.now <= alone_s(site) + 15


def test_a_storm_of_wants_is_served_within_the_queue() -> None:
    site = site_of(2)
    release = site.release
    pack = release.pack(None).index.sha256
    storm = site.add_hostile("storm", lambda peer: [join(release, weight=0)])
    served = {d.device: 0 for d in site.honest}

    def wants() -> Iterable[m.Message]:
        return [m.Want(n, release.task_image, pack, n % 128) for n in range(300)]

    def check() -> None:
        for driver in site.honest:
            peer = driver.node._context.peers.get("storm")
            served[driver.device] = max(served[driver.device], peer.serving if peer else 0)
        site.at(site.now + 0.005, check)

    storm.every(1.0, wants)
    site.at(3.0, check)
    assert run(site) <= 1.05
    assert 0 < max(served.values()) <= site.honest[0].node._context.policy.serve_queue_max
    busy = [x for x in storm.heard if isinstance(x, m.Refuse) and x.reason is m.Refusal.BUSY]
    assert busy


def test_a_storm_of_object_wants_costs_a_bounded_part_of_the_wan() -> None:
    release = make_release(SIZE, {})
    site = site_of(1, release=release)
    for n in range(8):  # real objects, as large as they may be
        data = n.to_bytes(4, "big") * MIB
        site.objects[sha256(data)] = data
    large = [(name, len(data)) for name, data in site.objects.items() if len(data) == 4 * MIB]
    storm = site.add_hostile("storm", lambda peer: [join(release, weight=0)])
    counter = iter(range(1 << 30))
    pending = [0]

    def wants() -> Iterable[m.Message]:
        for name, size in large:
            yield m.ObjectWant(next(counter), name, size)
        for _ in range(40):
            yield m.ObjectWant(next(counter), sha256(str(next(counter)).encode()), 4096)

    def check() -> None:
        exchange = site.honest[0].node._objects
        pending[0] = max(pending[0], len(exchange._wanted))
        assert all(len(w.waiters) <= 16 for w in exchange._wanted.values())
        site.at(site.now + 0.1, check)

    storm.every(0.5, wants)
    site.at(0.1, check)
    run(site)
    site.run(120)
    policy = site.honest[0].node._context.policy
    allowed = policy.object_peer_bytes + 120 * policy.object_peer_rate
    assert 0 < site.wan_bytes - release.pack(None).wan_bytes <= allowed
    assert site.object_requests * 4096 <= allowed
    assert 0 < pending[0] <= policy.object_per_peer_max
    assert any(isinstance(x, m.Blob) for x in storm.heard)
    assert any(isinstance(x, m.Refuse) and x.reason is m.Refusal.BUSY for x in storm.heard)


def test_a_wrong_size_in_a_peers_want_does_not_spoil_our_own() -> None:
    release = make_release(SIZE, {})
    name = release.pack(None).index.sha256
    site = site_of(1, release=release)
    site.add_hostile("liar", lambda peer: [m.ObjectWant(n, name, 1) for n in range(3)])
    site.connect_all()
    site.run(0.01)
    site.honest[0].feed(e.WantObject(name, release.pack(None).index.size))
    run(site)
    assert site.honest[0].ready == {name: release.objects[name]}
    assert not site.honest[0].failed


FLOODS: dict[str, Callable[[int], m.Message]] = {
    "join": lambda n: m.Join(sha256(str(n).encode()), None, True, 1, False),
    "lease": lambda n: m.Lease(sha256(str(n).encode()), JUNK, 0, 0, 1),
    "have": lambda n: m.Have(JUNK, sha256(str(n).encode()), 1 << 18, bytes(1 << 15)),
    "have-empty": lambda n: m.Have(JUNK, sha256(str(n).encode()), 0, b""),
    "have-more": lambda n: m.HaveMore(JUNK, sha256(str(n).encode()), ((1 << 16) - 1,)),
}


@pytest.mark.parametrize("kind", list(FLOODS))
def test_a_flood_of_announcements_parts_before_it_costs_memory(kind: str) -> None:
    site = site_of(2)
    few = 8
    site.add_hostile("modest", lambda peer: [join(site.release, weight=0), *map(FLOODS[kind], range(few))])
    site.add_hostile(
        "flood",
        lambda peer: [
            join(site.release, weight=0),
            *map(FLOODS[kind], range(3000)),
        ],
    )
    assert run(site) <= 1.05
    assert reasons(site, "flood") == {"flood"}
    assert reasons(site, "modest") == set()


def test_the_twin_all_honest() -> None:
    site = site_of(10)
    assert run(site) <= 1.005
    assert site.now <= alone_s(site) + 3
    assert all(not d.parted and not d.banned for d in site.honest)
    site.run(site.now + 5)
    site.check_ledgers()


def test_the_most_eager_driver_is_a_driver() -> None:
    """The hostile devices are no nodes: their `finished_at` never makes a site finished."""
    site = site_of(1)
    liar(site, "liar", silent)
    assert [type(d) for d in site.drivers.values()] == [Driver, Hostile]
    assert not site.finished()
