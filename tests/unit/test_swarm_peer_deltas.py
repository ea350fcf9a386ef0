"""What a node does about peer deltas, by messages: whom it answers, whom it asks, what it holds back."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from p2p.content.digests import Digest, sha256
from p2p.content.limits import MIB, PEER_DELTAS_PER_PEER_MAX, PEER_DELTAS_WAITING_MAX
from p2p.swarm import delta_asking
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Rng
from p2p.swarm.cost import USUAL, Weights
from p2p.swarm.delta_making import SPARE, delta_name, delta_pack
from p2p.swarm.node import SwarmNode
from p2p.swarm.policy import PeerDeltas, Policy
from p2p.swarm.wire import PROTOCOL, pack_bitmap
from tests.support.virtual_site import Release, make_release

BASE, OTHER = sha256(b"base"), sha256(b"other")
RELEASE = make_release(96 * MIB, {OTHER: MIB})
FULL = RELEASE.pack(None).index.sha256
PIECES = RELEASE.maps[FULL]
NAME = delta_name(FULL, BASE)
GROUPS = len(PIECES.groups)
ALL = pack_bitmap(set(range(len(PIECES))), len(PIECES))


@dataclass
class Bench:
    """One node and peers that are only messages."""

    node: SwarmNode
    now: float = 100.0
    requests: int = 0

    def feed(self, event: e.Event, *, after: float = 0.0) -> list[e.Action]:
        self.now += after
        return self.node.handle(event, self.now)

    def pass_time(self, seconds: float) -> list[e.Action]:
        """As a driver does: a tick at every deadline."""
        end, done = self.now + seconds, list[e.Action]()
        while (due := self.node.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            done += self.feed(e.Tick())
        self.now = end
        return done + self.feed(e.Tick())

    def tell(self, device: str, *messages: m.Message) -> list[e.Action]:
        return [action for message in messages for action in self.feed(e.Received(device, message))]

    def join(
        self, device: str, base: Digest | None = BASE, *, complete: bool = True, deltas: bool = True
    ) -> list[e.Action]:
        """A peer that says what a real one would."""
        actions = self.feed(e.PeerConnected(device))
        told: list[m.Message] = [m.Hello(PROTOCOL, "depot", 1, False)]
        if complete:
            told.append(m.Have(RELEASE.task_image, FULL, len(PIECES), ALL))
        if deltas:
            told.append(m.Have(RELEASE.task_image, NAME, 1, b"\1"))
        told.append(m.Join(RELEASE.task_image, base, False, 100, complete))
        return actions + self.tell(device, *told)


def bench(
    *, base: Digest | None = BASE, complete: bool = False, makes: bool = True,
    mode: PeerDeltas = PeerDeltas.UNPUBLISHED, release: Release = RELEASE, wan: bool = False,
    rng: Rng | None = None, weights: Weights = USUAL,
) -> Bench:  # fmt: skip
    policy = Policy(
        peer_deltas=mode, settle_s=1.0 if wan else 0.0, settle_silent_s=0.0, gather_s=0.0, join_s=0.0,
        cost=weights,
    )  # fmt: skip
    node = SwarmNode(
        device="me",
        site="depot",
        port=1,
        rng=rng or random.Random(1),
        policy=policy,
        wan=wan,
        recomputes=makes,
    )
    found = Bench(node)
    found.feed(e.HoldObject(FULL, release.objects[FULL]))
    task = release.task(base)
    found.feed(e.Offer(task) if complete else e.Pursue(task))
    return found


def sent(actions: list[e.Action], kind: type) -> list[tuple[str, m.Message]]:
    return [(a.device, a.message) for a in actions if isinstance(a, e.Send) and isinstance(a.message, kind)]


def delta_wants(actions: list[e.Action]) -> list[tuple[str, m.Want]]:
    return [
        (d, w) for d, w in sent(actions, m.Want) if isinstance(w, m.Want) and w.pack == NAME
    ]  # fmt: skip


def chunk_wants(actions: list[e.Action]) -> list[tuple[str, m.Message]]:
    return [(d, w) for d, w in sent(actions, m.Want) if isinstance(w, m.Want) and w.pack == FULL]


def settled(subject: Bench) -> Bench:
    subject.pass_time(1.0)
    return subject


# Making


def maker() -> Bench:
    found = settled(bench(complete=True))
    found.join("d1", complete=False, deltas=False)
    found.tell("d1", m.ObjectWant(77, FULL, RELEASE.pack(None).index.size))
    found.pass_time(5.0)
    return found


def want(group: int, request: int = 1) -> m.Want:
    return m.Want(request, RELEASE.task_image, NAME, group)


def refusals(actions: list[e.Action]) -> list[m.Message]:
    return [message for _, message in sent(actions, m.Refuse)]


def test_it_is_offered_in_a_way_that_old_nodes_leave_alone() -> None:
    """A `Have` of a pack that no manifest names; nothing that they would have to know."""
    told = bench(complete=True).join("d1", complete=False)
    haves = [h for d, h in sent(told, m.Have) if isinstance(h, m.Have) and h.pack == NAME]
    assert haves == 2 * [m.Have(RELEASE.task_image, NAME, 1, b"\1")]
    assert NAME not in {p.index.sha256 for p in RELEASE.packs}


@pytest.mark.parametrize(
    "subject",
    [
        bench(complete=True, makes=False), bench(), bench(complete=True, mode=PeerDeltas.OFF),
        bench(complete=True, base=None), bench(complete=True, base=OTHER),
    ],
    ids=["no-memory", "incomplete", "off", "no-base", "published"],
)  # fmt: skip
def test_who_cannot_offers_nothing(subject: Bench) -> None:
    told = subject.join("d1", complete=False)
    assert not [h for _, h in sent(told, m.Have) if isinstance(h, m.Have) and h.pack != FULL]


def test_a_request_is_made_once_and_counted_until_it_is_answered() -> None:
    subject = maker()
    made = [a for a in subject.tell("d1", want(2)) if isinstance(a, e.MakeDelta)]
    assert made == [
        e.MakeDelta("d1", 1, RELEASE.task_image, FULL, NAME, 2, PIECES.groups[2].start, PIECES.groups[2].stop)
    ]
    assert subject.node.needed(RELEASE.task_image)


def test_what_is_not_there_is_refused() -> None:
    assert refusals(maker().tell("d1", want(GROUPS))) == [m.Refuse(1, m.Refusal.DONT_HAVE)]


def test_who_says_that_it_has_another_base_or_is_done_gets_nothing() -> None:
    subject = maker()
    for device, base, complete in (("d2", OTHER, False), ("d3", BASE, True), ("d4", None, False)):
        subject.join(device, base, complete=complete)
        assert refusals(subject.tell(device, want(0))) == [m.Refuse(1, m.Refusal.DONT_HAVE)]


def test_a_flood_of_requests_is_refused() -> None:
    """So many of one peer at once, so many of all, and of each device no more than it can need."""
    subject = maker()
    actions = subject.tell("d1", *(want(0, n) for n in range(20)))
    assert len([a for a in actions if isinstance(a, e.MakeDelta)]) == PEER_DELTAS_PER_PEER_MAX
    assert {r.reason for r in refusals(actions) if isinstance(r, m.Refuse)} == {m.Refusal.BUSY}
    groups = {0}
    for n in range(2, 20):
        subject.join(f"d{n}", complete=False)
        actions = subject.tell(f"d{n}", want(2 * n % GROUPS), want((2 * n + 1) % GROUPS, 2))
        groups |= {a.group for a in actions if isinstance(a, e.MakeDelta)}
    assert len(groups) == PEER_DELTAS_WAITING_MAX < GROUPS


def test_a_group_that_many_ask_for_is_made_once_for_all_of_them() -> None:
    """So it counts once, and nobody is turned away."""
    subject = maker()
    for n in range(2, 30):
        subject.join(f"d{n}", complete=False)
        actions = subject.tell(f"d{n}", want(0), want(1, 2))
        assert len([a for a in actions if isinstance(a, e.MakeDelta)]) == 2


def test_a_device_that_asks_for_ever_is_refused_for_good() -> None:
    subject, made = maker(), 0
    for n in range(10 * GROUPS + 100):
        if n % 7 == 6:  # another connection changes nothing
            subject.feed(e.PeerLost("d1"))
            subject.join("d1", complete=False, deltas=False)
        actions = subject.tell("d1", want(n % GROUPS, n))
        if any(isinstance(a, e.MakeDelta) for a in actions):
            made += 1
            subject.feed(e.DeltaMade(RELEASE.task_image, "d1", n % GROUPS))
            subject.feed(e.PieceSent("d1", 100))
    assert made == 2 * GROUPS + SPARE


def test_a_base_that_is_written_over_is_taken_back() -> None:
    subject = maker()
    told = subject.feed(e.BaseLost(RELEASE.task_image))
    assert sent(told, m.Have) == [("d1", m.Have(RELEASE.task_image, NAME, 1, b"\0"))]
    assert refusals(subject.tell("d1", want(0))) == [m.Refuse(1, m.Refusal.DONT_HAVE)]


# Asking


def asker(**changes: PeerDeltas | Digest | Weights | None) -> Bench:
    """A node that has the full pack's index already, from a peer that has gone."""
    found = settled(bench(makes=False, **changes))  # type: ignore[arg-type]  # each as `bench` has it
    found.join("first", None, complete=False, deltas=False)
    found.pass_time(3.0)
    found.feed(e.PeerLost("first"))
    found.pass_time(3.0)
    return found


