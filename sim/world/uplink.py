"""The WAN of a site and the origin behind it: rates, windows, outages, requests and what they weigh.

A request to the origin is one flow over the origin's capacity, the site's link and, where the LAN is
wireless, its medium. It fails as the real HTTP client would: at once when the origin refuses, cut when
the link is, too slow when nothing comes. Bytes count as Ethernet frames (`wire`). Not for what is
asked for (`device`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from p2p.content import limits
from sim.scenario.model import Origin, Wan
from sim.world.flows import Flow, Flows, Link
from sim.world.kernel import Kernel
from sim.world.pool import Opening
from sim.world.traffic import OtherTraffic, Yielding
from sim.world.wire import SEGMENT, HttpCosts, acks

DAY_S = 86400.0
MATHIS = 1.22
"""Rate of a flow under random loss: MSS / RTT * MATHIS / sqrt(loss) (Mathis et al. 1997)."""

BINS = 512


class OriginServer:
    """The origin of all sites. `egress`: bytes per bin of `bin_s` seconds."""

    def __init__(self, spec: Origin, duration_s: float, *, tls: bool = True) -> None:
        self.link = Link("origin", spec.capacity) if spec.capacity else None
        self.spec = spec
        self.broken = 0
        self.costs = HttpCosts(tls=tls)
        self.bin_s = max(1.0, duration_s / BINS)
        self.egress: dict[int, float] = {}
        self.uplinks: list[Uplink] = []

    def count(self, since: float, until: float, size: int) -> None:
        """`size` bytes went out evenly from `since` to `until`."""
        first, last = int(since / self.bin_s), int(until / self.bin_s)
        if first >= last:
            self.egress[last] = self.egress.get(last, 0.0) + size
            return
        rate = size / (until - since)
        for n in range(first, last + 1):
            covered = min(until, (n + 1) * self.bin_s) - max(since, n * self.bin_s)
            self.egress[n] = self.egress.get(n, 0.0) + rate * covered

    @property
    def up(self) -> bool:
        return not self.broken

    def break_down(self) -> None:
        """Answer nothing until `mend` was called as often; what is under way is cut."""
        self.broken += 1
        for uplink in self.uplinks:
            uplink.cut("truncated")

    def mend(self) -> None:
        self.broken -= 1


class Uplink:
    """A site's link to the origin. `down` and `up` count bytes on the wire, each way.

    `usable(open)` is called when a daily window opens or closes: it is the devices' policy, which
    they know, whereas an outage is found out.
    """

    def __init__(
        self,
        name: str,
        spec: Wan,
        kernel: Kernel,
        flows: Flows,
        origin: OriginServer,
        *,
        starts_of_day: float = 0.0,
        usable: Callable[[bool], None] | None = None,
    ) -> None:
        self.spec = spec
        self.name = name
        self.kernel = kernel
        self.flows = flows
        self.origin = origin
        self.link = Link(f"wan {name}", 0.0)
        self.down = 0
        self.up = 0
        self.factor = 1.0
        self.broken = 0
        """How many outages and faults keep it down now."""
        self.requests: dict[Request, None] = {}
        self._day = starts_of_day
        self._usable = usable
        rtt = 2 * spec.delay_s
        self.cap = MATHIS * SEGMENT / (max(rtt, 1e-3) * sqrt(spec.loss)) if spec.loss else 0.0
        self.open = self._is_open(kernel.now)
        self._renew()
        self.traffic = OtherTraffic(self) if spec.traffic else None
        origin.uplinks.append(self)
        if spec.windows:
            kernel.at(self._next_border(kernel.now), self._border)
        for outage in spec.outages:
            kernel.at(outage.at_s, self._outage, outage.length_s, outage.every_s)

    @property
    def rtt(self) -> float:
        return 2 * self.spec.delay_s

    @property
    def money(self) -> float:
        """What its bytes cost, both directions."""
        return (self.down + self.up) * self.spec.price_per_mb / 1e6

    def slow(self, factor: float) -> None:
        """Give it this share of the rate that it has."""
        self.factor *= factor
        self._renew()

    def break_down(self) -> None:
        """It carries nothing until `mend` was called as often."""
        self.broken += 1
        self._renew()

    def mend(self) -> None:
        self.broken -= 1
        self._renew()

    def cut(self, error: str = "truncated") -> None:
        """Cut every transfer under way."""
        for request in list(self.requests):
            request.fail(error)

    # Inside

    def _renew(self) -> None:
        carries = self.open and not self.broken
        self.flows.change(self.link, self.spec.rate * (1 - self.spec.loss) * self.factor if carries else 0.0)

    def _outage(self, length_s: float, every_s: float) -> None:
        self.break_down()
        self.kernel.after(length_s, self.mend)
        if every_s > 0:
            self.kernel.after(every_s, self._outage, length_s, every_s)

    def _border(self) -> None:
        was, self.open = self.open, self._is_open(self.kernel.now + 1e-6)
        if was != self.open:
            self._renew()
            if self._usable is not None:
                self._usable(self.open)
        self.kernel.at(self._next_border(self.kernel.now), self._border)

    def _is_open(self, now: float) -> bool:
        return not self.spec.windows or any(w.holds((self._day + now) % DAY_S) for w in self.spec.windows)

    def _next_border(self, now: float) -> float:
        """The next time after `now` at which a window begins or ends."""
        today = (self._day + now) % DAY_S
        borders = (b for w in self.spec.windows for b in (w.start_s, w.stop_s))
        return now + min(((b - today - 1e-6) % DAY_S) + 1e-6 for b in borders)


class Request:
    """One request over an uplink: `parts` are the sizes of the body's parts in order.

    `arrived(n)` is called when part `n` has come; `ended(error)` once, with None after the last part.
    `opening`: on which connection. `yielding`: what it shares a window with, if anything. Its bytes are the
    uplink's, and `count(down, up)` is told of them: of an answer that is broken off, what came of it, and the
    acknowledgements of that.
    """

    __slots__ = (
        "_acked", "_arrived", "_before", "_count", "_counted", "_ended", "_flow", "_parts", "_since",
        "_stretch", "_watched", "_yielding", "body", "received", "uplink",
    )  # fmt: skip

    def __init__(
        self,
        uplink: Uplink,
        parts: tuple[int, ...],
        *,
        medium: Link | None,
        opening: Opening,
        sent: int,
        arrived: Callable[[int], object] | None,
        ended: Callable[[str | None], object],
        count: Callable[[int, int], object],
        yielding: Yielding | None = None,
    ) -> None:
        self.uplink = uplink
        self._yielding = yielding
        self._parts = parts
        self._arrived = arrived
        self._ended: Callable[[str | None], object] | None = ended
        self._count = count
        self.body = sum(parts)
        self.received = 0
        """Body bytes of whole parts."""
        self._counted = 0
        self._watched = -1
        kernel, origin = uplink.kernel, uplink.origin
        self._since = kernel.now
        path = (uplink.link,) if origin.link is None else (origin.link, uplink.link)
        self._flow = Flow(path if medium is None else (*path, medium), uplink.cap)
        uplink.requests[self] = None
        down, up, trips = 0, 0, 0
        if opening is not Opening.KEPT:
            down, up, trips = origin.costs.connect(resumed=opening is Opening.RESUMED)
        total = origin.costs.down(self.body)
        self._stretch = total / self.body if self.body else 1.0
        head = total - self.body if not self.body else 0
        self._acked, self._before = 0, down
        self._send_up(up + origin.costs.up(sent))
        kernel.at(
            kernel.now + (trips + 1) * uplink.rtt + sent / (uplink.spec.up_rate or uplink.spec.rate),
            self._begin, down + head,
        )  # fmt: skip
        kernel.after(limits.ORIGIN_CONNECT_S, self._connected)
        kernel.after(limits.ORIGIN_IDLE_S, self._watch)

    @property
    def partial(self) -> int:
        """Body bytes that have come so far, also of the part under way."""
        if self._ended is None:
            return self.received
        return min(self.body, self.received + int(self.uplink.flows.crossed(self._flow) / self._stretch))

    def limit(self, rate: float) -> None:
        """Take at most so many bytes of the body per second, as a budget says."""
        self.uplink.flows.limit(self._flow, "budget", rate * self._stretch)

    def cancel(self) -> int:
        """Close the connection; returns the body bytes that came. `ended` is not called."""
        came = self._stop()
        self._ended = None
        return came

    def fail(self, error: str) -> None:
        """End with an error."""
        ended = self._ended
        if ended is not None:
            self.received = self.cancel()
            ended(error)

    # Inside

    def _send_up(self, size: int) -> None:
        self.uplink.up += size
        self._count(0, size)

    def _begin(self, first: int) -> None:
        """The answer begins to come, with `first` bytes before the body."""
        if self._ended is None:
            return
        if not self.uplink.origin.up:
            self.fail("unreachable")
            return
        flows = self.uplink.flows
        if self._yielding is not None:
            self._yielding.begin(self._flow)
        flows.push(self._flow, first, self._through, -1)
        before = 0
        body = 0
        for n, size in enumerate(self._parts):
            body += size
            until = round(body * self._stretch)
            flows.push(self._flow, until - before, self._through, n)
            before = until
        if not self._parts:
            flows.push(self._flow, 0, self._through, 0)

    def _through(self, part: int) -> None:
        self._account(self._flow.done)
        if part < 0:
            return
        if part < len(self._parts):
            self.received += self._parts[part]
            if self._arrived is not None:
                self._arrived(part)
        if part >= len(self._parts) - 1 and (ended := self._ended) is not None:
            self._ended = None
            self._over()
            ended(None)

    def _account(self, carried: int) -> None:
        size = carried - self._counted
        if size > 0:
            now = self.uplink.kernel.now
            self._counted = carried
            self.uplink.down += size
            self.uplink.origin.count(self._since, now, size)
            self._count(size, 0)
            self._since = now
            acked = acks(max(0, carried - self._before))
            self._send_up(acked - self._acked)
            self._acked = acked

    def _stop(self) -> int:
        if self._ended is None:
            return self.received
        came = self.partial
        self.uplink.flows.cut(self._flow)
        self._account(self._flow.done)
        self._over()
        return came

    def _over(self) -> None:
        del self.uplink.requests[self]
        if self._yielding is not None:
            self._yielding.end(self._flow)

    def _connected(self) -> None:
        if self._ended is not None and not self._flow.done and self.uplink.link.capacity == 0.0:
            self.fail("unreachable")

    def _watch(self) -> None:
        """What the real client does: less than 128 bytes a second over 30 seconds is too slow."""
        if self._ended is None:
            return
        carried = self._flow.done + self.uplink.flows.crossed(self._flow)
        if carried - max(0, self._watched) < limits.ORIGIN_RATE_MIN * limits.ORIGIN_IDLE_S:
            self.fail("too-slow" if carried else "unreachable")
            return
        self._watched = carried
        self.uplink.kernel.after(limits.ORIGIN_IDLE_S, self._watch)
