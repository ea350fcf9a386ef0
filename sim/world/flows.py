"""Fluid flows over shared links: max-min fair rates by progressive filling.

A flow is a queue of items that cross its links one after the other (some pass those that wait); it has a
rate while anything is queued. Rates change only where they must: when a flow starts or ends or a link
changes, once per instant, for the links and flows that are connected with it (Bertsekas and Gallager, Data
Networks, 6.5.2). An item counts as carried, in whole bytes, when it is through, or when its flow is cut.
A link that stands twice in a flow's path is crossed twice (one medium that both ends share). Not for
delay, order or overhead (`network`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heapreplace
from typing import Any

from sim.world.kernel import Kernel

CROWD = 32
CROWD_S = 0.001
"""While more than `CROWD` flows hang together, rates are worked out at most once in `CROWD_S` seconds: what
starts waits for that long. A piece of 128 KiB takes ten times as long on a link of 100 Mbit/s."""

_EPSILON = 1e-6
"""Bytes that rounding may leave of an item."""


class Link:
    """A capacity in bytes per second that flows share; `carried` counts whole bytes."""

    __slots__ = ("capacity", "carried", "flows", "left", "name", "users")

    def __init__(self, name: str, capacity: float) -> None:
        self.name = name
        self.capacity = capacity
        self.carried = 0
        self.flows: dict[Flow, int] = {}
        """Active flows, each with how often it crosses this link."""
        self.left = 0.0
        self.users = 0

    @property
    def load(self) -> float:
        """Bytes per second that cross it now."""
        return sum(flow.rate * times for flow, times in self.flows.items())


class Flow:
    """One sender's queue to one receiver over `path`. `cap`: what it can use at most, bytes per second."""

    __slots__ = (
        "ahead", "bounds", "cap", "done", "generation", "items", "left", "path", "rate", "since", "size",
    )  # fmt: skip

    def __init__(self, path: tuple[Link, ...], cap: float = 0.0) -> None:
        self.path = path
        self.cap = cap
        self.bounds: dict[str, float] | None = None
        """What it may use at most for different reasons, once there is more than one."""
        self.items: list[tuple[int, Callable[..., object] | None, tuple[Any, ...]]] = []
        """A list, as most flows of a world are empty, and a queue is short."""
        self.ahead = 0
        """So many items, those that follow the one under way, have passed others."""
        self.rate = 0.0
        self.size = 0
        """Bytes of the first item."""
        self.left = 0.0
        """Bytes of the first item that are still to cross, as of `since`."""
        self.since = 0.0
        self.done = 0
        """Bytes of all items that are through."""
        self.generation = 0

    @property
    def queued(self) -> int:
        """Bytes of all items that are not through."""
        return sum(item[0] for item in self.items)


