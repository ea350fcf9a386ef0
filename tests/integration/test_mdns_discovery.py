"""Multicast discovery between real sockets on the loopback interface."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest
import trio

zeroconf = pytest.importorskip("zeroconf")

from p2p.adapters.mdns import (  # noqa: E402
    SERVICE_TYPE,
    MdnsDiscovery,
    peer_addresses,
    service_name,
)
from p2p.ports import PeerAddress  # noqa: E402

LOOPBACK = ("127.0.0.1",)


def node(device: str, site: str, port: int, **options: int) -> MdnsDiscovery:
    return MdnsDiscovery(device, site, port, interfaces=LOOPBACK, **options)


def collector(into: list[PeerAddress], enough: trio.Event) -> Callable[[PeerAddress], None]:
    def found(address: PeerAddress) -> None:
        into.append(address)
        enough.set()

    return found


async def test_nodes_of_one_site_find_each_other_and_nobody_else() -> None:
    site = f"depot-{socket.gethostname()}"
    one, two, foreign = node("one", site, 7001), node("two", site, 7002), node("three", "elsewhere", 7003)
    seen: dict[str, list[PeerAddress]] = {"one": [], "two": [], "three": []}
    by_one, by_two = trio.Event(), trio.Event()
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foreign.run, seen["three"].append)
            nursery.start_soon(one.run, collector(seen["one"], by_one))
            nursery.start_soon(two.run, collector(seen["two"], by_two))
            await by_one.wait()
            await by_two.wait()
            nursery.cancel_scope.cancel()
    assert set(seen["one"]) == {PeerAddress("127.0.0.1", 7002, "mdns")}
    assert set(seen["two"]) == {PeerAddress("127.0.0.1", 7001, "mdns")}
    assert seen["three"] == []


async def test_a_machine_without_multicast_says_so_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_multicast(**_: object) -> None:
        raise OSError(errno.ENODEV, "no such device")

    monkeypatch.setattr(zeroconf, "Zeroconf", no_multicast)
    found: list[PeerAddress] = []
    silent = node("one", "depot", 7001)
    with trio.fail_after(15):
        await silent.run(found.append)
    assert silent.stopped_because is not None
    assert "no such device" in silent.stopped_because
    assert found == []


def info(**changes: object) -> object:
    values: dict[str, object] = {"site": "depot", "port": "7001", "protocol": "1"} | changes
    addresses = values.pop("addresses", ["10.0.0.7"])
    properties = {k: v for k, v in values.items() if v is not None}
    return zeroconf.ServiceInfo(
        SERVICE_TYPE, f"x.{SERVICE_TYPE}", port=1, properties=properties, parsed_addresses=addresses
    )


def test_a_well_formed_announcement_is_an_address() -> None:
    assert peer_addresses(info(), "depot") == [PeerAddress("10.0.0.7", 7001, "mdns")]


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "elsewhere"},
        {"site": None},
        {"protocol": "2"},
        {"port": None},
        {"port": "0"},
        {"port": "65536"},
        {"port": "-1"},
        {"port": "9" * 200},
        {"port": b"\xff\xfe"},
        {"port": "٣"},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["0.0.0.0"]},
        {"addresses": []},
    ],
)
def test_a_malformed_or_foreign_announcement_is_none(changes: dict[str, object]) -> None:
    assert peer_addresses(info(**changes), "depot") == []


def test_who_may_visit_any_site_hears_of_every_site() -> None:
    assert peer_addresses(info(site="elsewhere"), None) == [PeerAddress("10.0.0.7", 7001, "mdns")]
    assert peer_addresses(info(site="elsewhere", protocol="2"), None) == []


def test_one_service_cannot_name_any_number_of_addresses() -> None:
    many = info(addresses=[f"10.0.0.{n}" for n in range(1, 200)])
    assert len(peer_addresses(many, "depot")) == 4


def test_the_service_name_does_not_tell_the_device_id() -> None:
    assert "truck-17" not in service_name("truck-17")
    assert service_name("truck-17") != service_name("truck-18")
    assert len(service_name("d" * 128)) <= 63  # one DNS label
