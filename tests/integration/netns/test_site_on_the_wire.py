"""A site behind a shaped link, counted on the wire: what the simulator and loopback cannot show.

The figures themselves are the benchmarks' (`benchmarks.site`); the bounds here leave room for a machine that
is busy with other tests, and none for a second copy.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.rig.network import SiteNetwork
from tests.integration.netns.conftest import SiteMaker
from tests.support.netns import Published, RunningSite

pytestmark = [pytest.mark.netns, pytest.mark.slow]

RATE = 16_000_000
METADATA = 96 << 10
"""Signed metadata, check-ins and connections of a small site."""

WIRE = 1514 / 1448
"""A full Ethernet frame to the payload in it."""


def copies(payload: int, times: float) -> float:
    """Wire bytes of so many copies of `payload`."""
    return payload * times * WIRE + METADATA


def spread(site: RunningSite) -> int:
    """How far the device with the least is behind the one with the most, in bytes of the image."""
    done = [device.status().get("progress", {}).get("done", 0) for device in site.devices]
    return max(done) - min(done)


def test_counters_are_those_of_the_wire(namespaces: None) -> None:
    """Datagrams cost their headers, large writes are counted as the packets that they become."""
    send = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "[s.sendto(bytes(1000), (sys.argv[1], 9)) for _ in range(100)]"
    )
    with SiteNetwork(devices=1, rate_bit_s=100_000_000) as network:
        before = network.wire_bytes()
        address = network.devices[0].address
        subprocess.run([*network.origin.prefix, sys.executable, "-c", send, address], check=True, timeout=20)
        down = (network.wire_bytes() - before).down
    datagrams = 100 * (14 + 20 + 8 + 1000)
    assert datagrams <= down <= datagrams + 4 * 42  # address resolution


def test_a_site_pays_for_one_copy(whole: Published, site_of: SiteMaker) -> None:
    with site_of(whole, rate_bit_s=RATE) as site:
        site.start()
        site.finish()
        wire = site.wire
        assert site.all_right()
        ledgers = [site.ledger(device) for device in site.devices]
    size = whole.release.size
    assert size < wire < copies(size, 1.1)
    assert sum(ledger["peers"] for ledger in ledgers) >= 3 * size - 3 * (1 << 20)


def test_the_nearest_base_pays_for_all(mixed: Published, site_of: SiteMaker) -> None:
    smallest = mixed.release.smallest_pack(mixed.bases)
    assert smallest < mixed.release.size // 4  # else this shows nothing
    with site_of(mixed, rate_bit_s=RATE) as site:
        site.start()
        site.finish()
        wire = site.wire
        assert site.all_right()
    assert smallest < wire < copies(smallest, 1.1)


def test_a_killed_gateway_is_replaced_and_rides_when_it_is_back(whole: Published, site_of: SiteMaker) -> None:
    size = whole.release.size
    with site_of(whole, rate_bit_s=RATE) as site:
        site.start()
        site.wait("half of the image", lambda: site.wire >= size // 2)
        victim = max(site.devices, key=lambda device: device.wan_bytes)
        assert victim.wan_bytes > 0
        assert victim.seconds is None
        victim.kill()
        rest = [device for device in site.devices if device is not victim]
        site.finish(rest)
        wire = site.wire
        assert site.all_right(rest)
        # Started again, it takes what it lost from its peers and nothing more over the WAN.
        victim.start(site.children)
        site.finish([victim])
        again = site.ledger(victim)
        assert site.all_right([victim])
    assert size < wire < copies(size, 1.35)
    assert 0 < again["peers"] <= size + (64 << 10)  # the image, and metadata
    assert again["wan"] < 64 << 10


def test_a_cut_link_costs_time_not_bytes(whole: Published, site_of: SiteMaker) -> None:
    size = whole.release.size
    with site_of(whole, rate_bit_s=RATE) as site:
        site.start()
        site.wait("a third of the image", lambda: site.wire >= size // 3)
        with site.network.without_wan():
            stopped = site.wire
            # Nobody finishes while the link is down, but what the site has goes round.
            site.wait("the site even", lambda: spread(site) == 0)
            assert site.wire == stopped
            assert not any(device.watch(whole.release) for device in site.devices)
        site.finish()
        wire = site.wire
        assert site.all_right()
    assert size < wire < copies(size, 1.35)
