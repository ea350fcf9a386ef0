"""Filling an image from what was imported: also when the next stick comes while the first is being used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import trio

from p2p.agent.filling import Filling
from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm import events as e
from p2p.swarm.events import How, ImageTask, Stored

IMAGE = sha256(b"image")
BASE = sha256(b"base")
SMALL, LARGE = (
    PackRef(base, ObjectRef(sha256(name + b" index"), 1), ObjectRef(sha256(name), size))
    for base, name, size in ((BASE, b"delta", 10), (None, b"full", 20))
)


class Stick:
    """An imported bundle whose packs the test changes."""

    def __init__(self) -> None:
        self.packs: set[PackRef] = set()
        self._news = False

    def bring(self, *packs: PackRef) -> None:
        self.packs.update(packs)
        self._news = True

    def look(self) -> bool:
        news, self._news = self._news, False
        return news

    def frames(self, pack: PackRef) -> Callable[[int, int], bytes] | None:
        return (lambda offset, length: bytes(length)) if pack in self.packs else None

    def object(self, digest: Digest) -> bytes | None:
        return b"index"


class Image:
    """An image whose packs each give one frame; `hold` keeps the thread that opens it waiting."""

    is_written = True
    is_strange = False

    def __init__(self) -> None:
        self.task = ImageTask(IMAGE, 30, BASE, (LARGE, SMALL))
        self.maps: dict[Digest, None] = {pack.index.sha256: None for pack in (LARGE, SMALL)}
        self.begun, self.hold = threading.Event(), threading.Event()
        self.used: list[Digest] = []

    def attach(self, pack: Digest, read: Callable[[int, int], bytes]) -> None:
        pass

    def is_at_hand(self, pack: Digest) -> bool:
        return True

    def local_steps(self, pack: Digest) -> Iterator[Stored]:
        return iter(())

    def imported_steps(self, pack: Digest) -> Iterator[Stored]:
        self.begun.set()
        self.hold.wait(10)
        self.used.append(pack)
        yield Stored(IMAGE, 0, 10, How.IMPORTED, pack, (0,))


def filling_from(stick: Stick, fed: list[e.Event], nursery: trio.Nursery) -> Filling:
    return Filling(
        cast(ImportedBundle, stick),
        feed=fed.append,
        failed=lambda image, error: None,
        is_current=lambda image: True,
        start=nursery.start_soon,
        patching=trio.CapacityLimiter(1),
    )


async def test_a_stick_that_comes_while_another_is_used_is_used_next() -> None:
    stick, image, fed = Stick(), Image(), list[e.Event]()
    async with trio.open_nursery() as nursery:
        filling = filling_from(stick, fed, nursery)
        images = cast("list[LocalImage]", [image])
        stick.bring(LARGE)
        await filling.look(images)
        await trio.to_thread.run_sync(image.begun.wait)
        stick.bring(SMALL)
        await filling.look(images)
        image.hold.set()
    assert image.used == [LARGE.index.sha256, SMALL.index.sha256, LARGE.index.sha256]
    kinds: list[Any] = [type(event) for event in fed if not isinstance(event, Stored)]
    assert kinds == [e.AtHand, e.AtHand, e.Filled], "the node asks for nothing in between"


async def test_one_stick_is_used_once() -> None:
    stick, image, fed = Stick(), Image(), list[e.Event]()
    image.hold.set()
    async with trio.open_nursery() as nursery:
        filling = filling_from(stick, fed, nursery)
        stick.bring(LARGE)
        for _ in range(2):
            await filling.look(cast("list[LocalImage]", [image]))
    assert image.used == [LARGE.index.sha256]
    assert [type(event) for event in fed] == [e.AtHand, Stored, e.Filled]


async def test_a_pack_that_the_node_learns_of_at_the_end_of_the_filling_ends_nothing() -> None:
    """The index of another pack may come while copies and zeros are made of those that are known."""
    stick, fed = Stick(), list[e.Event]()

    class Learning(Image):
        filled = False

        def local_steps(self, pack: Digest) -> Iterator[Stored]:
            if self.filled:
                self.maps[sha256(b"another index")] = None
            return iter(())

    image = Learning()
    image.hold.set()

    def feed(event: e.Event) -> None:
        fed.append(event)
        image.filled = isinstance(event, e.Filled)

    async with trio.open_nursery() as nursery:
        filling = Filling(
            cast(ImportedBundle, stick), feed=feed, failed=lambda image, error: None,
            is_current=lambda image: True, start=nursery.start_soon, patching=trio.CapacityLimiter(1),
        )  # fmt: skip
        stick.bring(LARGE)
        await filling.look(cast("list[LocalImage]", [image]))
    assert isinstance(fed[-1], e.Filled)
