"""What a device gives its peers: pieces of the images that it makes or holds.

The counterpart of `p2p.agent.driver.answer`. A piece is read from the slot, or taken from the patches
that were kept, and never given unless it is right by all that the device can know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.swarm import events as e
from p2p.swarm import messages as m
from sim.world.payloads import BAD, GOOD

if TYPE_CHECKING:
    from sim.world.device import Device


class PieceServer:
    """Answers the requests that a node lets through. `served_at`: when a piece was last sent."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._world = device.world
        self.served_at = float("-inf")

    def serve(self, action: e.Serve) -> None:
        device, target = self._device, action.device
        connection = device.connections.get(target)
        if connection is None:
            return
        message, held = device.answer(action)
        payload = message.payload if type(message) is m.Piece else b""
        if not payload and action.image in device.images:
            device.feed(e.Unreadable(action.image, action.pack, action.piece))
        observer = self._world.observer
        if observer is not None and payload:
            observer.served(device, action, payload[0] == 0, held)
        device.give(connection, target, message, self._piece_sent, device.life, target, len(payload))

    def answer(self, action: e.Serve) -> tuple[m.Message, bool]:
        """The message for a piece that a peer asked for, and whether the slot holds it."""
        holding = self._device.images.get(action.image)
        refusal = m.Refuse(action.request, m.Refusal.FAILED)
        if holding is None or action.pack not in holding.material.maps:
            return refusal, False
        number = action.piece
        piece = holding.material.maps[action.pack].pieces[number]
        if piece.is_patch:
            kept = number in holding.kept[action.pack]
            rest = GOOD[: piece.wire_size - action.start]
            return (m.Piece(action.request, rest), True) if kept else (refusal, False)
        start, stop = piece.target_offset, piece.target_stop
        held = holding.slot.written.covers(start, stop)
        good = held and not holding.slot.is_bad(start, stop)
        checked = holding.checked[action.pack]
        if good:
            checked.add(number)
        elif number not in checked:
            return refusal, held
        block = GOOD if good else BAD
        return m.Piece(action.request, block[: piece.wire_size - action.start]), held

    def _piece_sent(self, life: int, device: str, size: int) -> None:
        if life == self._device.life:
            self.served_at = self._device.kernel.now
            self._device.feed(e.PieceSent(device, size))
