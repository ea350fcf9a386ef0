"""Connections that give way: what the kernel tells, who shares a window, and where it cannot be done."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest
import trio

from p2p.adapters import background
from p2p.adapters.background import ACTIVE_S, WAYS_MAX, Background, RoundTrip, bound_window, round_trip_of
from p2p.adapters.channel import Channel
from p2p.adapters.http import HttpClient
from p2p.adapters.url import parse_url
from p2p.swarm.courtesy import WINDOW_FIRST, WINDOW_MIN
from tests.support.scripted_http import Request, head, scripted

SERVER = ("http", "origin.example", 80)
LINUX = hasattr(socket, "TCP_INFO") and hasattr(socket, "TCP_WINDOW_CLAMP")


TRIP = RoundTrip(0.02, 0.02, 1448)


class Connection:
    """A connection that is measured as the test says."""

    def __init__(self, trip: RoundTrip | None = TRIP, *, can: bool = True) -> None:
        self.trip = trip
        self.can = can
        self.windows: list[int] = []
        self.looks = 0

    def round_trip(self) -> RoundTrip | None:
        self.looks += 1
        return self.trip

    def bound(self, window: int) -> bool:
        self.windows.append(window)
        return self.can


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far


# The kernel


@pytest.mark.skipif(not LINUX, reason="only Linux tells a receiver its round trips")
def test_the_kernel_tells_round_trips_while_bytes_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert round_trip_of(near) is None  # nothing has come yet
    for _ in range(400):
        far.sendall(bytes(32 << 10))
        left = 32 << 10
        while left:
            left -= len(near.recv(left))
        near.sendall(b"x")
        far.recv(16)
        if round_trip_of(near) is not None:
            break
    trip = round_trip_of(near)
    assert trip is not None
    assert 0 < trip.shortest_s <= trip.current_s < 1


@pytest.mark.skipif(not LINUX, reason="only Linux lets a receiver bound its window at any time")
def test_a_bound_holds_back_the_sender(pair: tuple[socket.socket, socket.socket]) -> None:
    """What the far end can send before anything is read is what was allowed, give or take its own buffer."""
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 10)
    far.setblocking(False)
    assert bound_window(near, WINDOW_MIN)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            sent += far.send(bytes(4 << 10))
    bounded = sent
    while True:
        try:
            near.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
    near.close()
    assert bounded < 128 << 10


@pytest.mark.parametrize(
    ("info", "seen"),
    [
        ({}, RoundTrip(0.05, 0.02, 1448)),
        ({"options": 0}, None),  # no time stamps: what the kernel reckons then is no delay
        ({"current": 0}, None),
        ({"current": 0xFFFFFFFF}, None),
        ({"shortest": 0xFFFFFFFF}, RoundTrip(0.05, 0.05, 1448)),
        ({"size": 148}, None),  # a kernel from before 4.9
    ],
)
def test_what_is_read_of_the_kernel(
    info: dict[str, int], seen: RoundTrip | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "TCP_INFO", 11, raising=False)
    data = bytearray(256)
    data[5] = info.get("options", 7)
    struct.pack_into("=I", data, 20, 1448)
    struct.pack_into("=I", data, 92, info.get("current", 50_000))
    struct.pack_into("=I", data, 148, info.get("shortest", 20_000))

    class Socket:
        def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
            return bytes(data[: min(size, info.get("size", 256))])

    assert round_trip_of(Socket()) == seen  # type: ignore[arg-type]  # all that is asked of a socket


def test_a_closed_socket_is_neither_measured_nor_bounded() -> None:
    sock = socket.socket()
    sock.close()
    assert round_trip_of(sock) is None
    assert not bound_window(sock, WINDOW_FIRST)


def test_other_systems_can_do_neither(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "TCP_INFO", raising=False)
    monkeypatch.delattr(socket, "TCP_WINDOW_CLAMP", raising=False)
    assert round_trip_of(pair[0]) is None
    assert not bound_window(pair[0], WINDOW_FIRST)


# Who shares


def test_connections_on_which_bytes_come_share_one_window() -> None:
    clock = Clock()
    both = Background(clock)
    one, other = Connection(), Connection()
    both.received(SERVER, one, 1000)
    assert one.windows == [WINDOW_FIRST]
    both.received(SERVER, other, 1000)
    assert other.windows == [WINDOW_FIRST // 2]
    clock.now += ACTIVE_S + 0.1
    both.received(SERVER, other, 1000)
    assert other.windows[-1] >= WINDOW_FIRST  # nothing comes on the first any more
    both.forget(one)
    both.forget(other)


def test_ways_to_different_servers_are_told_apart_and_bounded_in_number() -> None:
    both = Background(Clock())
    one, other = Connection(), Connection()
    both.received(SERVER, one, 1000)
    both.received(("https", "cdn.example", 443), other, 1000)
    assert one.windows == other.windows == [WINDOW_FIRST]
    for n in range(3 * WAYS_MAX):
        both.received(("http", f"{n}.example", 80), Connection(), 1)
    assert len(both._ways) == WAYS_MAX


def test_a_window_is_never_less_than_a_connection_needs_to_go_on() -> None:
    clock = Clock()
    way = Background(clock)
    crowd = [Connection(RoundTrip(0.5, 0.01, 1448)) for _ in range(12)]
    for _ in range(200):
        clock.now += 0.05
        for connection in crowd:
            way.received(SERVER, connection, 100)
    assert way.giving_way
    assert {connection.windows[-1] for connection in crowd} == {WINDOW_MIN}


def test_where_segments_are_large_two_of_them_may_always_be_in_flight() -> None:
    """Over a loopback they have 64 KiB, and a sender that may send less waits for its timers."""
    clock = Clock()
    way, connection = Background(clock), Connection(RoundTrip(0.5, 0.01, 65_483))
    for _ in range(100):
        clock.now += 0.05
        way.received(SERVER, connection, 1000)
    assert set(connection.windows) == {2 * 65_483}


@pytest.mark.skipif(not LINUX, reason="only Linux lets a receiver bound its window at any time")
async def test_a_loopback_is_not_slowed_down() -> None:
    size = 32 << 20

    async def large(_request: Request, channel: Channel) -> None:
        await channel.send(head(200, content_length=size), bytes(size))

    async with scripted(large) as server:
        client = HttpClient(background=Background())
        with trio.fail_after(5):
            async with client.request("GET", parse_url(server.url)) as response:
                assert len(await response.read(size)) == size
        await client.aclose()


def test_a_connection_is_not_looked_at_for_every_read() -> None:
    clock = Clock()
    way, connection = Background(clock), Connection()
    for _ in range(1000):
        clock.now += background.SAMPLE_S / 100
        way.received(SERVER, connection, 1000)
    assert connection.looks <= 12


def test_without_a_measure_nothing_is_bounded() -> None:
    way, connection = Background(Clock()), Connection(None)
    way.received(SERVER, connection, 1000)
    assert connection.windows == []
    assert not way.giving_way


def test_that_nothing_can_be_bounded_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    way, connection = Background(clock), Connection(can=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            clock.now += 1
            way.received(SERVER, connection, 1000)
    assert [record.message for record in caplog.records] == [
        "this system cannot bound what is in flight, so updates do not give way"
    ]
