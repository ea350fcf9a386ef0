"""Connections to peers: dialling, accepting, one reader and one writer each, and their end.

Bytes become messages here and messages bytes; what they mean is `SwarmNode`'s business. At most one
connection per device is kept: of two that cross, the one that the lower device id dialled. A peer
that breaks the wire format is closed with a word of why; one that is banned is not let in again
(`admits` is the transport's gate).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import trio

from p2p.agent.budget import RateBudget
from p2p.agent.patience import Patience
from p2p.agent.storing import Backlog
from p2p.agent.streams import Reader, joined
from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.errors import ContentError, PeerError
from p2p.ports import PeerAddress, PeerIdentity, PeerStream, Transport
from p2p.swarm import messages as m
from p2p.swarm import wire
from p2p.swarm.events import PeerConnected, PeerLost, PieceSent, Received, Serve
from p2p.swarm.neighbours import KNOWN_MAX, LISTEN_S, Neighbours
from p2p.swarm.parts import PART_SIZES, Assembly, Begun, in_parts

log = logging.getLogger(__name__)

DIAL_BACKOFF_S = (0.25, 30.0)

DIALLED_PART = 4
"""So many times the connections that it keeps, a node dials addresses at once; who is not there makes room
for others that wait."""

YIELD_S = 0.25
"""How long the higher of two device ids lets the lower one dial first."""

BUFFER = 256 * limits.KIB
BYE_S = 2.0
"""How long the last word to a peer may take."""

QUEUE_MAX = 4096
"""Messages that may wait for one peer; one that reads too slowly for this is cut off."""

Feed = Callable[[PeerConnected | PeerLost | Received | PieceSent], None]
Answer = Callable[[Serve], m.Message]


class Link:
    """One connection. `answer` reads a piece only when its turn to be sent has come.

    Pieces let all other messages pass: on a slow network those would wait for seconds behind megabytes that
    were asked for, and nothing of what they say (who fetches what, who is done) would be true any more.
    While `backlog` is full, nothing more is read. `watch` runs beside `read` and `write`, which it ends
    when the far end neither gives nor takes.
    """

    def __init__(
        self, stream: PeerStream, initiator: str, answer: Answer, lan: RateBudget, backlog: Backlog
    ) -> None:
        self.stream = stream
        self.device = stream.identity.device
        self.initiator = initiator
        self._answer = answer
        self._lan = lan
        self._backlog = backlog
        self._queue: deque[m.Message] = deque()
        self._pieces: deque[Serve] = deque()
        self._rest: deque[m.Part | m.Piece] = deque()
        self._size = 0
        self._part_size = 0
        self._assembly = Assembly()
        self._more = trio.Event()
        self._reading, self._writing = Patience(), Patience()
        self.scope = trio.CancelScope()
        self.closing = False
        self.banned = False

    def send(self, message: m.Message | Serve) -> None:
        """Queue a message, or a piece behind all messages."""
        if self.closing:
            return
        if len(self._queue) + len(self._pieces) >= QUEUE_MAX:
            log.info("peer %s reads too slowly, closing", self.device)
            self.scope.cancel()
            return
        if isinstance(message, Serve):
            self._pieces.append(message)
        else:
            self._queue.append(message)
        self._more.set()

    def close(self, reason: str) -> None:
        """Say why, then close."""
        if self.closing:
            return
        self._queue.clear()
        self._pieces.clear()
        self._rest.clear()
        self.send(m.Bye(reason))
        self.closing = True
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + BYE_S)

    async def write(self, sent: Callable[[int], None]) -> None:
        """Send what is queued until the link is closed; small messages go out together.

        `sent` is told of each answer to a `Serve` when the socket has taken it: its size, 0 for a refusal.
        """
        with self._writing as patience:
            while True:
                while self._waiting:
                    parts: list[Buffer] = []
                    answers: list[int] = []
                    size, is_part = 0, False
                    while self._waiting and size < BUFFER and len(parts) < 64 and not is_part:
                        message = self._next(answers)
                        if message is not None:
                            is_part = isinstance(message, m.Part)  # so little is sent at once
                            encoded = wire.encode(message)
                            parts += encoded
                            size += sum(len(p) for p in encoded)
                    await self._lan.spend(size)
                    patience.begin()
                    await self.stream.send(*joined(parts))
                    patience.end()
                    for count in answers:
                        sent(count)
                if self.closing:
                    return
                self._more = trio.Event()
                await self._more.wait()

    @property
    def _waiting(self) -> bool:
        return bool(self._queue or self._rest or self._pieces)

    def _next(self, answers: list[int]) -> m.Message | None:
        """What is sent next, if that is known yet; `answers`: sizes of those to a `Serve`, once complete."""
        if self._queue:
            return self._queue.popleft()
        if not self._rest:
            answer = self._answer(self._pieces.popleft())
            if not isinstance(answer, m.Piece):
                answers.append(0)
                self._queue.append(answer)  # behind what the node says of it
                return None
            self._size = len(answer.payload)
            self._rest.extend(in_parts(answer, self._part_size))
        message = self._rest.popleft()
        if isinstance(message, m.Piece):
            answers.append(self._size)
        return message

    async def read(self, received: Callable[[m.Message], None]) -> None:
        """Decode messages until the end of the stream; raises `ContentError`, `PeerError`, `TooSlowError`."""
        reader = Reader(self.stream, self._backlog.blocks)
        with self._reading as patience:
            while (prefix := await reader.maybe(wire.PREFIX.size)) is not None:
                header_length, payload_length = wire.parse_prefix(prefix)
                if reader.buffered < header_length + payload_length:
                    patience.begin()
                header = await reader.exactly(header_length)
                payload = await reader.exactly(payload_length) if payload_length else b""
                patience.end()
                message = wire.decode(header, payload)
                if isinstance(message, m.Piece):
                    message = self._assembly.whole(message)
                elif isinstance(message, m.Part):
                    self._assembly.part(message)
                elif isinstance(message, m.MetadataWant):
                    self._part_size = PART_SIZES.get(message.name, self._part_size)
                received(message)
                if isinstance(message, m.Part):
                    self._backlog.blocks.give(payload)  # it was copied
                if self._backlog.full:
                    await self._backlog.room()

    @property
    def begun(self) -> Begun | None:
        """What has come of the piece that is arriving in parts."""
        return self._assembly.begun

    async def watch(self) -> None:
        """Keep an eye on how long messages take; until cancelled."""
        while True:
            await trio.sleep_until(min(self._reading.look(), self._writing.look()))


class PeerLinks:
    """All connections of one node.

    `feed` takes the node's events, `answer` makes the message for a `Serve`; `backlog` is what has come
    and is not stored. Start `serve` and `dial` tasks in a nursery of the agent's.
    """

    def __init__(
        self,
        me: str,
        transport: Transport,
        feed: Feed,
        answer: Answer,
        *,
        lan: RateBudget,
        backlog: Backlog,
        links_max: int = limits.PEERS_MAX,
        revoked: Callable[[Digest], bool] = lambda certificate: False,
    ) -> None:
        self._me = me
        self._transport = transport
        self._feed = feed
        self._answer = answer
        self._lan = lan
        self._backlog = backlog
        self._links_max = links_max
        self._neighbours = Neighbours(me, links_max)
        self._place_free = trio.Event()
        self._waiting: dict[tuple[str, int], tuple[float, PeerAddress]] = {}
        """Addresses that are not dialled now, and before when not again; the longest wait comes first."""
        self._revoked = revoked
        self._silent = False
        self._links: dict[str, Link] = {}
        self._dialling: dict[tuple[str, int], str | None] = {}
        self._banned: dict[str, float] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(self._links)

    def admits(self, identity: PeerIdentity) -> bool:
        """Whether a peer may connect now (for the transport)."""
        if self._silent or self._revoked(identity.certificate):
            return False
        until = self._banned.get(identity.device)
        if until is not None and trio.current_time() < until:
            return False
        if len(self._links) < self._links_max or identity.device in self._links:
            return True
        return self._neighbours.displaced(identity.device, self._links) is not None

    def ban(self, device: str, seconds: float) -> None:
        self._banned[device] = trio.current_time() + seconds

    def cut_revoked(self) -> None:
        """Part with peers whose certificates are revoked now: not one more message is taken or sent."""
        self._cut(lambda link: self._revoked(link.stream.identity.certificate))

    def silence(self) -> None:
        """Have no peers any more: none is kept, taken or dialled."""
        self._silent = True
        self._cut(lambda link: True)

    def speak(self) -> None:
        """Peers are kept and taken again, and dialled as they are `found`."""
        self._silent = False

    def _cut(self, which: Callable[[Link], bool]) -> None:
        for link in [link for link in self._links.values() if which(link)]:
            log.warning("peer %s is cut off", link.device)
            link.scope.cancel()
            del self._links[link.device]
            self._feed(PeerLost(link.device, banned=True))

    def send(self, device: str, message: m.Message | Serve) -> None:
        link = self._links.get(device)
        if link is not None:
            link.send(message)

    def close(self, device: str, reason: str) -> None:
        link = self._links.get(device)
        if link is not None:
            link.close(reason)

    def found(self, address: PeerAddress) -> None:
        """A discovery source reports an address: dial it unless that is under way or needless."""
        key = (address.host, address.port)
        if address.device == self._me or key in self._dialling or self._nursery is None:
            return
        if address.device is not None:
            self._neighbours.heard(address.device)
            if address.device in self._links:
                return
        if key in self._waiting:
            return
        if self._is_crowded or not (address.device is None or self._neighbours.wants(address.device)):
            self._wait(address)
        else:
            self._begin(address)

    def prefer(self, devices: tuple[str, ...]) -> None:
        """Keep connections to these before others."""
        self._neighbours.prefer(devices)
        self._look_again()

    @property
    def _is_crowded(self) -> bool:
        return len(self._dialling) >= DIALLED_PART * self._links_max

    def _begin(self, address: PeerAddress) -> None:
        assert self._nursery is not None
        key = (address.host, address.port)
        self._waiting.pop(key, None)
        self._dialling[key] = address.device
        self._nursery.start_soon(self._dial, address, key)

    def _wait(self, address: PeerAddress, pause_s: float = 0.0) -> None:
        """It is not dialled now. A device may have several: others may have said what is not so."""
        key = (address.host, address.port)
        if len(self._waiting) < KNOWN_MAX:
            self._waiting[key] = trio.current_time() + pause_s, address

    def _look_again(self) -> None:
        """There may be room for who waits."""
        self._place_free.set()

    async def _call(self) -> None:
        """Dial who waits once it is wanted and there is room; until cancelled."""
        while True:
            with trio.move_on_after(DIAL_BACKOFF_S[1]):
                await self._place_free.wait()
            self._place_free = trio.Event()
            if not self._waiting or self._silent:
                continue
            wanted = self._neighbours.wanted() - self._links.keys()
            for not_before, address in list(self._waiting.values()):
                if self._is_crowded:
                    break
                is_wanted = address.device is None or address.device in wanted
                if is_wanted and trio.current_time() >= not_before:
                    self._begin(address)
            await trio.sleep(DIAL_BACKOFF_S[0])  # many may fail at the same moment

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and keep connections until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._call)
            self._nursery.start_soon(self._listen)
            task_status.started()
            try:
                await self._transport.serve(self._accepted)
            finally:
                self._nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        """Dial few until there was time to hear of those who are here."""
        await trio.sleep(LISTEN_S)
        self._neighbours.listened()
        self._look_again()

    async def _accepted(self, stream: PeerStream) -> None:
        await self._keep(stream, stream.identity.device)

    async def _dial(self, address: PeerAddress, key: tuple[str, int]) -> None:
        """Keep a connection to one address up, as long as nobody says that it is pointless."""
        pause, longest = DIAL_BACKOFF_S
        device = address.device
        try:
            if device is not None and device < self._me:
                await trio.sleep(YIELD_S)
            while not self._silent:
                if device is not None and not (device in self._links or self._neighbours.wants(device)):
                    self._wait(replace(address, device=device))
                    return
                if device is None or device not in self._links:
                    try:
                        stream = await self._transport.connect(address)
                    except PeerError as error:
                        log.debug("peer %s:%d: %s", address.host, address.port, error.message)
                        if error.reason in ("self", "not-of-fleet"):
                            return
                        if device is not None and self._neighbours.failed(device):
                            self._look_again()
                        if self._is_crowded and self._waiting:  # it has its turn again after them
                            self._wait(replace(address, device=device), longest)
                            return
                    else:
                        device = stream.identity.device
                        started = trio.current_time()
                        await self._keep(stream, self._me)
                        if trio.current_time() - started > longest:
                            pause = DIAL_BACKOFF_S[0]
                await trio.sleep(pause)
                pause = min(longest, pause * 1.6)
        finally:
            crowded = self._is_crowded
            self._dialling.pop(key, None)
            if crowded:
                self._look_again()

    async def _keep(self, stream: PeerStream, initiator: str) -> None:
        """Run one connection to its end."""
        link = Link(stream, initiator, self._answer, self._lan, self._backlog)
        try:
            if self._take_up(link):
                with link.scope:
                    await self._run(link)
        finally:
            if self._links.get(link.device) is link:
                del self._links[link.device]
                self._feed(PeerLost(link.device, link.banned, link.begun))
                self._look_again()
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def _take_up(self, link: Link) -> bool:
        """Whether this connection is to be kept; it then takes the place of an older one."""
        if not self.admits(link.stream.identity):
            return False
        old = self._links.get(link.device)
        if old is not None:
            if link.initiator != old.initiator and link.initiator != min(self._me, link.device):
                return False
            old.scope.cancel()
            self._feed(PeerLost(link.device, begun=old.begun))
        elif len(self._links) >= self._links_max:
            self._displace(link.device)
        self._neighbours.met(link.device)
        self._links[link.device] = link
        identity = link.stream.identity
        self._feed(PeerConnected(link.device, link.stream.remote, identity.is_carrier))
        return True

    def _displace(self, newcomer: str) -> None:
        """Make room for a peer that may come (`admits`)."""
        last = self._neighbours.displaced(newcomer, self._links)
        if last is not None:
            link = self._links.pop(last)
            link.scope.cancel()
            self._feed(PeerLost(last, begun=link.begun))

    async def _run(self, link: Link) -> None:
        def received(message: m.Message) -> None:
            if isinstance(message, m.Hello) and message.site != link.stream.identity.site:
                raise ContentError(f"hello: site {message.site} is not what its certificate says")
            if self._links.get(link.device) is link and not link.closing:
                self._feed(Received(link.device, message))

        async def write() -> None:
            try:
                await link.write(lambda size: self._feed(PieceSent(link.device, size)))
            except (PeerError, trio.TooSlowError) as error:
                log.info("peer %s: %s", link.device, str(error) or "takes nothing of what it is sent")
            link.scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(link.watch)
                await link.read(received)
                nursery.cancel_scope.cancel()
        except* ContentError as group:
            log.warning("peer %s breaks the protocol: %s", link.device, group.exceptions[0])
            link.banned = True
            self.ban(link.device, 60.0)
        except* (PeerError, trio.TooSlowError) as group:
            log.debug("peer %s: %s", link.device, group.exceptions[0])
