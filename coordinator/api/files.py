"""Serving metadata and objects: ranges, validators, caching, and as few header bytes as HTTP allows.

Objects are immutable and named by their digest, so they are cached for ever and their digest is their
entity tag. Of the metadata only `timestamp.json` (and what does not exist yet) must be asked for each time.
A plain ASGI application: any static server can take its place, nothing else depends on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BLOCK = 256 * 1024
STALL_S = 60.0
"""A client that takes no block for this long is dropped."""
METADATA_MAX = 8 << 20
IMMUTABLE = b"public,max-age=31536000,immutable"
_OBJECT = re.compile(r"/objects/([0-9a-f]{64})")
_METADATA = re.compile(r"/metadata/((?:timestamp|[1-9][0-9]{0,9}\.[A-Za-z0-9][A-Za-z0-9._+~-]{0,200})\.json)")
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The part `[start, stop)` of a file; `partial` if it was asked for as a range."""

    start: int
    stop: int
    partial: bool


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """What a Range header asks for (RFC 9110 section 14); None if it cannot be satisfied.

    Only single ranges are served; for anything else the header is ignored, as the RFC allows.
    """
    whole = ByteRange(0, size, False)
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None:
        return whole
    first, last, suffix = match.groups()
    if suffix is not None:
        length = int(suffix)
        return ByteRange(max(0, size - length), size, True) if length and size else None
    start = int(first)
    stop = size if not last else min(int(last) + 1, size)
    if last and int(last) < start:
        return whole
    return ByteRange(start, stop, True) if start < size else None


class RepositoryFiles:
    """ASGI application for `/metadata/<name>` and `/objects/<sha256>` of a repository directory."""

    def __init__(self, directory: Path) -> None:
        self._metadata = directory / "metadata"
        self._objects = directory / "objects"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        found = _OBJECT.fullmatch(path)
        named = None if found else _METADATA.fullmatch(path)
        if scope["method"] not in ("GET", "HEAD"):
            await _reply(send, 405, [(b"allow", b"GET, HEAD")])
        elif found is not None:
            await self._object(found[1], scope, receive, send)
        elif named is not None:
            await self._metadata_file(named[1], scope, send)
        else:
            await _reply(send, 404, [(b"cache-control", b"no-cache")])

    async def _object(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            descriptor = os.open(self._objects / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            await _reply(send, 404, [(b"cache-control", b"no-cache")])
            return
        try:
            size = os.fstat(descriptor).st_size
            await _serve(
                scope, receive, send, f'"{name}"', IMMUTABLE, size, lambda n, at: os.pread(descriptor, n, at)
            )
        finally:
            os.close(descriptor)

    async def _metadata_file(self, name: str, scope: Scope, send: Send) -> None:
        try:
            with (self._metadata / name).open("rb") as file:
                data = file.read(METADATA_MAX)
        except OSError:
            await _reply(send, 404, [(b"cache-control", b"no-cache")])
            return
        caching = b"no-cache" if name == "timestamp.json" else IMMUTABLE
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        await _serve(scope, None, send, tag, caching, len(data), lambda n, at: data[at : at + n])


async def _serve(
    scope: Scope,
    receive: Receive | None,
    send: Send,
    tag: str,
    caching: bytes,
    size: int,
    read: Callable[[int, int], bytes],
) -> None:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    common = [(b"etag", tag.encode()), (b"cache-control", caching)]
    if _matches(headers.get(b"if-none-match"), tag):
        await _reply(send, 304, common)
        return
    wanted = headers.get(b"range") if scope["method"] == "GET" else None
    condition = headers.get(b"if-range")
    if condition is not None and condition.strip() != tag:
        wanted = None
    part = parse_range(wanted, size)
    if part is None:
        await _reply(send, 416, [(b"content-range", f"bytes */{size}".encode())])
        return
    fields = [*common, (b"content-length", str(part.stop - part.start).encode())]
    if part.partial:
        fields.append((b"content-range", f"bytes {part.start}-{part.stop - 1}/{size}".encode()))
    else:
        fields.append((b"accept-ranges", b"bytes"))
    await send({"type": "http.response.start", "status": 206 if part.partial else 200, "headers": fields})
    if scope["method"] == "HEAD" or part.start == part.stop:
        await send({"type": "http.response.body", "body": b""})
    else:
        await _send_part(receive, send, part, read)


async def _send_part(
    receive: Receive | None, send: Send, part: ByteRange, read: Callable[[int, int], bytes]
) -> None:
    # The server does not say so when a client has gone; only `receive` does.
    gone = None if receive is None else asyncio.ensure_future(_until_gone(receive))
    try:
        at = part.start
        while at < part.stop and not (gone is not None and gone.done()):
            block = read(min(BLOCK, part.stop - at), at)
            if not block:
                raise OSError("the file became shorter while it was served")
            at += len(block)
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": block, "more_body": at < part.stop})
            # `send` to a fast client, or to one that has gone, never waits: let the others have their turn.
            await asyncio.sleep(0)
    finally:
        if gone is not None:
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _matches(header: str | None, tag: str) -> bool:
    if header is None:
        return False
    tags = {candidate.strip().removeprefix("W/") for candidate in header.split(",")}
    return tag in tags or "*" in tags


async def _reply(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
