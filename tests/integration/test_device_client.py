"""The device's side of the device API, against the real coordinator and against one that misbehaves."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters import http_connection
from p2p.adapters.channel import Channel
from p2p.adapters.device_api import CoordinatorRefusal, DeviceApi, RosterEntry
from p2p.adapters.http import HttpClient
from p2p.adapters.identity import FleetAuthority, check_certificate, make_key, signing_request
from p2p.adapters.origin import HttpOrigin, OriginBusy
from p2p.adapters.roster import KEPT, RosterDiscovery, StaticDiscovery
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.errors import OriginError
from p2p.ports import PeerAddress
from tests.support import certificates
from tests.support.certificates import server_context
from tests.support.fleet_repository import Fleet, Running, running
from tests.support.scripted_http import Answer, Request, head, scripted
from tests.support.tuf_repository import MemoryStore

IMAGE = sha256(b"image")
STATUS: dict[str, object] = {
    "listen_port": 7470,
    "release": "1.0",
    "slot": "a",
    "state": "idle",
    "images": {"rootfs": IMAGE.hex()},
    "ledger": {"wan": 1, "peers": {}, "base": 0, "zero": 0, "sent": {}, "wasted": 0},
    "role": "rider",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Fleet.make(tmp_path_factory.mktemp("client"))) as found:
        yield found


async def enrolled(server: Running, api: DeviceApi, device: str, site: str) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    await api.enroll(server.voucher(site), device, "board-a", signing_request(key, device))
    return key


async def test_enrolment_gives_a_certificate_that_peers_accept(server: Running, tmp_path: Path) -> None:
    client = HttpClient()
    api = DeviceApi(server.url, client, server.clock.seconds)
    key = make_key(tmp_path / "device.key")
    request = signing_request(key, "client-1")
    voucher = server.voucher("depot-1", ("canary",))
    answer = await api.enroll(voucher, "client-1", "board-a", request)
    identity, _ = check_certificate(answer.certificate, key, FleetAuthority.from_pem(answer.ca))
    assert (identity.device, identity.site, identity.groups) == ("client-1", "depot-1", {"canary"})
    assert (answer.site, answer.groups) == ("depot-1", ("canary",))
    assert await api.enroll(voucher, "client-1", "board-a", request) == answer
    with pytest.raises(CoordinatorRefusal) as caught:
        await api.enroll("no-such-voucher", "client-2", "board-a", request)
    assert (caught.value.reason, caught.value.status, caught.value.retry) == ("voucher-unknown", 403, False)
    await client.aclose()


async def test_check_ins_of_a_site_are_each_others_roster(server: Running) -> None:
    client = HttpClient()
    api = DeviceApi(server.url, client, server.clock.seconds)
    keys = {name: await enrolled(server, api, name, "roster-site") for name in ("r-1", "r-2")}
    first = await api.checkin("r-1", keys["r-1"], STATUS)
    assert first.roster == (RosterEntry("r-2", "", 0, first.roster[0].age_s, None),)  # enrolled, never seen
    assert first.poll_s > 0
    both = await api.checkin("r-2", keys["r-2"], STATUS)
    assert both.roster == (RosterEntry("r-1", "127.0.0.1", 7470, both.roster[0].age_s, IMAGE),)
    await client.aclose()


async def test_a_roster_crosses_the_wire_in_gzip(server: Running) -> None:
    client = HttpClient()
    api = DeviceApi(server.url, client, server.clock.seconds)
    names = [f"gzip-{n:02d}" for n in range(12)]
    for name in names:
        key = await enrolled(server, api, name, "gzip-site")
        await api.checkin(name, key, STATUS)
    before = client.wire_received
    answer = await api.checkin(name, key, STATUS)
    assert [(e.device, e.port, e.image) for e in answer.roster] == [(n, 7470, IMAGE) for n in names[:-1]]
    assert client.wire_received - before < 500  # 127 bytes a peer otherwise
    await client.aclose()


async def test_a_coordinator_goes_on_with_a_session_that_a_closed_connection_had(tmp_path: Path) -> None:
    server_context(certificates.Fleet(), tmp_path)
    with running(Fleet.make(tmp_path / "fleet"), tmp_path / "server.pem") as server:
        client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: certificates.NOW)
        origin = HttpOrigin(server.url, client)
        received = []
        for _ in range(3):
            before = client.wire_received
            size = len(await origin.metadata("timestamp.json", limits.TIMESTAMP_SIZE_MAX))
            await client.aclose()
            received.append(client.wire_received - before - size)
        assert max(received[1:]) < received[0] - 300, "without its certificate, which is short here"
        assert max(received[1:]) < 700


async def test_a_check_in_over_a_connection_that_was_forgotten_is_made_again_at_once(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may have taken the first one, whose answer is lost: its signature counts once."""
    monkeypatch.setattr(http_connection, "SILENT_S", 0.3)
    deaf = trio.Event()

    async def relay(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        swallows = not deaf.is_set()

        async def back() -> None:
            async for data in far:
                if not (swallows and deaf.is_set()):
                    await near.send_all(data)

        async with far, near, trio.open_nursery() as both:
            both.start_soon(back)
            async for data in near:
                await far.send_all(data)
            both.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        client = HttpClient()
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        key = await enrolled(
            server, DeviceApi(server.url, client, server.clock.seconds), "nat-1", "depot-nat"
        )
        api = DeviceApi(url, client, server.clock.seconds)
        await api.checkin("nat-1", key, STATUS)
        deaf.set()
        with trio.fail_after(limits.ORIGIN_IDLE_S / 2):
            await api.checkin("nat-1", key, STATUS)
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_device_with_a_wrong_clock_signs_by_the_coordinators(server: Running) -> None:
    client = HttpClient()
    key = await enrolled(server, DeviceApi(server.url, client, server.clock.seconds), "clock-1", "clock-site")
    for clock in (0.0, server.clock.seconds() + 10 * 365 * 86_400):
        asked = 0

        def now(clock: float = clock) -> float:
            nonlocal asked
            asked += 1
            return clock

        api = DeviceApi(server.url, client, now)
        await api.checkin("clock-1", key, STATUS)
        assert asked == 3  # signed, corrected, signed again
        await api.checkin("clock-1", key, STATUS)
        assert asked == 4, "the offset was not kept"
    await client.aclose()


async def test_a_signature_by_another_key_is_refused(server: Running) -> None:
    client = HttpClient()
    api = DeviceApi(server.url, client, server.clock.seconds)
    key = await enrolled(server, api, "thief-1", "thief-site")
    with pytest.raises(CoordinatorRefusal) as caught:
        await api.checkin("thief-1", ec.generate_private_key(ec.SECP256R1()), STATUS)
    assert (caught.value.reason, caught.value.status) == ("signature", 401)
    await api.checkin("thief-1", key, STATUS)
    await client.aclose()


# A coordinator that misbehaves


def good_answer() -> dict[str, Any]:
    return {
        "roster": [{"device": "b", "host": "10.0.0.2", "port": 7470, "age_s": 3, "image": None}],
        "poll_s": 60,
        "something": "newer",
    }


def without(answer: dict[str, Any], **changes: object) -> dict[str, Any]:
    answer["roster"][0].update(changes)
    return answer


def says(status: int, body: object, **fields: object) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(_request: Request, channel: Channel) -> None:
        await channel.send(head(status, content_length=len(data), **fields), data)

    return answer


async def checkin(answer: Answer) -> tuple[object, list[Request]]:
    async with scripted(answer) as server:
        client = HttpClient()
        api = DeviceApi(server.url + "/fleet", client, lambda: 1_800_000_000.0)
        try:
            return await api.checkin("a", ec.generate_private_key(ec.SECP256R1()), STATUS), server.requests
        except OriginError as error:
            return error, server.requests
        finally:
            await client.aclose()


async def test_a_sound_answer_is_read_and_unknown_keys_are_left() -> None:
    answer, (request,) = await checkin(says(200, good_answer()))
    assert answer.roster == (RosterEntry("b", "10.0.0.2", 7470, 3, None),)
    assert request.target == "/fleet/api/v1/checkin"
    signed = request.headers["signature-input"]
    assert '("@method" "@path" "content-digest")' in signed
    assert ";created=1800000000;" in signed
    assert ';keyid="a"' in signed
    assert ';alg="ecdsa-p256-sha256"' in signed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        {"roster": []},
        {"roster": {}, "poll_s": 60},
        {"roster": [], "poll_s": 0},
        {"roster": [], "poll_s": "60"},
        without(good_answer(), device="../x"),
        without(good_answer(), port=65_536),
        without(good_answer(), port=-1),
        without(good_answer(), host="h" * 300),
        without(good_answer(), image="00"),
        {"roster": [good_answer()["roster"][0]] * 1025, "poll_s": 60},
    ],
)
async def test_an_answer_that_is_none_is_the_origins_fault(body: object) -> None:
    error, _ = await checkin(says(200, body))
    assert isinstance(error, OriginError)
    assert error.reason == "protocol"


