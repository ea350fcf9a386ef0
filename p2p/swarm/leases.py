"""The leases of others: what each device of the site says that it fetches, and for how long that holds.

A lease covers one fetch. It is renewed only by progress, ends with its holder's connection, and a holder
that stalls is not a gateway for a while. Not for what this node fetches itself (`gateway`), nor for
devices that are not connected to it (`hearsay`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm import messages as m
from p2p.swarm.announcements import CROWD
from p2p.swarm.context import Context
from p2p.swarm.image import ImageSwarm
from p2p.swarm.peer import Conduct, LeaseState, Peer, RemoteImage
from p2p.swarm.policy import Policy, penalty_s
from p2p.swarm.remnants import REMNANTS_MAX
from p2p.swarm.wan_rate import WanRate

RATE_MIN = 4096
"""Bytes per second below which a lease is not kept alive by promises alone, as long as no rate is known."""

SLOWER = 20
"""So many times slower than the slowest device that was measured may the holder of a lease be: the link may
have become ten times slower, and carry twice as many fetches."""

RENEWALS, GIVES_UP_S = 4, 1.0
"""A lease is renewed so often within `stall_s`; who stalls is given so long to find out and say so itself."""

MOVES_S = 0.5
"""Of a fetch that ended sooner than this, nothing came, nor of one that ended so soon after `stall_s`."""

PASSED_S = 1.5
"""In a crowd, frames whose lease has ended are on their way from node to node for this long."""

Defers = Callable[[str, float], bool]
"""Whether a lease of a device, begun at a time, still counts."""


class Leases:
    """Those of one image, as one node knows them: when one `ended_at` last, or `brought_at` pieces.

    Of one device so many are believed as it may have fetches, each as far as one fetch goes: no device can
    keep a pack from the site by claiming all of it.
    """

    def __init__(self, image: ImageSwarm, rate: WanRate) -> None:
        self._image = image
        self._rate = rate
        self._context: Context = image.context
        self._passed: dict[tuple[Digest, int, int], float] = {}
        self._begun: dict[tuple[Digest, int], str] = {}
        self._ended: dict[str, float] = {}
        self.ended_at = self.brought_at = float("-inf")

    def __iter__(self) -> Iterator[LeaseState]:
        for _, remote in self._image.leasing():
            yield from remote.leases.values()

    # What is told

    def renews(self, remote: RemoteImage, message: m.Lease) -> bool:
        """Whether it is nothing but a sign of life of a lease that is known and believed."""
        old = remote.leases.get(message.slot)
        if old is None or message.pack != old.pack or message.start != old.start:
            return False
        if self._image.indexes.run_stop(message.pack, message.start, message.stop) != old.stop:
            return False
        if not self._believes(remote):
            return False
        old.renewed = self._context.now
        if message.came != old.came:
            old.came = message.came
            plan = self._image.site.plan.pack
            self._image.replan |= plan is not None and plan.index.sha256 != old.pack
        return True

    def end(self, peer: Peer, remote: RemoteImage, slot: int) -> None:
        """The lease in a slot is over, whatever comes next."""
        old = remote.leases.pop(slot, None)
        if old is None:
            return
        self._image.hearsay.touch(leases=True)
        self.ended_at = self._ended[peer.device] = self._context.now
        if len(self._context.remotes(self._image.task.image)) > CROWD:
            self._passed[old.pack, old.start, old.stop] = self.ended_at + PASSED_S
        self._note_begun(peer.device, remote, old)

    def begin(self, peer: Peer, remote: RemoteImage, message: m.Lease) -> bool:
        """A lease in an empty slot; whether it counts. One that no pack allows is the end of its holder."""
        image, now = self._image, self._context.now
        if not any(p.index.sha256 == message.pack for p in image.task.packs):
            return False
        if not image.indexes.lease_fits(message.pack, message.start, message.stop):
            self._context.ban(peer.device, "bad-lease")
            return False
        if message.start >= message.stop or not self._believes(remote):
            return False
        if len(remote.leases) >= self._context.policy.fetches_max:
            return False
        image.lessors[peer.device] = peer
        if remote.conduct.leased_at <= remote.conduct.gave_at:
            remote.conduct.leased_at = now
        remote.brings = message.pack
        stop = image.indexes.run_stop(message.pack, message.start, message.stop)
        lease = LeaseState(message.pack, message.start, stop, now, now, now, message.came, message.came)
        remote.leases[message.slot] = lease
        image.hearsay.touch(leases=True)
        image.stale |= peer.device not in image.site.gateways
        return True

    def renewed_by(self, device: str, remote: RemoteImage, pack: Digest, pieces: Collection[int]) -> bool:
        """A peer serves pieces that it did not serve before; whether they are of frames that it fetches.

        Then the leases that they belong to made progress.
        """
        now, pieces_of = self._context.now, self._image.maps.get(pack)
        brought = False
        for lease in remote.leases.values():
            if lease.pack != pack:
                continue
            if pieces_of is not None:
                size = _size_in(pieces_of, pieces, lease)
                if not size:
                    continue
                self._rate.brought(device, max(0, size - lease.had), now - lease.progressed)
                lease.had = 0
            lease.renewed = lease.progressed = self.brought_at = now
            lease.came = 0
            brought = True
        return brought

    # What follows

    def covered(self, pack: Digest, frames: int, defers: Defers | None = None) -> set[int]:
        """Which of the `frames` frames of a pack others fetch, and are left to them.

        `defers`: for a node on its own, to which only some leases of its peers count, and no hearsay.
        """
        known = set() if defers is not None else self._image.hearsay.leased(pack, frames)
        for span, until in list(self._passed.items()):
            if self._context.now >= until:
                del self._passed[span]
            elif span[0] == pack:
                known.update(range(span[1], min(span[2], frames)))
        return known | {
            frame
            for peer, remote in self._image.leasing()
            if not remote.distrusted
            for lease in remote.leases.values()
            if lease.pack == pack and (defers is None or defers(peer.device, lease.began))
            for frame in range(lease.start, min(lease.stop, frames))
        }

    def behind(self, pack: Digest, frame: int, came: int) -> bool:
        """Whether all who fetch a frame have brought some of it, and less than `came` bytes, as they say."""
        leases = [x for x in self if x.pack == pack and x.start <= frame < x.stop]
        return bool(leases) and all(0 < x.came < came for x in leases)

    def moving(self) -> set[str]:
        """Connected devices of whose fetches bytes come, as they say themselves, or may come any moment."""
        now, stall_s = self._context.now, self._context.policy.stall_s
        return {
            peer.device
            for peer, remote in self._image.leasing()
            for lease in remote.leases.values()
            if now - remote.conduct.leased_at <= stall_s
            or lease.moves(now, self._largest(lease.pack, lease.start, lease.stop))
        }

    def holders(self) -> Iterator[str]:
        """Connected devices whose leases are believed."""
        for peer, remote in self._image.leasing():
            if remote.leases and not remote.distrusted:
                yield peer.device

    @property
    def news_behind_pieces(self) -> bool:
        """Whether one whose lease has ended may have begun the next, and says so behind pieces for us."""
        return any(True for _ in self.beginning())

    def beginning(self) -> Iterator[str]:
        """Connected devices whose lease has ended, and that may have begun the next: word of it may wait
        behind pieces for us."""
        now, members = self._context.now, self._context.members(self._image.task.image)
        for device, ended_at in list(self._ended.items()):
            found = members.get(device)
            owed = max((asked.size for _, asked in found[0].waiting()), default=0) if found is not None else 0
            if found is None or not owed or _is_complete(found[1]):  # that one begins no more
                del self._ended[device]
            elif now - ended_at < min(self._context.policy.stall_s, found[0].answers_in(owed)):
                yield device

    def leave_some(self, pack: PackRef | None) -> bool:
        """Whether there are leases, but not on all frames of a pack."""
        if pack is None or not any(True for _ in self):
            return False
        name = pack.index.sha256
        pieces = self._image.maps.get(name)
        return pieces is not None and len(self.covered(name, n := len(pieces.index.frames))) < n

    def begun(self, pack: Digest) -> set[int]:
        """Frames of a pack of which others that are still here may have the beginning."""
        members = self._context.members(self._image.task.image)
        found: set[int] = set()
        for key, device in list(self._begun.items()):
            peer = members.get(device)
            if peer is None or not self._believes(peer[1]):
                del self._begun[key]
            elif key[0] == pack:
                found.add(key[1])
        return found

    def stalled(self) -> bool:
        """Take the leases of those who are late; whether there were any.

        They count for nothing for a while, longer each time, whatever becomes of their connections.
        """
        found = False
        for peer, remote in self._image.leasing():
            conduct = remote.conduct
            if any(self._is_late(peer, conduct, lease) for lease in remote.leases.values()):
                found = True
                conduct.stalls += 1
                conduct.stalled_at = self._context.now
                conduct.stalled_until = self._context.now + penalty_s(self._context.policy, conduct.stalls)
                remote.leases.clear()
        return found

    def patience(self, pack: Digest | None, start: int, stop: int) -> float:
        """How long a lease may live on promises: its largest frame, far slower than frames come to others.

        As long as no rate is known, at the least rate, the link shared.
        """
        largest = self._largest(pack, start, stop)
        least = RATE_MIN / max(1, len(self._image.site.gateways))
        known = self._rate.slowest(other_min=SLOWER * least)
        return self._context.policy.stall_s + largest / (known / SLOWER if known is not None else least)

    @staticmethod
    def silence_s(policy: Policy) -> float:
        """For how long a lease holds of which nothing is heard."""
        return policy.stall_s * (1 + 1 / RENEWALS) + GIVES_UP_S

    # Inside

    def _believes(self, remote: RemoteImage) -> bool:
        return not remote.distrusted and self._context.now >= remote.conduct.stalled_until

    def _largest(self, pack: Digest | None, start: int, stop: int) -> int:
        """Stored bytes of the largest frame; the most that there may be where the index is not here."""
        pieces = self._image.maps.get(pack) if pack is not None else None
        frames = pieces.index.frames[start:stop] if pieces is not None else ()
        return max((f.stored_size for f in frames), default=limits.STORED_FRAME_MAX)

    def _is_late(self, peer: Peer, conduct: Conduct, lease: LeaseState) -> bool:
        """Whether it is kept up no more, or nothing comes of it. News waits behind pieces on its way.

        Pieces that have not come may still be on their way, for as long as a request may take. Whose leases
        stalled has half the time, and half of that the next time, until it gives something.
        """
        now, context = self._context.now, self._context
        silent_s, idle_s = now - max(lease.renewed, peer.answered_at), now - lease.progressed
        if silent_s <= context.policy.stall_s and idle_s <= context.policy.stall_s:
            return False  # whatever is allowed, it is more than that
        behind_s = 0.0
        if peer.in_flight:
            asked_s = now - min((asked.at for _, asked in peer.waiting()), default=now)
            behind_s = max(2 * context.window.answer_s, min(asked_s, context.policy.request_s))
        allowed_s = self.silence_s(context.policy) + behind_s
        patience_s = self.patience(lease.pack, lease.start, lease.stop)
        if conduct.owes:
            patience_s = max(allowed_s, patience_s / 2**conduct.stalls)
        return silent_s > allowed_s or idle_s > patience_s

    def _note_begun(self, device: str, remote: RemoteImage, lease: LeaseState) -> None:
        """The first frame that did not come of a lease is what its holder keeps the beginning of.

        If there is any: a request that was refused ends at once, one that nothing came of by a stall.
        """
        pieces, lived_s = self._image.maps.get(lease.pack), self._context.now - lease.began
        stall_s = self._context.policy.stall_s
        refused, stalled = lived_s < MOVES_S, stall_s <= lived_s < stall_s + MOVES_S
        moved = lease.renewed > lease.began or not (refused or stalled)
        if pieces is None or not moved:
            return
        for frame in range(lease.start, min(lease.stop, len(pieces.index.frames))):
            if not all(remote.has((lease.pack, n)) for n in pieces.of_frame(frame)):
                self._begun.setdefault((lease.pack, frame), device)
                break
        mine = [key for key, who in self._begun.items() if who == device]
        for key in mine[:-REMNANTS_MAX]:
            del self._begun[key]


def _is_complete(remote: RemoteImage) -> bool:
    return remote.participant is not None and remote.participant.complete


def _size_in(pieces_of: PieceMap, pieces: Collection[int], lease: LeaseState) -> int:
    """Stored bytes (about) that these pieces are of the frames of a lease."""
    frames = [
        pieces_of[n].frame
        for n in pieces
        if n < len(pieces_of) and lease.start <= pieces_of[n].frame < lease.stop
    ]
    return sum(pieces_of.index.frames[f].stored_size // len(pieces_of.of_frame(f)) or 1 for f in frames)
