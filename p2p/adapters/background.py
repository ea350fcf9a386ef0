"""Background reads: the connections of an HTTP client give way to whatever else uses the same link.

Linux tells a receiver how long its round trips are while bytes arrive (TCP_INFO, from the time stamps of
RFC 7323), and lets it bound what is in flight towards it (TCP_WINDOW_CLAMP). `p2p.swarm.courtesy` says how
much that may be. Reading more slowly would do the same only after the kernel's receive buffer is full, which
grows to megabytes. Where the system or the far end does without, nothing is bounded, and that is told once.

Not for rates that an operator sets (`p2p.agent.budget`).
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from p2p.swarm.courtesy import WINDOW_MIN, Courtesy

log = logging.getLogger(__name__)

Server = tuple[str, str, int]
"""Scheme, host and port."""

WAYS_MAX = 8
"""Ways to servers that are remembered: an origin, a coordinator, and where they redirect to."""

SAMPLE_S = 0.01
"""A connection is looked at so often, at most; a look is one system call, or two."""

ACTIVE_S = 1.0
"""A connection on which nothing came for so long has no share of the window."""

_INFO_SIZE = 152
_HAS_TIMESTAMPS = 1  # TCPI_OPT_TIMESTAMPS of tcpi_options
_OPTIONS_AT, _RCV_MSS_AT, _RCV_RTT_AT, _MIN_RTT_AT = 5, 20, 92, 148
"""Offsets in `struct tcp_info` (Linux, uapi/linux/tcp.h), which only ever grows at its end."""

_UNKNOWN_US = 1 << 31


class RoundTrip(NamedTuple):
    """As the kernel measured them, seconds: `current` of late, `shortest` of the last five minutes.

    `segment`: bytes of the largest segments that came. A sender waits before it sends less than one of its
    segments (RFC 9293, section 3.8.6.2.1), and those of a loopback or a data centre may be 64 KiB.
    """

    current_s: float
    shortest_s: float
    segment: int


class Measured(Protocol):
    """A connection that can be measured and bounded (`p2p.adapters.channel`)."""

    def round_trip(self) -> RoundTrip | None:
        """None: not known, for now or for good."""

    def bound(self, window: int) -> bool:
        """Let at most so many bytes be in flight towards us; whether that was possible."""


def round_trip_of(sock: socket.socket) -> RoundTrip | None:
    """Of a connected socket on which bytes arrive; None where it cannot be known (yet)."""
    number = getattr(socket, "TCP_INFO", None)
    if number is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, number, _INFO_SIZE)
    except OSError:
        return None
    if len(info) < _INFO_SIZE or not info[_OPTIONS_AT] & _HAS_TIMESTAMPS:
        return None
    (current,) = struct.unpack_from("=I", info, _RCV_RTT_AT)
    (shortest,) = struct.unpack_from("=I", info, _MIN_RTT_AT)
    (segment,) = struct.unpack_from("=I", info, _RCV_MSS_AT)
    if not 0 < current < _UNKNOWN_US:
        return None
    return RoundTrip(current / 1e6, min(current, shortest) / 1e6, segment)


def bound_window(sock: socket.socket, window: int) -> bool:
    """Let at most `window` bytes be in flight towards a socket, from now on; whether the system can."""
    number = getattr(socket, "TCP_WINDOW_CLAMP", None)
    if number is None:
        return False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, number, window)
    except OSError:
        return False
    return True


@dataclass(slots=True)
class _Way:
    courtesy: Courtesy
    received: int = 0
    active: dict[Measured, float] = field(default_factory=dict)
    """Connections, and when each had its latest bytes."""


class Background:
    """Gives way on all connections that it is told of. `courtesy` makes what decides for one server."""

    def __init__(
        self, now: Callable[[], float] = trio.current_time, courtesy: Callable[[], Courtesy] = Courtesy
    ) -> None:
        self._now = now
        self._courtesy = courtesy
        self._ways: dict[Server, _Way] = {}
        self._looked: dict[Measured, float] = {}
        self._told = False

    @property
    def giving_way(self) -> bool:
        """Whether something else fills a link just now."""
        soon = self._now() - ACTIVE_S
        return any(
            w.courtesy.giving_way and any(at > soon for at in w.active.values()) for w in self._ways.values()
        )

    def received(self, server: Server, connection: Measured, size: int) -> None:
        """`size` bytes came on a connection to `server`."""
        way = self._ways.get(server)
        if way is None:
            if len(self._ways) >= WAYS_MAX:
                del self._ways[next(iter(self._ways))]
            way = self._ways[server] = _Way(self._courtesy())
        now = self._now()
        way.received += size
        fresh = connection not in way.active
        way.active[connection] = now
        if not fresh and now - self._looked.get(connection, 0.0) < SAMPLE_S:
            return
        self._looked[connection] = now
        trip = connection.round_trip()
        if trip is None:
            return
        for other in [c for c, at in way.active.items() if now - at > ACTIVE_S]:
            del way.active[other]
        window = way.courtesy.sampled(trip.current_s, trip.shortest_s, way.received, now)
        way.received = 0
        share = max(WINDOW_MIN, 2 * trip.segment, window // len(way.active))
        if not connection.bound(share) and not self._told:
            self._told = True
            log.warning("this system cannot bound what is in flight, so updates do not give way")

    def forget(self, connection: Measured) -> None:
        """A connection is closed."""
        self._looked.pop(connection, None)
        for way in self._ways.values():
            way.active.pop(connection, None)
