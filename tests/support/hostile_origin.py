"""An origin that serves a repository directory and misbehaves on request: raw HTTP/1.1 on trio.

Without a `fault` it is a right static server with Range, so every test of a fault has its twin.
A fault is a function of the request; it returns what to do instead, or None to answer rightly.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

BLOCK = 64 * 1024


@dataclass(frozen=True)
class Request:
    """`path` below the repository; `start`, `stop` of the Range (None: the whole file)."""

    path: str
    start: int | None
    stop: int | None
    count: int
    """How often this path was asked for before."""

    @property
    def is_object(self) -> bool:
        return self.path.startswith("objects/")

    def is_for(self, digest: bytes) -> bool:
        return self.path == f"objects/{digest.hex()}"


@dataclass
class Answer:
    """What is sent: a head and a body, and how."""

    status: str
    headers: dict[str, str]
    body: bytes
    send_max: int | None = None
    """Cut the connection after this many bytes of the body."""

    block: int = BLOCK
    pause_s: float = 0.0
    """Between blocks."""

    hold: trio.Event | None = None
    """Wait for this before the head."""


Fault = Callable[[Request, Answer], "Answer | None"]


@dataclass
class HostileOrigin:
    """`sent`: body bytes per path. `faults` counts how often the fault changed an answer."""

    directory: Path
    fault: Fault | None = None
    sent: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    url: str = ""
    requests: list[Request] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HostileOrigin]:
        """Serve on a free loopback port until the block ends."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._connection, listeners)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    def object_bytes(self) -> int:
        """Body bytes of objects that were sent: what frames, indexes, manifests and orders cost."""
        return sum(size for path, size in self.sent.items() if path.startswith("objects/"))

    async def _connection(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    data = await stream.receive_some(BLOCK)
                    if not data:
                        return
                    pending += data
                head, _, pending = pending.partition(b"\r\n\r\n")
                if not await self._answer(stream, head.decode("latin-1")):
                    await stream.aclose()
                    return

    async def _answer(self, stream: trio.SocketStream, head: str) -> bool:
        """Whether the connection can be used on."""
        path = head.split(" ", 2)[1].lstrip("/")
        found = re.search(r"(?im)^range: *bytes=(\d+)-(\d+)", head)
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (None, None)
        request = Request(path, start, stop, self.asked[path])
        self.requests.append(request)
        self.asked[path] += 1
        answer = self._right(request)
        if self.fault is not None:
            changed = self.fault(request, answer)
            if changed is not None:
                self.faults += 1
                answer = changed
        if answer.hold is not None:
            await answer.hold.wait()
        headers = "".join(f"{key}: {value}\r\n" for key, value in answer.headers.items())
        await stream.send_all(f"HTTP/1.1 {answer.status}\r\n{headers}\r\n".encode())
        body = answer.body[: answer.send_max]
        for at in range(0, len(body), answer.block):
            part = body[at : at + answer.block]
            self.sent[path] += len(part)
            await stream.send_all(part)
            if answer.pause_s:
                await trio.sleep(answer.pause_s)
        return answer.send_max is None

    def _right(self, request: Request) -> Answer:
        path = self.directory / request.path
        inside = request.path.startswith(("metadata/", "objects/")) and ".." not in request.path
        if not inside or not path.is_file():
            return Answer("404 Not Found", {"Content-Length": "0"}, b"")
        data = path.read_bytes()
        if request.start is None or request.stop is None:
            return Answer("200 OK", {"Content-Length": str(len(data))}, data)
        body = data[request.start : request.stop]
        return Answer(
            "206 Partial Content",
            {
                "Content-Length": str(len(body)),
                "Content-Range": f"bytes {request.start}-{request.start + len(body) - 1}/{len(data)}",
            },
            body,
        )
