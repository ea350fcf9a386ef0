"""What a node asks its peers for: rarest first, in a pipeline, hedged and never twice for nothing."""

from __future__ import annotations

from p2p.content import limits
from p2p.content.digests import Digest
from p2p.swarm import messages as m
from p2p.swarm.beginnings import Beginnings
from p2p.swarm.context import Context
from p2p.swarm.events import Store
from p2p.swarm.image import ImageSwarm
from p2p.swarm.parts import RESTS, Begun, parts_for
from p2p.swarm.peer import Asked, Peer, PieceKey, RemoteImage
from p2p.swarm.policy import penalty_s
from p2p.swarm.visitors import BUSY_WITH, Visitors

SAMPLE = 16
"""How many useful pieces are compared for rarity at each choice: enough to spread, cheap to do."""

FASTER = 4
"""A piece is asked of a second peer when that has probably answered within this part of the time waited."""

WITHHELD = 4
"""A piece is late, although its holder answers others, after this many times its patience."""

BUSY_PAUSE_S = 0.5
"""How long a peer that was busy is left alone."""

BUSY_MAX = 6
"""How often in a row a peer may be busy before that counts as a broken promise."""

RESTS_S = 5.0
"""So long a peer may take to say whether it gives the rest of a piece; then it is asked for whole ones."""

TAKES_BACK_S = 1.0
"""What a peer takes back of several packs within so long counts once."""


