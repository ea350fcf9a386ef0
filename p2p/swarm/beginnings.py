"""Beginnings of pieces that a peer was giving when its connection ended: it gives the rest when it is back.

A large piece takes a slow network longer than a short visit lasts. Only whole pieces can be verified, so
what has come of one is kept as it is, in memory, for the device that gave it: nobody else is asked for the
rest. It is neither stored nor passed on before the piece is whole and right. The two halves may be of
different making (a patch that the peer made anew with newer software is stored otherwise), so a piece that
was put together and is wrong bans nobody; but nothing more is kept of who gave it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.content import limits
from p2p.swarm.ledger import Ledger
from p2p.swarm.peer import PieceKey

BYTES_MAX = limits.MESSAGE_PAYLOAD_MAX
"""So much is kept of one image: the largest piece, or many small ones."""


class Beginnings:
    """Those of one image at one node, by device and piece, the oldest first.

    What is given up unused has come for nothing, and is counted so.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[tuple[str, PieceKey], bytes] = {}
        self._joined: dict[PieceKey, str] = {}
        self._refused: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._kept or self._joined)

    def of(self, device: str) -> list[PieceKey]:
        """The pieces of which a device gave the beginning."""
        return [key for giver, key in self._kept if giver == device]

    def keep(self, device: str, key: PieceKey, data: bytes) -> None:
        """Keep the first bytes of a piece; older ones go where there is no room."""
        if device in self._refused or len(data) > BYTES_MAX:
            self._ledger.wasted += len(data)
            return
        self._drop((device, key))
        self._kept[device, key] = data
        while sum(map(len, self._kept.values())) > BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def take(self, device: str, key: PieceKey) -> bytes:
        """What a device gave of a piece, or nothing; it is the caller's from now on."""
        return self._kept.pop((device, key), b"")

    def forget(self, device: str) -> None:
        """A device does not give the rest of anything."""
        for key in self.of(device):
            self._drop((device, key))

    def put_together(self, device: str, key: PieceKey) -> None:
        """A piece is about to be verified whose parts came over two connections of a device."""
        self._joined[key] = device

    def was_wrong(self, key: PieceKey) -> bool:
        """A piece is wrong; whether it was put together, so that nobody is to blame for it."""
        device = self._joined.pop(key, None)
        if device is None:
            return False
        self._refused.add(device)
        self.forget(device)
        return True

    def settle(self, is_done: Callable[[PieceKey], bool]) -> None:
        """Give up those of pieces that have been made otherwise."""
        for device, key in list(self._kept):
            if is_done(key):
                self._drop((device, key))
        self._joined = {key: device for key, device in self._joined.items() if not is_done(key)}

    def _drop(self, key: tuple[str, PieceKey]) -> None:
        self._ledger.wasted += len(self._kept.pop(key, b""))