def zipped(status: int, body: object, coding: str = "gzip") -> Answer:
    data = body if isinstance(body, bytes) else gzip.compress(json.dumps(body).encode())
    return says(status, data, content_encoding=coding)


ZIPPED = gzip.compress(json.dumps(good_answer()).encode(), mtime=0)


async def test_an_answer_in_gzip_is_read() -> None:
    for answer in (zipped(200, ZIPPED), zipped(200, ZIPPED, "GZIP"), says(200, good_answer())):
        found, (request,) = await checkin(answer)
        assert found.roster == (RosterEntry("b", "10.0.0.2", 7470, 3, None),)
        assert request.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (ZIPPED[:-1], "gzip", "truncated"),
        (ZIPPED[: len(ZIPPED) // 2], "gzip", "truncated"),
        (b"", "gzip", "truncated"),
        (ZIPPED + b"\0", "gzip", "protocol"),
        (ZIPPED + ZIPPED, "gzip", "protocol"),
        (ZIPPED[:-8] + bytes(8), "gzip", "protocol"),
        (json.dumps(good_answer()).encode(), "gzip", "protocol"),
        (gzip.compress(b"not JSON", mtime=0), "gzip", "protocol"),
        (gzip.compress(bytes(limits.DEVICE_API_ANSWER_MAX + 1), mtime=0), "gzip", "too-long"),
        (ZIPPED, "identity", "protocol"),
        (ZIPPED, "deflate", "encoded"),
        (ZIPPED, "gzip, gzip", "encoded"),
        (json.dumps(good_answer()).encode(), "br", "encoded"),
    ],
)
async def test_an_answer_that_is_wrongly_coded_is_the_origins_fault(
    body: bytes, coding: str, reason: str
) -> None:
    error, _ = await checkin(zipped(200, body, coding))
    assert isinstance(error, OriginError)
    assert error.reason == reason