def test_chunks_are_held_back_while_a_maker_answers() -> None:
    actions = asker().join("d1")
    assert [w.piece for _, w in delta_wants(actions)] == [0, 1]
    assert chunk_wants(actions) == []


def test_where_processor_time_is_dear_chunks_come_at_once() -> None:
    actions = asker(weights=Weights(cpu_hour=1e6)).join("d1")
    assert delta_wants(actions) == []
    assert chunk_wants(actions)


@pytest.mark.parametrize(
    ("subject", "base", "complete"),
    [
        (asker(), OTHER, True), (asker(), BASE, False), (asker(mode=PeerDeltas.OFF), BASE, True),
        (asker(base=None), BASE, True), (asker(base=OTHER), BASE, True),
    ],
    ids=["of-another-base", "not-done", "off", "without-a-base", "published"],
)  # fmt: skip
def test_whom_it_does_not_ask(subject: Bench, base: Digest, complete: bool) -> None:
    actions = subject.join("d1", base, complete=complete) + subject.pass_time(1.0)
    assert delta_wants(actions) == []
    assert bool(chunk_wants(actions)) is complete


def test_where_the_network_is_thin_published_bases_ask_too() -> None:
    """Nobody has the patches of their pack."""
    subject = asker(mode=PeerDeltas.THIN_LAN, base=OTHER)
    name = delta_name(FULL, OTHER)
    actions = subject.join("d1", OTHER, deltas=False)
    actions += subject.tell("d1", m.Have(RELEASE.task_image, name, 1, b"\1")) + subject.pass_time(0.1)
    assert [w.pack for _, w in sent(actions, m.Want) if isinstance(w, m.Want)][-2:] == [name, name]


