"""A WAN link without root: a TCP relay that counts every byte, keeps to a rate and can be cut.

All devices of a site reach the coordinator through one of these, so what it counts is what the site's link
carries above TCP, requests and metadata included. For wire bytes and real shaping use the namespaces of
`benchmarks.rig.network`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import trio

from benchmarks.rig.processes import RigError

__all__ = ["Link"]

_BLOCK = 16 << 10
_READY_S = 10


class Link:
    """A relay from a loopback port to `host:port`, as a context. Its rate may be changed while it runs."""

    def __init__(self, host: str, port: int, *, rate: int | None = None) -> None:
        self.rate = rate
        self.down = 0
        self.up = 0
        self.port = 0
        self._target = (host, port)
        self._free_at = 0.0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"link to {host}:{port}", daemon=True)
        self._run: Callable[..., Any] | None = None
        self._stop: trio.CancelScope | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_READY_S) or not self.port:
            raise RigError("the relay could not listen on loopback")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run and self._stop:
            with contextlib.suppress(trio.RunFinishedError):
                self._run(self._stop.cancel)
        self._thread.join(_READY_S)

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._run = trio.lowlevel.current_trio_token().run_sync_soon
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        with trio.CancelScope() as self._stop:
            await trio.serve_listeners(self._relay, listeners, task_status=_Ready(self._ready))

    async def _relay(self, near: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            far = await trio.open_tcp_stream(*self._target)
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, far, near, True)
                await self._pump(near, far, False)
                nursery.cancel_scope.cancel()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, down: bool) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(_BLOCK):
                if down:
                    self.down += len(data)
                    await self._pace(len(data))
                else:
                    self.up += len(data)
                await sink.send_all(data)
            await sink.send_eof()
        if down:
            return

    async def _pace(self, count: int) -> None:
        """One queue for all connections, as on a real link."""
        if self.rate:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.rate
            await trio.sleep(self._free_at - time.monotonic())


class _Ready(trio.TaskStatus[Any]):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def started(self, value: object = None) -> None:
        self._event.set()