async def test_a_refusal_in_gzip_keeps_its_word() -> None:
    error, _ = await checkin(zipped(403, {"error": "not-here", "message": "no"}))
    assert isinstance(error, CoordinatorRefusal)
    assert error.reason == "not-here"


async def test_an_endless_answer_is_cut_off() -> None:
    async def endless(_request: Request, channel: Channel) -> None:
        await channel.send(head(200))
        while True:
            await channel.send(b" " * 100_000)

    error, _ = await checkin(endless)
    assert isinstance(error, OriginError)
    assert error.reason == "too-long"


@pytest.mark.parametrize(
    ("answer", "reason", "retry"),
    [
        (says(403, {"error": "not-here", "message": "no"}), "not-here", False),
        (says(500, {"error": "broken", "message": "sorry"}), "broken", True),
        (says(502, b"<html>"), "status", True),
        (says(302, b"", location="http://127.0.0.1:1/"), "status", False),
    ],
)
async def test_a_refusal_keeps_its_word(answer: Answer, reason: str, retry: bool) -> None:
    error, requests = await checkin(answer)
    assert isinstance(error, CoordinatorRefusal)
    assert (error.reason, error.retry) == (reason, retry)
    assert len(requests) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_coordinator_is_left_in_peace(status: int) -> None:
    error, _ = await checkin(says(status, b"", retry_after="7"))
    assert isinstance(error, OriginBusy)
    assert error.retry_after_s == 7


