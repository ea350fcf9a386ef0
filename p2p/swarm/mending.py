"""What turned out to be wrong of one image at one node, and what is done about it.

A range that the base cannot make, a piece that is not right where it stands, an image that reads back wrong:
it comes from the full pack, whatever the route, and from peers or the WAN like all else (`wanted`, `choice`).
An image that is read back wrong again and again is given up. Not for a peer's wrong pieces, which are that
peer's fault (`rider`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.swarm.events import GiveUp, ReadBack, Recheck
from p2p.swarm.peer import PieceKey

if TYPE_CHECKING:
    from p2p.swarm.image import ImageSwarm

READ_BACKS_MAX = 3
"""How often an image may be read back wrong; what is then still wrong, mending does not help."""


class Mending:
    """`ranges` of the image that only the full pack can make; `since`: when that (or its index) was known.

    `reading_back`: all was made, and is being verified; `rechecking`: it is being found out which chunks are
    wrong; `given_up`: neither, any more.
    """

    def __init__(self, image: ImageSwarm) -> None:
        self.ranges = IntervalSet()
        self.since = image.context.now
        self.reading_back = False
        self.rechecking = False
        self.given_up = False
        self._image = image
        self._wrong = 0
        self._mended = 0

    def read_back(self) -> None:
        """Everything is made: verify the whole of it, if that is not under way or in vain."""
        if not (self.reading_back or self.rechecking or self.given_up):
            self.reading_back = True
            self._image.context.actions.append(ReadBack(self._image.task.image))

    def read_back_failed(self) -> None:
        """Something in the slot is wrong: find out what, by the full pack's digests, but not for ever."""
        self.reading_back = False
        self._wrong += 1
        if self._wrong >= READ_BACKS_MAX:
            self.given_up = True
            image = self._image
            image.context.actions.append(GiveUp(image.task.image, self._wrong, self._mended))
            return
        self._recheck()

    def full_index_ready(self) -> None:
        """The digests of chunks are here."""
        self.since = self._image.context.now
        if self.rechecking:
            image = self._image
            image.context.actions.append(Recheck(image.task.image, image.task.full_pack.index.sha256))

    def unreadable(self, pack: Digest, number: int) -> None:
        """A piece is not right where it stands. What was copied of a base nobody has verified: none of the
        chunks is offered until all were looked at, rather than refused one by one. What is complete was.
        """
        image = self._image
        piece = image.maps[pack][number] if pack in image.maps else None
        if piece is None or number not in image.serves.get(pack, ()):
            return
        alone = image.complete or piece.is_patch
        for name, served in image.serves.items():
            doubtful = {n for n in served if not image.maps[name][n].is_patch} if not alone else set()
            if name == pack:
                doubtful.add(number)
            if doubtful:
                served -= doubtful
                image.tell_all(name)
        if not alone and not self.rechecking:
            self._recheck()

    def damaged(self, ranges: tuple[tuple[int, int], ...]) -> None:
        """These ranges are not done after all; the full pack mends them."""
        image = self._image
        was_complete, image.complete = image.complete, False
        self.rechecking = self.reading_back = False
        self.since = image.context.now
        for start, stop in ranges:
            image.done.remove(start, stop)
            self._mended += stop - start
            self.ranges.add(start, stop)
            for name, pieces in image.maps.items():
                for n in pieces.overlapping(start, stop):
                    image.serves.get(name, set()).discard(n)
        image.left = image.task.size - image.done.total()
        if was_complete:
            image.announce()
        for name, served in image.serves.items():
            served.update(image.chunks_done(image.maps[name]))
            image.tell_all(name)
        image.replan = True
        image.wanted.renew()

    def base_damaged(self, start: int, stop: int) -> None:
        """The base cannot make this range: take it from the full pack."""
        image = self._image
        self.ranges.add(start, stop)
        self.since = image.context.now
        storing, fetching = image.wanted.storing, image.wanted.fetching
        for key in [k for k in storing if self._overlaps(k, start, stop)]:
            image.context.ledger.wasted += storing.pop(key)
        for key in [k for k in fetching if self._overlaps(k, start, stop)]:
            del fetching[key]
        image.replan = True  # the full pack's index may be needed from now on
        image.wanted.renew()

    def _recheck(self) -> None:
        image = self._image
        self.rechecking = image.replan = True  # the full pack's index is needed now
        full = image.task.full_pack.index.sha256
        if full in image.maps:
            image.context.actions.append(Recheck(image.task.image, full))

    def _overlaps(self, key: PieceKey, start: int, stop: int) -> bool:
        piece = self._image.maps[key[0]][key[1]]
        return piece.target_offset < stop and start < piece.target_stop
