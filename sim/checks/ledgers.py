"""The ledgers of the nodes add up to what the links carried.

- `wan-ledger`: a device's ledger says, over all its lives, exactly the frames and objects that came for it
  over the WAN and that it lived to count;
- `wan-link`: what a site's devices were charged is what its uplinks carried, and no less than the frames;
- `peer-ledger`: no device counts more from peers, wasted bytes included, than peers have sent it, nor more
  as sent than it has sent; where nothing goes wrong and nothing was given up, pieces are counted to the byte;
- `image-ledger`: when an image is verified, each of its bytes has one origin.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.outcome import Violation
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World

__all__ = ["LedgerRule"]


class LedgerRule(Observer):
    """Counts beside the ledgers; `violations` as they are found."""

    heeds = frozenset(
        {m.Piece, m.Blob, e.ObjectFetched, e.RemnantsLost, e.Pursue, e.Drop, e.Damaged, e.BaseDamaged,
         e.PeerLost, e.ImageVerified}
    )  # fmt: skip

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._wan: Counter[str] = Counter()
        """What a node must have in its ledger."""
        self._frames: Counter[str] = Counter()
        self._wan_wasted: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._pieces: Counter[str] = Counter()
        self._blobs: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._objects: Counter[str] = Counter()
        """Objects over the WAN: some had come from a peer meanwhile, and are told as wasted."""
        self._images: dict[str, int] = {}
        """Images that were taken up in this life; 0: their bytes cannot be told apart any more."""
        self._dropped: dict[str, None] = {}

    def begun(self, world: World) -> None:
        self._world = world
        self._faulty = bool(world.scenario.faults)

    def started(self, device: Device) -> None:
        self._images.pop(device.name, None)

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        name = device.name
        if type(event) is e.Received:
            if type(event.message) is m.Piece:
                self._pieces[name] += len(event.message.payload)
            elif type(event.message) is m.Blob:
                self._blobs[name] += len(event.message.payload)
            return
        match event:
            case e.ObjectFetched() if event.data is not None:
                self._wan[name] += len(event.data)
                self._objects[name] += len(event.data)
            case e.RemnantsLost():
                self._came_in_vain(name, event.size)
            case e.Pursue():
                self._images[name] = event.task.size if name not in self._images else 0
            case e.Drop() | e.Damaged() | e.BaseDamaged():
                self._images[name] = 0
                self._dropped[name] = None
            case e.PeerLost():
                self._dropped[name] = None
                if event.begun is not None:
                    self._pieces[name] += len(event.begun.data)
            case e.ImageVerified():
                self._verified(device)
            case _:
                pass

    def sent(self, source: str, target: str, message: m.Piece | m.Blob) -> None:
        self._sent[source] += len(message.payload)

    def stored(self, device: Device, event: e.Stored, good: bool) -> None:
        if event.how is e.How.WAN and event.pack is not None:
            pieces = device.images[event.image].material.maps[event.pack]
            frames = dict.fromkeys(pieces[n].frame for n in event.pieces)
            size = sum(pieces.index.frames[frame].stored_size for frame in frames)
            self._wan[device.name] += size
            self._frames[device.name] += size

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        self._came_in_vain(device.name, wasted)

    def stopped(self, device: Device, why: str) -> None:
        """What a fetch under way brought, nobody lives to count."""
        self._uncounted[device.name] = device.frames_wan - self._frames[device.name]
        self._dropped[device.name] = None
        self._compare(device)

    def ended(self, world: World) -> None:
        for device in world.honest:
            self._compare(device)
        for site in world.sites.values():
            carried = sum(uplink.down for uplink in site.uplinks)
            charged = sum(device.wan_down for device in site.honest)
            if carried != charged:
                self._add("wan-link", site.name, None, f"links carried {carried}, devices say {charged}")
            frames = sum(device.frames_wan for device in site.honest)
            if carried < frames:
                self._add(
                    "wan-link", site.name, None, f"links carried {carried}, less than {frames} of frames"
                )

    # Inside

    def _came_in_vain(self, name: str, size: int) -> None:
        self._wan[name] += size
        self._frames[name] += size
        self._wan_wasted[name] += size

    def _compare(self, device: Device) -> None:
        name, totals = device.name, device.totals.with_node(device.node)
        if totals.wan != self._wan[name]:
            self._tell(
                "wan-ledger", device, f"the ledger says {totals.wan}, the WAN brought {self._wan[name]}"
            )
        received = self._pieces[name] + self._blobs[name]
        lan_wasted = totals.wasted - self._wan_wasted[name] - max(0, self._uncounted[name])
        counted = totals.from_peers + lan_wasted
        if counted > received + self._objects[name]:
            self._tell("peer-ledger", device, f"counts {counted} from peers, which sent {received}")
        exact = not self._faulty and name not in self._dropped
        if exact and counted < self._pieces[name]:
            self._tell(
                "peer-ledger", device, f"counts {counted} from peers of {self._pieces[name]} of pieces"
            )
        if totals.sent > self._sent[name]:
            self._tell("peer-ledger", device, f"counts {totals.sent} as sent, has sent {self._sent[name]}")

    def _verified(self, device: Device) -> None:
        size = self._images.get(device.name, 0)
        node = device.node
        if size and node is not None and node.ledger.of_images != size:
            told = node.ledger.of_images
            self._tell("image-ledger", device, f"of an image of {size} bytes, {told} have an origin")

    def _tell(self, check: str, device: Device, message: str) -> None:
        self._add(check, device.site.name, device.name, message)

    def _add(self, check: str, site: str, device: str | None, message: str) -> None:
        self.violations.append(Violation(check, self._world.kernel.now, site, device, message))
