"""Peer deltas in the world: what making and applying them takes, and what they weigh.

The counterpart of `p2p.agent.peer_deltas`. A delta has no bytes: what it weighs is its part of what the
scenario says of the two images (`Material.between`), and its first byte tells what became of it. Chunks are
made group by group, one at a time, each once; what was made is given again for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.limits import MIB, PEER_DELTA_PART_MAX
from p2p.content.pieces import PieceMap
from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.world.maker import Holding
from sim.world.payloads import BAD, GOOD, other

if TYPE_CHECKING:
    from sim.world.device import Device

MARGIN = 4 * MIB
"""As in `p2p.delta.peer_delta`."""

HEAD = 100
"""Bytes of a delta that makes nothing: its head, with one range of the base."""


class Deltas:
    """Makes and uses deltas for one device's node."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kernel = device.kernel
        self._free_at = float("-inf")
        self._made: dict[tuple[Digest, int], float] = {}
        """When each was made, or will be."""

    def stop(self) -> None:
        """The agent ends: what was made goes with it."""
        self._free_at = float("-inf")
        self._made.clear()

    def make(self, action: e.MakeDelta) -> None:
        """Make one when the child is free, and answer."""
        holding = self._device.images.get(action.image)
        key, now = (action.image, action.group), self._kernel.now
        if holding is not None and key not in self._made:
            took = _length(holding.material.maps[action.pack], action) / self._device.klass.recompute_rate
            self._made[key] = self._free_at = max(now, self._free_at) + took
        self._device.later(max(now, self._made.get(key, now)), self._answer, action, holding)

    def use(self, action: e.UseDelta) -> None:
        """Apply one on the CPU that applies patches; the chunks that are right are in the slot then."""
        holding = self._device.images.get(action.image)
        if holding is None:
            return
        maker = self._device.maker
        length = _length(holding.material.maps[action.pack], action)
        when = maker.patched_at(length) if action.payload[0] == 0 else self._kernel.now
        self._device.later(self._device.slot.write_at(when, length), self._used, action, holding)

    # Inside

    def _answer(self, action: e.MakeDelta, holding: Holding | None) -> None:
        device = self._device
        message, block = self._delta(action, holding), b""
        if isinstance(message, m.Piece):
            block = bytes(message.payload[:1])
        connection = device.connections.get(action.device)
        if connection is not None:
            size = len(message.payload) if isinstance(message, m.Piece) else 0
            device.give(
                connection, action.device, message, self._sent, device.life, action.device, size, bool(block)
            )
        device.feed(e.DeltaMade(action.image, action.device, action.group))

    def _delta(self, action: e.MakeDelta, holding: Holding | None) -> m.Message:
        device = self._device
        refusal = m.Refuse(action.request, m.Refusal.FAILED)
        if holding is None or device.images.get(action.image) is not holding:
            return refusal
        pieces = holding.material.maps[action.pack]
        start, stop = _span(pieces, action)
        base = device.base if device.base != action.image else device.previous
        whole = None if base is None else holding.material.between.get(base)
        if whole is None or not holding.slot.is_good(start, stop):
            return refusal
        size = HEAD + whole * (stop - start) // holding.material.size
        if size > PEER_DELTA_PART_MAX * (stop - start):
            return m.Refuse(action.request, m.Refusal.DONT_HAVE)
        rotten = device.base == base and _overlaps(device, start, stop)
        return m.Piece(action.request, other(size) if rotten else GOOD[:size])

    def _sent(self, life: int, device: str, size: int, served: bool) -> None:
        if life == self._device.life:
            if served:
                self._device.server.served_at = self._kernel.now
            self._device.feed(e.PieceSent(device, size))

    def _used(self, action: e.UseDelta, holding: Holding) -> None:
        device = self._device
        if device.images.get(action.image) is not holding:
            return
        pieces, size = holding.material.maps[action.pack], len(action.payload)
        verdict = e.Verdict.RIGHT
        if action.payload[0] == BAD[0]:
            verdict = e.Verdict.WRONG
        elif action.payload[0] != GOOD[0] or _overlaps(device, *_span(pieces, action)):
            verdict = e.Verdict.OTHER_BASE
        else:
            for n in range(action.start, action.stop):
                piece = pieces[n]
                if holding.slot.written.covers(piece.target_offset, piece.target_stop):
                    continue
                stored = e.Stored(
                    action.image, piece.target_offset, piece.target_stop, e.How.DELTA, action.pack, (n,),
                    device=action.source,
                )  # fmt: skip
                device.maker.put(holding, stored)
        if device.images.get(action.image) is holding:
            device.feed(e.DeltaUsed(action.image, action.group, action.source, size, verdict))


def _span(pieces: PieceMap, action: e.MakeDelta | e.UseDelta) -> tuple[int, int]:
    return pieces[action.start].target_offset, pieces[action.stop - 1].target_stop


def _length(pieces: PieceMap, action: e.MakeDelta | e.UseDelta) -> int:
    start, stop = _span(pieces, action)
    return stop - start


def _overlaps(device: Device, start: int, stop: int) -> bool:
    """Whether base bytes that a delta for this range is made from read wrong."""
    whole = max(0, start - MARGIN), stop + MARGIN
    return len(device.base_bad) > 0 and list(device.base_bad.gaps(*whole)) != [whole]