def test_what_is_missing_after_the_device_has_looked_at_itself_comes_as_deltas() -> None:
    """Its base was searched for chunks meanwhile, and nobody is asked for the others."""
    subject = asker()
    subject.feed(e.AtHand(RELEASE.task_image, ()))
    assert delta_wants(subject.join("d1")) == []
    actions = subject.feed(e.Filled(RELEASE.task_image))
    assert [w.piece for _, w in delta_wants(actions)] == [0, 1]
    assert chunk_wants(actions) == []


def test_what_was_asked_for_before_the_device_looks_at_itself_comes_once() -> None:
    """A maker that was known before the index is asked with it, before the driver can say what it begins."""
    subject = asker()
    wants = delta_wants(subject.join("d1"))
    assert [w.piece for _, w in wants] == [0, 1]
    actions = subject.feed(e.AtHand(RELEASE.task_image, ())) + subject.pass_time(1.0)
    actions += subject.feed(e.Filled(RELEASE.task_image)) + subject.pass_time(1.0)
    assert delta_wants(actions) == chunk_wants(actions) == []
    actions = answered(subject, wants[0][1])
    assert [a.group for a in actions if isinstance(a, e.UseDelta)] == [0]
    assert subject.node.ledger.wasted == 0


def test_a_maker_that_leaves_while_the_device_looks_at_itself_is_asked_no_more() -> None:
    subject = asker()
    subject.join("d1")
    subject.join("d2", None, deltas=False)
    actions = subject.feed(e.AtHand(RELEASE.task_image, ())) + subject.feed(e.PeerLost("d1"))
    assert delta_wants(actions) == chunk_wants(actions) == []
    actions = subject.feed(e.Filled(RELEASE.task_image))
    assert {d for d, _ in chunk_wants(actions)} == {"d2"}
    assert delta_wants(actions) == []


