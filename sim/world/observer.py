"""Who may watch a run: called at the moments that rules are about. Watching changes nothing.

`Observer` does nothing; `sim.checks` overrides what it needs. A world without one pays for none of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm import messages as m

if TYPE_CHECKING:
    from sim.scenario.model import Fault
    from sim.world.device import Device
    from sim.world.run import World
    from sim.world.site import Site


class Observer:
    """All that can be watched. Times are `world.kernel.now`.

    `heeds`: the types of the events that `fed` is called for, and of the messages that a node received; None:
    all. Most of what happens is messages that no rule asks for.
    """

    heeds: Collection[type] | None = None

    def begun(self, world: World) -> None:
        """All devices exist, nothing has happened yet."""

    def started(self, device: Device) -> None:
        """The agent runs (again); its node is new."""

    def stopped(self, device: Device, why: str) -> None:
        """The agent runs no more: `crash`, `restart`, `leave`, `off`, `reboot`."""

    def connected(self, one: str, other: str) -> None:
        """Two devices have a connection."""

    def barred(self, device: Device, devices: frozenset[str]) -> None:
        """A device believes that these are revoked, and has it kept; called before it acts on that."""

    def disconnected(self, one: str, other: str, why: str) -> None:
        """They have it no more."""

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        """What a node was told and what it said; called after every event that is heeded."""

    def sent(self, source: str, target: str, message: m.Piece | m.Blob) -> None:
        """A message with a payload was queued."""

    def divided(self, device: Device) -> None:
        """It takes another part of its site's budget from now on."""

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        """A range of frames is asked of the origin."""

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        """The fetch is over: `size` stored bytes came, `wasted` of them for nothing (see `remnants`)."""

    def remnants_lost(self, device: Device, image: Digest, size: int) -> None:
        """Beginnings of frames that ended fetches had left are given up: `size` bytes came for nothing."""

    def stored(self, device: Device, event: e.Stored, good: bool) -> None:
        """A range is in the slot; `good`: its bytes are those of the image."""

    def rejected(self, device: Device, event: e.Rejected) -> None:
        """A peer's piece was found wrong."""

    def served(self, device: Device, action: e.Serve, good: bool, held: bool) -> None:
        """A piece was given to a peer; `held`: the slot holds it."""

    def read_back(self, device: Device, image: Digest, right: bool, good: bool) -> None:
        """The device judged its image `right`; `good`: it is."""

    def installed(self, device: Device, release: str, good: bool, ordered: bool) -> None:
        """The new slot was armed; `ordered`: an open order names the release for this device."""

    def committed(self, device: Device, release: str) -> None:
        """The release was committed."""

    def rolled_back(self, device: Device, release: str) -> None:
        """The device went back to what it ran before."""

    def floor_moved(self, device: Device, old: int, new: int) -> None:
        """The release-counter floor of a device is another."""

    def fault(self, fault: Fault, sites: list[Site]) -> None:
        """A fault begins, at these sites."""

    def ended(self, world: World) -> None:
        """The run is over."""
