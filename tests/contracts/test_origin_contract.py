"""What every `ports.Origin` does, the in-memory one included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2p.adapters.bundle_files import BundleReader
from p2p.adapters.channel import Channel
from p2p.adapters.directory_origin import BundleOrigin, RepositoryOrigin
from p2p.adapters.http import HttpClient
from p2p.adapters.origin import HttpOrigin
from p2p.content.bundle import PART_SIZE_MIN, BundleObject, Kind, Table, encode_table
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import ObjectRef
from p2p.content.order import Audience
from p2p.errors import OriginError
from p2p.ports import Origin
from tests.contracts.network_doubles import MemoryOrigin
from tests.support.scripted_http import Request, head, partial, scripted

DATA = os.urandom(300_000)
DIGEST = sha256(DATA)
LIE = sha256(b"promised, never published")
METADATA = {"timestamp.json": b"{}", "1.root.json": b'{"signed":{}}'}


@asynccontextmanager
async def memory() -> AsyncIterator[Origin]:
    origin = MemoryOrigin()
    origin.add(DATA)
    origin.objects[LIE] = DATA
    origin.files.update(METADATA)
    yield origin


@asynccontextmanager
async def http() -> AsyncIterator[Origin]:
    async def static(request: Request, channel: Channel) -> None:
        name = request.target.rpartition("/")[2]
        data = METADATA.get(name) or (DATA if name in (DIGEST.hex(), LIE.hex()) else None)
        if data is None:
            await channel.send(head(404, content_length=0))
        elif request.range is None:
            await channel.send(head(200, content_length=len(data)), data)
        elif request.range[1] > len(data):
            await channel.send(head(416, content_length=0))
        else:
            await channel.send(partial(data, *request.range))

    async with scripted(static) as server:
        origin = HttpOrigin(server.url, HttpClient())
        try:
            yield origin
        finally:
            await origin.aclose()


@asynccontextmanager
async def repository() -> AsyncIterator[Origin]:
    with tempfile.TemporaryDirectory() as directory:
        for folder, files in (("metadata", METADATA), ("objects", {DIGEST.hex(): DATA, LIE.hex(): DATA})):
            (Path(directory) / folder).mkdir()
            for name, data in files.items():
                (Path(directory) / folder / name).write_bytes(data)
        yield RepositoryOrigin(directory)


@asynccontextmanager
async def bundle() -> AsyncIterator[Origin]:
    with tempfile.TemporaryDirectory() as directory:
        objects = [
            BundleObject(Kind.ROOT, "1", ObjectRef(sha256(METADATA["1.root.json"]), 13)),
            BundleObject(Kind.TIMESTAMP, "timestamp", ObjectRef(sha256(b"{}"), 2)),
            *(BundleObject(Kind.FRAMES, name, ObjectRef(digest, len(DATA))) for name, digest in FRAMES),
        ]
        table = Table(0.0, (), (), Audience(all=True), tuple(objects), PART_SIZE_MIN)
        (Path(directory) / "objects").mkdir()
        for found in objects:
            data = next((d for d in (*METADATA.values(), DATA) if sha256(d) == found.ref.sha256), DATA)
            (Path(directory) / "objects" / found.ref.sha256.hex()).write_bytes(data)
        (Path(directory) / "bundle.json").write_bytes(encode_table(table))
        yield BundleOrigin(BundleReader.open(directory))


FRAMES = (("right", DIGEST), ("lie", LIE))


@pytest.fixture(params=[memory, http, repository, bundle], ids=["memory", "http", "repository", "bundle"])
async def origin(request: pytest.FixtureRequest) -> AsyncIterator[Origin]:
    async with request.param() as found:
        yield found


async def read(origin: Origin, digest: Digest, start: int, stop: int) -> bytes:
    async with origin.stream(digest, start, stop) as parts:
        return b"".join([bytes(part) async for part in parts])


async def reason(attempt: Callable[[], Awaitable[object]]) -> tuple[str, bool]:
    with pytest.raises(OriginError) as caught:
        await attempt()
    return caught.value.reason, caught.value.retry


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 300_000), (0, 1), (299_999, 300_000), (7, 200_007), (5, 5), (0, 0)]
)
async def test_a_stream_is_exactly_the_range(origin: Origin, start: int, stop: int) -> None:
    before = origin.wire_bytes
    assert await read(origin, DIGEST, start, stop) == DATA[start:stop]
    assert origin.wire_bytes - before >= stop - start


async def test_a_range_beyond_the_object_is_truncated(origin: Origin) -> None:
    assert (await reason(lambda: read(origin, DIGEST, 299_999, 300_001)))[0] == "truncated"


async def test_what_is_not_there_is_not_found_and_not_worth_a_retry(origin: Origin) -> None:
    absent = sha256(b"absent")
    assert await reason(lambda: origin.metadata("2.root.json", 1000)) == ("not-found", False)
    assert await reason(lambda: origin.object(absent, 10)) == ("not-found", False)
    assert await reason(lambda: read(origin, absent, 0, 10)) == ("not-found", False)


async def test_metadata_comes_whole_up_to_its_limit(origin: Origin) -> None:
    assert await origin.metadata("timestamp.json", 2) == b"{}"
    assert (await reason(lambda: origin.metadata("timestamp.json", 1)))[0] == "too-long"


async def test_an_object_has_its_size_and_digest(origin: Origin) -> None:
    assert await origin.object(DIGEST, len(DATA)) == DATA
    assert (await reason(lambda: origin.object(LIE, len(DATA))))[0] == "wrong-digest"
    assert (await reason(lambda: origin.object(DIGEST, len(DATA) - 1)))[0] == "too-long"
    assert (await reason(lambda: origin.object(DIGEST, len(DATA) + 1)))[0] == "truncated"


async def test_leaving_a_stream_early_leaves_the_origin_usable(origin: Origin) -> None:
    async with origin.stream(DIGEST, 0, len(DATA)) as parts:
        await anext(parts)
    assert await read(origin, DIGEST, 10, 20) == DATA[10:20]


async def test_several_streams_at_once_do_not_mix(origin: Origin) -> None:
    async with origin.stream(DIGEST, 0, 150_000) as low, origin.stream(DIGEST, 150_000, 300_000) as high:
        halves = [b"", b""]
        while sum(map(len, halves)) < len(DATA):
            for half, parts in enumerate((low, high)):
                halves[half] += bytes(await anext(parts, b""))
        assert halves[0] + halves[1] == DATA
