"""What a device asks of origin and coordinator: frames for its node, small signed files, check-ins.

The counterpart of `p2p.agent.fetch` and of the HTTP client behind it. What becomes of a frame that has
come is the `maker`'s; what requests cost and how they fail is the `uplink`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2p.content.index import Frame, Patch
from p2p.swarm import events as e
from sim.world.maker import Holding, Maker
from sim.world.payloads import GOOD
from sim.world.pool import Pool
from sim.world.uplink import Request

if TYPE_CHECKING:
    from sim.world.device import Device

PROGRESS_S = 1.0
"""How often a node is told that a fetch goes on; the real driver does it five times as often."""


class _Fetch:
    __slots__ = (
        "action", "arrived", "begun", "error", "frames", "holding", "over", "pending", "request", "since",
        "stored", "told",
    )  # fmt: skip

    def __init__(self, action: e.Fetch, since: float, holding: Holding | None) -> None:
        self.action = action
        self.since = since
        self.holding = holding
        self.frames: tuple[Frame, ...] = ()
        self.begun = 0
        """Bytes of the first frame that an earlier fetch brought."""
        self.arrived = 0
        """Frames that came whole."""
        self.request: Request | None = None
        self.pending = 0
        self.stored = 0
        self.told = 0
        self.error: str | None = None
        self.over = False


class Fetcher:
    """The WAN side of one device. `frames` are the frame bytes that came, those of no use included;
    `down` and `up` all that crossed the WAN for it, on the wire."""

    def __init__(self, device: Device, maker: Maker) -> None:
        self._device = device
        self._maker = maker
        self._kernel = device.kernel
        self._world = device.world
        self._fetches: dict[int, _Fetch] = {}
        self._requests: dict[Request, None] = {}
        self._pool = Pool(device.kernel)
        self._among = 1

    @property
    def allowed(self) -> float:
        """Bytes per second that it may fetch now by the site's budget; 0 while it fetches nothing."""
        return self._device.site.budget / self._among if self._fetches else 0.0

    def divide(self, action: e.WanShared) -> None:
        """So many devices share the site's budget now."""
        self._among = action.among
        self._keep_to_budget()
        if self._world.observer is not None:
            self._world.observer.divided(self._device)

    @property
    def active(self) -> bool:
        """Whether a fetch of frames is under way."""
        return bool(self._fetches)

    @property
    def crossing(self) -> int:
        """Bytes of bodies that have come and are not counted yet."""
        return sum(request.partial - request.received for request in self._requests)

    @property
    def busy(self) -> bool:
        """Whether anything is asked of origin or coordinator now."""
        return bool(self._requests) or self._pool.busy

    def stop(self) -> int:
        """Cut all that is under way; returns the frame bytes that came and were not stored."""
        lost = 0
        for fetch in list(self._fetches.values()):
            if fetch.request is not None:
                came = fetch.request.cancel()
                self._device.frames_wan += came
                lost += max(0, came + fetch.begun - fetch.stored)
        self._fetches.clear()
        for image, holding in self._device.images.items():
            if (size := holding.remnants.close()) and self._world.observer is not None:
                self._world.observer.remnants_lost(self._device, image, size)
            lost += size
        for request in list(self._requests):
            request.cancel()
        self._requests.clear()
        self._among = 1
        self._pool.forget()
        return lost

    def fetch(self, action: e.Fetch) -> None:
        holding = self._device.images.get(action.image)
        fetch = _Fetch(action, self._kernel.now, holding)
        self._fetches[action.fetch] = fetch
        self._kernel.trace(f"{self._device.name} fetches {action.start}..{action.stop}")
        if self._world.observer is not None:
            self._world.observer.fetch_started(self._device, action)
        self._world.spans.fetching(self._device)
        if holding is None or not self._device.reaches_wan:
            fetch.error = "dropped" if holding is None else "unreachable"
            self._device.later(self._kernel.now, self._fetch_over, fetch)
            return
        fetch.frames = holding.material.maps[action.pack].index.frames[action.start : action.stop]
        fetch.begun = len(holding.remnants.take(action.pack, action.start) or b"")
        first, *others = (f.stored_size for f in fetch.frames)
        fetch.request = self._request(
            (first - fetch.begun, *others),
            lambda n: self._frame_arrived(fetch, holding, action.start + n),
            lambda error: self._request_ended(fetch, error),
        )
        self._keep_to_budget()
        self._device.later(self._kernel.now + PROGRESS_S, self._progress, fetch)

    def fetch_object(self, action: e.FetchObject) -> None:
        held = self._device.objects.get(action.digest)
        if held is not None:
            self._device.feed_later(self._kernel.now, e.HoldObject(action.digest, held))
            return
        data = self._world.origin_objects.get(action.digest)
        if data is not None and len(data) != action.size:
            data = None
        self._kernel.trace(f"{self._device.name} fetches object {action.digest[:4].hex()}")

        def ended(error: str | None) -> None:
            self._device.feed(e.ObjectFetched(action.digest, None if error else data))

        self.ask(len(data) if data is not None else 0, ended)

    def cancel_fetch(self, action: e.CancelFetch) -> None:
        fetch = self._fetches.get(action.fetch)
        if fetch is None or fetch.over or fetch.request is None:
            return
        fetch.request.received = fetch.request.cancel()
        self._requests.pop(fetch.request, None)
        fetch.over = True
        fetch.error = fetch.error or "cancelled"
        if not fetch.pending:
            self._device.later(self._kernel.now, self._fetch_over, fetch)

    def ask(self, size: int, ended: Callable[[str | None], None], *, sent: int = 0) -> None:
        """Ask origin or coordinator for something small; `ended(None)` when its `size` bytes are there."""
        if self._device.site.uplink is None or not self._device.reaches_wan:
            self._device.later(self._kernel.now, ended, "unreachable")
            return
        life = self._device.life

        def begin(mine: bool) -> None:
            def over(error: str | None) -> None:
                if mine:
                    self._pool.end_turn()
                ended(error)

            if self._device.life != life:
                return
            if self._device.site.uplink is None:  # the vehicle has left while others were before this one
                self._device.later(self._kernel.now, over, "unreachable")
            else:
                self._request((size,) if size else (), None, over, sent=sent)

        self._pool.turn(begin)

    # Inside

    def _request(
        self,
        parts: tuple[int, ...],
        arrived: Callable[[int], object] | None,
        ended: Callable[[str | None], object],
        *,
        sent: int = 0,
    ) -> Request:
        uplink = self._device.site.uplink
        assert uplink is not None

        def over(error: str | None) -> None:
            self._requests.pop(request, None)
            if error is None:
                self._pool.give()
            ended(error)

        request = Request(
            uplink, parts, medium=self._device.local.medium, opening=self._pool.take(), sent=sent,
            arrived=arrived, ended=over, count=self._count_wan,
            yielding=None if uplink.traffic is None else uplink.traffic.of(self._device.name),
        )  # fmt: skip
        self._requests[request] = None
        return request

    def _count_wan(self, down: int, up: int) -> None:
        self._device.wan_down += down
        self._device.wan_up += up
        self._device.meter.look()

    def _keep_to_budget(self) -> None:
        """Fetches under way divide this device's part of the site's budget."""
        budget = self._device.site.budget
        requests = [f.request for f in self._fetches.values() if f.request is not None and not f.over]
        if budget:
            for request in requests:
                request.limit(budget / self._among / len(requests))

    def _keep_rest(self, fetch: _Fetch, came: int) -> int:
        """Keep the beginning of the frame that did not come whole; returns by how much more is kept now."""
        holding, arrived = fetch.holding, fetch.arrived
        if holding is None or arrived >= len(fetch.frames):
            return 0
        size = came + fetch.begun - sum(f.stored_size for f in fetch.frames[:arrived])
        lost = holding.remnants.keep(fetch.action.pack, fetch.frames[arrived], GOOD[:size])
        return size - lost

    def _progress(self, fetch: _Fetch) -> None:
        if fetch.over or fetch.request is None:
            return
        came = fetch.request.partial
        if came > fetch.told:
            size, fetch.told = came - fetch.told, came
            self._device.feed(e.FetchProgress(fetch.action.fetch, size))
            self._device.meter.look()
        self._device.later(self._kernel.now + PROGRESS_S, self._progress, fetch)

    def _frame_arrived(self, fetch: _Fetch, holding: Holding, number: int) -> None:
        pieces = holding.material.maps[fetch.action.pack]
        frame = pieces.index.frames[number]
        fetch.arrived += 1
        fetch.pending += 1
        when = self._kernel.now
        if isinstance(frame.entry, Patch):
            when = self._maker.patched_at(frame.target_length)
        self._device.later(
            max(when, self._device.slot.write_at(when, frame.target_length)),
            self._frame_stored,
            fetch,
            holding,
            number,
        )

    def _frame_stored(self, fetch: _Fetch, holding: Holding, number: int) -> None:
        action = fetch.action
        pieces = holding.material.maps[action.pack]
        frame = pieces.index.frames[number]
        start, stop = frame.target_offset, frame.target_offset + frame.target_length
        patch = isinstance(frame.entry, Patch)
        fetch.pending -= 1
        if self._device.images.get(action.image) is holding:
            if patch and self._maker.base_is_bad(action.pack, holding, number):
                self._device.feed(e.BaseDamaged(action.image, start, stop))
            else:
                numbers = tuple(pieces.of_frame(number))
                fetch.stored += frame.stored_size
                self._maker.put(
                    holding, e.Stored(action.image, start, stop, e.How.WAN, action.pack, numbers, patch)
                )
        if fetch.over and not fetch.pending:
            self._fetch_over(fetch)

    def _request_ended(self, fetch: _Fetch, error: str | None) -> None:
        fetch.error = fetch.error or error
        fetch.over = True
        if not fetch.pending:
            self._fetch_over(fetch)

    def _fetch_over(self, fetch: _Fetch) -> None:
        if self._fetches.pop(fetch.action.fetch, None) is None:
            return
        came = fetch.request.received if fetch.request is not None else 0
        fetch.over = True
        self._keep_to_budget()
        wasted = max(0, came + fetch.begun - fetch.stored - self._keep_rest(fetch, came))
        self._kernel.trace(
            f"{self._device.name} fetched {fetch.action.start}..{fetch.action.stop}: {fetch.error} {wasted}"
        )
        if self._world.observer is not None:
            self._world.observer.fetch_ended(self._device, fetch.action, fetch.error, came, wasted)
        self._device.frames_wan += came
        if wasted:
            self._world.spans.wasted(self._device, fetch.since, *self._world.target_of(fetch.action))
        self._device.feed(e.FetchEnded(fetch.action.fetch, fetch.error, wasted))
