"""The trio driver, its links and its fetches in virtual time: what takes minutes on a device, at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2p.content import limits
from p2p.content.limits import KIB
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm import wire
from p2p.swarm.policy import Policy
from tests.support.driven_site import (
    DELTA_FRAMES,
    FRAME,
    FULL,
    FULL_FRAMES,
    FULL_PACK,
    OLD,
    DrivenSite,
    inline_threads,
)

POLICY = Policy()
LONG_S = 600.0


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_threads(monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> DrivenSite:
    return DrivenSite(tmp_path)


async def until(happened: Callable[[], bool]) -> None:
    """Until something is so, in steps of virtual time."""
    with trio.fail_after(LONG_S):
        while not happened():
            await trio.sleep(0.05)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_site_makes_an_image_of_one_copy_at_the_rate_of_its_link(
    autojump_clock: MockClock, site: DrivenSite, count: int
) -> None:
    devices = [site.add(f"d{n}") for n in range(count)]
    async with site.running():
        with trio.fail_after(LONG_S):
            times = await site.make_all()
    assert all(device.right for device in devices)
    assert site.carried == len(FULL_FRAMES)
    assert site.indexes == 1
    assert sum(device.node.ledger.wasted for device in devices) == 0
    ideal_s = len(FULL_FRAMES) / site.rate
    assert ideal_s <= max(times.values()) <= POLICY.settle_s + ideal_s + 1.0
    assert max(times.values()) - min(times.values()) <= 0.5


async def test_the_rest_of_a_piece_is_what_the_piece_has_after_that(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    holder, maker = site.add("a", holds=True), site.add("b")
    async with site.running():
        with trio.fail_after(LONG_S):
            await site.make_all()
        name = FULL_PACK.index.sha256
        for device in (holder, maker):
            whole, rest = (
                device.driver.answer(e.Serve("x", 1, FULL.image, name, 3, start)) for start in (0, 1000)
            )
            assert isinstance(whole, m.Piece)
            assert isinstance(rest, m.Piece)
            assert bytes(rest.payload) == bytes(whole.payload)[1000:]


async def test_a_delta_crosses_the_link_and_who_has_another_base_rides(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    old, other, none = site.add("a", base=OLD), site.add("b", base=OLD), site.add("c")
    async with site.running():
        with trio.fail_after(LONG_S):
            await site.make_all()
    assert old.right and other.right and none.right
    assert site.carried == len(DELTA_FRAMES) < FRAME
    assert none.node.ledger.wan <= none.image.task.full_pack.index.size
    assert none.node.ledger.chunks == len(FULL_FRAMES)


async def test_a_gateway_that_hangs_loses_its_lease_and_another_goes_on(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    for name in "abc":
        site.add(name)
    async with site.running(), trio.open_nursery() as nursery:
        nursery.start_soon(site.make_all)
        await until(lambda: site.carried >= len(FULL_FRAMES) // 2)
        first, hung_at = site.asked[0].device, trio.current_time()
        carried, asked = site.carried, len(site.asked)
        site.freeze(first)
        others = [d for d in site.devices.values() if d.name != first]
        with trio.fail_after(LONG_S):
            await until(lambda: any(a.device != first for a in site.asked[asked:]))
            taken_over_s = trio.current_time() - hung_at
            await until(lambda: all(d.right for d in others))
        # Not before the lease had its time, and long before each device would have helped itself.
        assert POLICY.stall_s * 0.9 <= taken_over_s <= POLICY.stall_s * 1.5 < POLICY.fallback_s
        # What was verified stays; at most the frames that were under way, or not yet given on, come again.
        assert site.carried - carried <= len(FULL_FRAMES) // 2 + 2 * FRAME
        nursery.cancel_scope.cancel()


async def test_a_gateway_whose_connections_end_is_followed_at_once(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    for name in "abc":
        site.add(name)
    async with site.running(), trio.open_nursery() as nursery:
        nursery.start_soon(site.make_all)
        await until(lambda: site.carried >= len(FULL_FRAMES) // 2)
        first, gone_at = site.asked[0].device, trio.current_time()
        asked = len(site.asked)
        site.freeze(first)
        site.away.add(first)
        await site.devices[first].lose_connections()
        await until(lambda: len(site.asked) > asked)
        assert trio.current_time() - gone_at <= 1.0
        await until(lambda: all(d.right for d in site.devices.values() if d.name != first))
        nursery.cancel_scope.cancel()


async def test_a_rider_asks_somebody_else_for_what_a_slow_peer_keeps_it_waiting_for(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    slow, fast = site.add("a", holds=True, wan=False), site.add("b", holds=True, wan=False)
    slow.freezes = True
    rider = site.add("c", wan=False)
    async with site.running():
        await site.make_all("a", "b")
        await until(lambda: set(rider.node.peers) == {"a", "b"})
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rider.make)
            await until(lambda: rider.right)
        took_s = trio.current_time() - started
    assert "a" in site.frozen
    # Hedged after its time, not only asked for again once the requests were given up.
    assert POLICY.hedge_s <= took_s < POLICY.request_s
    assert rider.node.ledger.peers["b"] > rider.node.ledger.peers.get("a", 0)
    assert site.carried == 0
    assert slow.failures == fast.failures == rider.failures == []


async def test_a_lost_peer_is_dialled_less_and_less_often_and_goes_on_when_it_is_back(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    site.add("a", holds=True, wan=False)
    rider = site.add("z", wan=False)
    async with site.running():
        await site.make_all("a")
        await until(lambda: rider.node.peers == ("a",))
        site.away.add("a")
        await rider.lose_connections()
        lost_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rider.make)
            await trio.sleep(60.0)
            assert not rider.right
            dials = [t - lost_at for t in rider.transport.dialled if t > lost_at]
            gaps = [b - a for a, b in pairwise(dials)]
            assert all(b >= 1.5 * a or b >= 30.0 for a, b in pairwise(gaps))
            assert gaps[0] <= 0.5
            assert len(dials) <= 12
            site.away.clear()
            back_at = trio.current_time()
            await until(lambda: rider.right)
        assert trio.current_time() - back_at <= 30.0 + 5.0
    assert site.carried == 0


async def test_an_origin_that_is_down_is_asked_less_and_less_often_and_gone_on_with(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    device = site.add("a")
    async with site.running(), trio.open_nursery() as nursery:
        nursery.start_soon(site.make_all)
        await until(lambda: site.carried >= len(FULL_FRAMES) // 3)
        site.down = True
        down_at, done = trio.current_time(), device.image.done
        await trio.sleep(120.0)
        times = [a.at_s for a in site.asked if a.at_s > down_at]
        assert 3 <= len(times) <= 12
        assert times[-1] - times[-2] > 3 * (times[1] - times[0])
        site.down = False
        await until(lambda: device.right)
        first_after = next(a for a in site.asked if a.at_s > times[-1])
        assert first_after.start >= done[0][1]  # what was verified is not fetched again
    assert site.carried <= len(FULL_FRAMES) + 2 * FRAME


async def test_a_peer_that_falls_silent_within_a_message_is_given_up(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    rider = site.add("a", wan=False)
    silent = site.add("b", holds=True, wan=False)
    async with site.running():
        await site.make_all("b")
        await until(lambda: rider.node.peers == ("b",) and silent.node.peers == ("a",))
        site.away.add("b")
        (stream,) = silent.transport.streams
        await stream.send(b"".join(wire.encode(m.News(1, 1)))[:-1])
        said_at = trio.current_time()
        site.freeze("b")
        await until(lambda: not rider.node.peers)
        assert trio.current_time() - said_at == pytest.approx(limits.PEER_IDLE_S, abs=1.0)


async def test_a_budget_of_the_device_is_kept(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = DrivenSite(tmp_path, rate=1024 * KIB)
    device = site.add("a")
    device.driver._wan.rate = 32 * KIB
    async with site.running():
        with trio.fail_after(LONG_S):
            times = await site.make_all()
    assert device.right
    assert times["a"] >= 0.9 * len(FULL_FRAMES) / (32 * KIB)


async def test_what_a_peer_claimed_to_know_is_forgotten_when_it_is_gone(
    autojump_clock: MockClock, site: DrivenSite
) -> None:
    driver = site.add("a").driver
    async with site.running():
        driver.received(e.PeerConnected("z", ""))
        driver.received(e.Received("z", m.Hello(wire.PROTOCOL, "depot", 1, True)))
        driver.received(e.Received("z", m.News(1, 9)))
        assert driver.news_from == {"z": (1, 9)}
        driver.received(e.PeerLost("z"))
        assert driver.news_from == {}


@pytest.mark.parametrize("doubted", [False, True])
async def test_news_of_a_peer_that_is_doubted_wakes_nobody(
    autojump_clock: MockClock, site: DrivenSite, doubted: bool
) -> None:
    driver = site.add("a").driver
    async with site.running():
        driver.received(e.PeerConnected("z", ""))
        driver.received(e.Received("z", m.Hello(wire.PROTOCOL, "depot", 1, True)))
        if doubted:
            driver.doubts.doubt("z", trio.current_time(), 60.0)
        driver.received(e.Received("z", m.News(1, 9)))
        assert driver.news.is_set() is not doubted
        assert driver.news_from == {"z": (1, 9)}, "it may be asked with the others"
