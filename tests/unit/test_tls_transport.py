"""Peer streams: who gets in, who is refused and with which reason, and what a stream carries."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from p2p.adapters.tls import TlsTransport
from p2p.errors import PeerError
from p2p.ports import PeerAddress, PeerStream
from tests.support.certificates import NOW, Fleet


def trusted_now() -> float:
    return NOW


def here(transport: TlsTransport) -> PeerAddress:
    return PeerAddress("127.0.0.1", transport.port)


async def echo(stream: PeerStream) -> None:
    buffer = memoryview(bytearray(70_000))
    while count := await stream.receive_into(buffer):
        await stream.send(buffer[:count])


async def test_two_devices_of_a_fleet_talk(tmp_path: Path) -> None:
    fleet = Fleet()
    server = TlsTransport(fleet.credentials(tmp_path, "one"), trusted_now, host="127.0.0.1")
    client = TlsTransport(fleet.credentials(tmp_path, "two"), trusted_now, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, echo)
        stream = await client.connect(here(server))
        assert stream.identity.device == "one"
        await stream.send(b"hello ", memoryview(b"world"))
        got = b""
        buffer = memoryview(bytearray(64))
        while len(got) < 11:
            got += bytes(buffer[: await stream.receive_into(buffer)])
        assert got == b"hello world"
        await stream.aclose()
        nursery.cancel_scope.cancel()
    server.close()
    client.close()
