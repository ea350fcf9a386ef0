"""The origin over HTTP, held to what was asked for; each fault beside an answer that is right."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from p2p.adapters import http_connection
from p2p.adapters.channel import Channel
from p2p.adapters.http import HttpClient
from p2p.adapters.origin import HttpOrigin, OriginBusy
from p2p.content.digests import sha256
from p2p.errors import ConfigError, OriginError
from tests.support.scripted_http import (
    Answer,
    HangUp,
    Request,
    ScriptedServer,
    head,
    held_port,
    partial,
    reset,
    scripted,
)

DATA = os.urandom(300_000)
DIGEST = sha256(DATA)
START, STOP = 1000, 201_000


def client(idle_s: float = 10.0) -> HttpClient:
    """A least rate of 1,000 bytes/s; tests of the guard itself take windows of tenths of a second."""
    return HttpClient(idle_s=idle_s, rate_min=1000)


def says(*parts: bytes, then: Callable[[Channel], Awaitable[None]] | None = None) -> Answer:
    async def answer(_request: Request, channel: Channel) -> None:
        await channel.send(*parts)
        if then is not None:
            await then(channel)

    return answer


async def hang_up(_channel: Channel) -> None:
    raise HangUp


async def right(request: Request, channel: Channel) -> None:
    """What a good static server does."""
    if request.target.startswith("/metadata/"):
        await channel.send(head(200, content_length=11), b"a metadatum")
    elif request.range is None:
        await channel.send(head(200, content_length=len(DATA)), DATA)
    else:
        await channel.send(partial(DATA, *request.range))


async def read(server: ScriptedServer, start: int = START, stop: int = STOP, idle_s: float = 10.0) -> bytes:
    origin = HttpOrigin(server.url, client(idle_s))
    try:
        async with origin.stream(DIGEST, start, stop) as parts:
            return b"".join([bytes(part) async for part in parts])
    finally:
        await origin.aclose()


async def failure(answer: Answer, start: int = START, stop: int = STOP, idle_s: float = 10.0) -> OriginError:
    async with scripted(answer) as server:
        with pytest.raises(OriginError) as caught:
            await read(server, start, stop, idle_s)
    return caught.value


# What is right


async def test_a_range_arrives_whole() -> None:
    async with scripted(right) as server:
        assert await read(server) == DATA[START:STOP]
        (request,) = server.requests
        assert request.target == f"/objects/{DIGEST.hex()}"
        assert request.headers["range"] == f"bytes={START}-{STOP - 1}"
        assert request.headers["accept-encoding"] == "identity"


async def test_a_base_url_may_have_a_path() -> None:
    async with scripted(right) as server:
        origin = HttpOrigin(f"{server.url}/fleet/v1/", client())
        assert await origin.object(DIGEST, len(DATA)) == DATA
        assert server.requests[0].target == f"/fleet/v1/objects/{DIGEST.hex()}"
        await origin.aclose()


async def test_an_empty_range_asks_nobody() -> None:
    async with scripted(right) as server:
        assert await read(server, 5, 5) == b""
        assert server.requests == []


async def test_a_whole_object_may_come_without_a_range() -> None:
    answer = says(head(200, content_length=len(DATA)), DATA)
    async with scripted(answer) as server:
        assert await read(server, 0, len(DATA)) == DATA


@pytest.mark.parametrize("close", [False, True], ids=["chunked", "until-closed"])
async def test_other_framings_of_the_right_bytes_are_right(close: bool) -> None:
    async def answer(request: Request, channel: Channel) -> None:
        assert request.range is not None
        start, stop = request.range
        content_range = f"bytes {start}-{stop - 1}/*"
        if close:
            await channel.send(head(206, content_range=content_range, connection="close"), DATA[start:stop])
            raise HangUp
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (DATA[start:5000], DATA[5000:stop]))
        await channel.send(head(206, content_range=content_range, transfer_encoding="chunked"), body)
        await channel.send(b"0\r\n\r\n")

    async with scripted(answer) as server:
        assert await read(server) == DATA[START:STOP]


async def test_wire_bytes_count_heads_and_bodies() -> None:
    async with scripted(right) as server:
        origin = HttpOrigin(server.url, client())
        async with origin.stream(DIGEST, START, STOP) as parts:
            async for _ in parts:
                pass
        expected = len(partial(DATA, START, STOP))
        assert origin.wire_bytes == expected
        await origin.metadata("timestamp.json", 100)
        expected += len(head(200, content_length=11)) + 11
        assert origin.wire_bytes == expected
        assert server.connections == 1
        await origin.aclose()
        assert origin.wire_bytes == expected


async def test_nothing_is_read_beyond_what_is_taken() -> None:
    sent = 0

    async def pour(_request: Request, channel: Channel) -> None:
        nonlocal sent
        size = 1 << 30
        await channel.send(head(206, content_range=f"bytes 0-{size - 1}/{size}", content_length=size))
        while True:
            await channel.send(bytes(1 << 20))
            sent += 1 << 20

    async with scripted(pour) as server:
        origin = HttpOrigin(server.url, client(0.3))
        async with origin.stream(DIGEST, 0, 1 << 30) as parts:
            first = await anext(parts)
            assert 0 < len(first) <= 1 << 16
            with trio.move_on_after(0.5):
                await trio.sleep_forever()  # the consumer takes its time: no guard may run out
            received = origin.wire_bytes
            assert received <= 2 << 16, "the client reads ahead"
            await anext(parts)
        assert sent < 64 << 20
        await origin.aclose()


# What is wrong with a stream


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(head(200, content_length=len(DATA)), DATA), "range-ignored"),
        (says(head(200), DATA, then=hang_up), "range-ignored"),
        (says(partial(DATA, START, STOP, content_range=None)), "wrong-range"),
        (says(partial(DATA, START, STOP, content_range=f"bytes 0-{STOP - START - 1}/*")), "wrong-range"),
        (says(partial(DATA, START, STOP, content_range=f"bytes {START}-{STOP}/*")), "wrong-range"),
        (says(partial(DATA, START, STOP, content_range="bytes " + "9" * 500)), "wrong-range"),
        (says(partial(DATA, START, STOP, content_length=STOP - START - 1)), "truncated"),
        (says(partial(DATA, START, STOP, content_length=STOP - START + 1)), "too-long"),
        (says(partial(DATA, START, STOP)[:-1], then=hang_up), "truncated"),
        (says(partial(DATA, START, STOP, content_length=None) + b"x", then=hang_up), "too-long"),
        (says(partial(DATA, START, STOP, content_length=None)[:-1], then=hang_up), "truncated"),
        (says(partial(DATA, START, STOP, content_encoding="gzip")), "encoded"),
        (says(head(416, content_length=0)), "truncated"),
        (says(head(403, content_length=0)), "status"),
        (says(head(500, content_length=0)), "status"),
        (says(head(404, content_length=0)), "not-found"),
        (says(b"nonsense\r\n\r\n"), "protocol"),
        (says(head(206, content_length="-5")), "protocol"),
        (says(b"HTTP/1.1 100 Continue\r\n\r\n" * 9), "protocol"),
        (says(head(206, x="y" * 40_000)), "protocol"),
        (says(then=hang_up), "truncated"),
    ],
    ids=[
        "range-ignored", "range-ignored-unframed", "no-content-range", "other-range", "range-off-by-one",
        "absurd-range", "short-length", "long-length", "cut-off", "one-byte-more", "one-byte-less",
        "encoded", "416", "403", "500", "404", "nonsense", "negative-length", "many-interim", "huge-head",
        "silent",
    ],
)  # fmt: skip
async def test_a_departure_has_its_reason(answer: Answer, reason: str) -> None:
    error = await failure(answer)
    assert error.reason == reason
    assert error.retry is (
        reason not in ("not-found", "range-ignored", "encoded") and "status 403" not in str(error)
    )


async def test_a_reset_is_a_truncation() -> None:
    async def answer(_request: Request, channel: Channel) -> None:
        await channel.send(partial(DATA, START, STOP)[:5000])
        reset(channel)
        raise HangUp

    assert (await failure(answer)).reason == "truncated"


async def test_a_whole_object_with_more_behind_it_is_not_taken_for_it() -> None:
    error = await failure(says(head(200, content_length=len(DATA)), DATA), 0, len(DATA) - 1)
    assert error.reason == "range-ignored"


async def drip(channel: Channel) -> None:
    while True:
        await channel.send(b"x")
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    "answer",
    [
        says(partial(DATA, START, STOP)[:2000], then=drip),
        says(b"HTTP/1.1 206 Partial\r\nx: ", then=drip),
        says(b"", then=lambda _channel: trio.sleep_forever()),
    ],
    ids=["body", "head", "nothing"],
)
async def test_a_dripping_origin_is_cut_off(answer: Answer) -> None:
    with trio.fail_after(5):
        assert (await failure(answer, idle_s=0.3)).reason == "too-slow"


async def test_an_origin_just_above_the_least_rate_is_waited_for() -> None:
    async def answer(request: Request, channel: Channel) -> None:
        assert request.range is not None
        data = partial(DATA, *request.range)
        await channel.send(data[:-4000])
        for start in range(len(data) - 4000, len(data), 500):  # 5,000 bytes/s against 1,000
            await channel.send(data[start : start + 500])
            await trio.sleep(0.1)

    async with scripted(answer) as server:
        assert await read(server, idle_s=0.5) == DATA[START:STOP]


async def test_endless_heads_and_bodies_are_bounded() -> None:
    async def endless_head(_request: Request, channel: Channel) -> None:
        await channel.send(b"HTTP/1.1 206 Partial\r\n")
        while True:
            await channel.send(b"x-%d: y\r\n" * 100)

    async def endless_body(_request: Request, channel: Channel) -> None:
        await channel.send(partial(DATA, START, STOP, content_length=None))
        while True:
            await channel.send(bytes(10_000))

    assert (await failure(endless_head)).reason == "protocol"
    assert (await failure(endless_body)).reason == "too-long"


async def test_nobody_listens() -> None:
    with held_port() as port:
        origin = HttpOrigin(f"http://127.0.0.1:{port}", client())
        with pytest.raises(OriginError) as caught:
            await origin.metadata("timestamp.json", 100)
        assert caught.value.reason == "unreachable"
        assert caught.value.retry


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retry_after": "120"}, 120.0),
        ({"retry_after": "999999999"}, 86_400.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
        ({"retry_after": "Thu, 01 Jan 2026 00:01:00 GMT", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 60.0),
        ({"retry_after": "Thu, 01 Jan 2026 00:01:00 GMT"}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_origin_says_for_how_long(
    status: int, fields: dict[str, object], expected: float | None
) -> None:
    error = await failure(says(head(status, content_length=0, **fields)))
    assert isinstance(error, OriginBusy)
    assert (error.reason, error.retry, error.retry_after_s) == ("busy", True, expected)


# Whole small things


async def whole(answer: Answer, *, size_max: int = 11, small_s: float = 5.0) -> bytes | OriginError:
    async with scripted(answer) as server:
        origin = HttpOrigin(server.url, client(), small_s=small_s)
        try:
            return await origin.metadata("timestamp.json", size_max)
        except OriginError as error:
            return error
        finally:
            await origin.aclose()


async def test_metadata_of_exactly_the_size_limit_is_read() -> None:
    assert await whole(right) == b"a metadatum"


@pytest.mark.parametrize(
    "answer",
    [says(head(200, content_length=12), b"a metadatum!"), says(head(200), b"a metadatum!", then=hang_up)],
    ids=["announced", "found"],
)
async def test_metadata_over_the_size_limit_is_not(answer: Answer) -> None:
    error = await whole(answer)
    assert isinstance(error, OriginError)
    assert error.reason == "too-long"


async def test_metadata_that_does_not_end_is_left_at_the_deadline() -> None:
    async def trickle(channel: Channel) -> None:
        while True:
            await channel.send(bytes(400))  # well above the least rate
            await trio.sleep(0.05)

    answer = says(head(200, content_length=10_000_000), then=trickle)
    with trio.fail_after(5):
        error = await whole(answer, size_max=10_000_000, small_s=0.6)
    assert isinstance(error, OriginError)
    assert error.reason == "too-slow"
    assert "deadline" in str(error)


async def test_a_poll_is_made_anew_where_a_kept_connection_is_mute_and_a_range_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "SILENT_S", 0.2)

    async def late(request: Request, channel: Channel) -> None:
        if len(server.requests) == 2 or request.range is not None:
            await trio.sleep(0.6)
        await right(request, channel)

    async with scripted(late) as server:
        origin = HttpOrigin(server.url, client())
        for _ in range(2):
            assert await origin.metadata("timestamp.json", 11) == b"a metadatum"
        assert (server.connections, len(server.requests)) == (2, 3)
        async with origin.stream(DIGEST, START, STOP) as parts:
            assert b"".join([bytes(part) async for part in parts]) == DATA[START:STOP]
        assert (server.connections, len(server.requests)) == (2, 4)
        await origin.aclose()


@pytest.mark.parametrize("name", ["../keys/root.json", "a/b.json", "root", "", "r\r\nx: y.json", ".json"])
async def test_a_name_that_is_not_a_metadata_file_never_reaches_the_wire(name: str) -> None:
    async with scripted(right) as server:
        origin = HttpOrigin(server.url, client())
        with pytest.raises(OriginError) as caught:
            await origin.metadata(name, 100)
        assert caught.value.reason == "not-found"
        assert server.requests == []


async def test_an_object_is_what_its_digest_says() -> None:
    async with scripted(right) as server:
        origin = HttpOrigin(server.url, client())
        assert await origin.object(DIGEST, len(DATA)) == DATA
        for digest, size, reason in (
            (sha256(b"other"), len(DATA), "wrong-digest"),
            (DIGEST, len(DATA) - 1, "too-long"),
            (DIGEST, len(DATA) + 1, "truncated"),
        ):
            with pytest.raises(OriginError) as caught:
                await origin.object(digest, size)
            assert caught.value.reason == reason
        await origin.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/",
        "http://",
        "http://u:p@x/",
        "http://x/#f",
        "http://x y/",
        "http://[::1/",
        "http://x:0x1/",
    ],
)
def test_an_address_that_cannot_be_an_origin_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpOrigin(url, client())
