"""The HTTP client itself: kept-alive connections, redirects, HTTPS, the least-rate guard."""

from __future__ import annotations

import gzip
import os
import socket
import tracemalloc
from pathlib import Path

import pytest
import trio

from coordinator.app import give_tickets
from p2p.adapters import http, http_connection
from p2p.adapters.channel import Channel, TcpChannel, TlsChannel
from p2p.adapters.http import HttpClient
from p2p.adapters.http_connection import Headers, Pace
from p2p.adapters.url import Url, parse_url
from p2p.errors import ConfigError, OriginError
from tests.support.certificates import DAY, NOW, Fleet, server_context
from tests.support.scripted_http import HangUp, Request, head, held_port, scripted


async def get(client: HttpClient, url: str | Url, method: str = "GET") -> bytes:
    parsed = parse_url(url) if isinstance(url, str) else url
    async with client.request(method, parsed) as response:
        return await response.read(1_000_000)


async def ok(_request: Request, channel: Channel) -> None:
    await channel.send(head(200, content_length=2), b"ok")


# Connections


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with scripted(ok) as server:
        client = HttpClient()
        for _ in range(5):
            assert await get(client, server.url) == b"ok"
        assert server.connections == 1
        await client.aclose()


async def test_a_connection_whose_answer_was_left_unread_is_not_kept() -> None:
    async def large(_request: Request, channel: Channel) -> None:
        await channel.send(head(200, content_length=1_000_000), bytes(1_000_000))

    async with scripted(large) as server:
        client = HttpClient()
        async with client.request("GET", parse_url(server.url)) as response:
            await anext(response)
        async with client.request("GET", parse_url(server.url)) as response:
            assert len(await response.read(1_000_000)) == 1_000_000
        assert server.connections == 2
        await client.aclose()


async def test_an_answer_that_was_taken_but_for_its_end_keeps_the_connection() -> None:
    async with scripted(ok) as server:
        client = HttpClient()
        for _ in range(2):
            async with client.request("GET", parse_url(server.url)) as response:
                assert await anext(response) == b"ok"
        assert server.connections == 1
        await client.aclose()


async def test_small_requests_at_the_same_time_share_a_connection() -> None:
    async with scripted(ok) as server:
        client = HttpClient()

        async def small() -> None:
            async with client.request("GET", parse_url(server.url), deadline_s=10.0) as response:
                await trio.sleep(0.01)
                assert await response.read(10) == b"ok"

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(small)
        assert (server.connections, len(server.requests)) == (1, 5)
        await client.aclose()


async def test_a_small_request_waits_neither_for_a_stream_nor_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(ok) as server:
        client, url = HttpClient(), parse_url(server.url)
        async with client.request("GET", url) as stream:
            with trio.fail_after(http.TURN_S / 2):
                async with client.request("GET", url, deadline_s=10.0) as one:
                    monkeypatch.setattr(http, "TURN_S", 0.01)
                    async with client.request("GET", url, deadline_s=10.0) as other:
                        for response in (stream, one, other):
                            assert await response.read(10) == b"ok"
        assert server.connections == 3
        await client.aclose()


async def test_a_small_request_that_fails_gives_its_turn_to_the_next() -> None:
    async def fails(request: Request, channel: Channel) -> None:
        if request.target == "/bad":
            raise HangUp
        await ok(request, channel)

    async with scripted(fails) as server:
        client = HttpClient()
        with pytest.raises(OriginError):
            async with client.request("GET", parse_url(server.url + "/bad"), deadline_s=10.0):
                pass
        with trio.fail_after(http.TURN_S / 2):
            async with client.request("GET", parse_url(server.url), deadline_s=10.0) as response:
                assert await response.read(10) == b"ok"
        await client.aclose()


