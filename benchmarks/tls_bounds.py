"""What a transfer between peers costs at the least: processor seconds per GB, by parts of the way.

    python -m benchmarks.tls_bounds [--mib 256] [--rounds 5] [--json]

Two processes on loopback, TLS 1.3 with certificates of both ends as agents have them, records of at most
16 KiB, pieces of 256 KiB; the file is in memory.

- `openssl`: the programs `openssl s_server` and `s_client`, from a file to `/dev/null`, if they are here;
- `sockets`: blocking `ssl.SSLSocket`, nothing else;
- `sockets, verified`: the same, each piece read from a file, hashed (SHA-256) and written to a file;
- `trio`: `trio.SSLStream` alone: what it would cost to build on that;
- `agent`: the agent's own links, serving and storing (`benchmarks.peer_throughput`).

No program that encrypts in user space and verifies by SHA-256 can cost less than the second row and hashing,
so the number of cores divided by the sum of both ends bounds what all transfers of a machine can come to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import trio

from benchmarks.peer_throughput import Places, prepare, run_slipstream
from benchmarks.peer_workloads import PIECE
from benchmarks.rig.processes import until


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds per GB, user and system."""

    what: str
    send: float
    receive: float

    @property
    def both(self) -> float:
        return self.send + self.receive


def _context(directory: Path, device: str, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(directory / f"{device}.pem", directory / f"{device}.key")
    return context


def _in_child(work: Callable[[], None]) -> int:
    """Start `work` in a process of its own; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def _cpu_of(pid: int) -> float:
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise click.ClickException(f"a process ended with {status}")
    return usage.ru_utime + usage.ru_stime


def sockets(directory: Path, size: int, *, verified: bool) -> tuple[float, float]:
    """Blocking TLS sockets; the seconds of sender and receiver."""
    listener = socket.create_server(("127.0.0.1", 0))
    source, target = directory / "source", directory / "target"
    shutil.copyfile(source, target)
    contexts = _context(directory, "one", server=True), _context(directory, "two", server=False)

    def send() -> None:
        with (
            contexts[0].wrap_socket(listener.accept()[0], server_side=True) as sock,
            source.open("rb") as file,
        ):
            piece = file.read(PIECE)
            for at in range(0, size, PIECE):
                sock.sendall(os.pread(file.fileno(), PIECE, at) if verified else piece)

    def receive() -> None:
        buffer = memoryview(bytearray(PIECE))
        connection = socket.create_connection(listener.getsockname())
        with contexts[1].wrap_socket(connection) as sock, target.open("r+b") as file:
            for at in range(0, size, PIECE):
                filled = 0
                while filled < PIECE:
                    filled += sock.recv_into(buffer[filled:])
                if verified:
                    hashlib.sha256(buffer).digest()
                    os.pwrite(file.fileno(), buffer, at)

    with listener:
        pids = [_in_child(send), _in_child(receive)]
        return _cpu_of(pids[0]), _cpu_of(pids[1])


def trio_streams(directory: Path, size: int) -> tuple[float, float]:
    """`trio.SSLStream` at both ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    contexts = _context(directory, "one", server=True), _context(directory, "two", server=False)

    async def send() -> None:
        sock, _ = await trio.socket.from_stdlib_socket(listener).accept()
        stream = trio.SSLStream(trio.SocketStream(sock), contexts[0], server_side=True)
        piece = bytes(PIECE)
        for _ in range(size // PIECE):
            await stream.send_all(piece)

    async def receive() -> None:
        stream = trio.SSLStream(await trio.open_tcp_stream(*listener.getsockname()), contexts[1])
        left = size
        while left:
            left -= len(await stream.receive_some(PIECE))

    pids = [_in_child(lambda: trio.run(send)), _in_child(lambda: trio.run(receive))]
    listener.close()
    return _cpu_of(pids[0]), _cpu_of(pids[1])


def openssl(directory: Path) -> tuple[float, float]:
    """The `openssl` programs: a file asked for and sent."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = ["-CAfile", directory / "ca.pem", "-tls1_3", "-quiet"]
    serve = ["openssl", "s_server", "-WWW", "-accept", f"127.0.0.1:{port}", *common,
             "-cert", directory / "one.pem", "-key", directory / "one.key"]  # fmt: skip
    fetch = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *common,
             "-cert", directory / "two.pem", "-key", directory / "two.key"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(serve, cwd=directory, **quiet) as server:
        until("openssl s_server", lambda: _listens(port), 10.0)
        with subprocess.Popen(fetch, stdin=subprocess.PIPE, **quiet) as client:
            if client.stdin is not None:
                client.stdin.write(b"GET /source HTTP/1.0\r\n\r\n")
                client.stdin.flush()
            received = _cpu_of(client.pid)
            client.returncode = 0
        server.terminate()
        _, _, usage = os.wait4(server.pid, 0)
        server.returncode = 0
    return usage.ru_utime + usage.ru_stime, received


def _listens(port: int) -> bool:
    """Whether a port of this machine is listened on; to connect would be one connection more."""
    table = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} 00000000:0000 0A" in line for line in table)


def measure(size: int, rounds: int, directory: Path) -> list[Cost]:
    """All rows, each the median of so many runs in turn."""
    prepare(directory, size)
    gigabytes = size / 1e9

    def agent() -> tuple[float, float]:
        found = run_slipstream(directory, "links", Places.on_loopback(1))
        return found["send_cpu_s_per_GB"] * gigabytes, found["receive_cpu_s_per_GB"] * gigabytes

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "sockets": lambda: sockets(directory, size, verified=False),
        "sockets, verified": lambda: sockets(directory, size, verified=True),
        "trio": lambda: trio_streams(directory, size),
        "agent": agent,
    }
    if shutil.which("openssl"):
        ways = {"openssl": lambda: openssl(directory), **ways}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
    return [
        Cost(name, *(statistics.median(side) / gigabytes for side in zip(*of_one, strict=True)))
        for name, of_one in runs.items()
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--mib", default=256, show_default=True, help="Size of the file.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each; medians are told.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def main(mib: int, rounds: int, as_json: bool) -> None:
    """Processor seconds per GB of what a transfer between peers is made of."""
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as directory:
        found = measure(mib << 20, rounds, Path(directory))
    if as_json:
        print(json.dumps([asdict(cost) for cost in found]))
        return
    cores = os.cpu_count() or 1
    print(f"{'CPU s per GB':20}{'send':>8}{'receive':>10}{'both':>8}{f'MB/s at most, {cores} cores':>26}")
    for cost in found:
        most = 1000 * cores / cost.both
        print(f"{cost.what:20}{cost.send:8.2f}{cost.receive:10.2f}{cost.both:8.2f}{most:26.0f}")


if __name__ == "__main__":
    main()
