"""Connections between agents over streams in memory, in virtual time."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from p2p.agent.budget import RateBudget
from p2p.agent.links import BYE_S, QUEUE_MAX, Link, PeerLinks
from p2p.agent.storing import WAITING_BYTES, Backlog
from p2p.content import limits
from p2p.content.digests import Buffer, Digest, sha256
from p2p.errors import ContentError, PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream
from p2p.swarm import messages as m
from p2p.swarm import wire
from p2p.swarm.events import PeerConnected, PeerLost, Received, Serve
from p2p.swarm.neighbours import pair_order
from p2p.swarm.parts import PARTS, Begun


def identity(device: str, site: str = "depot") -> PeerIdentity:
    return PeerIdentity(device, site, frozenset(), sha256(device.encode()))


class MemoryPeerStream:
    """One end of a pair; `identity` is the far end's."""

    def __init__(self, stream: trio.StapledStream, far: PeerIdentity, *, stuck: bool = False) -> None:
        self._stream = stream
        self.identity = far
        self.remote = "10.0.0.1"
        self.stuck = stuck
        self.closed = False

    async def send(self, *parts: Buffer) -> None:
        if self.stuck:
            await trio.sleep_forever()
        try:
            await self._stream.send_all(b"".join(bytes(p) for p in parts))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerError("lost") from error

    async def receive_into(self, buffer: memoryview, *, due: bool = False) -> int:
        try:
            data = await self._stream.receive_some(len(buffer))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerError("lost") from error
        buffer[: len(data)] = data
        return len(data)

    async def aclose(self) -> None:
        self.closed = True
        await self._stream.aclose()


class MemoryNet:
    """Who listens where. `down` ports refuse; `delay_s` is the time that a connection takes."""

    def __init__(self) -> None:
        self.nodes: dict[int, MemoryTransport] = {}
        self.down: set[int] = set()
        self.dials: Counter[int] = Counter()
        self.delay_s = 0.01


@dataclass
class MemoryTransport:
    net: MemoryNet
    me: PeerIdentity
    port: int
    streams: list[MemoryPeerStream] = field(default_factory=list)
    _handler: Callable[[PeerStream], Awaitable[None]] | None = None
    _nursery: trio.Nursery | None = None

    async def connect(self, address: PeerAddress) -> PeerStream:
        self.net.dials[address.port] += 1
        await trio.sleep(self.net.delay_s)
        other = self.net.nodes.get(address.port)
        if other is None or address.port in self.net.down or other._nursery is None:
            raise PeerError("unreachable")
        ours, theirs = memory_stream_pair()
        mine, far = MemoryPeerStream(ours, other.me), MemoryPeerStream(theirs, self.me)
        self.streams.append(mine)
        other.streams.append(far)
        assert other._handler is not None
        other._nursery.start_soon(other._handler, far)
        return mine

    async def serve(self, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        self._handler = handler
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()


@dataclass
class Node:
    """Links with a log of what they fed."""

    links: PeerLinks
    transport: MemoryTransport
    backlog: Backlog
    events: list[PeerConnected | PeerLost | Received] = field(default_factory=list)

    @property
    def address(self) -> PeerAddress:
        return PeerAddress("h", self.transport.port, "roster", self.transport.me.device)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


def make(
    net: MemoryNet, device: str, port: int, links_max: int = 8, revoked: Collection[Digest] = ()
) -> Node:
    transport = net.nodes[port] = MemoryTransport(net, identity(device), port)
    events: list[PeerConnected | PeerLost | Received] = []

    def answer(action: Serve) -> m.Message:
        return m.Piece(action.request, bytes(100_000))

    backlog = Backlog(WAITING_BYTES)
    links = PeerLinks(
        device, transport, events.append, answer, lan=RateBudget(None), backlog=backlog, links_max=links_max,
        revoked=lambda certificate: certificate in revoked,
    )  # fmt: skip
    return Node(links, transport, backlog, events)


@contextlib.asynccontextmanager
async def running(*nodes: Node):
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.links.serve)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.3])
async def test_crossing_dials_leave_one_connection(autojump_clock: MockClock, delay_s: float) -> None:
    net = MemoryNet()
    net.delay_s = delay_s
    a, b = make(net, "a", 1), make(net, "b", 2)
    async with running(a, b):
        a.links.found(b.address)
        b.links.found(a.address)
        await trio.sleep(20)
        assert a.links.devices == ("b",)
        assert b.links.devices == ("a",)
        assert a.count(PeerConnected) - a.count(PeerLost) == 1
        open_streams = [s for s in (*a.transport.streams, *b.transport.streams) if not s.closed]
        assert len(open_streams) == 2
        a.links.send("b", m.News(1, 2))
        await trio.sleep(1)
        assert b.events[-1] == Received("a", m.News(1, 2))