async def test_only_a_connection_in_use_is_probed() -> None:
    async with scripted(ok) as server:
        client = HttpClient()
        for _ in range(2):
            async with client.request("GET", parse_url(server.url)) as response:
                (connection,) = client._open
                assert isinstance(connection.channel, TcpChannel)
                sock = connection.channel._sock
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                await response.read(10)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert server.connections == 1
        await client.aclose()


async def test_bytes_behind_an_answer_are_not_the_next_answer() -> None:
    async def smuggle(_request: Request, channel: Channel) -> None:
        await channel.send(head(200, content_length=2), b"ok", head(200, content_length=4), b"evil")

    async with scripted(smuggle) as server:
        client = HttpClient()
        assert await get(client, server.url) == b"ok"
        assert await get(client, server.url) == b"ok"
        assert server.connections == 2
        await client.aclose()


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    closing = trio.Event()

    async def once(_request: Request, channel: Channel) -> None:
        await channel.send(head(200, content_length=2), b"ok")
        closing.set()
        raise HangUp

    async with scripted(once) as server:
        client = HttpClient()
        for _ in range(3):
            assert await get(client, server.url) == b"ok"
            await closing.wait()
        assert server.connections == 3
        await client.aclose()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_what_may_be_repeated_is_sent_again_on_a_stale_connection(method: str) -> None:
    async def first_only(_request: Request, channel: Channel) -> None:
        if len(server.requests) == 2:
            raise HangUp  # the request was read and nothing was said
        await channel.send(head(200, content_length=2), b"ok")

    async with scripted(first_only) as server:
        client = HttpClient()
        assert await get(client, server.url) == b"ok"
        if method == "GET":
            assert await get(client, server.url, method) == b"ok"
            assert len(server.requests) == 3
        else:
            with pytest.raises(OriginError) as caught:
                await get(client, server.url, method)
            assert caught.value.reason == "truncated"
            assert len(server.requests) == 2
        await client.aclose()


async def test_a_server_that_always_hangs_up_is_not_asked_for_ever() -> None:
    async def never(_request: Request, _channel: Channel) -> None:
        raise HangUp

    async with scripted(never) as server:
        client = HttpClient()
        with pytest.raises(OriginError) as caught:
            await get(client, server.url)
        assert caught.value.reason == "truncated"
        assert len(server.requests) == 1
        await client.aclose()


class Middlebox:
    """Lets requests be answered until it is told to `forget` the connections that are there."""

    def __init__(self) -> None:
        self._known: set[Channel] = set()
        self._forgotten: set[Channel] = set()
        self.delay_s = 0.0

    def forget(self) -> None:
        self._forgotten |= self._known

    async def answer(self, request: Request, channel: Channel) -> None:
        self._known.add(channel)
        if channel in self._forgotten:
            await trio.sleep_forever()
        await trio.sleep(self.delay_s)
        await ok(request, channel)


@pytest.fixture
def middlebox(monkeypatch: pytest.MonkeyPatch) -> Middlebox:
    monkeypatch.setattr(http_connection, "SILENT_S", 0.2)
    return Middlebox()


def no_headers() -> Headers:
    return ()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_was_forgotten_on_the_way_costs_a_short_wait(
    middlebox: Middlebox, method: str
) -> None:
    async with scripted(middlebox.answer) as server:
        client, url = HttpClient(), parse_url(server.url)
        tries = iter("23")
        with trio.fail_after(http.TURN_S):
            for n in "12":
                async with client.request(
                    method,
                    url,
                    [("Signature", n)],
                    deadline_s=10.0,
                    repeat=lambda: [("Signature", next(tries))],
                ) as response:
                    assert await response.read(10) == b"ok"
                middlebox.forget()
        assert [r.headers["signature"] for r in server.requests] == ["1", "2", "2"]
        assert server.connections == 2
        assert len(client._open) == 1, "the forgotten one is closed"
        await client.aclose()