class Flows:
    """All flows of a world."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._dirty: dict[Link, None] = {}
        self._pending = False
        self._crowd = 0
        self.recomputed = 0
        """Flows whose rate was worked out, over all recomputations."""

    def pass_on(self, flow: Flow, size: int, call: Callable[..., object] | None, *arguments: Any) -> None:
        """As `push`, but it passes all that is queued, except for what is under way and has passed, too."""
        if not flow.items:
            self.push(flow, size, call, *arguments)
            return
        flow.ahead += 1
        flow.items.insert(flow.ahead, (size, call, arguments))

    def push(self, flow: Flow, size: int, call: Callable[..., object] | None, *arguments: Any) -> None:
        """Queue `size` bytes; `call(*arguments)` when the last of them has crossed."""
        flow.items.append((size, call, arguments))
        if len(flow.items) == 1:
            self._begin(flow)
            for link in flow.path:
                link.flows[flow] = link.flows.get(flow, 0) + 1
                self._touch(link)

    def cut(self, flow: Flow) -> int:
        """Drop all that is queued; returns how many bytes of the item under way had crossed."""
        if not flow.items:
            return 0
        self._advance(flow)
        crossed = min(flow.size, max(0, int(flow.size - flow.left + _EPSILON)))
        self._carry(flow, crossed)
        flow.items.clear()
        flow.ahead = 0
        self._leave(flow)
        return crossed

    def crossed(self, flow: Flow) -> int:
        """Bytes of the item under way that have crossed by now."""
        if not flow.items:
            return 0
        self._advance(flow)
        return min(flow.size, max(0, int(flow.size - flow.left + _EPSILON)))

    def change(self, link: Link, capacity: float) -> None:
        """Give a link another capacity (0: nothing crosses it)."""
        if link.capacity != capacity:
            link.capacity = capacity
            self._touch(link)

    def limit(self, flow: Flow, why: str, most: float) -> None:
        """Let a flow use at most `most` bytes per second from now on, whatever it may for other reasons."""
        if flow.bounds is None:
            flow.bounds = {"": flow.cap} if flow.cap else {}
        flow.bounds[why] = most
        cap = min(flow.bounds.values())
        if flow.cap != cap:
            flow.cap = cap
            if flow.items:
                for link in flow.path:
                    self._touch(link)

    # Inside

    def _begin(self, flow: Flow) -> None:
        flow.size = flow.items[0][0]
        flow.left = float(flow.size)
        flow.since = self._kernel.now

    def _advance(self, flow: Flow) -> None:
        now = self._kernel.now
        if flow.rate and now > flow.since:
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since))
        flow.since = now

    def _carry(self, flow: Flow, size: int) -> None:
        flow.done += size
        for link in flow.path:
            link.carried += size

    def _leave(self, flow: Flow) -> None:
        flow.rate = 0.0
        flow.generation += 1
        for link in flow.path:
            if flow in link.flows:
                del link.flows[flow]
                self._touch(link)

    def _touch(self, link: Link) -> None:
        self._dirty[link] = None
        if not self._pending:
            self._pending = True
            self._kernel.after(CROWD_S if self._crowd > CROWD else 0.0, self._recompute)

    def _through(self, flow: Flow, generation: int) -> None:
        """The item under way has crossed, if nothing changed since that was reckoned."""
        if flow.generation != generation:
            return
        size, call, arguments = flow.items.pop(0)
        if flow.ahead:
            flow.ahead -= 1
        self._carry(flow, size)
        if flow.items:
            self._begin(flow)
            flow.generation = generation = generation + 1
            self._kernel.at(flow.since + flow.left / flow.rate, self._through, flow, generation)
        else:
            self._leave(flow)
        if call is not None:
            call(*arguments)

    def _set_rate(self, flow: Flow, rate: float) -> None:
        if rate == flow.rate:
            return
        self._advance(flow)
        flow.rate = rate
        flow.generation += 1
        if rate > 0.0:
            self._kernel.at(self._kernel.now + flow.left / rate, self._through, flow, flow.generation)

    def _recompute(self) -> None:
        self._pending = False
        dirty, self._dirty = self._dirty, {}
        if len(dirty) <= 8 and self._simple(dirty):
            self._crowd = 0
            return
        flows = _component(dirty)
        self._crowd = len(flows)
        self.recomputed += len(flows)
        for flow, rate in max_min(flows).items():
            self._set_rate(flow, rate)

    def _simple(self, dirty: Iterable[Link]) -> bool:
        """The common case: every flow concerned is alone on its links but for one that they all share."""
        shared: Link | None = None
        flows: dict[Flow, None] = {}
        for link in dirty:
            for flow in link.flows:
                flows[flow] = None
        if len(flows) > 64:
            return False
        for flow in flows:
            for link in flow.path:
                if len(link.flows) > 1:
                    if shared is not None and shared is not link:
                        return False
                    shared = link
        if shared is None:
            for flow in flows:
                self.recomputed += 1
                self._set_rate(flow, _alone(flow))
            return True
        if len(shared.flows) != len(flows) or any(flow not in shared.flows for flow in flows):
            return False
        times = sum(shared.flows.values())
        fair = shared.capacity / times
        if any(_own(flow, shared) < fair for flow in flows):
            return False
        for flow in flows:
            self.recomputed += 1
            self._set_rate(flow, fair)
        return True


def max_min(flows: Iterable[Flow]) -> dict[Flow, float]:
    """The max-min fair rate of each flow, over all links on their paths. Pure."""
    active = list(flows)
    links: dict[Link, None] = {}
    for flow in active:
        for link in flow.path:
            links[link] = None
    for link in links:
        link.left = link.capacity
        link.users = sum(link.flows.values())
    rates: dict[Flow, float] = {}
    capped = sorted((f for f in active if f.cap), key=lambda f: f.cap)
    next_cap = 0
    # A link's fair share only rises as flows are fixed, so an entry of the heap is at worst too low.
    heap = [(link.left / link.users, n, link) for n, link in enumerate(links)]
    heapify(heap)
    while len(rates) < len(active):
        while heap:
            share, n, link = heap[0]
            if not link.users:
                heappop(heap)
                continue
            fair = link.left / link.users
            if fair <= share:
                break
            heapreplace(heap, (fair, n, link))
        share = heap[0][0] if heap else float("inf")
        while next_cap < len(capped) and capped[next_cap] in rates:
            next_cap += 1
        if next_cap < len(capped) and capped[next_cap].cap <= share:
            _fix(capped[next_cap], capped[next_cap].cap, rates)
        elif heap:
            tight = heappop(heap)[2]
            fair = tight.left / tight.users
            for flow in tight.flows:
                if flow not in rates:
                    _fix(flow, fair, rates)
            tight.users = 0
        else:
            for flow in active:
                rates.setdefault(flow, flow.cap or float("inf"))
    return rates


def _fix(flow: Flow, rate: float, rates: dict[Flow, float]) -> None:
    rates[flow] = rate
    for link in flow.path:
        link.left = max(0.0, link.left - rate)
        link.users -= 1


def _component(dirty: Iterable[Link]) -> list[Flow]:
    """All active flows that are connected with `dirty` links, in a fixed order."""
    seen: dict[Link, None] = dict.fromkeys(dirty)
    flows: dict[Flow, None] = {}
    todo = list(seen)
    while todo:
        for flow in todo.pop().flows:
            if flow not in flows:
                flows[flow] = None
                for link in flow.path:
                    if link not in seen:
                        seen[link] = None
                        todo.append(link)
    return list(flows)


def _alone(flow: Flow) -> float:
    """What a flow gets that shares nothing."""
    rate = flow.cap or float("inf")
    for link, times in ((link, link.flows[flow]) for link in flow.path):
        rate = min(rate, link.capacity / times)
    return rate


def _own(flow: Flow, shared: Link) -> float:
    """What a flow could use beside a link that it shares."""
    rate = flow.cap or float("inf")
    for link in flow.path:
        if link is not shared:
            rate = min(rate, link.capacity / link.flows[flow])
    return rate
