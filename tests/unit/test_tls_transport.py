"""Peer streams: who gets in, who is refused and with which reason, and what a stream carries."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.x509.oid import ExtendedKeyUsageOID

from p2p.adapters.identity import Credentials
from p2p.adapters.tls import PROBE_S, PROTOCOL, TlsPeerStream, TlsTransport
from p2p.content.digests import sha256
from p2p.errors import ConfigError, PeerError
from p2p.ports import PeerAddress, PeerStream
from tests.support.certificates import DAY, NOW, Fleet

Handler = Callable[[PeerStream], Awaitable[None]]


def trusted_now() -> float:
    return NOW


async def echo(stream: PeerStream) -> None:
    buffer = memoryview(bytearray(70_000))
    while count := await stream.receive_into(buffer):
        await stream.send(bytes(buffer[:count]))


@dataclass
class Server:
    """A serving transport, what it refused, and how many streams it handed out."""

    transport: TlsTransport
    refused: list[PeerError] = field(default_factory=list)
    streams: int = 0
    refusal: trio.Event = field(default_factory=trio.Event)

    @property
    def address(self) -> PeerAddress:
        return PeerAddress("127.0.0.1", self.transport.port)


@asynccontextmanager
async def serving(
    credentials: Credentials, handler: Handler = echo, **options: object
) -> AsyncIterator[Server]:
    def on_refused(_remote: str, error: PeerError) -> None:
        server.refused.append(error)
        server.refusal.set()

    async def counted(stream: PeerStream) -> None:
        server.streams += 1
        await handler(stream)

    transport = TlsTransport(
        credentials,
        trusted_now,
        host="127.0.0.1",
        refused=on_refused,
        **options,
    )
    server = Server(transport)
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.serve, counted)
                yield server
                nursery.cancel_scope.cancel()
    finally:
        transport.close()


@asynccontextmanager
async def connected(
    credentials: Credentials, server: Server, **options: object
) -> AsyncIterator[TlsPeerStream]:
    transport = TlsTransport(credentials, trusted_now, host="127.0.0.1", **options)
    try:
        stream = await transport.connect(server.address)
        try:
            yield stream
        finally:
            await stream.aclose()
    finally:
        transport.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system has one time for all sockets")
async def test_peers_at_rest_are_asked_seldom_whether_they_are_there(tmp_path: Path) -> None:
    fleet = Fleet()
    async with (
        serving(fleet.credentials(tmp_path / "a", "a")) as server,
        connected(fleet.credentials(tmp_path / "b", "b"), server) as stream,
    ):
        sock = stream._channel._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_S >= 60


async def read_exactly(stream: PeerStream, size: int) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = await stream.receive_into(view[filled:])
        assert count, f"the stream ended after {filled} of {size} bytes"
        filled += count
    return data


async def refusals(
    server: Server, credentials: Credentials, **options: object
) -> tuple[PeerError, PeerError]:
    """Connect, which must be refused: the error on the client's side and on the server's."""
    with pytest.raises(PeerError) as caught:
        async with connected(credentials, server, **options):
            pass
    await server.refusal.wait()
    assert server.streams == 0, "a stream was handed out"
    return caught.value, server.refused[0]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def one(fleet: Fleet, tmp_path: Path) -> Credentials:
    return fleet.credentials(tmp_path, "one", groups=["canary"])


@pytest.fixture
def two(fleet: Fleet, tmp_path: Path) -> Credentials:
    return fleet.credentials(tmp_path, "two", site="plant")


# Who gets in


async def test_two_devices_of_a_fleet_know_each_other_and_talk(one: Credentials, two: Credentials) -> None:
    identities = []

    async def greet(stream: PeerStream) -> None:
        identities.append(stream.identity)
        await echo(stream)

    async with serving(one, greet) as server, connected(two, server) as stream:
        await stream.send(b"hello ", memoryview(b"world"))
        assert await read_exactly(stream, 11) == b"hello world"
        assert (stream.identity.device, stream.identity.site) == ("one", "depot")
        assert stream.identity.groups == {"canary"}
        assert stream.remote == "127.0.0.1"
    assert identities == [two.identity]


async def test_another_fleets_device_is_refused_on_both_sides(
    one: Credentials, two: Credentials, tmp_path: Path
) -> None:
    other = Fleet("other").credentials(tmp_path / "other", "two")
    async with serving(one) as server:
        client_error, server_error = await refusals(server, other)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")
        async with connected(two, server) as stream:
            await stream.send(b"x")
            assert await read_exactly(stream, 1) == b"x"


async def test_a_stranger_that_trusts_us_still_gets_no_byte(
    one: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    # The stranger accepts our certificate, so only our check of his stands between him and a stream.
    stranger = Fleet("other").enrol(tmp_path / "other", "two", trusts=fleet).load_unchecked()
    async with serving(one) as server:
        client_error, server_error = await refusals(server, stranger)
        assert "refused our certificate" in str(client_error)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")


async def test_a_stranger_that_listens_gets_no_byte(one: Credentials, fleet: Fleet, tmp_path: Path) -> None:
    stranger = Fleet("other").enrol(tmp_path / "other", "two", trusts=fleet).load_unchecked()
    async with serving(stranger) as server:
        client_error, server_error = await refusals(server, one)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")


async def test_a_ca_of_the_same_name_is_another_ca(one: Credentials, tmp_path: Path) -> None:
    sibling = Fleet("fleet").credentials(tmp_path / "sibling", "two")
    async with serving(one) as server:
        client_error, server_error = await refusals(server, sibling)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")


async def test_an_intermediate_below_the_fleet_ca_cannot_issue_devices(
    one: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    intermediate = Fleet("intermediate", parent=fleet)
    files = intermediate.enrol(tmp_path / "i", "two", chain=[intermediate.certificate], trusts=fleet)
    async with serving(one) as server:
        client_error, server_error = await refusals(server, files.load_unchecked())
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")
        assert "not issued by this fleet's CA" in str(server_error)


async def test_an_expired_device_is_refused_by_trusted_time(
    one: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    expired = fleet.credentials(tmp_path / "expired", "two", not_after=NOW - 1)
    async with serving(one) as server:
        client_error, server_error = await refusals(server, expired)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")
        assert "expired" in str(server_error)
    just_valid = fleet.credentials(tmp_path / "valid", "two", not_after=NOW + 1)
    async with serving(one) as server, connected(just_valid, server) as stream:
        assert stream.identity.device == "one"


async def test_an_expired_server_is_refused_by_the_client(
    two: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    expired = fleet.credentials(tmp_path / "expired", "one", not_after=NOW - 1)
    async with serving(expired) as server:
        client_error, server_error = await refusals(server, two)
        assert "expired" in str(client_error)
        assert (client_error.reason, server_error.reason) == ("not-of-fleet", "not-of-fleet")


async def test_a_certificate_made_after_our_clock_is_accepted(
    one: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    # Trusted time is a lower bound: a device that starts at 1970 must not be locked out of its site.
    newer = fleet.credentials(tmp_path / "newer", "two", not_before=NOW + DAY)
    async with serving(one) as server, connected(newer, server) as stream:
        assert stream.identity.device == "one"


@pytest.mark.parametrize("usage", ["CLIENT_AUTH", "SERVER_AUTH"])
async def test_a_certificate_for_one_usage_only_is_refused(
    one: Credentials, fleet: Fleet, tmp_path: Path, usage: str
) -> None:
    files = fleet.enrol(tmp_path / "usage", "two", profile={"usages": [getattr(ExtendedKeyUsageOID, usage)]})
    async with serving(one) as server:
        _, server_error = await refusals(server, files.load_unchecked())
        assert server_error.reason == "not-of-fleet"


async def test_a_device_that_reaches_itself_is_told_so(one: Credentials) -> None:
    async with serving(one) as server:
        client_error, server_error = await refusals(server, one)
        assert (client_error.reason, server_error.reason) == ("self", "self")


async def test_a_device_that_is_not_admitted_is_refused_on_both_sides(
    one: Credentials, two: Credentials
) -> None:
    async with serving(one, admit=lambda identity: identity.device != "two") as server:
        client_error, server_error = await refusals(server, two)
        assert (client_error.reason, server_error.reason) == ("refused", "refused")
    admitting = serving(one, admit=lambda identity: identity.device == "two")
    async with admitting as server, connected(two, server) as stream:
        assert stream.identity.device == "one"


@pytest.mark.parametrize("revoker", ["server", "client"])
async def test_a_revoked_certificate_is_refused_on_both_sides_whoever_knows_of_it(
    one: Credentials, two: Credentials, revoker: str
) -> None:
    revoked = {(two if revoker == "server" else one).identity.certificate}
    known = revoked if revoker == "server" else set()
    async with serving(one, revoked=known.__contains__) as server:
        other = revoked if revoker == "client" else set()
        client_error, server_error = await refusals(server, two, revoked=other.__contains__)
        assert (client_error.reason, server_error.reason) == ("revoked", "revoked")
        revoked.clear()
        async with connected(two, server) as stream:
            assert stream.identity.device == "one"


async def test_another_certificate_of_the_same_device_is_taken(
    one: Credentials, two: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    revoked = {two.identity.certificate}
    again = fleet.credentials(tmp_path / "again", "two")
    async with serving(one, revoked=revoked.__contains__) as server:
        client_error, _ = await refusals(server, two)
        assert client_error.reason == "revoked"
        async with connected(again, server) as stream:
            assert stream.identity.device == "one"


async def test_renewed_credentials_serve_the_next_connection(
    one: Credentials, two: Credentials, fleet: Fleet, tmp_path: Path
) -> None:
    renewed = fleet.credentials(tmp_path / "renewed", "one")
    async with serving(one) as server:
        async with connected(two, server) as stream:
            assert stream.identity.certificate == one.identity.certificate
        server.transport.use(renewed)
        async with connected(two, server) as stream:
            assert stream.identity.certificate == renewed.identity.certificate


# What is not Slipstream


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000, os.urandom(4096)],
    ids=["http", "huge-record", "random"],
)
async def test_garbage_is_refused_as_a_handshake(one: Credentials, garbage: bytes) -> None:
    async with serving(one) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.transport.port)
        async with stream:
            await stream.send_all(garbage)
            await stream.send_eof()
            await server.refusal.wait()
        assert server.refused[0].reason == "handshake"
        assert server.streams == 0


async def test_tls_1_2_and_other_protocols_are_refused(one: Credentials, two: Credentials) -> None:
    for change in ("version", "alpn"):
        async with serving(one) as server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=two.authority.der)
            context.verify_flags |= 0x200000
            two.load_into(context)
            if change == "version":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_alpn_protocols([PROTOCOL])
            else:
                context.set_alpn_protocols(["other/1"])
            tcp = await trio.open_tcp_stream("127.0.0.1", server.transport.port)
            stream = trio.SSLStream(tcp, context)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError:
                assert change == "version"
            await server.refusal.wait()
            await trio.aclose_forcefully(stream)
            assert server.refused[0].reason == "handshake"
            assert server.streams == 0


async def test_nobody_listens(one: Credentials, two: Credentials) -> None:
    transport = TlsTransport(one, trusted_now, host="127.0.0.1")
    port = transport.port
    transport.close()
    other = TlsTransport(two, trusted_now, host="127.0.0.1")
    for address in (PeerAddress("127.0.0.1", port), PeerAddress("no\0host", 1), PeerAddress("a" * 300, 1)):
        with pytest.raises(PeerError) as caught:
            await other.connect(address)
        assert caught.value.reason == "unreachable"
    other.close()


async def test_a_listener_that_never_answers_is_left_at_the_deadline(two: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = TlsTransport(two, trusted_now, host="127.0.0.1", handshake_s=0.2)
        with trio.fail_after(5), pytest.raises(PeerError) as caught:
            await transport.connect(PeerAddress("127.0.0.1", silent.getsockname()[1]))
        assert caught.value.reason == "handshake"
        transport.close()


def test_an_address_that_cannot_be_listened_on_is_a_configuration_error(one: Credentials) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        TlsTransport(one, trusted_now, host="203.0.113.77")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
async def test_both_families_can_be_listened_on(one: Credentials, two: Credentials, host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    listening = TlsTransport(one, trusted_now, host=host)
    other = TlsTransport(two, trusted_now, host="127.0.0.1")
    remotes = []

    async def note(stream: PeerStream) -> None:
        assert isinstance(stream, TlsPeerStream)
        remotes.append(stream.remote)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.serve, note)
            stream = await other.connect(PeerAddress(host or "127.0.0.1", listening.port))
            assert await stream.receive_into(memoryview(bytearray(1))) == 0
            await stream.aclose()
            nursery.cancel_scope.cancel()
    assert remotes == [host or "127.0.0.1"]
    listening.close()
    other.close()


# Floods


async def test_half_open_connections_end_at_the_deadline(one: Credentials, two: Credentials) -> None:
    async with serving(one, handshake_s=0.3) as server:
        idle = await trio.open_tcp_stream("127.0.0.1", server.transport.port)
        await server.refusal.wait()
        assert server.refused[0].reason == "handshake"
        assert await idle.receive_some() == b""
        await idle.aclose()
        assert server.transport.half_open == 0


async def test_an_honest_peer_gets_in_through_500_half_open_connections(
    one: Credentials, two: Credentials
) -> None:
    async with serving(one) as server:
        flood = [await trio.open_tcp_stream("127.0.0.1", server.transport.port) for _ in range(500)]
        async with connected(two, server) as stream:
            await stream.send(b"honest")
            assert await read_exactly(stream, 6) == b"honest"
        assert 0 < server.transport.half_open <= 32  # limits.HALF_OPEN_PER_ADDRESS_MAX
        for one_of_them in flood:
            await one_of_them.aclose()


async def test_the_cap_over_all_addresses_takes_the_most_crowded_one(one: Credentials) -> None:
    async with serving(one, half_open_max=3, half_open_per_address_max=3) as server:
        streams = [await trio.open_tcp_stream("127.0.0.1", server.transport.port) for _ in range(3)]
        while server.transport.half_open < 3:
            await trio.lowlevel.checkpoint()
        lonely = socket.socket()
        lonely.bind(("127.0.0.2", 0))
        lonely.connect(("127.0.0.1", server.transport.port))
        assert await streams[0].receive_some() == b""  # the oldest of 127.0.0.1 went
        assert server.transport.half_open == 3
        lonely.close()
        for stream in streams:
            await stream.aclose()


# What a stream carries


async def test_large_sends_arrive_whole_while_the_receiver_is_slow(
    one: Credentials, two: Credentials
) -> None:
    payload = os.urandom(5_000_000)
    sent = trio.Event()

    async def send(stream: PeerStream) -> None:
        await stream.send(b"head", payload, memoryview(payload)[:70_000], b"")
        sent.set()

    async with serving(one, send) as server, connected(two, server) as stream:
        head = await read_exactly(stream, 4)
        assert head == b"head"
        assert not sent.is_set(), "5 MB were swallowed by buffers: there is no backpressure"
        assert sha256(await read_exactly(stream, len(payload))) == sha256(payload)
        assert await read_exactly(stream, 70_000) == payload[:70_000]
        await sent.wait()
        assert await stream.receive_into(memoryview(bytearray(1))) == 0


async def test_concurrent_senders_do_not_mix(one: Credentials, two: Credentials) -> None:
    async with serving(one) as server, connected(two, server) as stream:
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c"):
                nursery.start_soon(stream.send, letter * 400_000)
            data = await read_exactly(stream, 1_200_000)
        runs = [data[n] for n in range(0, len(data), 400_000)]
        assert sorted(runs) == sorted(b"abc")
        assert all(data[n : n + 400_000] == data[n : n + 1] * 400_000 for n in range(0, 1_200_000, 400_000))


async def test_both_ends_may_send_more_than_the_network_holds_before_either_reads(
    one: Credentials, two: Credentials
) -> None:
    size = 32 << 20
    heard: dict[str, bytes] = {}

    async def exchange(stream: PeerStream, name: str, letter: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, letter * size)
            await trio.testing.wait_all_tasks_blocked(0.1)
            heard[name] = await read_exactly(stream, size)

    async def answer(stream: PeerStream) -> None:
        await exchange(stream, "one", b"b")

    async with serving(one, answer) as server, connected(two, server) as stream:
        await exchange(stream, "two", b"a")
        assert await stream.receive_into(memoryview(bytearray(1))) == 0
    assert heard["one"] == b"a" * size
    assert heard["two"] == b"b" * size


async def test_each_byte_on_the_wire_is_counted_once_at_both_ends(one: Credentials, two: Credentials) -> None:
    counts: list[tuple[int, int]] = []

    async def greet(stream: PeerStream) -> None:
        assert isinstance(stream, TlsPeerStream)
        assert await read_exactly(stream, 300_000) == bytes(300_000)
        await stream.send(b"x")
        await stream.receive_into(memoryview(bytearray(1)))
        counts.append((stream.bytes_received, stream.bytes_sent))

    async with serving(one, greet) as server, connected(two, server) as stream:
        before = stream.bytes_sent
        await stream.send(bytes(300_000))
        assert await read_exactly(stream, 1) == b"x"
        records = -(-300_000 // 16_384) + 1  # the channel encrypts blocks of 256 KiB
        assert 0 < stream.bytes_sent - before - 300_000 <= records * 22
        received, sent = stream.bytes_received, stream.bytes_sent
        await stream.send(b"y")
        assert await stream.receive_into(memoryview(bytearray(1))) == 0
    assert counts == [(sent + 1 + 22, received)]


async def test_a_peer_that_vanishes_in_a_frame_is_lost_and_one_that_closes_is_not(
    one: Credentials, two: Credentials
) -> None:
    async def vanish(stream: PeerStream) -> None:
        assert isinstance(stream, TlsPeerStream)
        await stream.send(b"half a fra")
        stream._channel._sock.shutdown(socket.SHUT_RDWR)  # no close_notify: as if the cable were cut

    async def close(stream: PeerStream) -> None:
        await stream.send(b"half a fra")

    for handler, lost in ((vanish, True), (close, False)):
        async with serving(one, handler) as server, connected(two, server) as stream:
            assert await read_exactly(stream, 10) == b"half a fra"
            if lost:
                with pytest.raises(PeerError) as caught:
                    await stream.receive_into(memoryview(bytearray(10)))
                assert caught.value.reason == "lost"
            else:
                assert await stream.receive_into(memoryview(bytearray(10))) == 0


async def test_sending_to_a_peer_that_has_gone_is_lost(one: Credentials, two: Credentials) -> None:
    async def leave(_stream: PeerStream) -> None:
        return

    async with serving(one, leave) as server, connected(two, server) as stream:
        assert await stream.receive_into(memoryview(bytearray(1))) == 0
        with pytest.raises(PeerError) as caught:
            while True:
                await stream.send(b"x" * 100_000)
        assert caught.value.reason == "lost"


async def test_a_cancelled_send_breaks_the_stream_and_says_so(one: Credentials, two: Credentials) -> None:
    async def never_read(stream: PeerStream) -> None:
        await trio.sleep_forever()

    async with serving(one, never_read) as server, connected(two, server) as stream:
        await stream.send(b"this one is whole")
        with trio.move_on_after(0.2) as scope:
            await stream.send(b"x" * 50_000_000)
        assert scope.cancelled_caught
        with pytest.raises(PeerError) as caught:
            await stream.send(b"more")
        assert caught.value.reason == "lost"
        assert "interrupted" in str(caught.value)


async def test_a_cancelled_receive_loses_nothing(one: Credentials, two: Credentials) -> None:
    async with serving(one) as server, connected(two, server) as stream:
        with trio.move_on_after(0.05) as scope:
            await stream.receive_into(memoryview(bytearray(10)))
        assert scope.cancelled_caught
        await stream.send(b"still here")
        assert await read_exactly(stream, 10) == b"still here"


async def test_closing_wakes_a_waiting_receiver_and_may_be_repeated(
    one: Credentials, two: Credentials
) -> None:
    async with serving(one) as server, connected(two, server) as stream:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(PeerError) as caught:
                    await stream.receive_into(memoryview(bytearray(1)))
                assert caught.value.reason == "lost"

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        await stream.aclose()
        for call in (stream.send(b"x"), stream.receive_into(memoryview(bytearray(1)))):
            with pytest.raises(PeerError):
                await call


async def test_an_error_of_one_handler_ends_only_its_stream(one: Credentials, two: Credentials) -> None:
    first = True

    async def fail_once(stream: PeerStream) -> None:
        nonlocal first
        if first:
            first = False
            raise PeerError("protocol", "the peer lied")
        await echo(stream)

    async with serving(one, fail_once) as server:
        async with connected(two, server) as stream:
            assert await stream.receive_into(memoryview(bytearray(1))) == 0
        async with connected(two, server) as stream:
            await stream.send(b"x")
            assert await read_exactly(stream, 1) == b"x"
