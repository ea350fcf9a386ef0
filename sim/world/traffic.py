"""Others' traffic on a site's WAN, and how devices' requests give way to it.

The others are one download that takes all it can get and keeps the link's queue full, as a TCP without limits
does. What a device has in flight is said by the same `p2p.swarm.courtesy` that the agent's connections are
bounded by; the round trips that it is told of are the link's, plus its queue. Links without such traffic are
left alone: giving way costs nothing there (`python -m benchmarks.giving_way`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm.courtesy import WINDOW_MIN, Courtesy
from sim.scenario.model import Traffic
from sim.world.flows import Flow

if TYPE_CHECKING:
    from sim.world.uplink import Uplink

ENDLESS = 1 << 50
"""Bytes of a download that does not end by itself."""

STEP_MIN_S = 0.02


class OtherTraffic:
    """Of one uplink. `yielding`: what devices have in flight on it, by their names."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._flow = Flow((uplink.link,))
        self._busy = 0
        self._yielding: dict[str, Yielding] = {}
        for span in uplink.spec.traffic:
            uplink.kernel.at(span.at_s, self._begin, span)

    def of(self, device: str) -> Yielding | None:
        """How a device gives way here; None where devices do not."""
        if not self._uplink.spec.gives_way:
            return None
        found = self._yielding.get(device)
        if found is None:
            found = self._yielding[device] = Yielding(self._uplink, self)
        return found

    def queue_s(self) -> float:
        """Delay in the link's queue now."""
        spec = self._uplink.spec
        if self._busy:
            return spec.queue_s
        flying = sum(y.window for y in self._yielding.values() if y.active)
        return min(spec.queue_s, max(0.0, flying / max(self._uplink.link.capacity, 1.0) - self._uplink.rtt))

    @property
    def carried(self) -> int:
        """Bytes of the others that crossed the link."""
        return self._flow.done + self._uplink.flows.crossed(self._flow)

    def _begin(self, span: Traffic) -> None:
        uplink = self._uplink
        self._busy += 1
        if self._busy == 1:
            uplink.kernel.trace(f"others download over {uplink.name}")
            uplink.flows.push(self._flow, ENDLESS, None)
        uplink.kernel.after(span.length_s, self._end)
        if span.every_s > 0:
            uplink.kernel.after(span.every_s, self._begin, span)

    def _end(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._uplink.kernel.trace(f"others leave {self._uplink.name}")
            self._uplink.flows.cut(self._flow)


class Yielding:
    """One device's transfers over one uplink."""

    def __init__(self, uplink: Uplink, traffic: OtherTraffic) -> None:
        self._uplink = uplink
        self._traffic = traffic
        self._courtesy = Courtesy()
        self._flows: dict[Flow, int] = {}
        """Transfers under way, each with the bytes that were counted."""
        self._stepping = False

    @property
    def active(self) -> bool:
        return bool(self._flows)

    @property
    def window(self) -> int:
        """Bytes in flight, at most."""
        return max(self._courtesy.window, WINDOW_MIN * len(self._flows))

    def begin(self, flow: Flow) -> None:
        """A transfer is under way."""
        self._flows[flow] = flow.done
        self._bound()
        if not self._stepping:
            self._stepping = True
            self._uplink.kernel.soon(self._step)

    def end(self, flow: Flow) -> None:
        """It is over."""
        self._flows.pop(flow, None)

    def _step(self) -> None:
        self._stepping = bool(self._flows)
        if not self._stepping:
            return
        uplink = self._uplink
        received = 0
        for flow, counted in self._flows.items():
            carried = flow.done + uplink.flows.crossed(flow)
            received += carried - counted
            self._flows[flow] = carried
        trip_s = uplink.rtt + self._traffic.queue_s()
        if received:
            self._courtesy.sampled(max(trip_s, 1e-4), max(uplink.rtt, 1e-4), received, uplink.kernel.now)
            self._bound()
        uplink.kernel.after(max(STEP_MIN_S, trip_s), self._step)

    def _bound(self) -> None:
        """Each transfer goes at most as fast as its part of the window allows."""
        uplink = self._uplink
        trip_s = max(uplink.rtt + self._traffic.queue_s(), 1e-3)
        most = self.window / len(self._flows) / trip_s
        for flow in self._flows:
            uplink.flows.limit(flow, "courtesy", most)
