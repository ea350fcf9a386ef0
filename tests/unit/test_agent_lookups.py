"""What peers ask for is looked for in a thread: a slow medium holds nobody up, and no request is lost."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import trio

from p2p.agent.budget import RateBudget
from p2p.agent.driver import SwarmDriver
from p2p.agent.images import LocalImage
from p2p.agent.imported import ImportedBundle
from p2p.agent.lookups import PER_PEER_MAX, Lookups
from p2p.agent.small_objects import SmallObjects
from p2p.content.digests import Digest, sha256
from p2p.content.index import PackIndex
from p2p.swarm import ImageTask, SwarmNode
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.policy import Policy
from tests.contracts.network_doubles import MemoryOrigin
from tests.contracts.slot_doubles import MemoryImage
from tests.support.driven_site import FULL, FULL_PACK

DATA = b"a signed file"
NAME = sha256(DATA)


class Medium:
    """Gives what it holds once it is let."""

    def __init__(self) -> None:
        self.let, self.reads = threading.Event(), 0
        self.threads: set[int] = set()

    def stored(self, digest: Digest) -> bytes | None:
        self.reads += 1
        self.threads.add(threading.get_ident())
        assert self.let.wait(10)
        return DATA if digest == NAME else None


def wanted(device: str, request: int, digest: Digest = NAME) -> e.Received:
    return e.Received(device, m.ObjectWant(request, digest, len(DATA)))


def take(lookups: Lookups, event: e.Received) -> bool:
    assert isinstance(event.message, m.ObjectWant)
    return lookups.take(event, event.message)


async def test_the_event_loop_does_not_wait_for_what_a_peer_asks_for() -> None:
    medium, fed = Medium(), list[e.Event]()
    async with trio.open_nursery() as nursery:
        lookups = Lookups(medium.stored, lambda digest: False, fed.append, nursery.start_soon)
        first, second, other = wanted("d1", 1), wanted("d2", 7), wanted("d2", 8, sha256(b"not here"))
        assert all(take(lookups, event) for event in (first, second, other))
        await trio.testing.wait_all_tasks_blocked()
        assert fed == []  # and this task runs
        medium.let.set()
    assert fed.index(e.HoldObject(NAME, DATA)) < fed.index(first) < fed.index(second)
    assert other in fed and len(fed) == 4
    assert medium.reads == 2, "once for whoever asks at the same time"
    assert threading.get_ident() not in medium.threads


async def test_a_request_ends_with_its_connection() -> None:
    medium, fed = Medium(), list[e.Event]()
    async with trio.open_nursery() as nursery:
        lookups = Lookups(medium.stored, lambda digest: False, fed.append, nursery.start_soon)
        assert take(lookups, wanted("d1", 1)) and take(lookups, wanted("d2", 1))
        lookups.parted("d1")
        medium.let.set()
    assert fed == [e.HoldObject(NAME, DATA), wanted("d2", 1)]


async def test_what_is_in_memory_and_what_is_too_much_is_answered_at_once() -> None:
    medium, fed = Medium(), list[e.Event]()
    async with trio.open_nursery() as nursery:
        lookups = Lookups(medium.stored, lambda digest: digest == NAME, fed.append, nursery.start_soon)
        assert not take(lookups, wanted("d1", 0))
        for n in range(PER_PEER_MAX):
            assert take(lookups, wanted("d1", n, sha256(b"%d" % n)))
        assert not take(lookups, wanted("d1", 99, sha256(b"another")))
        assert take(lookups, wanted("d2", 0, sha256(b"0"))), "others have their own share"
        medium.let.set()
    assert len(fed) == PER_PEER_MAX + 1


async def test_the_driver_reads_what_peers_ask_for_and_what_images_need_in_threads(tmp_path: Path) -> None:
    medium, store = Medium(), SlowStore()
    medium.let.set()
    node = SwarmNode(device="me", site="depot", port=1, rng=random.Random(1), policy=Policy(), wan=False)
    driver = SwarmDriver(
        node, MemoryOrigin(), spool=tmp_path, wan=RateBudget(None), failed=lambda image, error: None,
        found=lambda address: None, indexes=store, held=medium.stored,
        imported=ImportedBundle(tmp_path / "imported"),
    )  # fmt: skip
    task = ImageTask(sha256(b"image"), 5, None, (FULL_PACK,))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        driver.received(e.PeerConnected("d1", "192.0.2.1"))
        driver.received(wanted("d1", 1))
        with trio.fail_after(10):
            while not node.holds(NAME):
                await trio.sleep(0.01)
        driver.offer(LocalImage(task, tmp_path, reader=MemoryImage(b"image")))
        with trio.fail_after(10):
            while node.status(task.image) is None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert medium.reads == 2 and threading.get_ident() not in medium.threads | store.threads
    driver.received(wanted("d1", 2, sha256(b"late")))  # by somebody who has not heard that all is over
    assert medium.reads == 2


class SlowStore:
    """The indexes of a device, on a medium that says by which threads it was written to."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.log: list[str] = []
        self.threads: set[int] = set()

    def read(self, name: str) -> bytes | None:
        self.threads.add(threading.get_ident())
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self.threads.add(threading.get_ident())
        self.log.append("write")
        self.values[name] = value

    def delete(self, name: str) -> None:
        self.threads.add(threading.get_ident())
        self.log.append("delete")
        self.values.pop(name, None)


def keep(objects: SmallObjects, index: PackIndex) -> None:
    objects.keep_index(FULL_PACK.index.sha256, index)


async def test_indexes_are_kept_and_dropped_in_a_thread_and_in_order(tmp_path: Path) -> None:
    store = SlowStore()
    objects = SmallObjects(MemoryOrigin(), indexes=store, held=lambda digest: None, feed=lambda e: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(objects.run)
        for _ in range(3):
            keep(objects, FULL)
            objects.drop_index(FULL_PACK.index.sha256)
        keep(objects, FULL)
        assert store.log == []
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert store.log == ["write", "delete"] * 3 + ["write"]
    assert threading.get_ident() not in store.threads


async def test_an_index_that_was_to_be_kept_is_kept_although_the_agent_ends() -> None:
    store = SlowStore()
    objects = SmallObjects(MemoryOrigin(), indexes=store, held=lambda digest: None, feed=lambda e: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(objects.run)
        keep(objects, FULL)
        nursery.cancel_scope.cancel()
    assert store.log == ["write"]
