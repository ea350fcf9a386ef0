"""The coordinator as the network sees it: what is open for whom, check-ins with rosters, and what they weigh.

Every phase that opens is a publication. What is signed for it is the `publisher`'s; here is only looked
up, by the outcome and by whoever watches, what the signed files say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from sim.scenario.model import Order
from sim.world.synthetic import name_digest

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World

ROSTER_MAX = 64
EXPECTED_AGE_S = 900.0
"""Both as `p2p.agent.reporting` has them."""

CHECKIN_UP = 680
"""Bytes of a check-in's body and of the headers of its signature, with an empty ledger. This and what
follows as seen on the wire of `benchmarks.sim_vs_real`."""

ARMED_ENTRY = 85
"""What the image of an armed slot adds to a check-in."""

LEDGER_ENTRY = 20
"""What each peer adds to a ledger, for each direction."""

CHECKIN_DOWN = 144
ROSTER_ENTRY = 15
"""Bytes of a roster entry in gzip where devices run one of a few images; 48 where each runs another."""

REPORTS_UP, REPORT_UP = 650, 105
"""Bytes of a batch of reports, headers of its signature included, and of each report in it, in gzip: of 24 as
`p2p.adapters.reports` signs them, after an update, 2,601 in all; of 99 at rest 85 each."""

REPORT = 425
"""Bytes of one as peers pass it."""

REPORTS_DOWN, RESULT = 14, 5
"""Bytes of the answer to a batch, and of the word for each; with gzip no more than `RESULTS_MAX`."""

RESULTS_MAX = 300

TIMESTAMP = 501
"""Bytes of `timestamp.json`, as `trust` signs it."""

ABSENT = 0
"""Body of a 404: the next root, which is not there yet. Head and body are shorter than the head of a 200."""


def written(device: str, sequence: int) -> bytes:
    """Stands for a signed report."""
    return f"{device} {sequence} ".encode().ljust(REPORT)


def author_of(report: bytes) -> tuple[str, int]:
    """Who wrote it, and its number."""
    device, sequence, *_ = report.decode().split()
    return device, int(sequence)


@dataclass(frozen=True, slots=True)
class Publication:
    """What is true from `at_s` on. `shares`: of each order (by its place), the share that is open."""

    version: int
    at_s: float
    shares: tuple[float, ...]


class Coordinator:
    """Publications in order of time, and who checked in when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.orders: tuple[Order, ...] = world.scenario.orders
        self.version = 1
        times = sorted({p.opens_s for o in self.orders for p in o.phases})
        self.publications = [self._publication(1, float("-inf"))]
        self.publications += [self._publication(n + 2, at_s) for n, at_s in enumerate(times)]
        self._seen: dict[str, dict[str, tuple[float, Digest | None]]] = {}
        self._written: dict[tuple[str, int], tuple[Device, float]] = {}
        self._reported: dict[str, int] = {}
        """The highest number of a report, by device."""
        self._rng = world.kernel.rng("roster")

    def begin(self) -> None:
        """Publish everything at its time."""
        for publication in self.publications[1:]:
            self._world.kernel.at(publication.at_s, self._publish, publication)

    def now(self) -> Publication:
        """The latest publication."""
        return self.publications[self.version - 1]

    def order_for(self, device: Device) -> Order | None:
        """The order that is meant for a device now: the latest that is open for it."""
        return self._open(device.draw, self.now().shares)

    def last_order_for(self, device: Device) -> Order | None:
        """What is meant for it when everything has been published."""
        return self._open(device.draw, self.publications[-1].shares)

    def know(self, device: Device, at: float, armed: Digest | None = None) -> None:
        """A device was heard of at `at`, or announced to be quiet until then.

        What it runs has a digest, also where that is of no use.

        `armed`: what it will run when it is back.
        """
        image = armed or device.base or name_digest(self._world.kernel.seed, "no-base", device.name)
        self._seen.setdefault(device.site.area.name, {})[device.name] = (at, image)

    def written(self, device: Device, sequence: int, quiet_s: float) -> None:
        """A device has written a report, which the coordinator does not have yet."""
        self._written[device.name, sequence] = device, self._world.kernel.now + quiet_s

    def handed_in(self, name: str, sequence: int) -> None:
        """A device's report is there, by way of a peer."""
        self._reported[name] = max(sequence, self._reported.get(name, 0))
        device, at = self._written.pop((name, sequence), (None, 0.0))
        if device is not None:
            self.know(device, at)

    def has(self, name: str, sequence: int) -> bool:
        """Whether this report of a device has come, or a later one."""
        return self._reported.get(name, 0) >= sequence

    def roster(self, device: Device) -> list[tuple[str, float, Digest | None]]:
        """(device, age, image) of others of its site, at most `ROSTER_MAX` of them."""
        now = self._world.kernel.now
        seen = self._seen.get(device.site.area.name, {})
        names = [name for name in seen if name != device.name]
        if len(names) > ROSTER_MAX:
            names = self._rng.sample(names, ROSTER_MAX)
        return [(name, max(0.0, now - seen[name][0]), seen[name][1]) for name in names]

    def _publish(self, publication: Publication) -> None:
        self.version = publication.version
        self._world.kernel.trace(f"publication {publication.version}")
        if self._world.scenario.polling.at_rest:
            for device in self._world.honest:
                device.told()

    def _open(self, draw: float, shares: tuple[float, ...]) -> Order | None:
        for order, share in zip(reversed(self.orders), reversed(shares), strict=True):
            if draw < share:
                return order
        return None

    def _publication(self, version: int, at_s: float) -> Publication:
        shares = tuple(
            max((p.share for p in order.phases if p.opens_s <= at_s), default=0.0) for order in self.orders
        )
        return Publication(version, at_s, shares)
