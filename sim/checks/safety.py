"""What must never happen on a device, whatever its peers, its origin and its media do.

- `unverified-stored`: bytes that came from elsewhere are in the slot and are not the image's;
- `unverified-served`: a peer was given a piece that the slot does not hold, or wrong bytes that were
  never right there (a medium that forgot what was verified is not the node's fault);
- `wrong-image-believed`: an image was read back as right and is not;
- `wrong-image-installed`, `installed-without-order`, `installed-without-manifest`, `installed-below-floor`;
- `floor-fell`: the release-counter floor of a device is lower than it was.

Bytes copied out of a base that has rotted have no digest of their own; reading back finds them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import encode_manifest
from p2p.swarm import events as e
from sim.outcome import Violation
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World

__all__ = ["Safety"]


class Safety(Observer):
    """Collects `violations` as they happen."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._right: defaultdict[tuple[str, Digest], set[int]] = defaultdict(set)
        """By device and pack: pieces that were right in its slot at some time."""
        self._floors: dict[str, int] = {}

    def begun(self, world: World) -> None:
        self._world = world

    def stored(self, device: Device, event: e.Stored, good: bool) -> None:
        if event.pack is None:
            return
        if not good:
            self._add(
                "unverified-stored", device, f"{event.start}..{event.stop} from {event.device or 'the WAN'}"
            )
            return
        self._right[device.name, event.pack].update(event.pieces)

    def served(self, device: Device, action: e.Serve, good: bool, held: bool) -> None:
        if not held:
            self._add(
                "unverified-served", device, f"piece {action.piece} to {action.device} is not in the slot"
            )
        elif good:
            self._right[device.name, action.pack].add(action.piece)
        elif action.piece not in self._right[device.name, action.pack]:
            self._add("unverified-served", device, f"piece {action.piece} to {action.device} is wrong")

    def read_back(self, device: Device, image: Digest, right: bool, good: bool) -> None:
        if right and not good:
            self._add("wrong-image-believed", device, image.hex()[:12])

    def installed(self, device: Device, release: str, good: bool, ordered: bool) -> None:
        world = self._world
        if not good:
            self._add("wrong-image-installed", device, release)
        shares = world.coordinator.now().shares
        opened = any(
            order.release == release and device.draw < share
            for order, share in zip(world.scenario.orders, shares, strict=True)
        )
        if not ordered or not opened:
            self._add("installed-without-order", device, release)
        if not self._has_manifest(device, release):
            self._add("installed-without-manifest", device, release)
        if world.counters[release] < self._floors.get(device.name, 0):
            self._add("installed-below-floor", device, release)

    def floor_moved(self, device: Device, old: int, new: int) -> None:
        before = self._floors.get(device.name, 0)
        if new < max(old, before):
            self._add("floor-fell", device, f"from {max(old, before)} to {new}")
        self._floors[device.name] = max(before, new)

    def _has_manifest(self, device: Device, release: str) -> bool:
        """Whether the signed manifest is among what it was given and has checked."""
        data = encode_manifest(self._world.publisher.manifests[release])
        return device.objects.get(sha256(data)) == data

    def _add(self, check: str, device: Device, message: str) -> None:
        self.violations.append(Violation(check, device.kernel.now, device.site.name, device.name, message))
