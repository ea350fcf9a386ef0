"""The real coordinator on a free loopback port, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from coordinator.app import Coordinator, ServeOptions, make_server
from coordinator.publishing.repository import Repository

PATIENCE_S = 60.0


@contextlib.contextmanager
def serving(
    repository: Repository, clock: Callable[[], float], certificate: Path | None = None
) -> Iterator[tuple[Coordinator, str]]:
    """Serve a repository until the block ends; gives the coordinator and its URL.

    `certificate`: a file with a certificate and its key; then by HTTPS.
    """
    coordinator = Coordinator.open(repository, clock=clock)
    started = threading.Event()
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        started.set()

    server, listener = make_server(coordinator, ServeOptions("127.0.0.1", 0, certificate, certificate), ready)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        yield coordinator, urls[0]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()
        assert not thread.is_alive()
