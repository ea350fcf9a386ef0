"""The command line that the tuf-conformance suite drives, over real sockets and real files.

The suite itself is run by `make conformance`; these tests keep the shim and its bounds honest without it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p.cli import tuf_shim
from p2p.errors import ConfigError, OriginError
from tests.support.tuf_repository import Repository

Handler = Callable[[socket.socket, str], None]


@contextmanager
def server(handler: Handler) -> Iterator[str]:
    """Calls `handler` with each connection and the path that it asked for; gives the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if stop.is_set():
                    return
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096)
                try:
                    handler(connection, request.split()[1].decode())
                except OSError:
                    continue  # the client has gone, as some of these tests want

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()
        listener.close()


def answer(body: bytes, *, status: str = "200 OK", length: int | None = None) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
    )


# ------------------------------------------------------------------ bounds of the transport


def reason_of(handler: Handler, *, seconds: float = 5.0) -> str:
    with server(handler) as url, pytest.raises(OriginError) as caught:
        tuf_shim.fetch(f"{url}/x", 1000, seconds=seconds)
    return caught.value.reason


def test_a_body_within_its_bounds_is_read() -> None:
    with server(lambda connection, path: connection.sendall(answer(b"x" * 1000))) as url:
        assert tuf_shim.fetch(f"{url}/x", 1000) == b"x" * 1000


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden"])
def test_absent_is_none(status: str) -> None:
    with server(lambda connection, path: connection.sendall(answer(b"", status=status))) as url:
        assert tuf_shim.fetch(f"{url}/x", 1000) is None


def test_another_status_is_the_origins_fault() -> None:
    assert reason_of(lambda c, path: c.sendall(answer(b"", status="500 Oh"))) == "status"


def test_endless_data_is_cut_off_at_the_bound() -> None:
    sent = 0

    def endless(connection: socket.socket, path: str) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)
            sent += 65536

    assert reason_of(endless) == "too-long"
    assert sent < 32 * 1024 * 1024  # what socket buffers hold, not what was on offer


def test_a_declared_length_over_the_bound_is_cut_off() -> None:
    assert reason_of(lambda c, path: c.sendall(answer(b"x" * 1001))) == "too-long"


def test_a_truncated_body_is_refused() -> None:
    assert reason_of(lambda c, path: c.sendall(answer(b"x" * 9, length=10))) == "truncated"


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_dripping_server_is_given_up_on(part: str) -> None:
    def drip(connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b"X: "))
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    assert reason_of(drip, seconds=0.5) == "too-slow"
    assert time.monotonic() - started < 3


def test_an_endless_header_is_refused() -> None:
    assert reason_of(lambda c, path: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000)) == "unreachable"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    with pytest.raises(OriginError) as caught:
        tuf_shim.fetch(url, 10)
    assert caught.value.reason == "unreachable"


def test_other_schemes_are_not_spoken() -> None:
    with pytest.raises(ConfigError):
        tuf_shim.fetch("file:///etc/hostname", 10)


# ------------------------------------------------------------------ the commands


class Bench:
    """One repository on a server and one client's directories."""

    def __init__(self, directory: Path, url: str, repository: Repository) -> None:
        self.repository = repository
        self.metadata = directory / "metadata"
        self.targets = directory / "targets"
        self.targets.mkdir()
        self.root = directory / "root.json"
        self.root.write_bytes(repository.initial_root)
        self.url = url
        self.asked: list[str] = []

    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        self.asked.clear()
        common = ["tuf_shim", "--metadata-dir", str(self.metadata)]
        monkeypatch.setattr("sys.argv", [*common, *arguments])
        return tuf_shim.main()

    def refresh(self, monkeypatch: pytest.MonkeyPatch) -> int:
        return self.run(monkeypatch, "--metadata-url", f"{self.url}/metadata", "refresh")

    def download(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> int:
        return self.run(
            monkeypatch,
            "--metadata-url", f"{self.url}/metadata",
            "--target-base-url", f"{self.url}/targets",
            "--target-dir", str(self.targets),
            *(argument for name in names for argument in ("--target-name", name)),
            "download",
        )  # fmt: skip

    def downloaded(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.targets.iterdir())]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    repository = Repository(time.time())

    def serve(connection: socket.socket, path: str) -> None:
        made.asked.append(path)
        body = repository.files.get(path[1:])
        connection.sendall(answer(b"", status="404 Not Found") if body is None else answer(body))

    with server(serve) as url:
        made = Bench(tmp_path, url, repository)
        yield made


def publish_target(repository: Repository, path: str, data: bytes) -> None:
    target = repository.add_target("targets", path, data)
    folder, _, name = path.rpartition("/")
    repository.files[f"targets/{folder}/{target.hashes['sha256']}.{name}"] = data
    repository.publish("targets")


def test_init_makes_no_request_and_refresh_asks_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.run(monkeypatch, "init", str(bench.root)) == 0
    assert bench.asked == []
    assert bench.refresh(monkeypatch) == 0
    assert bench.asked == [
        f"/metadata/{name}.json" for name in ("2.root", "timestamp", "1.snapshot", "1.targets")
    ]
    for role in ("root", "timestamp", "snapshot", "targets"):
        name = f"metadata/{'' if role == 'timestamp' else '1.'}{role}.json"
        assert (bench.metadata / f"{role}.json").read_bytes() == bench.repository.files[name]


def test_a_refused_refresh_ends_with_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run(monkeypatch, "init", str(bench.root))
    right = bench.repository.files["metadata/timestamp.json"]
    bench.repository.files["metadata/timestamp.json"] = right.replace(b'"version":1', b'"version":2')
    assert bench.refresh(monkeypatch) == 1
    assert "TrustError signature" in capsys.readouterr().err
    assert not (bench.metadata / "timestamp.json").exists()
    bench.repository.files["metadata/timestamp.json"] = right
    assert bench.refresh(monkeypatch) == 0


def test_download_stores_what_was_signed_and_caches_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(monkeypatch, "init", str(bench.root))
    publish_target(bench.repository, "a/b.txt", b"one")
    assert bench.download(monkeypatch, "a/b.txt") == 0
    assert bench.downloaded() == [b"one"]
    assert bench.download(monkeypatch, "a/b.txt") == 0
    assert not any(path.startswith("/targets") for path in bench.asked)
    publish_target(bench.repository, "a/b.txt", b"two")
    assert bench.download(monkeypatch, "a/b.txt") == 0
    assert bench.downloaded() == [b"two"]


def test_a_target_that_is_unknown_or_exchanged_ends_with_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(monkeypatch, "init", str(bench.root))
    publish_target(bench.repository, "a/b.txt", b"one")
    assert bench.download(monkeypatch, "a/c.txt") == 1
    (name,) = (name for name in bench.repository.files if name.startswith("targets/"))
    bench.repository.files[name] = b"two"
    assert bench.download(monkeypatch, "a/b.txt") == 1
    assert bench.downloaded() == []
    bench.repository.files[name] = b"one"
    assert bench.download(monkeypatch, "a/b.txt") == 0