class Rider:
    """The LAN side of one image at one node."""

    def __init__(self, image: ImageSwarm) -> None:
        self._image = image
        self._context: Context = image.context
        self.paused: dict[str, None] = {}
        self.hungry: dict[str, None] = {}
        """Who has more that we want, and may be asked when the window has room."""
        self._flying: dict[tuple[str, int], int] = {}
        self._visitors = Visitors(image)
        self._beginnings = Beginnings(self._context.ledger)

    def step(self) -> None:
        """Fill the pipelines of peers that have what we want."""
        image, hungry, window = self._image, self.hungry, self._context.window
        wanted = image.wanted
        if wanted.due:
            hungry |= wanted.due
            wanted.due = {}
        if image.complete:
            hungry.clear()
            return
        for peer, remote in self._visitors.of(hungry):
            del hungry[peer.device]
            self._unload(peer, remote)
        if self._visitors.come_first():
            return
        members = self._context.members(image.task.image)
        while hungry and window.room:
            device = next(iter(hungry))
            del hungry[device]
            if (found := members.get(device)) is not None:
                self.fill(*found)

    def fill(self, peer: Peer, remote: RemoteImage) -> None:
        """Ask one peer for as much as its pipeline takes; what the window does not take has to wait."""
        context = self._context
        if not self._may_ask(peer, remote):
            return
        window = context.window
        for _ in range(peer.capacity(context.policy)):
            if not window.room:
                self.hungry[peer.device] = None
                return
            key = self._begun(peer, remote) or self._rarest(remote)
            if key is None:
                return
            self._ask(peer, remote, key)

    def _unload(self, peer: Peer, remote: RemoteImage) -> None:
        """Ask a carrier that visits for what only it has, first and whatever else is on its way."""
        context, visitors = self._context, self._visitors
        if not self._may_ask(peer, remote):
            return
        for _ in range(max(peer.capacity(context.policy), BUSY_WITH - peer.in_flight)):
            if not (context.window.room or visitors.room_beyond()):
                self.hungry[peer.device] = None
                return
            key = self._begun(peer, remote) or visitors.next(peer, remote)
            if key is None:
                self.paused[peer.device] = None  # it may be this device's turn in a moment
                return
            self._ask(peer, remote, key)

    def _may_ask(self, peer: Peer, remote: RemoteImage) -> bool:
        """Whether a peer has something for this node, and may be asked for it just now."""
        if not remote.useful or remote.conduct.distrusted:
            return False
        if self._context.now < peer.paused_until:
            self.paused[peer.device] = None
            return False
        return not (self._beginnings and self._is_asked_for_rests(peer))

    def _is_asked_for_rests(self, peer: Peer) -> bool:
        """Whether it is about to say if it gives the rest of what it began to give, and is waited for."""
        if peer.gives_rests or not self._beginnings.of(peer.device):
            return False
        context = self._context
        if peer.rests_asked_at is None:
            peer.rests_asked_at = context.now
            request = peer.ask(Asked(context.now, metadata=RESTS))
            context.send(peer.device, m.MetadataWant(request, RESTS))
        if context.now - peer.rests_asked_at < RESTS_S:
            self.paused[peer.device] = None
            return True
        self._beginnings.forget(peer.device)
        return False

    def _begun(self, peer: Peer, remote: RemoteImage) -> PieceKey | None:
        """A piece of which a peer has given the beginning."""
        if not self._beginnings:
            return None
        wanted = self._image.wanted.open
        return next((k for k in self._beginnings.of(peer.device) if k in wanted and remote.has(k)), None)

    def _rarest(self, remote: RemoteImage) -> PieceKey | None:
        """The piece that the fewest have, of the first few that are useful; chance decides ties."""
        wanted, count, random = self._image.wanted.open, self._image.holders.count, self._context.rng.random
        best: PieceKey | None = None
        fewest = 0.0
        dead: list[PieceKey] = []
        seen = 0
        for key in remote.useful:
            if key not in wanted:
                dead.append(key)
                continue
            rarity = count(key) + random()
            if best is None or rarity < fewest:
                best, fewest = key, rarity
            seen += 1
            if seen == SAMPLE:
                break
        for key in dead:
            del remote.useful[key]
        return best

    def _ask(self, peer: Peer, remote: RemoteImage, key: PieceKey) -> None:
        image, context, wanted = self._image, self._context, self._image.wanted
        piece = image.maps[key[0]].pieces[key[1]]
        begun = self._beginnings.take(peer.device, key) if self._beginnings else b""
        size = piece.wire_size - len(begun)
        wanted.open.pop(key, None)
        remote.useful.pop(key, None)
        if (parts := parts_for(size, peer.rate, peer.parts, patch=piece.is_patch)) is not None:
            context.take_parts(peer, parts)
        digest = image.task.image
        request = peer.ask(Asked(context.now, size, digest, key, begun=begun))
        wanted.in_flight.setdefault(key, []).append((peer.device, request))
        self._flying[peer.device, request] = size
        context.window.flying += size
        if begun:
            context.send(peer.device, m.WantRest(request, digest, *key, len(begun)))
        else:
            context.send(peer.device, m.Want(request, digest, *key))

    def on_piece(self, peer: Peer, asked: Asked, message: m.Piece) -> None:
        """A peer's answer: store it if it is still of use."""
        image, context = self._image, self._context
        wanted, key = image.wanted, asked.piece
        assert key is not None
        size, seconds = len(message.payload), context.now - asked.at
        peer.answered_at = context.now
        remote = peer.image(image.task.image)
        payload, size = message.payload, size + len(asked.begun)
        if asked.abandoned:  # late, but not for nothing
            if remote.late.pop(key, None) is not None:
                image.holders.gained(remote, key[0], (key[1],))
            if key[0] not in image.maps or image.complete:
                context.ledger.wasted += size
                return
        else:
            peer.measured(len(message.payload), seconds)
            context.window.answered(len(message.payload), seconds)
            self._forget(peer, key)
        wanted.due[peer.device] = None
        conduct = remote.conduct
        conduct.busy = 0
        if conduct.strikes > 0:
            conduct.strikes -= 1
        if key in wanted.storing or wanted.is_done(image.maps[key[0]].pieces[key[1]]):
            context.ledger.wasted += size
            return
        wanted.open.pop(key, None)
        if asked.begun:
            payload = b"".join((asked.begun, payload))
            self._beginnings.put_together(peer.device, key)
        wanted.storing[key] = size
        context.stirred = False
        context.actions.append(Store(image.task.image, key[0], key[1], payload, peer.device))

    def on_refuse(self, peer: Peer, asked: Asked, reason: m.Refusal) -> None:
        """A peer does not serve what it said it had."""
        key = asked.piece
        assert key is not None
        self._forget(peer, key)
        self._context.ledger.wasted += len(asked.begun)
        remote = peer.image(self._image.task.image)
        if reason is m.Refusal.BUSY:
            peer.paused_until = self._context.now + BUSY_PAUSE_S
            remote.conduct.busy += 1
            if remote.conduct.busy > BUSY_MAX:
                self._strike(peer, remote)
        elif remote.has(key):  # what it has taken back since, it has been struck for
            self._image.holders.lost(remote, key[0], (key[1],))
            self._strike(peer, remote)
        self._image.wanted.due[peer.device] = None
        self._image.wanted.again(key)

    def on_taken_back(self, peer: Peer, remote: RemoteImage, pack: Digest) -> None:
        """A peer has less than it said: once or twice that is damage it has found, then a game.

        What it has found may be in several packs, and it says so of one after the other: that is once.
        """
        now, conduct = self._context.now, remote.conduct
        if now - conduct.took_back_at <= TAKES_BACK_S and pack not in conduct.took_back:
            conduct.took_back.add(pack)
            return
        conduct.took_back_at, conduct.took_back = now, {pack}
        self._strike(peer, remote)

    def on_rejected(self, key: PieceKey) -> bool:
        """The bytes were wrong: the piece is wanted again. Returns whether nobody is to blame for it."""
        self._context.ledger.wasted += self._image.wanted.storing.pop(key, 0)
        self._image.wanted.again(key)
        return self._beginnings.was_wrong(key)

    def housekeeping(self) -> None:
        """Give up what is late, ask somebody else for what is slow, and who was paused again."""
        context, policy, image = self._context, self._context.policy, self._image
        for device in list(image.troubled):
            self._forgive(device)
        if self._beginnings:
            self._beginnings.settle(lambda key: image.wanted.is_done(image.maps[key[0]][key[1]]))
        image.wanted.due |= self.paused
        self.paused.clear()
        for key, requests in list(image.wanted.in_flight.items()):
            for device, number in requests:
                peer = context.peers[device]
                asked = peer.asked[number]
                age = context.now - asked.at
                if age <= policy.hedge_s:
                    continue
                heard_at = context.now if peer.serving else peer.served_at  # requests wait behind our answers
                silence = context.now - max(asked.at, peer.answered_at, heard_at)
                patience = policy.request_s + 2 * max(peer.answers_in(asked.size), context.window.answer_s)
                if silence > patience or (age > WITHHELD * patience and not peer.is_coming(asked)):
                    context.abandon(peer, number)
                    self._forget(peer, key)
                    self._late(peer, key)
                    image.wanted.again(key)
                else:
                    if silence > self._visitors.silence_s(device) + 2 * context.window.answer_s:
                        self._landed((device, number))  # it does not keep the place of what may come
                    in_vain = image.is_overdue(asked.size)
                    most = limits.PEERS_MAX if in_vain else 2 + int(age / (WITHHELD * patience))
                    self._hedge(key, age, most)

    def on_wrong_answer(self, peer: Peer, key: PieceKey) -> None:
        """What came is no piece at all."""
        self._forget(peer, key)
        self._image.wanted.again(key)

    def peer_lost(self, peer: Peer, begun: Begun | None = None) -> None:
        """The peer is gone, or no longer takes part: what it was asked for is wanted again.

        `begun`: what had come of one answer; it is kept for when the peer is back.
        """
        for number, asked in peer.waiting():
            if asked.image == self._image.task.image and asked.piece is not None:
                data = asked.begun
                if begun is not None and begun.request == number:
                    data += bytes(begun.data)
                if data:
                    self._keep_begun(peer, asked.piece, data)
                self._context.abandon(peer, number)
                self._forget(peer, asked.piece)
                self._image.wanted.again(asked.piece)

    def _keep_begun(self, peer: Peer, key: PieceKey, data: bytes) -> None:
        if peer.at_fault or self._image.complete or key[0] not in self._image.maps:
            self._context.ledger.wasted += len(data)
        else:
            self._beginnings.keep(peer.device, key, data)

    def _hedge(self, key: PieceKey, age: float, most: int) -> None:
        """Ask somebody else as well, if that is clearly faster: on a slow network it adds to it.

        `most`: so many may be at it, one more for each time that it is late enough to be withheld, and all
        where none came for too long: what is on its way is not given up, and may be so from any number.
        """
        image, policy = self._image, self._context.policy
        requests = image.wanted.in_flight.get(key, ())
        if not 0 < len(requests) < most:
            return
        slow = {device for device, _ in requests}
        size = image.maps[key[0]][key[1]].wire_size
        best: tuple[Peer, RemoteImage] | None = None
        least = age / FASTER
        for peer, remote in self._context.remotes(image.task.image):
            if peer.device in slow or not remote.has(key) or peer.capacity(policy) <= 0:
                continue
            if self._visitors.is_new(peer.device):
                continue  # it is here for what others do not have
            takes = max(peer.answers_in(size), self._context.window.answer_s)
            if takes < least:
                best, least = (peer, remote), takes
        if best is not None:
            for request in requests:
                self._landed(request)
            self._ask(*best, key)

    def _forget(self, peer: Peer, key: PieceKey) -> None:
        in_flight = self._image.wanted.in_flight
        left = []
        for entry in in_flight.get(key, ()):
            if entry[0] == peer.device:
                self._landed(entry)
            else:
                left.append(entry)
        if left:
            in_flight[key] = left
        else:
            in_flight.pop(key, None)

    def _landed(self, request: tuple[str, int]) -> None:
        self._context.window.flying -= self._flying.pop(request, 0)

    def _late(self, peer: Peer, key: PieceKey) -> None:
        """It may still have the piece, but not for now."""
        remote = peer.image(self._image.task.image)
        self._image.holders.lost(remote, key[0], (key[1],))
        remote.late[key] = self._context.now + self._context.policy.penalty_s
        self._image.troubled[peer.device] = None
        self._image.wanted.due[peer.device] = None
        self._strike(peer, remote)

    def _forgive(self, device: str) -> None:
        """Who was late may have been cut off for a while; nobody is lost to the site for good."""
        found = self._context.members(self._image.task.image).get(device)
        if found is None:
            self._image.troubled.pop(device)
            return
        peer, remote = found
        now, conduct = self._context.now, remote.conduct
        if conduct.distrusted and now >= conduct.distrusted_until:
            conduct.distrusted = False
            conduct.strikes = self._context.policy.strikes_max - 1
            self._image.holders.admit(remote)
            self._image.replan = True
            self._image.wanted.find_useful(peer, remote)
        for key in [k for k, until in remote.late.items() if now >= until]:
            del remote.late[key]
            self._image.holders.gained(remote, key[0], (key[1],))
            self._image.wanted.offered(peer, remote, (key,))
        if not remote.late and not conduct.distrusted:
            self._image.troubled.pop(device)

    def _strike(self, peer: Peer, remote: RemoteImage) -> None:
        conduct, policy = remote.conduct, self._context.policy
        conduct.strikes += 1
        if conduct.strikes >= policy.strikes_max and not conduct.distrusted:
            conduct.distrusted = True
            conduct.distrusts += 1
            conduct.distrusted_until = self._context.now + penalty_s(policy, conduct.distrusts)
            self._image.holders.dismiss(remote)
            self._image.troubled[peer.device] = None
            remote.leases.clear()
            remote.useful.clear()
            self._image.replan = True
