"""The pieces of one image that a node wants: what its route lacks, less what is on its way.

Wanted is what nobody is asked for now. A piece that is asked of a peer, comes over this node's WAN or is
being stored is not wanted meanwhile; if nothing comes of it, it is wanted `again`. Which of its wanted
pieces a peer has is kept with the peer (`RemoteImage.useful`). Not for whom to ask (`rider`), nor for what
to fetch (`choice`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.content.pieces import Piece, PieceMap
from p2p.swarm.context import Context
from p2p.swarm.events import ImageTask
from p2p.swarm.holders import Holders
from p2p.swarm.peer import Peer, PieceKey, RemoteImage


class Wanted:
    """Those of one image at one node, by pack and number, `open` while nobody is asked for them.

    `in_flight`: requests (device, number) for each piece that peers are asked for; `storing`: bytes of each
    that came from a peer; `fetching`: which fetch over the WAN brings it. `due`: who may be asked for more.
    `filling`: frames are on this device already (`Pursuit`), and until they are used up nothing is wanted.
    `held`: chunks that a peer's delta is to bring (`delta_asking`).
    `done` (verified ranges) and `repair` (ranges that the base cannot make) are the image's, as `maps` and
    `holders` are. `route`: the pack along which the node works; ranges in `repair` come from the full pack.
    """

    def __init__(
        self,
        context: Context,
        task: ImageTask,
        *,
        maps: Mapping[Digest, PieceMap],
        done: IntervalSet,
        repair: IntervalSet,
        holders: Holders,
    ) -> None:
        self.open: dict[PieceKey, None] = {}
        self.in_flight: dict[PieceKey, list[tuple[str, int]]] = {}
        self.storing: dict[PieceKey, int] = {}
        self.fetching: dict[PieceKey, int] = {}
        self.held: set[PieceKey] = set()
        self.due: dict[str, None] = {}
        self.route: Digest | None = None
        self.filling = False
        self._context = context
        self._task = task
        self._maps = maps
        self._done = done
        self._repair = repair
        self._holders = holders

    def follow(self, route: Digest) -> None:
        """Work along a pack from now on; its index is here."""
        self.route = route
        self.renew()

    def renew(self) -> None:
        """Find out anew what is wanted, and what each peer has of it."""
        self.open.clear()
        if self.filling:
            return
        full = self._task.full_pack.index.sha256
        if self.route is not None and self.route in self._maps:
            for key in self.missing(self.route):
                if self.route == full or not self._needs_repair(self._maps[self.route][key[1]]):
                    self.open[key] = None
        if full in self._maps and self.route != full:
            for start, stop in self._repair:
                for n in self._maps[full].overlapping(start, stop):
                    if not self.is_done(self._maps[full][n]):
                        self.open[full, n] = None
        for key in (*self.in_flight, *self.storing, *self.fetching, *self.held):
            self.open.pop(key, None)
        for peer, remote in self._context.remotes(self._task.image):
            self.find_useful(peer, remote)

    def again(self, key: PieceKey) -> None:
        """A piece that was on its way is not: whoever has it may be asked.

        It may be what an earlier start asked for, of a pack whose index this one does not have yet.
        """
        if key[0] not in self._maps:
            return
        if key in self.in_flight or key in self.storing or key in self.fetching or self.filling:
            return
        if key in self.held:
            return
        piece = self._maps[key[0]][key[1]]
        full = self._task.full_pack.index.sha256
        relevant = key[0] == self.route or (key[0] == full and self._needs_repair(piece))
        if relevant and not self.is_done(piece):
            self.open[key] = None
            if self._holders.count(key):
                for peer, remote in self._context.remotes(self._task.image):
                    if remote.has(key):
                        self.offered(peer, remote, (key,))

    def hold(self, keys: Iterable[PieceKey]) -> None:
        """Nobody is asked for these: a delta is to bring them."""
        for key in keys:
            self.held.add(key)
            self.open.pop(key, None)

    def release(self, keys: Iterable[PieceKey]) -> None:
        """A delta has brought these, or will not: what is missing of them may be asked for."""
        for key in keys:
            if key in self.held:
                self.held.discard(key)
                self.again(key)

    def offered(self, peer: Peer, remote: RemoteImage, keys: Iterable[PieceKey]) -> None:
        """A peer serves pieces, or does so again: what is wanted of them may be asked of it."""
        wanted = self.open
        for key in keys:
            if key in wanted:
                remote.useful[key] = None
                self.due[peer.device] = None

    def find_useful(self, peer: Peer, remote: RemoteImage) -> None:
        """What a peer has that this node wants, from all that is known."""
        haves = {pack: marks for pack, marks in remote.haves.items() if 1 in marks}
        if not haves or remote.distrusted:
            remote.useful = {}
            return
        remote.useful = {k: None for k in self.open if k[0] in haves and haves[k[0]][k[1]]}
        if remote.useful:
            self.due[peer.device] = None

    def stored(self, pack: Digest, numbers: Iterable[int]) -> int:
        """Pieces stand verified in the slot; returns how many bytes of them a peer had sent."""
        received = 0
        for n in numbers:
            received += self.storing.pop((pack, n), 0)
            self.fetching.pop((pack, n), None)
        return received

    def is_done(self, piece: Piece) -> bool:
        """Whether the range that it makes is verified."""
        return self._done.covers(piece.target_offset, piece.target_stop)

    def missing(self, pack: Digest) -> Iterator[PieceKey]:
        """All pieces of a pack that are not done."""
        return ((pack, p.number) for p in self._maps[pack].pieces if not self.is_done(p))

    @property
    def fetched_pack(self) -> Digest | None:
        """The pack that this node fetches along; what it fetches to mend its base says nothing of the way."""
        packs = dict.fromkeys(pack for pack, _ in self.fetching)
        if self.route in packs:
            return self.route
        mends = self._task.full_pack.index.sha256 if len(self._repair) else None
        return next((pack for pack in packs if pack != mends), None)

    def left_alone(self, pack: Digest) -> int:
        """Stored bytes that have to come if nobody else brings anything.

        Of the pack's frames, and of the full one's over what the base cannot make: the same along each way.
        """
        full, maps = self._task.full_pack.index.sha256, self._maps
        pieces = maps[pack]
        lacking = (p for p in pieces.pieces if not self.is_done(p))
        frames = {p.frame for p in lacking if pack == full or not self._needs_repair(p)}
        left = sum(pieces.index.frames[n].stored_size for n in frames)
        if pack != full and full in maps:
            pieces = maps[full]
            over = (pieces[n] for start, stop in self._repair for n in pieces.overlapping(start, stop))
            frames = {p.frame for p in over if not self.is_done(p)}
            left += sum(pieces.index.frames[n].stored_size for n in frames)
        return left

    def _needs_repair(self, piece: Piece) -> bool:
        gaps = list(self._repair.gaps(piece.target_offset, piece.target_stop))
        return gaps != [(piece.target_offset, piece.target_stop)]
