"""What every `ports.Transport` and its streams do, the in-memory one included."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from p2p.adapters.tls import TlsTransport
from p2p.content.digests import sha256
from p2p.errors import PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream, Transport
from tests.contracts.network_doubles import MemoryNetwork
from tests.support.certificates import NOW, Fleet

Make = Callable[[str, str], Transport]


@dataclass
class Nodes:
    """Makes transports of named devices in named fleets, all on one network."""

    make: Make

    def __call__(self, device: str, fleet: str = "fleet") -> Transport:
        return self.make(device, fleet)


@pytest.fixture(params=["memory", "tls"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    if request.param == "memory":
        network = MemoryNetwork()

        def in_memory(device: str, fleet: str) -> Transport:
            identity = PeerIdentity(device, "depot", frozenset(), sha256(f"{fleet}/{device}".encode()))
            return network.join(identity, fleet)

        yield Nodes(in_memory)
        return
    fleets: dict[str, Fleet] = {}
    made: list[TlsTransport] = []

    def over_tls(device: str, fleet: str) -> Transport:
        authority = fleets.setdefault(fleet, Fleet(fleet))
        credentials = authority.credentials(tmp_path / fleet, device)
        made.append(TlsTransport(credentials, lambda: NOW, host="127.0.0.1"))
        return made[-1]

    yield Nodes(over_tls)
    for transport in made:
        transport.close()


def at(transport: Transport) -> PeerAddress:
    return PeerAddress("127.0.0.1", transport.port)


async def exactly(stream: PeerStream, size: int) -> bytes:
    data = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count = await stream.receive_into(data[filled:])
        assert count
        filled += count
    return bytes(data)


async def echo(stream: PeerStream) -> None:
    buffer = memoryview(bytearray(50_000))
    while count := await stream.receive_into(buffer):
        await stream.send(bytes(buffer[:count]))


async def connect_when_served(transport: Transport, other: Transport) -> PeerStream:
    await trio.testing.wait_all_tasks_blocked()
    return await transport.connect(at(other))


async def test_both_ends_know_each_other_and_bytes_arrive_in_order(node: Nodes) -> None:
    one, two = node("one"), node("two")
    met: list[str] = []

    async def greet(stream: PeerStream) -> None:
        met.append(stream.identity.device)
        await echo(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, greet)
            stream = await connect_when_served(two, one)
            assert stream.identity.device == "one"
            payload = os.urandom(200_000)
            await stream.send(b"", payload[:1], memoryview(payload)[1:])
            assert await exactly(stream, len(payload)) == payload
            assert met == ["two"]
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_the_end_is_zero_bytes_after_all_that_was_sent(node: Nodes) -> None:
    one, two = node("one"), node("two")

    async def last_words(stream: PeerStream) -> None:
        await stream.send(b"goodbye")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, last_words)
            stream = await connect_when_served(two, one)
            assert await exactly(stream, 7) == b"goodbye"
            buffer = memoryview(bytearray(1))
            assert await stream.receive_into(buffer) == 0
            assert await stream.receive_into(buffer) == 0
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_a_sender_waits_for_a_slow_receiver(node: Nodes) -> None:
    one, two = node("one"), node("two")
    done = trio.Event()
    payload = bytes(20_000_000)

    async def pour(stream: PeerStream) -> None:
        await stream.send(payload)
        done.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, pour)
            stream = await connect_when_served(two, one)
            await exactly(stream, 1000)
            assert not done.is_set()
            await exactly(stream, len(payload) - 1000)
            await done.wait()
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_closing_is_final_and_may_be_repeated(node: Nodes) -> None:
    one, two = node("one"), node("two")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, echo)
            stream = await connect_when_served(two, one)
            await stream.aclose()
            await stream.aclose()
            for attempt in (stream.send(b"x"), stream.receive_into(memoryview(bytearray(1)))):
                with pytest.raises(PeerError) as caught:
                    await attempt
                assert caught.value.reason == "lost"
            nursery.cancel_scope.cancel()


async def test_a_cancelled_send_breaks_the_stream(node: Nodes) -> None:
    one, two = node("one"), node("two")

    async def deaf(stream: PeerStream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, deaf)
            stream = await connect_when_served(two, one)
            with trio.move_on_after(0.2):
                await stream.send(bytes(50_000_000))
            with pytest.raises(PeerError) as caught:
                await stream.send(b"x")
            assert caught.value.reason == "lost"
            await stream.aclose()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", ["unreachable", "not-of-fleet", "self"])
async def test_a_refusal_has_its_reason_and_no_stream(node: Nodes, reason: str) -> None:
    one = node("one")
    other = node("one" if reason == "self" else "two", "other" if reason == "not-of-fleet" else "fleet")
    streams: list[PeerStream] = []
    nowhere = 9  # the discard port: nobody listens there, in memory neither

    async def note(stream: PeerStream) -> None:
        streams.append(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            if reason != "unreachable":
                nursery.start_soon(one.serve, note)
                await trio.testing.wait_all_tasks_blocked()
            address = PeerAddress("127.0.0.1", nowhere) if reason == "unreachable" else at(one)
            with pytest.raises(PeerError) as caught:
                await other.connect(address)
            assert caught.value.reason == reason
            assert streams == []
            nursery.cancel_scope.cancel()


async def test_a_handlers_peer_error_ends_only_its_stream(node: Nodes) -> None:
    one, two = node("one"), node("two")
    failures = iter([True, False])

    async def fail_first(stream: PeerStream) -> None:
        if next(failures):
            raise PeerError("protocol")
        await echo(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve, fail_first)
            first = await connect_when_served(two, one)
            assert await first.receive_into(memoryview(bytearray(1))) == 0
            second = await two.connect(at(one))
            await second.send(b"x")
            assert await exactly(second, 1) == b"x"
            await first.aclose()
            await second.aclose()
            nursery.cancel_scope.cancel()
