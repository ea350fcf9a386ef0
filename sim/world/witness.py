"""What a device's life tells whoever watches it, and what it asks of its part in the swarm.

A `Witness` hears of every step that matters, whatever led to it (a start after a crash included), with
what is really so beside what the device believes. Watching changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from p2p.adapters.slot_writer import FileSlotWriter
from p2p.content.digests import Digest
from p2p.errors import LocalError, SlipstreamError
from p2p.install import Release
from p2p.swarm.events import ImageTask
from p2p.trust import Decision, Meant
from sim.world.metadata import Sources


class Witness:
    """All that can be watched; `device` is its name. Does nothing; override what is needed."""

    def turned(self, device: str, state: str, reason: str) -> None:
        """The agent's state is another (`planning`, `fetching`, `armed`, `trial`, `committed`, …)."""

    def booted(self, device: str, slot: str | None, right: bool) -> None:
        """The boot loader started a slot (None: none came up); `right`: it really holds a whole image."""

    def decided(self, device: str, decision: Decision) -> None:
        """The metadata is trusted, and says this."""

    def refused(self, device: str, error: SlipstreamError) -> None:
        """Metadata was refused or could not be had; nothing changed."""

    def begun(self, device: str, meant: Meant) -> None:
        """An install begins or goes on, on the grounds of these documents."""

    def installed(self, device: str, release: Release, slot: str, right: bool) -> None:
        """The slot counts as holding the release; `right`: it really does."""

    def armed(self, device: str, release: Release, slot: str) -> None:
        """The boot environment tries the slot next."""

    def committed(self, device: str, release: Release | None, slot: str) -> None:
        """The slot is the active one for good. No release: its record was lost."""

    def rolled_back(self, device: str, manifest: Digest, reason: str) -> None:
        """The release was given up and is blocked on this device."""

    def floor_moved(self, device: str, product: str, old: int, new: int) -> None:
        """The release-counter floor is another (it must never be lower)."""

    def power_lost(self, device: str) -> None:
        """The power was cut in the middle of an operation; the device starts again by itself."""


class Time(Protocol):
    """Virtual time."""

    @property
    def now(self) -> float: ...

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call in `seconds`."""


@dataclass(frozen=True, slots=True)
class Making:
    """An image that is to be made in a slot.

    `path` is the slot's on the disk, `base_path` that of the slot with the base (None: no base). Who makes
    it writes to `writer`, has it read back (`writer.digest()`), and then calls `verified` or `failed`
    once; `block`: to try again would not help.
    """

    task: ImageTask
    writer: FileSlotWriter
    path: str
    base_path: str | None
    verified: Callable[[], None]
    failed: Callable[[LocalError, bool], None]


class Swarm(Sources, Protocol):
    """A device's part in the swarm: what drives its `SwarmNode`."""

    def started(self) -> None:
        """The agent runs (again)."""

    def stopped(self, why: str) -> None:
        """It does not: `crash`, `restart`, `reboot`, `bricked`. All under way is forgotten."""

    def again(self) -> None:
        """The machine was stopped and starts by itself: call `Lifecycle.power_on` when it has."""

    def before_reboot(self, images: tuple[Digest, ...], then: Callable[[], None]) -> None:
        """The device is about to reboot: call `then` when its peers can do without it (or at once)."""

    def make(self, making: Making) -> None:
        """Make an image, and serve what is there of it."""

    def made(self, image: Digest) -> None:
        """The image is sealed in its slot; the writer is closed."""

    def serve(self, task: ImageTask, path: str) -> None:
        """Serve the whole image in the slot at `path`."""

    def drop(self, image: Digest) -> None:
        """Neither make nor serve it any more."""

    def revoked(self, devices: frozenset[str]) -> None:
        """The device believes that these are out of the fleet, maybe itself among them."""

    def hold(self, name: str, version: int, data: bytes) -> None:
        """Trusted mutable metadata, for peers that ask."""

    @property
    def told_of_origin(self) -> bool:
        """Whether it knows when the origin was asked last (`SwarmNode.told_of_origin`)."""

    def asks_at(self, asked_at: float, pause_s: float, jitter: float) -> float:
        """When it is this device's turn to ask the origin (`SwarmNode.asks_at`)."""

    def answered(self) -> None:
        """The origin has answered, and what it has is trusted: peers may know."""

    def polled(self) -> None:
        """The origin has just answered a question."""
