"""How images come to stand in a device's slot: pieces and frames written, copies made, read back, rechecked.

The counterpart of `p2p.agent.images`. Writing and patching take the medium's and the CPU's time; bytes
do not exist (`payloads`), which of them are right is known by `slot`. Not for how they get here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from p2p.content.digests import Buffer, Digest
from p2p.content.index import Copy, Patch
from p2p.content.intervals import IntervalSet
from p2p.content.limits import MIB
from p2p.errors import SlotFull
from p2p.swarm import events as e
from p2p.swarm.remnants import Remnants
from sim.world.slot import VirtualSlot
from sim.world.synthetic import Material

if TYPE_CHECKING:
    from sim.world.device import Device

COPY_STEP = 4 * MIB
CHECKPOINT_S = 3.0
"""As `p2p.agent.checkpoints.CHECKPOINT_S`."""


class Holding:
    """An image that is being made or is held: its material, kept patches, checked pieces, frames begun."""

    __slots__ = ("checked", "complete", "kept", "material", "remnants", "slot", "used")

    def __init__(self, material: Material, slot: VirtualSlot, *, complete: bool) -> None:
        self.material = material
        self.slot = slot
        self.complete = complete
        self.kept: defaultdict[Digest, set[int]] = defaultdict(set)
        self.checked: defaultdict[Digest, set[int]] = defaultdict(set)
        self.remnants = Remnants[Buffer]()
        self.used: dict[Digest, None] = {}
        """Packs whose index the node has."""


class Maker:
    """Makes what its device's node and agent want made; the images stand in `Device.images`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kernel = device.kernel
        self._world = device.world
        self._cpu_free = float("-inf")
        self._checkpoint_due = False

    def stop(self) -> None:
        """The agent ends: nothing is under way any more."""
        self._cpu_free = float("-inf")
        self._checkpoint_due = False

    def pursue(self, material: Material) -> None:
        """Make an image in the spare slot, from what the slot holds of it."""
        self._device.slot.check_room(material.size)
        if self._device.previous is not None:
            self._device.previous = None
            for image in list(self._device.images):
                self._device.feed(e.BaseLost(image))
        self._world.note_pursuit(self._device, material)
        self._device.images[material.image] = Holding(material, self._device.slot, complete=False)
        self._hold_indexes(material)
        self._device.feed(e.Pursue(material.task(self._device.base), tuple(self._device.slot.written)))

    def offer(self, material: Material) -> None:
        """Serve the image that this device runs."""
        slot = self._device.active_slot
        if slot is None:
            slot = VirtualSlot(self._device.klass.storage)
            slot.put(0, material.size)
        self._device.images[material.image] = Holding(material, slot, complete=True)
        self._hold_indexes(material)
        base = self._device.previous if self._device.klass.recompute_rate else None
        self._device.feed(e.Offer(material.task(base)))

    def drop(self, image: Digest) -> None:
        """Neither make nor serve it any more."""
        holding = self._device.images.pop(image, None)
        if holding is not None:
            self._device.feed(e.Drop(image))
            self._remnants_lost(image, holding.remnants.close())

    def _hold_indexes(self, material: Material) -> None:
        for pack in material.packs:
            held = self._device.objects.get(pack.index.sha256)
            if held is not None:
                self._device.feed(e.HoldObject(pack.index.sha256, held))

    # For the node

    def route(self, action: e.Route) -> None:
        holding = self._device.images.get(action.image)
        if holding is None:
            return
        holding.used[action.pack] = None
        self._device.objects.setdefault(action.pack, holding.material.indexes[action.pack])
        self._local_steps(holding, action.pack, 0, 0)

    def store(self, action: e.Store) -> None:
        holding = self._device.images.get(action.image)
        if holding is None:
            return
        piece = holding.material.maps[action.pack].pieces[action.piece]
        good = self._device.verifies(action.payload, piece.wire_size)
        when = self._kernel.now
        if not good:
            rejected = e.Rejected(action.image, action.pack, action.piece, action.source, "bad-piece")
            if self._world.observer is not None:
                self._world.observer.rejected(self._device, rejected)
            self._device.feed_later(when, rejected)
            return
        if piece.is_patch:
            when = self.patched_at(piece.target_length)
        self._device.later(
            self._device.slot.write_at(when, piece.target_length), self._piece_stored, action, holding
        )

    def read_back(self, action: e.ReadBack) -> None:
        holding = self._device.images.get(action.image)
        if holding is not None:
            self._device.later(
                self._device.slot.read_at(self._kernel.now, holding.material.size),
                self._read,
                action,
                holding,
            )

    def recheck(self, action: e.Recheck) -> None:
        holding = self._device.images.get(action.image)
        if holding is not None:
            self._device.later(
                self._device.slot.read_at(self._kernel.now, holding.material.size),
                self._rechecked,
                action,
                holding,
            )

    def recompute(self, action: e.Recompute) -> None:
        holding = self._device.images.get(action.image)
        if holding is not None:
            length = holding.material.maps[action.pack].pieces[action.piece].target_length
            took = length / self._device.klass.recompute_rate
            self._device.later(self._kernel.now + took, self._recomputed, action, holding)

    # Writing

    def put(self, holding: Holding, event: e.Stored, *, good: bool = True) -> None:
        device, world = self._device, self._world
        try:
            holding.slot.put(event.start, event.stop, good=good)
        except SlotFull:
            device.agent.failed(event.image, "disk-full")
            return
        if event.pack is not None:
            (holding.kept if event.kept else holding.checked)[event.pack].update(event.pieces)
        if not self._checkpoint_due:
            self._checkpoint_due = True
            device.later(self._kernel.now + CHECKPOINT_S, self._checkpoint)
        if world.observer is not None:
            world.observer.stored(device, event, good)
        if world.spans.active:
            world.spans.stored(device, event)
        device.feed(event)
        if holding.remnants:
            self._remnants_lost(event.image, holding.remnants.settle(holding.slot.written.covers))

    def patched_at(self, length: int) -> float:
        """When the one CPU that applies patches is done with `length` target bytes more."""
        self._cpu_free = max(self._kernel.now, self._cpu_free) + length / self._device.klass.patch_rate
        return self._cpu_free

    def base_is_bad(self, pack: Digest, holding: Holding, frame: int) -> bool:
        if not len(self._device.base_bad):
            return holding.material.maps[pack].index.base != self._device.base
        index = holding.material.maps[pack].index
        entry = index.frames[frame].entry
        return index.base != self._device.base or (
            isinstance(entry, Patch) and any(self._rotten(r.offset, r.length) for r in entry.view)
        )

    # Inside

    def _remnants_lost(self, image: Digest, size: int) -> None:
        if size:
            if self._world.observer is not None:
                self._world.observer.remnants_lost(self._device, image, size)
            self._device.feed(e.RemnantsLost(size))

    def _whole_read_at(self, holding: Holding) -> float:
        return self._device.slot.read_at(self._kernel.now, holding.material.size)

    def _piece_stored(self, action: e.Store, holding: Holding) -> None:
        image, pack, number, payload, source = action
        if self._device.images.get(image) is not holding:
            return
        piece = holding.material.maps[pack].pieces[number]
        start, stop = piece.target_offset, piece.target_stop
        if piece.is_patch and self.base_is_bad(pack, holding, piece.frame):
            self._device.feed(e.BaseDamaged(image, start, stop))
            return
        good = payload[0] == 0 and len(payload) == piece.wire_size
        stored = e.Stored(image, start, stop, e.How.PEER, pack, (number,), piece.is_patch, source)
        self.put(holding, stored, good=good)

    def _recomputed(self, action: e.Recompute, holding: Holding) -> None:
        piece = holding.material.maps[action.pack].pieces[action.piece]
        base = holding.material.maps[action.pack].index.base
        right = base in (self._device.base, self._device.previous) and not len(self._device.base_bad)
        right &= not holding.slot.is_bad(piece.target_offset, piece.target_stop)
        if right:
            holding.kept[action.pack].add(action.piece)
        self._device.feed(e.Recomputed(action.image, action.pack, action.piece, right))

    def _checkpoint(self) -> None:
        self._checkpoint_due = False
        self._device.slot.checkpoint()

    def _rotten(self, offset: int, length: int) -> bool:
        whole = (offset, offset + length)
        return list(self._device.base_bad.gaps(*whole)) != [whole]

    def _local_steps(self, holding: Holding, pack: Digest, number: int, done: int) -> None:
        """Copy and zero what the index says, a step at a time; skips what is there."""
        index = holding.material.maps[pack].index
        usable = index.base is not None and index.base == self._device.base
        for n in range(number, len(index.local_entries)):
            local = index.local_entries[n]
            copy = isinstance(local.entry, Copy)
            if copy and not usable:
                continue
            end = local.target_offset + local.entry.length
            start = local.target_offset + (done if n == number else 0)
            while start < end:
                stop = min(start + COPY_STEP, end)
                if not holding.slot.written.covers(start, stop):
                    when = self._device.slot.write_at(self._kernel.now, stop - start)
                    self._device.later(when, self._local_done, holding, pack, n, start, stop)
                    return
                start = stop

    def _local_done(self, holding: Holding, pack: Digest, number: int, start: int, stop: int) -> None:
        if self._device.images.get(holding.material.image) is not holding:
            return
        local = holding.material.maps[pack].index.local_entries[number]
        good, how = True, e.How.ZERO
        if isinstance(local.entry, Copy):
            how = e.How.BASE
            good = not self._rotten(local.entry.base_offset + start - local.target_offset, stop - start)
        if not holding.slot.written.covers(start, stop):
            self.put(holding, e.Stored(holding.material.image, start, stop, how), good=good)
        self._local_steps(holding, pack, number, stop - local.target_offset)

    def _read(self, action: e.ReadBack, holding: Holding) -> None:
        if self._device.images.get(action.image) is not holding:
            return
        slot = holding.slot
        good = right = slot.is_good(0, holding.material.size)
        self._kernel.trace(f"{self._device.name} read back {right}")
        if self._world.observer is not None:
            self._world.observer.read_back(self._device, action.image, right, good)
        if not right:
            self._device.feed(e.ReadBackFailed(action.image))
            return
        slot.checkpoint()
        holding.complete = True
        self._device.feed(e.ImageVerified(action.image))
        self._device.agent.verified(action.image)

    def _rechecked(self, action: e.Recheck, holding: Holding) -> None:
        if self._device.images.get(action.image) is not holding:
            return
        damaged = IntervalSet()
        pieces = holding.material.maps[action.pack]
        for start, stop in list(holding.slot.bad):
            for n in pieces.overlapping(start, stop):
                piece = pieces[n]
                if holding.slot.written.covers(piece.target_offset, piece.target_stop):
                    damaged.add(piece.target_offset, piece.target_stop)
                    holding.checked[action.pack].discard(n)
        for start, stop in damaged:
            holding.slot.forget(start, stop)
        self._device.feed(e.Damaged(action.image, tuple(damaged)))
        if len(damaged):
            self._local_steps(holding, action.pack, 0, 0)