def answered(subject: Bench, wanted: m.Want, payload: bytes = b"delta") -> list[e.Action]:
    return subject.tell("d1", m.Piece(wanted.request, payload))


def stored(subject: Bench, group: int) -> None:
    for n in PIECES.groups[group]:
        piece = PIECES[n]
        subject.feed(
            e.Stored(
                RELEASE.task_image, piece.target_offset, piece.target_stop, e.How.DELTA, FULL, (n,),
                device="d1",
            )
        )  # fmt: skip


def test_a_delta_is_used_counted_and_followed_by_the_next() -> None:
    subject = asker()
    first = delta_wants(subject.join("d1"))[0][1]
    actions = answered(subject, first)
    group = PIECES.groups[0]
    assert [a for a in actions if isinstance(a, e.UseDelta)] == [
        e.UseDelta(RELEASE.task_image, FULL, 0, group.start, group.stop, b"delta", "d1")
    ]
    assert [w.piece for _, w in delta_wants(actions)] == [2]
    stored(subject, 0)
    subject.feed(e.DeltaUsed(RELEASE.task_image, 0, "d1", 5, e.Verdict.RIGHT))
    ledger = subject.node.ledger
    assert (ledger.peers, ledger.wasted, ledger.chunks) == ({"d1": 5}, 0, 0)
    assert ledger.patched == sum(PIECES[n].target_length for n in group)


def test_a_wrong_delta_bans_its_sender_and_chunks_come_from_others() -> None:
    subject = asker()
    first = delta_wants(subject.join("d1"))[0][1]
    subject.join("d2", None, deltas=False)
    answered(subject, first)
    actions = subject.feed(e.DeltaUsed(RELEASE.task_image, 0, "d1", 5, e.Verdict.WRONG))
    assert [(a.device, a.reason, a.ban_s > 0) for a in actions if isinstance(a, e.Disconnect)] == [
        ("d1", "bad-delta", True)
    ]
    assert {d for d, _ in chunk_wants(actions + subject.pass_time(1.0))} == {"d2"}
    assert subject.node.ledger.wasted == 5


@pytest.mark.parametrize("verdict", [e.Verdict.OTHER_BASE, e.Verdict.FAILED])
def test_what_is_nobodys_lie_bans_nobody(verdict: e.Verdict) -> None:
    subject = asker()
    wants = delta_wants(subject.join("d1"))
    answered(subject, wants[0][1])
    actions = subject.feed(e.DeltaUsed(RELEASE.task_image, 0, "d1", 5, verdict))
    actions += answered(subject, wants[1][1]) + subject.pass_time(5.0)
    assert not [a for a in actions if isinstance(a, e.Disconnect)]
    assert chunk_wants(actions)
    assert delta_wants(actions) == []


def test_a_delta_that_cannot_be_applied_here_ends_deltas_for_a_while_only() -> None:
    subject = asker()
    wants = delta_wants(subject.join("d1"))
    answered(subject, wants[0][1])
    subject.feed(e.DeltaUsed(RELEASE.task_image, 0, "d1", 5, e.Verdict.FAILED))
    assert delta_wants(subject.pass_time(1.0)) == []
    subject.pass_time(delta_asking.REST_S)
    assert delta_wants(subject.join("d2")) != []


def refused(subject: Bench, wanted: m.Want, reason: m.Refusal) -> list[e.Action]:
    return subject.tell("d1", m.Refuse(wanted.request, reason))


