"""What runs a virtual device: polls, fetches what is published, has images made, reboots, judges.

The counterpart of `p2p.agent.runtime` and `updates` as callbacks, and the plain one: signed files are
fetched with their real sizes by their real ways, but looked up instead of verified (`lifecycle` runs
the real trust client and installer). What is named as durable outlives a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.errors import SlotFull
from p2p.swarm import departure
from p2p.swarm import events as e
from sim.scenario.model import Order
from sim.world.orders import (
    ABSENT,
    CHECKIN_DOWN,
    CHECKIN_UP,
    EXPECTED_AGE_S,
    LEDGER_ENTRY,
    ROSTER_ENTRY,
    ROSTER_MAX,
    TIMESTAMP,
)
from sim.world.synthetic import Material

if TYPE_CHECKING:
    from sim.world.device import Device

RETRY_S = (1.0, 60.0)
NEWS_PAUSE_S = 2.0
HEALTH_S = 1.0
"""How long the health check of a new release takes."""

FAILED_RETRY_S = (2.0, 300.0)


class PollingAgent:
    """One device's agent. `state` is what `DeviceOutcome.state` says."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._coordinator = device.world.coordinator
        self._rng = device.kernel.rng(f"agent/{device.name}")
        # durable
        self.state = "waiting"
        self.version = 1
        self.floor = 0
        self.blocked: set[str] = set()
        self.making: str | None = None
        self.armed = False
        # for the outcome
        self.meant_s: float | None = None
        self.verified_s: float | None = None
        self.finished_s: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._asked_at = float("-inf")
        self._asking = False
        self._wanted: list[tuple[Digest, int]] = []
        self._coming = 0
        self._pause = RETRY_S[0]
        self._failures = 0
        self._news: dict[str, int] = {}
        self._news_due = False
        self._order: Order | None = None
        self._poll_number = 0

    # From the device

    def started(self) -> None:
        device = self._device
        if self.armed:
            self.state = "trial"
            device.later(device.kernel.now + HEALTH_S, self._judge)
            return
        device.later(device.kernel.now, self._check_in)
        device.later(device.kernel.now, self.ask)

    def stopped(self) -> None:
        self._forget()

    def told(self) -> None:
        """Ask at once: something was published."""
        self._device.later(self._device.kernel.now + 0.05 * self._rng.random(), self.ask)

    def news_heard(self, device: str, root_version: int, timestamp_version: int) -> None:
        self._news[device] = timestamp_version
        if timestamp_version > self.version and not self._news_due:
            self._news_due = True
            due = max(self._device.kernel.now, self._asked_at + NEWS_PAUSE_S)
            self._device.later(due, self._ask_for_news)

    def metadata_arrived(self, device: str, name: str, data: bytes | None) -> None:
        publication = self._coordinator.by_timestamp.get(bytes(data)) if data is not None else None
        if publication is None:
            self._news.pop(device, None)
            self._failed_to_ask()
            return
        if publication.version <= self.version:
            self._news.pop(device, None)
        self._take(publication.version)

    def object_arrived(self, digest: Digest, data: bytes | None) -> None:
        if not self._wanted or self._wanted[0][0] != digest:
            return
        if data is None:
            self._wanted = []
            self._failed_to_ask()
            return
        self._device.objects[digest] = data
        self._want_next()

    def verified(self, image: Digest) -> None:
        device, order = self._device, self._order
        if order is None or self._coordinator.material(order).image != image:
            return
        self.verified_s = device.kernel.now
        self.armed = True
        self.state = "rebooting"
        material = self._coordinator.material(order)
        if device.world.observer is not None:
            good = device.slot.is_good(0, material.size)
            device.world.observer.installed(device, order.release, good, ordered=True)
        self._linger(image, device.kernel.now, device.reboot)

    def failed(self, image: Digest, reason: str) -> None:
        device, order = self._device, self._order
        if order is None or self._coordinator.material(order).image != image:
            return
        device.kernel.trace(f"{device.name} failed: {reason}")
        device.drop(image)
        self._order = None
        self.state = "failed"
        if reason == "read-back":
            self.blocked.add(order.release)
            self._finish(order)
            return
        first, longest = FAILED_RETRY_S
        pause = min(longest, first * 2**self._failures) * (0.5 + self._rng.random())
        self._failures += 1
        device.later(device.kernel.now + pause, self._decide)

    def _linger(self, image: Digest, since: float, then: Callable[[], None]) -> None:
        """Before the reboot: give what only this device may have, as long as peers ask for it."""
        device, now = self._device, self._device.kernel.now
        node = device.node
        if node is None or departure.may_leave(
            now, since, device.served_at, all_complete=node.all_complete(image)
        ):
            then()
        else:
            device.later(now + departure.STEP_S, self._linger, image, since, then)

    # Check-ins

    def _check_in(self) -> None:
        device = self._device
        if not device.reaches_wan:
            self._check_in_later(ok=True)
            return
        self._coordinator.know(device, device.kernel.now)
        roster = self._coordinator.roster(device)

        def ended(error: str | None) -> None:
            if error is None:
                recent = {name: image for name, age, image in roster if age <= EXPECTED_AGE_S}
                device.feed(e.Expect(recent, len(recent) == len(roster) < ROSTER_MAX))
                device.site.roster_heard(device, [name for name, _, _ in roster])
            self._check_in_later(ok=error is None)

        ledger = device.node.ledger if device.node is not None else None
        known = len(ledger.peers) + len(ledger.sent) if ledger is not None else 0
        device.ask_origin(
            CHECKIN_DOWN + ROSTER_ENTRY * len(roster), ended, sent=CHECKIN_UP + LEDGER_ENTRY * known
        )

    def _check_in_later(self, *, ok: bool) -> None:
        self._device.later(self._device.kernel.now + self._wait(ok), self._check_in)

    def _wait(self, ok: bool) -> float:
        polling = self._device.world.scenario.polling
        if ok:
            return polling.every_s * (1 - polling.jitter + 2 * polling.jitter * self._rng.random())
        wait = self._pause * (0.5 + self._rng.random())
        self._pause = min(RETRY_S[1], self._pause * 2)
        return wait

    # Asking

    def ask(self) -> None:
        """Refresh the metadata and decide what to run."""
        device = self._device
        if self._asking:
            return
        self._asking = True
        self._asked_at = device.kernel.now
        if not device.reaches_wan:
            self._ask_peers()
            return
        device.ask_origin(ABSENT, self._root_probed)

    def _root_probed(self, error: str | None) -> None:
        if error is not None:
            self._ask_peers()
            return
        publication = self._coordinator.now()

        def ended(error: str | None) -> None:
            if error is not None:
                self._ask_peers()
            else:
                self._take(publication.version)

        self._device.ask_origin(TIMESTAMP, ended)

    def _ask_for_news(self) -> None:
        self._news_due = False
        self.ask()

    def _ask_peers(self) -> None:
        """The one that claims to know most."""
        known = {d: v for d, v in self._news.items() if v > self.version and d in self._device.connections}
        if not known:
            self._failed_to_ask()
            return
        self._device.feed(e.AskMetadata(max(known, key=lambda d: (known[d], d)), "timestamp.json"))

    def _failed_to_ask(self) -> None:
        """Go on with what is known."""
        self._asking = False
        self._schedule(ok=not self._device.has_wan or self._device.site.uplink is None)
        self._decide()

    def _take(self, version: int) -> None:
        """A publication's timestamp is there: have the rest of it."""
        if version <= self.version:
            self._current()
            return
        self._coming = version
        held = self._device.objects
        self._wanted = [f for f in self._coordinator.publications[version - 1].files if f[0] not in held]
        self._wanted.insert(0, (Digest(b""), 0))
        self._want_next()

    def _want_next(self) -> None:
        self._wanted.pop(0)
        if self._wanted:
            self._device.feed(e.WantObject(*self._wanted[0]))
            return
        self.version = max(self.version, self._coming)
        self._current()

    def _current(self) -> None:
        self._asking = False
        self._pause = RETRY_S[0]
        publication = self._coordinator.publications[self.version - 1]
        self._device.feed(e.HoldMetadata("timestamp.json", self.version, publication.timestamp))
        self._schedule(ok=True)
        self._decide()
        if any(v > self.version for v in self._news.values()) and not self._news_due:
            self._news_due = True
            self._device.later(self._device.kernel.now + NEWS_PAUSE_S, self._ask_for_news)

    def _schedule(self, *, ok: bool) -> None:
        self._poll_number += 1
        self._device.later(self._device.kernel.now + self._wait(ok), self._poll, self._poll_number)

    def _poll(self, number: int) -> None:
        if number == self._poll_number:
            self.ask()

    # Updating

    def _decide(self) -> None:
        device = self._device
        order = self._coordinator.order_for(device, self.version)
        if device.node is None or self.armed or order is None or order is self._order:
            return
        if self.meant_s is None:
            self.meant_s = device.kernel.now
        if self._order is not None:
            device.drop(self._coordinator.material(self._order).image)
            self._order = None
        material = self._coordinator.material(order)
        if order.release == device.base_name:
            self._serve(material)
            if self.finished_s is None:
                self.state = "committed"
                self._finish(order)
            return
        if order.release in self.blocked or self._coordinator.counter(order.release) < self.floor:
            return
        self._make(order, material)

    def _make(self, order: Order, material: Material) -> None:
        device = self._device
        if self.making != order.release:
            device.slot.clear()
            self.making = order.release
        self._order = order
        self.state = "fetching"
        try:
            device.pursue(material)
        except SlotFull:
            self.failed(material.image, "disk-full")

    def _serve(self, material: Material) -> None:
        if material.image not in self._device.images:
            self._device.offer(material)

    def _judge(self) -> None:
        """The new release runs: keep it, or go back to the old one."""
        device = self._device
        release = self.making
        assert release is not None
        order = next(o for o in self._coordinator.orders if o.release == release)
        self.armed = False
        self.making = None
        observer = device.world.observer
        if not device.healthy:
            self.blocked.add(release)
            self.state = "rolled-back"
            device.slot.clear()
            if observer is not None:
                observer.rolled_back(device, release)
            self._finish(order)
            device.reboot()
            return
        device.switch(device.world.materials[release])
        self._raise_floor(self._coordinator.counter(release))
        self.state = "committed"
        if observer is not None:
            observer.committed(device, release)
        self._finish(order)
        self._serve(device.world.materials[release])
        device.later(device.kernel.now, self._check_in)
        device.later(device.kernel.now, self.ask)

    def _raise_floor(self, counter: int) -> None:
        old, self.floor = self.floor, max(self.floor, counter)
        if self._device.world.observer is not None and old != self.floor:
            self._device.world.observer.floor_moved(self._device, old, self.floor)

    def _finish(self, order: Order) -> None:
        self.finished_s = self._device.kernel.now
        self._device.kernel.trace(f"{self._device.name} {self.state} {order.release}")
        self._device.world.finished(self._device, order)