async def test_what_may_not_be_repeated_waits_on_a_kept_connection(middlebox: Middlebox) -> None:
    async with scripted(middlebox.answer) as server:
        client = HttpClient()
        assert await get(client, server.url) == b"ok"
        middlebox.delay_s = 0.6
        assert await get(client, server.url) == b"ok"
        middlebox.forget()
        with trio.move_on_after(0.6) as scope:
            await get(client, server.url)
        assert scope.cancelled_caught
        assert (server.connections, len(server.requests)) == (1, 3)
        await client.aclose()


async def test_a_stream_on_a_connection_that_lay_idle_and_was_forgotten_is_asked_for_once_more(
    middlebox: Middlebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "DOUBT_S", 0.1)
    async with scripted(middlebox.answer) as server:
        client = HttpClient()
        assert await get(client, server.url) == b"ok"
        middlebox.forget()
        await trio.sleep(0.15)
        with trio.fail_after(2):
            assert await get(client, server.url) == b"ok"
        assert (server.connections, len(server.requests)) == (2, 3)
        assert len(client._open) == 1, "the forgotten one is closed"
        await client.aclose()


async def test_what_counts_twice_is_not_repeated_on_a_connection_that_lay_idle(
    middlebox: Middlebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "DOUBT_S", 0.1)
    async with scripted(middlebox.answer) as server:
        client = HttpClient(idle_s=0.6)
        assert await get(client, server.url) == b"ok"
        middlebox.forget()
        await trio.sleep(0.15)
        with pytest.raises(OriginError) as caught:
            await get(client, server.url, "POST")
        assert caught.value.reason == "too-slow"
        assert (server.connections, len(server.requests)) == (1, 2)
        await client.aclose()


async def test_a_new_connection_is_waited_for_and_then_known_to_be_slow(middlebox: Middlebox) -> None:
    async with scripted(middlebox.answer) as server:
        client, url = HttpClient(), parse_url(server.url)
        for middlebox.delay_s in (0.4, 0.8):
            async with client.request("GET", url, deadline_s=10.0, repeat=no_headers) as response:
                assert await response.read(10) == b"ok"
        assert (server.connections, len(server.requests)) == (1, 2)
        await client.aclose()


async def test_a_slow_answer_that_has_begun_is_not_asked_for_again(middlebox: Middlebox) -> None:
    async def slow(request: Request, channel: Channel) -> None:
        whole = head(200, content_length=2)
        await channel.send(whole[:9])
        await trio.sleep(0.5 if len(server.requests) == 2 else 0)
        await channel.send(whole[9:], b"ok")

    async with scripted(slow) as server:
        client, url = HttpClient(), parse_url(server.url)
        for _ in range(2):
            async with client.request("GET", url, deadline_s=10.0, repeat=no_headers) as response:
                assert await response.read(10) == b"ok"
        assert (server.connections, len(server.requests)) == (1, 2)
        await client.aclose()


async def test_a_cancelled_request_leaves_no_connection_behind() -> None:
    async def never(_request: Request, _channel: Channel) -> None:
        await trio.sleep_forever()

    async with scripted(never) as server:
        client = HttpClient()
        with trio.move_on_after(0.1) as scope:
            await get(client, server.url)
        assert scope.cancelled_caught
        assert client._open == set()


async def test_a_body_is_sent_with_its_length() -> None:
    async with scripted(ok) as server:
        client = HttpClient()
        body = os.urandom(100_000)
        async with client.request(
            "POST", parse_url(f"{server.url}/x?y=1"), [("X-Test", "1")], body
        ) as response:
            assert response.status == 200
        (request,) = server.requests
        assert (request.method, request.target, request.body) == ("POST", "/x?y=1", body)
        assert request.headers["x-test"] == "1"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert client.wire_sent > len(body)
        await client.aclose()


# Content codings


