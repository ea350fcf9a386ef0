"""Beginnings of frames whose fetch over the WAN broke off: the next fetch goes on from there.

Objects are named by their digest and do not change, so that an offset is all it takes. What is kept is
unverified: it is neither stored nor passed on before the frame is whole and its digest is right, and a
frame that then turns out wrong is begun anew. Kept in memory only. The drivers hold one `Remnants` per
image; whose frames they are to fetch again is the node's choice (`gateway`).
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

from p2p.content.digests import Digest
from p2p.content.index import Frame

REMNANTS_MAX = 2
"""How many are kept of one image: one for each fetch that may run (`Policy.fetches_max`)."""

Held = TypeVar("Held", bound=Sized)


@dataclass(frozen=True, slots=True)
class _Remnant(Generic[Held]):
    held: Held
    start: int
    stop: int


class Remnants(Generic[Held]):
    """Those of one image, by pack and frame, the oldest first. Sizes are stored bytes.

    Whatever leaves it unused has crossed the WAN for nothing; the methods say how many bytes that were.
    """

    def __init__(self) -> None:
        self._remnants: dict[tuple[Digest, int], _Remnant[Held]] = {}
        self._closed = False

    def keep(self, pack: Digest, frame: Frame, held: Held) -> int:
        """Keep the first bytes of a frame; returns how many are given up for it (after `close`, these)."""
        if self._closed:
            return len(held)
        if not len(held):
            return 0
        lost = self._drop((pack, frame.number))
        while len(self._remnants) >= REMNANTS_MAX:
            lost += self._drop(next(iter(self._remnants)))
        stop = frame.target_offset + frame.target_length
        self._remnants[pack, frame.number] = _Remnant(held, frame.target_offset, stop)
        return lost

    def take(self, pack: Digest, frame: int) -> Held | None:
        """What there is of a frame; it is the caller's from now on."""
        remnant = self._remnants.pop((pack, frame), None)
        return None if remnant is None else remnant.held

    def settle(self, is_done: Callable[[int, int], bool]) -> int:
        """Give up those whose target range `[start, stop)` has been made otherwise."""
        return sum(self._drop(key) for key, r in list(self._remnants.items()) if is_done(r.start, r.stop))

    def close(self) -> int:
        """Give up all, and keep no more: the image is dropped."""
        self._closed = True
        return sum(self._drop(key) for key in list(self._remnants))

    def __len__(self) -> int:
        return len(self._remnants)

    def _drop(self, key: tuple[Digest, int]) -> int:
        remnant = self._remnants.pop(key, None)
        return 0 if remnant is None else len(remnant.held)