async def test_static_addresses_that_cross_leave_one_connection_too(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a, b = make(net, "a", 1), make(net, "b", 2)
    async with running(a, b):
        a.links.found(PeerAddress("h", 2))
        b.links.found(PeerAddress("h", 1))
        await trio.sleep(60)
        assert a.links.devices == ("b",)
        assert len([s for s in a.transport.streams if not s.closed]) == 1
        quiet = len(a.events)
        await trio.sleep(300)
        assert len(a.events) == quiet  # no flapping


async def test_a_lost_peer_is_dialled_again(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a, b = make(net, "a", 1), make(net, "b", 2)
    async with running(a, b):
        a.links.found(b.address)
        await trio.sleep(1)
        net.down.add(2)
        await b.transport.streams[0].aclose()
        await trio.sleep(1)
        assert a.links.devices == ()
        assert a.count(PeerLost) == 1
        await trio.sleep(120)
        tries = net.dials[2]
        assert 4 < tries < 20  # it backs off
        net.down.clear()
        await trio.sleep(31)
        assert a.links.devices == ("b",)


async def test_a_ban_is_honoured_until_it_ends(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a, b, c = make(net, "a", 1), make(net, "b", 2), make(net, "c", 3)
    async with running(a, b, c):
        a.links.ban("b", 100)
        a.links.found(b.address)
        a.links.found(c.address)
        await trio.sleep(50)
        assert a.links.devices == ("c",)
        assert not a.links.admits(identity("b"))
        assert a.links.admits(identity("c"))
        assert "b" not in {e.device for e in a.events}
        await trio.sleep(81)
        assert set(a.links.devices) == {"b", "c"}


async def test_a_peer_that_is_revoked_is_cut_off_at_once_and_stays_out(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    revoked: set[Digest] = set()
    a, b, c = make(net, "a", 1, revoked=revoked), make(net, "b", 2), make(net, "c", 3)
    async with running(a, b, c):
        for node in (b, c):
            a.links.found(node.address)
        await trio.sleep(20)
        assert set(a.links.devices) == {"b", "c"}
        b.links.send("a", m.News(1, 2))
        b.links.send("a", m.News(1, 3))
        revoked.add(identity("b").certificate)
        a.links.cut_revoked()
        assert a.links.devices == ("c",)
        assert a.events[-1] == PeerLost("b", banned=True)
        assert not a.links.admits(identity("b"))
        a.links.send("b", m.News(9, 9))
        before = len(a.events)
        await trio.sleep(300)
        assert [e for e in a.events[before:] if e.device == "b"] == []
        assert b.links.devices == ()
        assert Received("a", m.News(9, 9)) not in b.events
        revoked.clear()
        await trio.sleep(60)
        assert set(a.links.devices) == {"b", "c"}


async def test_what_a_revoked_peer_sent_before_it_was_cut_is_not_taken(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    revoked: set[Digest] = set()
    a = make(net, "a", 1, revoked=revoked)
    async with running(a):
        stream = await _raw(net, a)
        many = b"".join(bytes(p) for n in range(50) for p in wire.encode(m.News(1, n)))
        await stream.send(*wire.encode(HELLO), many)
        revoked.add(identity("x").certificate)
        a.links.cut_revoked()
        await trio.sleep(1)
        assert a.events == [PeerConnected("x", "10.0.0.1"), PeerLost("x", banned=True)]


async def test_a_device_that_is_silenced_has_no_peers_and_dials_nobody(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a, b, c = make(net, "a", 1), make(net, "b", 2), make(net, "c", 3)
    async with running(a, b, c):
        a.links.found(b.address)
        await trio.sleep(20)
        assert a.links.devices == ("b",)
        a.links.silence()
        dialled = dict(net.dials)
        a.links.found(c.address)
        c.links.found(a.address)
        await trio.sleep(300)
        assert a.links.devices == ()
        assert b.links.devices == ()
        assert a.count(PeerConnected) == a.count(PeerLost) == 1
        assert (net.dials[2], net.dials[3]) == (dialled[2], dialled.get(3, 0))


async def test_no_more_links_than_allowed(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a = make(net, "a", 1, links_max=2)
    others = [make(net, f"n{n}", 10 + n) for n in range(4)]
    async with running(a, *others):
        for other in others:
            other.links.found(a.address)
        await trio.sleep(30)
        assert len(a.links.devices) == 2


async def test_of_many_each_keeps_those_that_come_first_whoever_was_there_before(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNet()
    order = sorted((f"n{n}" for n in range(12)), key=lambda d: pair_order("a", d, b"neighbours\0"))
    a = make(net, "a", 1, links_max=4)
    others = {name: make(net, name, 10 + n) for n, name in enumerate(reversed(order))}
    async with running(a, *others.values()):
        for other in others.values():  # the last in the order come first
            other.links.found(a.address)
            await trio.sleep(1)
        await trio.sleep(30)
        assert set(a.links.devices) == set(order[:4])
        assert a.count(PeerConnected) - a.count(PeerLost) == 4
        dials = net.dials[1]
        await trio.sleep(250)  # who is not kept does not go on dialling at each short pause
        assert net.dials[1] - dials < 12 * 10
        for name in order[8:]:
            assert not a.links.admits(identity(name))


async def test_of_many_only_those_that_come_first_are_dialled(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    order = sorted((f"n{n}" for n in range(12)), key=lambda d: pair_order("a", d, b"neighbours\0"))
    a = make(net, "a", 1, links_max=6)
    others = [make(net, name, 10 + n) for n, name in enumerate(order)]
    net.down.add(10)
    async with running(a, *others):
        for other in others:
            a.links.found(other.address)
        await trio.sleep(200)
        assert set(a.links.devices) == set(order[1:5])
        assert not any(net.dials[port] for port in range(16, 22))
        net.down.clear()
        await trio.sleep(60)
        assert order[0] in a.links.devices


async def test_of_a_large_site_those_that_come_first_are_dialled_whoever_was_heard_of_first(
    autojump_clock: MockClock,
) -> None:
    """More are heard of before them than a node dials at once."""
    net = MemoryNet()
    order = sorted((f"n{n}" for n in range(60)), key=lambda d: pair_order("a", d, b"neighbours\0"))
    a = make(net, "a", 1, links_max=6)
    others = [make(net, name, 100 + n) for n, name in enumerate(order)]
    async with running(a, *others):
        for other in reversed(others):
            a.links.found(other.address)
            await trio.sleep(0.5)
        await trio.sleep(100)
        assert set(order[:4]) <= set(a.links.devices)


async def test_addresses_that_lead_nowhere_give_way_to_others_that_wait(autojump_clock: MockClock) -> None:
    """A peer that invents devices, or a cloud of old addresses, does not keep a node from its site."""
    net = MemoryNet()
    a, b, c = make(net, "a", 1, links_max=2), make(net, "b", 2), make(net, "c", 3)
    async with running(a, b, c):
        for n in range(40):
            a.links.found(PeerAddress("h", 1000 + n, "exchange", f"invented{n}"))
            a.links.found(PeerAddress("h", 2000 + n, "mdns"))
        a.links.found(b.address)
        a.links.found(PeerAddress("h", 3, "mdns"))
        await trio.sleep(300)
        assert set(a.links.devices) == {"b", "c"}
        assert max(net.dials.values()) < 20, "nor is any of them dialled more often than it would be alone"


async def test_a_wrong_address_of_a_device_that_waits_does_not_take_the_place_of_its_own(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNet()
    a, b = make(net, "a", 1, links_max=1), make(net, "b", 2)
    async with running(a, b):
        for n in range(4):
            a.links.found(PeerAddress("h", 1000 + n))
        a.links.found(b.address)
        a.links.found(PeerAddress("h", 3000, "exchange", "b"))
        await trio.sleep(60)
        assert a.links.devices == ("b",)


async def test_who_waited_to_be_dialled_and_came_by_itself_is_dialled_when_it_is_lost(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNet()
    a, b = make(net, "a", 1, links_max=1), make(net, "b", 2)
    async with running(a, b):
        net.delay_s = 5.0
        for n in range(4):
            a.links.found(PeerAddress("h", 1000 + n))
        a.links.found(b.address)
        await trio.testing.wait_all_tasks_blocked()
        net.delay_s = 0.01
        stream = await _raw(net, a, "b")
        await trio.sleep(60)
        assert (a.links.devices, net.dials[2]) == (("b",), 0)
        await stream.aclose()
        await trio.sleep(2)
        assert (a.links.devices, net.dials[2]) == (("b",), 1)


async def _raw(net: MemoryNet, node: Node, device: str = "x") -> MemoryPeerStream:
    """A stream to a node, to write to by hand."""
    transport = MemoryTransport(net, identity(device), 99)
    stream = await transport.connect(node.address)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(stream, MemoryPeerStream)
    return stream


HELLO = m.Hello(wire.PROTOCOL, "depot", 1, False)


@pytest.mark.parametrize(
    ("bad", "banned"),
    [
        (wire.PREFIX.pack(0xFFFFFFFF, 0), True),
        (wire.PREFIX.pack(2, 0xFFFFFFFF), True),
        (wire.PREFIX.pack(0, 0), True),
        (wire.PREFIX.pack(3, 0) + b"\xff\xff\xff", True),
        (b"".join(bytes(p) for p in wire.encode(HELLO._replace(site="harbour"))), True),
        (wire.PREFIX.pack(100, 0) + b"half", False),
        (b"\0\0\0", False),
    ],
)
async def test_what_breaks_the_wire_format_ends_the_link(
    autojump_clock: MockClock, bad: bytes, banned: bool
) -> None:
    net = MemoryNet()
    a = make(net, "a", 1)
    async with running(a):
        stream = await _raw(net, a)
        await stream.send(*wire.encode(HELLO))
        await trio.testing.wait_all_tasks_blocked()
        assert a.events == [PeerConnected("x", "10.0.0.1"), Received("x", HELLO)]
        await stream.send(bad)
        if not banned:
            await stream._stream.send_stream.aclose()
        await trio.sleep(1)
        assert a.links.devices == ()
        assert a.events[2:] == [PeerLost("x", banned)]
        assert a.links.admits(identity("x")) is not banned


async def test_half_a_message_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a = make(net, "a", 1)
    async with running(a):
        stream = await _raw(net, a)
        await stream.send(wire.PREFIX.pack(100, 0) + b"half")
        await trio.sleep(59)
        assert a.links.devices == ("x",)
        await trio.sleep(2)
        assert a.links.devices == ()


async def test_the_last_word_is_sent_and_nothing_after_it_is_heard(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a = make(net, "a", 1)
    async with running(a):
        stream = await _raw(net, a)
        a.transport.streams[0].stuck = True
        a.links.close("x", "bad-piece")
        await stream.send(*wire.encode(m.News(1, 9)))
        await trio.sleep(BYE_S / 2)
        assert a.events == [PeerConnected("x", "10.0.0.1")]
        await trio.sleep(BYE_S)
        assert a.events[1:] == [PeerLost("x")]  # it took nothing, and was not waited for
        second = await _raw(net, a, "y")
        a.links.close("y", "bye")
        await trio.testing.wait_all_tasks_blocked()
        buffer = bytearray(100)
        count = await second.receive_into(memoryview(buffer))
        assert bytes(buffer[:count]) == b"".join(bytes(p) for p in wire.encode(m.Bye("bye")))


async def test_who_reads_nothing_is_cut_off(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a = make(net, "a", 1)
    async with running(a):
        await _raw(net, a)
        a.transport.streams[0].stuck = True
        serve = Serve("x", 1, Digest(bytes(32)), Digest(bytes(32)), 0)
        for _ in range(QUEUE_MAX + 100):
            a.links.send("x", serve)
        await trio.sleep(1)
        assert a.links.devices == ()
        await _raw(net, a, "slow")
        a.transport.streams[1].stuck = True
        a.links.send("slow", serve)
        await trio.sleep(61)
        assert a.links.devices == ()


async def test_while_the_backlog_is_full_nothing_more_is_read(autojump_clock: MockClock) -> None:
    net = MemoryNet()
    a, b = make(net, "a", 1), make(net, "b", 2)
    async with running(a, b):
        a.links.found(b.address)
        await trio.sleep(1)
        b.backlog.grow(WAITING_BYTES)
        for n in range(4):
            a.links.send("b", m.News(1, n))
        await trio.sleep(600)
        # One more than that, for it is asked after each message.
        assert b.count(Received) == 1
        assert b.links.devices == ("a",)
        b.backlog.shrink(1)
        await trio.sleep(1)
        assert [x.message for x in b.events if isinstance(x, Received)] == [m.News(1, n) for n in range(4)]


async def test_a_stream_is_read_to_its_end_and_an_end_within_a_message_is_a_loss() -> None:
    messages = [m.News(1, 1), m.Piece(7, bytes(100_000)), m.Piece(8, b"short"), m.Piece(9, bytes(20_000))]
    for cut in (0, 1):
        heard: list[m.Message] = []
        ours, theirs = memory_stream_pair()
        link = Link(MemoryPeerStream(ours, identity("b")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
        data = b"".join(bytes(part) for message in messages for part in wire.encode(message))
        await theirs.send_all(data[: len(data) - cut])
        await theirs.send_eof()
        with pytest.raises(PeerError) if cut else contextlib.nullcontext():
            await link.read(heard.append)
        assert heard == messages[: len(messages) - cut]


async def test_a_message_is_given_up_when_its_time_is_over_and_silence_between_messages_is_not(
    autojump_clock: MockClock,
) -> None:
    first, second = (b"".join(bytes(part) for part in wire.encode(m.News(1, n))) for n in range(2))
    ours, theirs = memory_stream_pair()
    link = Link(MemoryPeerStream(ours, identity("b")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
    heard: list[m.Message] = []
    ended: list[float] = []

    async def read() -> None:
        with pytest.raises(trio.TooSlowError):
            await link.read(heard.append)
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.watch)
        nursery.start_soon(read)
        await trio.sleep(10.5 * limits.PEER_IDLE_S)
        await theirs.send_all(first)
        await trio.sleep(0.75 * limits.PEER_IDLE_S)
        await theirs.send_all(second[:-1])
        began = trio.current_time()
        await trio.sleep(2 * limits.PEER_IDLE_S)
        nursery.cancel_scope.cancel()
    assert heard == [m.News(1, 0)]
    assert ended == [pytest.approx(began + limits.PEER_IDLE_S, abs=0.01)]


async def test_a_peer_that_takes_nothing_is_given_up_when_its_time_is_over(autojump_clock: MockClock) -> None:
    class Full(MemoryPeerStream):
        async def send(self, *parts: Buffer) -> None:
            await trio.sleep_forever()

    ours, _theirs = memory_stream_pair()
    link = Link(Full(ours, identity("b")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.watch)
        await trio.sleep(0.5 * limits.PEER_IDLE_S)
        link.send(m.News(1, 1))
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await link.write(lambda size: None)
        assert trio.current_time() - began == pytest.approx(limits.PEER_IDLE_S, abs=0.01)
        nursery.cancel_scope.cancel()


async def test_an_answer_has_been_sent_when_the_socket_has_taken_it_and_not_before(
    autojump_clock: MockClock,
) -> None:
    class Slow(MemoryPeerStream):
        async def send(self, *parts: Buffer) -> None:
            await trio.sleep(10)

    def answer(serve: Serve) -> m.Message:
        if serve.piece:
            return m.Refuse(serve.request, m.Refusal.FAILED)
        return m.Piece(serve.request, bytes(1000))

    ours, _theirs = memory_stream_pair()
    link = Link(Slow(ours, identity("b")), "a", answer, RateBudget(None), Backlog(1 << 30))
    image = Digest(bytes(32))
    for number in range(2):
        link.send(Serve("b", number, image, image, number))
    link.send(m.News(1, 1))
    sent: list[tuple[float, int]] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.write, lambda size: sent.append((trio.current_time() - began, size)))
        await trio.sleep(9)
        assert not sent
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert sent == [(pytest.approx(10), 1000), (pytest.approx(10), 0)]


async def test_messages_pass_the_pieces_that_wait(autojump_clock: MockClock) -> None:
    """Behind megabytes on a slow network, word of who fetches what would be true no more."""

    class Slow(MemoryPeerStream):
        async def send(self, *parts: Buffer) -> None:
            await trio.sleep(sum(len(p) for p in parts) / 100_000)
            await super().send(*parts)

    ours, theirs = memory_stream_pair()
    image = Digest(bytes(32))
    link = Link(
        Slow(ours, identity("b")), "a", lambda serve: m.Piece(serve.request, bytes(300_000)),
        RateBudget(None), Backlog(1 << 30),
    )  # fmt: skip
    far = Link(MemoryPeerStream(theirs, identity("a")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
    came: list[tuple[str, float]] = []
    async with trio.open_nursery() as nursery:
        for number in range(3):
            link.send(Serve("b", number, image, image, number))
        nursery.start_soon(link.write, lambda size: None)
        nursery.start_soon(far.read, lambda said: came.append((type(said).__name__, trio.current_time())))
        started = trio.current_time()
        await trio.sleep(1)
        link.send(m.Lease(image, image, 0, 0, 1))
        link.send(m.Leave(image))
        await trio.sleep(15)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in came] == ["Piece", "Lease", "Leave", "Piece", "Piece"]
    assert came[1][1] - started < 7  # with the next piece, of 3 s


@pytest.mark.parametrize("takes_parts", [True, False])
async def test_a_large_piece_comes_in_parts_to_who_takes_them_and_messages_come_between(
    autojump_clock: MockClock, takes_parts: bool
) -> None:
    class Slow(MemoryPeerStream):
        async def send(self, *parts: Buffer) -> None:
            await trio.sleep(sum(len(p) for p in parts) / 100_000)
            await super().send(*parts)

    ours, theirs = memory_stream_pair()
    image, payload = Digest(bytes(32)), random.Random(1).randbytes(1_000_000)
    link = Link(
        Slow(ours, identity("b")), "a", lambda serve: m.Piece(serve.request, payload),
        RateBudget(None), Backlog(1 << 30),
    )  # fmt: skip
    far = Link(MemoryPeerStream(theirs, identity("a")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
    came: list[m.Message] = []
    sent: list[int] = []
    if takes_parts:
        far.send(m.MetadataWant(1, PARTS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.write, lambda size: None)
        nursery.start_soon(link.read, lambda message: None)
        nursery.start_soon(far.read, came.append)
        await trio.testing.wait_all_tasks_blocked()
        link.send(Serve("b", 7, image, image, 0))
        nursery.start_soon(link.write, sent.append)
        await trio.sleep(1)
        link.send(m.Leave(image))
        await trio.sleep(4)
        assert (m.Leave(image) in came) is takes_parts
        await trio.sleep(15)
        nursery.cancel_scope.cancel()
    pieces = [message for message in came if isinstance(message, m.Piece)]
    assert [(piece.request, bytes(piece.payload)) for piece in pieces] == [(7, payload)]
    assert any(isinstance(message, m.Part) for message in came) is takes_parts
    assert sent == [len(payload)]


async def test_parts_that_do_not_fit_together_end_the_link(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    link = Link(MemoryPeerStream(ours, identity("b")), "a", _nothing, RateBudget(None), Backlog(1 << 30))
    far = MemoryPeerStream(theirs, identity("a"))
    async with trio.open_nursery() as nursery:
        part, rest = m.Part(1, 900_000, bytes(100_000)), m.Piece(1, bytes(100_000))
        nursery.start_soon(far.send, *wire.encode(part), *wire.encode(rest))
        with pytest.raises(ContentError):
            await link.read(lambda message: None)


@pytest.mark.parametrize("whole", [False, True])
async def test_what_has_come_of_a_piece_when_the_link_ends_is_told(
    autojump_clock: MockClock, whole: bool
) -> None:
    net = MemoryNet()
    a = make(net, "a", 1)
    parts = random.Random(1).randbytes(100_000), random.Random(2).randbytes(100_000)
    async with running(a):
        stream = await _raw(net, a)
        await stream.send(*wire.encode(HELLO))
        for part in parts:
            await stream.send(*wire.encode(m.Part(7, 300_000, part)))
        if whole:
            await stream.send(*wire.encode(m.Piece(7, bytes(100_000))))
        else:
            await stream.send(wire.PREFIX.pack(3, 100_000) + b"half")
        await stream._stream.send_stream.aclose()
        await trio.sleep(1)
        assert a.events[-1] == PeerLost("x", begun=None if whole else Begun(7, b"".join(parts)))


def _nothing(serve: Serve) -> m.Message:
    raise AssertionError(serve)
