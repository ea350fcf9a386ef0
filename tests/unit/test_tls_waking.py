"""How often a receiver is woken for what is due, and that it never waits for what does not come."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p.adapters import tls_socket
from p2p.adapters.tls import _context
from p2p.adapters.tls_socket import RECORD, WAKE_MAX, TlsSocketChannel
from tests.support.certificates import Fleet

PACKET = 1448
PIECE = 256 * 1024


class Far:
    """The far end of a channel, which encrypts what it is told and hands over ciphertext as it is told."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._sock = trio.socket.from_stdlib_socket(sock)

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send(self._outgoing.read())
                self._incoming.write(await self._sock.recv(65536))
            else:
                await self.send(self._outgoing.read())
                return

    def encrypted(self, data: bytes, record: int = RECORD) -> bytes:
        for start in range(0, len(data), record):
            self._tls.write(data[start : start + record])
        return self._outgoing.read()

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self._sock.send(view) :]

    def close(self) -> None:
        self._sock.close()


class Rig:
    """A channel, its far end, and how often the channel has waited for its socket."""

    def __init__(self, channel: TlsSocketChannel, far: Far) -> None:
        self.channel = channel
        self.far = far
        self.waits = 0

    async def receive(self, size: int, *, due: bool = True) -> bytes:
        """As `p2p.agent.streams` does."""
        data, filled = memoryview(bytearray(size)), 0
        while filled < size:
            count = await self.channel.receive_into(data[filled:], due=due)
            assert count, f"ended after {filled} bytes"
            filled += count
        return bytes(data)


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    fleet = Fleet()
    near_context = _context(fleet.credentials(tmp_path / "a", "a"), server=True)
    far_context = _context(fleet.credentials(tmp_path / "b", "b"), server=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far_sock = socket.create_connection(listener.getsockname())
        near_sock, _ = listener.accept()
    for sock in (far_sock, near_sock):
        sock.setblocking(False)
    far_sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rig = Rig(TlsSocketChannel(near_sock, near_context, server_side=True), Far(far_context, far_sock))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.channel.handshake)
            nursery.start_soon(rig.far.handshake)
    real = trio.lowlevel.wait_readable

    async def counted(sock: socket.socket) -> None:
        rig.waits += 1
        await real(sock)

    monkeypatch.setattr(tls_socket.trio.lowlevel, "wait_readable", counted)
    yield rig
    rig.far.close()
    await rig.channel.aclose()


async def received(rig: Rig, size: int, give: Callable[[], Awaitable[None]], *, due: bool = True) -> bytes:
    """What comes while the far end does what it is told; nothing but that."""
    found: list[bytes] = []

    async def receive() -> None:
        found.append(await rig.receive(size, due=due))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await give()
    return found[0]


@pytest.mark.skipif(not hasattr(socket, "SO_RCVLOWAT"), reason="this system wakes for every packet")
@pytest.mark.parametrize(
    ("due", "waits"), [(True, range(2, 4 + RECORD // PACKET)), (False, range(50, 4 + PIECE // PACKET))]
)
async def test_what_is_due_wakes_its_receiver_a_few_times_and_not_for_every_packet(
    rig: Rig, due: bool, waits: range
) -> None:
    data = bytes(range(256)) * (PIECE // 256)
    ciphertext = rig.far.encrypted(data)

    async def trickle() -> None:
        for start in range(0, len(ciphertext), PACKET):
            await rig.far.send(ciphertext[start : start + PACKET])
            await wait_all_tasks_blocked()

    assert await received(rig, PIECE, trickle, due=due) == data
    assert rig.waits in waits


@pytest.mark.parametrize("record", [1000, RECORD - 1, RECORD])
@pytest.mark.parametrize("size", [RECORD + 1, 5 * RECORD + 77, WAKE_MAX + RECORD, PIECE])
async def test_nothing_more_need_come_than_what_is_due_wherever_the_network_cuts_it(
    rig: Rig, size: int, record: int
) -> None:
    whole = record + 22
    for cut in (1, 5, whole - 1, whole, whole + 1, whole + 5, 2 * whole - 1, WAKE_MAX, size - RECORD, -1):
        data = bytes([cut % 251]) * size
        ciphertext = rig.far.encrypted(data, record)

        async def in_two(ciphertext: bytes = ciphertext, cut: int = cut) -> None:
            await rig.far.send(ciphertext[:cut])
            await wait_all_tasks_blocked()
            await rig.far.send(ciphertext[cut:])

        assert await received(rig, size, in_two) == data


async def test_a_small_message_is_heard_at_once_after_a_wait_for_much_was_given_up(rig: Rig) -> None:
    with trio.move_on_after(0.05) as scope:
        await rig.receive(PIECE)
    assert scope.cancelled_caught
    small = rig.far.encrypted(b"small")
    assert await received(rig, 5, lambda: rig.far.send(small), due=False) == b"small"


async def test_an_end_in_the_middle_of_what_is_due_is_noticed_at_once(rig: Rig) -> None:
    ciphertext = rig.far.encrypted(bytes(PIECE))[: 2 * RECORD]

    async def end() -> None:
        await rig.far.send(ciphertext)
        await wait_all_tasks_blocked()
        rig.far.close()

    with pytest.RaisesGroup(ssl.SSLEOFError):
        await received(rig, PIECE, end)


async def test_a_socket_with_little_room_is_emptied_before_all_that_is_due_has_come(rig: Rig) -> None:
    rig.channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    data = bytes(PIECE)
    assert await received(rig, PIECE, lambda: rig.far.send(rig.far.encrypted(data))) == data
