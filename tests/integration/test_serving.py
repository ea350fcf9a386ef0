"""Metadata and objects over a real server: ranges, validators, caching, streaming, and what is not served."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet_repository import Fleet, Running, running

CONTENT = bytes(range(256)) * 5_000  # 1.28 MB: several blocks
NAME = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    fleet = Fleet.make(tmp_path_factory.mktemp("serving"))
    (fleet.directory / "objects" / NAME).write_bytes(CONTENT)
    (fleet.directory / "objects" / ("e" * 64)).write_bytes(b"")
    return fleet


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Iterator[Running]:
    with running(fleet) as found:
        yield found


def test_an_object_is_served_whole_and_for_ever(server: Running) -> None:
    answer = server.ask("GET", f"/objects/{NAME}")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers == {
        "etag": f'"{NAME}"',
        "cache-control": "public,max-age=31536000,immutable",
        "content-length": str(len(CONTENT)),
        "accept-ranges": "bytes",
    }


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=300000-900000", 300_000, 900_001),
        (f"bytes={len(CONTENT) - 1}-", len(CONTENT) - 1, len(CONTENT)),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
        (f"bytes=-{len(CONTENT) * 2}", 0, len(CONTENT)),
        (f"bytes=5-{len(CONTENT) * 2}", 5, len(CONTENT)),
    ],
)
def test_a_range_is_served(server: Running, header: str, start: int, stop: int) -> None:
    answer = server.ask("GET", f"/objects/{NAME}", Range=header)
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["etag"] == f'"{NAME}"'


@pytest.mark.parametrize(
    "header", [f"bytes={len(CONTENT)}-", f"bytes={len(CONTENT)}-{len(CONTENT) + 5}", "bytes=-0"]
)
def test_a_range_past_the_end_is_416(server: Running, header: str) -> None:
    answer = server.ask("GET", f"/objects/{NAME}", Range=header)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "header",
    ["bytes=5-4", "bytes=0-1,3-4", "bytes=a-b", "items=0-1", "bytes=", "bytes=--1", f"bytes={'9' * 30}-"],
)
def test_a_range_that_means_nothing_is_ignored(server: Running, header: str) -> None:
    answer = server.ask("GET", f"/objects/{NAME}", Range=header)
    assert (answer.status, answer.body) == (200, CONTENT)


def test_if_range_guards_a_range(server: Running) -> None:
    same = server.ask("GET", f"/objects/{NAME}", Range="bytes=0-3", If_Range=f'"{NAME}"')
    assert (same.status, same.body) == (206, CONTENT[:4])
    other = server.ask("GET", f"/objects/{NAME}", Range="bytes=0-3", If_Range='"other"')
    assert (other.status, other.body) == (200, CONTENT)


def test_if_none_match_saves_the_body(server: Running) -> None:
    for tags in (f'"{NAME}"', f'"a", W/"{NAME}"', "*"):
        answer = server.ask("GET", f"/objects/{NAME}", If_None_Match=tags)
        assert (answer.status, answer.body) == (304, b"")
    assert server.ask("GET", f"/objects/{NAME}", If_None_Match='"other"').status == 200


def test_head_says_what_get_would(server: Running) -> None:
    answer = server.ask("HEAD", f"/objects/{NAME}", Range="bytes=0-3")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(CONTENT))


def test_an_empty_object_is_served(server: Running) -> None:
    assert server.ask("GET", f"/objects/{'e' * 64}").body == b""
    assert server.ask("GET", f"/objects/{'e' * 64}", Range="bytes=0-").status == 416


def test_timestamp_is_asked_for_each_time_and_cheap(server: Running, fleet: Fleet) -> None:
    first = server.ask("GET", "/metadata/timestamp.json")
    assert first.body == (fleet.repository.metadata / "timestamp.json").read_bytes()
    assert first.headers["cache-control"] == "no-cache"
    assert len(first.body) < 512
    again = server.ask("GET", "/metadata/timestamp.json", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    with fleet.repository.locked() as state:
        fleet.repository.refresh(state)
    changed = server.ask("GET", "/metadata/timestamp.json", If_None_Match=first.headers["etag"])
    assert changed.status == 200
    assert changed.body == (fleet.repository.metadata / "timestamp.json").read_bytes()


def test_versioned_metadata_is_immutable_and_the_next_root_is_not_cached(server: Running) -> None:
    found = server.ask("GET", "/metadata/1.root.json")
    assert (found.status, found.headers["cache-control"]) == (200, "public,max-age=31536000,immutable")
    missing = server.ask("GET", "/metadata/2.root.json")
    assert (missing.status, missing.body) == (404, b"")
    assert missing.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/objects/../keys/root.pem",
        "/objects/..%2fkeys%2froot.pem",
        "/metadata/../repo.toml",
        "/metadata/..%2frepo.toml",
        "/metadata/%2e%2e/repo.toml",
        "/metadata/.lock",
        "/metadata/timestamp.json%00",
        "/metadata/timestamp.json/",
        "/objects/" + "E" * 64,
        "/objects/" + "e" * 63,
        "/objects/",
        "/metadata/0.root.json",
        "//objects/" + "e" * 64,
        "/repo.toml",
    ],
)
def test_nothing_else_is_served(server: Running, fleet: Fleet, path: str) -> None:
    assert (fleet.directory / "repo.toml").is_file()
    assert (fleet.directory / "keys" / "root.pem").is_file()
    assert server.ask("GET", path).status == 404


def test_only_reading_is_allowed(server: Running) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = server.ask(method, f"/objects/{NAME}")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_many_clients_stream_at_once_on_kept_connections(server: Running) -> None:
    wrong: list[str] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        for start in range(number * 1000, 1_000_000, 250_000):
            connection.request(
                "GET", f"/objects/{NAME}", headers={"Range": f"bytes={start}-{start + 199_999}"}
            )
            if connection.getresponse().read() != CONTENT[start : start + 200_000]:
                wrong.append(f"{number}@{start}")
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_client_that_leaves_costs_no_more_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet.make(tmp_path)
    name = "a" * 64
    with (fleet.directory / "objects" / name).open("wb") as file:
        file.truncate(1 << 36)  # sparse: reading all of it would take a minute
    reads: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        reads.append(at)
        return real(descriptor, size, at)

    monkeypatch.setattr("coordinator.api.files.os.pread", pread)
    with running(fleet) as server:
        with socket.create_connection(server.address) as client:
            client.sendall(f"GET /objects/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 10
        before = -1
        while before != len(reads):  # until a whole request is answered without a read in between
            assert time.monotonic() < deadline
            before = len(reads)
            assert server.ask("GET", "/metadata/1.root.json").status == 200
        assert 0 < len(reads) < 1000