def coded(body: bytes, coding: str = "gzip", step: int = 1 << 20) -> object:
    """An answer of chunks of `step` bytes."""

    async def answer(_request: Request, channel: Channel) -> None:
        await channel.send(head(200, content_encoding=coding, transfer_encoding="chunked"))
        for start in range(0, len(body), step):
            part = body[start : start + step]
            await channel.send(b"%x\r\n%s\r\n" % (len(part), part))
        await channel.send(b"0\r\n\r\n")

    return answer


async def decoded(answer: object, size_max: int) -> bytes | str:
    """The body, or the reason of the refusal."""
    async with scripted(answer) as server:
        client = HttpClient()
        try:
            async with client.request("GET", parse_url(server.url)) as response:
                return await response.read_decoded(size_max)
        except OriginError as error:
            return error.reason
        finally:
            await client.aclose()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
async def test_gzip_is_undone_up_to_the_limit_and_no_further(step: int) -> None:
    text = b"the same again, " * 25
    answer = coded(gzip.compress(text), step=step)
    assert await decoded(answer, len(text)) == text
    assert await decoded(answer, len(text) - 1) == "too-long"
    assert await decoded(coded(gzip.compress(text) + b"x", step=step), len(text)) == "protocol"
    assert await decoded(coded(gzip.compress(text)[:-1], step=step), len(text)) == "truncated"


async def test_a_bomb_is_never_made_in_memory() -> None:
    bomb = gzip.compress(bytes(30_000_000))
    tracemalloc.start()
    try:
        assert await decoded(coded(bomb), 50_000) == "too-long"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


async def test_a_stream_that_makes_nothing_is_cut_off() -> None:
    nothing = gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 2_000  # empty stored blocks
    assert await decoded(coded(nothing), len(nothing)) == "truncated"
    assert await decoded(coded(nothing), len(nothing) - 1) == "too-long"


async def test_any_changed_byte_of_gzip_gives_the_same_text_or_an_error() -> None:
    text = bytes(range(40)) * 2
    sound = gzip.compress(text, mtime=0)
    for at in range(len(sound)):
        changed = sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :]
        assert await decoded(coded(changed), 1000) in (text, "protocol", "truncated", "too-long")


async def test_other_codings_are_refused_and_no_coding_is_none() -> None:
    assert await decoded(coded(b"text", "identity"), 10) == b"text"
    for coding in ("br", "deflate", "gzip, gzip"):
        assert await decoded(coded(gzip.compress(b"text"), coding), 1000) == "encoded"


async def test_a_coding_is_accepted_only_where_it_was_asked_for() -> None:
    async with scripted(ok) as server:
        client = HttpClient()
        await get(client, server.url)
        async with client.request("GET", parse_url(server.url), [("accept-encoding", "gzip")]) as response:
            assert await response.read(2) == b"ok"
        assert [r.headers["accept-encoding"] for r in server.requests] == ["identity", "gzip"]
        await client.aclose()


async def test_wire_counts_are_of_the_coded_bytes() -> None:
    text, body = bytes(100_000), gzip.compress(bytes(100_000))
    async with scripted(coded(body)) as server:
        client = HttpClient()
        async with client.request("GET", parse_url(server.url)) as response:
            assert await response.read_decoded(len(text)) == text
        assert len(body) < client.wire_received < len(body) + 200
        await client.aclose()


# Redirects


def redirecting(target: str, count: int = 1, status: int = 302) -> object:
    async def answer(request: Request, channel: Channel) -> None:
        step = int(request.target.rpartition("/")[2] or 0)
        if step < count:
            location = target.format(step=step + 1)
            await channel.send(head(status, location=location, content_length=0))
        else:
            await ok(request, channel)

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_three_redirects_are_followed_and_four_are_not(status: int) -> None:
    for count in (3, 4):
        async with scripted(redirecting("/hop/{step}", count, status)) as server:
            client = HttpClient()
            if count == 3:
                assert await get(client, f"{server.url}/hop/0") == b"ok"
            else:
                with pytest.raises(OriginError) as caught:
                    await get(client, f"{server.url}/hop/0")
                assert (caught.value.reason, caught.value.retry) == ("redirect", False)
            assert len(server.requests) == 4
            await client.aclose()


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/{step}", "http://a b/{step}", "http://[/{step}", "//u@x/"]
)
async def test_a_redirect_to_something_else_than_http_is_refused(target: str) -> None:
    async with scripted(redirecting(target)) as server:
        client = HttpClient()
        with pytest.raises(OriginError) as caught:
            await get(client, f"{server.url}/0")
        assert caught.value.reason == "redirect"
        await client.aclose()


