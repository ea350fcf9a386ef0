"""The images that a node is at: each with its state, its WAN side and its LAN side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import assert_never

from p2p.content.digests import Digest
from p2p.swarm import events as e
from p2p.swarm.context import Context
from p2p.swarm.delta_asking import DeltaAsking
from p2p.swarm.delta_making import DeltaMaking, delta_pack
from p2p.swarm.events import ImageTask
from p2p.swarm.gateway import Gateway
from p2p.swarm.image import ImageSwarm
from p2p.swarm.objects import ObjectExchange
from p2p.swarm.recomputing import Recomputing
from p2p.swarm.rider import Rider


@dataclass(slots=True)
class Pursuit:
    """One image: what is known of it, what is fetched for it, asked of peers, and made anew for them.

    `asking`: for peer deltas; `making`: of such.
    """

    image: ImageSwarm
    gateway: Gateway
    rider: Rider
    recomputing: Recomputing | None
    asking: DeltaAsking | None
    making: DeltaMaking | None

    def greet(self, device: str) -> None:
        """Tell one peer all about it; the `Join` comes last, so that it knows the rest by then."""
        self.gateway.greet(device)
        if self.making is not None:
            self.making.greet(device)
        self.image.greet(device)

    def happened(self, event: e.ImageEvent) -> None:
        """Something that came of what this image was in need of, or that befell what there is of it."""
        image, making = self.image, self.making
        match event:
            case e.AtHand():
                self._fill(event.indexes)
            case e.Filled():
                self._filled()
                if self.asking is not None:  # before anybody is asked for chunks
                    self.asking.due = True
            case e.BaseDamaged():
                image.mending.base_damaged(event.start, event.stop)
                self.gateway.dirty = True
            case e.Damaged():
                image.mending.damaged(event.ranges)
                self.gateway.dirty = True
            case e.Unreadable():
                image.mending.unreadable(event.pack, event.piece)
            case e.ReadBackFailed():
                image.mending.read_back_failed()
            case e.ImageVerified():
                image.verified()
                if making is not None:
                    making.tell()
            case e.DeltaUsed():
                if self.asking is not None:
                    self.asking.used(event)
            case e.DeltaMade():
                if making is not None:
                    making.made(event)
            case e.BaseLost():
                if making is not None:
                    making.base_lost()
            case e.Recomputed():
                if self.recomputing is not None:
                    self.recomputing.ended(event)
            case _:
                assert_never(event)

    def _fill(self, indexes: tuple[tuple[Digest, bytes], ...]) -> None:
        """Frames of these packs are on the device already, because somebody imported them.

        While the driver fills the image with them, this node asks neither peers nor the WAN for anything of
        it, and announces each piece as it is made, as ever. What is missing then it gets as any other does.
        """
        image = self.image
        if image.complete:
            return
        image.wanted.filling = True
        for name, data in indexes:
            image.index_ready(name, data)
        image.wanted.renew()
        self.gateway.cancel_all()

    def _filled(self) -> None:
        """They are used up."""
        image = self.image
        image.wanted.filling = False
        image.last_progress = image.context.now
        image.replan = self.gateway.dirty = True
        image.wanted.renew()


class Pursuits:
    """All of one node's, in the order in which they were taken up; `all` is a new tuple with each change."""

    def __init__(self, context: Context, objects: ObjectExchange) -> None:
        self._context = context
        self._objects = objects
        self.all: tuple[Pursuit, ...] = ()
        self._images: dict[Digest, Pursuit] = {}
        self.get: Callable[[Digest], Pursuit | None] = self._images.get
        self._fetch_numbers = count(1)

    def __iter__(self) -> Iterator[Pursuit]:
        return iter(self.all)

    @property
    def unsettled(self) -> bool:
        """Whether an image is still being made, or its plan is out of date, or a carrier needs more of it."""
        return any(not p.image.complete or p.image.stale or p.image.carries for p in self.all)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image: Digest) -> bool:
        return image in self._images

    def take_up(self, task: ImageTask, *, complete: bool) -> Pursuit:
        """Begin with an image, or go on with it if it is being made (or served) already."""
        pursuit = self._images.get(task.image)
        if pursuit is None or pursuit.image.complete != complete:
            self.put_down(task.image)
            image = ImageSwarm(self._context, self._objects, task, complete=complete)
            recomputing = Recomputing(image) if self._context.recomputes else None
            name = delta_pack(self._context.policy, task)
            pursuit = Pursuit(
                image, Gateway(image, self._fetch_numbers), Rider(image), recomputing,
                None if name is None or complete else DeltaAsking(image, name),
                None if name is None or not self._context.recomputes else DeltaMaking(image, name),
            )  # fmt: skip
            self._images[task.image] = pursuit
            self.all = tuple(self._images.values())
            for device, peer in self._context.peers.items():
                if (remote := peer.images.get(task.image)) is not None:
                    remote.conduct = image.site.conduct(device)
                    remote.told.clear()
                    if remote.leases:
                        image.lessors[device] = peer
                    remote.counted = False
                    if remote.participant is not None:
                        image.entered(peer, remote)
        return pursuit

    def put_down(self, image: Digest) -> None:
        """What is under way for an image ends; late answers are of no use to a new start."""
        if (pursuit := self._images.pop(image, None)) is None:
            return
        self.all = tuple(self._images.values())
        pursuit.gateway.cancel_all()
        for peer in self._context.peers.values():
            pursuit.rider.peer_lost(peer)
            if (remote := peer.images.get(image)) is not None:
                for slot, lease in remote.leases.items():
                    peer.leases_abroad(image, slot, lease.renewed)

    def changed(self) -> None:
        """Somebody came, went or told something that plans depend on."""
        for pursuit in self.all:
            pursuit.image.stale = pursuit.gateway.dirty = True