def test_a_group_that_is_not_worth_it_comes_as_chunks_and_the_others_do_not() -> None:
    subject = asker()
    first = delta_wants(subject.join("d1"))[0][1]
    actions = refused(subject, first, m.Refusal.DONT_HAVE)
    pieces = [w.piece for _, w in chunk_wants(actions) if isinstance(w, m.Want)]
    assert set(pieces) <= set(PIECES.groups[0])
    assert [w.piece for _, w in delta_wants(actions)] == [2]


def test_a_busy_maker_is_asked_again_later_and_given_up_in_the_end() -> None:
    """Each time after twice as long, and no longer than the WAN takes: then chunks come, from it too."""
    subject = asker()
    began, asked, seen = subject.now, list[m.Want](), subject.join("d1")
    asked += [w for _, w in delta_wants(seen)]
    refusals_sent = 0
    while not chunk_wants(seen) and subject.now - began < 60.0:
        while asked:
            refusals_sent += 1
            seen += refused(subject, asked.pop(0), m.Refusal.BUSY)
        news = subject.pass_time(0.5)
        asked += [w for _, w in delta_wants(news)]
        seen += news
    assert subject.now - began < 30.0
    assert 2 < refusals_sent <= delta_asking.BUSY_MAX
    assert not [a for a in seen if isinstance(a, e.Fetch | e.Disconnect)]


def test_a_maker_that_answers_nothing_holds_up_for_less_than_the_wan_takes() -> None:
    subject = asker()
    subject.join("d1")
    began = subject.now
    actions = list[e.Action]()
    while not chunk_wants(actions):
        actions = subject.pass_time(0.5)
        assert subject.now - began < 30.0, "by then a node serves itself"
    assert not [a for a in actions if isinstance(a, e.Fetch)]


class Impatient:
    """A generator that always draws the least: its node serves itself as early as any."""

    def random(self) -> float:
        return 0.0


def test_who_has_waited_for_a_delta_does_not_blame_its_site_for_the_time() -> None:
    """Chunks that it asks for at last have as long to come as if it had just begun."""
    subject = bench(makes=False, wan=True, rng=Impatient())
    seen = subject.join("d1")
    began = subject.now
    while not chunk_wants(seen):
        seen += subject.pass_time(0.5)
    waited = subject.now - began
    assert waited > 20.0
    seen += subject.pass_time(33.0 - waited)
    assert not [a for a in seen if isinstance(a, e.Fetch)], "30 s after anything came"


def test_a_maker_that_is_lost_is_asked_no_more_and_asked_again_when_it_is_back() -> None:
    subject = asker()
    subject.join("d1")
    subject.join("d2", None, deltas=False)
    actions = subject.feed(e.PeerLost("d1"))
    assert {d for d, _ in chunk_wants(actions)} == {"d2"}
    assert delta_wants(subject.join("d1"))


def test_a_late_delta_is_of_no_use_and_is_counted() -> None:
    subject = asker()
    first = delta_wants(subject.join("d1"))[0][1]
    subject.pass_time(60.0)
    actions = answered(subject, first)
    assert not [a for a in actions if isinstance(a, e.UseDelta)]
    assert subject.node.ledger.wasted == len(b"delta")


def test_an_answer_of_another_kind_breaks_the_protocol() -> None:
    subject = asker()
    first = delta_wants(subject.join("d1"))[0][1]
    actions = subject.tell("d1", m.Blob(first.request, b"x"))
    assert [a.reason for a in actions if isinstance(a, e.Disconnect)] == ["protocol"]


def test_several_makers_share_the_work() -> None:
    subject = asker()
    actions = subject.join("d1") + subject.join("d2")
    assert {d for d, _ in delta_wants(actions)} == {"d1", "d2"}
    pieces = [w.piece for _, w in delta_wants(actions)]
    assert len(pieces) == len(set(pieces)) == delta_asking.ASKED_MAX


def test_names_tell_bases_and_images_apart() -> None:
    assert len({delta_name(FULL, BASE), delta_name(FULL, OTHER), delta_name(BASE, FULL)}) == 3
    own = RELEASE.task(RELEASE.task_image)
    assert delta_pack(Policy(), own) is None