async def test_a_post_is_not_redirected() -> None:
    async with scripted(redirecting("/hop/{step}")) as server:
        client = HttpClient()
        async with client.request("POST", parse_url(f"{server.url}/0")) as response:
            assert response.status == 302
        assert len(server.requests) == 1
        await client.aclose()


# HTTPS


def https(port: int) -> str:
    return f"https://127.0.0.1:{port}/"


async def test_https_with_a_pinned_ca_counts_tls_records(tmp_path: Path) -> None:
    async with scripted(ok, server_context(Fleet(), tmp_path)) as server:
        client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: NOW)
        assert await get(client, https(server.port)) == b"ok"
        assert await get(client, https(server.port)) == b"ok"
        assert server.connections == 1
        assert client.wire_received > 2 * (len(head(200, content_length=2)) + 2) + 500
        await client.aclose()


async def closes(request: Request, channel: Channel) -> None:
    await ok(request, channel)
    raise HangUp


async def test_a_later_connection_resumes_the_session_without_certificates(tmp_path: Path) -> None:
    context = server_context(Fleet(), tmp_path)
    give_tickets(context)
    async with scripted(closes, context) as server:
        client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: NOW)
        received, resumed = [], []
        for _ in range(3):
            before = client.wire_received
            async with client.request("GET", parse_url(https(server.port))) as response:
                await response.read(10)
                (connection,) = client._open
                assert isinstance(connection.channel, TlsChannel)
                resumed.append(connection.channel.resumed)
            received.append(client.wire_received - before)
        assert (server.connections, resumed) == (3, [False, True, True])
        assert received[0] > 2 * received[1]
        await client.aclose()


async def test_a_session_is_resumed_by_one_connection_only(tmp_path: Path) -> None:
    context = server_context(Fleet(), tmp_path)
    give_tickets(context)
    async with scripted(closes, context) as server:
        client, url = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: NOW), parse_url(https(server.port))
        await get(client, url)
        async with client.request("GET", url) as one, client.request("GET", url) as other:
            for response in (one, other):
                await response.read(10)
            channels = [connection.channel for connection in client._open]
            assert sorted(c.resumed for c in channels if isinstance(c, TlsChannel)) == [False, True]
        await client.aclose()


async def test_an_expired_certificate_is_refused_in_a_resumed_session_too(tmp_path: Path) -> None:
    context = server_context(Fleet(), tmp_path)
    give_tickets(context)
    now = [NOW]
    async with scripted(closes, context) as server:
        client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: now[0])
        await get(client, https(server.port))
        now[0] = NOW + DAY + 1
        with pytest.raises(OriginError) as caught:
            await get(client, https(server.port))
        assert caught.value.reason == "certificate"
        await client.aclose()


@pytest.mark.parametrize("fault", ["another CA", "another host", "expired", "system roots"])
async def test_a_server_that_is_not_the_pinned_one_is_refused(tmp_path: Path, fault: str) -> None:
    fleet = Fleet()
    context = server_context(
        fleet,
        tmp_path,
        host="127.0.0.9" if fault == "another host" else "127.0.0.1",
        not_after=NOW - 1 if fault == "expired" else NOW + DAY,
    )
    if fault == "another CA":
        (tmp_path / "ca.pem").write_bytes(Fleet("fleet").pem)
    async with scripted(ok, context) as server:
        ca_file = None if fault == "system roots" else tmp_path / "ca.pem"
        client = HttpClient(ca_file=ca_file, now=lambda: NOW)
        with pytest.raises(OriginError) as caught:
            await get(client, https(server.port))
        assert caught.value.reason == "certificate"
        assert server.requests == []
        await client.aclose()