@pytest.mark.parametrize(
    ("date", "requests"),
    [("Thu, 01 Jan 2026 00:00:00 GMT", 2), ("yesterday", 1), (None, 1), ("Thu, 01 Jan 99999 0:0:0 GMT", 1)],
)
async def test_the_clock_is_corrected_once_at_most(date: str | None, requests: int) -> None:
    error, seen = await checkin(says(401, {"error": "clock", "message": "now?"}, date=date))
    assert isinstance(error, CoordinatorRefusal)
    assert error.reason == "clock"
    assert len(seen) == requests


# The sources of peers


async def collect(
    run: Callable[[Callable[[PeerAddress], None]], Any], act: Callable[[], None]
) -> list[PeerAddress]:
    found: list[PeerAddress] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, found.append)
        await trio.testing.wait_all_tasks_blocked()
        act()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return found


async def test_a_roster_is_reported_without_this_device_and_those_that_do_not_listen() -> None:
    source = RosterDiscovery("me", MemoryStore())
    roster = [
        RosterEntry("me", "h", 1, 0, None),
        RosterEntry("b", "h", 2, 0, None),
        RosterEntry("c", "h", 0, 0, None),
    ]
    found = await collect(source.run, lambda: source.update(roster))
    assert found == [PeerAddress("h", 2, "roster", "b")]


async def test_a_roster_outlives_a_restart_and_is_written_when_it_changes() -> None:
    store = MemoryStore()
    source = RosterDiscovery("me", store)
    roster = [RosterEntry(name, "h", port, age, None) for name, port, age in (("b", 2, 5), ("c", 3, 7))]
    source.update(roster)
    await source.keep()
    first = store.read(KEPT)
    anew = RosterDiscovery("me", store)
    assert await collect(anew.run, lambda: None) == [
        PeerAddress("h", 2, "roster", "b"),
        PeerAddress("h", 3, "roster", "c"),
    ]
    store.write(KEPT, b"untouched")
    source.update(reversed(roster))
    await source.keep()
    assert store.read(KEPT) == b"untouched", "it is the same, in another order"
    source.update(roster[:1])
    await source.keep()
    assert store.read(KEPT) not in (b"untouched", first)


@pytest.mark.parametrize(
    "kept",
    [b"not json", b"{}", b"[[1]]", b'[["b","h","x"]]', b"7", b"\xff", b"null", b"{" * 100_000, b"[" * 100_000,
     b'[["b","h",Infinity]]', b'[["b","h",1e999]]', b'[["b","h",NaN]]', b'[["b","h",2.5]]',
     b'[["b","h",true]]',
     b'[["b","h",65536]]', b'[["b","h",0]]', b'[["b","h",-1]]', b'[["b",7,2]]', b'[["/","h",2]]',
     b"[%s]" % b",".join([b'["b","h",2]'] * (limits.DISCOVERED_MAX + 1))],
)  # fmt: skip
async def test_a_kept_roster_that_is_of_no_use_is_as_none(
    kept: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.write(KEPT, kept)
    assert await collect(RosterDiscovery("me", store).run, lambda: None) == []
    assert "the roster of before is of no use" in caplog.text


async def test_a_roster_that_cannot_be_kept_is_used() -> None:
    store = MemoryStore()
    source = RosterDiscovery("me", store)
    store.fail_at = 0
    found = await collect(source.run, lambda: source.update([RosterEntry("b", "h", 2, 0, None)]))
    assert found == [PeerAddress("h", 2, "roster", "b")]
    await source.keep()
    assert store.read(KEPT) is None
    store.fail_at = None
    await source.keep()
    assert store.read(KEPT) == b'[["b", "h", 2]]', "with the next one"


async def test_a_roster_that_came_first_is_not_missed() -> None:
    source = RosterDiscovery("me", MemoryStore())
    source.update([RosterEntry("b", "h", 2, 0, None)])
    assert await collect(source.run, lambda: None) == [PeerAddress("h", 2, "roster", "b")]


async def test_static_peers_are_reported_at_once_and_again(autojump_clock: trio.testing.MockClock) -> None:
    found: list[PeerAddress] = []
    with trio.move_on_after(150):
        await StaticDiscovery([("h", 1), ("g", 2)]).run(found.append)
    assert found == [PeerAddress("h", 1, "static"), PeerAddress("g", 2, "static")] * 3
