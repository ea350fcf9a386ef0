"""One node to one or several, on loopback: MB/s and CPU-seconds per GB, beside libtorrent in the same run.

    python -m benchmarks.peer_throughput [--size-mib 512] [--rounds 3] [--json]
    python -m benchmarks.peer_throughput --receivers 8 --size-mib 128

Each contender is a process that has a file of random bytes, and one or more that fetch, verify and
write it over another file of that size, as into a slot, all on a file system in memory. (Into a new file,
a third of the receiver's time is the kernel finding pages for it, whoever the contender.) Contenders take
turns; medians are compared. Several receivers have the sender alone to take from, and begin together; their
bytes are added up.

- `slipstream`: TLS 1.3 both ways with device certificates, the wire codec, 16 wants in flight, SHA-256 of
  every piece before it is written. What runs over the stream is a `Workload` (`benchmarks.peer_workloads`):
  the agent's own connections, serving and storing, or the bare codec to compare with.
- `libtorrent`: tuned (see `TUNED`), TCP only, one peer; v1 and v2 torrents, plain and with its RC4
  encryption forced. It authenticates nobody. The fastest of its variants is what the goal is held against.

Time runs from the first request to the last piece of the last receiver, verified and handed to the file. CPU
is user and system time of all processes over the same span (threads included), per GB received.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.peer_workloads import PIECE, WORKLOADS, Workload
from coordinator.publishing.authority import FleetAuthority
from p2p.adapters.identity import Credentials, load_credentials, make_key
from p2p.adapters.tls import TlsTransport
from p2p.content.digests import Digest, sha256
from p2p.ports import PeerAddress

CHILD_S_MAX = 60.0
GOAL = 2.5
"""Times the bytes a second of the fastest rival, at no more processor time a byte."""

TUNED: dict[str, Any] = {
    # one peer on loopback, as fast as it goes
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "max_out_request_queue": 4000,
    "max_allowed_in_request_queue": 8000,
    "request_queue_time": 10,
    "whole_pieces_threshold": 60,
    "send_buffer_watermark": 16 << 20,
    "send_buffer_low_watermark": 1 << 20,
    "send_buffer_watermark_factor": 200,
    "send_socket_buffer_size": 4 << 20,
    "recv_socket_buffer_size": 4 << 20,
    "max_peer_recv_buffer_size": 16 << 20,
    "max_queued_disk_bytes": 64 << 20,
    "aio_threads": 2,
    "hashing_threads": 2,
    "unchoke_slots_limit": -1,
    "no_atime_storage": True,
    "ssrf_mitigation": False,
    # nothing that is not the transfer
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": 0,
}


# Child processes: each prints one JSON line per step and reads commands on its standard input


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def slipstream_sender(directory: Path, workload: Workload) -> None:
    """Child: serve the file to all who come."""

    async def main() -> None:
        workload.hold(directory / "source", _digests(directory))
        transport = TlsTransport(_credentials(directory, "one"), time.time, host="127.0.0.1")
        _say(port=transport.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve, workload.serve)
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            before = _cpu()
            _say(ready=True)
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            _say(cpu_s=_cpu() - before)
            nursery.cancel_scope.cancel()

    trio.run(main)


def slipstream_fetcher(directory: Path, workload: Workload, port: int, target: Path) -> None:
    """Child: fetch the file from the other one."""

    async def main() -> None:
        workload.make(target / "source", _digests(directory))
        transport = TlsTransport(_credentials(directory, "two"), time.time, host="127.0.0.1")
        stream = await transport.connect(PeerAddress("127.0.0.1", port))
        _say(ready=True)
        sys.stdin.readline()
        clock, cpu = time.perf_counter(), _cpu()
        await workload.fetch(stream)
        _say(began=clock, ended=time.perf_counter(), cpu_s=_cpu() - cpu)
        await stream.aclose()
        transport.close()

    trio.run(main)


def _libtorrent_session(encrypted: bool) -> Any:
    import libtorrent as lt

    policy = lt.enc_policy.forced if encrypted else lt.enc_policy.disabled
    return lt.session(
        TUNED
        | {
            "listen_interfaces": "127.0.0.1:0",
            "in_enc_policy": int(policy),
            "out_enc_policy": int(policy),
            "allowed_enc_level": int(lt.enc_level.rc4 if encrypted else lt.enc_level.plaintext),
        }
    )


def _add(session: Any, torrent: Path, directory: Path, *, seeding: bool) -> Any:
    import libtorrent as lt

    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(torrent))
    parameters.save_path = str(directory)
    if seeding:
        parameters.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(parameters)


def libtorrent_sender(directory: Path, torrent: Path, encrypted: bool) -> None:
    """Child: seed the file."""
    session = _libtorrent_session(encrypted)
    handle = _add(session, torrent, directory, seeding=True)
    while not (session.listen_port() and handle.status().is_seeding):
        time.sleep(0.02)
    _say(port=session.listen_port())
    sys.stdin.readline()
    before = _cpu()
    _say(ready=True)
    sys.stdin.readline()
    _say(cpu_s=_cpu() - before)


def libtorrent_fetcher(torrent: Path, encrypted: bool, port: int, target: Path) -> None:
    """Child: download the file from the other one."""
    import libtorrent as lt

    session = _libtorrent_session(encrypted)
    handle = _add(session, torrent, target, seeding=False)
    states = lt.torrent_status.states
    while handle.status().state in (states.checking_files, states.checking_resume_data):
        time.sleep(0.005)
    _say(ready=True)
    sys.stdin.readline()
    clock, cpu = time.perf_counter(), _cpu()
    handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        time.sleep(0.005)
    _say(began=clock, ended=time.perf_counter(), cpu_s=_cpu() - cpu)


# The parent


def run_slipstream(directory: Path, workload: str, receivers: int) -> dict[str, float]:
    """One transfer to each."""
    return _run("slipstream", directory, [str(directory), "--workload", workload], receivers)


def run_libtorrent(directory: Path, version: str, encrypted: bool, receivers: int) -> dict[str, float]:
    """One transfer to each."""
    common = [str(directory), "--torrent", str(directory / f"{version}.torrent")]
    return _run("libtorrent", directory, common + (["--encrypted"] if encrypted else []), receivers)


def _run(contender: str, directory: Path, common: list[str], receivers: int) -> dict[str, float]:
    """A sender, and receivers that begin when all are ready."""
    source = directory / "source"
    targets = [directory / f"receiver-{n}" for n in range(receivers)]
    for target in targets:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        _make_slot(target / "source", source.stat().st_size)
    with ExitStack() as stack:
        sender = stack.enter_context(_child(f"{contender}-sender", *common))
        port = _hear(sender)["port"]
        _tell(sender)
        _hear(sender)
        fetchers = [
            stack.enter_context(
                _child(f"{contender}-fetcher", *common, "--port", str(port), "--target", str(target))
            )
            for target in targets
        ]
        for fetcher in fetchers:
            _hear(fetcher)
        for fetcher in fetchers:
            _tell(fetcher)
        received = [_hear(fetcher) for fetcher in fetchers]
        _tell(sender)
        sent = _hear(sender)
    for target in targets:
        _same(source, target / "source")
        shutil.rmtree(target)
    gigabytes = receivers * source.stat().st_size / 1e9
    seconds = max(r["ended"] for r in received) - min(r["began"] for r in received)
    return {
        "MB_per_s": gigabytes * 1000 / seconds,
        "send_cpu_s_per_GB": sent["cpu_s"] / gigabytes,
        "receive_cpu_s_per_GB": sum(r["cpu_s"] for r in received) / gigabytes,
    }


def _make_slot(path: Path, size: int) -> None:
    """A file of zeros with all its pages in place."""
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(bytes(min(PIECE, size - start)))


def _same(one: Path, other: Path) -> None:
    if subprocess.run(["cmp", "-s", one, other], check=False).returncode:
        raise SystemExit(f"{other.name}: what arrived is not what was sent")


@contextmanager
def _child(role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.peer_throughput", "--role", role, "--directory", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(CHILD_S_MAX, process.kill)
        watchdog.start()
        try:
            yield process
            process.communicate()
        finally:
            watchdog.cancel()
            process.kill()


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = _pipe(process.stdout).readline()
    if not line:
        raise SystemExit(f"{process.args}: ended without an answer")
    found: dict[str, Any] = json.loads(line)
    return found


def _tell(process: subprocess.Popen[str]) -> None:
    pipe = _pipe(process.stdin)
    pipe.write("\n")
    pipe.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def prepare(directory: Path, size: int) -> None:
    digests = []
    with (directory / "source").open("wb") as file:
        for _ in range(size // PIECE):
            data = os.urandom(PIECE)
            digests.append(sha256(data).hex())
            file.write(data)
    (directory / "digests").write_text("\n".join(digests))
    make_credentials(directory)


def _digests(directory: Path) -> list[Digest]:
    return [Digest(bytes.fromhex(line)) for line in (directory / "digests").read_text().split()]


def _make_torrents(directory: Path, piece_size: int) -> None:
    import libtorrent as lt

    for version, flag in (("v1", lt.create_torrent.v1_only), ("v2", lt.create_torrent.v2_only)):
        entry = lt.create_file_entry("source", (directory / "source").stat().st_size)
        torrent = lt.create_torrent([entry], piece_size, flag)
        lt.set_piece_hashes(torrent, str(directory))
        (directory / f"{version}.torrent").write_bytes(lt.bencode(torrent.generate()))


def make_credentials(directory: Path) -> None:
    """A fleet of two devices."""
    now = datetime.now(UTC)
    (directory / "ca").mkdir()
    authority = FleetAuthority.create(directory, None, "benchmark", now)
    for device in ("one", "two"):
        key = make_key(directory / f"{device}.key")
        certificate = authority.issue(key.public_key(), device, "bench", (), now, 30)
        (directory / f"{device}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def _credentials(directory: Path, device: str) -> Credentials:
    return load_credentials(directory / f"{device}.key", directory / f"{device}.pem", directory / "ca.pem")


def measure(
    size: int, rounds: int, workload: str, piece_size: int, directory: Path, receivers: int = 1
) -> dict[str, Any]:
    """All contenders in turn, `rounds` times; medians per contender and our ratio to the fastest rival."""
    prepare(directory, size)
    contenders: dict[str, Callable[[], dict[str, float]]] = {
        "slipstream": lambda: run_slipstream(directory, workload, receivers)
    }
    unavailable = None
    try:
        _make_torrents(directory, piece_size)
    except ImportError as error:
        unavailable = f"libtorrent: {error} (pip install libtorrent)"
    else:
        for version in ("v1", "v2"):
            for encrypted in (False, True):
                name = f"libtorrent {version}{' encrypted' if encrypted else ''}"
                contenders[name] = partial(run_libtorrent, directory, version, encrypted, receivers)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            runs[name].append(run())
    medians = {
        name: {key: statistics.median(r[key] for r in of_one) for key in of_one[0]}
        for name, of_one in runs.items()
    }
    rivals = {name: m["MB_per_s"] for name, m in medians.items() if name != "slipstream"}
    fastest = max(rivals, key=lambda name: rivals[name]) if rivals else None
    return {
        "bytes": size,
        "rounds": rounds,
        "receivers": receivers,
        "workload": workload,
        "medians": medians,
        "fastest_rival": fastest,
        "ratio": medians["slipstream"]["MB_per_s"] / rivals[fastest] if fastest else None,
        "goal": GOAL,
        "unavailable": unavailable,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="links")
    parser.add_argument("--torrent-piece-kib", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--torrent", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encrypted", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]()
    match options.role:
        case "slipstream-sender":
            slipstream_sender(options.directory, workload)
        case "slipstream-fetcher":
            slipstream_fetcher(options.directory, workload, options.port, options.target)
        case "libtorrent-sender":
            libtorrent_sender(options.directory, options.torrent, options.encrypted)
        case "libtorrent-fetcher":
            libtorrent_fetcher(options.torrent, options.encrypted, options.port, options.target)
        case _:
            in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryDirectory(dir=in_memory) as directory:
                result = measure(
                    options.size_mib << 20,
                    options.rounds,
                    options.workload,
                    options.torrent_piece_kib << 10,
                    Path(directory),
                    options.receivers,
                )
            print(json.dumps(result, indent=2) if options.json else _table(result))


def _cpu_both(median: dict[str, float]) -> float:
    return median["send_cpu_s_per_GB"] + median["receive_cpu_s_per_GB"]


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'':24}{'MB/s':>8}{'CPU s/GB send':>16}{'receive':>10}"]
    for name, median in result["medians"].items():
        sent, received = median["send_cpu_s_per_GB"], median["receive_cpu_s_per_GB"]
        lines.append(f"{name:24}{median['MB_per_s']:8.0f}{sent:16.2f}{received:10.2f}")
    if result["ratio"] is None:
        lines.append(result["unavailable"])
    else:
        ours, rival = (_cpu_both(result["medians"][who]) for who in ("slipstream", result["fastest_rival"]))
        lines.append(
            f"slipstream is {result['ratio']:.2f} x {result['fastest_rival']} (goal {result['goal']:g}),"
            f" at {ours / rival:.2f} x its processor time per GB of both ends (goal 1)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