async def test_https_never_falls_back_to_http(tmp_path: Path) -> None:
    async with (
        scripted(ok) as plain,
        scripted(redirecting(plain.url + "/{step}"), server_context(Fleet(), tmp_path)) as server,
    ):
        client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: NOW, connect_s=1.0)
        with pytest.raises(OriginError) as caught:
            await get(client, https(server.port))
        assert caught.value.reason == "redirect"
        assert plain.requests == []
        with pytest.raises(OriginError) as caught:
            await get(client, https(plain.port))
        assert caught.value.reason == "unreachable"
        await client.aclose()


async def test_http_may_lead_to_https(tmp_path: Path) -> None:
    async with scripted(ok, server_context(Fleet(), tmp_path)) as server:
        target = f"{https(server.port)}{{step}}"
        async with scripted(redirecting(target)) as plain:
            client = HttpClient(ca_file=tmp_path / "ca.pem", now=lambda: NOW)
            assert await get(client, f"{plain.url}/0") == b"ok"
            await client.aclose()


def test_a_ca_file_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="CA file"):
            HttpClient(ca_file=tmp_path / name)


async def test_a_server_that_never_finishes_tls_is_unreachable() -> None:
    async def never(_channel: trio.SocketStream) -> None:
        await trio.sleep_forever()

    with held_port() as port:
        pass
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, never, port)
        client = HttpClient(connect_s=0.2)
        with trio.fail_after(5), pytest.raises(OriginError) as caught:
            await get(client, https(port))
        assert caught.value.reason == "unreachable"
        nursery.cancel_scope.cancel()


# The guard, without a network


def test_only_waiting_counts_against_the_least_rate() -> None:
    pace = Pace(rate_min=100, idle_s=10, deadline=float("inf"))
    for n in range(100):
        pace.account(0.0, 1)  # much arrives late because we took it late
        assert pace.allowance_s(now=n * 1000.0) == 10
    pace.account(10.0, 900)  # 1,000 bytes in 10 s of waiting: just enough
    assert pace.allowance_s(now=0.0) == 10


def test_one_byte_less_than_the_least_rate_is_too_slow() -> None:
    pace = Pace(rate_min=100, idle_s=10, deadline=float("inf"))
    pace.account(4.0, 999)
    assert pace.allowance_s(now=0.0) == 6
    with pytest.raises(OriginError) as caught:
        pace.account(6.0, 0)
    assert caught.value.reason == "too-slow"


def test_a_good_window_is_no_credit_for_the_next() -> None:
    pace = Pace(rate_min=100, idle_s=10, deadline=float("inf"))
    pace.account(10.0, 1_000_000)
    with pytest.raises(OriginError):
        pace.account(10.0, 999)


def test_the_deadline_bounds_every_wait() -> None:
    pace = Pace(rate_min=100, idle_s=10, deadline=105.0)
    assert pace.allowance_s(now=100.0) == 5
    with pytest.raises(OriginError):
        pace.allowance_s(now=105.0)


# Addresses


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("http://example.org", "example.org", "/"),
        ("https://example.org:443/a/?b=c", "example.org", "/a/?b=c"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://10.0.0.1:80", "10.0.0.1", "/"),
    ],
)
def test_addresses(text: str, authority: str, target: str) -> None:
    url = parse_url(text)
    assert (url.authority, url.target) == (authority, target)
    assert parse_url(str(url)) == url


def test_a_base_address_is_a_directory() -> None:
    for base in ("http://x/fleet", "http://x/fleet/"):
        assert str(parse_url(base).below("objects/1")) == "http://x/fleet/objects/1"
    assert str(parse_url("http://x").below("a")) == "http://x/a"
